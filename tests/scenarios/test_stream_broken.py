# SPDX-License-Identifier: Apache-2.0
"""
Streams that are not what was written: cut, changed, well-formed nonsense; and a proxy between both ends that does it on the
way. Nobody believes them, nothing is restored, and the program that was to move runs on.

FERRY_STREAM_CUTS (500): random places, beside the borders of frames; on the way so many cuts and so many turned bits.
"""
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import threading

import pytest

import paths
from program import end_tree, stat_of, tree_of
from streams import (BYTES, FRAME, IMAGE, PAGES, PAGES_FILE, SEAL, STATE_END, STREAM, StreamTool, borders_of, dump_command, frames_of, stream_of)
from waiting import gone, read_or_empty, wait_asleep, wait_gone, wait_line, wait_until

SEED = int(os.environ["FERRY_SEED"])
LENGTH_AT = 4       # in a frame
SEAL_BYTES, SEAL_AT_END = FRAME.size + 16, struct.pack("<II", SEAL, 16)
CUTS = int(os.environ.get("FERRY_STREAM_CUTS", "500"))


@pytest.fixture
def sanitized(tool):
    return type(tool)("ferry with sanitizers", [paths.FERRY_ASAN]) if tool.name == "ferry" else tool


@pytest.fixture
def sleeper(tool, start, workdir):
    """(pid, its stream)"""
    pid = start(["sleep", "1000"])
    StreamTool(tool).dump(pid, workdir)
    wait_gone(pid)
    with open(f"{workdir}/{STREAM}", "rb") as f:
        return pid, f.read()


def fails(tool, raw, action, *options):
    done = subprocess.run(tool.command(action, *options), input=bytes(raw), capture_output=True, check=False, timeout=60)
    words = done.stderr.decode()
    assert done.returncode == 1, f"{done.returncode}: {words}"
    assert words.startswith(f"ferry {action}: Error") and words.count("\n") == 1, words
    return words


def restore_fails(tool, raw):
    return fails(tool, raw, "restore", "--stream", "-d")


def test_cut_or_changed(tool, sleeper):
    """At each border of frames, and at random: one line, nothing restored, the number of the program stays free."""
    pid, raw = sleeper
    dice = random.Random(SEED)
    borders = borders_of(raw)[:-1]
    for at in borders + [dice.randrange(len(raw)) for _ in range(CUTS)]:
        assert "cut" in restore_fails(tool, raw[:at])
        broken = bytearray(raw)
        broken[at] ^= 1 << dice.randrange(8)
        restore_fails(tool, broken)
        assert gone(pid)
    for one, other in zip(borders[1:], borders[2:]):
        restore_fails(tool, raw[:one] + raw[other:])            # one is missing
        restore_fails(tool, raw[:other] + raw[one:])            # one comes twice
    assert gone(pid)


# ---- well-formed nonsense ----

def image(name, content=b""):
    return [(IMAGE, name), (BYTES, content)]


def pages_file(pages_id, size, lent=0):
    return (PAGES_FILE, struct.pack("<IIQ", pages_id, lent, size))


def edit_pages(body=None, **changes):
    """Of the first frame of pages: fields of its head, or what follows it."""
    def edit(frames):
        at = next(i for i, (kind, _) in enumerate(frames) if kind == PAGES)
        content = frames[at][1]
        fields = dict(zip(("id", "codec", "reserved", "pages", "offset", "zeros", "more"), struct.unpack("<IBBHQQQ", content[:32])))
        head = struct.pack("<IBBHQQQ", *{**fields, **changes}.values())
        return [*frames[:at], (PAGES, head + (content[32:] if body is None else body)), *frames[at + 1:]]
    return edit


def without(kind):
    return lambda frames: [frame for frame in frames if frame[0] != kind]


def before_pages(*more):
    def edit(frames):
        at = next(i for i, (kind, _) in enumerate(frames) if kind == STATE_END)
        return [*frames[:at], *more, *frames[at:]]
    return edit


def first(*more):
    return lambda frames: [*more, *frames]


