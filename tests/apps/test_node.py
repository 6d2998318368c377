# SPDX-License-Identifier: Apache-2.0
"""node with an http server, timers and worker threads."""
import json
import os
import urllib.error
import urllib.request

from cycles import many_lives, sockets_of, wait_sockets
from waiting import wait_until

PORT = 8091


def ask():
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=20) as answer:
        now = json.load(answer)
    assert not now["wrong"], now["wrong"]
    return now["data"], [now["ticks"], *now["answers"], now["reads"]]


def first_answer():
    try:
        return ask()
    except (urllib.error.URLError, ConnectionError):
        return None


def test_node(tool, start, workdir):
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "busy.js")
    pid = start(["node", program, PORT], cwd=workdir, out=f"{workdir}/out")
    last = wait_until(first_answer, "node answers")
    listening = 1

    def grew():
        data, now = ask()
        assert data == last[0]
        return (data, now) if all(n > before for n, before in zip(now, last[1])) else None

    def check(_cycle):
        nonlocal last
        last = wait_until(grew, f"counters go on from {last}")
        wait_sockets(pid, listening)

    check(-1)
    assert sockets_of(pid) == listening
    many_lives(tool, pid, workdir, check, leave_out=("/maps", "/fds"))
