# SPDX-License-Identifier: Apache-2.0
"""
A program that changes its memory when it is told to, and says what it has; and chains of its dumps. Between two words of
ours it stands as it is: what it said last is what a dump has.
"""
import os
import signal

from program import end_tree, strangers
from waiting import read_or_empty, wait_asleep, wait_until

PROGRAM = """
import hashlib, mmap, os, signal, time
own, shared, generation = bytearray(os.urandom(3 << 20)), mmap.mmap(-1, 1 << 20), 0
shared.write(os.urandom(1 << 20))
def say(*_):
    digests = [hashlib.sha256(data).hexdigest() for data in (own, bytes(shared))]
    with open("saying", "w") as f:
        f.write(f"{generation} {digests}\\n")
    os.rename("saying", "said")
def change(*_):
    global generation
    generation += 1
    for data in (own, shared):
        for page in range(generation * 3 % 7, len(data) // 4096 - 1, 7):
            data[page * 4096 + 100] ^= generation
    say()
signal.signal(signal.SIGUSR1, change)
signal.signal(signal.SIGUSR2, say)
say()
while True:
    time.sleep(0.02)    # a signal between Python's look and its sleep waits for the next look
"""


def home_in(workdir):
    """The peer wants directories of the same size as before."""
    os.mkdir(f"{workdir}/home")
    return f"{workdir}/home"


class Changer:
    def __init__(self, start, workdir):
        home = home_in(workdir)
        self.said, self.state = f"{home}/said", ""
        self.pid = start(["/usr/bin/python3", "-c", PROGRAM], cwd=home)
        self.wait_said()

    def wait_said(self):
        self.state = wait_until(lambda: read_or_empty(self.said), "it says what it has")
        wait_asleep(self.pid)
        return self.state

    def ask(self, sig=signal.SIGUSR2):
        os.unlink(self.said)
        os.kill(self.pid, sig)
        return self.wait_said()

    def change(self):
        return self.ask(signal.SIGUSR1)


class Links:
    """Its chain: `states` has what it said at each dump, {directory: text}."""
    def __init__(self, tool, start, workdir, *options):
        self.tool, self.program, self.workdir, self.options = tool, Changer(start, workdir), workdir, options
        self.states, self.newest = {}, None

    @property
    def pid(self):
        return self.program.pid

    def directory(self, name):
        path = f"{self.workdir}/{name}"
        os.makedirs(path, exist_ok=True)
        return path

    def on_top(self, prev):
        return [] if prev is None else ["--prev-images-dir", f"../{prev}"]

    def command(self, action, name, *options, prev=None):
        return self.tool.command(action, "-D", self.directory(name), "-t", self.pid, *self.on_top(prev), *self.options, *options)

    def run(self, action, name, *options, prev=None):
        """Whatever comes of it."""
        return self.tool.run(action, "-D", self.directory(name), "-t", self.pid, *self.on_top(prev), *self.options, *options)

    def take(self, action, name, *options, prev=None):
        """On top of the newest link if that is "newest", and the newest from now on. Returns what ferry said."""
        done = self.run(action, name, *options, prev=self.newest if prev == "newest" else prev)
        assert done.returncode == 0, f"{done.args}: {done.stderr}"
        self.newest = name
        if action == "dump":
            self.states[name] = self.program.state
        return done.stderr

    def pre_dump(self, name, *options, prev="newest"):
        return self.take("pre-dump", name, *options, prev=prev)

    def dump(self, name, *options, prev="newest"):
        """Of a program that goes on, and is watched on."""
        return self.take("dump", name, "-R", "--track-mem", *options, prev=prev)

    def end(self):
        """It, and the keeper with it."""
        end_tree(self.pid)
        wait_until(lambda: not strangers(), "its keeper ends as well")

    def end_alone(self):
        """One of several."""
        end_tree(self.pid)

    def comes_back(self, name, tool=None):
        assert (tool or self.tool).restore(self.directory(name)) == self.pid
        assert self.program.ask() == self.states[name]
        end_tree(self.pid)

    def all_come_back(self, tool=None):
        self.end()
        for name in self.states:
            self.comes_back(name, tool)
