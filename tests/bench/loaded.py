# SPDX-License-Identifier: Apache-2.0
"""
What is left of redis-benchmark's throughput while a migration's rounds go on, by the server's own count. Dry runs follow one
another, so that the server stays and rounds go on all the time.
"""
import json
import pathlib
import shlex
import shutil
import statistics
import tempfile
import time

import program
from migrate import Host, number, row
from redis import Client, server_argv, wait_ready
from waiting import wait_until

KEYS, VALUE_BYTES, CLIENTS = 500_000, 1000, 20
LOAD_S = 8


class Loaded:
    """A redis-server full of data and a redis-benchmark in one tree, as connections out of it could not be moved."""
    def __init__(self, work):
        self.directory = tempfile.mkdtemp(prefix="migrate.", dir=work)
        self.address = f"{self.directory}/redis.sock"
        full = f"{self.directory}/full"
        load = ["redis-benchmark", "-s", self.address, "-t", "set", "-n", "1000000000", "-c", CLIENTS, "-r", KEYS, "-d", VALUE_BYTES, "-P", "4"]
        server = shlex.join(map(str, server_argv(self.directory)))
        words = f"{server} & until [ -e {full} ]; do sleep 0.1; done; exec {shlex.join(map(str, load))}"
        self.pid = program.start(["sh", "-c", words])
        wait_ready(self.address)
        self.server = next(pid for pid in program.tree_of(self.pid) if program.comm_of(pid) == "redis-server")
        with Client(self.address) as client:
            client.fill(KEYS * VALUE_BYTES, VALUE_BYTES, digits=12)
        with open(full, "w"):
            pass
        wait_until(lambda: program.comm_of(self.pid) == "redis-benchmark", "the load begins")
        done = self.done()
        wait_until(lambda: self.done() > done + KEYS / 2, "it is in full swing", 120)

    def sockets(self):
        return sum(one.is_socket() for one in pathlib.Path(f"/proc/{self.server}/fd").iterdir())

    def done(self):
        """Commands of all clients. The connection that asks is gone when it returns: it comes from outside."""
        with Client(self.address) as client:
            done = client.commands_done()
        wait_until(lambda: self.sockets() == CLIENTS + 1, "the server has its own door open, and redis-benchmark's connections")
        return done

    def rate(self, meanwhile):
        """Commands a second."""
        before, began = self.done(), time.monotonic()
        meanwhile()
        return (self.done() - before) / (time.monotonic() - began)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        program.end_tree(self.pid)
        shutil.rmtree(self.directory)


def dry_runs(tool, pid, where):
    """One after another for LOAD_S and until the last has ended: of each its rounds, and the seconds from the stage on."""
    found, end = [], time.monotonic() + LOAD_S
    while time.monotonic() < end:
        done = tool.run("migrate", "-t", pid, "--dry-run", "--allow-plaintext", "--progress", "json", where, timeout_s=300)
        assert done.returncode == 0, done.stderr
        events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        stage = next(one["spent_s"] for one in events if one.get("phase") == "stage")
        found.append((number(done.stdout, "rounds"), events[-1]["spent_s"] - stage))
    return found


def measure(tool, pairs, work):
    """What rounds leave of redis-benchmark's throughput; without them, then with them, on a fresh server each time."""
    ratios, without, runs, share = [], [], [], []
    for _ in range(pairs):
        with Loaded(work) as redis, Host() as host:
            where = host.receive(tool, "--no-once 2>/dev/null")     # it would tell of each dry run that it ended
            without.append(redis.rate(lambda: time.sleep(LOAD_S)))
            found, began = [], time.monotonic()
            ratios.append(redis.rate(lambda: found.extend(dry_runs(tool, redis.pid, where))) / without[-1])
            share.append(sum(spent for _, spent in found) / (time.monotonic() - began))
            runs.append([rounds for rounds, _ in found])
    counts, rounds = sorted(map(len, runs)), sorted(sum(runs, []))
    assert rounds[0] > 0, "a dry run without a round"
    return [row("redis-benchmark SET, during rounds", statistics.median(ratios), "", 0.7,
                f"part of {statistics.median(without):.0f}/s, from {min(ratios):.2f} to {max(ratios):.2f}; {KEYS * VALUE_BYTES >> 20} MiB, "
                f"{counts[0]} to {counts[-1]} dry runs of {rounds[0]:.0f} to {rounds[-1]:.0f} rounds, {min(share) * 100:.0f}% of the time", most=False)]
