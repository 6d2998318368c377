# SPDX-License-Identifier: Apache-2.0
"""
What works on directories of a chain alone: dedup, squash, show, and the restore's look at the chain. The chains are full
dumps of a program that changes its memory, made children of one another by tests/lib/chains.py.
"""
import os
import random
import re
import shutil
import signal
import subprocess
import time

import pytest

import paths
from changer import Changer, home_in
from chains import all_pages, disk_pages, entries_of, HERE, link_id_of, make_child, pagemaps_in, unseal, write_link
from program import end_tree
from waiting import gone, read_or_empty, wait_gone, wait_until

KILLS = int(os.environ.get("FERRY_KILLS", "1000")) // 25
FEW = 8         # blocks that a file system may count to a file for itself


class Chain:
    """links[0] is the oldest; states[i] what the program says when links[i] is restored."""

    def __init__(self, tool, start, workdir, count=3, ids=True):
        self.tool, self.program = tool, Changer(start, workdir)
        self.links = [f"{workdir}/{'abcdefgh'[i]}" for i in range(count)]
        self.states = []
        for link in self.links:
            self.states.append(self.program.change())
            tool.dump(self.program.pid, link, "-R")
        end_tree(self.program.pid)
        for i, link in enumerate(self.links):
            own_id, up_id = bytes([i + 1] * 16), bytes([i] * 16)
            if i:
                make_child(link, self.links[i - 1])
            if ids:
                write_link(link, own_id, up_id if i else None)
            else:
                os.unlink(f"{link}/ferry-link.img")
                unseal(link)

    @property
    def newest(self):
        return self.links[-1]

    def comes_back(self, directory, state, tool=None):
        assert (tool or self.tool).restore(directory) == self.program.pid
        assert self.program.ask() == state
        end_tree(self.program.pid)

    def refused(self, directory, words):
        done = self.tool.run("restore", "-D", directory, "-d")
        assert done.returncode == 1 and words in done.stderr, done.stderr
        assert gone(self.program.pid)


@pytest.fixture(autouse=True)
def only_ferry(tool):
    if not tool.is_ferry:
        pytest.skip("ferry's own commands")


@pytest.fixture
def chain(tool, start, workdir):
    return Chain(tool, start, workdir)


def dedup(chain):
    done = chain.tool.run("dedup", "-D", chain.newest)
    assert done.returncode == 0, done.stderr


# ---- dedup ----

def test_every_link_comes_back(chain):
    for link, state in zip(chain.links, chain.states):
        chain.comes_back(link, state)


def needed_of(chain, link):
    """Pages that the newest link reads out of `link`."""
    pages, up = 0, chain.links[chain.links.index(link) + 1:]
    for name in pagemaps_in(chain.newest):
        addresses = {a + i * 4096 for d in up[-1:] for a, n, _ in entries_of(d, name)[1] for i in range(n)}
        for newer in reversed(up):
            addresses -= {a + i * 4096 for a, n, flags in entries_of(newer, name)[1] if flags & HERE for i in range(n)}
        own = {a + i * 4096 for a, n, flags in entries_of(link, name)[1] if flags & HERE for i in range(n)}
        pages += len(addresses & own)
    return pages


def test_dedup(chain):
    before = all_pages(chain.newest)
    needed = [needed_of(chain, link) for link in chain.links[:-1]]
    full = disk_pages(chain.newest)
    dedup(chain)
    assert all_pages(chain.newest) == before
    for link, pages in zip(chain.links, needed):
        assert pages <= disk_pages(link) <= pages + FEW
    assert disk_pages(chain.newest) == full
    for link in chain.links[:-1]:
        chain.refused(link, "given up for a newer dump")
    chain.comes_back(chain.newest, chain.states[-1])
    assert chain.tool.run("dedup", "-D", chain.links[1]).returncode == 1


def test_peer_restores_what_dedup_left(chain, peer):
    dedup(chain)
    chain.comes_back(chain.newest, chain.states[-1], peer)


def test_dedup_without_ids(tool, start, workdir):
    chain = Chain(tool, start, workdir, ids=False)
    done = tool.run("dedup", "-D", chain.newest)
    assert done.returncode == 0 and "nothing will say so" in done.stderr
    chain.comes_back(chain.newest, chain.states[-1])


