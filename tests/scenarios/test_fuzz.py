# SPDX-License-Identifier: Apache-2.0
"""
Targets of libFuzzer (tests/fuzz/fuzz_*.c), each with seeds that are made here, for a number of runs: FERRY_FUZZ_RUNS of a
target's own. FERRY_SEED repeats a run; an input that breaks something is kept in the work directory.
"""
import os
import struct
import subprocess

import pytest

import paths
from streams import PAGES, STREAM, StreamTool, frames_of
from waiting import wait_asleep, wait_gone, wait_line

FUZZ = os.path.join(paths.TOP, "build-fuzz", "tests", "fuzz")
SHARING = """
import mmap, os, signal
shared = mmap.mmap(-1, 8 * 4096)
private = mmap.mmap(-1, 8 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
shared[:5] = private[:5] = b"bytes"
if os.fork() == 0:
    signal.pause()
os.write(1, b"ready\\n")
signal.pause()
"""


def as_frames(raw, zeros):
    """An input of fuzz_stream; zeros: without the contents of pages."""
    content = b"\0"
    for kind, frame in frames_of(raw)[:-1]:
        if kind == PAGES and zeros:
            pages_id, _, _, pages, offset, _, _ = struct.unpack("<IBBHQQQ", frame[:32])
            mask = (1 << pages) - 1
            frame = struct.pack("<IBBHQQQ", pages_id, 0, 0, pages, offset, mask % (1 << 64), mask >> 64)
        content += bytes([kind]) + len(frame).to_bytes(3, "little") + frame
    return content


def streams(tool, start, workdir):
    """Of a program with one task, and of one that shares memory, by copy on write too."""
    seeds = {}
    for name, argv in (("sleep", ["sleep", "1000"]), ("sharing", ["/usr/bin/python3", "-S", "-c", SHARING])):
        out = f"{workdir}/{name}.out"
        pid = start(argv, out=out)
        if name == "sharing":
            wait_line(out, "ready")
        wait_asleep(pid)
        StreamTool(tool, "--compress", "zstd").dump(pid, f"{workdir}/{name}")
        wait_gone(pid)
        with open(f"{workdir}/{name}/{STREAM}", "rb") as f:
            raw = f.read()
        seeds[f"{name}-zeros"] = as_frames(raw, True)
        if name == "sleep":
            seeds[f"{name}-pages"], seeds[f"{name}-raw"] = as_frames(raw, False), b"\1" + raw
    return seeds


def good_input(name, workdir):
    """What the target itself knows."""
    os.makedirs(f"{workdir}/good")
    subprocess.run([paths.program("fuzz", f"seeds_{name}"), f"{workdir}/good"], check=True)
    seeds = {}
    for name in os.listdir(f"{workdir}/good"):
        with open(f"{workdir}/good/{name}", "rb") as f:
            seeds[name] = f.read()
    return seeds


def page_messages(_tool, _start, workdir):
    """Sessions of a page server."""
    return good_input("page_messages", workdir)


def migrated_pages(_tool, _start, workdir):
    """Frames of a migration."""
    return good_input("runs", workdir)


# name: (its seeds, runs in half a minute)
TARGETS = {"stream": (streams, 10_000), "page_messages": (page_messages, 10_000), "runs": (migrated_pages, 200_000)}


@pytest.mark.parametrize("name", TARGETS)
def test_fuzz(tool, start, workdir, name):
    if tool.name != "ferry":
        pytest.skip("of ferry's own code")
    make_seeds, runs = TARGETS[name]
    os.makedirs(f"{workdir}/corpus")
    for seed, content in make_seeds(tool, start, workdir).items():
        with open(f"{workdir}/corpus/{seed}", "wb") as f:
            f.write(content)
    runs = int(os.environ.get("FERRY_FUZZ_RUNS") or runs)
    seed = int(os.environ["FERRY_SEED"]) or 1
    done = subprocess.run([f"{FUZZ}/fuzz_{name}", f"-runs={runs}", f"-seed={seed}", "-max_len=65536", "-timeout=20", "-rss_limit_mb=2048",
                           "-print_final_stats=1", "-print_funcs=0", f"-artifact_prefix={workdir}/", f"{workdir}/corpus"],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="backslashreplace", check=False, cwd=workdir)
    print(f"FERRY_SEED={seed} FERRY_FUZZ_RUNS={runs}")
    assert done.returncode == 0, done.stderr[-8000:]
    stats = dict(line.removeprefix("stat::").split(":", 1) for line in done.stderr.splitlines() if line.startswith("stat::"))
    print({key.strip(): value.strip() for key, value in stats.items()}, done.stderr.splitlines()[-10:])
    assert int(stats["number_of_executed_units"]) >= runs
