# SPDX-License-Identifier: Apache-2.0
"""The peer restores what ferry dumps, ferry restores what the peer dumps, and crit decodes every image of ferry's."""
import json
import os
import signal
import subprocess

import pytest

import paths
from board import Board
from changer import Links
from cycles import wait_sockets
from images import crit_decode, images_in, pages_bytes
from procstate import assert_becomes_same, see
from program import tree_of
from redis import Client, server_argv, wait_ready
from streams import STREAM, StreamTool
from trackers import need_tracker
from waiting import read_or_empty, wait_asleep, wait_gone, wait_until


class Sleep:
    def __init__(self, start, _workdir):
        self.pid = start(["sleep", "1000"])
        wait_asleep(self.pid)

    def check(self):
        wait_asleep(self.pid)


class OnBoard:
    """A program of this folder that shows its life on a board."""
    name, slots = None, 0

    def __init__(self, start, workdir):
        self.pid = start([paths.program("scenarios", self.name)], cwd=workdir, out=f"{workdir}/out")
        self.board = Board(workdir, self.slots, f"{workdir}/out")
        self.check()

    def check(self):
        self.board.wait_growth()


class Threads8(OnBoard):
    name, slots = "threads8", 8

    def check(self):
        super().check()
        self.interruptions = self.board.slot(9)


class Tree(OnBoard):
    name, slots = "tree", 4


class UnixSockets(OnBoard):
    name, slots = "unixsockets", 2


class Redis:
    def __init__(self, start, workdir):
        self.address = f"{workdir}/redis.sock"
        self.pid = start(server_argv(workdir))
        wait_ready(self.address)
        with Client(self.address) as client:
            client.fill(4 << 20)
            self.digest = client.digest()
        self.settle()

    def settle(self):
        wait_sockets(self.pid, 1)

    def check(self):
        with Client(self.address) as client:
            assert client.digest() == self.digest
        self.settle()


PYTHON = """
import hashlib, os, threading, time
data = os.urandom(1 << 20)
digest = hashlib.sha256(data).digest()
log = open("log", "ab", buffering=0)
def tick():
    while True:
        assert hashlib.sha256(data).digest() == digest
        log.write(b"tick\\n")
        time.sleep(0.01)
threading.Thread(target=tick).start()
tick()
"""


class Python:
    def __init__(self, start, workdir):
        self.log, self.out = f"{workdir}/log", f"{workdir}/out"
        self.pid = start(["/usr/bin/python3", "-c", PYTHON], cwd=workdir, out=self.out)
        wait_until(lambda: os.path.exists(self.log), "python3 runs")
        self.check()

    def check(self):
        size = os.path.getsize(self.log)
        wait_until(lambda: os.path.getsize(self.log) > size + 50, "python3 goes on")
        assert os.path.getsize(self.out) == 0


class Resource:
    """A program that checks itself when it is asked."""
    name = None

    def __init__(self, start, workdir):
        self.status, self.round = f"{workdir}/status", 0
        self.pid = start([paths.program("resources", self.name), self.status])
        self.wait_for("ready\n")
        self.check()

    def wait_for(self, word):
        text = wait_until(lambda: (text := read_or_empty(self.status)).endswith(word) and text, f"it says {word!r}")
        assert "FAIL" not in text, text

    def check(self):
        self.round += 1
        with open(self.status, "w"):
            pass
        os.kill(self.pid, signal.SIGUSR1)
        self.wait_for(f" {self.round}\n")
        wait_asleep(self.pid)           # in a wait that shows another mask


class Memfd(Resource):
    name = "memfd"


class Files(Resource):
    """Removed ones too."""
    name = "files"


class Procs(Resource):
    """Its own /proc/PID, which redis has open for an instant now and then."""
    name = "procs"


PROGRAMS = [Sleep, Threads8, Tree, UnixSockets, Redis, Python, Memfd, Files, Procs]
# What a program does by itself between the two looks, and where the peer is less exact.
MOVES = ("/maps", "/pos", "SigPnd", "ShdPnd", "/Threads", "/fds", "/oom_score_adj")


def cross(program, dumper, restorer, images, becomes=lambda images: images):
    before, pids = see(program.pid), tree_of(program.pid)
    dumper.dump(program.pid, images)
    for pid in pids:
        wait_gone(pid)
    assert restorer.restore(becomes(images)) == program.pid
    assert_becomes_same(before, program.pid, MOVES)
    program.check()
    if dumper.is_ferry:  # the peer ends sleeps with EINTR
        assert getattr(program, "interruptions", 0) == 0


