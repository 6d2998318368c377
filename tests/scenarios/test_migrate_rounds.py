# SPDX-License-Identifier: Apache-2.0
"""Rounds under a limit, programs that change their memory faster than it goes, and what is told meanwhile."""
import json
import os
import signal
import subprocess

import pytest

from waiting import counts_on, gone, read_or_empty, wait_gone, wait_line, wait_until

LIMIT = 20_000_000
# Writes 8 MiB again and again; counts.
WRITER = """
import mmap
m = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
n = 0
while True:
    n += 1
    for at in range(0, 8 << 20, 4096):
        m[at] = n & 255
    assert m[0] == n & 255
    print(n, flush=True)
"""

# Writes a page in 25 us of its own processor time: 160 MB/s, and a sixteenth of that where it gets a sixteenth of the time.
PACED = """
import mmap, time
m = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
n = 0
due = time.process_time_ns()
while True:
    n += 1
    for at in range(0, 16 << 20, 4096):
        m[at] = n & 255
        due += 25000
        while time.process_time_ns() < due:
            pass
    print(n, flush=True)
"""


@pytest.fixture
def writer(start, workdir):
    out = f"{workdir}/out"
    pid = start(["/usr/bin/python3", "-c", WRITER], out=out)
    wait_line(out, "10")
    return pid, out


@pytest.fixture
def there(tool, workdir, shell):
    """A `receive` on another machine: the path of its socket."""
    socket = f"{workdir}/there.sock"
    shell(f"{tool.argv[0]} receive --unix {socket} -d; exec cat")
    wait_until(lambda: os.path.exists(socket), "it listens")
    return f"unix:{socket}"


def events(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def of_kind(found, kind):
    return [one for one in found if one["event"] == kind]


def test_limit(tool, writer, there):
    """No round is faster than the limit; the switch has none."""
    pid, out = writer
    done = tool.run("migrate", "-t", pid, "--bandwidth", "20M", "--max-rounds", "2", "--progress", "json", there)
    assert done.returncode == 0, done.stderr
    found = events(done.stderr)
    rounds = of_kind(found, "round")
    assert rounds
    for one in rounds:
        assert one["bytes"] > LIMIT // 10 and one["bytes"] <= LIMIT * (one["round_s"] + 0.1), one
    assert [one["phase"] for one in of_kind(found, "phase")][-5:] == ["state", "last", "ready", "commit", "done"]
    assert of_kind(found, "progress")[0]["round"] == 1
    assert found[-1]["event"] == "done" and found[-1]["downtime_ms"] > 0 and found[-1]["rounds"] == len(rounds)
    wait_gone(pid)
    counts_on(out)


@pytest.mark.parametrize("limit", ("0", "20X", "-1", "M", "20MM", ""))
def test_limit_is_none(tool, writer, limit):
    done = tool.run("migrate", "-t", writer[0], f"--bandwidth={limit}", "unix:/nonexistent")
    assert done.returncode == 1 and "--bandwidth" in done.stderr


def test_throttle(tool, start, workdir, there):
    """It runs less and less of the time, until it is slow enough for the goal; and then as fast as ever."""
    out = f"{workdir}/out"
    pid = start(["/usr/bin/python3", "-c", PACED], out=out)
    wait_line(out, "2")
    done = tool.run("migrate", "-t", pid, "--bandwidth", "20M", "--max-downtime", "150", "--on-no-convergence", "throttle",
                    "--progress", "json", there)
    assert done.returncode == 0, done.stderr
    rounds = of_kind(events(done.stderr), "round")
    told = [(one["throttle"], one["downtime_ms"]) for one in rounds]
    print(told)
    assert told[0][0] == 0 and told[0][1] > 150 and told[-1][0] > 0 and told[-1][1] <= 150, told
    wait_gone(pid)
    counts_on(out)


def test_abort(tool, writer, there):
    pid, out = writer
    done = tool.run("migrate", "-t", pid, "--bandwidth", "20M", "--max-rounds", "2", "--on-no-convergence", "abort", "--progress", "json", there)
    assert done.returncode == 1 and "too fast" in done.stderr
    assert events(done.stderr)[-1]["event"] == "failed"
    counts_on(out)


def tracer(pid):
    return next(int(line.split()[1]) for line in read_or_empty(f"/proc/{pid}/status").splitlines() if line.startswith("TracerPid:"))


def test_killed_while_it_throttles(tool, writer, there):
    """Nobody has to undo it."""
    pid, out = writer
    with subprocess.Popen(tool.command("migrate", "-t", pid, "--bandwidth", "5M", "--max-downtime", "1", "--max-rounds", "1",
                                       "--on-no-convergence", "throttle", "--progress", "json", there), stderr=subprocess.PIPE, text=True) as ferry:
        for line in ferry.stderr:
            if '"phase": "round"' in line:
                break
        wait_until(lambda: tracer(pid) not in (0, ferry.pid), "it is slowed")
        slower = tracer(pid) or None
        ferry.send_signal(signal.SIGKILL)
    if slower:
        wait_until(lambda: gone(slower), "who slows it is gone")
    wait_until(lambda: tracer(pid) == 0, "nobody traces it")
    counts_on(out)
