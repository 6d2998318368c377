# SPDX-License-Identifier: Apache-2.0
"""
Migrations to another host: namespaces at the other end of a veth. Downtime is the longest gap in the program's own clock
(writer.c) from the last stop on, until it has looked at its clock over there; the longest one before that, while memory is
copied, is told beside it. (What follows is no part of it: the source's memory is given back, on another machine than the
program's.) Beside it, what a user of the peer has: a dump to a tmpfs and a restore from it, without any network. For an idle
program, the time and what went over the cable beside what iperf3 moves over the same one just before.
"""
import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
import time

import paths
import program
from board import Board
from tool import read_log
from tracked import GAP, fill, gap_of, set_slot, start_writer
from waiting import wait_gone, wait_until

ADDRESSES = ("10.78.0.1", "10.78.0.2")
RATE_MIB = 50
TARGETS = {1: 10.0, 4: 10.0, 8: 15.0}   # GiB, and ms of downtime
PEERS = {1, 4}
SLOW = (105, "1gbit", 30.0)             # MiB, over this, ms
SLOW_PER_S = 125e6                      # bytes
IDLE_GIB = 4
FEW = 3                                 # moves of what varies little
LOOKS = 4                               # a slot of writer.c
QUIET_S = 2                             # a machine has stalls of its own: some need a while to show


