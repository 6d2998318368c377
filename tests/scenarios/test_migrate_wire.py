# SPDX-License-Identifier: Apache-2.0
"""
Ways between two machines; and liars on them. Nothing that lies gets a program to run, or to end: it counts on where it is, and
nothing is left where it was to go.

FERRY_MIGRATE_LIES streams of a source (60), broken in their frames with right checksums; FERRY_SEED chooses them.
"""
import os
import random
import socket
import stat
import struct
import subprocess
import threading

import pytest

from certificates import Authority
from machines import CHECK, COMMIT, FAILED, HELLO, IMAGE, KEEP, READY, ROUND_DONE, RUNS, DROP, BYTES, RUNS_THERE, SAY, STAGED, Gate, take, unix_listener
from streams import FRAME, HEAD, frame_of, frames_of
from test_migrate_kill import Counter
from waiting import read_or_empty, wait_until

SEED = int(os.environ.get("FERRY_SEED") or random.SystemRandom().randrange(1 << 32))
LIES = int(os.environ.get("FERRY_MIGRATE_LIES", "60"))
STALE, VERSION = 5, 4
HELLO_BYTES = struct.Struct("<IIQ16sII")
ADDRESSES = ("10.78.0.1", "10.78.0.2")


@pytest.fixture
def life(machines, workdir):  # pylint: disable=redefined-outer-name
    return Counter(machines.make("here"), workdir)


def migrate(tool, life, *words, env=None):  # pylint: disable=redefined-outer-name
    return life.machine.run(tool.command("migrate", "-t", life.pid, "--peer-timeout", "5", *words), env={**os.environ, **(env or {})})


def arrives(life, there, done, said=""):  # pylint: disable=redefined-outer-name
    assert done.returncode == 0, done.stderr + said
    wait_until(lambda: not life.tree(life.machine), "it is gone from where it was")
    assert life.tree(there)
    life.counts_on()


# ---- ways ----

def cable(machines):
    """veth between both."""
    subprocess.run(["ip", "link", "add", "cable", "netns", str(machines.all[0].init), "type", "veth", "peer", "name", "cable", "netns",
                    str(machines.all[1].init)], check=True)
    for machine, address in zip(machines.all, ADDRESSES):
        machine.run(["ip", "addr", "add", f"{address}/24", "dev", "cable"], check=True)
        machine.run(["ip", "link", "set", "cable", "up"], check=True)


