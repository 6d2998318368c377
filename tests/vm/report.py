# SPDX-License-Identifier: Apache-2.0
"""
A plugin of the pytest in a guest: after each test a line with its verdict for test_vm.py, on the first output. Of a test that
fails it also tells what the guest was doing then: a guest that stalls looks like a program that hangs.
"""
import json
import os
import subprocess
import time

import pytest

MARK = "@verdict "
PARTS = []
OUT = os.fdopen(os.dup(1), "w", buffering=1)  # before pytest takes 1 for itself


def read(path):
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as f:
            return f.read()
    except OSError:
        return ""


def threads():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            yield from (f"/proc/{pid}/task/{tid}" for tid in os.listdir(f"/proc/{pid}/task"))
        except OSError:     # it has ended
            pass


def busy_threads():
    """A line for each that runs, or waits for the kernel: who, the niceness, the policy, and where in the kernel."""
    for thread in threads():
        words = read(f"{thread}/stat").rpartition(")")[2].split()
        if len(words) > 38 and words[0] in "RD":
            stack = " ".join(line.partition("] ")[2] for line in read(f"{thread}/stack").splitlines()[:8])
            yield f"{words[0]} {thread} {read(f'{thread}/comm').strip()} nice {words[16]} policy {words[38]}: {stack}"


def state_of_guest():
    lines = [f"up {read('/proc/uptime').strip()}, load {read('/proc/loadavg').strip()}", *read("/proc/meminfo").splitlines()[:3]]
    began = time.monotonic()
    lines += sorted(busy_threads())
    lines.append(f"this look took {time.monotonic() - began:.2f} s")
    said = subprocess.run(["dmesg"], capture_output=True, text=True, errors="backslashreplace", check=False).stdout
    return "\n".join([*lines, *said.splitlines()[-15:]])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    """Before the test's programs are ended."""
    report = (yield).get_result()
    if report.failed:
        report.sections.append(("Captured of the guest", state_of_guest()))


def pytest_runtest_logreport(report):
    PARTS.append(report)


def text_of(report):
    output = [f"--- {name}\n{text}" for name, text in report.sections if name.startswith("Captured")]
    return "\n".join([f"{report.when}: {report.longreprtext}", *output])


def pytest_runtest_logfinish(nodeid):
    failed = [report for report in PARTS if report.failed]
    skipped = [report for report in PARTS if report.skipped]
    outcome, text = "passed", ""
    if failed:
        outcome, text = "failed", "\n".join(text_of(report) for report in failed)
    elif skipped:
        outcome, text = "skipped", getattr(skipped[0], "wasxfail", skipped[0].longreprtext)
    PARTS.clear()
    OUT.write("\n" + MARK + json.dumps({"name": nodeid, "outcome": outcome, "text": text}) + "\n")
