# SPDX-License-Identifier: Apache-2.0
"""
A resource program a kind of kernel state, each in every row of the matrix.

A program sets its state up, says "ready" in its status file, and answers each SIGUSR1 with "ok N", or with
"FAIL N: what was wanted, what was found" lines and "bad N" (res.h).
"""
import os
import signal

import pytest

import paths
import program
from machines import Machines
from streams import StreamTool
from waiting import gone, read_or_empty, wait_gone, wait_until

# program and its arguments -> options that dump and restore are given
CASES = {
    "mem_private": [],
    "mem_private all": [],
    "mem_shared": [],
    "memfd": [],
    "memfd strict": [],
    "memfd exec": [],
    "cow": [],
    "cow all": [],
    "regs": [],
    "thread_areas": [],
    "signals": [],
    "timers": [],
    "syscalls": [],
    "syscalls timed": [],
    "syscalls eintr": [],
    "tree": [],
    "tree leaderless": [],
    "tree moved": [],
    "files": [],
    "files linked": ["--link-remap"],
    "files rmdir": [],
    "files table": [],
    "files strict": [],
    "procs": [],
    "procs all": [],
    "pipes": [],
    "pipes packets": [],
    "events": [],
    "events strict": [],
    "epolls": [],
    "epolls twice": [],
    "epolls dup": [],
    "unix_sockets": [],
    "unix_sockets rights": [],
    "unix_sockets gone": [],
    "unix_sockets unread": [],
    "unix_sockets names": [],
    "inet_sockets": [],
    "inet_sockets strict": [],
    "many 20 8": [],
    "bigmem 64": [],
    "bigmem 64 huge": [],
    "attrs": [],
    "attrs idle": [],
    "attrs fifo": [],
    "attrs caps": [],
    "attrs slack": [],
    "attrs pinned": [],
    "attrs user": [],
    "attrs jail": [],
    "attrs bound": [],
    "attrs odd": [],
    "attrs user jail bound odd idle fifo caps": [],
}

# what ferry does not promise yet; an entry goes as soon as its test passes
FERRY_FAILS = {
    "cow all": "a page that the parent in the middle changed is two copies in its parent and its child",
    "files linked": "refuses an unlinked file that has another name",
    "files rmdir": "refuses a removed directory",
    "unix_sockets rights": "refuses descriptors in a queue",
    "unix_sockets unread": "refuses data in a connection that waits to be accepted",
    "inet_sockets strict": "no TCP_SYNCNT in the images",
}

# what CRIU 4.2.1 itself can't do: in any row, or in the one that is named
CRIU_FAILS = {
    "mem_private all": "MLOCK_ONFAULT comes back as mlock: its holes are filled",
    "cow all": "a page that the parent in the middle changed is two copies in its parent and its child",
    "syscalls timed": "a call with a restart block returns EINTR",
    "syscalls eintr": "what the kernel ends with EINTR at a ptrace stop stays so",
    "tree leaderless": "the task without a session leader becomes init's child, not the subreaper's",
    "tree moved": "joins the group when its leader has left it",
    "files strict": "no O_DIRECTORY; O_ASYNC is set through another descriptor, whose number the signals carry",
    "files linked/leave_running": "leave-running takes the link away that the restore needs",
    "procs all": "a working directory in /proc gets a broken name, an offset there is lost",
    "pipes packets": "refuses packet mode",
    "events strict": "no semaphore mode, 32 bits of a count, no settime flags",
    "epolls dup": "the target is watched under the number of the dup",
    "unix_sockets names": "makes accepted connections as pairs",
    "unix_sockets unread": "refuses data in a connection that waits to be accepted",
    "inet_sockets strict": "no TCP_DEFER_ACCEPT, TCP_USER_TIMEOUT, TCP_SYNCNT in its images",
    "memfd strict": "opens what was O_PATH, and seeks in it",
    "memfd exec": "looks for the program among regular files only",
    "attrs slack": "no timer slack in its images",
    "attrs pinned": "no CPU affinity in its images",
    "attrs odd": "the personality is in the image and not restored",
    "attrs user": "without CAP_SYS_RESOURCE it can't ask for the limits of another user's task",
    "attrs bound": "as attrs user",
    "attrs user jail bound odd idle fifo caps": "as attrs user",
}


