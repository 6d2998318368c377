# SPDX-License-Identifier: Apache-2.0
"""
Large programs that move as a stream, with no file between: to another pid namespace through a pipe, and through two network
namespaces that a veth pair joins. Neither end holds more than a little of what moves.
"""
import os
import shutil
import signal
import socket
import subprocess

import pytest

from cycles import wait_sockets
from machines import within
from program import tree_of
from redis import Client, wait_ready
from streams import OtherMachine, with_peak
from waiting import read_or_empty, wait_asleep, wait_gone, wait_line, wait_until

MORE_BYTES = 64 << 20   # of each end, beside the tree's memory
GIB = 1 << 30
PORT = 6391


@pytest.fixture
def roomy():
    with open("/proc/meminfo", encoding="ascii") as f:
        available = next(int(line.split()[1]) for line in f if line.startswith("MemAvailable"))
    if available < 4 << 20:
        pytest.skip("needs 4 GiB of memory")


# ---- ways ----

def through_a_pipe(_name):
    read_end, write_end = os.pipe()
    return os.fdopen(write_end, "wb"), os.fdopen(read_end, "rb")


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def through_networks(name):
    """A TCP connection between two network namespaces, gone but for the connection when this returns."""
    here, there = f"{name}-a", f"{name}-b"
    had_mount = os.path.ismount("/run/netns")
    ip("netns", "add", here)
    ip("netns", "add", there)
    try:
        ip("link", "add", "veth-a", "netns", here, "type", "veth", "peer", "name", "veth-b", "netns", there)
        for netns, device, address in ((here, "veth-a", "10.99.0.1/24"), (there, "veth-b", "10.99.0.2/24")):
            ip("-n", netns, "address", "add", address, "dev", device)
            ip("-n", netns, "link", "set", device, "up")
        listener = within(f"/run/netns/{there}", lambda: socket.create_server(("10.99.0.2", 7000)))
        source = within(f"/run/netns/{here}", lambda: socket.create_connection(("10.99.0.2", 7000), 10))
        source.setblocking(True)
        target = listener.accept()[0]
        listener.close()
        return source, target
    finally:
        ip("netns", "delete", here)
        ip("netns", "delete", there)
        if not had_mount:
            subprocess.run(["umount", "/run/netns"], check=True)


WAYS = {"pipe": through_a_pipe, "networks": through_networks}


class Move:
    """Dumps and restores at the same time; over there it is `machine`'s until that ends."""
    def __init__(self, tool, pid, workdir, way):
        source, target = WAYS[way](f"ferry-{os.getpid()}")
        self.pid, self.images = pid, f"{workdir}/images"
        os.makedirs(self.images)
        self.machine = OtherMachine(tool, workdir, target)
        self.peak = f"{workdir}/dump.peak"
        dump = tool.command("dump", "-t", pid, "--stream", "-D", self.images, "-W", workdir, "-v4", "-o", "dump.log")
        self.dump = subprocess.Popen(with_peak(self.peak, dump), stdin=subprocess.DEVNULL, stdout=source, stderr=subprocess.PIPE, text=True)
        source.close()
        target.close()

    def ends(self):
        words = self.dump.communicate()[1]
        assert self.machine.restored() == self.pid
        assert self.dump.returncode == 0, words
        wait_gone(self.pid)
        self.dump_bytes, self.restore_bytes = int(read_or_empty(self.peak)) * 1024, self.machine.peak_bytes

    def is_lean(self):
        print(f"peaks: dump {self.dump_bytes >> 20} MiB, restore {self.restore_bytes >> 20} MiB")
        assert self.dump_bytes < MORE_BYTES and self.restore_bytes < MORE_BYTES
        assert not os.listdir(self.images), "no image of it was on a disk"


@pytest.fixture
def move(tool, workdir):
    moves = []

    def begin(pid, way):
        moves.append(Move(tool, pid, workdir, way))
        moves[-1].ends()
        return moves[-1]
    yield begin
    for one in moves:
        one.machine.end()


@pytest.mark.parametrize("way", WAYS)
def test_redis(start, workdir, roomy, move, way):  # pylint: disable=unused-argument,redefined-outer-name
    if way == "networks" and not shutil.which("ip"):
        pytest.skip("needs iproute2")
    pid = start(["redis-server", "--port", PORT, "--bind", "127.0.0.1", "--dir", workdir, "--save", "", "--enable-debug-command", "yes"])
    address = ("127.0.0.1", PORT)
    wait_ready(address)
    with Client(address) as client:
        keys = client.fill(GIB)
        digest = client.digest()
    wait_sockets(pid, 1)
    moved = move(pid, way)
    with within(f"/proc/{moved.machine.outside(pid)}/ns/net", lambda: Client(address)) as client:
        assert client.ask("DBSIZE") == keys and client.digest() == digest
        assert client.ask("SET", "key:1", "lives") == "OK"
    moved.is_lean()


# A quarter is shared memory, a quarter with a child, by copy on write; what is over there is checked over there.
MEMORY = """
import hashlib, mmap, os, signal, sys
size = int(sys.argv[1])
noise = os.urandom(1 << 20)
shared = mmap.mmap(-1, size // 4)
private = mmap.mmap(-1, size - size // 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for memory in (shared, private):
    for at in range(0, len(memory), len(noise)):
        memory[at:at + len(noise)] = noise
        memory[at:at + 8] = at.to_bytes(8, "little")
def digest():
    return hashlib.blake2b(shared).hexdigest() + hashlib.blake2b(private).hexdigest()
before = digest()
if os.fork() == 0:
    private[:size // 4:4096] = bytes(size // 4 // 4096)
    before = digest()
def check(*_):
    os.write(1, (f"{os.getpid()} good" if digest() == before else "CHANGED").encode() + b"\\n")
signal.signal(signal.SIGUSR1, check)
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""


def memory_of(tasks):
    """In bytes; what they share counts once."""
    lines = [line for task in tasks for line in read_or_empty(f"/proc/{task}/smaps_rollup").splitlines() if line.startswith("Pss:")]
    assert len(lines) == len(tasks)
    return sum(int(line.split()[1]) * 1024 for line in lines)


@pytest.mark.parametrize("mib", [256, 1024])
def test_memory(start, workdir, roomy, move, mib):  # pylint: disable=unused-argument,redefined-outer-name
    out = f"{workdir}/out"
    pid = start(["/usr/bin/python3", "-c", MEMORY, mib << 20], out=out)
    wait_until(lambda: read_or_empty(out) == "ready\nready\n", "both are ready", 60)
    tasks = tree_of(pid)
    assert len(tasks) == 2
    for task in tasks:
        wait_asleep(task)
    before = memory_of(tasks)
    assert before > mib << 20
    moved = move(pid, "pipe")
    moved.is_lean()
    assert memory_of([moved.machine.outside(task) for task in tasks]) < before + MORE_BYTES
    for task in tasks:
        os.kill(moved.machine.outside(task), signal.SIGUSR1)
        wait_line(out, f"{task} good", 60)
