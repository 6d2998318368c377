# SPDX-License-Identifier: Apache-2.0
"""
Machines between which programs move: each is a set of pid, mount, network and IPC namespaces on the same file system, whose
process numbers are far from those of the others. And a gate on the wire between two of them.
"""
import ctypes
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading

import paths
from program import reap, strangers
from streams import FRAME
from waiting import Told, described, read_or_empty, wait_until

PIDS_APART = 100000
BEGIN_BYTES = 16
IMAGE, BYTES, PAGES_FILE, STATE_END, PAGES, SEAL = range(1, 7)
HELLO, ROUND, RUNS, DROP, KEEP, LAST, COMMIT, SAY, CHECK, CHANNELS = range(16, 26)
STAGED, ROUND_DONE, READY, RUNS_THERE, FAILED = range(5)
WORD = struct.Struct("<I")
FLIP = 2


def within(netns, call):
    """A socket that is made in that network namespace stays there."""
    libc = ctypes.CDLL(None)
    with open("/proc/thread-self/ns/net", "rb") as home, open(netns, "rb") as there:
        assert libc.setns(there.fileno(), 0) == 0
        try:
            return call()
        finally:
            assert libc.setns(home.fileno(), 0) == 0


class Machine:
    """`run`, `popen`: commands on it; `proc`: its /proc; `receive()`: takes a program in."""
    def __init__(self, workdir, sockets, name, nr):
        self.workdir, self.sockets, self.name = workdir, sockets, name
        self.received = 0
        self.process = subprocess.Popen([paths.INIT, "/bin/sh", "-c", "exec cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self.init = int(wait_until(lambda: read_or_empty(f"/proc/{self.process.pid}/task/{self.process.pid}/children"), f"{name} is up"))
        self.proc = f"/proc/{self.init}/root/proc"
        wait_until(lambda: self.comm(1) == "init" and self.comm(2) == "cat", f"{name} is up")      # before, its /proc is ours
        self.run(["sh", "-c", f"echo {PIDS_APART * nr} > /proc/sys/kernel/ns_last_pid"], check=True)

    def on(self, command):
        return ["nsenter", "-t", str(self.init), "-m", "-p", "-n", "-i", "--", *(str(word) for word in command)]

    def run(self, command, **kwargs):
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(self.on(command), capture_output=True, text=True, errors="backslashreplace", **{"check": False, "timeout": 120, **kwargs})

    def popen(self, command, **kwargs):
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(self.on(command), text=True, errors="backslashreplace", **kwargs)

    def start(self, argv, out="/dev/null", cwd=None):
        done = self.run([paths.DETACH, "-i", "/dev/null", "-o", out, *(["-d", cwd] if cwd else []), *argv], check=True)
        return int(done.stdout)

    def pids(self):
        """All of its processes, by its own numbers."""
        try:
            return {int(name) for name in os.listdir(self.proc) if name.isdigit()}
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return set()

    def comm(self, pid):
        return read_or_empty(f"{self.proc}/{pid}/comm").strip()

    def gone(self, pid):
        return not os.path.exists(f"{self.proc}/{pid}")

    def stat(self, pid):
        text = read_or_empty(f"{self.proc}/{pid}/stat")
        return text.rpartition(")")[2].split() if text else None

    def kill(self, pid, sig):
        self.run(["kill", f"-{int(sig)}", pid])

    def path(self, name):
        """Of one of its files, from here."""
        return f"/proc/{self.init}/root{name}"

    def copy(self, directory, other=None):
        """From now on it has one of its own, with the files of the other machine's; sockets are no files."""
        self.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)
        inside = os.path.basename(directory)
        tar = subprocess.run(["tar", "-C", os.path.dirname(other.path(directory) if other else directory), "--xattrs", "-cpf", "-", inside],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        subprocess.run(["tar", "-C", os.path.dirname(self.path(directory)), "--xattrs", "-xpf", "-"], input=tar.stdout, check=True)

    def receive(self, tool, *options, group=None):
        return Receiver(self, tool, options, group)

    def ends(self):
        self.process.kill()
        self.process.communicate()


class Receiver:
    """One `ferry receive` of a machine, that listens. `group`: the file of a control group's processes, one of which it is."""
    def __init__(self, machine, tool, options, group=None):
        machine.received += 1
        self.machine = machine
        self.socket = f"{machine.sockets}/{machine.name}-{machine.received}"
        self.log = f"{machine.workdir}/{machine.name}-{machine.received}.log"
        join = ["sh", "-c", f'echo $$ >{group} && exec "$@"', "sh"] if group else []
        self.process = machine.popen(join + tool.command("receive", "--unix", self.socket, "-d", "-v4", "-o", self.log, *options),
                                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait_until(lambda: os.path.exists(self.socket) or self.process.poll() is not None, f"{machine.name} listens")

    def ended(self, timeout_s=60):
        """(exit status, what it said)."""
        said, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, said

    def pid(self):
        """Its own number on this machine (nsenter has become its parent)."""
        return int(read_or_empty(f"/proc/{self.process.pid}/task/{self.process.pid}/children").split()[0])


class Gate:
    """
    A wire between a source and the target that listens at `path`. `before(gate, direction, type, bytes)` is called with each frame
    before it passes, and may take its time; False: the wire is cut there; FLIP: a bit of it is another one.
    """
    TO_TARGET, TO_SOURCE = 0, 1

    def __init__(self, path, before):
        self.target, self.before, self.path = path, before, path + ".gate"
        self.words = [0] * 5
        self.failed = None
        self.record = [bytearray(), bytearray()]
        self.listener = unix_listener(self.path)
        self.threads = [threading.Thread(target=self.serve, daemon=True)]
        self.threads[0].start()

    def serve(self):
        self.listener.settimeout(60)
        try:
            source, _ = self.listener.accept()
            target = socket.socket(socket.AF_UNIX)
            target.connect(self.target)
        except OSError:
            return
        self.ends = (source, target)
        back = threading.Thread(target=self.pump, args=(target, source, self.TO_SOURCE), daemon=True)
        self.threads.append(back)
        back.start()
        self.pump(source, target, self.TO_TARGET)

    def pump(self, one, other, direction):
        try:
            self.pass_on(other, direction, take(one, BEGIN_BYTES))
            while True:
                head = take(one, FRAME.size)
                kind, length, _, _ = FRAME.unpack(head)
                raw = take(one, length)
                if kind == SAY and direction == self.TO_SOURCE:
                    self.words[min(WORD.unpack_from(raw)[0], 4)] += 1
                verdict = self.before(self, direction, kind, raw)
                if verdict is False:
                    return self.cut()
                whole = bytearray(head + raw)
                if verdict == FLIP:
                    whole[len(whole) // 2] ^= 1
                self.pass_on(other, direction, whole)
        except EOFError:
            self.shut(other, socket.SHUT_WR)
        except OSError:     # one that is not read any more may have said why: the other direction is left to itself
            self.shut(one, socket.SHUT_RD)
            self.shut(other, socket.SHUT_WR)
        except BaseException as e:   # the test's own
            self.failed = e
            self.cut()
        return None

    def pass_on(self, to, direction, raw):
        self.record[direction] += raw
        to.sendall(raw)

    @staticmethod
    def shut(end, how):
        try:
            end.shutdown(how)
        except OSError:
            pass

    def cut(self):
        for end in getattr(self, "ends", ()):
            self.shut(end, socket.SHUT_RDWR)

    def end(self):
        self.shut(self.listener, socket.SHUT_RDWR)      # who waits for somebody to come
        self.listener.close()
        for thread in self.threads:
            thread.join(30)
        for end in getattr(self, "ends", ()):
            end.close()
        if self.failed:
            raise self.failed


def unix_listener(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    return listener


def take(end, length):
    raw = bytearray()
    while len(raw) < length:
        more = end.recv(min(length - len(raw), 1 << 20))
        if not more:
            raise EOFError
        raw += more
    return bytes(raw)


def word_of(raw):
    return WORD.unpack_from(raw)[0]


class Machines:
    """As a fixture: made on demand, ended and gone after the test."""
    def __init__(self, workdir):
        self.workdir, self.all = workdir, []
        self.sockets = tempfile.mkdtemp(prefix="wire.", dir=os.path.dirname(workdir))   # paths of sockets are short

    def make(self, name):
        self.all.append(Machine(self.workdir, self.sockets, name, len(self.all) + 1))
        return self.all[-1]

    def end(self):
        for one in self.all:
            one.ends()
        wait_until(self.are_gone, Told(lambda: "the machines are gone\n" + "\n".join(described(pid) for pid in strangers())))
        shutil.rmtree(self.sockets)

    @staticmethod
    def are_gone():
        reap()      # commands that a failed test did not wait for
        return not {"init", "nsenter"} & set(strangers().values())


class Shells:
    """As a fixture: `run(words)` is a shell in namespaces of its own, another machine whose own pids are far from those that come."""
    def __init__(self):
        self.running = []

    def run(self, words, own_network=True):
        network = [] if own_network else ["-n"]
        self.running.append(subprocess.Popen([paths.INIT, *network, "/bin/sh", "-c", f"echo 1000000 >/proc/sys/kernel/ns_last_pid; {words}"],
                                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return self.running[-1]

    def end(self):
        for one in self.running:
            one.kill()
            one.communicate()
        wait_until(lambda: "init" not in strangers().values(), "the other machines are gone")
