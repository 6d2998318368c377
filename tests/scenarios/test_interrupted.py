# SPDX-License-Identifier: Apache-2.0
"""
A signal that comes while a program is frozen, and that it handles, ends the system call in which it sleeps, or not, as
if nothing had been. So that it surely comes then, the program is stopped by SIGSTOP before.
"""
import os
import signal

import pytest

import paths
from program import end_tree
from waiting import read_or_empty, wait_gone, wait_line, wait_until

ENDED = "-1 Interrupted system call, handled 1"
CALLS = ["pause", "poll", "epoll_wait", "nanosleep", "read"]


def state_of(pid):
    return read_or_empty(f"/proc/{pid}/stat").rpartition(")")[2].split()[0]


def in_call(pid):
    """Asleep in the call that it tells, not in one of its set-up."""
    words = read_or_empty(f"/proc/{pid}/syscall").split()
    return words and words[0].isdigit()


@pytest.fixture
def stopped(start, workdir):
    """stopped(CALL) -> (pid, file with what it says): it sleeps, is stopped, and SIGUSR1 waits for it."""
    def make(call):
        out = f"{workdir}/out"
        pid = start([paths.program("scenarios", "waiter"), out, call], cwd=workdir)
        wait_line(out, "ready")
        wait_until(lambda: in_call(pid), f"{pid} sleeps")
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: state_of(pid) == "T", f"{pid} is stopped")
        os.kill(pid, signal.SIGUSR1)
        return pid, out
    return make


def not_dumped(_tool, _pid, _images):
    pass


def left_running(tool, pid, images):
    tool.dump(pid, images, "-R")


def restored(tool, pid, images):
    tool.dump(pid, images)
    wait_gone(pid)
    assert tool.restore(images) == pid


ROWS = pytest.mark.parametrize("row", [not_dumped, left_running, restored], ids=lambda row: row.__name__)


@ROWS
@pytest.mark.parametrize("call", CALLS)
def test_signal_ends_call(tool, stopped, workdir, call, row):
    pid, out = stopped(call)
    row(tool, pid, f"{workdir}/images")
    os.kill(pid, signal.SIGCONT)
    wait_line(out, ENDED)


@ROWS
def test_call_goes_on(tool, stopped, workdir, row):
    """SA_RESTART: the handler runs (SIGUSR1 is pending no more), and the call has not returned."""
    pid, out = stopped("read again")
    row(tool, pid, f"{workdir}/images")
    os.kill(pid, signal.SIGCONT)
    pending = "ShdPnd:\t0000000000000000"
    wait_until(lambda: pending in read_or_empty(f"/proc/{pid}/status") and in_call(pid), f"{pid} sleeps again")
    assert read_or_empty(out) == "ready\n"


def test_call_known_from_before(tool, start, workdir):
    """In a background dump it is stopped twice: at the second time its registers say no more than "go on waiting"."""
    if not tool.is_ferry:
        pytest.skip("the peer knows no --background")
    out, images = f"{workdir}/out", f"{workdir}/images"
    pid = start([paths.program("scenarios", "waiter"), out, "raw futex"], cwd=workdir)
    wait_line(out, "ready")
    wait_until(lambda: in_call(pid), f"{pid} sleeps")
    tool.dump(pid, images, "-R", "--background")
    end_tree(pid)
    assert tool.restore(images) == pid
    wait_until(lambda: in_call(pid), f"{pid} sleeps again")
    assert read_or_empty(out) == "ready\n"
