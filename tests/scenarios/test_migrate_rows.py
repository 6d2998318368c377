# SPDX-License-Identifier: Apache-2.0
"""
The rows of tracked/ (what trackers must survive), each through a migration there and one back: the memory changes after the stage, between
rounds, or after the last round. What the program finds over there is what it knows.
"""
import mmap
import os

import pytest

from machines import Gate, ROUND_DONE, SAY, STAGED, word_of
from test_tracked import BOARD_BYTES, DONE, GO, PROGRAM, SKIP, WRONG, disk_file, rows
from waiting import read_or_empty, wait_until

ROUNDS = 4
# What any dump refuses, and these have when it begins: they go on where they are.
REFUSED = {"aio", "io-uring", "own-uffd", "guards"}


class Row:
    def __init__(self, tool, machine, workdir, name):
        self.tool, self.machine, self.home = tool, machine, f"{workdir}/home"
        os.mkdir(self.home)
        with open(f"{self.home}/board", "w+b") as f:
            f.truncate(BOARD_BYTES)
            self.board = memoryview(mmap.mmap(f.fileno(), BOARD_BYTES)).cast("Q")
        self.out = f"{self.home}/out"
        self.pid = machine.start([PROGRAM, name, disk_file()], self.out, self.home)
        self.wait_done(1)

    def wait_done(self, stage):
        def done():
            if self.board[SKIP]:
                pytest.skip(read_or_empty(self.out))
            assert not self.board[WRONG] and not self.machine.gone(self.pid), (self.pid, self.machine.pids(), read_or_empty(self.out)[:2000], os.path.exists(f"{self.machine.proc}/{self.pid}"))
            return self.board[DONE] >= stage
        wait_until(done, f"stage {stage} is reached")

    def go(self, stage):
        self.board[GO] = stage
        self.wait_done(stage + 1)

    def poke(self):
        """So that there is another round: a byte at the far end of its stack is written anew."""
        stack = next(line for line in read_or_empty(f"{self.machine.proc}/{self.pid}/maps").splitlines() if "[stack]" in line)
        with open(f"{self.machine.proc}/{self.pid}/mem", "r+b", buffering=0) as f:
            at = int(stack.split("-")[0], 16)
            f.seek(at)
            byte = f.read(1)
            f.seek(at)
            f.write(byte)

    def move(self, to, changes_at, rounds=ROUNDS):
        """changes_at: 1 is the stage."""
        receiver = to.receive(self.tool)
        answers = []

        def before(gate, direction, kind, raw):
            if direction == gate.TO_SOURCE and kind == SAY and word_of(raw) in (STAGED, ROUND_DONE):
                answers.append(word_of(raw))
                if len(answers) == changes_at:
                    self.go(1)
                elif changes_at:
                    self.poke()
        gate = Gate(receiver.socket, before)
        done = self.machine.run(self.tool.command("migrate", "-t", self.pid, "--max-downtime", "2", "--max-rounds", rounds, f"unix:{gate.path}"))
        gate.end()
        status, said = receiver.ended()
        assert (done.returncode, status) == (0, 0), done.stderr + said + read_or_empty(receiver.log)[-3000:]
        self.machine = to
        assert len(answers) >= changes_at, "there were as many rounds as were wanted"


@pytest.mark.parametrize("changes_at", (1, 2, 3, 4))
@pytest.mark.parametrize("name", rows())
def test_row(tool, workdir, machines, name, changes_at):
    here, there = machines.make("here"), machines.make("there")
    row = Row(tool, here, workdir, name)
    if name in REFUSED:
        with pytest.raises(AssertionError, match="not handled yet"):
            row.move(there, changes_at)
        row.go(1)
    else:
        row.move(there, changes_at)
        row.move(here, 0)
    row.go(2)
