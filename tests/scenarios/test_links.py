# SPDX-License-Identifier: Apache-2.0
"""A chain whose links can't be written, or are not what they were: the program runs on, and what was whole comes back."""
import os
import resource
import shutil
import subprocess

import pytest

from changer import Links
from program import strangers
from trackers import need_tracker
from waiting import wait_until


@pytest.fixture
def links(tool, start, workdir):
    need_tracker(tool, "scan", "soft-dirty")
    return Links(tool, start, workdir)


@pytest.fixture
def small(workdir):
    """A directory with room for little."""
    path = f"{workdir}/small"
    os.mkdir(path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


# ---- no room ----

ACTIONS = {"pre-dump": (), "dump": ("-R", "--track-mem"), "last dump": ()}


@pytest.mark.parametrize("action", ACTIONS)
def test_disk_full_in_a_link(links, small, action):
    links.dump("a")
    links.program.change()
    os.mkdir(f"{small}/b")
    os.symlink(f"{small}/b", f"{links.workdir}/b")
    done = links.tool.run(action.split()[-1], "-D", f"{links.workdir}/b", "-t", links.pid, "--prev-images-dir", links.directory("a"), *ACTIONS[action])
    assert done.returncode == 1 and "No space left on device" in done.stderr
    links.program.change()
    links.dump("c", prev="a")
    links.program.change()
    assert links.dump("d") == ""
    links.all_come_back()


@pytest.mark.parametrize("action", ACTIONS)
def test_file_limit_in_a_link(links, action):
    links.dump("a")
    links.program.change()
    done = links.tool.run(action.split()[-1], "-D", links.directory("b"), "-t", links.pid, "--prev-images-dir", "../a", *ACTIONS[action],
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300 << 10, 300 << 10)))
    assert done.returncode == 1 and "File too large" in done.stderr
    links.program.change()
    links.dump("c", prev="a")
    links.all_come_back()


# ---- which one is meant ----

def test_absolute_parent(links):
    """The chain can be moved as a whole."""
    links.pre_dump("a")
    links.program.change()
    assert links.dump("b", "--prev-images-dir", links.directory("a"), prev=None) == ""
    assert os.readlink(f"{links.directory('b')}/parent") == "../a"
    links.end()
    os.mkdir(f"{links.workdir}/elsewhere")
    for name in "ab":
        os.rename(f"{links.workdir}/{name}", f"{links.workdir}/elsewhere/{name}")
    links.states["elsewhere/b"] = links.states["b"]
    links.comes_back("elsewhere/b")


@pytest.mark.parametrize("wrong, words", [("../nowhere", "no images in ../nowhere"), ("a", "is it ../a?"), ("/nowhere", "/nowhere"), (".", "own parent")])
def test_wrong_parent(links, wrong, words):
    """Nothing is lost by it."""
    links.pre_dump("a")
    links.program.change()
    links.pre_dump("b")
    done = links.tool.run("dump", "-D", "b", "-t", links.pid, "--track-mem", "-R", "--prev-images-dir", wrong, cwd=links.workdir) \
        if wrong == "." else links.tool.run("dump", "-D", links.directory("c"), "-t", links.pid, "--track-mem", "-R", "--prev-images-dir", wrong, cwd=links.workdir)
    assert done.returncode == 1 and words in done.stderr
    if wrong != ".":    # that one was written over
        assert links.dump("d", prev="b") == ""
        links.all_come_back()


def test_another_programs_link(links, tool, start, workdir):
    """On top of what another program had: a full dump, with a word."""
    os.mkdir(f"{workdir}/other")
    other = Links(tool, start, f"{workdir}/other")
    other.pre_dump("a")
    said = links.dump("b", prev="other/a")
    assert "it is of another program; this is a full dump" in said
    other.end_alone()
    links.all_come_back()


# ---- links that are not what they were ----

@pytest.fixture
def three(links):
    for name in "abc":
        links.program.change()
        links.dump(name)
    links.end()
    return links


def refused(links, name, words):
    done = links.tool.run("restore", "-D", links.directory(name), "-d")
    assert done.returncode == 1 and words in done.stderr, done.stderr
    wait_until(lambda: not strangers(), "there is no task")


def test_link_removed(three):
    os.rename(three.directory("b"), f"{three.workdir}/away")
    refused(three, "c", "parent")
    three.comes_back("a")
    os.rename(f"{three.workdir}/away", f"{three.workdir}/b")
    three.comes_back("c")


def test_link_replaced(three):
    """By another dump of the same program."""
    shutil.move(three.directory("b"), f"{three.workdir}/away")
    shutil.copytree(three.directory("a"), f"{three.workdir}/b", symlinks=True)
    refused(three, "c", "not the one that it was made on")


def test_link_made_anew(links):
    """The directory of an older link is written once more: what was on top of it is refused, what comes then is right."""
    links.dump("a")
    links.program.change()
    links.dump("b")
    links.program.change()
    links.dump("a", prev=None)
    links.program.change()
    assert links.dump("c", prev="a") == ""
    links.end()
    refused(links, "b", "not the one that it was made on")
    for name in "ac":
        links.comes_back(name)


def test_page_of_an_older_link_changed(three):
    path = next(f"{three.directory('a')}/{name}" for name in sorted(os.listdir(three.directory("a"))) if name.startswith("pages-"))
    with open(path, "r+b") as f:
        f.truncate(os.path.getsize(path) - 4096)
    refused(three, "c", "")