NO_NAME = "a name that none has"
NONSENSE = {
    **{f"an image {name!r}": (before_pages((IMAGE, name)), NO_NAME) for name in (
        b"", b"x", b"../core-77.img", b"/tmp/core-77.img", b"cow/../core-77.img", b"cow/cow/core-77.img", b"cow/", b"cow",
        b"core-77.img\0", b"core-77.img\n", b"core-077.img", b"core--1.img", b"core-99999999999999999999.img", b"x" * 5000,
        b"pages-77.img", b"ferry-checksums.img", b"parent", b".", b"cow/inventory.img")},
    "an image twice": (before_pages(*image(b"core-77.img"), *image(b"core-77.img")), "twice"),
    "the inventory twice": (before_pages(*image(b"inventory.img")), "twice"),
    "no inventory": (lambda frames: frames[2:], "no inventory"),
    "bytes of no image": (first((BYTES, b"x")), "no image"),
    "bytes behind a pages file": (before_pages(pages_file(77, 0), (BYTES, b"x")), "no image"),
    "pages too soon": (first((PAGES, bytes(32))), "before all images"),
    "nothing": (lambda frames: [], "before all images"),
    "images alone": (without(STATE_END), "before all images"),
    "the end of images twice": (lambda frames: [*frames, (STATE_END, b"")], "among its pages"),
    "an image behind the pages": (lambda frames: [*frames, *image(b"core-77.img")], "among its pages"),
    "a pages file twice": (before_pages(pages_file(1, 0)), "twice"),
    "a pages file lent twice": (before_pages(pages_file(77, 0, 2)), "broken pages file"),
    "half a page": (before_pages(pages_file(77, 100)), "broken pages file"),
    "a short pages file": (before_pages((PAGES_FILE, b"x")), "broken pages file"),
    "2^60 pages": (before_pages(pages_file(77, (1 << 60) * 4096 % (1 << 64) + (1 << 63) + 4096)), "broken pages file"),
    "2^50 pages": (before_pages(pages_file(77, (1 << 50) * 4096)), ""),
    "no pages": (without(PAGES), "without all pages"),
    "pages of an unknown file": (edit_pages(id=77), "did not name"),
    "pages from another place": (edit_pages(offset=4096), "out of their order"),
    "no page": (edit_pages(pages=0), "broken pages"),
    "65535 pages": (edit_pages(pages=65535), "broken pages"),
    "129 pages": (edit_pages(pages=129), "broken pages"),
    "more pages than the file has": (edit_pages(pages=128), "out of their order"),
    "an unknown codec": (edit_pages(codec=3), "broken pages"),
    "reserved": (edit_pages(reserved=1), "broken pages"),
    "no head": (lambda frames: [(kind, content[:31] if kind == PAGES else content) for kind, content in frames], "without a head"),
    "zeros that are there": (edit_pages(zeros=(1 << 64) - 1), "compressed pages"),
    "too few bytes": (edit_pages(body=bytes(4095)), "compressed pages"),
    "no bytes": (edit_pages(body=b""), "compressed pages"),
    "no lz4": (edit_pages(codec=1), "compressed pages"),
    "no zstd": (edit_pages(codec=2), "compressed pages"),
    "lz4 of nothing": (edit_pages(codec=1, body=b""), "compressed pages"),
    "zstd of nothing": (edit_pages(codec=2, body=b""), "compressed pages"),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense(sanitized, sleeper, workdir, what):
    pid, raw = sleeper
    edit, words = NONSENSE[what]
    frames = frames_of(raw)[:-1]
    assert stream_of(frames) == raw
    broken = stream_of(edit(frames))
    for action, *options in (("restore", "--stream", "-d"), ("restore", "--stream", "--dry-run"), ("unpack", "-", f"{workdir}/new")):
        assert words in fails(sanitized, broken, action, *options)
        assert gone(pid) and not os.path.exists(f"{workdir}/new")
    shown = subprocess.run(sanitized.command("show", "-"), input=broken, capture_output=True, check=False)
    assert shown.returncode == 1 and words in shown.stderr.decode()


def test_more_pages_files_than_descriptors(sanitized, sleeper, workdir):
    """What was made goes all the same."""
    pid, raw = sleeper
    many = stream_of(before_pages(*(pages_file(i, 0, 1) for i in range(1000, 1300)))(frames_of(raw)[:-1]))
    for action, *options in (("unpack", "-", f"{workdir}/new"), ("restore", "--stream", "-d")):
        done = subprocess.run(sanitized.command(action, *options), input=many, capture_output=True, check=False,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)))
        assert done.returncode == 1 and b"Too many open files" in done.stderr and done.stderr.count(b"\n") == 1, done.stderr
        assert gone(pid) and not os.path.exists(f"{workdir}/new")