class Life:
    """One program under test and its images."""

    def __init__(self, case, workdir, tool, start):
        self.case = case
        name, *args = case.split()
        self.workdir, self.tool, self.options = workdir, tool, CASES[case]
        self.status = os.path.join(workdir, "status")
        self.machine = None     # it is on now; None: on this one
        self.pid = start([paths.program("resources", name), self.status, *args])
        self.wait_for("ready")

    def seen(self, path):
        return self.machine.path(path) if self.machine and self.case.startswith("unix_sockets") else path

    def wait_for(self, word):
        """Until the program has said `word` at the end of a line of its own, with no complaint before it."""
        def said():
            text = read_or_empty(self.seen(self.status))
            assert not (self.machine.gone if self.machine else gone)(self.pid), f"the program has ended; it said: {text!r}"
            assert "set-up" not in text, text
            return text if text.endswith("\n") and text.split("\n")[-2].endswith(word) else None
        text = wait_until(said, f"{self.status} ends with '{word}'", deadline_s=30)
        if "FAIL" in text or "bad" in text:
            pytest.fail(text, pytrace=False)

    def ask(self, round_):
        """One round of checks: everything has to be as before."""
        with open(self.seen(self.status), "w"):
            pass
        if self.machine:
            self.machine.kill(self.pid, signal.SIGUSR1)
        else:
            os.kill(self.pid, signal.SIGUSR1)
        self.wait_for(f" {round_}")

    def dump(self, name, *options):
        self.tool.dump(self.pid, os.path.join(self.workdir, name), *self.options, *options)
        if "-R" not in options:
            wait_gone(self.pid)

    def move(self, to):
        if self.case.startswith("unix_sockets"):        # names in the file system are taken while the source has them
            to.copy(self.workdir, self.machine)
        receiver = to.receive(self.tool)
        command = self.tool.command("migrate", "-t", self.pid, "-v4", f"unix:{receiver.socket}")
        done = self.machine.run(command) if self.machine else self.tool.run(*command[len(self.tool.argv):])
        status, said = receiver.ended()
        assert (done.returncode, status) == (0, 0), done.stderr + said + read_or_empty(to.path(receiver.log))[-3000:]
        self.machine = to

    def restore(self, name):
        assert self.tool.restore(os.path.join(self.workdir, name), *self.options) == self.pid


def alone(life):
    """No dump at all: the program agrees with itself."""
    life.ask(1)
    life.ask(2)


def dump_restore(life):
    life.dump("1")
    life.restore("1")
    life.ask(1)


def leave_running(life):
    life.dump("1", "-R")
    life.ask(1)
    program.end_tree(life.pid)
    life.restore("1")
    life.ask(1)


def dump_of_restored(life):
    dump_restore(life)
    life.dump("2")
    life.restore("2")
    life.ask(2)


def streamed(life):
    if not life.tool.is_ferry:
        pytest.skip("CRIU has no streams")
    life.tool = StreamTool(life.tool)
    dump_restore(life)


def migrated(life):
    """To another machine, and from there to a third."""
    if not life.tool.is_ferry:
        pytest.skip("CRIU has no migrate")
    machines = Machines(life.workdir)
    try:
        for turn, name in enumerate(("there", "away"), 1):
            life.move(machines.make(name))
            life.ask(turn)
    finally:
        machines.end()


@pytest.mark.parametrize("row", [alone, dump_restore, leave_running, dump_of_restored, streamed, migrated], ids=lambda row: row.__name__)
@pytest.mark.parametrize("case", CASES)
def test_survives(request, workdir, tool, start, case, row):
    known = FERRY_FAILS if tool.is_ferry else CRIU_FAILS
    reason = known.get(case, known.get(f"{case}/{row.__name__}"))
    if reason and row is not alone:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=tool.is_ferry))
    row(Life(case, workdir, tool, start))
