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
from procstate import assert_becomes_same, see, what_changed
from program import comm_of, end_tree, stat_of, strangers, tree_of
from trackers import need_tracker
from waiting import gone, read_or_empty, wait_asleep, wait_gone, wait_until

KILLS = int(os.environ.get("FERRY_KILLS", "1000"))
SEED = int(os.environ.get("FERRY_SEED") or random.SystemRandom().randrange(1 << 32))
SLOTS = 9


@pytest.fixture
def chance():
    print(f"FERRY_SEED={SEED}")
    return random.Random(SEED)


# A signal may just be pending.
MOVES = ("SigPnd", "ShdPnd", "/fds/")


class Victim:
    def __init__(self, tool, start, workdir):
        # The peer ends sleeps with EINTR.
        words = [] if tool.is_ferry else ["interruptible"]
        self.out = f"{workdir}/out"
        self.pid = start([paths.program("lib", "victim"), *words], cwd=workdir, out=self.out)
        self.board = Board(workdir, SLOTS, self.out)
        wait_until(lambda: all(self.board.read()), "every thread of the victim has begun")
        self.first = wait_until(self.at_rest, "the victim is the same in two looks")

    def at_rest(self):
        """What it is while no handler runs, whose masks differ."""
        seen = see(self.pid)
        return None if what_changed(seen, see(self.pid), MOVES) else seen

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
        assert_becomes_same(self.first, self.pid, MOVES)

    def ended(self):
        """Dead or dying (seen from here a zombie is gone soon)."""
        stat = stat_of(self.pid)
        return stat is None or stat[0] in "ZX"


class Killer:
    """
    Kills the tool at random instants of the time that it takes, and that changes with what else the machine does: what
    ended before we came tells it anew, and as long as nothing does it is taken for a little longer each time.
    """

    def __init__(self, chance, usual_s):
        self.chance, self.usual_s, self.killed = chance, usual_s, 0

    def run(self, command):
        """Starts it, and kills it, and only it, if it has not ended by then."""
        begin = time.monotonic()
        end = begin + self.chance.uniform(0, 1.1 * self.usual_s)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while time.monotonic() < end and process.poll() is None:
            if end - time.monotonic() > 0.002:
                time.sleep(0.001)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            self.killed += 1
            self.usual_s *= 1.005
        else:
            self.usual_s += (time.monotonic() - begin - self.usual_s) / 5


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


@pytest.mark.parametrize("options", [[], ["--background"]], ids=["stopped", "background"])
def test_kill_in_dump_that_leaves_running(tool, start, workdir, chance, options):
    if options and not tool.is_ferry:
        pytest.skip("the peer knows no --background")
    victim, images = Victim(tool, start, workdir), f"{workdir}/images"

    def fresh():
        shutil.rmtree(images, ignore_errors=True)
        os.mkdir(images)
    fresh()
    command = tool.command("dump", "-t", victim.pid, "-D", images, "-R", *options)
    killer = Killer(chance, duration_of(command, between=fresh))
    victim.runs()
    for _ in range(KILLS):
        killer.run(command)
        victim.runs()
        helpers_gone(victim)
        fresh()
    victim.is_as_it_was()
    print(f"{killer.killed} of {KILLS} kills before the end of a dump that takes {killer.usual_s * 1000:.1f} ms")
    assert killer.killed >= KILLS // 4


def test_kill_in_dump(tool, start, workdir, chance):
    """Until all is written the program runs on; from then on the images are its life."""
    victim, images, times = Victim(tool, start, workdir), f"{workdir}/images", max(KILLS // 10, 5)
    lived = 0
    killer = Killer(chance, duration_of(tool.command("dump", "-t", victim.pid, "-D", workdir, "-R"), times=3))
    for _ in range(times):
        os.mkdir(images)
        killer.run(tool.command("dump", "-t", victim.pid, "-D", images))
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


def keepers_of_nobody(victim):
    """What the tool left beside the program, a keeper apart."""
    return {pid: comm for pid, comm in strangers().items() if pid not in tree_of(victim.pid) and comm != "ferry-keeper"}


def test_kill_in_pre_dump(tool, start, workdir, chance):
    """The program keeps no descriptor of ours, and runs on; a link on top of whatever was left is right, and comes back."""
    need_tracker(tool, "scan", "soft-dirty")
    victim, times = Victim(tool, start, workdir), max(KILLS * 3 // 10, 5)
    descriptors = os.listdir(f"/proc/{victim.pid}/fd")

    def fresh(name):
        shutil.rmtree(f"{workdir}/{name}", ignore_errors=True)
        os.mkdir(f"{workdir}/{name}")

    def command(name, *options):
        return tool.command("pre-dump", "-t", victim.pid, "-D", f"{workdir}/{name}", *options)
    fresh("whole")
    killer = Killer(chance, duration_of(command("whole")))
    for i in range(times):
        if i % 10 == 0:     # a link whose keeper lives: the next one is made on it, the others find none
            fresh("whole")
            subprocess.run(command("whole"), stdin=subprocess.DEVNULL, check=True)
        on_top = ["--prev-images-dir", "../whole"] if chance.random() < 0.5 else []
        fresh("killed")
        killer.run(command("killed", *on_top))
        victim.runs()
        wait_until(lambda: not keepers_of_nobody(victim), "what the tool started has ended with it")
        assert os.listdir(f"/proc/{victim.pid}/fd") == descriptors
        if i % (times // 5) == times // 5 - 1:
            fresh("last")
            tool.dump(victim.pid, f"{workdir}/last", "--prev-images-dir", "../whole")
            wait_gone(victim.pid)
            assert tool.restore(f"{workdir}/last") == victim.pid
            victim.runs()
            fresh("whole")
            subprocess.run(command("whole"), stdin=subprocess.DEVNULL, check=True)
    victim.is_as_it_was()
    print(f"{killer.killed} of {times} kills before the end of a pre-dump that takes {killer.usual_s * 1000:.1f} ms")
    assert killer.killed >= times // 4


def test_kill_in_restore(tool, start, workdir, chance):
    victim, images, times = Victim(tool, start, workdir), f"{workdir}/images", max(KILLS // 10, 5)
    tool.dump(victim.pid, images)
    wait_gone(victim.pid)
    command = tool.command("restore", "-D", images, "-d")
    killer, whole = Killer(chance, duration_of(command, times=3, between=lambda: end_tree(victim.pid))), 0
    for _ in range(times):
        killer.run(command)
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
    print(f"{killer.killed} of {times} kills before the end, {whole} times the program was already whole")


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
    killer, left = Killer(chance, duration_of(command, times=3, between=lambda: end_tree(pid))), 0
    for _ in range(times):
        killer.run(command)
        end_tree(pid)
        wait_until(lambda: not strangers(), "nothing is left")
        names = os.listdir(place)
        left += bool(names)
        assert all(name.startswith(".ferry-ghost-") for name in names), names
    assert tool.restore(images) == pid
    assert os.listdir(place) == []
    assert os.readlink(f"/proc/{pid}/fd/3") == f"{place}/file (deleted)"
    print(f"{left} of {times} kills left the file under its name for a while")
