# SPDX-License-Identifier: Apache-2.0
"""
What can go wrong on the way to a page server, at every message and anywhere else: both ends say so, the program runs on,
and nothing can be restored from what is there. FERRY_WIRE_FAULTS: how many places (1000).
"""
import os
import random
import shutil
import socket
import struct
import subprocess
import threading

import pytest

import paths
from board import Board
from changer import Changer
from program import stat_of
from chains import all_pages
from proxy import boundaries, Fault, Proxy, pages_sent, HEADER, TO_SERVER, TO_SOURCE
from wired import PageServer, merge

PLACES = int(os.environ.get("FERRY_WIRE_FAULTS", "1000"))
OPEN, OPEN2, PARENT, ADD_F, GET, CLOSE = 3, 4, 5, 6, 7, 0x1023


@pytest.fixture(autouse=True)
def only_ferry(tool):
    if not tool.is_ferry:
        pytest.skip("ferry's own two ends")


class Program:
    """Eight threads that show on a board that they go on."""
    def __init__(self, start, workdir):
        os.mkdir(f"{workdir}/home")
        self.pid = start([paths.program("scenarios", "threads8")], cwd=f"{workdir}/home", out=f"{workdir}/home/out")
        self.board = Board(f"{workdir}/home", 8, f"{workdir}/home/out")
        self.board.wait_growth()

    def runs_on(self):
        assert stat_of(self.pid)[0] in "SRD"


@pytest.fixture
def program(start, workdir):
    return Program(start, workdir)


class Trial:
    """One dump through a proxy, into fresh directories."""
    def __init__(self, tool, workdir, pid, fault, *options):
        self.images, self.pages = f"{workdir}/images", f"{workdir}/pages"
        for directory in (self.images, self.pages):
            shutil.rmtree(directory, ignore_errors=True)
        self.server = PageServer(tool, self.pages, "--peer-timeout", 5)
        self.proxy = Proxy(self.server.port, fault)
        self.source = tool.run("dump", "-t", pid, "-D", self.images, "-R", "--page-server", "--port", self.proxy.port, "--peer-timeout", 5, *options)
        self.server_status = self.server.end()
        self.proxy.end()

    def whole(self):
        assert (self.source.returncode, self.server_status) == (0, 0), f"{self.source.stderr}{self.server.stderr}"

    def failed(self):
        """Of both, each in one line; and there is nothing to restore."""
        assert (self.source.returncode, self.server_status) == (1, 1), f"{self.source.stderr}{self.server.stderr}"
        self.told()

    def told(self):
        for said in (self.source.stderr, self.server.stderr):
            errors = [line for line in said.splitlines() if "Error" in line]
            assert len(errors) <= 1 and "AddressSanitizer" not in said, said
        assert self.source.returncode == 0 or "Error" in self.source.stderr
        if self.source.returncode:
            assert "inventory.img" not in os.listdir(self.images)
        assert "inventory.img" not in os.listdir(self.pages)


def test_faults(tool, program, workdir):
    clean = Trial(tool, workdir, program.pid, Fault("none"))
    clean.whole()
    raw, back = clean.proxy.recorded
    seed = int(os.environ["FERRY_SEED"])
    chance = random.Random(seed)
    places = [(TO_SERVER, at) for at in boundaries(raw)] + [(TO_SERVER, len(raw) - 1)]
    places += [(TO_SOURCE, at) for at in range(len(back))]
    # a byte of a header is one in a thousand: it gets a third of the tries
    headers = [at + i for at in boundaries(raw) for i in range(32)]
    while len(places) < PLACES:
        places.append((TO_SERVER, chance.choice(headers) if chance.random() < 0.3 else chance.randrange(len(raw))))
    chance.shuffle(places)
    known = {"cut": 0, "flip": 0, "wait": 0}
    for number, (direction, offset) in enumerate(places[:PLACES]):
        kind = chance.choice(("cut", "cut", "flip", "flip", "flip", "wait"))
        fault = Fault(kind, direction, offset, seed + number)
        try:
            known[kind] += check(Trial(tool, workdir, program.pid, fault), fault, len(back))
            program.runs_on()
        except AssertionError as e:
            raise AssertionError(f"{fault}, seed {seed}, try {number}: {e}") from e
    program.board.wait_growth()
    assert all(known[kind] for kind in ("cut", "flip"))


