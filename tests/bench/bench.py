# SPDX-License-Identifier: Apache-2.0
"""
make bench: ferry beside the peer, CRIU of Debian's sid, in one run. Each measure is taken in pairs (one tool, then the
other, again and again, each on a fresh program), images on tmpfs; the medians are compared. Writes bench.json and
bench.svg into the build directory.

    bench.py [-n ROUNDS] [--only WORD]
"""
import argparse
import json
import mmap
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))

# pylint: disable=wrong-import-position
import family
import loaded
import paths
import piped
import program
from board import Board
from images import dump_stats
import migrate
from plot import draw
import tracked
from tool import make_peer, make_tool, read_log
import wire
from waiting import wait_asleep, wait_gone, wait_until

MEMORY_MIB = 2048
TASKS, THREADS = 100, 8
MEASURE = paths.program("bench", "measure")
MOST_RSS_KIB = 64 << 10


class Sleeping:
    """One task that sleeps."""
    targets = {"dump": 1 / 8, "restore": 1 / 8}
    name, title = "sleep", "sleeping task"

    def start(self, _directory):
        pid = program.start(["sleep", "1000"])
        wait_asleep(pid)
        return pid

    def check(self, pid, _directory):
        wait_asleep(pid)


class Memory:
    """Two GiB of random private memory."""
    targets = {"frozen": 1 / 2, "restore": 1 / 2}
    name, title = "memory", "2 GiB of memory"

    def start(self, directory):
        pid = program.start([paths.program("bench", "memory"), MEMORY_MIB], cwd=directory)
        wait_until(lambda: Board(directory, 2).read()[0], "memory is filled", 120)
        return pid

    def check(self, pid, directory):
        board = Board(directory, 2)
        before = board.read()[1]
        os.kill(pid, signal.SIGUSR1)
        wait_until(lambda: board.read()[1] > before, "memory is checked", 120)


class Crowd:
    """A hundred tasks of eight threads."""
    targets = {"dump": 1 / 3, "restore": 1 / 3}
    name, title = "crowd", f"{TASKS} tasks of {THREADS} threads"

    def start(self, directory):
        pid = program.start([paths.program("bench", "crowd"), TASKS, THREADS], cwd=directory)
        wait_until(lambda: Board(directory, 1).read()[0] == TASKS * THREADS, "all threads run", 60)
        return pid

    def check(self, pid, _directory):
        tree = program.tree_of(pid)
        assert len(tree) == TASKS and all(len(os.listdir(f"/proc/{p}/task")) == THREADS for p in tree)


def measured(command, log):
    done = subprocess.run([MEASURE, *command], capture_output=True, text=True, check=True)
    status, wall_us, rss_kib = map(int, done.stdout.split())
    if status:
        sys.exit(f"bench: {' '.join(command)} ended with {status}\n{read_log(log)[-3000:]}")
    return wall_us / 1000, rss_kib


def one_life(tool, kind, work):
    """Starts, dumps, restores, checks and ends the program; returns what was measured."""
    directory = tempfile.mkdtemp(prefix="life.", dir=work)
    images, log = os.path.join(directory, "images"), os.path.join(directory, "log")
    os.mkdir(images)
    pid = kind.start(directory)
    pids = program.tree_of(pid)
    dump_ms, dump_rss = measured(tool.command("dump", "-t", pid, "-D", images, "-o", log), log)
    for one in pids:
        wait_gone(one)
    restore_ms, restore_rss = measured(tool.command("restore", "-d", "-D", images, "-o", log), log)
    kind.check(pid, directory)
    result = {"dump": dump_ms, "restore": restore_ms, "frozen": dump_stats(images)["frozen_us"] / 1000,
              "dump_rss_kib": dump_rss, "restore_rss_kib": restore_rss}
    program.end_tree(pid)
    shutil.rmtree(directory)
    return result


def warm_up(size_bytes):
    """Memory that the machine has not used for a while may come slowly from its host: touch it once."""
    area = mmap.mmap(-1, size_bytes)
    for at in range(0, size_bytes, 4096):
        area[at] = 1
    area.close()


def compare(kind, ferry, peer, rounds, work):
    """Medians of both tools over `rounds` pairs; the first pair is for warming up."""
    lives = {ferry: [], peer: []}
    for number in range(rounds + 1):
        for tool, results in lives.items():
            result = one_life(tool, kind, work)
            if number:
                results.append(result)
        if sys.stderr.isatty():
            print(f"\r{kind.title}: {number} of {rounds} ", end="\n" if number == rounds else "", file=sys.stderr, flush=True)
    return [{key: statistics.median(life[key] for life in results) for key in results[0]} | {"lives": results} for results in lives.values()]


def rows_of(kind, ours, theirs):
    return [{"name": f"{kind.title}: {what}", "unit": "ms", "ferry": ours[what], "peer": theirs[what],
             "ratio": ours[what] / theirs[what], "target": target} for what, target in kind.targets.items()]


