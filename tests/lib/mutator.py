# SPDX-License-Identifier: Apache-2.0
"""
The harness of tests/scenarios/mutator/ (mutator.h says how it is driven): a barrier at which all stands still, the
truth of that moment, and the comparison of a restored life with it.
"""
import mmap
import os
import struct
import subprocess
import warnings

import paths
from program import end_tree, stat_of, strangers
from waiting import gone, read_or_empty, wait_gone, wait_until

WRONG, STOP, CHECK, STEPS, STALE, PROCESS, OPS = 0, 1, 2, 3, 4, 8, 64
PID, PARKED, CHECKED, KIDS, PROCESS_WORDS = range(5)
BOARD_BYTES = 512 * 8
PROCESSES = 5
PAGE = 4096

HEAD, REGION, SEEN = struct.Struct("<QQIIII"), struct.Struct("<16sQQ"), struct.Struct("<QIBB6s4x")
WRITE, SHARED = 2, 8
KINDS = ["free", "anonymous", "heap", "private file", "private memfd", "shared file", "shared memfd", "shared anonymous",
         "beyond the heap"]

PROGRAM = paths.program("scenarios/mutator", "mutator")
# What a restored life needs as it was: its files are the real ones.
FILES = ("private-file", "shared-file")


def op_names():
    return subprocess.run([PROGRAM, "--ops"], capture_output=True, text=True, check=True).stdout.split()


class Truth:
    """What all processes saw at a barrier: {id: file of digest.c}; and the files they map."""
    def __init__(self, seen, files):
        self.seen = seen
        self.files = files
        self.pids = {HEAD.unpack_from(raw)[2] for raw in seen.values()}

    def differences(self, other, most=5):
        """Lines that tell where `other` is not as this one; none when it is."""
        if self.seen.keys() != other.seen.keys():
            return [f"processes were {sorted(self.seen)}, are {sorted(other.seen)}"]
        lines = []
        for one in sorted(self.seen):
            lines += differing_pages(one, self.seen[one], other.seen[one])
        return lines[:most] + ([f"and {len(lines) - most} more"] if len(lines) > most else [])


def regions_of(raw):
    """(name, base, offset of its pages, number of pages) of each region."""
    at = HEAD.size
    for _ in range(HEAD.unpack_from(raw)[4]):
        name, base, pages = REGION.unpack_from(raw, at)
        at += REGION.size
        yield name.rstrip(b"\0").decode(), base, at, pages
        at += SEEN.size * pages


def differing_pages(process, was, now):
    if was[8:] == now[8:]:  # the number of the check apart
        return []
    if HEAD.unpack_from(was)[1:] != HEAD.unpack_from(now)[1:]:
        return [f"process {process}: {HEAD.unpack_from(was)} became {HEAD.unpack_from(now)}"]
    names, lines = op_names(), []
    for name, base, at, pages in regions_of(was):
        for i in range(pages):
            begin = at + i * SEEN.size
            if was[begin:begin + SEEN.size] == now[begin:begin + SEEN.size]:
                continue
            hash_was, step, rights_was, kind, ops, = SEEN.unpack_from(was, begin)
            hash_now, _, rights_now, *_ = SEEN.unpack_from(now, begin)
            last = ", ".join(names[op] for op in ops if op)
            lines.append(f"process {process}, {name} page {i} at {base + i * PAGE:#x}, {KINDS[kind]}: "
                         f"content {hash_was:#x} became {hash_now:#x}, rights {rights_was:#x} became {rights_now:#x}; "
                         f"last operation in step {step}: {last or 'none'}")
    return lines or [f"process {process}: regions differ"]


