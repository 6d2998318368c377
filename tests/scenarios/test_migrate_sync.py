# SPDX-License-Identifier: Apache-2.0
"""Files that come along: through a shell like ssh's, and into another root of this machine. A program goes on writing to its own there."""
import os
import subprocess
from types import SimpleNamespace

import pytest

from waiting import gone, read_or_empty, wait_gone, wait_line, wait_until

# Appends to a file, and reads it back from its start: what it wrote before has come along.
LOGGER = """
import sys, time
f = open(sys.argv[1], "a+")
n = 0
while True:
    n += 1
    f.write(f"{n}\\n")
    f.flush()
    if n % 100 == 0:
        f.seek(0)
        assert f.read().split() == [str(i) for i in range(1, n + 1)]
        print(n, flush=True)
    time.sleep(0.0005)
"""


@pytest.fixture
def data(workdir):
    path = f"{workdir}/data"
    os.mkdir(path)
    with open(f"{path}/big", "wb") as f:
        f.write(os.urandom(1 << 20))
    return path


@pytest.fixture
def there(data, shell):
    """Another machine, whose `data` is its own. `pid`: of its shell, from here."""
    process = shell(f"mount -t tmpfs tmpfs {data} && echo ready; exec cat")
    assert process.stdout.readline() == "ready\n"
    inner = f"/proc/{process.pid}/task/{process.pid}/children"
    return SimpleNamespace(pid=int(wait_until(lambda: read_or_empty(inner).split(), "it has an init")[0]))


@pytest.fixture
def logger(start, workdir, data):
    out = f"{workdir}/out"
    pid = start(["/usr/bin/python3", "-c", LOGGER, f"{data}/log"], out=out)
    wait_line(out, "100")
    return pid, out


def went(pid, out, data, there):
    wait_gone(pid)
    at = len(read_or_empty(out))
    wait_until(lambda: len(read_or_empty(out)) > at + 20, "it logs on")
    over = f"/proc/{there.pid}/root{data}"
    assert os.path.getsize(f"{over}/log") > os.path.getsize(f"{data}/log")
    with open(f"{data}/big", "rb") as a, open(f"{over}/big", "rb") as b:
        assert a.read() == b.read()


def test_unix(tool, workdir, data, there, logger):
    pid, out = logger
    socket = f"{workdir}/there.sock"
    with subprocess.Popen(["nsenter", "-t", str(there.pid), "-p", "-m", "-r", "-n", "-i", "--", *tool.command("receive", "--unix", socket, "-d")]):
        wait_until(lambda: os.path.exists(socket), "it listens")
        done = tool.run("migrate", "-t", pid, "--sync", data, f"unix:{socket}")
    assert done.returncode == 0, done.stderr
    went(pid, out, data, there)


@pytest.fixture
def ssh(tool, workdir, monkeypatch):
    """What takes ssh's place, for ferry and for rsync: these words of sh."""
    def take(words):
        shell = f"{workdir}/shell"
        with open(shell, "w", opener=lambda name, flags: os.open(name, flags, 0o755)) as f:
            f.write(f"#!/bin/sh\n{words}\n")
        monkeypatch.setenv("FERRY_SSH", shell)
        monkeypatch.setenv("FERRY_REMOTE", tool.argv[0])
    return take


def goes_there(there, before=":"):
    """The command after ssh's options and the host's name runs on that machine."""
    return f'[ "$1" = -l ] && shift 2\n[ "$1" = -- ] && shift\nshift\n{before}\nexec nsenter -t {there.pid} -p -m -r -n -i -- "$@"'


def test_ssh(tool, data, there, logger, ssh):  # pylint: disable=redefined-outer-name
    pid, out = logger
    ssh(goes_there(there))
    done = tool.run("migrate", "-t", pid, "--sync", data, "root@there")
    assert done.returncode == 0, done.stderr
    went(pid, out, data, there)


def test_slow(tool, data, there, logger, ssh):  # pylint: disable=redefined-outer-name
    """What takes longer than one end waits for the other is no reason to give up, before the stop and in it."""
    pid, out = logger
    ssh(goes_there(there, '[ "$1" != rsync ] || sleep 3; [ "$2" != receive ] || set -- "$@" --peer-timeout 1'))
    done = tool.run("migrate", "-t", pid, "--sync", data, "--peer-timeout", "1", "root@there")
    assert done.returncode == 0, done.stderr
    went(pid, out, data, there)


def test_ssh_that_stays(tool, logger, ssh):  # pylint: disable=redefined-outer-name
    """It says nothing and does not end when asked to: what became of the move is told all the same."""
    ssh("trap '' TERM HUP; while :; do sleep 0.5; done")
    done = tool.run("migrate", "-t", logger[0], "--peer-timeout", "1", "root@there")
    assert done.returncode == 1 and "has sent nothing for 1 s" in done.stderr, done.stderr
    assert not gone(logger[0])


@pytest.mark.parametrize("path, word", (("relative", "full path"), ("/", "full path"), ("/nonexistent/dir", "No such file"), ("/etc/passwd", "no directory")),
                         ids=("relative", "root", "missing", "file"))
def test_no_directory(tool, workdir, there, logger, path, word):
    socket = f"{workdir}/there.sock"
    with subprocess.Popen(["nsenter", "-t", str(there.pid), "-p", "-m", "-r", "-n", "-i", "--", *tool.command("receive", "--unix", socket, "-d")],
                          stderr=subprocess.DEVNULL):
        wait_until(lambda: os.path.exists(socket), "it listens")
        done = tool.run("migrate", "-t", logger[0], "--sync", path, f"unix:{socket}")
    assert done.returncode == 1 and "--sync" in done.stderr and word in done.stderr, done.stderr
    assert not gone(logger[0])


def test_no_way(tool, logger, data):
    with subprocess.Popen(tool.command("receive", "--listen", "127.0.0.1:0", "-d"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True) as receive:
        port = receive.stdout.readline().split()[-1]
        done = tool.run("migrate", "-t", logger[0], "--sync", data, f"tcp://127.0.0.1:{port}")
    assert done.returncode == 1 and "rsync has no way" in done.stderr, done.stderr
    assert not gone(logger[0])
