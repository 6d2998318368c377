# SPDX-License-Identifier: Apache-2.0
"""
A stream through a pipe into a restore in a pid namespace of its own, beside a dump into a tmpfs alone: two GiB of a program
that runs on, in turn.
"""
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import paths
import program
from board import Board
from tool import read_log
from waiting import wait_until

SIZE_MIB = int(os.environ.get("FERRY_STREAM_MIB", "2048"))
RESTORE = '"$@" >restore.out 2>&1; echo $?'     # what was restored ends with the namespace


def dump_alone(tool, pid, work):
    """Seconds."""
    began = time.monotonic()
    tool.run_well("dump", work, "-t", pid, "-R")
    return time.monotonic() - began


def dump_and_restore(tool, pid, work):
    """Seconds until the restore has ended."""
    words = ["-W", work, "-v4", "-o"]
    restore = tool.command("restore", *words, "restore.log", "--stream", "-d")
    dump = tool.command("dump", *words, "dump.log", "--stream", "-t", pid, "-R")
    read_end, write_end = os.pipe()
    began = time.monotonic()
    with subprocess.Popen([paths.INIT, "sh", "-c", RESTORE, "sh", *restore], stdin=read_end, stdout=subprocess.PIPE, text=True, cwd=work) as there, \
            subprocess.Popen(dump, stdin=subprocess.DEVNULL, stdout=write_end, stderr=subprocess.PIPE) as here:
        os.close(read_end)
        os.close(write_end)
        status = there.stdout.readline().strip(), here.wait()
        spent = time.monotonic() - began
    if status != ("0", 0):
        sys.exit(f"bench: restore and dump of a stream ended with {status}\n{read_log(f'{work}/dump.log')}{read_log(f'{work}/restore.log')}")
    return spent


def measure(tool, rounds, work):
    """Rows as bench.print_own() has them."""
    home = tempfile.mkdtemp(prefix="stream.", dir=work)
    pid = program.start([paths.program("bench", "memory"), SIZE_MIB], cwd=home)
    wait_until(lambda: Board(home, 2).read()[0], "memory is filled", 120)
    spent = {dump_alone: [], dump_and_restore: []}
    for number in range(rounds + 1):        # the first is for warming up
        for way, all_spent in spent.items():
            directory = tempfile.mkdtemp(prefix="stream.", dir=work)
            one = way(tool, pid, directory)
            all_spent += [one] if number else []
            shutil.rmtree(directory)
    program.end_tree(pid)
    shutil.rmtree(home)
    alone, both = map(statistics.median, spent.values())
    return [{"name": "stream into restore: to a dump alone", "value": both / alone, "target": 1.3, "unit": "", "most": True,
             "note": f"{both * 1000:.0f} to {alone * 1000:.0f} ms of {SIZE_MIB} MiB"}]
