# SPDX-License-Identifier: Apache-2.0
"""
Programs and users that are not as one would wish: trees that change while they are dumped, odd shapes, what must be
refused, limits, two at once, tasks that somebody kills meanwhile. tests/scenarios/odd/ holds the programs.

FERRY_SEED repeats the instants of a run.
"""
import os
import random
import resource
import shutil
import signal
import subprocess
import time

import pytest

import paths
import program
from procstate import assert_same, see
from waiting import gone, read_or_empty, wait_asleep, wait_gone, wait_line, wait_until

SEED = int(os.environ.get("FERRY_SEED") or random.SystemRandom().randrange(1 << 32))
DUMPS = 60


class Odd:
    """A program of odd/ that said it is ready; it must never say FAIL."""

    def __init__(self, start, workdir, name, *args, path=None):
        self.workdir = workdir
        self.status = os.path.join(workdir, "status")
        self.pid = start([path or paths.program("scenarios/odd", name), *args], cwd=workdir)
        self.wait_for("ready")
        self.before = None

    def said(self):
        text = read_or_empty(self.status)
        assert "FAIL" not in text, text
        return text

    def wait_for(self, line):
        wait_until(lambda: line in self.said().split("\n"), f"{self.status} has the line {line}")

    def settle(self):
        """Until all of it sleeps; then what it is can be compared."""
        for pid in program.tree_of(self.pid):
            if program.stat_of(pid)[0] not in "ZT":
                for tid in os.listdir(f"/proc/{pid}/task"):
                    wait_asleep(tid)
        self.before = see(self.pid)

    def is_as_before(self, leave_out=()):
        assert_same(self.before, see(self.pid), leave_out)

    def runs(self):
        assert not gone(self.pid)
        assert "TracerPid:\t0\n" in read_or_empty(f"/proc/{self.pid}/status")
        self.said()


def fresh(workdir, name="images"):
    path = os.path.join(workdir, name)
    shutil.rmtree(path, ignore_errors=True)
    os.mkdir(path)
    return path


def refused(done, *words):
    """One clear error, status 1."""
    assert done.returncode == 1, done
    lines = done.stderr.strip().split("\n")
    assert len(lines) == 1 and "Error: " in lines[0], done.stderr
    for word in words:
        assert word in lines[0], lines[0]


@pytest.mark.parametrize("mode", ["threads", "forks", "grandforks", "spawns", "execs", "execs-over-threads", "thread-execs"])
def test_tree_changes_while_it_is_dumped(tool, start, workdir, mode):
    odd = Odd(start, workdir, "churn", mode)
    for _ in range(DUMPS):
        tool.dump(odd.pid, fresh(workdir), "-R")
        odd.runs()
    os.kill(odd.pid, signal.SIGSTOP)    # or it has others who outlive it for a moment
    wait_until(lambda: all((program.stat_of(pid) or "Z")[0] in "TZ" for pid in program.tree_of(odd.pid)), "all else has ended")


def test_no_signal_is_lost(tool, start, workdir):
    odd = Odd(start, workdir, "signals")
    for _ in range(DUMPS):
        tool.dump(odd.pid, fresh(workdir), "-R")
        odd.runs()
    tool.dump(odd.pid, fresh(workdir))
    wait_gone(odd.pid)
    tool.restore(os.path.join(workdir, "images"))
    odd.runs()


def test_many_dumps_change_nothing(tool, start, workdir):
    odd = Odd(start, workdir, "shapes", "levels", "3")
    odd.settle()
    for _ in range(200):
        tool.dump(odd.pid, fresh(workdir), "-R")
    odd.is_as_before()


SHAPES = ["mappings 20000", "sparse", "sparse-shared", "descriptors 3000", "inherited 1000", "children 100", "levels 60",
          "low-thread", "directory-gone", "dead-in-group"]


@pytest.mark.parametrize("shape", SHAPES)
def test_shape(tool, start, workdir, shape):
    odd = Odd(start, workdir, "shapes", *shape.split())
    odd.settle()
    images = fresh(workdir)
    tool.dump(odd.pid, images)
    for pid in odd.before:
        wait_gone(pid)
    files = sorted(os.listdir(workdir))
    tool.restore(images)
    odd.is_as_before()
    assert sorted(os.listdir(workdir)) == files