SHARING = """
import mmap, os, signal
memory = [mmap.mmap(-1, 8 * 4096) for _ in range(2)]
for m in memory:
    m[:] = os.urandom(8 * 4096)
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""


def test_objects_with_the_same_pages(tool, sanitized, start, workdir):
    """They were handed out to the first, and there is no task yet that could lend them."""
    out = f"{workdir}/out"
    pid = start(["/usr/bin/python3", "-c", SHARING], out=out)
    wait_line(out, "ready")
    wait_asleep(pid)
    StreamTool(tool).dump(pid, workdir)
    wait_gone(pid)
    with open(f"{workdir}/{STREAM}", "rb") as f:
        frames = frames_of(f.read())[:-1]
    one, other = (i for i, (kind, content) in enumerate(frames) if kind == IMAGE and content.startswith(b"pagemap-shmem-"))
    frames[other + 1] = frames[one + 1]
    assert "too early" in restore_fails(sanitized, stream_of(frames))
    assert gone(pid)


def test_frames_of_one_page(tool, sanitized, sleeper, workdir):
    """Frames may be as small as anybody likes, and all of their pages zeros."""
    pid, raw = sleeper
    frames, small = frames_of(raw)[:-1], []
    for kind, content in frames:
        if kind != PAGES:
            small.append((kind, content))
            continue
        pages_id, codec, _, pages, offset, *zeros = struct.unpack("<IBBHQQQ", content[:32])
        assert codec == 0
        at = 32
        for page in range(pages):
            zero = zeros[page // 64] >> page % 64 & 1
            head = struct.pack("<IBBHQQQ", pages_id, 0, 0, 1, offset + page * 4096, zero, 0)
            small.append((PAGES, head + (b"" if zero else content[at:at + 4096])))
            at += 0 if zero else 4096
    done = subprocess.run(sanitized.command("unpack", "-", f"{workdir}/new"), input=stream_of(small), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(sanitized.command("restore", "--stream", "-d"), input=stream_of(small), capture_output=True, check=True)
    assert done.stderr == b""
    end_tree(pid)
    assert tool.restore(f"{workdir}/new") == pid


# ---- on the way ----

class Proxy:
    """Between both ends, on sockets: what it is told to do to the stream; answers go back as they are."""
    def __init__(self, change=lambda chunks: chunks):
        (self.dump_end, self.left), (self.right, self.restore_end) = socket.socketpair(), socket.socketpair()
        self.threads = [threading.Thread(target=self.forward, args=[change]), threading.Thread(target=self.back)]

    def begin(self):
        """Both ends are somebody else's from now on."""
        self.dump_end.close()
        self.restore_end.close()
        for thread in self.threads:
            thread.start()

    def end(self):
        for thread in self.threads:
            thread.join()
        self.left.close()
        self.right.close()

    def chunks(self):
        while chunk := self.left.recv(65536):
            yield chunk

    def forward(self, change):
        try:
            for chunk in change(self.chunks()):
                self.right.sendall(chunk)
            self.right.shutdown(socket.SHUT_WR)
        except OSError:
            pass    # the reader has gone, and back() sees it

    def back(self):
        try:
            while chunk := self.right.recv(4096):
                self.left.sendall(chunk)
        except OSError:
            pass
        try:
            self.left.shutdown(socket.SHUT_RDWR)    # nobody reads the stream any more
        except OSError:
            pass


