# SPDX-License-Identifier: Apache-2.0
"""
The keeper between two links, and two ferrys at once: whatever becomes of either, a link is what the program had, or is
not there.
"""
import fcntl
import os
import random
import resource
import signal
import struct
import subprocess
import sys

import pytest

from changer import Links
from images import dump_stats
from program import comm_of, copy_of, end_tree, kill, strangers
from trackers import need_tracker
from waiting import gone, read_or_empty, wait_gone, wait_until

KEEPER = "ferry-keeper"
ANOTHER = "another ferry"
MIB = 1 << 20


@pytest.fixture(autouse=True)
def only_with_keepers(tool):
    need_tracker(tool, "scan", "soft-dirty")


@pytest.fixture
def links(tool, start, workdir):
    return Links(tool, start, workdir)


def keepers():
    return [pid for pid, comm in strangers().items() if comm == KEEPER]


def the_keeper():
    """The one that there is."""
    found = keepers()
    assert len(found) == 1, found
    return found[0]


def pages_of(links, name):
    return dump_stats(links.directory(name))["pages_written"]


def status_kib(pid, name):
    return next(int(line.split()[1]) for line in read_or_empty(f"/proc/{pid}/status").splitlines() if line.startswith(name))


# ---- what it is ----

def test_says_who_it_is(links):
    links.pre_dump("a")
    keeper = the_keeper()
    words = read_or_empty(f"/proc/{keeper}/cmdline").split("\0")
    assert words[:-1] == [KEEPER, "of", str(links.pid), f"({comm_of(links.pid)})"]
    assert status_kib(keeper, "VmRSS") < 4 * 1024
    assert status_kib(keeper, "PPid") == 1 and os.getsid(keeper) == keeper
    assert os.readlink(f"/proc/{keeper}/cwd") == "/"
    assert not read_or_empty(f"/proc/{keeper}/environ")


def test_ends_with_its_task(links):
    links.pre_dump("a")
    keeper = the_keeper()
    kill(links.pid)
    wait_gone(keeper)


def test_ends_with_the_last_dump(links):
    links.pre_dump("a")
    first = the_keeper()
    links.pre_dump("b")
    second = the_keeper()
    assert gone(first) and second != first
    links.take("dump", "c", prev="b")
    wait_gone(links.pid)
    wait_gone(second)
    assert not keepers()
    links.comes_back("c")


def test_ends_when_nobody_wants_it_longer(links):
    """A dump on top that is not tracked on."""
    links.pre_dump("a")
    links.take("dump", "b", "-R", prev="a")
    assert not keepers()
    links.all_come_back()


# ---- what is lost with it ----

def test_killed(links):
    """The next dump is full, says so in one line, and is right; the one after that is a small one again."""
    links.pre_dump("a")
    links.dump("b")
    full, small = pages_of(links, "a"), pages_of(links, "b")
    assert small < full / 2
    os.kill(the_keeper(), signal.SIGKILL)
    wait_until(lambda: not keepers(), "it is gone")
    links.program.change()
    said = links.dump("c")
    assert len(said.splitlines()) == 1 and "its keeper is gone; this is a full dump" in said
    assert pages_of(links, "c") >= full * 0.9
    assert not os.path.lexists(f"{links.directory('c')}/parent")
    links.program.change()
    assert links.dump("d") == "" and pages_of(links, "d") < full / 2
    links.all_come_back()


def test_second_chain_beside_the_first(links):
    links.pre_dump("a1")
    links.program.change()
    links.pre_dump("b1", prev=None)
    the_keeper()
    links.program.change()
    said = links.dump("a2", prev="a1")
    assert len(said.splitlines()) == 1 and "the keeper speaks of another dump; this is a full dump" in said
    links.program.change()
    assert "its" in links.dump("b2", prev="b1") or not os.path.lexists(f"{links.directory('b2')}/parent")
    links.program.change()
    assert links.dump("b3") == ""
    links.all_come_back()


def test_plain_dump_in_the_middle(links):
    """It leaves the chain as it was."""
    links.pre_dump("a")
    keeper = the_keeper()
    links.program.change()
    assert links.take("dump", "aside", "-R", prev=None) == ""
    assert the_keeper() == keeper
    links.program.change()
    assert links.dump("b", prev="a") == ""
    assert pages_of(links, "b") < pages_of(links, "aside") / 2
    links.all_come_back()