class Host:
    """The other one: with an end of the cable, and a pid namespace whose own pids are far from those that come."""
    def __init__(self, rate=None):
        words = f"""echo 1000000 >/proc/sys/kernel/ns_last_pid; echo made; read line
            ip addr add {ADDRESSES[1]}/24 dev cable && ip link set cable up && echo up
            while read line; do eval "$line"; done"""
        self.process = subprocess.Popen([paths.INIT, "/bin/sh", "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.line()
        ip = ["ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(self.process.pid)]
        for command in (ip, ["ip", "addr", "add", f"{ADDRESSES[0]}/24", "dev", "cable"], ["ip", "link", "set", "cable", "up"]):
            subprocess.run(command, check=True)
        if rate:
            subprocess.run(["tc", "qdisc", "add", "dev", "cable", "root", "tbf", "rate", rate, "burst", "256kb", "latency", "50ms"], check=True)
        self.do("")
        self.line()

    def line(self):
        return self.process.stdout.readline()

    def do(self, command):
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def receive(self, tool, how="-d"):
        self.do(f"{tool.argv[0]} receive --listen {ADDRESSES[1]}:0 --allow-plaintext {how} </dev/null; echo received")
        return f"tcp://{ADDRESSES[1]}:{self.line().split()[-1]}"

    def bandwidth(self):
        """Bytes a second, as iperf3 has them."""
        self.do(f"iperf3 -s -1 -B {ADDRESSES[1]} </dev/null >/dev/null & while ! ss -ltn | grep -q :5201; do :; done; echo listens")
        self.line()
        done = subprocess.run(["iperf3", "-J", "-t", "3", "-c", ADDRESSES[1]], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 8

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        subprocess.run(["ip", "link", "del", "cable"], check=False, stderr=subprocess.DEVNULL)


def sent():
    """Bytes that went to the other host since the cable is there, headers and all."""
    done = subprocess.run(["ip", "-s", "-j", "link", "show", "dev", "cable"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)[0]["stats64"]["tx"]["bytes"]


def number(text, name):
    return float(re.search(rf"^ *{name} +([\d.]+)", text, re.M).group(1))


def wait_looks(directory):
    """It has looked at its clock since now, so it has told the gap that ends now."""
    def looks():
        return Board(directory, LOOKS).slot(LOOKS)
    now = looks()
    wait_until(lambda: looks() > now + 1, "it looks at its clock")


class Stop:
    """Listens to what ferry tells of its phases: the gaps that the program saw before the last stop, and those of the stop."""
    def __init__(self, directory):
        self.directory, self.before_ms, self.gap_ms = directory, None, None
        reader, self.fd = os.pipe()
        self.thread = threading.Thread(target=self.listen, args=(reader,))
        self.thread.start()

    def listen(self, reader):
        with os.fdopen(reader) as events:
            for line in events:
                event = json.loads(line)
                if event["event"] == "phase" and event["phase"] == "freeze" and self.before_ms is None:
                    self.before_ms = self.gap()
                    set_slot(self.directory, GAP, 0)
                if event["event"] == "phase" and event["phase"] == "done":
                    wait_looks(self.directory)      # over there
                    self.gap_ms = self.gap()

    def gap(self):
        return Board(self.directory, GAP + 1).slot(GAP) / 1e6

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)
        self.thread.join()


def move(tool, mib, rate, cable, work, beside_iperf=False):
    """One program's way: what it saw itself, what the cable and a clock beside it say, and what ferry says."""
    directory = tempfile.mkdtemp(prefix="migrate.", dir=work)
    pid = start_writer(directory, mib, rate)
    quiet = gap_of(directory, lambda: time.sleep(QUIET_S))
    with Host(cable) as host:
        per_s = host.bandwidth() if beside_iperf else 0
        where = host.receive(tool)
        set_slot(directory, GAP, 0)
        with Stop(directory) as stop:
            sent_before, began = sent(), time.monotonic()
            done = tool.run("migrate", "-t", pid, "--max-downtime", "5", "--allow-plaintext", "--progress", f"json:{stop.fd}", where,
                            timeout_s=300, pass_fds=[stop.fd])
            total_s, bytes_sent = time.monotonic() - began, sent() - sent_before
        assert done.returncode == 0, done.stderr
        host.line()
        wait_gone(pid)
        wait_looks(directory)
    shutil.rmtree(directory)
    said_ms, gap_ms = number(done.stdout, "downtime"), stop.gap_ms
    if gap_ms < said_ms / 2:        # the listener was late, and has put the stop itself aside
        gap_ms = max(gap_ms, stop.before_ms)
    assert bytes_sent >= mib << 20, f"only {bytes_sent} bytes went over the cable"
    return {"gap_ms": gap_ms, "before_ms": stop.before_ms, "quiet_ms": quiet, "said_ms": said_ms, "total_s": total_s,
            "bytes": bytes_sent, "rounds": number(done.stdout, "rounds"), "per_s": per_s}


def peer_gap(peer, mib, work):
    """Dump to a tmpfs, restore: the shortest way it has on this kernel."""
    directory = tempfile.mkdtemp(prefix="migrate.", dir=work)
    images = tempfile.mkdtemp(prefix="migrate.", dir="/dev/shm")
    pid = start_writer(directory, mib, RATE_MIB)
    try:
        def run(*words):
            done = peer.run(*words, "-D", images, "-o", "log")
            assert done.returncode == 0, read_log(f"{images}/log")

        def both():
            run("dump", "-t", pid)
            wait_gone(pid)
            run("restore", "-d")
            wait_looks(directory)
        return gap_of(directory, both)
    finally:
        program.end_tree(pid)
        shutil.rmtree(images)
        shutil.rmtree(directory)


def fits(gib):
    """Twice the program, and room for others."""
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("MemAvailable:")) >> 20 > 2 * gib + 2


def summed(moves):
    gaps = sorted(one["gap_ms"] for one in moves)
    names = ("gap_ms", "before_ms", "quiet_ms", "said_ms", "rounds", "total_s", "bytes")
    return {name: statistics.median(one[name] for one in moves) for name in names} | {"worst_ms": gaps[-1]}


def row(name, value, unit, target, note, most=True):
    return {"name": f"migration: {name}", "value": value, "unit": unit, "target": target, "most": most, "note": note}


def gap_row(name, found, target):
    return row(name, found["gap_ms"], "ms", target,
               f"worst {found['worst_ms']:.1f}, ferry says {found['said_ms']:.1f}, {found['before_ms']:.1f} while memory is copied, "
               f"{found['quiet_ms']:.1f} without it; "
               f"{found['rounds']:.0f} rounds, {found['total_s']:.2f} s, {found['bytes'] / (1 << 20):.0f} MiB")


def missing(name, unit, target, most=True):
    return row(name, None, unit, target, "there is not enough memory for it", most)


def measure(tool, peer, moves, work):
    """Rows as bench.print_own() has them, of programs that write. The sizes and the peer take turns."""
    found, peers = {gib: [] for gib in TARGETS if fits(gib)}, {gib: [] for gib in PEERS}
    for number_of in range(moves):
        for gib, gaps in found.items():
            gaps.append(move(tool, gib << 10, RATE_MIB, None, work))
            if gib in PEERS and number_of < FEW:
                peers[gib].append((gaps[-1]["gap_ms"], peer_gap(peer, gib << 10, work)))
    rows = [gap_row(f"{gib} GiB, down", summed(found[gib]), target) if gib in found else missing(f"{gib} GiB, down", "ms", target)
            for gib, target in TARGETS.items()]
    if found.keys() >= {1, 8}:
        growth = [(large["gap_ms"] - small["gap_ms"]) / 7 for small, large in zip(found[1], found[8])]
        rows.append(row("a GiB more, from 1 to 8", statistics.median(growth), "ms", 0.7, f"from {min(growth):.2f} to {max(growth):.2f}"))
    else:
        rows.append(missing("a GiB more, from 1 to 8", "ms", 0.7))
    mib, cable, target = SLOW
    slow = [move(tool, mib, RATE_MIB, cable, work) for _ in range(moves)]
    assert all(one["bytes"] / one["total_s"] < SLOW_PER_S for one in slow), "the cable is no slow one"
    rows.append(gap_row(f"{mib} MiB over {cable}, down", summed(slow), target))
    for gib, pairs in peers.items():
        name = f"{gib} GiB, down, to {peer}'s"
        rows.append(row(name, statistics.median(theirs / ours for ours, theirs in pairs), "", 100,
                        f"{statistics.median(theirs for _, theirs in pairs):.0f} ms", most=False) if pairs else missing(name, "", 100, most=False))
    return rows


def measure_idle(tool, moves, work):
    """Of a program that sleeps: each time beside iperf3's over the same cable."""
    if not fits(IDLE_GIB):
        return [missing(f"{IDLE_GIB} GiB idle, time to iperf3", "", 1.25), missing(f"{IDLE_GIB} GiB idle, bytes to memory", "", 1.05)]
    size = IDLE_GIB << 30
    found = [move(tool, IDLE_GIB << 10, 0, None, work, beside_iperf=True) for _ in range(moves)]
    times = [one["total_s"] * one["per_s"] / size for one in found]
    alone_s = statistics.median(fill(IDLE_GIB << 10, work) for _ in range(moves))
    total_s, per_s, sent_bytes = (statistics.median(one[name] for one in found) for name in ("total_s", "per_s", "bytes"))
    return [row(f"{IDLE_GIB} GiB idle, time to iperf3", statistics.median(times), "", 1.25,
                f"from {min(times):.2f} to {max(times):.2f}; {total_s:.2f} s, iperf3: {per_s / 1e9:.2f} GB/s; "
                f"a program needs {alone_s:.2f} s just to fill so much memory"),
            row(f"{IDLE_GIB} GiB idle, bytes to memory", sent_bytes / size, "", 1.05, f"{sent_bytes / (1 << 20):.0f} MiB over the cable")]
