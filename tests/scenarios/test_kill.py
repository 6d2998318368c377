# SPDX-License-Identifier: Apache-2.0
"""
SIGKILL of the tool at a random instant. In a dump: the program runs on and finds nothing wrong (tests/lib/victim.c says
what it looks at). In a restore: no half-made task stays, and the images restore again.

FERRY_KILLS kills in a dump (1000), a tenth of it in the others; FERRY_SEED repeats a run's instants.
"""
import os
import random
import shutil
import signal
import statistics
import subprocess
import time

import pytest

import paths
from board import Board
from procstate import assert_becomes_same, see
from program import comm_of, end_tree, stat_of, strangers, tree_of
from waiting import gone, read_or_empty, wait_asleep, wait_gone, wait_until

KILLS = int(os.environ.get("FERRY_KILLS", "1000"))
SEED = int(os.environ.get("FERRY_SEED") or random.SystemRandom().randrange(1 << 32))
SLOTS = 9


@pytest.fixture
def chance():
    print(f"FERRY_SEED={SEED}")
    return random.Random(SEED)


class Victim:
    def __init__(self, tool, start, workdir):
        # The peer ends sleeps with EINTR.
        words = [] if tool.is_ferry else ["interruptible"]
        self.out = f"{workdir}/out"
        self.pid = start([paths.program("lib", "victim"), *words], cwd=workdir, out=self.out)
        self.board = Board(workdir, SLOTS, self.out)
        wait_until(lambda: all(self.board.read()), "every thread of the victim has begun")
        self.first = see(self.pid)

    def runs(self):
        """It is there, nobody traces or stops it, and every counter goes on."""
        def free():
            threads = os.listdir(f"/proc/{self.pid}/task")
            states = [read_or_empty(f"/proc/{self.pid}/task/{tid}/stat").rpartition(")")[2].split()[0] for tid in threads]
            return not any(state in "tTZX" for state in states)
        assert not gone(self.pid), "the victim is gone"
        wait_until(free, "no thread of the victim is stopped or traced")
        assert "TracerPid:\t0\n" in read_or_empty(f"/proc/{self.pid}/status")
        self.board.wait_growth()

    def is_as_it_was(self):
        assert_becomes_same(self.first, self.pid, ("SigPnd", "ShdPnd", "/fds/"))       # a handler may run just now

    def ended(self):
        """Dead or dying (seen from here a zombie is gone soon)."""
        stat = stat_of(self.pid)
        return stat is None or stat[0] in "ZX"