def test_dump_that_fails_leaves_the_chain(links):
    """A wrong parent, and a program that can't be dumped: the keeper lives, and the next link is a small one."""
    links.pre_dump("a")
    keeper = the_keeper()
    done = links.run("dump", "b", "--track-mem", "-R", prev="nowhere")
    assert done.returncode == 1 and "no images in ../nowhere" in done.stderr
    with subprocess.Popen([sys.executable, "-c", TRACE, str(links.pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tracer:
        assert tracer.stdout.readline() == b"0\n"
        done = links.run("dump", "b", "--track-mem", "-R", prev="a")
    assert done.returncode == 1 and "traces it" in done.stderr
    assert the_keeper() == keeper
    links.program.change()
    assert links.dump("c", prev="a") == ""
    links.all_come_back()


# Seizes a thread, and holds it until its input ends.
TRACE = """
import ctypes, sys
print(ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), None, None), flush=True)
sys.stdin.read()
"""


HEAD = struct.Struct("<12sIII16s")      # keeper.c: struct table_head
TASK = struct.Struct("<QiiII")           # struct table_task
FAKE = """
import os, sys, time
with open("/proc/self/comm", "w") as f:
    f.write("ferry-keeper")
if sys.argv[1] != "-":
    fd = os.open(sys.argv[1], os.O_RDONLY)
    os.dup2(fd, 3)
print("ready", flush=True)
sys.stdin.read()
"""


def tables(pid):
    """What may lie where a keeper has its table."""
    dice = random.Random(int(os.environ["FERRY_SEED"]))
    task = TASK.pack(1, pid, 5, 0, 0)
    return {
        "none": None,
        "empty": b"",
        "noise": dice.randbytes(100),
        "older": HEAD.pack(b"ferry-keeper", 1, 2, 1, b"x" * 16) + task,
        "newer": HEAD.pack(b"ferry-keeper", 7, 2, 1, b"x" * 16) + task,
        "cut": HEAD.pack(b"ferry-keeper", 2, 2, 2, b"x" * 16) + task,
        "many": HEAD.pack(b"ferry-keeper", 2, 2, 0xffffffff, b"x" * 16) + task,
        "kind": HEAD.pack(b"ferry-keeper", 2, 99, 1, b"x" * 16) + task,
        "without": HEAD.pack(b"ferry-keeper", 2, 2, 1, b"x" * 16) + TASK.pack(1, pid, 5000, 0, 0),
        "frames": HEAD.pack(b"ferry-keeper", 2, 3, 1, b"x" * 16) + TASK.pack(1, pid, -1, 0, 0xffffffff),
        "other": HEAD.pack(b"ferry-keeper", 2, 2, 1, b"x" * 16) + TASK.pack(1, pid, 1, 0, 0),
    }


@pytest.mark.parametrize("kind", tables(0))
def test_what_is_no_keeper(links, workdir, kind):
    """A process of that name: passed over, or ended when it says that it holds the program; the links are right."""
    table, path = tables(links.pid)[kind], "-"
    if table is not None:
        path = f"{workdir}/table"
        with open(path, "wb") as f:
            f.write(table)
    with subprocess.Popen([sys.executable, "-c", FAKE, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as fake:
        assert fake.stdout.readline() == b"ready\n"
        links.pre_dump("a")
        links.program.change()
        links.dump("b")
        links.program.change()
        assert links.dump("c") == ""
        assert pages_of(links, "c") < pages_of(links, "a") / 2
    links.all_come_back()


# ---- two at once ----

def lock_of(pid):
    """Locked as a ferry at work does it. None: this kernel has no such lock."""
    pidfd = os.pidfd_open(pid)
    if os.fstat(pidfd).st_ino == os.fstat(os.pidfd_open(1)).st_ino:     # before Linux 6.9 all are one
        os.close(pidfd)
        pidfd = os.open(f"/proc/{pid}", os.O_RDONLY)
    fcntl.flock(pidfd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return pidfd


def test_another_is_at_work(links):
    """Every command that would take changes, or would meet those that another one takes, says who is there."""
    links.pre_dump("a")
    keeper, lock = the_keeper(), lock_of(links.pid)
    for action, options, prev in (("pre-dump", (), None), ("pre-dump", (), "a"), ("dump", ("-R", "--track-mem"), "a"), ("dump", (), "a"),
                                  ("dump", ("-R",), None)):
        done = links.run(action, "b", *options, prev=prev)
        assert done.returncode == 1 and f"{ANOTHER} (process {os.getpid()}) is at work on process {links.pid}" in done.stderr, done
    assert the_keeper() == keeper
    os.close(lock)
    links.program.change()
    assert links.dump("b", prev="a") == ""
    links.all_come_back()


def test_another_of_another_pid_namespace(tool, workdir):
    """Who sees the program under another number, in another /proc, is kept out as well."""
    lock = "import fcntl, os, sys; fd = os.pidfd_open(int(sys.argv[1])); fcntl.flock(fd, fcntl.LOCK_EX); print('locked', flush=True); " \
           "sys.stdin.read()"
    if os.fstat(os.pidfd_open(1)).st_ino == os.fstat(os.pidfd_open(os.getpid())).st_ino:
        pytest.skip("before Linux 6.9: one /proc is needed")
    program = f"sleep 1000 & echo $! > {workdir}/pid; exec {sys.executable} -c \"{lock}\" $!"
    with subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", program], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        inner = int(read_or_empty(f"{workdir}/pid"))
        outer = wait_until(lambda: next((pid for pid, comm in strangers().items() if comm == "sleep"), None), "sleep is sleep")
        assert inner != outer
        os.mkdir(f"{workdir}/a")
        done = tool.run("pre-dump", "-D", f"{workdir}/a", "-t", outer)
        assert done.returncode == 1 and ANOTHER in done.stderr
        other.stdin.close()
        other.wait()
    wait_gone(outer)


def run_at_once(*commands):
    """[(status, stderr)]"""
    processes = [subprocess.Popen(c, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for c in commands]
    return [(p.returncode, said) for p in processes for _, said in [p.communicate()]]


PAIRS = {"pre-dumps": ("pre-dump", "pre-dump"), "dump and pre-dump": ("dump", "pre-dump"), "dumps": ("dump", "dump")}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("continued", [True, False])
def test_two_at_once(tool, start, workdir, pair, continued):
    """One at least makes it, if it is a pre-dump; the other says why not, or comes after it. Whatever they say they have is right."""
    links = Links(tool, start, workdir)
    refusals = 0
    for i in range(6):
        links.pre_dump(f"first-{i}", prev=None)
        links.program.change()
        names = [f"{i}-{j}" for j in range(2)]
        options = {"dump": ("-R", "--track-mem"), "pre-dump": ()}
        ended = run_at_once(*(links.command(action, name, *options[action], prev=links.newest if continued else None)
                              for name, action in zip(names, PAIRS[pair])))
        for status, said in ended:
            assert status == 0 or ANOTHER in said or "traces it" in said, said
            refusals += status != 0
        done = [name for name, (status, _) in zip(names, ended) if status == 0]
        assert done
        for name, action in zip(names, PAIRS[pair]):
            if name in done and action == "dump":
                links.states[name] = links.program.state
        wait_until(lambda: len(keepers()) == 1, "one keeper is left (an ended one may not be reaped yet)")
        for k, name in enumerate(done):
            links.program.change()
            links.dump(f"{name}-{k}-then", prev=name)
    print(f"{refusals} refused")
    links.end()
    for name in random.Random(int(os.environ["FERRY_SEED"])).sample(sorted(links.states), 5):
        links.comes_back(name)


LARGE = """
import os, time
data = bytearray(os.urandom(1 << 20) * 768)
print("ready", flush=True)
time.sleep(1000)
"""


def test_second_while_the_first_copies(tool, start, workdir):
    """Stopped in its middle: the second is refused, and the first ends well."""
    pid = start(["/usr/bin/python3", "-c", LARGE], out=f"{workdir}/out")
    wait_until(lambda: "ready" in read_or_empty(f"{workdir}/out"), "it has its memory")
    os.mkdir(f"{workdir}/a")
    os.mkdir(f"{workdir}/b")
    with subprocess.Popen(tool.command("pre-dump", "-D", f"{workdir}/a", "-t", pid), stdin=subprocess.DEVNULL) as first:
        wait_until(lambda: os.path.exists(f"{workdir}/a/pages-1.img"), "it copies")
        first.send_signal(signal.SIGSTOP)
        assert first.poll() is None, "it was too fast for this test"
        done = tool.run("pre-dump", "-D", f"{workdir}/b", "-t", pid)
        plain = tool.run("dump", "-D", f"{workdir}/b", "-t", pid, "-R")
        first.send_signal(signal.SIGCONT)
        assert first.wait() == 0
    for other in (done, plain):
        assert other.returncode == 1 and f"{ANOTHER} (process {first.pid})" in other.stderr, other.stderr
    assert tool.run("dump", "-D", f"{workdir}/b", "-t", pid, "--prev-images-dir", "../a").stderr == ""
    assert dump_stats(f"{workdir}/b")["pages_written"] * 4096 < 20 * MIB


# ---- what is odd ----

def test_long_chain_with_few_descriptors(links):
    """As many as a shell allows at first are not the end."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    try:
        for i in range(30):
            assert links.pre_dump(f"{i}") == ""
        links.take("dump", "end", prev="29")
        links.comes_back("end")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_zombie(links):
    with subprocess.Popen(["/bin/true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        done = links.tool.run("pre-dump", "-D", links.directory("a"), "-t", ended.pid)
    assert done.returncode == 1 and "a zombie" in done.stderr


# Reads past the page cache while it is pre-dumped, from a file whose locks make a long text of the descriptor's.
DIRECT = """
import fcntl, mmap, os, signal, threading, time
fd = os.open("file", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
plain = os.open("file", os.O_RDWR)
page = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
os.truncate("file", 1 << 20)
for i in range(200):
    fcntl.lockf(fd, fcntl.LOCK_EX, 1, i * 2)
open("ready", "w").close()
time.sleep(1000)
"""


def test_direct_reader_stands_still(tool, start, workdir):
    """What its descriptor says of itself is too long to be read at once."""
    pid = start(["/usr/bin/python3", "-c", DIRECT], cwd=workdir)
    wait_until(lambda: os.path.exists(f"{workdir}/ready"), "it has its locks")
    for i in range(2):
        tool.run_well("pre-dump", made(f"{workdir}/{i}"), "-t", pid, *(["--prev-images-dir", f"../{i - 1}"] if i else []))
    with open(f"{workdir}/1/pre-dump.log", encoding="utf-8") as f:
        assert "it stood still for 0 us" not in f.read()


def made(path):
    os.makedirs(path, exist_ok=True)
    return path


# ---- chains of trees within trees ----

FAMILY = """
import hashlib, os, signal, sys, time
own, generation, name = bytearray(os.urandom(1 << 20)), 0, "parent"
if (child := os.fork()) == 0:
    name, own = "child", bytearray(os.urandom(1 << 20))
def say(*_):
    with open(f"{name}.saying", "w") as f:
        f.write(f"{generation} {hashlib.sha256(own).hexdigest()}\\n")
    os.rename(f"{name}.saying", name)
def change(*_):
    global generation
    generation += 1
    for page in range(generation % 5, 250, 5):
        own[page * 4096 + 99] ^= generation
    say()
signal.signal(signal.SIGUSR1, change)
signal.signal(signal.SIGUSR2, say)
say()
while True:
    time.sleep(0.02)
"""


# The child comes when it is told to.
LATER = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
open("early", "w").close()
signal.sigwait([signal.SIGUSR1])
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
"""


class Family:
    """A parent and its child; both change, and say what they have. `early` is called before there is a child."""
    def __init__(self, tool, start, workdir, early=None):
        self.tool, self.workdir, self.home = tool, workdir, f"{workdir}/home"
        os.mkdir(self.home)
        self.pid = start(["/usr/bin/python3", "-c", (LATER if early else "") + FAMILY], cwd=self.home)
        if early:
            wait_until(lambda: os.path.exists(f"{self.home}/early"), "it is there")
            early(self)
            os.kill(self.pid, signal.SIGUSR1)
        self.state = self.wait_said()
        self.child = int(read_or_empty(f"/proc/{self.pid}/task/{self.pid}/children"))

    def wait_said(self):
        return [wait_until(lambda name=name: read_or_empty(f"{self.home}/{name}"), f"the {name} speaks") for name in ("parent", "child")]

    def ask(self, sig):
        for name in ("parent", "child"):
            os.unlink(f"{self.home}/{name}")
        for pid in (self.pid, self.child):
            os.kill(pid, sig)
        self.state = self.wait_said()
        return self.state

    def change(self):
        return self.ask(signal.SIGUSR1)

    def run(self, action, name, pid, *options, prev=None):
        directory = f"{self.workdir}/{name}"
        os.makedirs(directory, exist_ok=True)
        on_top = ["--prev-images-dir", f"../{prev}"] if prev else []
        self.tool.run_well(action, directory, "-t", pid, *on_top, *options)

    def comes_back(self, name, state):
        end_tree(self.pid)
        wait_until(lambda: not strangers(), "all is gone")
        assert self.tool.restore(f"{self.workdir}/{name}") == self.pid
        assert self.ask(signal.SIGUSR2) == state


@pytest.mark.parametrize("tracker", ["scan", "soft-dirty"])
@pytest.mark.parametrize("first", ["tree", "part"])
def test_chain_of_a_part(tool, start, workdir, first, tracker):
    """A chain of the tree and one of the child, links taken in turn: each is right, for none takes what the other needs."""
    need_tracker(tool, tracker)
    family, options = Family(tool, start, workdir), ("--tracker", tracker)
    order = [("tree", family.pid), ("part", family.child)]
    for i in range(3):
        for what, pid in order if first == "tree" else order[::-1]:
            family.change()
            family.run("pre-dump", f"{what}-{i}", pid, *options, prev=f"{what}-{i - 1}" if i else None)
    state = family.change()
    family.run("dump", "end", family.pid, *options, prev="tree-2")
    family.comes_back("end", state)


def test_chain_of_a_new_part(tool, start, workdir):
    """The child and its chain are younger than the tree's: that one takes no change away from the other."""
    need_tracker(tool, "scan")
    family = Family(tool, start, workdir, lambda family: family.run("pre-dump", "tree-0", family.pid))
    family.run("pre-dump", "part-0", family.child)
    family.change()
    family.run("pre-dump", "tree-1", family.pid, prev="tree-0")
    family.change()
    family.run("pre-dump", "part-1", family.child, prev="part-0")
    family.run("dump", "part-2", family.child, "-R", "--shell-job", prev="part-1")
    family.run("dump", "whole", family.child, "-R", "--shell-job")
    tool.run_well("squash", f"{workdir}/part-2", "-o", f"{workdir}/squashed")
    pages = []
    for name in ("squashed", "whole"):
        with open(f"{workdir}/{name}/pages-1.img", "rb") as f:
            pages.append(f.read())
    assert len(pages[0]) == len(pages[1])
    differing = [at for at in range(0, len(pages[0]), 4096) if pages[0][at:at + 4096] != pages[1][at:at + 4096]]
    assert len(differing) < 10      # it sleeps, and wakes now and then


# ---- what is left of one that was killed ----

def watch_of(keeper):
    """Its userfaultfd as a descriptor of ours, which keeps the watch when the keeper is gone."""
    numbers = [int(fd) for fd in os.listdir(f"/proc/{keeper}/fd") if "userfaultfd" in os.readlink(f"/proc/{keeper}/fd/{fd}")]
    return copy_of(keeper, numbers[0])


def test_watch_that_ends_late(tool, links, workdir):
    """A killed keeper's watch may end a moment after it; a dump waits for that, and then watches itself."""
    need_tracker(tool, "scan")
    links.pre_dump("a")
    keeper = the_keeper()
    watch = watch_of(keeper)
    kill(keeper)
    wait_gone(keeper)
    log, directory = f"{workdir}/late.log", f"{workdir}/late"
    os.mkdir(directory)
    dump = subprocess.Popen(tool.command("dump", "-t", links.pid, "-D", directory, "-R", "--track-mem", "-v4", "-o", log))
    wait_until(lambda: dump.poll() is not None or "is no keeper" in read_or_empty(log), "it waits")
    os.close(watch)
    assert dump.wait(60) == 0, read_or_empty(log)
    assert "can't be tracked" not in read_or_empty(log)
    the_keeper()
