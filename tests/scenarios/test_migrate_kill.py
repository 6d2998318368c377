# SPDX-License-Identifier: Apache-2.0
"""
Either side of a migration is killed, or stopped for a while, or the wire between them is cut, in every phase. The program counts in a file
that both machines have, and each of its tasks knows how far it has come: two that run, or one that begins again from an older state, disagree
with the file at once. Whatever happens it runs on one side, or stands stopped where it was and runs again by `ferry resume`.

FERRY_MIGRATE_KILLS instants (500); FERRY_SEED chooses them.
"""
import mmap
import os
import random
import signal
import threading

import pytest

from machines import COMMIT, FAILED, FLIP, HELLO, IMAGE, KEEP, LAST, PAGES, READY, ROUND, ROUND_DONE, RUNS, RUNS_THERE, SAY, STAGED, Gate, word_of
from waiting import read_or_empty, wait_until

SEED = int(os.environ.get("FERRY_SEED") or random.SystemRandom().randrange(1 << 32))
KILLS = int(os.environ.get("FERRY_MIGRATE_KILLS", "500"))
BATCH = 20
WRONG, ROOT, CHILD = range(3)
PROGRAM = """
import mmap, os, struct, sys, time
with open(sys.argv[1], "r+b") as f:
    board = mmap.mmap(f.fileno(), 4096)
memory = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
shared = mmap.mmap(-1, 1 << 16)
mine = 8 if os.fork() else 16
n = 0
while True:
    if struct.unpack_from("<Q", board, mine)[0] != n or memory[n * 977 % (1 << 20)] not in (0, mine) or shared[mine] != n % 256:
        board[0] = 1
        sys.exit("%d disagrees at %d" % (mine, n))
    memory[n * 977 % (1 << 20)] = mine
    n += 1
    shared[mine] = n % 256
    struct.pack_into("<Q", board, mine, n)
    time.sleep(0.0003)
"""


class Counter:
    """The program, and where it is."""
    def __init__(self, machine, workdir):
        self.workdir, self.machine = workdir, machine
        with open(f"{workdir}/board", "w+b") as f:
            f.truncate(4096)
            self.board = memoryview(mmap.mmap(f.fileno(), 4096)).cast("Q")
        self.out = f"{workdir}/out"
        self.pid = machine.start(["/usr/bin/python3", "-c", PROGRAM, f"{workdir}/board"], self.out)
        self.counts_on()

    def fine(self):
        assert not self.board[WRONG], read_or_empty(self.out)

    def counts_on(self):
        for who in (ROOT, CHILD):
            at = self.board[who]
            wait_until(lambda: self.fine() or self.board[who] > at + 3, "it counts on")

    def stands(self, machine):
        """All of it is stopped; or all of it counts."""
        began = list(self.board[:3])

        def settled():
            self.fine()
            states = set(self.tree(machine).values())
            return states == {"T"} and "stopped" or all(self.board[who] > began[who] + 3 for who in (ROOT, CHILD)) and "counts"
        return wait_until(settled, "it stands or counts") == "stopped"

    def tree(self, machine):
        """Its tasks there: {pid: state}."""
        found = {}
        for pid in machine.pids():
            stat = machine.stat(pid)
            if stat and stat[0] != "Z" and (pid == self.pid or int(stat[1]) == self.pid):
                found[pid] = stat[0]
        return found


def child_of(process):
    children = wait_until(lambda: read_or_empty(f"/proc/{process.pid}/task/{process.pid}/children").split() or process.poll() is not None, "it is started")
    return int(children[0]) if children is not True else 0


def send(pid, sig):
    try:
        if pid:
            os.kill(pid, sig)
    except ProcessLookupError:
        pass


def goes_on(nsenter, pid):
    """Until it has ended: who runs it stops with it."""
    if nsenter.poll() is None:
        send(pid, signal.SIGCONT)
        send(nsenter.pid, signal.SIGCONT)
    return nsenter.poll() is not None


# Where: the first frame of that kind, in its direction.
PLACES = [
    (0, HELLO, None), (1, HELLO, None), (0, IMAGE, None), (0, PAGES, None), (0, ROUND, None), (1, SAY, STAGED), (0, RUNS, None), (1, SAY, ROUND_DONE),
    (0, KEEP, None), (0, LAST, None), (1, SAY, READY), (0, COMMIT, None), (1, SAY, RUNS_THERE), (1, SAY, FAILED),
]
ACTIONS = ["kill source", "kill target", "cut", "flip", "stop source", "stop target", "interrupt source"]


