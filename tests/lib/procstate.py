# SPDX-License-Identifier: Apache-2.0
"""
What /proc tells about a tree, in a form that can be compared before a dump and after its restore. What may differ by
nature (inode numbers of pipes and sockets, times) is left out or numbered by first sight, so that who shares what
still shows.
"""
import os
import re

from program import stat_of, tree_of
from waiting import TooLate, wait_until

STATUS = ("Umask", "TracerPid", "Uid", "Gid", "FDSize", "Groups", "Threads", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh",
          "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "THP_enabled", "Cpus_allowed")
NOT_COMPARED = {"FDSize"}
THREAD_STATUS = ("SigPnd", "SigBlk", "Uid", "Gid", "CapEff", "NoNewPrivs", "Cpus_allowed")
# Fields of an fdinfo that mean the same before and after.
FDINFO = ("pos", "flags", "eventfd-count", "eventfd-semaphore", "sigmask", "clockid", "settime flags")


def read(path):
    with open(path, errors="surrogateescape") as f:
        return f.read()


def fields(text, wanted):
    lines = (line.partition(":") for line in text.splitlines())
    return {name: " ".join(value.split()) for name, _, value in lines if name in wanted}


class Numbering:
    """Gives each object's number the rank in which it was first seen."""
    def __init__(self):
        self.ranks = {}

    def plain(self, link):
        link = re.sub(r"/#\d+ \(deleted\)$", "/#INODE (deleted)", link)       # O_TMPFILE: named by its inode
        return re.sub(r"\[(\d+)\]$", lambda m: f"#{self.ranks.setdefault(m[0] + link, len(self.ranks))}", link)


def see_fd(pid, fd, numbering):
    info = read(f"/proc/{pid}/fdinfo/{fd}")
    seen = fields(info, FDINFO)
    seen["link"] = numbering.plain(os.readlink(f"/proc/{pid}/fd/{fd}"))
    targets = re.findall(r"^tfd:\s*(\d+) events:\s*(\w+) data:\s*(\w+)", info, re.M)
    if targets:
        seen["epoll"] = sorted(targets)
    if seen["link"].startswith(("socket:", "pipe:", "anon_inode:[eventpoll]")):
        seen.pop("pos", None)
    return seen


def see_fds(pid, numbering):
    """All that are open while we look."""
    seen = {}
    for fd in sorted(map(int, os.listdir(f"/proc/{pid}/fd"))):
        try:
            seen[fd] = see_fd(pid, fd, numbering)
        except FileNotFoundError:
            pass
    return seen


def see_maps(pid):
    """Mappings as text; neighbours that only a flag keeps apart are one."""
    found = []
    for line in read(f"/proc/{pid}/maps").splitlines():
        span, perms, offset, _dev, _inode, *path = line.split(None, 5)
        start, end = (int(x, 16) for x in span.split("-"))
        offset, path = int(offset, 16), path[0] if path else ""
        if path == "[vsyscall]":
            continue
        if found:
            last = found[-1]
            follows = not path or offset == last[3] + start - last[0]
            if last[1] == start and last[2] == perms and last[4] == path and follows:
                last[1] = end
                continue
        found.append([start, end, perms, offset, path])
    return [f"{s:x}-{e:x} {perms} {off:x} {path}" for s, e, perms, off, path in found]


def see_thread(base):
    stat = read(f"{base}/stat").rpartition(")")[2].split()
    # from the third field on: nice is 19, rt_priority 40, policy 41
    return {"comm": read(f"{base}/comm").strip(), "nice": stat[16], "rt_priority": stat[37], "policy": stat[38],
            **fields(read(f"{base}/status"), THREAD_STATUS)}


def see_task(pid, numbering):
    stat = stat_of(pid)
    task = {"state": stat[0] if stat[0] in "TZ" else "alive", "ppid": int(stat[1]), "pgid": int(stat[2]), "sid": int(stat[3]),
            "comm": read(f"/proc/{pid}/comm").strip()}
    if stat[0] == "Z":
        task["exit_code"] = stat[49]
        return task
    task["status"] = {k: v for k, v in fields(read(f"/proc/{pid}/status"), STATUS).items() if k not in NOT_COMPARED}
    for name in ("cmdline", "limits", "oom_score_adj", "personality", "loginuid"):
        try:
            task[name] = read(f"/proc/{pid}/{name}")
        except FileNotFoundError:
            pass
    for name in ("exe", "cwd", "root"):
        task[name] = os.readlink(f"/proc/{pid}/{name}")
    task["maps"] = see_maps(pid)
    task["threads"] = {tid: see_thread(f"/proc/{pid}/task/{tid}") for tid in sorted(map(int, os.listdir(f"/proc/{pid}/task")))}
    task["fds"] = see_fds(pid, numbering)
    return task


def see(root):
    """{pid: what it is} of the whole tree."""
    numbering = Numbering()
    return {pid: see_task(pid, numbering) for pid in tree_of(root)}


def differences(before, after, path=""):
    """Lines that say what is not the same, best first for a reader: none when all is."""
    if isinstance(before, dict) and isinstance(after, dict):
        lines = []
        for key in sorted(before.keys() | after.keys(), key=str):
            where = f"{path}/{key}"
            if key not in after:
                lines.append(f"{where}: gone, was {before[key]!r}")
            elif key not in before:
                lines.append(f"{where}: new, {after[key]!r}")
            else:
                lines += differences(before[key], after[key], where)
        return lines
    if isinstance(before, list) and isinstance(after, list):
        return [f"{path}: - {line}" for line in before if line not in after] + \
               [f"{path}: + {line}" for line in after if line not in before]
    return [] if before == after else [f"{path}: {before!r} became {after!r}"]


def what_changed(before, after, leave_out=()):
    """Every difference but those whose line contains one of `leave_out`."""
    return [line for line in differences(before, after) if not any(part in line for part in leave_out)]


def assert_same(before, after, leave_out=()):
    wrong = what_changed(before, after, leave_out)
    assert not wrong, "not as it was:\n" + "\n".join(wrong)


def assert_becomes_same(before, root, leave_out=()):
    """
    For programs that work: the tree becomes what it was as soon as it is back in the calls that it was stopped in (one
    that waits in sigsuspend shows another mask until it waits again).
    """
    wrong = []

    def same():
        wrong[:] = what_changed(before, see(root), leave_out)
        return not wrong
    try:
        wait_until(same, "the tree is as it was", 3)
    except TooLate:
        raise AssertionError("not as it was:\n" + "\n".join(wrong)) from None
