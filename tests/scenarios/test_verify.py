# SPDX-License-Identifier: Apache-2.0
"""
Checksums of pages. A byte of a page that is not what was dumped is found by verify, which tells all of them, and by the
restore, which leaves no task; what was given up for a newer link is no damage.
"""
import itertools
import os
import re
import shutil
import zlib

import pytest

import paths
from board import Board
from changer import Changer, Links
from chains import PAGE, entries_of, pagemaps_in, read_bytes, unseal, write_bytes
from program import end_tree, strangers
from waiting import wait_asleep, wait_gone, wait_until

GOOD, BROKEN, UNKNOWN = 0, 1, 2
SUMMARY = re.compile(r"^(\d+) links?, (\d+) images?, ([\d,]+) pages?( \(.* given up, and not needed\))?: (.*)$")


@pytest.fixture(autouse=True)
def only_ferry(tool):
    if not tool.is_ferry:
        pytest.skip("ferry's own commands")


def verify(tool, directory, status):
    """What it says of single files, and (links, images, pages, given up, verdict)."""
    done = tool.run("verify", directory)
    assert done.returncode == status, done.stdout + done.stderr
    *lines, last = done.stdout.splitlines()
    links, images, pages, given_up, verdict = SUMMARY.match(last).groups()
    assert verdict.startswith({GOOD: "good", BROKEN: "BROKEN", UNKNOWN: "good, as far as"}[status])
    return lines, (int(links), int(images), int(pages.replace(",", "")), given_up, verdict)


def flip(path, offset):
    with open(path, "r+b") as f:
        f.seek(offset)
        byte = f.read(1)[0]
        f.seek(offset)
        f.write(bytes([byte ^ 0x10]))


def pages_files(directory):
    return sorted(name for name in os.listdir(directory) if name.startswith("pages-"))


def pages_in(directory):
    """Each file once, however many names it has."""
    files = {os.stat(f"{directory}/{name}").st_ino: os.path.getsize(f"{directory}/{name}") for name in pages_files(directory)}
    return sum(files.values()) // PAGE


def somewhere_in_data(directory, nth=0):
    """(path, offset) in the nth page that a whole dump has of the program's own data: the most in a row that can't be packed."""
    pages_id, _ = entries_of(directory, next(name for name in pagemaps_in(directory) if "shmem" not in name))
    path = f"{directory}/pages-{pages_id}.img"
    raw = read_bytes(path)
    random = [len(zlib.compress(raw[at:at + PAGE], 1)) > PAGE - 96 for at in range(0, len(raw), PAGE)]
    runs = [list(run) for packs, run in itertools.groupby(range(len(random)), lambda page: not random[page]) if not packs]
    return path, max(runs, key=len)[nth] * PAGE + 2077


@pytest.fixture
def dumped(tool, start, workdir):
    """A program with 4 MiB of data, dumped into `images`, and no more."""
    program = Changer(start, workdir)
    tool.dump(program.pid, f"{workdir}/images")
    wait_gone(program.pid)
    program.images, program.dumped_state = f"{workdir}/images", program.state
    return program


def refused(tool, directory, *words):
    done = tool.run("restore", "-D", directory, "-d")
    assert done.returncode == 1 and all(word in done.stderr for word in words), done.stderr
    wait_until(lambda: not strangers(), "no task is left", 5)


# ---- one directory ----

def test_good(tool, dumped):
    lines, (links, images, pages, given_up, _) = verify(tool, dumped.images, GOOD)
    assert not lines and not given_up and links == 1 and pages == pages_in(dumped.images)
    assert images == len([name for name in os.listdir(dumped.images)
                          if name.endswith(".img") and not name.startswith("pages-") and name != "ferry-checksums.img"])
    assert all(e.stat().st_mode & 0o777 == 0o600 for e in os.scandir(dumped.images) if e.name.endswith(".img"))
    assert tool.restore(dumped.images) == dumped.pid
    assert dumped.ask() == dumped.dumped_state


def test_by_option_and_from_within(tool, dumped):
    assert tool.run("verify", "-D", dumped.images).returncode == GOOD
    assert tool.run("verify", cwd=dumped.images).returncode == GOOD


def test_flipped_byte(tool, dumped):
    path, offset = somewhere_in_data(dumped.images)
    flip(path, offset)
    name, page = os.path.basename(path), f"offset {offset - offset % PAGE} "
    lines, _ = verify(tool, dumped.images, BROKEN)
    assert len(lines) == 1 and name in lines[0] and page in lines[0]
    refused(tool, dumped.images, name, page, "does not match its checksum")
    assert tool.restore(dumped.images, "--no-verify") == dumped.pid
    assert dumped.ask() != dumped.dumped_state     # it is what is there, and it runs


