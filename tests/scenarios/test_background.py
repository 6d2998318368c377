# SPDX-License-Identifier: Apache-2.0
"""
dump --background of programs that do not just write (test_incremental.py has those): that give up their memory while
it is copied, that use locks whose words the kernel writes, that are killed; and what can't be, and is refused.
"""
import os
import signal
import subprocess

import pytest

import paths
from board import Board
from program import end_tree
from waiting import gone, read_or_empty, wait_gone, wait_until

MIB = 256
FILLED, LOOKS, LOCKED, CAME, WENT_ON = range(5)
ALL = ("-R", "--background")


@pytest.fixture(autouse=True)
def of_ferry(tool):
    if not tool.is_ferry:
        pytest.skip("the peer knows no --background")


class Leaver:
    def __init__(self, start, workdir, way):
        self.workdir, self.out = workdir, f"{workdir}/out"
        self.pid = start([paths.program("scenarios", "leaver"), MIB, way], cwd=workdir, out=self.out)
        self.board = Board(workdir, 5, self.out)
        wait_until(lambda: self.board.read()[FILLED], "its memory is filled", 60)

    def value(self, slot):
        return self.board.read()[slot]

    def is_whole(self):
        before = self.value(LOOKS), self.value(LOCKED), self.value(CAME)
        os.kill(self.pid, signal.SIGUSR2)
        wait_until(lambda: all(self.value(slot) > n for slot, n in zip((LOOKS, LOCKED, CAME), before)), "it looked, and its threads run", 60)


def begin(tool, pid, images, *options):
    """A dump that runs; returns when the tasks run on."""
    os.makedirs(images)
    log = f"{images}/dump.log"
    process = subprocess.Popen(tool.command("dump", "-t", pid, "-D", images, "-v4", "-o", log, *ALL, *options),
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: process.poll() is not None or "running on" in read_or_empty(log), "the tasks run on")
    return process, log


def test_locks_and_threads(tool, start, workdir):
    leaver = Leaver(start, workdir, "none")
    for number in range(10):
        tool.dump(leaver.pid, f"{workdir}/images-{number}", *ALL)
        leaver.is_whole()
    end_tree(leaver.pid)
    assert tool.restore(f"{workdir}/images-9") == leaver.pid
    leaver.is_whole()


@pytest.mark.parametrize("way", ["exec", "exit", "term", "unmap", "discard"])
def test_memory_given_up(tool, start, workdir, way):
    """The images are of the moment before, and it does what it wanted nevertheless."""
    leaver, images = Leaver(start, workdir, way), f"{workdir}/images"
    process, log = begin(tool, leaver.pid, images)
    os.kill(leaver.pid, signal.SIGUSR1)
    assert process.wait(60) == 0, read_or_empty(log)
    if way in ("exit", "term"):
        wait_gone(leaver.pid)
    elif way == "exec":
        wait_until(lambda: read_or_empty(f"/proc/{leaver.pid}/comm") == "sleep\n", "it is another program")
    else:
        wait_until(lambda: leaver.value(WENT_ON), "it goes on")
    end_tree(leaver.pid)
    assert tool.restore(images) == leaver.pid
    leaver.is_whole()


def test_killed(tool, start, workdir):
    """Then there are no images, unless it was too late for that."""
    leaver, images = Leaver(start, workdir, "none"), f"{workdir}/images"
    process, log = begin(tool, leaver.pid, images)
    os.kill(leaver.pid, signal.SIGKILL)
    if process.wait(60) != 0:
        assert "was killed before its memory was copied" in read_or_empty(log)
        assert tool.run("restore", "-D", images, "-d").returncode != 0
    wait_until(lambda: gone(leaver.pid), "it is gone")


def test_two_in_a_row(tool, start, workdir):
    """What one has protected is no hindrance to the next, nor to a chain."""
    leaver = Leaver(start, workdir, "none")
    tool.dump(leaver.pid, f"{workdir}/images-0", *ALL, "--track-mem")
    tool.dump(leaver.pid, f"{workdir}/images-1", "-R", "--track-mem", "--prev-images-dir", "../images-0")
    tool.dump(leaver.pid, f"{workdir}/images-2", *ALL, "--track-mem", "--prev-images-dir", "../images-1")
    assert os.path.getsize(f"{workdir}/images-2/pages-1.img") < MIB << 18
    leaver.is_whole()
    end_tree(leaver.pid)
    for number in range(3):
        assert tool.restore(f"{workdir}/images-{number}") == leaver.pid
        leaver.is_whole()
        end_tree(leaver.pid)


def test_wants_leave_running(tool, start, workdir):
    pid = start(["sleep", "1000"])
    done = tool.run("dump", "-t", pid, "-D", workdir, "--background")
    assert done.returncode != 0 and "--leave-running" in done.stderr


def test_beside_a_chain(tool, start, workdir):
    """A chain's tracker holds the memory: it says so, or stops the program, as it is told."""
    leaver = Leaver(start, workdir, "none")
    tool.dump(leaver.pid, f"{workdir}/images-0", "-R", "--track-mem")
    os.mkdir(f"{workdir}/images-1")
    done = tool.run("dump", "-t", leaver.pid, "-D", f"{workdir}/images-1", *ALL)
    if "watched by another userfaultfd" not in done.stderr:
        pytest.skip("this kernel's trackers hold nothing")
    assert done.returncode != 0
    leaver.is_whole()
    done = tool.run("dump", "-t", leaver.pid, "-D", f"{workdir}/images-1", "-R", "--background-or-stop")
    assert done.returncode == 0 and "not in the background" in done.stderr, done.stderr
    leaver.is_whole()
    end_tree(leaver.pid)
    assert tool.restore(f"{workdir}/images-1") == leaver.pid
    leaver.is_whole()
