# SPDX-License-Identifier: Apache-2.0
"""
The python program that test_python.py dumps: threads that count and pass a baton, a child that echoes, open files of
several kinds. It checks itself all the time. Over the unix socket argv[1] it tells its counters as JSON.
"""
import hashlib
import json
import mmap
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time

counts = {"lines": 0, "echoes": 0, "batons": 0, "ticks": 0}
wrong = []
stamp = threading.local()


def watched(work):
    """A thread that repeats `work`; its first exception is told, never lost."""
    def run():
        try:
            stamp.name = work.__name__
            while True:
                work()
                assert stamp.name == work.__name__, "thread-local data"
        except BaseException as e:  # pylint: disable=broad-except
            wrong.append(f"{work.__name__}: {e!r}")
    threading.Thread(target=run, daemon=True, name=work.__name__).start()


log = open("lines", "a+b", buffering=0)
unlinked = tempfile.TemporaryFile(dir=".")
unlinked.write(os.urandom(65536))
unlinked.flush()
unlinked_digest = hashlib.sha256(os.pread(unlinked.fileno(), 65536, 0)).digest()
data = os.urandom(4 << 20)
shared = mmap.mmap(-1, 1 << 20)
echo = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
there, back = queue.Queue(), queue.Queue()


def write_lines():
    log.write(b"line %d\n" % counts["lines"])
    counts["lines"] += 1
    time.sleep(0.002)


def ask_child():
    text = b"%d\n" % counts["echoes"]
    echo.stdin.write(text)
    echo.stdin.flush()
    assert echo.stdout.readline() == text
    shared[counts["echoes"] % (1 << 20)] = counts["echoes"] & 0xff
    counts["echoes"] += 1
    time.sleep(0.001)


def throw():
    there.put(counts["batons"])
    assert back.get() == counts["batons"]
    counts["batons"] += 1


def catch():
    back.put(there.get())


def tick():
    begin = time.monotonic()
    threading.Event().wait(0.003)
    assert time.monotonic() >= begin
    assert hashlib.sha256(os.pread(unlinked.fileno(), 65536, 0)).digest() == unlinked_digest
    counts["ticks"] += 1


for job in (write_lines, ask_child, throw, catch, tick):
    watched(job)
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen(5)
while True:
    client, _ = server.accept()
    with client:
        client.sendall(json.dumps({**counts, "wrong": wrong, "data": hashlib.sha256(data).hexdigest()}).encode())