def check(trial, fault, back):
    """Returns whether it was found."""
    last_words = fault.direction == TO_SOURCE and fault.offset >= back - 4
    if not trial.proxy.reached or fault.kind == "wait":
        trial.whole()
        return False
    if fault.direction == TO_SOURCE and not last_words:
        # "has it a parent?": where the answer becomes a wrong one it costs nothing, as nothing is asked for then
        if fault.kind == "flip":
            assert trial.source.returncode == trial.server_status, trial.source.stderr
            trial.told()
        else:
            trial.failed()
        return trial.source.returncode == 1
    if last_words:
        # all is stored, and the server has said so: the source's word counts, and it does not know
        assert trial.source.returncode == 1, trial.source.stderr
        trial.told()
        return True
    if fault.kind == "flip" and trial.server_status == 0:
        # of some bytes nobody asks what they are: then what is stored is what was sent
        trial.whole()
        assert all_pages(trial.pages) == pages_sent(trial.proxy.recorded[TO_SERVER])
        return False
    trial.failed()
    return True


def test_split(tool, program, workdir):
    """In pieces of any size, both ways."""
    for seed in range(3):
        trial = Trial(tool, workdir, program.pid, Fault("split", seed=seed))
        trial.whole()
    merge(trial.images, trial.pages)
    assert tool.run("restore", "-D", trial.pages, "--dry-run").returncode == 0


# ---- hostile sources ----

def message(command, flags=0, pages=0, address=0, number=1000, kind=1):
    return HEADER.pack(command | flags << 16, 0, pages, address, number << 8 | kind)


BEGIN = message(OPEN, number=1000)
PAGE = bytes(4096)
HOSTILE = {
    "garbage": (bytes(range(256)) * 64, "is none of a page server's"),
    "http": (b"GET / HTTP/1.1\r\nHost: a-page-server\r\n\r\n", "is none of a page server's"),
    "2^60 pages": (BEGIN + message(ADD_F, 4, 1 << 60, 0x10000), "out of place"),
    "beyond user space": (BEGIN + message(ADD_F, 4, 2, (1 << 47) - 4096), "out of place"),
    "within a page": (BEGIN + message(ADD_F, 4, 1, 0x10001), "out of place"),
    "no pages": (BEGIN + message(ADD_F, 4, 0, 0x10000), "out of place"),
    "backwards": (BEGIN + message(ADD_F, 4, 1, 0x20000) + PAGE + message(ADD_F, 4, 1, 0x10000) + PAGE, "after those at"),
    "twice": (BEGIN + message(ADD_F, 4, 1, 0x20000) + PAGE + message(ADD_F, 4, 1, 0x20000) + PAGE, "after those at"),
    "nowhere": (BEGIN + message(ADD_F, 0, 1, 0x10000), "nowhere"),
    "flags": (BEGIN + message(ADD_F, 0xff04, 1, 0x10000), "nowhere"),
    "of no parent": (BEGIN + message(ADD_F, 1, 1, 0x10000), "not in the parent directory"),
    "a hole of no parent": (BEGIN + message(2, 0, 1, 0x10000), "not in the parent directory"),
    "not begun": (message(ADD_F, 4, 1, 0x10000), "was not begun"),
    "of another": (BEGIN + message(ADD_F, 4, 1, 0x10000, number=1001), "was not begun"),
    "no pid": (message(OPEN, number=0), "a thing that there is not"),
    "a large pid": (message(OPEN, number=1 << 31), "a thing that there is not"),
    "no type": (message(OPEN, kind=77), "a thing that there is not"),
    "lazy": (message(GET, pages=1), "it asks for pages"),
    "a sum of nothing": (message(CLOSE, pages=0x4d55532d59525246), "is not what it sent"),
    "half a header": (BEGIN[:20], "has sent nothing for 1 s"),
    "half a page": (BEGIN + message(ADD_F, 4, 1, 0x10000) + PAGE[:99], "has sent nothing for 1 s"),
    "nothing": (b"", "has sent nothing for 1 s"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_source(tool, workdir, name):
    raw, words = HOSTILE[name]
    server = PageServer(tool, f"{workdir}/pages", "--peer-timeout", 1)
    with socket.create_connection(("127.0.0.1", server.port)) as source:
        source.sendall(raw)
        source.settimeout(30)
        status = source.recv(100)
        assert struct.unpack("<i", status)[0] < 0       # its reason
    assert server.end() == 1
    assert words in server.stderr and len(server.stderr.splitlines()) == 1, server.stderr
    assert "restored" not in server.stderr


def test_stranger_harms_nothing(tool, program, workdir):
    """Who connects and is no source does not take away what was dumped there before."""
    tool.dump(program.pid, f"{workdir}/pages", "-R")
    for raw in (b"", b"GET / HTTP/1.1\r\nHost: a-page-server\r\n\r\n"):
        server = PageServer(tool, f"{workdir}/pages")
        with socket.create_connection(("127.0.0.1", server.port)) as stranger:
            stranger.sendall(raw)
        assert server.end() == 1
        assert tool.run("restore", "-D", f"{workdir}/pages", "--dry-run").returncode == 0
    server = PageServer(tool, f"{workdir}/pages")
    with socket.create_connection(("127.0.0.1", server.port)) as source:
        source.sendall(BEGIN)
    assert server.end() == 1
    assert tool.run("restore", "-D", f"{workdir}/pages", "--dry-run").returncode == 1


def test_source_that_sends_for_ever(tool, workdir):
    """It is the disk that ends it."""
    small = f"{workdir}/small"
    os.mkdir(small)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], check=True)
    try:
        server = PageServer(tool, f"{small}/pages")
        with socket.create_connection(("127.0.0.1", server.port)) as source:
            source.sendall(BEGIN + message(ADD_F, 4, 1 << 34, 0x10000))
            with pytest.raises(OSError):
                while True:
                    source.sendall(PAGE * 64)
        assert server.end() == 1 and "No space left on device" in server.stderr
    finally:
        subprocess.run(["umount", small], check=True)


