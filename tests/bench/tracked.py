# SPDX-License-Identifier: Apache-2.0
"""
What bench.py measures of dumps on top of one another: pauses that a program sees in its own clock, incremental dumps
beside full ones, and what tracking costs a redis-server. CRIU has no answer to these on a kernel without soft-dirty.
"""
import os
import re
import statistics
import struct
import subprocess
import tempfile
import time

import paths
import program
from board import Board
from images import dump_stats, pages_bytes
from redis import server_argv, wait_ready
from waiting import read_or_empty, wait_gone, wait_until

PAGE = 4096
GAP, WRITE_AND_STAND = 2, 3
PAUSES = ((1, 3.0), (8, 5.0))      # GiB and the target in ms
RATE_MIB = 50
ROUNDS = 5
MOST_ROUNDS = 15


def set_slot(directory, slot, value):
    with open(os.path.join(directory, "board"), "r+b") as f:
        f.seek(8 * slot)
        f.write(struct.pack("<Q", value))


def start_writer(directory, mib, rate=RATE_MIB):
    pid = program.start([paths.program("bench", "writer"), mib, rate], cwd=directory)
    wait_until(lambda: Board(directory, 1).read()[0], "memory is filled", 120)
    return pid


def gap_of(directory, work):
    """The longest gap in ms that the program sees while `work` is done; None: nothing is."""
    set_slot(directory, GAP, 0)
    if work:
        work()
    else:
        time.sleep(0.2)
    return Board(directory, 3).slot(GAP) / 1e6


def fill(mib, work):
    """Seconds that a program needs which does nothing but fill so much memory: what this machine takes for it, without ferry."""
    directory = tempfile.mkdtemp(prefix="fill.", dir=work)
    began = time.monotonic()
    pid = program.start([paths.program("bench", "memory"), mib], cwd=directory)
    wait_until(lambda: Board(directory, 2).read()[0], "memory is filled", 120)
    spent = time.monotonic() - began
    program.end_tree(pid)
    subprocess.run(["rm", "-rf", directory], check=True)
    return spent


def stolen():
    """Ticks in which the machine below this one gave its processors to others."""
    with open("/proc/stat") as f:
        return int(f.readline().split()[8])


def peak_rss(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"VmHWM:\s+(\d+)", f.read()).group(1))


def keeper_of(pid):
    for one in program.all_pids():
        try:
            with open(f"/proc/{one}/cmdline", "rb") as f:
                words = f.read().split(b"\0")
        except OSError:
            continue
        if words[:3] == [b"ferry-keeper", b"of", str(pid).encode()]:
            return one
    return None


FILLS = 4       # one after another: a guest gives back what was freed to its host, and that is what it may have to wait for


class Pausing:
    """
    A program of so many GiB, and the longest gaps that it saw while it was dumped in several ways. A gap is noise when the
    processors were taken from the whole machine meanwhile: such rounds are left out, as far as enough others are left.
    """

    def __init__(self, measured, work, gib):
        self.measured, self.rss = measured, 0
        self.directory = tempfile.mkdtemp(prefix="life.", dir=work)
        self.log = os.path.join(self.directory, "log")
        self.pid = start_writer(self.directory, gib << 10)
        self.idle = statistics.median(gap_of(self.directory, None) for _ in range(ROUNDS))
        self.beside = max(gap_of(self.directory, lambda: fill(gib << 10, work)) for _ in range(FILLS))

    def gap(self, tool, name, action, *options):
        """(the gap in ms, whether it is noise)"""
        images = os.path.join(self.directory, name)
        os.mkdir(images)
        command = tool.command(action, "-t", self.pid, "-D", images, "-o", self.log, *options)
        results, before = [], stolen()
        gap = gap_of(self.directory, lambda: results.append(self.measured(command, self.log)))
        noise = stolen() > before
        keeper = keeper_of(self.pid)
        if tool.is_ferry:
            self.rss = max(self.rss, results[0][1], peak_rss(keeper) if keeper else 0)
        return gap, noise

    def rounds(self, one_round):
        """The gaps of several rounds, a list for each that a round has."""
        rounds = []
        while len(rounds) < MOST_ROUNDS and min(map(len, without_noise(rounds)), default=0) < ROUNDS:
            rounds.append(one_round())
        return [quiet or [gap for gap, _ in column] for quiet, column in zip(without_noise(rounds), zip(*rounds))]

    def end_keeper(self):
        """It may be killed; beside it no background dump can watch the memory."""
        keeper = keeper_of(self.pid)
        program.kill(keeper)
        wait_gone(keeper)

    def forget(self, *names):
        subprocess.run(["rm", "-rf", *(os.path.join(self.directory, name) for name in names)], check=True)

    def end(self):
        program.end_tree(self.pid)
        subprocess.run(["rm", "-rf", self.directory], check=True)


def without_noise(rounds):
    return [[gap for gap, noise in column if not noise] for column in zip(*rounds)]


