# SPDX-License-Identifier: Apache-2.0
"""
A running program moves to another machine, which is a pid namespace of its own here, and back. What it is there is what it
was here: it counts on without a gap.
"""
import os
import subprocess
from types import SimpleNamespace

import pytest

from waiting import gone, read_or_empty, wait_gone, wait_line, wait_until

COUNTER = """
import mmap, os, sys, time
pages = 4096
m = mmap.mmap(-1, pages * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
shared = mmap.mmap(-1, 64 * 4096)
if len(sys.argv) > 1 and os.fork() == 0:
    n = 0
    while True:
        n += 1
        shared[n % 64 * 4096] = n % 251
        time.sleep(0.001)
n = 0
have = [0] * pages
while True:
    n += 1
    at = n * 7919 % pages
    assert m[at * 4096] == have[at], (at, m[at * 4096], have[at])
    have[at] = n % 251
    m[at * 4096] = have[at]
    if n % 50 == 0:
        print(n, flush=True)
        time.sleep(0.001)
"""


@pytest.fixture
def there(tool, workdir, shell):
    """A machine in which a `receive` runs, whose log is at `log`, and then cat."""
    socket, log = f"{workdir}/there.sock", f"{workdir}/there.log"
    process = shell(f"{tool.argv[0]} receive --unix {socket} -d -v4 -o {log} -W / && echo received && exec cat")
    wait_until(lambda: os.path.exists(socket), "it listens")
    return SimpleNamespace(process=process, socket=socket, log=log)


def numbers(path):
    return [int(line) for line in read_or_empty(path).split("\n")[:-1]]


@pytest.mark.parametrize("options", ([], ["fork"]), ids=("one", "two"))
def test_moves(tool, start, workdir, there, options):
    out = f"{workdir}/out"
    pid = start(["/usr/bin/python3", "-c", COUNTER, *options], out=out)
    wait_line(out, "500")
    done = tool.run("migrate", "-t", pid, "--max-downtime", "20", "-v4", f"unix:{there.socket}")
    assert done.returncode == 0, done.stderr + read_or_empty(there.log)
    assert there.process.stdout.readline() == "received\n"
    wait_gone(pid)
    moved_at = numbers(out)[-1]
    wait_until(lambda: numbers(out)[-1] > moved_at + 2000, "it counts on over there")
    got = numbers(out)
    assert got == list(range(50, 50 * len(got) + 50, 50))


def test_dry_run(tool, start, workdir, there):
    out = f"{workdir}/out"
    pid = start(["/usr/bin/python3", "-c", COUNTER], out=out)
    wait_line(out, "500")
    done = tool.run("migrate", "-t", pid, "--dry-run", f"unix:{there.socket}")
    assert done.returncode == 0, done.stderr
    assert not gone(pid)
    at = numbers(out)[-1]
    wait_until(lambda: numbers(out)[-1] > at + 500, "it counts on here")


def test_pid_is_taken(tool, start, workdir):
    """The target is this machine: nothing is made there, and the source runs on."""
    out = f"{workdir}/out"
    pid = start(["/usr/bin/python3", "-c", COUNTER], out=out)
    wait_line(out, "500")
    socket = f"{workdir}/here.sock"
    with subprocess.Popen(tool.command("receive", "--unix", socket, "-d"), stderr=subprocess.PIPE, text=True) as receive:
        wait_until(lambda: os.path.exists(socket), "it listens")
        done = tool.run("migrate", "-t", pid, f"unix:{socket}")
        assert done.returncode == 1 and f"pid {pid} is taken by another task" in done.stderr, done.stderr
        assert receive.wait(20) == 1
    at = numbers(out)[-1]
    wait_until(lambda: numbers(out)[-1] > at + 500, "it counts on here")
