# SPDX-License-Identifier: Apache-2.0
"""Tests that run in a guest only: what elsewhere Meson runs, and what depends on the kernel."""
import glob
import os
import subprocess

import pytest

import paths
from program import end_tree, stat_of
from waiting import wait_asleep, wait_gone

RELEASE = tuple(int(number) for number in os.uname().release.split(".")[:2])
# Doors of `ferry check`, and the kernel that opened them; the guests' kernels are configured with all.
SINCE = {"soft_dirty": (3, 11), "mem_dirty_track": (3, 11), "pagemap_scan": (6, 7), "uffd_wp_async": (6, 7), "procmap_query": (6, 11),
         "guard_pages": (6, 13), "timer_cr_ids": (6, 15)}
LAYERS = ("kernel", "page", "inject")


def unit_tests():
    found = [path for layer in LAYERS for path in glob.glob(paths.program("unit", f"{layer}/test_*"))]
    return sorted(os.path.relpath(path, paths.program("unit", "")) for path in found if os.path.isfile(path))


def test_check(tool):
    done = tool.check()
    assert done.returncode == 0
    tracker, verdict = done.stdout.splitlines()
    assert tracker.startswith(f"Tracker: {'scan' if RELEASE >= (6, 7) else 'soft-dirty'} (")
    assert verdict == "Looks good."


@pytest.mark.parametrize("feature", SINCE)
def test_feature(tool, feature):
    done = tool.check("--feature", feature)
    assert (done.returncode == 0) == (RELEASE >= SINCE[feature]), done.stdout + done.stderr


def test_background(tool, start, workdir):
    """Where the kernel can't, it says so, and stops the program only when it is told to."""
    pid, able = start(["sleep", "1000"]), RELEASE >= SINCE["pagemap_scan"]
    wait_asleep(pid)
    os.mkdir(f"{workdir}/a")
    done = tool.run("dump", "-t", pid, "-D", f"{workdir}/a", "-R", "--background")
    assert (done.returncode == 0) == able, done.stderr
    assert stat_of(pid)[0] == "S" and (able or not os.path.exists(f"{workdir}/a/inventory.img"))
    os.mkdir(f"{workdir}/b")
    done = tool.run("dump", "-t", pid, "-D", f"{workdir}/b", "-R", "--background-or-stop")
    assert done.returncode == 0 and ("not in the background" in done.stderr) == (not able), done.stderr
    end_tree(pid)
    wait_gone(pid)
    assert tool.restore(f"{workdir}/b") == pid
    wait_asleep(pid)


@pytest.mark.parametrize("name", unit_tests())
def test_unit(name):
    env = {**os.environ, "STILL": paths.program("unit", "inject/still-static")}
    done = subprocess.run([paths.program("unit", name)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
