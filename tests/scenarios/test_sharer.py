# SPDX-License-Identifier: Apache-2.0
"""Programs whose memory is not ferry's alone to track: they track it themselves, or two processes have it as one."""
import os
import signal

import pytest

import paths
from program import end_tree
from trackers import need_tracker
from waiting import read_or_empty, wait_until


class Sharer:
    def __init__(self, tool, start, workdir, mode):
        need_tracker(tool, "scan")
        self.tool, self.workdir, self.out = tool, workdir, f"{workdir}/out"
        self.pid = start([paths.program("scenarios", "sharer"), self.out, mode])
        self.wait("ready")

    def wait(self, word):
        wait_until(lambda: word in read_or_empty(self.out), f"it says {word}")
        return read_or_empty(self.out).splitlines()[-1]

    def ask(self, sig, word):
        """What it says last."""
        os.kill(self.pid, sig)
        return self.wait(word)

    def take(self, action, name, *options, prev=None):
        os.makedirs(f"{self.workdir}/{name}")
        on_top = ["--prev-images-dir", f"../{prev}"] if prev else []
        return self.tool.run_well(action, f"{self.workdir}/{name}", "-t", self.pid, *on_top, *options)


def test_watches_itself(tool, start, workdir):
    """Pre-dumps take no change away from it."""
    program = Sharer(tool, start, workdir, "watch")
    for i in range(2):
        program.take("pre-dump", f"{i}", prev=f"{i - 1}" if i else None)
    assert program.ask(signal.SIGUSR1, "seen") == "seen 5"


@pytest.mark.parametrize("tracker", ["scan", "soft-dirty"])
def test_shares_its_memory(tool, start, workdir, tracker):
    """With a process that is gone at the last dump: no write is missed that came in between pre-dumps of both."""
    need_tracker(tool, tracker)
    program = Sharer(tool, start, workdir, "clone")
    program.take("pre-dump", "0", "--tracker", tracker)
    program.ask(signal.SIGUSR1, "shares")
    last = 0
    while "wrote" not in read_or_empty(program.out):
        last += 1
        program.take("pre-dump", f"{last}", "--tracker", tracker, prev=f"{last - 1}")
    program.ask(signal.SIGUSR2, "alone")
    said = program.ask(signal.SIGHUP, "sum")
    program.take("dump", "end", "--tracker", tracker, prev=f"{last}")
    end_tree(program.pid)
    os.unlink(program.out)
    program.tool.restore(f"{workdir}/end")
    assert program.ask(signal.SIGHUP, "sum") == said
