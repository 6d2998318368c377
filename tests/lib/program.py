# SPDX-License-Identifier: Apache-2.0
"""Programs under test: started detached (own session, orphaned to init, no stray descriptors), found, ended."""
import ctypes
import os
import signal
import subprocess

from paths import DETACH
from waiting import gone, told_of_gone, wait_gone, wait_until

SYS_PIDFD_GETFD = 438


def start(argv, out="/dev/null", stdin="/dev/null", cwd=None, uid=None, env=None):
    """Starts `argv` and returns its pid; 1 and 2 are added to the file `out`."""
    command = [DETACH, "-i", str(stdin), "-o", str(out)]
    if cwd is not None:
        command += ["-d", str(cwd)]
    if uid is not None:
        command += ["-u", str(uid)]
    done = subprocess.run(command + [str(a) for a in argv], capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return int(done.stdout)


def stat_of(pid):
    """Fields of /proc/PID/stat from the third on (state, ppid, pgrp, session, ...), None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def all_pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def tree_of(root):
    """`root`, what descends from it, and what is in its session or group (children whose parent is gone)."""
    stats = {pid: stat for pid in all_pids() if (stat := stat_of(pid))}
    inside = {root} & stats.keys()
    while True:
        more = {pid for pid, stat in stats.items() if pid not in inside
                and (int(stat[1]) in inside or root in (int(stat[2]), int(stat[3])))}
        if not more:
            return sorted(inside)
        inside |= more


def kill(pid, sig=signal.SIGKILL):
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        pass


def end_tree(root):
    """Kills the tree and waits until its pids are free; again where it forked meanwhile."""
    while pids := tree_of(root):
        for pid in pids:
            kill(pid)
        for pid in pids:
            wait_gone(pid)


def reap():
    """Takes our own children that have ended and that nobody waits for any more: only where no test runs."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


GIVEN_UP = set()    # what could not be ended: the test that left it has told so, and no later one fails of it too


def end_all(pids):
    """Kills what a test left behind, also as our own children, whom a failed test did not wait for."""
    for pid in pids:
        kill(pid)
    try:
        for pid in pids:
            wait_until(lambda pid=pid: reap() or gone(pid), told_of_gone(pid))
    finally:
        GIVEN_UP.update(pid for pid in pids if not gone(pid))


def strangers():
    """Processes in this namespace that are neither this one nor above it: {pid: command}."""
    mine, pid = set(GIVEN_UP), os.getpid()
    while pid > 0:
        mine.add(pid)
        pid = int(stat_of(pid)[1])
    return {pid: comm_of(pid) for pid in all_pids() if pid not in mine and stat_of(pid)}


def comm_of(pid):
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return "?"


def copy_of(pid, fd):
    """A process's descriptor as one of ours."""
    pidfd = os.pidfd_open(pid)
    got = ctypes.CDLL(None, use_errno=True).syscall(SYS_PIDFD_GETFD, pidfd, fd, 0)
    os.close(pidfd)
    if got < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return got