def test_killed_dedup(chain, workdir):
    """Whenever it dies: the newest link comes back, the others do or are refused, and the next one ends the work."""
    chance = random.Random(int(os.environ["FERRY_SEED"]))
    kept = f"{workdir}/kept"
    os.mkdir(kept)

    def fresh():
        for link in chain.links:
            shutil.rmtree(link, ignore_errors=True)
            shutil.copytree(f"{kept}/{os.path.basename(link)}", link, symlinks=True)
    for link in chain.links:
        os.rename(link, f"{kept}/{os.path.basename(link)}")
    fresh()
    whole = {link: all_pages(link) for link in chain.links}
    began = time.monotonic()
    dedup(chain)
    span = time.monotonic() - began
    left = [disk_pages(link) for link in chain.links]
    killed = 0
    for _ in range(KILLS):
        fresh()
        with subprocess.Popen(chain.tool.command("dedup", "-D", chain.newest), stdin=subprocess.DEVNULL) as process:
            time.sleep(chance.random() * span)
            process.kill()
            killed += process.wait() == -9
        for link in chain.links:
            if link is chain.newest or chain.tool.run("restore", "-D", link, "--dry-run").returncode == 0:
                assert all_pages(link) == whole[link]
        assert chain.tool.run("restore", "-D", chain.newest, "--dry-run").returncode == 0
        dedup(chain)
        assert all(abs(disk_pages(link) - pages) <= FEW for link, pages in zip(chain.links, left))
    assert killed > 0
    chain.comes_back(chain.newest, chain.states[-1])


# ---- show ----

def test_show(chain):
    a, b, c = chain.links
    reads = [needed_of(chain, link) for link in (a, b)]
    write_link(b, bytes([2] * 16), bytes([1] * 16), memory_only=True)
    said = chain.tool.run("show", c).stdout
    assert "\nChain: 3 links, " in said and "PROBLEM" not in said
    own = [sum(n for name in pagemaps_in(d) for _, n, flags in entries_of(d, name)[1] if flags & HERE) for d in chain.links]
    for words, pages, read in (("this directory: dump 03030303", own[2], own[2]), (r"\.\./b: pre-dump 02020202", own[1], reads[1]),
                               (r"\.\./a: dump 01010101", own[0], reads[0])):
        assert re.search(rf"^  {words}; {pages} pages here, .* on disk, {read} of them read$", said, re.M)
    dedup(chain)
    said = chain.tool.run("show", c).stdout
    assert re.search(rf"^  \.\./a: .* {reads[0]} of them read; gave up pages for 03030303$", said, re.M)
    assert "PROBLEM: its older pages were given up" in chain.tool.run("show", b).stdout
    assert "\nLink: dump 01010101\nPROBLEM: " in chain.tool.run("show", a).stdout
    os.rename(a, f"{a}.away")
    done = chain.tool.run("show", c)
    assert done.returncode == 0 and "../a is MISSING" in done.stdout


# ---- restore ----

def test_auto_dedup(chain):
    assert chain.tool.restore(chain.newest, "--auto-dedup") == chain.program.pid
    assert chain.program.ask() == chain.states[-1]
    end_tree(chain.program.pid)
    assert [disk_pages(link) for link in chain.links] == [0] * len(chain.links)
    for link in chain.links:
        chain.refused(link, "given up when it was restored (--auto-dedup)")


def test_auto_dedup_keeps_what_was_not_restored(chain, workdir):
    """The pidfile can't be written: the tasks are ended again, and the images are as before."""
    before = all_pages(chain.newest)
    done = chain.tool.run("restore", "-D", chain.newest, "-d", "--auto-dedup", "--pidfile", "/proc/self/pid")
    assert done.returncode == 1
    assert all_pages(chain.newest) == before
    done = chain.tool.run("restore", "-D", chain.newest, "--dry-run", "--auto-dedup")
    assert done.returncode == 0 and all_pages(chain.newest) == before


def test_broken_chains(chain, workdir):
    a, b, c = chain.links
    os.rename(a, f"{workdir}/z")
    chain.refused(c, "parent")
    shutil.copytree(f"{workdir}/z", a, symlinks=True)
    write_link(a, b"another dump's  ")
    chain.refused(c, "not the one that it was made on")
    write_link(a, bytes([1] * 16))
    os.unlink(f"{b}/parent")
    chain.refused(c, "its parent directory is missing")
    os.symlink("../c", f"{b}/parent")
    chain.refused(c, "does not end")
    os.unlink(f"{b}/parent")
    os.symlink("../a", f"{b}/parent")
    chain.comes_back(c, chain.states[-1])


def test_pre_dump_is_not_restored(chain):
    write_link(chain.newest, bytes([3] * 16), bytes([2] * 16), memory_only=True)
    chain.refused(chain.newest, "this is a pre-dump")


# ---- squash ----

def squash(chain, out, *options):
    done = chain.tool.run("squash", "-D", chain.newest, "-o", out, *options)
    assert done.returncode == 0, done.stderr


def test_squash(chain, workdir):
    out = f"{workdir}/out"
    squash(chain, out)
    before = all_pages(chain.newest)
    for link in chain.links:
        shutil.rmtree(link)
    assert all_pages(out) == before
    assert not os.path.lexists(f"{out}/parent") and os.path.exists(f"{out}/ferry-checksums.img")
    assert link_id_of(out) not in (bytes([i] * 16) for i in range(4))
    chain.comes_back(out, chain.states[-1])


