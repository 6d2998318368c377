# SPDX-License-Identifier: Apache-2.0
"""
What trackers must survive, a row each (tracked/tracked.h): memory is filled, a link is taken, memory changes, links are
taken; lives that begin with them have what the program knows.
"""
import mmap
import os
import struct
import subprocess
import time

import pytest

import paths
from images import dump_stats
from program import end_tree
from trackers import has_tracker
from waiting import read_or_empty, wait_gone, wait_until

PROGRAM = paths.program("scenarios/tracked", "tracked")
WRONG, DONE, GO, SKIP, KID = range(5)
BOARD_BYTES = 512 * 8
PAGE, FILE_PAGES = 4096, 256
MANY = 1 << 64
# Rows that are no chain, and where a program begins again.
NOT_HERE = {"after-exec", "filtered"}


def rows():
    if not os.path.exists(PROGRAM):
        return []
    return [row for row in subprocess.run([PROGRAM], capture_output=True, text=True, check=True).stdout.split() if row not in NOT_HERE]


def disk_file():
    """On the disk of the build: a tmpfs only says that it reads past the page cache."""
    path = os.path.join(os.path.dirname(PROGRAM), "numbered")
    if not os.path.exists(path):
        with open(f"{path}.{os.getpid()}", "wb") as f:
            for i in range(FILE_PAGES):
                f.write(struct.pack("<Q504x", ((i + 1) * 0x9e3779b97f4a7c15 + 1) % MANY) * 8)
        os.rename(f.name, path)
    return path


class Row:
    def __init__(self, tool, start, workdir, name, tracker):
        self.tool, self.workdir, self.options = tool, workdir, ("--tracker", tracker)
        self.home = f"{workdir}/home"
        os.mkdir(self.home)
        with open(f"{self.home}/board", "w+b") as f:
            f.truncate(BOARD_BYTES)
            self.board = memoryview(mmap.mmap(f.fileno(), BOARD_BYTES)).cast("Q")
        self.out = f"{self.home}/out"
        self.pid = start([PROGRAM, name, disk_file()], cwd=self.home, out=self.out)
        self.wait_done(1)

    def wait_done(self, stage):
        def done():
            if self.board[SKIP]:
                pytest.skip(read_or_empty(self.out))
            assert not self.board[WRONG] and os.path.exists(f"/proc/{self.pid}"), read_or_empty(self.out)[:2000]
            return self.board[DONE] >= stage
        wait_until(done, f"stage {stage} is reached")

    def go(self, stage):
        self.board[GO] = stage
        self.wait_done(stage + 1)

    def take(self, action, name, *options, prev=None):
        directory = f"{self.workdir}/{name}"
        os.makedirs(directory)
        self.tool.run_well(action, directory, "-t", self.pid, *self.options, *options, *(["--prev-images-dir", f"../{prev}"] if prev else []))

    def pages(self, name):
        return dump_stats(f"{self.workdir}/{name}")["pages_written"]

    def comes_back(self, name):
        self.board[GO], self.board[DONE], self.board[KID] = 1, 2, min(self.board[KID], 2)
        assert self.tool.restore(f"{self.workdir}/{name}") == self.pid
        self.go(2)
        end_tree(self.pid)


def chain_of(row):
    """Changed and dumped on top of a pre-dump; the same again with nothing done between."""
    row.take("pre-dump", "a")
    row.go(1)
    row.take("dump", "b", "-R", "--track-mem", prev="a")
    row.take("pre-dump", "c", prev="b")
    row.take("dump", "d", prev="c")
    wait_gone(row.pid)
    row.comes_back("d")
    row.comes_back("b")


@pytest.fixture(params=["scan", "soft-dirty", "none"])
def tracker(request, tool):
    if not tool.is_ferry or not has_tracker(tool, request.param):
        pytest.skip(f"no {request.param} here")
    return request.param


@pytest.mark.parametrize("name", rows())
def test_row(tool, start, workdir, tracker, name):
    chain_of(Row(tool, start, workdir, name, tracker))


def page_tables_kib(pid):
    return next(int(line.split()[1]) for line in read_or_empty(f"/proc/{pid}/status").splitlines() if line.startswith("VmPTE"))


def test_sparse_stays_sparse(tool, start, workdir, tracker):
    """32 GiB with a few pages in them: no page tables are made for the rest, and nobody walks through it."""
    row = Row(tool, start, workdir, "sparse", tracker)
    before, began = page_tables_kib(row.pid), time.monotonic()
    row.take("pre-dump", "a")
    row.take("pre-dump", "b", prev="a")
    assert time.monotonic() - began < 5
    assert page_tables_kib(row.pid) < before + 1024
    assert row.pages("a") < 1000


def test_only_what_changed(tool, start, workdir, tracker):
    """A thousand pages, eleven of them written: a link on top has these and a few of the program's own."""
    row = Row(tool, start, workdir, "writes", tracker)
    row.take("pre-dump", "a")
    row.go(1)
    row.take("pre-dump", "b", prev="a")
    assert row.pages("a") > 1000 and row.pages("b") < 60


def test_a_filter_is_respected(tool, start, workdir, tracker):
    """It ends the program for the call that makes a userfaultfd: nobody makes it."""
    row = Row(tool, start, workdir, "filtered", tracker)
    row.take("pre-dump", "a")
    row.go(1)
    os.mkdir(f"{workdir}/b")
    done = tool.run("dump", "-D", f"{workdir}/b", "-t", row.pid, *row.options, "--track-mem", "-R", "--prev-images-dir", "../a")
    assert done.returncode == 1 and "seccomp" in done.stderr
    row.go(2)


@pytest.fixture
def swap():
    """A file to swap to, where that can be had."""
    path = f"{os.path.dirname(PROGRAM)}/swap.{os.getpid()}"
    with open(path, "wb") as f:
        os.posix_fallocate(f.fileno(), 0, 32 << 20)
    os.chmod(path, 0o600)
    try:
        for command in (["mkswap", path], ["swapon", path]):
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            except FileNotFoundError as e:
                pytest.skip(str(e))
            if done.returncode:
                pytest.skip(f"no swap here: {done.stderr.strip()}")
        yield
        subprocess.run(["swapoff", path], check=True)
    finally:
        os.unlink(path)


def swapped_kib(pid):
    return next(int(line.split()[1]) for line in read_or_empty(f"/proc/{pid}/status").splitlines() if line.startswith("VmSwap"))


def test_swapped_out(tool, start, workdir, swap, tracker):  # pylint: disable=unused-argument,redefined-outer-name
    row = Row(tool, start, workdir, "paged-out", tracker)
    assert swapped_kib(row.pid) > 1000
    chain_of(row)