class Trouble:
    """Comes once: before the frame of the place, or a moment after it."""
    def __init__(self, dice, action, place, late_s):
        self.dice, self.action, self.place, self.late_s = dice, action, place, late_s
        self.source = self.target = 0
        self.come = self.committed = False

    def __repr__(self):
        return f"{self.action} at {self.place}, {self.late_s * 1000:.2f} ms later"

    def before(self, gate, direction, kind, raw):
        self.committed |= kind == COMMIT
        if not self.come and (direction, kind) == self.place[:2] and self.place[2] in (None, word_of(raw) if kind == SAY else None):
            self.come = True
            if not self.late_s or self.action == "flip":
                return self.comes(gate)
            threading.Timer(self.late_s, self.comes, (gate,)).start()
        return True

    def comes(self, gate):
        if self.action == "flip":
            return FLIP
        if self.action == "cut":
            gate.cut()
            return False
        pid = self.source if self.action.endswith("source") else self.target
        send(pid, {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "interrupt": signal.SIGINT}[self.action.split()[0]])
        return True


def on_one_side(at, away):
    return not (at and away and set(at.values()) != {"T"}) and (at, away)


def settle(tool, life, here, there, trouble, said):
    """Where it is now."""
    # a moment: vessels of a receiver that was killed end with it
    at, away = wait_until(lambda: on_one_side(life.tree(here), life.tree(there)), "no task runs there while one runs here")
    life.fine()
    if away:
        assert trouble.committed, f"it runs there without a word: {said}"
        life.counts_on()
        if at:
            assert here.run(tool.command("kill", "-t", life.pid)).returncode == 0
            wait_until(lambda: not life.tree(here), "what stood is ended")
        life.counts_on()
        return there, here
    assert at, f"it is nowhere: {said}"
    if life.stands(here):
        assert trouble.committed or trouble.action == "kill source" or trouble.action == "interrupt source", (at, said)
        assert "resume" in said or trouble.action in ("kill source", "interrupt source"), said
        assert here.run(tool.command("resume", "-t", life.pid)).returncode == 0
    life.counts_on()
    return here, there


def one(tool, life, here, there, trouble):
    """Returns the machine that it is on afterwards, and the other one."""
    receiver = there.receive(tool, "--peer-timeout", "1")
    trouble.target = child_of(receiver.process)
    gate = Gate(receiver.socket, trouble.before)
    source = here.popen(tool.command("migrate", "-t", life.pid, "--peer-timeout", "1", "--max-rounds", "3", f"unix:{gate.path}"), stdout=-1, stderr=-2)
    trouble.source = child_of(source)
    if trouble.action.startswith("stop"):       # the other side loses its patience; then it goes on
        patient = receiver.process if trouble.action == "stop source" else source
        wait_until(lambda: patient.poll() is not None, "the other side gives up, or both are done")
        wait_until(lambda: goes_on(source, trouble.source) and goes_on(receiver.process, trouble.target), "it goes on")
    said = source.communicate(timeout=60)[0]
    gate.cut()
    said += receiver.ended()[1]
    gate.end()
    for machine in (here, there):
        wait_until(lambda machine=machine: "ferry" not in {machine.comm(pid) for pid in machine.pids()}, "no ferry is left")
    return settle(tool, life, here, there, trouble, said)


@pytest.mark.parametrize("batch", range((KILLS + BATCH - 1) // BATCH))
def test_one_runs(tool, machines, workdir, batch):
    here, there = machines.make("here"), machines.make("there")
    life = Counter(here, workdir)
    began = {machine: (machine.pids() - {life.pid, *life.tree(machine)}, read_or_empty(f"{machine.proc}/1/mounts")) for machine in (here, there)}
    for nr in range(batch * BATCH, min((batch + 1) * BATCH, KILLS)):
        dice = random.Random(f"{SEED} {nr}")
        trouble = Trouble(dice, ACTIONS[nr % len(ACTIONS)] if nr < len(ACTIONS) * len(PLACES) else dice.choice(ACTIONS),
                          PLACES[nr // len(ACTIONS) % len(PLACES)], dice.choice((0, 0, dice.uniform(0, 0.001), dice.uniform(0, 0.02))))
        print(nr, trouble)
        here, there = one(tool, life, here, there, trouble)
        for machine, (pids, mounts) in began.items():
            wait_until(lambda machine=machine, pids=pids: machine.pids() - set(life.tree(machine)) == pids, "nobody is left")    # but who was not reaped yet
            assert read_or_empty(f"{machine.proc}/1/mounts") == mounts