def pauses(tool, peer, measured, work):
    """Rows: medians of the longest gaps; of pre-dumps the first of a chain and the next one, and background dumps."""
    rows, rss = [], 0
    for gib, target in PAUSES:
        p = Pausing(measured, work, gib)

        def pre_dumps():
            gaps = p.gap(tool, "a", "pre-dump"), p.gap(tool, "b", "pre-dump", "--prev-images-dir", "../a")
            p.end_keeper()
            p.forget("a", "b")
            return gaps

        def in_background():
            gap = p.gap(tool, "a", "dump", "-R", "--background")
            p.forget("a")
            return (gap,)
        first, later = p.rounds(pre_dumps)
        (background,) = p.rounds(in_background)
        stopped, _ = p.gap(peer, "a", "dump", "-R")
        p.end()
        rss = max(rss, p.rss)
        quiet = f"{p.idle:.2f} ms with nothing going on, {p.beside:.2f} while another program just fills so much memory"
        for what, gaps, note in (("pre-dump, {} GiB, first", first, quiet), ("pre-dump, {} GiB, on top", later, quiet),
                                 ("background dump, {} GiB", background, f"{quiet}, {stopped:.0f} ms in CRIU's dump -R")):
            rows.append({"name": f"{what.format(gib)}: longest pause", "value": statistics.median(gaps), "target": target,
                         "unit": "ms", "most": True, "note": f"{len(gaps)} rounds from {min(gaps):.2f} to {max(gaps):.2f}; {note}"})
    return rows, rss


def incremental(tool, measured, work, gib=4, share=100):
    """Frozen time and size of a dump of 1 % of the pages, beside those of the full dump before."""
    directory = tempfile.mkdtemp(prefix="life.", dir=work)
    pid = start_writer(directory, gib << 10, 0)
    changed = (gib << 18) // share
    frozen, sizes, full, rss = [], [], [], 0

    def dump(name, *options):
        images = os.path.join(directory, name)
        os.mkdir(images)
        log = os.path.join(directory, "log")
        _, peak = measured(tool.command("dump", "-R", "--track-mem", "-t", pid, "-D", images, "-o", log, *options), log)
        return dump_stats(images)["frozen_us"] / 1000, pages_bytes(images), peak

    for number in range(3):
        set_slot(directory, WRITE_AND_STAND, 1)
        wait_until(lambda: Board(directory, 3).slot(WRITE_AND_STAND) == 0, "the program stands")
        ms, _, peak = dump(f"full{number}")
        full.append(ms)
        rss = max(rss, peak)
        base = f"../full{number}"
        for link in range(2):
            set_slot(directory, WRITE_AND_STAND, changed)
            wait_until(lambda: Board(directory, 3).slot(WRITE_AND_STAND) == 0, "the program stands")
            ms, size, peak = dump(f"inc{number}-{link}", "--prev-images-dir", base)
            base = f"../inc{number}-{link}"
            frozen.append(ms)
            sizes.append(size)
            rss = max(rss, peak)
        subprocess.run(f"rm -rf {directory}/full* {directory}/inc*", shell=True, check=True)
    program.end_tree(pid)
    subprocess.run(["rm", "-rf", directory], check=True)
    whole, part = statistics.median(full), statistics.median(frozen)
    return [
        {"name": f"{gib} GiB, 1% changed: frozen, part of full", "value": part / whole, "target": 1 / 20, "unit": "", "most": True,
         "note": f"{part:.1f} of {whole:.0f} ms"},
        {"name": f"{gib} GiB, 1% changed: size, by changed pages", "value": statistics.median(sizes) / (changed * PAGE), "target": 1.02,
         "unit": "", "most": True, "note": f"{changed} pages"},
    ], rss


def throughput(address, seconds):
    """SETs a second that redis-benchmark gets done in about so many seconds."""
    done = subprocess.run(["timeout", "-s", "INT", str(seconds), "redis-benchmark", "-s", address, "-t", "set", "-n", "100000000",
                           "-c", "20", "-r", "100000", "-d", "1000", "-P", "4"], capture_output=True, text=True, check=False)
    rates = [float(word) for word in re.findall(r"overall: ([0-9.]+)", done.stdout)]
    return rates[-1]


def redis_cost(tool, work, seconds=8):
    """What tracking and a pre-dump every two seconds leave of redis-benchmark's throughput; in pairs."""
    ratios, counts = [], []
    for _ in range(3):
        directory = tempfile.mkdtemp(prefix="life.", dir=work)
        address = f"{directory}/redis.sock"
        pid = program.start(server_argv(directory))
        wait_ready(address)
        throughput(address, 3)                          # memory is there
        without = throughput(address, seconds)
        script = ('cd %s; n=0; while kill -0 %d; do mkdir p$n; sleep 2 & %s -t %d -D p$n ${last:+--prev-images-dir ../p$last} 2>>said;'
                  ' echo $? >>ended; last=$n; n=$((n+1)); wait; done' % (directory, pid, " ".join(tool.command("pre-dump")), pid))
        dumps = subprocess.Popen(["sh", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        ratios.append(throughput(address, seconds) / without)
        os.killpg(dumps.pid, 9)
        dumps.wait()
        ended = read_or_empty(f"{directory}/ended").split()
        assert set(ended) == {"0"}, f"pre-dumps ended with {ended}: {read_or_empty(f'{directory}/said')}"
        counts.append(len(ended))
        program.end_tree(pid)
        wait_gone(pid)
        subprocess.run(["rm", "-rf", directory], check=True)
    return [{"name": "redis-benchmark SET with a pre-dump every 2 s", "value": statistics.median(ratios), "target": 0.8, "unit": "",
             "most": False, "note": f"part of the throughput without; {min(counts)} to {max(counts)} pre-dumps in {seconds} s"}]
