# SPDX-License-Identifier: Apache-2.0
"""The smallest program there is, and the ways to dump and restore it."""
import os

from procstate import assert_same, see
from waiting import gone, wait_asleep, wait_gone


def loose(tool):
    """CRIU restores anonymous shared memory and the like under names of its own."""
    return () if tool.is_ferry else ("/maps",)


def test_dump_and_restore(tool, start, workdir):
    pid = start(["sleep", "1000"])
    wait_asleep(pid)
    before = see(pid)
    tool.dump(pid, workdir)
    wait_gone(pid)
    assert tool.restore(workdir) == pid
    assert_same(before, see(pid), loose(tool))


def test_leave_running(tool, start, workdir):
    pid = start(["sleep", "1000"])
    wait_asleep(pid)
    before = see(pid)
    tool.dump(pid, workdir, "-R")
    assert not gone(pid)
    assert_same(before, see(pid))
    os.kill(pid, 9)
    wait_gone(pid)
    assert tool.restore(workdir) == pid
    assert_same(before, see(pid), loose(tool))