@pytest.mark.parametrize("mode", ["program-gone", "program-replaced"])
def test_program_upgraded(tool, start, workdir, mode):
    path = os.path.join(workdir, "program")
    shutil.copy(paths.program("scenarios/odd", "shapes"), path)
    odd = Odd(start, workdir, "shapes", mode, path=path)
    odd.settle()
    tool.dump(odd.pid, fresh(workdir))
    wait_gone(odd.pid)
    tool.restore(os.path.join(workdir, "images"))
    # where another file has its name now, its own differs by what ferry adds to it
    odd.is_as_before(() if mode == "program-gone" else ("/exe", "/maps"))


@pytest.mark.parametrize("mode", ["altstack-heap", "altstack-data"])
def test_in_a_handler_on_another_stack(tool, start, workdir, mode):
    odd = Odd(start, workdir, "shapes", mode)
    odd.settle()
    tool.dump(odd.pid, fresh(workdir))
    wait_gone(odd.pid)
    tool.restore(os.path.join(workdir, "images"))
    odd.is_as_before()
    os.kill(odd.pid, signal.SIGUSR2)
    odd.wait_for("back")


def test_deep_stack(tool, start, workdir):
    """Where the stack has no room below, it is made to grow: else some of the state can't be asked for, which is a warning."""
    odd = Odd(start, workdir, "shapes", "deep-stack")
    odd.settle()
    assert tool.dump(odd.pid, fresh(workdir)).stderr == ""
    wait_gone(odd.pid)
    tool.restore(os.path.join(workdir, "images"))
    odd.is_as_before(("[stack]",))


