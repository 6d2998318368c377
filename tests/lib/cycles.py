# SPDX-License-Identifier: Apache-2.0
"""A program's many lives: dumped and restored again and again."""
import os
import shutil

from procstate import assert_becomes_same, see
from program import all_pids, tree_of
from waiting import wait_gone, wait_until

CYCLES = int(os.environ.get("FERRY_APP_CYCLES", "20"))
# What moves by itself in a program that works: a stack that grows, a signal that is just pending.
MOVES = ("SigPnd", "ShdPnd")


def sockets_of(pid):
    """Descriptors of `pid` that are sockets; others may be closed while we look."""
    def link(fd):
        try:
            return os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            return ""
    return sum(link(fd).startswith("socket:") for fd in os.listdir(f"/proc/{pid}/fd"))


def wait_sockets(pid, count):
    """Until the program has closed what its clients closed: established connections are not dumped yet."""
    wait_until(lambda: sockets_of(pid) == count, f"process {pid} has {count} sockets")


def dump_and_restore(tool, pid, directory, leave_out=(), options=()):
    """One life: the tree is gone after the dump, and after the restore it is what it was."""
    before = see(pid)
    pids = tree_of(pid)
    tool.dump(pid, directory, *options)
    for one in pids:
        wait_gone(one)
    assert tool.restore(directory, *options) == pid
    loose = () if tool.is_ferry else ("/maps", "/fds", "/oom_score_adj")  # where the peer is less exact
    assert_becomes_same(before, pid, (*MOVES, *leave_out, *loose))


def many_lives(tool, pid, workdir, check, leave_out=(), options=()):
    """FERRY_APP_CYCLES times: dump, restore, `check(cycle)`. Images of lives that went well are deleted."""
    for cycle in range(CYCLES):
        directory = os.path.join(workdir, f"life-{cycle}")
        known = set(all_pids())
        dump_and_restore(tool, pid, directory, leave_out, options)
        check(cycle)
        shutil.rmtree(directory)
        assert set(tree_of(pid)) <= known, "new processes appeared"
