# SPDX-License-Identifier: Apache-2.0
"""
The program that changes its memory in every way (mutator/) moves to another machine and back, while it does so. What it has there is
what it saw itself at the barrier at which the last stop found it; rounds ran while it changed.

FERRY_MIGRATE_SEEDS programs (90); FERRY_SEED is the first one's.
"""
import os
import random

import pytest

from machines import Gate, SAY, STAGED, ROUND_DONE, word_of
from mutator import STOP, Mutator
from waiting import read_or_empty, wait_until

SEED = int(os.environ.get("FERRY_SEED") or random.SystemRandom().randrange(1 << 32))
SEEDS = int(os.environ.get("FERRY_MIGRATE_SEEDS", "90"))
MOVES = 4


class Traveller(Mutator):
    """A mutator on a machine."""
    def __init__(self, tool, machine, directory, seed):
        self.machine = machine
        super().__init__(tool, lambda argv, cwd, out: machine.start(argv, out, cwd), directory, seed)

    def gone(self, pid):
        return self.machine.gone(pid)

    def dead(self, pid):
        stat = self.machine.stat(pid)
        return not stat or (stat[0] in "ZX" and len(os.listdir(f"{self.machine.proc}/{pid}/task")) == 1)

    def move(self, to, dice, rounds):
        """It changes while the rounds run; at the last one it stands."""
        receiver = to.receive(self.tool)
        seen = []

        def before(gate, direction, kind, raw):
            if direction != gate.TO_SOURCE or kind != SAY or word_of(raw) not in (STAGED, ROUND_DONE) or seen:
                return
            if gate.words[STAGED] + gate.words[ROUND_DONE] < rounds:
                self.run_on(dice.choice((1, 10, 50, 200, 500)))
            else:
                seen.append(self.stand())
        gate = Gate(receiver.socket, before)
        self.run_on(dice.choice((10, 100, 500)))
        done = self.machine.run(self.tool.command("migrate", "-t", self.pid, "--max-downtime", "2", "--max-rounds", rounds,
                                                  f"unix:{gate.path}"))
        gate.end()
        _, said = receiver.ended()
        truth, said = seen[-1] if seen else None, said + read_or_empty(receiver.log)[-3000:]
        assert done.returncode == 0, done.stderr + said
        for pid in truth.pids if truth else [self.pid]:
            wait_until(lambda pid=pid: self.machine.gone(pid), f"{pid} is gone from where it was")
        self.machine = to
        if not truth:       # nothing was left to send: it has moved as it ran
            return self.fine()
        self.board[STOP] = self.number + 1
        different = truth.differences(self.stand())
        assert not different, "\n".join(different)
        return None


@pytest.mark.parametrize("nr", range(SEEDS))
def test_moves(tool, machines, workdir, nr):
    dice = random.Random(SEED + nr)
    print(f"alone: FERRY_MIGRATE_SEEDS=1 FERRY_SEED={SEED + nr}")
    here, there = machines.make("here"), machines.make("there")
    life = Traveller(tool, here, workdir, dice.getrandbits(63))
    for move in range(MOVES):
        life.move((there, here)[move % 2], dice, dice.choice((2, 3, 4)))
    life.run_on(50)
    life.stand()
    for name in os.listdir(workdir):
        if name.startswith("truth"):
            os.unlink(f"{workdir}/{name}")
