# SPDX-License-Identifier: Apache-2.0
"""Waiting for a condition to be true, never for time to pass."""
import os
import time


# nanosleep, clock_nanosleep, pause, rt_sigtimedwait, rt_sigsuspend, restart_syscall
SLEEPS = {35, 230, 34, 128, 130, 219}


class TooLate(AssertionError):
    pass


def wait_until(condition, what, deadline_s=20):
    """Polls `condition` until it returns something true, and returns that."""
    end = time.monotonic() + deadline_s
    pause = 0.0005
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TooLate(f"after {deadline_s} s still not so: {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)


class Told:
    """Words that are found when somebody reads them."""
    def __init__(self, find):
        self.find = find

    def __str__(self):
        return self.find()


def described(pid):
    """What keeps a process: its threads with their states, who traces them, what they wait for in the kernel; and its parent."""
    def words(path, *keys):
        lines = [line.split(":", 1) for line in read_or_empty(path).splitlines() if ":" in line]
        return " ".join(f"{key} {value.strip()}" for key, value in lines if key in keys)
    tasks = sorted(os.listdir(f"/proc/{pid}/task")) if os.path.isdir(f"/proc/{pid}/task") else []
    told = [f"{pid}: " + words(f"/proc/{pid}/status", "Name", "State", "PPid", "Threads", "ShdPnd")]
    for tid in tasks:
        at = f"/proc/{pid}/task/{tid}"
        told.append(f"  {tid}: " + words(f"{at}/status", "State", "TracerPid", "SigPnd") +
                    f" waits in {read_or_empty(f'{at}/wchan')}, calls {read_or_empty(f'{at}/syscall').strip()}")
        told += [f"    {line}" for line in read_or_empty(f"{at}/stack").splitlines()]
    parent = words(f"/proc/{pid}/status", "PPid").removeprefix("PPid ")
    return "\n".join(told + [f"  parent {parent}: " + words(f"/proc/{parent}/status", "Name", "State")])


def told_of_gone(pid):
    return Told(lambda: f"process {pid} is gone\n{described(pid)}")


def gone(pid):
    """Ended and reaped: its number is free."""
    return not os.path.exists(f"/proc/{pid}")


def wait_gone(pid, deadline_s=20):
    wait_until(lambda: gone(pid), told_of_gone(pid), deadline_s)


def wait_asleep(pid, deadline_s=20):
    """Until the program's main thread waits in a system call that no other thread or event is about to end."""
    def asleep():
        words = read_or_empty(f"/proc/{pid}/syscall").split()
        return words and words[0].isdigit() and int(words[0]) in SLEEPS
    wait_until(asleep, f"process {pid} sleeps", deadline_s)


def read_or_empty(path):
    try:
        with open(path, errors="replace") as f:
            return f.read()
    except OSError:
        return ""


def wait_line(path, wanted, deadline_s=20):
    """Until a whole line of the file `path` begins with `wanted`; returns that line."""
    def look():
        lines = read_or_empty(path).split("\n")[:-1]
        return next((line for line in lines if line.startswith(wanted)), None)
    return wait_until(look, f"{path} has a line {wanted!r}", deadline_s)


def counting(pause_s):
    """A Python program that counts, for counts_on()."""
    return f"""
import time
n = 0
while True:
    n += 1
    print(n, flush=True)
    time.sleep({pause_s})
"""


def counts_on(out, more_bytes=20):
    """Until what a program writes to `out`, 1 and on, a line each, is longer by that much: there is no gap in it."""
    at = len(read_or_empty(out))
    wait_until(lambda: len(read_or_empty(out)) > at + more_bytes, "it counts on")
    numbers = [int(line) for line in read_or_empty(out).split("\n")[:-1]]
    assert numbers == list(range(1, len(numbers) + 1))