def test_every_page_in_turn(tool, dumped):
    """Of a sample, the first and the last among them; each alone, and all of them together."""
    path = f"{dumped.images}/{pages_files(dumped.images)[0]}"
    last = os.path.getsize(path) // PAGE - 1
    pages = [0, 1, 127, 128, last // 2, last]
    for page in pages:
        flip(path, page * PAGE + PAGE - 1)
        lines, _ = verify(tool, dumped.images, BROKEN)
        assert f"offset {page * PAGE} " in lines[0] and "more" not in lines[0]
        flip(path, page * PAGE + PAGE - 1)
    verify(tool, dumped.images, GOOD)
    for page in pages:
        flip(path, page * PAGE)
    lines, _ = verify(tool, dumped.images, BROKEN)
    assert len(lines) == 1 and "offset 0 " in lines[0] and f"nor do {len(pages) - 1} more" in lines[0]


def test_all_that_is_broken_is_told(tool, dumped):
    first, second = pages_files(dumped.images)[:2]
    for name in (first, second, "inventory.img"):
        flip(f"{dumped.images}/{name}", 9)
    write_bytes(f"{dumped.images}/core-77.img", b"stranger")
    os.unlink(f"{dumped.images}/pstree.img")
    lines, _ = verify(tool, dumped.images, BROKEN)
    assert len(lines) == 5
    for name in (first, second, "inventory.img", "core-77.img", "pstree.img"):
        assert sum(f": BROKEN: {name}: " in line for line in lines) == 1, lines


@pytest.mark.parametrize("size", [0, -PAGE, -1, 1, PAGE])
def test_another_size(tool, dumped, size):
    path = f"{dumped.images}/{pages_files(dumped.images)[0]}"
    os.truncate(path, os.path.getsize(path) + size if size else 0)
    lines, _ = verify(tool, dumped.images, BROKEN)
    word = "longer" if size > 0 else "shorter"
    assert any(os.path.basename(path) in line and word in line for line in lines), lines
    refused(tool, dumped.images, os.path.basename(path), word)


def test_lost_pages_file(tool, dumped):
    name = pages_files(dumped.images)[0]
    os.unlink(f"{dumped.images}/{name}")
    lines, _ = verify(tool, dumped.images, BROKEN)
    assert all(f"{name}" in line and "is missing" in line for line in lines) and lines


@pytest.mark.parametrize("how", ["flipped", "cut", "missing", "of another file"])
def test_broken_sums(tool, dumped, how):
    """They are images like others: covered by ferry-checksums.img; without that too nothing wrong is restored."""
    path, other = (f"{dumped.images}/ferry-{name}" for name in pages_files(dumped.images)[:2])
    if how == "flipped":
        flip(path, os.path.getsize(path) // 2)
    elif how == "cut":
        os.truncate(path, os.path.getsize(path) - 8)
    elif how == "missing":
        os.unlink(path)
    else:
        shutil.copy(other, path)
    lines, _ = verify(tool, dumped.images, BROKEN)
    assert os.path.basename(path) in lines[0]
    refused(tool, dumped.images, os.path.basename(path))
    os.unlink(f"{dumped.images}/ferry-checksums.img")
    verify(tool, dumped.images, UNKNOWN if how == "missing" else BROKEN)
    if how != "missing":
        refused(tool, dumped.images, os.path.basename(path).replace("ferry-", ""))
    assert tool.restore(dumped.images, "--no-verify") == dumped.pid
    assert dumped.ask() == dumped.dumped_state


def test_no_checksums(tool, dumped):
    """An older ferry's directory has none of pages."""
    unseal(dumped.images)
    lines, (_, images, pages, _, _) = verify(tool, dumped.images, UNKNOWN)
    assert images == pages == 0 and len(lines) == 1 + len(pages_files(dumped.images))
    assert all("no checksums" in line for line in lines)
    path, offset = somewhere_in_data(dumped.images)
    flip(path, offset)
    assert tool.restore(dumped.images) == dumped.pid


def test_broken_image_is_passed_over(tool, dumped):
    """--no-verify: a byte that means nothing to the restore."""
    write_bytes(f"{dumped.images}/cpuinfo-99.img", b"")
    write_bytes(f"{dumped.images}/core-99.img", b"stranger")
    refused(tool, dumped.images, "core-99.img")
    done = tool.run("restore", "-D", dumped.images, "-d", "--no-verify", "--auto-dedup")
    assert done.returncode == 1 and "not both" in done.stderr
    assert tool.restore(dumped.images, "--no-verify") == dumped.pid
    assert dumped.ask() == dumped.dumped_state


def test_nothing_to_verify(tool, workdir):
    for directory in (f"{workdir}/none", workdir):
        done = tool.run("verify", directory)
        assert done.returncode == 1 and done.stdout == "" and directory in done.stderr
    assert tool.run("verify", workdir, workdir).returncode == 1


def test_leftovers_of_another_dump(tool, start, workdir):
    """Sums that an earlier dump left are not taken for those of a new one."""
    images = f"{workdir}/images"
    program = Changer(start, workdir)
    tool.dump(program.pid, images, "-R")
    before = len(pages_files(images))
    shutil.copy(f"{images}/ferry-{pages_files(images)[0]}", f"{images}/ferry-pages-77.img")
    end_tree(program.pid)
    sleep = start(["sleep", "1000"])
    wait_asleep(sleep)
    tool.dump(sleep, images)
    wait_gone(sleep)
    assert before > 1 and {f"ferry-{n}" for n in pages_files(images)} == {n for n in os.listdir(images) if n.startswith("ferry-pages-")}
    verify(tool, images, GOOD)
    assert tool.restore(images) == sleep


def test_peers_directory(tool, peer, start, workdir):
    """CRIU's has none: verify says so."""
    sleep = start(["sleep", "1000"])
    wait_asleep(sleep)
    peer.dump(sleep, f"{workdir}/images", "--shell-job")
    wait_gone(sleep)
    lines, (_, images, pages, _, _) = verify(tool, f"{workdir}/images", UNKNOWN)
    assert images == pages == 0 and any("no checksums" in line for line in lines)
    assert tool.restore(f"{workdir}/images", "--shell-job") == sleep


def test_peer_restores(tool, peer, dumped):
    """It passes the sums over."""
    assert peer.restore(dumped.images) == dumped.pid
    assert dumped.ask() == dumped.dumped_state
    verify(tool, dumped.images, GOOD)


# ---- pages that tasks share ----

def test_shared_pages(tool, start, workdir):
    out, images = f"{workdir}/out", f"{workdir}/images"
    pid = start([paths.program("scenarios", "tree")], cwd=workdir, out=out)
    Board(workdir, 4, out).wait_growth()
    tool.dump(pid, images)
    wait_gone(pid)
    assert os.path.isdir(f"{images}/cow")
    lines, (links, _, pages, _, _) = verify(tool, images, GOOD)
    assert not lines and links == 1 and pages == pages_in(images)
    lender = pages_files(f"{images}/cow")[0]
    assert os.path.samefile(f"{images}/{lender}", f"{images}/cow/{lender}")
    assert os.path.samefile(f"{images}/ferry-{lender}", f"{images}/cow/ferry-{lender}")
    shutil.copytree(images, f"{workdir}/copy", symlinks=True)
    verify(tool, f"{workdir}/copy", GOOD)
    flip(f"{images}/{lender}", PAGE)
    lines, _ = verify(tool, images, BROKEN)
    assert len(lines) == 1 and lender in lines[0]
    flip(f"{workdir}/copy/cow/{lender}", PAGE)
    lines, _ = verify(tool, f"{workdir}/copy", BROKEN)
    assert len(lines) == 1 and f"copy/cow: BROKEN: {lender}" in lines[0]
    refused(tool, images, lender)


# ---- chains ----

@pytest.fixture
def links(tool, start, workdir):
    """A pre-dump, a dump on top of it, a dump on top of that."""
    chain = Links(tool, start, workdir)
    chain.pre_dump("a", prev=None)
    chain.program.change()
    chain.dump("b")
    chain.program.change()
    chain.dump("c")
    chain.end()
    return chain


def count_own(links, names):
    return sum(pages_in(links.directory(name)) for name in names)


def test_chain(tool, links):
    for name in "abc":
        lines, (count, _, pages, given_up, _) = verify(tool, links.directory(name), GOOD)
        up = "abc"[:"abc".index(name) + 1]
        assert not lines and not given_up and count == len(up) and pages == count_own(links, up)
    path, offset = somewhere_in_data(links.directory("a"))
    flip(path, offset)
    flip(f"{links.directory('b')}/{pages_files(links.directory('b'))[0]}", 5)
    lines, _ = verify(tool, links.directory("c"), BROKEN)
    assert len(lines) == 2
    for name, line in zip("ba", lines):
        assert line.startswith(f"{os.path.realpath(links.directory(name))}: BROKEN: pages-"), lines
    flip(f"{links.directory('b')}/{pages_files(links.directory('b'))[0]}", 5)
    refused(tool, links.directory("c"), "of the chain", "does not match its checksum")
    flip(f"{links.directory('a')}/inventory.img", 9)        # a parent's images are passed over as well
    assert tool.restore(links.directory("c"), "--no-verify") == links.pid
    assert links.program.ask() != links.states["c"]


def test_broken_chain(tool, links):
    os.rename(links.directory("a"), f"{links.workdir}/elsewhere")
    lines, _ = verify(tool, links.directory("c"), BROKEN)
    assert any("parent" in line for line in lines)
    shutil.copytree(links.directory("b"), f"{links.workdir}/a", symlinks=True)
    lines, _ = verify(tool, links.directory("c"), BROKEN)
    assert lines


def test_after_dedup(tool, links):
    assert tool.run("dedup", "-D", links.directory("c")).returncode == 0
    lines, (count, _, _, given_up, _) = verify(tool, links.directory("c"), GOOD)
    assert not lines and count == 3 and given_up
    for name in "ab":       # they are readable through c alone
        lines, _ = verify(tool, links.directory(name), BROKEN)
        assert "deduplication" in lines[0]
    # a copy fills the holes
    for name in "abc":
        shutil.copytree(links.directory(name), f"{links.workdir}/copy/{name}", symlinks=True)
    lines, (_, _, _, again, _) = verify(tool, f"{links.workdir}/copy/c", GOOD)
    assert not lines and again == given_up
    links.comes_back("c")


def test_a_hole_that_is_damage(tool, links):
    """Zeros that nobody gave up, in a link that gave up nothing; and in one that did, where this chain reads."""
    for deduplicated in (False, True):
        if deduplicated:
            assert tool.run("dedup", "-D", links.directory("c")).returncode == 0
        path, offset = somewhere_in_data(links.directory("a"), nth=1)
        page = offset - offset % PAGE
        raw = read_bytes(path)
        while raw[page:page + PAGE] == bytes(PAGE):     # given up: the next is read
            page += PAGE
        write_bytes(path, raw[:page] + bytes(PAGE) + raw[page + PAGE:])
        lines, _ = verify(tool, links.directory("c"), BROKEN)
        assert len(lines) == 1 and f"offset {page} " in lines[0]
        refused(tool, links.directory("c"), f"offset {page} ")
        with open(path, "r+b") as f:
            f.seek(page)
            f.write(raw[page:page + PAGE])


def test_zeros_that_nobody_reads(tool, links):
    """A page that b has anew, gone from a: damage (a is no more what it was), until a has given it up."""
    path, offset = somewhere_in_data(links.directory("a"), nth=3)      # the first change's
    with open(path, "r+b") as f:
        f.seek(offset - offset % PAGE)
        f.write(bytes(PAGE))
    lines, _ = verify(tool, links.directory("c"), BROKEN)
    assert len(lines) == 1 and f"offset {offset - offset % PAGE} " in lines[0]
    assert tool.run("dedup", "-D", links.directory("c")).returncode == 0
    assert verify(tool, links.directory("c"), GOOD)[1][3]
    flip(path, offset)      # but anything else than zeros is damage for ever
    verify(tool, links.directory("c"), BROKEN)
    links.comes_back("c")


def test_after_squash(tool, links):
    out = f"{links.workdir}/out"
    assert tool.run("squash", "-D", links.directory("c"), "-o", out).returncode == 0
    lines, (count, _, pages, _, _) = verify(tool, out, GOOD)
    assert not lines and count == 1 and pages == pages_in(out)
    assert sorted(n for n in os.listdir(out) if n.startswith("ferry-pages-")) == [f"ferry-{name}" for name in pages_files(out)]
    links.states["out"] = links.states["c"]
    links.comes_back("out")


def test_squash_of_a_broken_chain(tool, links):
    """What is broken gets no new sums that say it is good."""
    path, offset = somewhere_in_data(links.directory("a"), nth=1)
    flip(path, offset)
    done = tool.run("squash", "-D", links.directory("c"), "-o", f"{links.workdir}/out")
    if done.returncode == 0:        # nobody reads that page any more
        verify(tool, f"{links.workdir}/out", GOOD)
        pytest.fail("the page should be one that is read")
    assert "does not match its checksum" in done.stderr and not os.path.exists(f"{links.workdir}/out")


def test_background(tool, start, workdir):
    program = Changer(start, workdir)
    tool.dump(program.pid, f"{workdir}/images", "-R", "--background-or-stop")
    end_tree(program.pid)
    verify(tool, f"{workdir}/images", GOOD)