def run_and_kill(command, after_s):
    """Starts the tool and kills it, and only it, `after_s` later; returns its status: -9 when it did not end before."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + after_s
    while time.monotonic() < end and process.poll() is None:
        if end - time.monotonic() > 0.002:
            time.sleep(0.001)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    return process.wait()


def duration_of(command, times=5, between=lambda: None):
    """Median seconds that the command takes when it is left alone."""
    took = []
    for _ in range(times):
        begin = time.monotonic()
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        took.append(time.monotonic() - begin)
        between()
    return statistics.median(took)


def helpers_gone(victim):
    """Whatever the tool started has ended with it."""
    def none():
        return not strangers().keys() - set(tree_of(victim.pid))
    wait_until(none, f"only the victim is left, not {strangers()}")


def test_kill_in_dump_that_leaves_running(tool, start, workdir, chance):
    victim, images = Victim(tool, start, workdir), f"{workdir}/images"

    def fresh():
        shutil.rmtree(images, ignore_errors=True)
        os.mkdir(images)
    fresh()
    command = tool.command("dump", "-t", victim.pid, "-D", images, "-R")
    usual_s = duration_of(command, between=fresh)
    victim.runs()
    killed = 0
    for _ in range(KILLS):
        killed += run_and_kill(command, chance.uniform(0, 1.1 * usual_s)) == -signal.SIGKILL
        victim.runs()
        helpers_gone(victim)
        fresh()
    victim.is_as_it_was()
    print(f"{killed} of {KILLS} kills before the end of a dump that takes {usual_s * 1000:.1f} ms")
    assert killed >= KILLS // 4


def test_kill_in_dump(tool, start, workdir, chance):
    """Until all is written the program runs on; from then on the images are its life."""
    victim, images, times = Victim(tool, start, workdir), f"{workdir}/images", max(KILLS // 10, 5)
    lived = 0
    usual_s = duration_of(tool.command("dump", "-t", victim.pid, "-D", workdir, "-R"), times=3)
    for _ in range(times):
        os.mkdir(images)
        run_and_kill(tool.command("dump", "-t", victim.pid, "-D", images), chance.uniform(0, 1.3 * usual_s))
        helpers_gone(victim)
        wait_until(lambda: victim.ended() or not any_dying(victim.pid), "the victim either lives or dies")
        if victim.ended():
            wait_gone(victim.pid)
            assert tool.restore(images) == victim.pid
        else:
            lived += 1
        victim.runs()
        shutil.rmtree(images)
    victim.is_as_it_was()
    print(f"{lived} of {times} times it had not been ended yet")


def any_dying(pid):
    """A SIGKILL is on its way to it."""
    status = read_or_empty(f"/proc/{pid}/status")
    pending = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask & 1 << (signal.SIGKILL - 1) for mask in pending)


def test_kill_in_restore(tool, start, workdir, chance):
    victim, images, times = Victim(tool, start, workdir), f"{workdir}/images", max(KILLS // 10, 5)
    tool.dump(victim.pid, images)
    wait_gone(victim.pid)
    command = tool.command("restore", "-D", images, "-d")
    usual_s = duration_of(command, times=3, between=lambda: end_tree(victim.pid))
    killed = whole = 0
    for _ in range(times):
        killed += run_and_kill(command, chance.uniform(0, 1.1 * usual_s)) == -signal.SIGKILL
        before = victim.board.read()
        # Either it was let go and works, or nothing of it stays: what is neither is half-made.
        wait_until(lambda: gone(victim.pid) or all(n > b for n, b in zip(victim.board.read(), before)),
                   f"process {victim.pid} ({comm_of(victim.pid)}) works or is gone")
        if not gone(victim.pid):
            whole += 1
            victim.runs()
        end_tree(victim.pid)
        helpers_gone(victim)
    assert tool.restore(images) == victim.pid
    victim.runs()
    victim.is_as_it_was()
    print(f"{killed} of {times} kills before the end, {whole} times the program was already whole")


def test_kill_in_restore_of_removed_file(tool, start, workdir, chance):
    """A file that the program has open and that has no name gets none of a program's by a restore that is killed."""
    place, images, times = f"{workdir}/place", f"{workdir}/images", max(KILLS // 20, 5)
    os.mkdir(place)
    with open(f"{place}/file", "wb") as f:
        f.write(os.urandom(1 << 20))
    pid = start(["/bin/sh", "-c", "exec 3<>file; rm file; exec sleep 1000"], cwd=place)
    wait_asleep(pid)
    tool.dump(pid, images)
    wait_gone(pid)
    command = tool.command("restore", "-D", images, "-d")
    usual_s = duration_of(command, times=3, between=lambda: end_tree(pid))
    left = 0
    for _ in range(times):
        run_and_kill(command, chance.uniform(0, 1.1 * usual_s))
        end_tree(pid)
        wait_until(lambda: not strangers(), "nothing is left")
        names = os.listdir(place)
        left += bool(names)
        assert all(name.startswith(".ferry-ghost-") for name in names), names
    assert tool.restore(images) == pid
    assert os.listdir(place) == []
    assert os.readlink(f"/proc/{pid}/fd/3") == f"{place}/file (deleted)"
    print(f"{left} of {times} kills left the file under its name for a while")