def test_older_forms(tool, workdir):
    """ADD and HOLE, as older CRIUs have them, and a thing that is begun twice."""
    server = PageServer(tool, f"{workdir}/pages")
    with socket.create_connection(("127.0.0.1", server.port)) as source:
        source.sendall(BEGIN + message(1, 0, 1, 0x10000) + b"a" * 4096 + BEGIN + message(1, 0, 2, 0x20000) + b"b" * 8192 + message(CLOSE))
        assert source.recv(100) == bytes(4)
    assert server.end() == 0
    assert all_pages(f"{workdir}/pages") == {"pagemap-1000.img": {0x20000: b"b" * 4096, 0x21000: b"b" * 4096}}


# ---- hostile servers ----

class FakeServer:
    """Does what `act` says with one connection, and then reads until its end."""
    def __init__(self, act):
        self.over = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.run, args=(act,), daemon=True)
        self.thread.start()

    def run(self, act):
        with self.listener, self.listener.accept()[0] as source:
            try:
                act(source, self)
                while source.recv(1 << 16):
                    pass
            except OSError:
                pass


def flood(source, _):
    while True:
        source.sendall(b"\1" * 65536)


def stops_reading(source, server):
    for answer in (bytes(4), bytes(1)):         # PARENT, OPEN2
        source.recv(32, socket.MSG_WAITALL)
        source.sendall(answer)
    server.over.wait(60)


SERVERS = {
    "says nothing": (lambda source, _: None, "has sent nothing for 1 s"),
    "closes": (lambda source, _: source.close(), "closed the connection"),
    "garbage": (lambda source, _: source.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "answers what is no answer"),
    "floods": (flood, "answers what is no answer"),
    "fails": (lambda source, _: source.sendall(struct.pack("<i", -5)), "failed: Input/output error"),
    "fails as if a task had ended": (lambda source, _: source.sendall(struct.pack("<i", -3)), "failed: No such process"),
    "an errno there is not": (lambda source, _: source.sendall(struct.pack("<i", -70000)), "answers what is no answer"),
    "reads no pages": (stops_reading, "has taken nothing for 1 s"),
}


@pytest.mark.parametrize("action", ["dump", "pre-dump"])
@pytest.mark.parametrize("name", SERVERS)
def test_hostile_server(tool, start, workdir, name, action):
    act, words = SERVERS[name]
    program = Changer(start, workdir)
    server = FakeServer(act)
    done = tool.run(action, "-t", program.pid, "-D", f"{workdir}/images", "--page-server", "--port", server.port, "--peer-timeout", 1)
    server.over.set()
    server.thread.join(30)
    assert done.returncode == 1 and words in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert program.ask() == program.state
    assert "inventory.img" not in os.listdir(f"{workdir}/images")