def move(tool, pid, workdir, change=lambda chunks: chunks, options=(), restore="-d"):
    """Dumped here, restored in a pid namespace of its own, which ends with the restore: (status, words) of both."""
    proxy = Proxy(change)
    target = subprocess.Popen([paths.INIT, *tool.command("restore", "--stream", restore)], stdin=proxy.restore_end,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    dump = subprocess.Popen(tool.command("dump", "-t", pid, "--stream", *options), stdin=subprocess.DEVNULL, stdout=proxy.dump_end,
                            stderr=subprocess.PIPE, text=True, cwd=workdir)
    proxy.begin()
    try:
        return [(end.wait(20), end.communicate()[1]) for end in (dump, target)]
    finally:
        for end in (dump, target):
            end.kill()
            end.wait()
        proxy.end()


def split(dice):
    def change(chunks):
        for chunk in chunks:
            while chunk:
                size = dice.choice((1, 3, 17, 100, 5000))
                yield chunk[:size]
                chunk = chunk[size:]
    return change


def cut(at):
    def change(chunks):
        left = at
        for chunk in chunks:
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                return
    return change


def flip(at, bit):
    def change(chunks):
        place = at
        for chunk in chunks:
            chunk = bytearray(chunk)
            if 0 <= place < len(chunk):
                chunk[place] ^= 1 << bit
            place -= len(chunk)
            yield chunk
    return change


def test_split(tool, start, workdir):
    """Every write in pieces."""
    for options in ([], ["--compress", "lz4"]):
        pid = start(["sleep", "1000"])
        wait_asleep(pid)
        assert move(tool, pid, workdir, split(random.Random(SEED)), options) == [(0, ""), (0, "")]
        wait_gone(pid)


@pytest.mark.parametrize("fault", ["cut", "flip"])
def test_fault_on_the_way(tool, start, workdir, fault):
    """At each border of frames, in each frame's length, and at random: both ends say so, and the program runs on where it was."""
    pid = start(["sleep", "1000"])
    wait_asleep(pid)
    StreamTool(tool).dump(pid, workdir, "-R")
    with open(f"{workdir}/{STREAM}", "rb") as f:
        raw = f.read()
    dice = random.Random(SEED)
    borders = borders_of(raw)[:-1]
    for at in borders + [at + LENGTH_AT + dice.randrange(3) for at in borders[1:]] + [dice.randrange(len(raw) - 64) for _ in range(CUTS)]:
        here, there = move(tool, pid, workdir, cut(at) if fault == "cut" else flip(at, dice.randrange(8)))
        assert there[0] == 1 and there[1].startswith("ferry restore: Error") and there[1].count("\n") == 1, (at, there)
        assert here[0] == 1 and here[1].startswith("ferry dump: Error: the stream's reader: ") and here[1].count("\n") == 1, (at, here)
        assert here[1].partition("reader: ")[2] in there[1], "the reader's own words"
        wait_asleep(pid)
    assert "TracerPid:\t0" in read_or_empty(f"/proc/{pid}/status") and tree_of(pid) == [pid]


def test_only_tried(tool, start, workdir):
    """It could be restored and was not: the program runs on."""
    pid = start(["sleep", "1000"])
    wait_asleep(pid)
    here, there = move(tool, pid, workdir, restore="--dry-run")
    assert there == (0, "") and here[0] == 1 and "a dry run" in here[1], here
    wait_asleep(pid)


def test_answer_is_lost(tool, start, workdir):
    """Nobody knows what became of it: the program runs on."""
    pid = start(["sleep", "1000"])
    wait_asleep(pid)
    ours, theirs = socket.socketpair()
    with subprocess.Popen(tool.command("dump", "-t", pid, "--stream"), stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE,
                          text=True) as dump:
        theirs.close()
        raw = bytearray()
        while not raw.endswith(SEAL_AT_END, 0, len(raw) - SEAL_BYTES + 8):
            more = ours.recv(65536)
            assert more, "the seal comes before the end"
            raw += more
        ours.close()
        assert dump.wait(60) == 1 and "did not say" in dump.stderr.read()
    frames_of(raw)
    wait_asleep(pid)


@pytest.mark.parametrize("end", ["reads on", "goes", "kills the dump", "goes, after Ctrl-Z"])
def test_reader_stalls(tool, start, workdir, end):
    """The program waits as long as the reader does, and no longer."""
    pid = start(["/usr/bin/python3", "-c", "import signal; memory = bytearray(range(256)) * 50000; signal.pause()"])
    wait_asleep(pid)
    read_end, write_end = os.pipe()
    with subprocess.Popen(dump_command(tool, pid, workdir), stdin=subprocess.DEVNULL, stdout=write_end, stderr=subprocess.PIPE,
                          text=True, process_group=0) as dump:
        os.close(write_end)
        wait_until(lambda: read_or_empty(f"/proc/{dump.pid}/syscall").startswith("20 "), "it waits in a write")
        assert stat_of(pid)[0] == "t"
        if end == "goes, after Ctrl-Z":
            dump.send_signal(signal.SIGTSTP)    # the program would stand until somebody thinks of it
        if end == "kills the dump":
            dump.kill()
            dump.wait()
        elif end == "reads on":
            with os.fdopen(os.dup(read_end), "rb") as f:
                frames_of(f.read())
        os.close(read_end)
        try:
            assert dump.wait(20) == {"reads on": 0, "kills the dump": -9}.get(end, 1), dump.stderr.read()
        finally:
            dump.kill()
    if end == "reads on":
        wait_gone(pid)
    else:
        wait_asleep(pid)


@pytest.mark.parametrize("what", ["/dev/zero", "/dev/urandom", "/etc", "/dev/null"])
def test_something_else(tool, what):
    for action in (["restore", "--stream", "-d"], ["show", "-"]):
        fd = os.open(what, os.O_RDONLY)
        done = subprocess.run(tool.command(*action), stdin=fd, capture_output=True, text=True, check=False, timeout=60)
        os.close(fd)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
