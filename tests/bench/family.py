# SPDX-License-Identifier: Apache-2.0
"""
A parent and its children with the same memory by copy on write (memory.c) move to another host: how much it is there, by the
sum of their Pss, beside what it was here. Sharing that is lost would make it some times as much.
"""
import re
import shutil
import statistics
import tempfile

import paths
import program
from board import Board
from migrate import Host, row
from waiting import wait_gone, wait_until

MIB, CHILDREN = 512, 2


def mib_of(text, name, count):
    """The sum of what so many /proc/PID/smaps_rollup say."""
    values = re.findall(rf"^{name}: +(\d+) kB$", text, re.M)
    assert len(values) == count, text
    return sum(map(int, values)) / 1024


def rollups(pids):
    text = ""
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            text += f.read()
    return text


def move(tool, work):
    """MiB of a parent and its children, which share memory by copy on write: all Rss here, all Pss here, all Pss there."""
    directory = tempfile.mkdtemp(prefix="migrate.", dir=work)
    pid = program.start([paths.program("bench", "memory"), MIB, CHILDREN], cwd=directory)
    board = Board(directory, 2)
    wait_until(lambda: board.read()[0] == 1 + CHILDREN, "memory is filled", 120)
    pids = program.tree_of(pid)
    assert len(pids) == 1 + CHILDREN
    with Host() as host:
        here = rollups(pids)
        where = host.receive(tool)
        done = tool.run("migrate", "-t", pid, "--allow-plaintext", where, timeout_s=300)
        assert done.returncode == 0, done.stderr
        host.line()
        for one in pids:
            wait_gone(one)
        host.do(f"cat {' '.join(f'/proc/{pid}/smaps_rollup' for pid in pids)}; echo told")
        there = "".join(iter(host.line, "told\n"))
        host.do(f"kill -USR1 {' '.join(map(str, pids))}")
        wait_until(lambda: board.read()[1] == len(pids), "memory is checked", 120)
    shutil.rmtree(directory)
    return mib_of(here, "Rss", len(pids)), mib_of(here, "Pss", len(pids)), mib_of(there, "Pss", len(pids))


def measure(tool, moves, work):
    found = [move(tool, work) for _ in range(moves)]
    mapped, here, there = (statistics.median(column) for column in zip(*found))
    assert mapped > 2 * here, "there is nothing to lose"
    return [row(f"{1 + CHILDREN} tasks, memory there to here", statistics.median(after / before for _, before, after in found), "", 1.05,
                f"Pss {here:.0f} MiB, then {there:.0f}; {mapped:.0f} without sharing")]
