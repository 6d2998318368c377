# SPDX-License-Identifier: Apache-2.0
"""1 GiB of objects of python3, which change all the time: five pre-dumps and a dump, restored."""
import os
import shutil
import signal

import pytest

from images import dump_stats
from waiting import read_or_empty, wait_asleep, wait_gone, wait_until

PAGES = 1 << 30 >> 12


@pytest.fixture
def roomy(workdir):
    """On tmpfs, where there is room for the program and its images."""
    if shutil.disk_usage(workdir).free < 3 << 30:
        pytest.skip("needs 3 GiB for images")
    with open("/proc/meminfo", encoding="ascii") as f:
        available = next(int(line.split()[1]) for line in f if line.startswith("MemAvailable"))
    if available < 5 << 20:
        pytest.skip("needs 5 GiB of memory")
    return workdir


def test_large(tool, start, roomy):
    if "--prev-images-dir" not in tool.run("dump", "--help").stdout:
        pytest.skip("no chains")
    said = f"{roomy}/said"
    pid = start(["/usr/bin/python3", os.path.join(os.path.dirname(os.path.abspath(__file__)), "large.py"), said])
    wait_until(lambda: read_or_empty(said) == "ready\n", "it has its objects", 60)

    def digest():
        os.unlink(said)
        os.kill(pid, signal.SIGUSR1)
        text = wait_until(lambda: read_or_empty(said), "it says what it has", 60)
        wait_asleep(pid)
        return text

    def take(action, link):
        directory = f"{roomy}/link-{link}"
        os.mkdir(directory)
        on_top = ["--prev-images-dir", f"../link-{link - 1}"] if link else []
        assert tool.run_well(action, directory, "-t", pid, *on_top).stderr == ""
        return dump_stats(directory)["pages_written"]

    pages = [take("pre-dump", link) for link in range(5)]
    before = digest()
    pages.append(take("dump", 5))
    wait_gone(pid)
    print(f"pages of each link: {pages}")
    assert pages[0] > PAGES * 0.95 and pages[1] < PAGES / 2 and all(few < PAGES / 4 for few in pages[2:])
    assert tool.restore(f"{roomy}/link-5") == pid
    assert digest() == before
