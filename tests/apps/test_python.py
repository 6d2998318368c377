# SPDX-License-Identifier: Apache-2.0
"""python3 with threads, a subprocess and open files, which checks itself."""
import json
import os
import socket

from cycles import many_lives, wait_sockets
from waiting import wait_until


def ask(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(20)
        s.connect(path)
        return json.loads(b"".join(iter(lambda: s.recv(65536), b"")))


def grew(path, before):
    """Waits until every counter went on."""
    def look():
        now = ask(path)
        assert not now["wrong"], now["wrong"]
        assert now["data"] == before["data"]
        return now if all(now[k] > before[k] for k in before if isinstance(before[k], int)) else None
    return wait_until(look, f"counters go on from {before}")


def test_python(tool, start, workdir):
    path = f"{workdir}/socket"
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "busy.py")
    pid = start(["/usr/bin/python3", program, path], cwd=workdir, out=f"{workdir}/out")
    wait_until(lambda: os.path.exists(path) and ask(path), "the program answers")
    last = ask(path)

    def check(_cycle):
        nonlocal last
        last = grew(path, last)
        wait_sockets(pid, 1)

    check(-1)
    many_lives(tool, pid, workdir, check, leave_out=("/pos",))
    with open(f"{workdir}/lines", "rb") as f:
        lines = f.read().split(b"\n")[:-1]
    assert lines == [b"line %d" % n for n in range(len(lines))]
