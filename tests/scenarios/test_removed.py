# SPDX-License-Identifier: Apache-2.0
"""
Removed files that are open or mapped: their contents travel in images (ghost files). Whatever stands in their way at
restore, nothing that exists is touched, and nothing is left behind.
"""
import fcntl
import os
import random
import subprocess

import pytest

import paths
import program
from test_broken import assert_refused, crit_edit, error_of, first, no_tasks, restore, without_checksums
from waiting import wait_asleep, wait_gone, wait_until

CONTENT = random.Random(7).randbytes(100_000)
FIRST = 10      # the number of the program's first descriptor


class Holder:
    """A program that opens things in `place` by `code`, and the images of it."""

    def __init__(self, tool, start, workdir, code, place="place"):
        self.tool, self.place, self.images = tool, os.path.join(workdir, place), os.path.join(workdir, "images")
        os.makedirs(self.place, exist_ok=True)
        with open(os.path.join(self.place, "content"), "wb") as f:
            f.write(CONTENT)
        setup = "import mmap, os, signal\ndef at(n, fd):\n    os.dup2(fd, n)\n    os.close(fd)\n"
        self.pid = start(["/usr/bin/python3", "-c", setup + code + "\nsignal.pause()"], cwd=self.place, out=f"{workdir}/said")
        wait_asleep(self.pid)

    def dump(self, *options):
        self.tool.dump(self.pid, self.images, *options)
        if "-R" not in options:
            wait_gone(self.pid)

    def restore(self):
        assert self.tool.restore(self.images) == self.pid
        wait_asleep(self.pid)

    def live(self):
        """Once round; nothing new is in the directories."""
        before = self.names()
        self.dump()
        self.restore()
        assert self.names() == before

    def names(self):
        return sorted(os.path.join(top, name) for top, dirs, files in os.walk(self.place) for name in dirs + files)

    def link(self, fd=FIRST):
        return os.readlink(f"/proc/{self.pid}/fd/{fd}")

    def flags(self, fd=FIRST):
        with open(f"/proc/{self.pid}/fdinfo/{fd}") as f:
            return next(int(line.split()[1], 8) for line in f if line.startswith("flags:"))

    def content(self, fd=FIRST):
        with open(f"/proc/{self.pid}/fd/{fd}", "rb") as f:
            return f.read()


OPEN = f"at({FIRST}, os.open('content', os.O_RDWR))\n"


