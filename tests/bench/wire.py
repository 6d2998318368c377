# SPDX-License-Identifier: Apache-2.0
"""
Page servers on loopback: four GiB of a program that runs on, both ends ferry or both the peer, in turn, into a tmpfs; and
what iperf3 moves over the same path between them.
"""
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

import paths
import program
from board import Board
from certificates import Authority
from waiting import wait_until
from wired import PageServer

SIZE_MIB = int(os.environ.get("FERRY_WIRE_MIB", "4096"))


def run_once(tool, pid, work, options):
    """GB/s of one dump, from its start to the end of both."""
    directory = tempfile.mkdtemp(prefix="wire.", dir=work)
    os.mkdir(f"{directory}/images")
    server = PageServer(tool, f"{directory}/pages", *options)
    assert server.is_ready
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    tool.run_well("dump", f"{directory}/images", "-t", pid, "-R", *server.source_options(), *options)
    assert server.end() == 0, server.stderr
    spent, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(directory)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (SIZE_MIB << 20) / spent / 1e9, cpu


def iperf():
    """GB/s of one TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen(["iperf3", "-s", "-p", str(port)], stdout=subprocess.DEVNULL) as server:
        def asked():
            client = subprocess.run(["iperf3", "-c", "127.0.0.1", "-p", str(port), "-t", "3", "-J"], capture_output=True, text=True, check=False,
                                    timeout=60)
            return json.loads(client.stdout)["end"].get("sum_received")     # none: it failed, with whatever status
        received = wait_until(asked, "iperf3 serves")
        server.kill()
    return received["bits_per_second"] / 8e9


def measure(ferry, peer, rounds, work):
    """Rows as bench.print_own() has them."""
    home = tempfile.mkdtemp(prefix="wire.", dir=work)
    pid = program.start([paths.program("bench", "memory"), SIZE_MIB], cwd=home)
    wait_until(lambda: Board(home, 2).read()[0], "memory is filled", 120)
    pki = Authority(f"{home}/pki")
    tls = pki.options(pki.sign("both", alternative="IP:127.0.0.1"))
    speeds = {name: [] for name in ("ferry", "peer", "ferry tls", "peer tls", "iperf")}
    for number in range(rounds + 1):        # the first is for warming up
        for name, tool, options in (("ferry", ferry, []), ("peer", peer, []), ("ferry tls", ferry, tls), ("peer tls", peer, tls)):
            speed, cpu = run_once(tool, pid, work, options)
            speeds[name].append((speed, cpu) if number else None)
        speeds["iperf"].append((iperf(), 0) if number else None)
    program.end_tree(pid)
    shutil.rmtree(home)
    speed = {name: statistics.median(value for value, _ in values[1:]) for name, values in speeds.items()}
    cpu = {name: statistics.median(value for _, value in values[1:]) for name, values in speeds.items()}

    def row(name, ours, theirs, target):
        return {"name": f"page server{name}", "value": speed[ours] / speed[theirs], "target": target, "unit": "", "most": False,
                "note": f"{speed[ours]:.2f} to {speed[theirs]:.2f} GB/s; {cpu[ours]:.1f} to {cpu[theirs]:.1f} s of CPU"}
    return [row(": to CRIU's", "ferry", "peer", 2), row(": to iperf3", "ferry", "iperf", 0.7), row(", TLS: to CRIU's", "ferry tls", "peer tls", 1.5)]
