# SPDX-License-Identifier: Apache-2.0
"""What is in the way of a migration is told, all of it, before anything is made over there; and the program runs on."""
import os
import re
import shutil
import socket
from types import SimpleNamespace

import pytest

from waiting import gone, read_or_empty, wait_line, wait_until

# Does what its arguments name, says so, and counts.
ODD = """
import fcntl, os, socket, sys, time
keep = []
for what in sys.argv[1:]:
    name, _, path = what.partition("=")
    if name == "lock":
        keep.append(open(path, "w"))
        fcntl.lockf(keep[-1], fcntl.LOCK_EX)
    elif name == "netlink":
        keep.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
    elif name == "listen":
        keep.append(socket.create_server(("127.0.0.1", int(path))))
    elif name == "file":
        keep.append(open(path, "a+"))
print("ready", flush=True)
n = 0
while True:
    n += 1
    print(n, flush=True)
    time.sleep(0.001)
"""


@pytest.fixture
def host(tool, workdir, shell):
    """Makes a machine with a `receive` in it, that tells its status; `before` is run there first, as a shell does."""
    def make(before=""):
        path = f"{workdir}/there.sock"
        process = shell(f"{before} {tool.argv[0]} receive --unix {path} -d; echo $?; exec cat")
        wait_until(lambda: os.path.exists(path), "it listens")
        return SimpleNamespace(process=process, socket=path)
    return make


@pytest.fixture
def odd(start, workdir):
    def run(*what, argv=("/usr/bin/python3",)):
        out = f"{workdir}/out"
        pid = start([*argv, "-c", ODD, *what], out=out)
        wait_line(out, "ready")
        return pid, out
    return run


def runs_on(pid, out):
    assert not gone(pid)
    at = len(read_or_empty(out))
    wait_until(lambda: len(read_or_empty(out)) > at + 100, "it runs on")


def blocks(done):
    return re.findall(r"^in the way: (.*)$", done.stderr, re.M)


def test_nothing(tool, odd, host):
    """To ask takes nothing from a receiver of one migration: it is there for the real one."""
    pid, out = odd()
    there = host()
    for _ in range(2):
        done = tool.run("migrate", "-t", pid, "--check", f"unix:{there.socket}")
        assert done.returncode == 0 and "nothing is in the way of 1 task" in done.stdout, done.stderr
        runs_on(pid, out)
    assert tool.run("migrate", "-t", pid, f"unix:{there.socket}").returncode == 0
    assert there.process.stdout.readline() == "0\n"


def test_all_here(tool, odd, host, workdir):
    """What the source can't move: each is named, not the first one only."""
    pid, out = odd(f"lock={workdir}/lock", "netlink", "netlink")
    there = host()
    for option in (["--check"], []):
        done = tool.run("migrate", "-t", pid, *option, f"unix:{there.socket}")
        assert done.returncode == 1
        found = blocks(done)
        assert len(found) == 3 and "file lock" in found[0] and all("netlink" in one for one in found[1:]), done.stderr
        assert "release the lock" in done.stderr and "3 in the way" in done.stderr
        runs_on(pid, out)


def test_all_there(tool, odd, host, workdir):
    """A library that is another build, a file that is missing, an address in use, and a pid that is taken."""
    data = f"{workdir}/data"
    os.mkdir(data)
    shutil.copy("/usr/bin/python3", f"{data}/python")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pid, out = odd(f"file={data}/log", f"listen={port}", argv=(f"{data}/python",))
    listener = f"import socket, sys, time; s = socket.create_server((\"127.0.0.1\", {port})); print(flush=True); time.sleep(1000)"
    taken = f"echo {pid - 1} >/proc/sys/kernel/ns_last_pid;"
    there = host(f"mount -t tmpfs tmpfs {data}; cp /bin/sh {data}/python; {taken} python3 -c '{listener}' | (read line; exec cat) &"
                 f" while ! grep -q :{port:04X} /proc/net/tcp; do :; done;")
    done = tool.run("migrate", "-t", pid, f"unix:{there.socket}")
    assert done.returncode == 1
    found = "\n".join(blocks(done))
    assert f"{data}/python is another build" in found, done.stderr
    assert f"{data}/log is missing" in found
    assert f"the address tcp 127.0.0.1:{port} is in use" in found
    assert f"pid {pid} is taken by another task" in found
    runs_on(pid, out)
    assert there.process.stdout.readline() != "0\n"