def listen(tool, machine, *options, address=ADDRESSES[1]):
    process = machine.popen(tool.command("receive", "--listen", f"{address}:0", "-d", *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return process, int(process.stdout.readline().rsplit(" ", 1)[1])


def test_tcp(tool, machines, life):
    there = machines.make("there")
    cable(machines)
    refused = there.run(tool.command("receive", "--listen", f"{ADDRESSES[1]}:0", "-d"))
    assert refused.returncode == 1 and "--allow-plaintext" in refused.stderr
    process, port = listen(tool, there, "--allow-plaintext")
    done = migrate(tool, life, f"tcp://{ADDRESSES[1]}:{port}")
    assert done.returncode == 1 and "--allow-plaintext" in done.stderr
    done = migrate(tool, life, "--allow-plaintext", f"tcp://{ADDRESSES[1]}:{port}")
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 0, said
    arrives(life, there, done, said)


def test_tls(tool, machines, life, workdir):
    there = machines.make("there")
    cable(machines)
    ca, other = Authority(f"{workdir}/ca"), Authority(f"{workdir}/other")
    us, them = ca.sign("us", ADDRESSES[0], f"IP:{ADDRESSES[0]}"), ca.sign("them", ADDRESSES[1], f"IP:{ADDRESSES[1]}")
    process, port = listen(tool, there, "--tls", *ca.options(them))
    done = migrate(tool, life, *other.options(other.sign("us")), f"tls://{ADDRESSES[1]}:{port}")
    assert done.returncode == 1, done.stderr
    assert process.wait(30) == 1
    process.communicate()
    life.counts_on()
    process, port = listen(tool, there, "--tls", *ca.options(them))
    done = migrate(tool, life, *ca.options(us), f"tls://{ADDRESSES[1]}:{port}")
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 0, said
    arrives(life, there, done, said)


SSH = """#!/usr/bin/python3
import os, socket, sys, threading
end = socket.socket(socket.AF_UNIX)
end.connect("%s")
end.sendall(" ".join(sys.argv[1:]).encode() + b"\\n")
def out():
    while raw := os.read(0, 1 << 16):
        end.sendall(raw)
    end.shutdown(socket.SHUT_WR)
threading.Thread(target=out, daemon=True).start()
while raw := end.recv(1 << 16):
    os.write(1, raw)
"""


class Sshd(threading.Thread):
    """Stands for ssh's way to a machine: does what it is asked there."""
    def __init__(self, path, there):
        super().__init__(daemon=True)
        self.there, self.asked, self.status = there, "", None
        self.listener = unix_listener(path)
        self.start()

    def run(self):
        end, _ = self.listener.accept()
        with end:
            while not self.asked.endswith("\n"):
                self.asked += end.recv(1).decode()
            command = self.asked.split(" -- ")[1] if " -- " in self.asked else self.asked[3:]
            self.status = self.there.popen(command.split()[1:], stdin=end, stdout=end).wait(60)


@pytest.mark.parametrize("where", ("user@there", "ssh://there:22"))
def test_ssh(tool, machines, life, workdir, where):
    there = machines.make("there")
    sshd = Sshd(f"{machines.sockets}/sshd", there)
    with open(f"{workdir}/ssh", "w", encoding="ascii") as f:
        f.write(SSH % f"{machines.sockets}/sshd")
    os.chmod(f"{workdir}/ssh", stat.S_IRWXU)
    done = migrate(tool, life, where, env={"FERRY_SSH": f"{workdir}/ssh", "FERRY_REMOTE": tool.argv[0]})
    sshd.join(30)
    assert f"{tool.argv[0]} receive --stdio --restore-detached" in sshd.asked and sshd.status == 0
    assert sshd.asked.startswith("-p 22 -- there " if where.startswith("ssh") else "-- user@there ")
    arrives(life, there, done)


def test_fd(tool, machines, life):
    there = machines.make("there")
    one, other = socket.socketpair()
    with one, other:
        receive = there.popen(tool.command("receive", "--ps-socket", other.fileno(), "-d"), pass_fds=[other.fileno()], stdout=-1, stderr=-2)
        done = life.machine.run(tool.command("migrate", "-t", life.pid, f"fd:{one.fileno()}"), pass_fds=[one.fileno()])
    said = receive.communicate(timeout=30)[0]
    arrives(life, there, done, said)


# ---- liars ----

class Wire:
    """One end of a connection, that speaks frames."""
    def __init__(self, end):
        self.end, self.place = end, 0
        end.settimeout(20)

    def begin(self):
        self.end.sendall(HEAD)

    def put(self, kind, content=b""):
        self.end.sendall(frame_of(self.place, kind, content))
        self.place += 1

    def get(self):
        kind, length, _, _ = FRAME.unpack(take(self.end, FRAME.size))
        return kind, take(self.end, length)

    def hello(self, version=VERSION, channels=0):
        """Of both kinds, as a right one; returns what the other has said of itself."""
        self.begin()
        take(self.end, 16)
        _, theirs = self.get()
        _, _, vdso, number, _, _ = HELLO_BYTES.unpack(theirs)
        self.put(HELLO, HELLO_BYTES.pack(version, 0, vdso, bytes(range(16)), channels, 0))
        self.put(HELLO, number)

    def answer(self):
        """To what the source asks before a stage: all that it needs is there. What it sends before is passed over."""
        asked = []
        while not asked or asked[-1]:
            kind, content = self.get()
            if kind == CHECK:
                asked.append(content)
        for content in asked:
            self.put(CHECK, content)

    def say(self, word, text=b"no"):
        self.put(SAY, struct.pack("<IIQ360s", word, 0, 0, text))

    def drain(self):
        try:
            while self.end.recv(1 << 20):
                pass
        except OSError:
            pass


class Target(threading.Thread):
    """Listens, and plays its part once."""
    def __init__(self, path, play):
        super().__init__(daemon=True)
        self.play = play
        self.listener = unix_listener(path)
        self.start()

    def run(self):
        end, _ = self.listener.accept()
        with end:
            wire = Wire(end)
            try:
                self.play(wire)
                end.shutdown(socket.SHUT_WR)
                wire.drain()
            except (OSError, EOFError):      # or the source has gone, in the middle of a frame
                pass


def words(*said):
    def play(wire):
        wire.hello()
        wire.answer()
        for word in said:
            wire.say(word)
            if word == STALE:
                wire.answer()
    play.__name__ = "-".join(map(str, said))
    return play


def from_the_future(wire):
    wire.hello(VERSION + 1)


def no_frames(wire):
    wire.end.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)


def short_word(wire):
    wire.hello()
    wire.answer()
    wire.put(SAY, b"\0\0\0\0")


def other_frame(wire):
    wire.hello()
    wire.answer()
    wire.put(COMMIT)


def escapes(wire):
    wire.hello()
    wire.answer()
    wire.say(FAILED, b"\x1b[2J" * 80)


def no_answer(wire):
    wire.hello()
    wire.say(STAGED)


def other_answer(wire):
    """To half of what was asked."""
    wire.hello()
    wire.put(CHECK)


@pytest.mark.parametrize("play", (
    from_the_future, no_frames, no_answer, other_answer, short_word, other_frame, escapes, words(RUNS_THERE), words(READY), words(99), words(STAGED, RUNS_THERE),
    words(STAGED, STALE, STAGED, STALE, STAGED, STALE, STAGED), words(STAGED, READY, FAILED), words(STAGED, FAILED)), ids=lambda play: play.__name__)
def test_lying_target(tool, machines, life, play):
    target = Target(f"{machines.sockets}/liar", play)
    done = migrate(tool, life, "--max-rounds", "1", f"unix:{machines.sockets}/liar")
    target.join(30)
    assert done.returncode == 1 and done.stderr and "\x1b" not in done.stderr, done
    life.counts_on()


@pytest.mark.parametrize("play", (words(STAGED, READY), words(STAGED, READY, READY), words(STAGED, READY, 99)), ids=lambda play: play.__name__)
def test_target_goes_in_the_one_moment(tool, machines, life, play):
    """Here nobody knows: the tasks stand, are said to, and run again by resume."""
    target = Target(f"{machines.sockets}/liar", play)
    done = migrate(tool, life, "--max-rounds", "1", f"unix:{machines.sockets}/liar")
    target.join(30)
    assert done.returncode == 1 and f"ferry resume -t {life.pid}" in done.stderr, done
    wait_until(lambda: set(life.tree(life.machine).values()) == {"T"}, "they stand")
    assert life.machine.run(tool.command("resume", "-t", life.pid)).returncode == 0
    life.counts_on()


def recorded(tool, machines, life):
    """Both directions of a migration that went well; the program is there now."""
    there = machines.make("there")
    receiver = there.receive(tool)
    gate = Gate(receiver.socket, lambda *_: True)
    done = migrate(tool, life, "--max-rounds", "2", "--max-downtime", "2", f"unix:{gate.path}")
    said = receiver.ended()[1]
    gate.end()
    arrives(life, there, done, said)
    life.machine = there
    return [bytes(raw) for raw in gate.record]


def connect(path):
    end = socket.socket(socket.AF_UNIX)
    end.connect(path)
    return end


def test_replays(tool, machines, life):
    to_target, to_source = recorded(tool, machines, life)
    fresh = machines.make("fresh")
    before = fresh.pids()
    receiver = fresh.receive(tool)
    with connect(receiver.socket) as end:
        threading.Thread(target=Wire(end).drain, daemon=True).start()
        try:
            end.sendall(to_target)
        except OSError:
            pass
        status, said = receiver.ended()
    assert status == 1 and "plays back" in said, said
    assert fresh.pids() == before
    target = Target(f"{machines.sockets}/liar", lambda wire: wire.end.sendall(to_source))
    done = migrate(tool, life, f"unix:{machines.sockets}/liar")
    target.join(30)
    assert done.returncode == 1 and "plays back" in done.stderr, done.stderr
    life.counts_on()


def broken(frames, dice):
    """One frame changed, left out, sent twice, or sent elsewhere."""
    frames = list(frames)
    interesting = [i for i, (kind, _) in enumerate(frames) if kind in (KEEP, RUNS, DROP, BYTES)] * 3 + list(range(len(frames)))
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = min(dice.choice(interesting), len(frames) - 1)
        kind, content = frames[at]
        how = dice.choice(("bytes", "bytes", "bytes", "cut", "long", "drop", "twice", "swap", "kind"))
        changed = bytearray(content)
        if how == "bytes" and content:
            for _ in range(dice.choice((1, 2, 8))):
                changed[dice.randrange(min(len(content), dice.choice((16, 64, 1 << 20))))] = dice.choice((0, 1, 127, 255, dice.randrange(256)))
        elif how == "cut":
            del changed[dice.randrange(len(content) + 1):]
        elif how == "long":
            changed += bytes(dice.randrange(1, 100))
        elif how == "drop":
            del frames[at]
            continue
        elif how == "twice":
            frames.insert(at, frames[at])
        elif how == "swap":
            other = dice.randrange(len(frames))
            frames[at], frames[other] = frames[other], frames[at]
            continue
        elif how == "kind":
            kind = dice.choice((IMAGE, BYTES, RUNS, DROP, KEEP, 4, 17, 21, 22))
        frames[at] = (kind, bytes(changed))
    return frames


def test_lying_source(tool, machines, life):
    """Without its word at the end, which is never sent, nothing runs; whatever it sends, the receiver ends with an error of its own."""
    frames = [frame for frame in frames_of(recorded(tool, machines, life)[0]) if frame[0] not in (HELLO, COMMIT)]
    fresh = machines.make("fresh")
    before = fresh.pids()
    for nr in range(LIES):
        print(f"lie {nr} of FERRY_SEED={SEED}")
        receiver = fresh.receive(tool)
        with connect(receiver.socket) as end:
            wire = Wire(end)
            wire.hello()
            threading.Thread(target=wire.drain, daemon=True).start()
            try:
                for kind, content in broken(frames, random.Random(f"{SEED} {nr}")):
                    if kind != COMMIT:
                        wire.put(kind, content)
                end.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            status, said = receiver.ended()
        assert status == 1 and "Error" in said, (status, said)
        wait_until(lambda: fresh.pids() == before, "nothing is left")
    life.counts_on()