def print_table(rows, rss):
    print(f"{'':<36}{'ferry':>10}{'CRIU':>10}{'ratio':>8}{'target':>8}")
    for row in rows:
        verdict = "" if row["ratio"] <= row["target"] else "  MISSED"
        print(f"{row['name']:<36}{row['ferry']:>7.2f} ms{row['peer']:>7.1f} ms{row['ratio']:>8.3f}{row['target']:>8.3f}{verdict}")
    for name, (ours, theirs) in rss.items():
        verdict = "" if ours <= MOST_RSS_KIB else "  MISSED"
        print(f"{name:<36}{ours / 1024:>6.1f} MiB{theirs / 1024:>6.1f} MiB{'':>8}{'64 MiB':>8}{verdict}")


def print_own(rows):
    """What has no peer. A value that is none, or no number, is missed as well."""
    for row in rows:
        value, most = row["value"], row["most"]
        missed = value is None or not (value <= row["target"] if most else value >= row["target"])
        print(f"{row['name']:<46}{'nothing ' if value is None else f'{value:>8.3f}'} {row['unit']:<3}{'at most' if most else 'at least':>9} "
              f"{row['target']:.3f}{'  MISSED' if missed else '        '}  {row['note']}")


# Memory to warm up, in GiB, and what returns rows (and the most memory that ferry took). By the word of --only.
OWN = {
    "pauses": (12, lambda ferry, peer, moves, work: tracked.pauses(ferry, peer, measured, work)),
    "incremental": (10, lambda ferry, peer, moves, work: tracked.incremental(ferry, measured, work)),
    "redis": (0, lambda ferry, peer, moves, work: tracked.redis_cost(ferry, work)),
    "wire": (9, lambda ferry, peer, moves, work: wire.measure(ferry, peer, 3, work)),
    "migrate": (12, migrate.measure),
    "migrate-idle": (9, lambda ferry, peer, moves, work: migrate.measure_idle(ferry, min(moves, migrate.FEW), work)),
    "migrate-family": (2, lambda ferry, peer, moves, work: family.measure(ferry, min(moves, migrate.FEW), work)),
    "migrate-redis": (2, lambda ferry, peer, moves, work: loaded.measure(ferry, min(moves, migrate.FEW), work)),
    "stream": (6, lambda ferry, peer, moves, work: piped.measure(ferry, 5, work)),
}


def measure_own(ferry, peer, only, moves, work):
    rows, rss = [], 0
    for name, (warm_gib, measure) in OWN.items():
        if only not in (None, name):
            continue
        if warm_gib:
            warm_up(warm_gib << 30)
        found = measure(ferry, peer, moves, work)
        more, peak = found if isinstance(found, tuple) else (found, 0)
        rows, rss = rows + more, max(rss, peak)
    if rss:
        rows.append({"name": "peak memory of ferry and keeper", "value": rss / 1024, "target": 64, "unit": "MiB", "most": True, "note": ""})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=5, help="pairs of each measure (5)")
    kinds = [Sleeping(), Memory(), Crowd()]
    words = [kind.name for kind in kinds] + list(OWN)
    parser.add_argument("--only", metavar="WORD", choices=words, help=f"one of {', '.join(words)}")
    args = parser.parse_args()
    kinds = [kind for kind in kinds if args.only in (None, kind.name)]
    ferry, peer = make_tool(), make_peer()
    work = tempfile.mkdtemp(prefix="ferry-bench.", dir="/dev/shm")
    rows, rss, raw = [], {}, {}
    try:
        for kind in kinds:
            if kind.name == "memory":
                warm_up(3 * MEMORY_MIB << 20)
            rounds = args.n if kind.name != "sleep" else 3 * args.n
            ours, theirs = compare(kind, ferry, peer, rounds, work)
            rows += rows_of(kind, ours, theirs)
            for what in ("dump", "restore"):
                key = f"{what}_rss_kib"
                peaks = [max(life[key] for life in side["lives"]) for side in (ours, theirs)]
                rss[f"{kind.title}: peak of {what}"] = peaks
            raw[kind.name] = {"ferry": ours, "peer": theirs}
        own = measure_own(ferry, peer, args.only, 2 * args.n, work)
    finally:
        for pid in program.strangers():
            program.kill(pid)
        shutil.rmtree(work)
    print_table(rows, rss)
    print_own(own)
    out = {"peer": peer.run("--version").stdout.split()[1], "kernel": platform.release(), "cpus": os.cpu_count(), "rounds": args.n,
           "rows": rows, "own": own, "peak_rss_kib": {name: dict(zip(("ferry", "peer"), pair)) for name, pair in rss.items()}, "raw": raw}
    with open(os.path.join(paths.BUILD, "bench.json"), "w") as f:
        json.dump(out, f, indent=1)
    with open(os.path.join(paths.BUILD, "bench.svg"), "w") as f:
        f.write(draw(rows, f"ferry beside CRIU {out['peer']}, medians of {args.n} and more"))
    print(f"written: {os.path.relpath(paths.BUILD)}/bench.json and bench.svg")


if __name__ == "__main__":
    main()