QUEUED = """
import os, resource, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN + 1])
for _ in range(20):
    os.kill(os.getpid(), signal.SIGRTMIN + 1)
"""
TIMERS = """
import ctypes, resource, signal
libc, timer = ctypes.CDLL(None), ctypes.c_void_p()
for _ in range(20):
    assert libc.timer_create(1, None, ctypes.byref(timer)) == 0
"""
LIMIT_AND_SLEEP = """
resource.setrlimit(resource.RLIMIT_SIGPENDING, (5, 5))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
signal.sigwait([signal.SIGUSR1])
count = 0
while signal.sigtimedwait([signal.SIGRTMIN + 1], 0):
    count += 1
print(count, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("code, count", [(QUEUED, 20), (TIMERS, 0)], ids=["signals", "timers"])
def test_over_the_limit_of_queued_signals(tool, start, workdir, code, count):
    """More are queued than may be now; timers count too."""
    out = f"{workdir}/out"
    pid = start(["/usr/bin/python3", "-c", code + LIMIT_AND_SLEEP], out=out)
    wait_until(lambda: read_or_empty(f"/proc/{pid}/syscall").startswith("128 "), "it waits in rt_sigtimedwait")
    timers, limits = read_or_empty(f"/proc/{pid}/timers"), read_or_empty(f"/proc/{pid}/limits")
    tool.dump(pid, fresh(workdir))
    wait_gone(pid)
    tool.restore(os.path.join(workdir, "images"))
    assert read_or_empty(f"/proc/{pid}/timers") == timers
    assert read_or_empty(f"/proc/{pid}/limits") == limits
    os.kill(pid, signal.SIGUSR1)
    wait_line(out, str(count))


def test_named_semaphore(tool, start, workdir):
    """glibc makes it under another name, which its mapping keeps."""
    name = f"/ferry-odd-{os.getpid()}-{os.path.basename(workdir)[-8:]}"
    try:
        odd = Odd(start, workdir, "shapes", "semaphore", name)
        odd.settle()
        tool.dump(odd.pid, fresh(workdir))
        wait_gone(odd.pid)
        tool.restore(os.path.join(workdir, "images"))
        odd.is_as_before(("/dev/shm/sem.",))
        assert f"/dev/shm/sem.{name[1:]}" in read_or_empty(f"/proc/{odd.pid}/maps")
    finally:
        os.unlink(f"/dev/shm/sem.{name[1:]}")


REFUSED = {
    "leader-gone": "first thread has ended",
    "thread-table": "descriptor table of its own",
    "thread-directory": "working directory of its own",
    "thread-namespace": "uts namespace",
    "child-namespace": "pid_for_children namespace",
    "shared-memory": "shares its memory with process",
    "shared-directory": "shares its working directory with process",
    "vfork": "vfork",
    "traced": "traces it",
    "proc": "or a descriptor: not handled yet",
    "directory-gone": "was removed",
    "orphan": "whose leader is no brother",
}
if "ospke" in read_or_empty("/proc/cpuinfo"):
    REFUSED["protection-key"] = "protected by a key"


def tree_without(odd, mode):
    """Its tasks but the one that is a zombie by intention."""
    return [pid for pid in program.tree_of(odd.pid) if program.stat_of(pid) and (mode, pid) != ("leader-gone", odd.pid)]


@pytest.mark.parametrize("mode", REFUSED)
def test_refused(tool, start, workdir, mode):
    odd = Odd(start, workdir, "refused", mode)
    wait_until(lambda: not any(program.stat_of(pid)[0] == "Z" for pid in tree_without(odd, mode)), "the tree is settled")
    before = set(program.tree_of(odd.pid))
    done = tool.run("dump", "-t", odd.pid, "-D", fresh(workdir), "--timeout", "1")
    refused(done, "task ", REFUSED[mode])
    assert set(program.tree_of(odd.pid)) == before
    for pid in before:
        tracer = [line for line in read_or_empty(f"/proc/{pid}/status").splitlines() if line.startswith("TracerPid")]
        assert tracer == ["TracerPid:\t0"] or mode == "traced"


def test_not_a_process(tool, start, workdir):
    odd = Odd(start, workdir, "refused", "thread-table")
    images = fresh(workdir)
    tid = max(map(int, os.listdir(f"/proc/{odd.pid}/task")))
    refused(tool.run("dump", "-t", tid, "-D", images), f"{tid} is a thread of process {odd.pid}")
    refused(tool.run("dump", "-t", 4194000, "-D", images), "there is no process 4194000")
    refused(tool.run("dump", "-t", os.getpid(), "-D", images), "it is this very command")


def test_two_at_once(tool, start, workdir):
    odd = Odd(start, workdir, "shapes", "mappings", "5000")
    odd.settle()
    clear = 0
    for _ in range(5):
        both = [subprocess.Popen(tool.command("dump", "-t", odd.pid, "-D", fresh(workdir, str(n)), "-R"),
                                 stderr=subprocess.PIPE, text=True) for n in range(2)]
        errors = [(process.communicate()[1], process.returncode) for process in both]
        assert min(status for _, status in errors) == 0
        clear += sum(status == 1 and "traces it" in text for text, status in errors)
        assert all(status == 0 or "traces it" in text for text, status in errors), errors
    print(f"{clear} of 5 met")
    odd.is_as_before()


def test_restored_twice(tool, start, workdir):
    odd = Odd(start, workdir, "shapes", "levels", "3")
    odd.settle()
    images = fresh(workdir)
    tool.dump(odd.pid, images)
    for pid in odd.before:
        wait_gone(pid)
    tool.restore(images)
    refused(tool.run("restore", "-D", images, "-d"), "is taken by another task")
    odd.is_as_before()


def with_limit(which, most):
    return {"preexec_fn": lambda: resource.setrlimit(which, (most, most))}


def test_limits_of_ferry(tool, start, workdir):
    """A limit is an error, never a death by signal, and nothing half-made stays."""
    odd = Odd(start, workdir, "shapes", "descriptors", "300")
    odd.settle()
    images = fresh(workdir)
    refused(tool.run("dump", "-t", odd.pid, "-D", images, **with_limit(resource.RLIMIT_FSIZE, 0)), "File too large")
    odd.is_as_before()
    tool.dump(odd.pid, images)
    wait_gone(odd.pid)
    refused(tool.run("restore", "-D", images, "-d", **with_limit(resource.RLIMIT_NOFILE, 64)), "over the limit of 64")
    for mib in (4, 8, 10, 12):
        done = tool.run("restore", "-D", images, "-d", **with_limit(resource.RLIMIT_AS, mib << 20))
        if done.returncode == 0:
            break
        assert done.returncode in (1, 127) and done.stderr, done
        assert not program.strangers()
    program.end_tree(odd.pid)
    tool.restore(images)
    odd.is_as_before()


def test_started_with_children_ignored(tool, start, workdir):
    """Who starts ferry may ignore SIGCHLD: ferry waits for its own all the same."""
    odd, images = Odd(start, workdir, "shapes", "low-thread"), fresh(workdir)
    odd.settle()
    tool.dump(odd.pid, images)
    wait_gone(odd.pid)
    with subprocess.Popen(tool.command("restore", "-D", images),
                          preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)) as restore:
        wait_until(lambda: not gone(odd.pid) and program.stat_of(odd.pid)[0] == "S", "the program is back")
        os.kill(odd.pid, signal.SIGTERM)
        assert restore.wait(timeout=20) == 128 + signal.SIGTERM


def test_pipe_to_outside(tool, start, workdir):
    """It comes back with one end: a warning."""
    keeper = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        pid = int(subprocess.run([paths.DETACH, "-i", "/dev/null", "-o", f"/proc/{os.getpid()}/fd/{keeper.stdin.fileno()}",
                                  "sleep", "1000"], capture_output=True, text=True, check=True).stdout)
        wait_asleep(pid)
        done = tool.dump(pid, fresh(workdir), "-R")
        assert "no task of the tree reads pipe:[" in done.stderr + read_or_empty(os.path.join(workdir, "images", "dump.log"))
        program.end_tree(pid)
    finally:
        keeper.stdin.close()
        keeper.wait()


def test_old_images_outlive_a_refused_dump(tool, start, workdir):
    odd, images = Odd(start, workdir, "shapes", "low-thread"), fresh(workdir)
    odd.settle()
    tool.dump(odd.pid, images, "-R")
    program.end_tree(odd.pid)
    os.unlink(odd.status)
    other = Odd(start, workdir, "refused", "proc")
    refused(tool.run("dump", "-t", other.pid, "-D", images))
    program.end_tree(other.pid)
    tool.restore(images)
    odd.is_as_before()


def test_stop_and_continue_while_it_is_dumped(tool, start, workdir):
    chance = random.Random(SEED)
    odd, images = Odd(start, workdir, "signals"), fresh(workdir)
    print(f"FERRY_SEED={SEED}")
    for sig, states in [(signal.SIGSTOP, "T"), (signal.SIGCONT, "RS")] * 25:
        with subprocess.Popen(tool.command("dump", "-t", odd.pid, "-D", images, "-R"), stderr=subprocess.PIPE) as dump:
            time.sleep(chance.uniform(0, 0.006))        # anywhere in the dump
            os.kill(odd.pid, sig)
            assert dump.wait() == 0, dump.stderr.read()
        wait_until(lambda wanted=states: program.stat_of(odd.pid)[0] in wanted, f"the program is {states}")
    odd.runs()


def kill_meanwhile(process, pid, after_s):
    time.sleep(after_s)                                 # anywhere in its work
    program.kill(pid)
    return process.wait(timeout=20)


@pytest.mark.parametrize("shape", ["threads", "levels 10"])
def test_killed_while_it_is_dumped(tool, start, workdir, shape):
    """Neither ferry nor the killed process waits for the other."""
    chance = random.Random(SEED)
    print(f"FERRY_SEED={SEED}")
    for _ in range(30):
        name = "churn" if shape == "threads" else "shapes"
        odd = Odd(start, fresh(workdir, "program"), name, *shape.split())
        victim = chance.choice(program.tree_of(odd.pid))
        with subprocess.Popen(tool.command("dump", "-t", odd.pid, "-D", fresh(workdir), "-R"),
                              stderr=subprocess.DEVNULL) as dump:
            assert kill_meanwhile(dump, victim, chance.uniform(0, 0.01)) in (0, 1)
        program.end_tree(odd.pid)


@pytest.mark.parametrize("shape", ["descriptors 10", "levels 10", "low-thread"])
def test_killed_while_it_is_restored(tool, start, workdir, shape):
    chance = random.Random(SEED)
    print(f"FERRY_SEED={SEED}")
    odd, images = Odd(start, workdir, "shapes", *shape.split()), fresh(workdir)
    odd.settle()
    tool.dump(odd.pid, images)
    for pid in odd.before:
        wait_gone(pid)
    for _ in range(40):
        victim = chance.choice(list(odd.before))
        with subprocess.Popen(tool.command("restore", "-D", images, "-d"), stderr=subprocess.DEVNULL) as restore:
            status = kill_meanwhile(restore, victim, chance.uniform(0, 0.012))
        assert status in (0, 1)
        if status != 0:         # what died may have to be waited for by init yet
            wait_until(lambda: not program.strangers(), "nothing half-made is left")
        for pid in program.strangers():
            program.kill(pid)
        for pid in odd.before:
            wait_gone(pid)
    tool.restore(images)
    odd.is_as_before()
