# SPDX-License-Identifier: Apache-2.0
"""
A program that calls exec while it is migrated: what arrives is what it has become, with nothing of what it was. And files that it maps only
then: they are as well the same ones over there, or it stays.
"""
import os
import shutil

import pytest

from machines import Gate, ROUND_DONE, RUNS, SAY, STAGED, word_of
from waiting import read_or_empty, wait_line, wait_until

# The how-many-th program, with memory that tells it from others. It calls exec (or loads a library) when it is told to, and looks at what it has.
PROGRAM = """
import ctypes, hashlib, os, sys, threading, time
home, how, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
data = bytearray(b"".join(hashlib.sha256(b"%d %d" % (number, page)).digest() * 128 for page in range(2048)))
def have():
    return hashlib.sha256(data).hexdigest()
def wait_for(*names):
    while True:
        for name in names:
            if os.path.exists(f"{home}/{name}"):
                return name
        time.sleep(0.001)
def again():
    if how == "another":
        os.execv(f"{home}/sh", ["sh", "-c", ANOTHER, "sh", home, str(number + 1)])
    os.execv("/proc/self/exe", ["python3", "-c", open(f"{home}/program").read(), home, how, str(number + 1)])
ANOTHER = 'echo ready $2; until [ -e "$1/check" ]; do :; done; echo fine $2; exec sleep 1000'
had = have()
print("ready", number, flush=True)
if how == "in place" and number == 0:
    ctypes.CDLL(None).personality(0x0040000)    # from now on the layout is the same each time
if wait_for("check", f"become-{number + 1}") != "check":
    if how == "thread":
        threading.Thread(target=again).start()
        time.sleep(1000)
    if how != "library":
        again()
    ctypes.CDLL(f"{home}/library")
    number += 1
    print("ready", number, flush=True)
    wait_for("check")
assert have() == had
print("fine", number, flush=True)
time.sleep(1000)
"""
LIBRARY = "/lib/x86_64-linux-gnu/libz.so.1"


def touch(path):
    with open(path, "w", encoding="ascii"):
        pass


def whole_lines(path):
    text = read_or_empty(path)
    return text[:text.rfind("\n") + 1]


class Becoming:
    """The program on its machine, which becomes its next one once, when a gate is there. `number`: which one it is."""
    def __init__(self, machine, workdir, how, when):
        self.workdir, self.when, self.out, self.number = workdir, when, f"{workdir}/out", 0
        shutil.copy("/bin/sh", f"{workdir}/sh")
        shutil.copy(LIBRARY, f"{workdir}/library")
        with open(f"{workdir}/program", "w", encoding="ascii") as f:
            f.write(PROGRAM)
        self.pid = machine.start(["/usr/bin/python3", "-c", PROGRAM, workdir, how, "0"], self.out)
        wait_line(self.out, "ready 0", 60)
        if how == "in place":
            self.become()
        self.done = False

    def become(self):
        self.number += 1
        touch(f"{self.workdir}/become-{self.number}")
        wait_line(self.out, f"ready {self.number}", 60)
        self.done = True

    def before(self, gate, direction, kind, raw):
        word = word_of(raw) if direction == gate.TO_SOURCE and kind == SAY else None
        if not self.done and {"staged": word == STAGED, "round": word == ROUND_DONE, "in a round": gate.words[STAGED] and kind == RUNS}[self.when]:
            self.become()

    def fine(self):
        """It has looked."""
        touch(f"{self.workdir}/check")
        wait_until(lambda: "fine" in whole_lines(self.out) or "Error" in whole_lines(self.out), "it has looked")
        assert whole_lines(self.out).endswith(f"fine {self.number}\n"), read_or_empty(self.out)


def migrate(tool, life, here, there):
    """What both said, when both are done; statuses."""
    receiver = there.receive(tool)
    gate = Gate(receiver.socket, life.before)
    done = here.run(tool.command("migrate", "-t", life.pid, "--max-downtime", "2", "--max-rounds", 3, f"unix:{gate.path}"))
    gate.end()
    status, said = receiver.ended()
    assert life.done
    return (done.returncode, status), done.stderr + said


@pytest.mark.parametrize("when", ("staged", "round", "in a round"))
@pytest.mark.parametrize("how", ("itself", "in place", "thread", "another"))
def test_exec(tool, machines, workdir, how, when):
    here, there = machines.make("here"), machines.make("there")
    life = Becoming(here, workdir, how, when)
    statuses, said = migrate(tool, life, here, there)
    assert statuses == (0, 0), said
    wait_until(lambda: here.gone(life.pid), "it is gone from where it was")
    life.fine()
    assert not there.gone(life.pid)


def other_build(path):
    """A file of the same size, with another build-id."""
    with open(path, "rb") as f:
        raw = bytearray(f.read())
    raw[raw.index(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0") + 16] ^= 1
    with open(f"{path}.other", "wb") as f:
        f.write(raw)
    shutil.copymode(path, f"{path}.other")
    return f"{path}.other"


@pytest.mark.parametrize("how,name", (("another", "sh"), ("library", "library")))
def test_another_build(tool, machines, workdir, how, name):
    here, there = machines.make("here"), machines.make("there")
    life = Becoming(here, workdir, how, "staged")
    there.run(["mount", "--bind", other_build(f"{workdir}/{name}"), f"{workdir}/{name}"], check=True)
    others = there.pids()
    statuses, said = migrate(tool, life, here, there)
    assert statuses == (1, 1) and f"in the way: {workdir}/{name} is another build" in said, said
    wait_until(lambda: there.pids() == others, "nobody is left")
    assert not here.gone(life.pid)
    life.fine()


def test_the_same_build(tool, machines, workdir):
    """It is asked for, and is fine."""
    here, there = machines.make("here"), machines.make("there")
    life = Becoming(here, workdir, "library", "staged")
    there.run(["mount", "--bind", shutil.copy(f"{workdir}/library", f"{workdir}/copy"), f"{workdir}/library"], check=True)
    statuses, said = migrate(tool, life, here, there)
    assert statuses == (0, 0), said
    life.fine()
    assert os.path.exists(f"{there.proc}/{life.pid}")