class Mutator:
    """A life of the program in `directory`, and the lives that come of its images."""
    def __init__(self, tool, start, directory, seed):
        self.tool, self.directory = tool, directory
        self.out = os.path.join(directory, "out")
        self.number = 0
        self.truths = {}
        board = os.open(os.path.join(directory, "board"), os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(board, BOARD_BYTES)
        self.board = memoryview(mmap.mmap(board, BOARD_BYTES)).cast("Q")  # struct.pack_into would write a 0 first
        os.close(board)
        self.pid = start([PROGRAM, seed, direct_file()], cwd=directory, out=self.out)

    # ---- where it runs ----

    def gone(self, pid):
        return gone(pid)

    def dead(self, pid):
        return dead(pid)

    # ---- the board ----

    def word(self, process, word):
        return self.board[PROCESS + process * PROCESS_WORDS + word]

    def fine(self):
        assert not self.board[WRONG], f"{self.board[WRONG]} things wrong: {read_or_empty(self.out)[:2000]}"
        assert not self.gone(self.pid), f"the program is gone; it said: {read_or_empty(self.out)[:2000]}"

    def wait(self, condition, what):
        def look():
            self.fine()
            return condition()
        return wait_until(look, what)

    def op_counts(self):
        return {name: self.board[OPS + i] for i, name in enumerate(op_names())}

    # ---- running and standing ----

    def run_on(self, steps):
        """Leaves the barrier, and returns when so many steps were done since."""
        before = self.board[STEPS]
        self.board[STOP] = 0
        self.wait(lambda: self.board[STEPS] >= before + steps, f"{steps} steps more")

    def processes(self):
        """Ids of those that stand at barrier `number`; None while one still runs. A dead child counts as nothing."""
        found, todo = [], [0]
        while todo:
            one = todo.pop()
            if one and self.dead(self.word(one, PID)):
                continue
            if self.word(one, PARKED) != self.number:
                return None
            found.append(one)
            todo += [kid for kid in range(PROCESSES) if self.word(one, KIDS) >> kid & 1]
        return found

    def stand(self):
        """All go to a barrier, and tell what they see there. In a restored life they stand already."""
        self.number += 1
        self.board[STOP] = self.number
        ids = self.wait(self.processes, f"all stand at barrier {self.number}")
        self.board[CHECK] = self.number
        self.wait(lambda: all(self.word(one, CHECKED) == self.number for one in ids), "all have told what they see")
        self.fine()
        if self.board[STALE]:
            warnings.warn(f"this machine shows a processor other pages than the page tables have: {read_or_empty(self.out)[:1000]}")
            self.board[STALE] = 0
        return Truth({one: self.take(f"truth.{one}.{self.number}") for one in ids}, {name: self.read(name) for name in FILES})

    def read(self, name):
        with open(os.path.join(self.directory, name), "rb") as f:
            return f.read()

    def take(self, name):
        raw = self.read(name)
        os.unlink(os.path.join(self.directory, name))
        return raw

    # ---- images ----

    def images(self, link):
        return os.path.join(self.directory, f"images-{link}")

    def pre_dump(self, link, *options):
        """While it runs."""
        os.makedirs(self.images(link))
        self.tool.run_well("pre-dump", self.images(link), "-t", self.pid, *options)
        self.fine()

    def dump(self, link, *options):
        """At a barrier, whose truth is the link's from now on. With -R all stand there still when it is done."""
        self.truths[link] = self.stand()
        self.tool.dump(self.pid, self.images(link), *options)
        if "-R" in options:
            self.fine()
        else:
            for pid in self.truths[link].pids:
                wait_gone(pid)

    def killed(self, action, link, after_s, *options):
        """The tool begins, and dies `after_s` later if it did not end before."""
        os.makedirs(self.images(link))
        command = self.tool.command(action, "-D", self.images(link), "-t", self.pid, *options)
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                process.wait(after_s)
            except subprocess.TimeoutExpired:
                process.kill()
        self.fine()

    def pre_dump_killed(self, link, after_s, *options):
        self.killed("pre-dump", link, after_s, *options)

    def dump_killed(self, link, after_s, *options):
        self.stand()
        self.killed("dump", link, after_s, "-R", *options)

    def dump_behind(self, link, *options):
        """The barrier is left with the end of the stop. Returns whether they ran on while the tool still worked."""
        self.truths[link] = self.stand()
        os.makedirs(self.images(link))
        log = os.path.join(self.images(link), "dump.log")
        command = self.tool.command("dump", "-D", self.images(link), "-v4", "-o", log, "-t", self.pid, "-R", *options)
        with open(os.path.join(self.images(link), "stderr"), "w", encoding="utf-8") as stderr:
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr) as process:
                # in the background it stops the program a first time, to arm it, and some thread at each system call
                held = self.stopped if "--background" not in options else lambda: False
                self.wait(lambda: held() or lets_run_on(process, log), "the tool stops the program, and lets it run on")
                self.board[STOP] = 0
                before = self.board[STEPS]
                self.wait(lambda: self.board[STEPS] > before or process.poll() is not None, "it runs on")
                beside = process.poll() is None
                assert process.wait(60) == 0, f"{read_or_empty(stderr.name)}\n{read_or_empty(log)[-2000:]}"
        self.fine()
        return beside

    def stopped(self):
        """Every thread is held by the tool: whatever is said to the program now, it sees after that stop."""
        for pid in self.truth_pids():
            try:
                threads = os.listdir(f"/proc/{pid}/task")
            except FileNotFoundError:
                return False
            if any((stat_of(f"{pid}/task/{tid}") or "?")[0] != "t" for tid in threads):
                return False
        return True

    def truth_pids(self):
        return list(self.truths.values())[-1].pids

    # ---- lives ----

    def end(self):
        end_tree(self.pid)
        wait_until(lambda: not strangers(), "what the tool left behind for it ends as well")

    def restore(self, link, directory=None):
        """The life of `link` is as it was at its barrier, and stands there."""
        truth = self.truths[link]
        for name, content in truth.files.items():
            with open(os.path.join(self.directory, name), "r+b") as f:
                f.write(content)
        self.board[STOP] = self.number + 1
        assert self.tool.restore(directory or self.images(link)) == self.pid
        different = truth.differences(self.stand())
        assert not different, f"link {link}: " + "\n".join(different)

    def restore_and_live(self, link, directory=None):
        """And it goes on from there."""
        self.restore(link, directory)
        self.run_on(30)
        self.stand()
        self.end()


def dead(pid):
    """A zombie, its last thread as well: one may still be in a system call that writes."""
    stat = stat_of(pid)
    return stat[0] in "ZX" and len(os.listdir(f"/proc/{pid}/task")) == 1


def lets_run_on(process, log):
    """The tool said so, or ended."""
    return process.poll() is not None or "running on" in read_or_empty(log)


def direct_file():
    """A file that can be read past the page cache: on the disk of the build, as tmpfs only says it does."""
    path = os.path.join(os.path.dirname(PROGRAM), "direct")
    if not os.path.exists(path):
        with open(f"{path}.{os.getpid()}", "wb") as f:
            f.write(os.urandom(256 * PAGE))
        os.rename(f.name, path)
    return path
