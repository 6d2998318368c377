# SPDX-License-Identifier: Apache-2.0
"""A target that has room for the stage, but not for what the program becomes meanwhile: it runs on where it was, and is told why."""
import os
import re
import tempfile

import pytest

from machines import Gate, ROUND_DONE, SAY, STAGED, word_of
from program import end_tree
from waiting import counts_on, gone, read_or_empty, wait_line, wait_until

MIB = 1 << 20
LIMIT = 64 * MIB
# argv[1] processes; each fills as many MiB of a mapping (shared with argv[2]) as the file `fill` says, and looks at it; the first one counts.
PROGRAM = """
import mmap, os, sys, time
how = mmap.MAP_SHARED if sys.argv[2:] else mmap.MAP_PRIVATE
nr = next((nr for nr in range(1, int(sys.argv[1])) if os.fork() == 0), 0)
m = mmap.mmap(-1, 256 << 20, flags=how | mmap.MAP_ANONYMOUS)
n, full = 0, 0
while True:
    want = int(open("fill").read())
    while full < want:
        m[full << 20:full + 1 << 20] = bytes([full + 1]) * (1 << 20)
        full += 1
        if full == want:
            open(f"full-{nr}", "a").write(f"{full}\\n")
    assert all(m[mib << 20] == mib + 1 for mib in range(full))
    n += 1
    if nr == 0:
        print(n, flush=True)
    time.sleep(0.001)
"""

LARGE = f"import time; has = bytes([1]) * {LIMIT * 5 // 8}; print(\"ready\", flush=True); time.sleep(1000)"


def memory_groups():
    """(directory, name of the limit, of that with swap) of where groups with a limit can be made."""
    mounts = [line.split() for line in read_or_empty("/proc/mounts").splitlines()]
    for _, path, kind, options, *_ in mounts:
        if kind == "cgroup" and "memory" in options.split(","):
            return path, "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
        if kind == "cgroup2" and "memory" in read_or_empty(f"{path}/cgroup.subtree_control").split():
            return path, "memory.max", "memory.swap.max"
    return None


def write(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(str(text))


@pytest.fixture
def group():
    """A control group with LIMIT of memory: the file of its processes."""
    found = memory_groups()
    if not found:
        pytest.skip("no control group can limit memory here")
    top, limit, swap = found
    path = tempfile.mkdtemp(prefix="ferry-test.", dir=top)
    write(f"{path}/{limit}", LIMIT)
    if os.path.exists(f"{path}/{swap}"):
        write(f"{path}/{swap}", 0 if swap == "memory.swap.max" else LIMIT)
    yield f"{path}/cgroup.procs"
    wait_until(lambda: not read_or_empty(f"{path}/cgroup.procs"), "nobody is left in the group")
    os.rmdir(path)


class Growing:
    """The program. `sizes`: in MiB, of each of its processes, in the stage, after it, and after the round that follows."""
    def __init__(self, machine, workdir, sizes, processes=1, shared=()):
        self.workdir, self.sizes, self.processes, self.out = workdir, sizes, processes, f"{workdir}/out"
        write(f"{workdir}/fill", sizes[0])
        self.pid = machine.start(["/usr/bin/python3", "-c", PROGRAM, str(processes), *shared], self.out, workdir)
        self.fill(sizes[0])

    def fill(self, mib):
        write(f"{self.workdir}/filling", mib)
        os.rename(f"{self.workdir}/filling", f"{self.workdir}/fill")
        for nr in range(self.processes):
            wait_line(f"{self.workdir}/full-{nr}", f"{mib}")

    def before(self, gate, direction, kind, raw):
        if direction == gate.TO_SOURCE and kind == SAY and word_of(raw) in (STAGED, ROUND_DONE):
            self.fill(self.sizes[1 + gate.words[ROUND_DONE]])


def grows_too_large(tool, machines, workdir, group, *how):
    """In the third round, the first one being the stage. Returns what the source's screen says."""
    here, there = machines.make("here"), machines.make("there")
    life = Growing(here, workdir, *how)
    began = there.pids(), read_or_empty(f"{there.proc}/1/mounts")
    receiver = there.receive(tool, group=group)
    gate = Gate(receiver.socket, life.before)
    done = here.run(tool.command("migrate", "-t", life.pid, "--max-downtime", "2", "--max-rounds", 5, f"unix:{gate.path}"))
    gate.end()
    status, said = receiver.ended()
    print(done.stderr + said)
    assert done.returncode == 1 and status != 0
    assert gate.words[STAGED] == gate.words[ROUND_DONE] == 1
    counts_on(life.out)
    wait_until(lambda: there.pids() == began[0], "nobody is left")
    assert read_or_empty(f"{there.proc}/1/mounts") == began[1]
    return done.stderr


def says_so(said):
    """As far as ferry can: while it writes to who is killed, the kernel may well kill it too."""
    return re.search("the target: process 1.* was killed before it could run: out of memory|did not say why.*out of memory", said)


@pytest.mark.parametrize("sizes,processes", (((16, 17, 128), 1), ((1, 2, 32), 10)), ids=("one", "ten"))
def test_out_of_memory(tool, machines, workdir, group, sizes, processes):
    said = grows_too_large(tool, machines, workdir, group, sizes, processes)
    assert says_so(said)


def test_out_of_shared_memory(tool, machines, workdir, group):
    """That is not given back when a task is killed: ferry itself is, and can't say so."""
    said = grows_too_large(tool, machines, workdir, group, (16, 17, 128), 1, ["shared"])
    assert "did not say why" in said and "out of memory" in said


def test_others_are_spared(tool, machines, workdir, group, start):
    """What has not come yet is what the target can do without, and not a larger program that runs there."""
    out = f"{workdir}/large"
    large = start(["sh", "-c", f"echo $$ >{group} && exec /usr/bin/python3 -c '{LARGE}'"], out=out)
    wait_line(out, "ready")
    said = grows_too_large(tool, machines, workdir, group, (1, 2, 64))
    assert says_so(said)
    assert not gone(large)
    end_tree(large)
