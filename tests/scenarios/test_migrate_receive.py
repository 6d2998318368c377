# SPDX-License-Identifier: Apache-2.0
"""Receivers: of one migration, of one after another, what they run then, and a secret that both sides have."""
import os

import pytest

from program import strangers
from waiting import counting, counts_on, gone, read_or_empty, wait_gone, wait_line, wait_until

COUNTER = counting(0.0005)


@pytest.fixture
def counter(start, workdir):
    made = []

    def run(mib=0):
        out = f"{workdir}/out-{len(made)}"
        made.append(start(["/usr/bin/python3", "-c", f"much = b'x' * ({mib} << 20)\n" + COUNTER], out=out))
        wait_line(out, "100")
        return made[-1], out
    return run


def test_one_after_another(tool, counter, shell, workdir):
    """Three programs come through one door, in which a failed one is not the last."""
    socket = f"{workdir}/there.sock"
    shell(f"{tool.argv[0]} receive --unix {socket} --no-once")
    wait_until(lambda: os.path.exists(socket), "it listens")
    programs = [counter() for _ in range(3)]
    for pid, out in programs:
        assert tool.run("migrate", "-t", pid, "--dry-run", f"unix:{socket}").returncode == 0
        assert not gone(pid)
        done = tool.run("migrate", "-t", pid, f"unix:{socket}")
        assert done.returncode == 0, done.stderr
        wait_gone(pid)
        counts_on(out, 200)
    for _, out in programs:
        counts_on(out, 200)


def test_dry_run_leaves_nothing(tool, counter, shell, workdir):
    """When it has ended its tasks-to-be are gone, however long that takes: the next one can come."""
    socket = f"{workdir}/there.sock"
    shell(f"{tool.argv[0]} receive --unix {socket} --no-once")
    wait_until(lambda: os.path.exists(socket), "it listens")
    pid, out = counter(mib=200)
    for _ in range(3):
        assert tool.run("migrate", "-t", pid, "--dry-run", f"unix:{socket}").returncode == 0
    done = tool.run("migrate", "-t", pid, f"unix:{socket}")
    assert done.returncode == 0, done.stderr
    counts_on(out, 200)


def test_once(tool, counter, shell, workdir):
    """Its door is shut when one has come; its status is the program's."""
    socket = f"{workdir}/there.sock"
    there = shell(f"{tool.argv[0]} receive --unix {socket}; echo ended $?")
    wait_until(lambda: os.path.exists(socket), "it listens")
    pid, out = counter()
    assert tool.run("migrate", "-t", pid, f"unix:{socket}").returncode == 0
    counts_on(out, 200)
    assert not os.path.exists(socket)
    children = [int(one) for one in strangers() if "python3" in strangers()[one]]
    for one in children:
        os.kill(one, 9)
    assert there.stdout.readline() == "ended 137\n"


def test_exec_after(tool, counter, shell, workdir):
    socket, said = f"{workdir}/there.sock", f"{workdir}/said"
    shell(f"{tool.argv[0]} receive --unix {socket} --exec-after 'echo $FERRY_ROOT_PID $(cat /proc/$FERRY_ROOT_PID/comm) >{said}' -d; exec cat")
    wait_until(lambda: os.path.exists(socket), "it listens")
    pid, out = counter()
    assert tool.run("migrate", "-t", pid, f"unix:{socket}").returncode == 0
    wait_line(said, f"{pid} python3")
    counts_on(out, 200)


def test_keep_source(tool, counter, shell, workdir):
    """The tasks that were left stay stopped: to look at, and to end."""
    socket = f"{workdir}/there.sock"
    shell(f"{tool.argv[0]} receive --unix {socket} -d; exec cat")
    wait_until(lambda: os.path.exists(socket), "it listens")
    pid, out = counter()
    assert tool.run("migrate", "-t", pid, "--keep-source", f"unix:{socket}").returncode == 0
    counts_on(out, 200)
    with open(f"/proc/{pid}/stat") as f:
        assert f.read().rpartition(")")[2].split()[0] == "T"
    assert tool.run("kill", "-t", pid).returncode == 0
    wait_gone(pid)
    counts_on(out, 200)


def secret(path, text):
    with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as f:
        f.write(text)
    return path


def listening(there):
    line = there.stdout.readline()
    assert line.startswith("listening on"), line + there.stdout.read()
    return line.split()[-1]


@pytest.mark.parametrize("ours", ("fedcba9876543210\n", None), ids=("another", "none"))
def test_psk_is_wrong(tool, counter, shell, workdir, ours):
    """Neither side talks to one that has not the secret: by loopback, the network is this test's."""
    there = shell(f"{tool.argv[0]} receive --listen 127.0.0.1:0 --tls-psk {secret(f'{workdir}/key', '0123456789abcdef' * 2)} -d; exec cat", own_network=False)
    port = listening(there)
    pid, out = counter()
    how = ["--tls-psk", secret(f"{workdir}/other", ours), f"tls://127.0.0.1:{port}"] if ours else [f"tcp://127.0.0.1:{port}"]
    done = tool.run("migrate", "-t", pid, *how)
    assert done.returncode == 1, done.stdout
    counts_on(out, 200)


def test_psk_of_loopback(tool, counter, shell, workdir):
    key = secret(f"{workdir}/key", "0123456789abcdef\n")
    port = listening(shell(f"{tool.argv[0]} receive --listen 127.0.0.1:0 --tls-psk {key} -d; exec cat", own_network=False))
    pid, out = counter()
    done = tool.run("migrate", "-t", pid, "--tls-psk", key, f"tls://127.0.0.1:{port}")
    assert done.returncode == 0, done.stderr
    wait_gone(pid)
    counts_on(out, 200)


@pytest.mark.parametrize("text,mode,word", (("short", 0o600, "from 16"), ("0123456789abcdef", 0o644, "others may read")))
def test_psk_is_no_secret(tool, counter, workdir, text, mode, word):
    key = secret(f"{workdir}/key", text)
    os.chmod(key, mode)
    done = tool.run("receive", "--listen", "127.0.0.1:0", "--tls-psk", key)
    assert done.returncode == 1 and word in done.stderr, done.stderr
    pid, _ = counter()
    done = tool.run("migrate", "-t", pid, "--tls-psk", key, "tls://127.0.0.1:1")
    assert done.returncode == 1 and word in done.stderr, done.stderr