def test_squash_in_the_middle(chain, workdir):
    """Any link will do, also after a dedup of it; what was above it stays."""
    done = chain.tool.run("dedup", "-D", chain.links[1])
    assert done.returncode == 0
    out = f"{workdir}/out"
    os.mkdir(out)
    assert chain.tool.run("squash", "-D", chain.links[1], "-o", out).returncode == 0
    chain.comes_back(out, chain.states[1])
    chain.comes_back(chain.newest, chain.states[-1])


def test_peer_restores_the_squashed(chain, peer, workdir):
    squash(chain, f"{workdir}/out")
    chain.comes_back(f"{workdir}/out", chain.states[-1], peer)


def test_squash_of_a_pre_dump(chain, workdir):
    write_link(chain.newest, bytes([3] * 16), bytes([2] * 16), memory_only=True)
    squash(chain, f"{workdir}/out")
    assert all_pages(f"{workdir}/out") == all_pages(chain.newest)
    chain.refused(f"{workdir}/out", "this is a pre-dump")


def test_squash_refuses(chain, workdir):
    run = chain.tool.run
    done = run("squash", "-D", chain.newest)
    assert done.returncode == 1 and "-o OUT" in done.stderr
    done = run("squash", "-D", chain.newest, "-o", chain.links[0])
    assert done.returncode == 1 and "is not empty" in done.stderr
    done = run("squash", "-D", workdir, "-o", f"{workdir}/out")
    assert done.returncode == 1 and "no (whole) dump" in done.stderr
    os.unlink(f"{chain.links[1]}/parent")
    done = run("squash", "-D", chain.newest, "-o", f"{workdir}/out")
    assert done.returncode == 1 and "parent" in done.stderr
    assert not os.path.exists(f"{workdir}/out")


def test_squash_onto_a_full_disk(chain, workdir):
    small = f"{workdir}/small"
    os.mkdir(small)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        done = chain.tool.run("squash", "-D", chain.newest, "-o", f"{small}/out")
        assert done.returncode == 1 and "No space left on device" in done.stderr
        assert os.listdir(small) == []
        os.mkdir(f"{small}/out")
        assert chain.tool.run("squash", "-D", chain.newest, "-o", f"{small}/out").returncode == 1
        assert os.listdir(f"{small}/out") == []
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_squash_is_interrupted(chain, workdir, sig):
    out = f"{workdir}/out"
    with subprocess.Popen(chain.tool.command("squash", "-D", chain.newest, "-o", out), stdin=subprocess.DEVNULL) as process:
        wait_until(lambda: os.path.exists(out) or process.poll() is not None, "it has begun")
        process.send_signal(sig)
        status = process.wait()
    assert status == -sig and not os.path.exists(out) or status == 0


def test_squash_finds_a_signal(chain, workdir):
    """One that is there from the start, and stays blocked: found, told, and OUT is gone."""
    def come_before():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        os.kill(os.getpid(), signal.SIGTERM)
    done = chain.tool.run("squash", "-D", chain.newest, "-o", f"{workdir}/out", preexec_fn=come_before)
    assert done.returncode == 1 and "interrupted" in done.stderr and not os.path.exists(f"{workdir}/out")


# ---- what tasks share ----

class Cow:
    """A tree whose tasks share pages, which they look at themselves."""
    def __init__(self, start, workdir):
        self.status = f"{home_in(workdir)}/status"
        self.pid = start([paths.program("resources", "cow"), self.status])
        self.wait_for("ready\n")

    def wait_for(self, word):
        text = wait_until(lambda: (text := read_or_empty(self.status)).endswith(word) and text, f"it says {word!r}", 30)
        assert "FAIL" not in text, text

    def check(self, round_):
        with open(self.status, "w"):
            pass
        os.kill(self.pid, signal.SIGUSR1)
        self.wait_for(f" {round_}\n")


def test_shared_pages_stay_shared(tool, peer, start, workdir):
    """A link whose tasks share pages (DIR/cow), a child of it, dedup, squash; ferry and the peer restore each."""
    program = Cow(start, workdir)
    a, b, out = (f"{workdir}/{name}" for name in "abo")
    tool.dump(program.pid, a, "-R")
    program.check(1)
    tool.dump(program.pid, b)
    wait_gone(program.pid)
    shutil.copytree(a, f"{workdir}/alone", symlinks=True)
    make_child(b, a)
    write_link(a, bytes([1] * 16))
    write_link(b, bytes([2] * 16), bytes([1] * 16))
    pages = all_pages(b)
    assert tool.run("dedup", "-D", b).returncode == 0
    assert all_pages(b) == pages
    assert tool.run("squash", "-D", b, "-o", out).returncode == 0
    assert all_pages(out) == pages
    assert disk_pages(out) < disk_pages(f"{workdir}/alone") * 1.1
    for directory, restorer in ((b, tool), (out, tool), (b, peer), (out, peer)):
        assert restorer.restore(directory) == program.pid
        program.check(2)
        end_tree(program.pid)