@pytest.fixture
def disk(workdir):
    """A tmpfs of 160 KiB and 12 inodes in workdir/place."""
    path = os.path.join(workdir, "place")
    os.mkdir(path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k,nr_inodes=12", "none", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def test_disk_is_full(tool, start, workdir, disk):
    """Neither all nor some of it fits."""
    holder = Holder(tool, start, workdir, OPEN + "os.unlink('content')")
    holder.dump()
    for kib in (160, 100):
        with open(f"{disk}/full", "wb") as f:
            f.write(bytes(kib << 10))
        assert_refused(restore(tool, holder.images), "No space left on device")
        assert os.listdir(disk) == ["full"]
    os.unlink(f"{disk}/full")
    holder.restore()
    assert holder.content() == CONTENT


DEEP = "os.makedirs('a/b/c/d'); os.rename('content', 'a/b/c/d/file')\n"
DEEP_GONE = "os.unlink('a/b/c/d/file'); os.removedirs('a/b/c/d')"


def test_no_room_for_directories(tool, start, workdir, disk):
    """Some of those that are gone can be made, and go again."""
    holder = Holder(tool, start, workdir, f"{DEEP}at({FIRST}, os.open('a/b/c/d/file', os.O_RDWR)); open('keep', 'w'); {DEEP_GONE}")
    holder.dump()
    for n in range(8):
        os.mkdir(f"{disk}/{n}")
    before = holder.names()
    assert_refused(restore(tool, holder.images), "a/b")
    assert holder.names() == before
    os.rmdir(f"{disk}/7")
    os.rmdir(f"{disk}/6")
    os.rmdir(f"{disk}/5")
    holder.restore()
    assert holder.content() == CONTENT
    assert holder.link() == f"{disk}/a/b/c/d/file (deleted)"


# how it is opened, what is done to it then; each was lost or broken
NAMELESS = {
    "append": ("os.O_RDWR | os.O_APPEND", f"os.write({FIRST}, b'x' * 10); os.ftruncate({FIRST}, 1 << 20)", None),
    "direct": ("os.O_RDWR | os.O_DIRECT", f"os.ftruncate({FIRST}, 10)", None),
    "not followed": ("os.O_WRONLY | os.O_NOFOLLOW", f"os.write({FIRST}, b'y' * 5000)", None),
    "write only": ("os.O_WRONLY", f"os.write({FIRST}, b'y' * 5000)", None),
    "directory gone": ("os.O_RDWR", f"os.write({FIRST}, b'z'); os.rmdir('gone/deep'); os.rmdir('gone')", "gone/deep"),
    "of two": ("os.O_WRONLY | os.O_APPEND", f"os.write({FIRST}, b'x' * 10); at({FIRST + 1}, os.open('/proc/self/fd/{FIRST}', os.O_RDWR))", None),
    "second of two": ("os.O_WRONLY | os.O_APPEND",
                      f"os.write({FIRST}, b'x' * 10); at({FIRST - 1}, os.open('/proc/self/fd/{FIRST}', os.O_RDONLY))", None),
}


@pytest.mark.parametrize("what", NAMELESS)
def test_nameless(tool, start, workdir, what):
    """O_TMPFILE."""
    flags, work, where = NAMELESS[what]
    code = f"os.makedirs('{where}')\n" if where else ""
    holder = Holder(tool, start, workdir, code + f"at({FIRST}, os.open('{where or '.'}', os.O_TMPFILE | {flags}, 0o640))\n{work}")
    before = holder.flags(), holder.content(), os.stat(f"/proc/{holder.pid}/fd/{FIRST}")
    holder.live()
    after = holder.flags(), holder.content(), os.stat(f"/proc/{holder.pid}/fd/{FIRST}")
    if what == "second of two":     # made by its first, under a name
        before, after = before[1:], after[1:]
    else:
        assert before[0] == after[0]
    assert before[-2] == after[-2]
    assert (before[-1].st_mode, before[-1].st_mtime_ns // 1000, before[-1].st_blocks) == \
           (after[-1].st_mode, after[-1].st_mtime_ns // 1000, after[-1].st_blocks)
    assert (os.path.dirname(holder.link()), holder.link()[-10:]) == (os.path.join(holder.place, where or "").rstrip("/"), " (deleted)")


def test_all_ways_to_hold(tool, start, workdir):
    """Read only, write only, a path only, mapped only; a child has it too."""
    holder = Holder(tool, start, workdir, f"""
{OPEN}
at({FIRST + 1}, os.open('content', os.O_RDONLY | os.O_NOFOLLOW))
at({FIRST + 2}, os.open('content', os.O_WRONLY | os.O_APPEND))
at({FIRST + 3}, os.open('content', os.O_PATH))
shared = mmap.mmap({FIRST}, 8192)
fd = os.open('content', os.O_RDONLY)
private = mmap.mmap(fd, 4096, mmap.MAP_PRIVATE)
os.close(fd)
os.unlink('content')
with open('content', 'w') as f:
    f.write('another')
if os.fork() == 0:
    for fd in range({FIRST}, {FIRST + 2}):
        os.close(fd)
    signal.pause()
""")
    wait_until(lambda: len(program.tree_of(holder.pid)) == 2, "the child is there")
    child = program.tree_of(holder.pid)[1]
    wait_until(lambda: not os.path.exists(f"/proc/{child}/fd/{FIRST + 1}"), "the child has closed two")
    wait_asleep(child)
    flags = [holder.flags(fd) for fd in range(FIRST, FIRST + 4)]
    holder.live()
    assert [holder.flags(fd) for fd in range(FIRST, FIRST + 4)] == flags
    files = {os.stat(f"/proc/{pid}/fd/{fd}").st_ino for pid, fd in [(holder.pid, FIRST + n) for n in range(4)] + [(child, FIRST + 2), (child, FIRST + 3)]}
    assert len(files) == 1
    assert holder.content() == CONTENT
    with open(f"{holder.place}/content") as f:
        assert f.read() == "another"
    with open(f"/proc/{holder.pid}/maps") as f:
        assert f.read().count(f" {holder.place}/") == 2


def ghost_path(holder):
    """What a restore calls the file for a while."""
    return f"{holder.place}/.ferry-ghost-{holder.pid}-1"


def make_directory(path):
    os.mkdir(path)


def make_link(path):
    os.symlink("other", path)


def make_second_link(path):
    os.link(os.path.join(os.path.dirname(path), "other"), path)


@pytest.mark.parametrize("make", [make_directory, make_link, make_second_link], ids=lambda make: make.__name__)
def test_foreign_thing_under_the_name_for_a_while(tool, start, workdir, make):
    holder = Holder(tool, start, workdir, OPEN + "os.unlink('content')")
    holder.dump()
    with open(f"{holder.place}/other", "w") as f:
        f.write("other")
    make(ghost_path(holder))
    before = holder.names()
    holder.restore()
    assert holder.content() == CONTENT
    assert holder.link() == f"{holder.place}/content (deleted)"
    assert holder.names() == before
    with open(f"{holder.place}/other") as f:
        assert f.read() == "other"


def test_file_of_another_restore(tool, start, workdir):
    """In another pid namespace the same pid is restored just now, in the same directory: its file is left alone. One
    that a dead restore has left goes."""
    holder = Holder(tool, start, workdir, OPEN + "os.unlink('content')")
    holder.dump("-R")
    program.end_tree(holder.pid)
    with open(ghost_path(holder), "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        f.write("busy")
        f.flush()
        holder.restore()
        assert holder.content() == CONTENT
        with open(ghost_path(holder)) as same:
            assert same.read() == "busy"
    program.end_tree(holder.pid)
    holder.restore()
    assert os.listdir(holder.place) == []


def test_restores_in_two_namespaces(tool, start, workdir):
    """The same images at the same time, in the same directory."""
    holder = Holder(tool, start, workdir, DEEP + OPEN.replace("content", "a/b/c/d/file") + "os.unlink('a/b/c/d/file')")
    holder.dump()
    script = 'for n in 1 2 3 4 5 6 7 8 9 10; do "$@" || exit; cat "$FILE" | cksum; kill -9 "$PID"; ' \
             'while [ -e "/proc/$PID" ]; do :; done; done'
    before = holder.names()
    command = [paths.INIT, "/bin/sh", "-c", script, "sh", *tool.command("restore", "-D", holder.images, "-d")]
    env = {**os.environ, "PID": str(holder.pid), "FILE": f"/proc/{holder.pid}/fd/{FIRST}"}
    both = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    sums = {line for out, _ in said for line in out.splitlines()}
    assert [process.returncode for process in both] == [0, 0], said
    assert len(sums) == 1 and str(len(CONTENT)) in sums.pop().split(), said
    assert holder.names() == before


@pytest.mark.parametrize("flags", ["O_RDONLY", "O_WRONLY", "O_RDWR", "O_PATH"])
def test_fifo_where_a_file_was(tool, start, workdir, flags):
    holder = Holder(tool, start, workdir, f"at({FIRST}, os.open('content', os.{flags}))")
    holder.dump()
    os.rename(f"{holder.place}/content", f"{holder.place}/aside")
    os.mkfifo(f"{holder.place}/content")
    assert_refused(restore(tool, holder.images), "content")
    os.rename(f"{holder.place}/aside", f"{holder.place}/content")
    holder.restore()
    assert holder.flags() & 0o4000 == 0


@pytest.mark.parametrize("name", ["two\nlines", "one\\012line", " (deleted)"], ids=["newline", "backslash", "deleted"])
def test_mapped_in_a_directory_of_odd_name(tool, start, workdir, name):
    """/proc/PID/maps tells a newline as \\012."""
    holder = Holder(tool, start, workdir, """
private = mmap.mmap(os.open('content', os.O_RDONLY), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ)
fd = os.open('gone', os.O_RDWR | os.O_CREAT)
os.write(fd, b'x' * 4096)
shared = mmap.mmap(fd, 4096)
os.closerange(3, 20)
os.unlink('gone')
""", place=name)

    def maps():
        where = f"/proc/{holder.pid}/map_files"
        return [link for name in sorted(os.listdir(where)) if (link := os.readlink(f"{where}/{name}")).startswith(holder.place)]
    before = maps()
    assert sorted(before) == [f"{holder.place}/content", f"{holder.place}/gone (deleted)"]
    holder.live()
    assert maps() == before


def test_grows_while_it_is_dumped(tool, start, workdir):
    """A process that is not in the tree writes to it."""
    holder = Holder(tool, start, workdir, OPEN + f"os.ftruncate({FIRST}, 10 << 20); os.unlink('content')")
    grow = f"import os\nfd, n = os.open('/proc/{holder.pid}/fd/{FIRST}', os.O_WRONLY | os.O_APPEND), 1\n" \
           "while n < 60000:\n    n += os.write(fd, b'x' * 100) // 100\n"
    with subprocess.Popen(["/usr/bin/python3", "-c", grow]) as other:
        try:
            for n in range(8):
                holder.images = f"{workdir}/images-{n}"
                holder.dump("-R")
        finally:
            other.kill()
    program.end_tree(holder.pid)
    for n in range(8):
        holder.images = f"{workdir}/images-{n}"
        holder.restore()
        assert holder.content()[:len(CONTENT)] == CONTENT
        program.end_tree(holder.pid)


# ---- images of others, without checksums ----

@pytest.fixture
def ghost(tool, start, workdir):
    holder = Holder(tool, start, workdir, OPEN + "os.unlink('content')")
    holder.dump()
    without_checksums(holder.images)
    return holder


def test_short_contents(tool, ghost):
    path = f"{ghost.images}/ghost-file-1.img"
    os.truncate(path, os.path.getsize(path) - 4096)
    assert_refused(restore(tool, ghost.images), "ghost-file-1")
    assert os.listdir(ghost.place) == []


def test_no_times(tool, ghost):
    """Images of old have none: it is as old as the restore then, not from 1970."""
    def change(entries):
        for name in ("atim", "mtim"):
            first(entries).pop(name)
    crit_edit(ghost.images, "ghost-file-1.img", change)
    ghost.restore()
    assert os.stat(f"/proc/{ghost.pid}/fd/{FIRST}").st_mtime > os.stat(ghost.images).st_ctime - 60
    assert ghost.content() == CONTENT


PATHS = {"a long name": "/new/deep/" + "x" * 300 + "/file", "up again": "/new/../newer/file", "itself": "", "a file": "/file/file",
         "up": "/new/..", "a slash": "/new/"}


@pytest.mark.parametrize("what", PATHS)
def test_odd_path(tool, ghost, what):
    """Restored or refused: nothing is left in the directories."""
    with open(f"{ghost.place}/file", "w") as f:
        f.write("text")

    def change(entries):
        for e in entries:
            if e.get("reg", {}).get("name", "").endswith("/content"):
                e["reg"]["name"] = ghost.place + PATHS[what]
    crit_edit(ghost.images, "files.img", change)
    before = sorted(os.listdir(os.path.dirname(ghost.place)))
    done = restore(tool, ghost.images)
    if done.returncode:
        error_of(done)
        no_tasks()
    else:
        assert ghost.content() == CONTENT
        program.end_tree(ghost.pid)
    assert os.listdir(ghost.place) == ["file"]
    assert sorted(os.listdir(os.path.dirname(ghost.place))) == before


FLAGS = {"a path": 0o20200000 | 0o10000000, "sealed": 0o20200000 | 0o200 | 0o100 | 2, "read only": 0o20200000}


@pytest.mark.parametrize("what", FLAGS)
def test_odd_flags(tool, ghost, what):
    """O_TMPFILE with what goes not with it."""
    def change(entries):
        for e in entries:
            if e.get("reg", {}).get("name", "").endswith("/content"):
                e["reg"]["flags"] = hex(FLAGS[what])
    crit_edit(ghost.images, "files.img", change)
    done = restore(tool, ghost.images)
    if done.returncode:
        error_of(done)
    program.end_tree(ghost.pid)
    no_tasks()
    assert os.listdir(ghost.place) == []
