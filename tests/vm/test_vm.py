# SPDX-License-Identifier: Apache-2.0
"""
ferry on other kernels. One guest a kernel is booted (scripts/vm.sh), in which one pytest runs what is listed here. Each
of those is a test here too: `-k` chooses what runs in the guest, and a verdict is told as soon as the guest has it.
"""
import json
import os
import shlex
import subprocess

import pytest

import inside
import paths
from report import MARK

VM = os.path.join(paths.TOP, "scripts", "vm.sh")
LIMIT_S = 1800  # of one guest
TEST_LIMIT_S = 240  # what takes a second elsewhere took 77 in a guest of one processor
SEEDS = 12  # one of each mode: a guest is ten times slower

KERNELS = ("6.1", "6.12")

INSIDE = "tests/vm/inside.py::"
SLEEP = "tests/scenarios/test_sleep.py::"
INCREMENTAL = "tests/scenarios/test_incremental.py::test_restored_as_it_was"
TRACKED = "tests/scenarios/test_tracked.py::"
ROWS = ("writes", "move", "swap-places", "move-tables", "move-and-leave", "grow", "shrink-and-grow", "map-again", "dontneed", "lazy-free",
        "private-file", "huge", "rights", "stack", "heap", "exec", "own-uffd", "threads", "fork", "shared", "memfd", "direct", "aio")
RESOURCES = "tests/resources/test_resources.py::"
KEEPER = "tests/scenarios/test_keeper.py::"
KEPT = ("test_says_who_it_is", "test_ends_with_its_task", "test_ends_with_the_last_dump", "test_killed", "test_plain_dump_in_the_middle",
        "test_what_is_no_keeper[frames]")
SURVIVE = ("mem_private", "mem_private all", "mem_shared", "memfd", "memfd strict", "cow", "regs", "thread_areas", "signals", "timers",
           "syscalls", "tree", "files", "pipes", "events", "events strict", "epolls", "unix_sockets", "unix_sockets names",
           "inet_sockets", "attrs", "many 20 8", "bigmem 64", "bigmem 64 huge")

# ---- what runs in the guests: tests of this tree, by their names ----
EVERYWHERE = [
    INSIDE + "test_check",
    INSIDE + "test_background",
    *(f"{INSIDE}test_feature[{feature}]" for feature in inside.SINCE),
    *(f"{INSIDE}test_unit[{name}]" for name in inside.unit_tests()),
    SLEEP + "test_dump_and_restore",
    SLEEP + "test_leave_running",
    *(KEEPER + name for name in KEPT),
    *(f"{RESOURCES}test_survives[{case}-dump_restore]" for case in SURVIVE),
    # the kernel's own tracker: soft-dirty in 6.1, the scan in 6.12
    *(f"{INCREMENTAL}[{mode}-0]" for mode in ("pre_dumps", "branches", "soft_dirty")),
]
ONLY = {
    "6.1": [f"{TRACKED}test_row[soft-dirty-{row}]" for row in ROWS],
    "6.12": [f"{INCREMENTAL}[{mode}-0]" for mode in ("chain", "lives", "dedup")] +
            [f"{TRACKED}test_row[scan-{row}]" for row in ROWS] + [f"{TRACKED}test_row[soft-dirty-move-tables]"],
}
# what the kernel does not let ferry do; an entry goes as soon as its test passes
FAILS = {
    ("6.1", RESOURCES + "test_survives[events strict-dump_restore]"): "fdinfo does not tell that an eventfd is a semaphore",
}
TESTS = [(kernel, name) for kernel in KERNELS for name in EVERYWHERE + ONLY[kernel]]


class Guest:
    """A boot of `kernel` in which `names` run; read as it goes."""

    def __init__(self, kernel, names):
        plugin = ["env", f"PYTHONPATH={os.path.dirname(__file__)}", f"FERRY_BUILD={os.path.basename(paths.BUILD)}", f"FERRY_SEEDS={SEEDS}",
                  f"FERRY_SEED={os.environ['FERRY_SEED']}"]
        command = [*plugin, paths.INIT, "/usr/bin/python3", "-m", "pytest", "-q", "-p", "report", f"--timeout={TEST_LIMIT_S}", *names]
        self.verdicts, self.words = {}, []
        self.process = subprocess.Popen([VM, "run", "-k", kernel, "-t", str(LIMIT_S), shlex.join(command)], cwd=paths.TOP,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        errors="backslashreplace")

    def verdict(self, name):
        while name not in self.verdicts:
            line = self.process.stdout.readline()
            if not line:
                pytest.fail(f"the guest ended without a verdict:\n{''.join(self.words[-60:])}", pytrace=False)
            if line.startswith(MARK):
                said = json.loads(line[len(MARK):])
                self.verdicts[said["name"]] = said
            else:
                self.words.append(line)
        return self.verdicts[name]

    def end(self):
        self.process.terminate()
        self.process.communicate()


@pytest.fixture(scope="module")
def guests(request):
    """guest(kernel): the one guest of that kernel, where all tests of it that this session has run."""
    booted = {}

    def guest(kernel):
        if kernel not in booted:
            chosen = [item.callspec.params for item in request.session.items if item.function.__name__ == test_in_guest.__name__]
            booted[kernel] = Guest(kernel, [params["name"] for params in chosen if params["kernel"] == kernel])
        return booted[kernel]
    yield guest
    for one in booted.values():
        one.end()


@pytest.mark.parametrize("kernel, name", TESTS, ids=[f"{kernel} {name.rpartition('::')[2]}" for kernel, name in TESTS])
def test_in_guest(request, guests, kernel, name):
    if (kernel, name) in FAILS:
        request.applymarker(pytest.mark.xfail(reason=FAILS[kernel, name], strict=True))
    verdict = guests(kernel).verdict(name)
    if verdict["outcome"] == "skipped":
        pytest.skip(verdict["text"])
    if verdict["outcome"] == "failed":
        pytest.fail(verdict["text"], pytrace=False)