@pytest.mark.parametrize("kind", PROGRAMS)
def test_peer_restores_ours(tool, peer, start, workdir, kind):
    cross(kind(start, workdir), tool, peer, f"{workdir}/images")


@pytest.mark.parametrize("kind", PROGRAMS)
def test_we_restore_the_peers(tool, peer, start, workdir, kind):
    cross(kind(start, workdir), peer, tool, f"{workdir}/images")


def packed(tool, dumped, workdir):
    """The directory as a stream; each of them can be shown."""
    os.makedirs(f"{workdir}/packed")
    path = f"{workdir}/packed/{STREAM}"
    StreamTool(tool).pack(dumped, path, "--compress", "lz4")
    with open(path, "rb") as f:
        shown = [subprocess.run(tool.command("show", name), stdin=f, capture_output=True, text=True, check=True).stdout
                 for name in (path, "-")]
    assert shown[0] == shown[1] and "Tasks: " in shown[0]
    return f"{workdir}/packed"


def unpacked(tool, dumped, workdir):
    StreamTool(tool).unpack(f"{packed(tool, dumped, workdir)}/{STREAM}", f"{workdir}/unpacked")
    return f"{workdir}/unpacked"


def streamed_unpacked(tool, dumped, workdir):
    StreamTool(tool).unpack(f"{dumped}/{STREAM}", f"{workdir}/unpacked")
    return f"{workdir}/unpacked"


# Who dumps, what becomes of that, who restores.
WAYS = {
    "peer-packed": ("peer", packed, "stream"),
    "peer-unpacked": ("peer", unpacked, "peer"),
    "unpacked": ("ferry", unpacked, "peer"),
    "streamed": ("stream", streamed_unpacked, "peer"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", PROGRAMS)
def test_streams(tool, peer, start, workdir, kind, way):
    tools = {"ferry": tool, "peer": peer, "stream": StreamTool(tool)}
    dumper, becomes, restorer = WAYS[way]
    cross(kind(start, workdir), tools[dumper], tools[restorer], f"{workdir}/images", lambda dumped: becomes(tool, dumped, workdir))


@pytest.mark.parametrize("kind", PROGRAMS)
def test_crit_decodes_ours(tool, start, workdir, kind):
    program = kind(start, workdir)
    images = f"{workdir}/images"
    tool.dump(program.pid, images, "-R")
    program.check()
    names = images_in(images)
    assert {"inventory.img", "pstree.img", "files.img", "stats-dump"} <= set(names)
    decoded = {name: json.loads(crit_decode(os.path.join(images, name))) for name in names}
    stats = decoded["stats-dump"]["entries"][0]["dump"]
    assert (stats["pages_written"] + stats.get("shpages_written", 0)) * 4096 == pages_bytes(images)


# ---- chains ----

@pytest.mark.parametrize("deduped", [False, True])
def test_peer_restores_our_chain(tool, peer, start, workdir, deduped):
    """Pre-dumps and dumps on top of one another; each dump, or what dedup left."""
    need_tracker(tool, "scan", "soft-dirty")
    links = Links(tool, start, workdir)
    for action, name in ((links.pre_dump, "a"), (links.pre_dump, "b"), (links.dump, "c"), (links.dump, "d"), (links.pre_dump, "e"), (links.dump, "f")):
        assert action(name) == ""
        links.program.change()
    links.end()
    if deduped:
        tool.run_well("dedup", links.directory("f"))
        links.states = {"f": links.states["f"]}
    for name in links.states:
        links.comes_back(name, peer)


@pytest.mark.parametrize("deduped", [False, True])
@pytest.mark.parametrize("kind", [Tree, Memfd, Redis, Python])
def test_peer_on_top(tool, peer, start, workdir, kind, deduped):
    """Several tasks and memfds among what the links have."""
    need_tracker(tool, "scan", "soft-dirty")
    program, pids = kind(start, workdir), None
    for link in range(4):
        directory = f"{workdir}/link-{link}"
        os.mkdir(directory)
        on_top = ["--prev-images-dir", f"../link-{link - 1}"] if link else []
        pids = tree_of(program.pid)
        if link < 3:
            assert tool.run_well("pre-dump", directory, "-t", program.pid, *on_top).stderr == ""
            program.check()
        else:
            assert tool.run_well("dump", directory, "-t", program.pid, *on_top).stderr == ""
    for pid in pids:
        wait_gone(pid)
    if deduped:
        tool.run_well("dedup", directory)
    assert peer.restore(directory) == program.pid
    program.check()
