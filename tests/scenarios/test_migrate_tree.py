# SPDX-License-Identifier: Apache-2.0
"""
A tree that changes its shape after it was staged: vessels follow, or it is staged anew; it arrives as it was at the last stop. And mappings
that look as before, but are of another file.
"""
import os

import pytest

from machines import Gate, ROUND_DONE, SAY, STAGED, word_of
from waiting import TooLate, read_or_empty, wait_line, wait_until

BEGIN = """
import ctypes, os, signal, sys, threading, time
home = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
def forever():
    while True:
        signal.pause()
def child(what=forever):
    pid = os.fork()
    if pid == 0:
        what()
        os._exit(0)
    return pid
def wait_for(name):
    while not os.path.exists(home + "/" + name):
        time.sleep(0.001)
def wait_line(word):
    while word not in open(home + "/out").read().split():
        time.sleep(0.001)
def say(word):
    os.write(1, word.encode() + b"\\n")
"""
END = """
wait_for("check")
check()
say("fine")
forever()
"""
# name: (before the stage, after it, what is right then)
SHAPES = {
    "nothing": ("", "", ""),
    "forks": ("", "kids = [child() for _ in range(5)]", ""),
    "ends": ("kids = [child() for _ in range(5)]", "for pid in kids[::2]:\n    os.kill(pid, 9)\n    os.waitpid(pid, 0)", ""),
    "zombies": ("kids = [child() for _ in range(3)]", "os.kill(kids[1], 9)\nos.waitid(os.P_PID, kids[1], os.WEXITED | os.WNOWAIT)",
                "assert os.waitpid(kids[1], 0)[1] == 9"),
    "zombie-reaped": ("pid = child(lambda: None)\nos.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)", "os.waitpid(pid, 0)\nkid = child()", ""),
    "setsid": ("kid = child(lambda: (wait_for('go'), os.setsid(), say('sid'), forever()))", "wait_line('sid')", ""),
    "daemon": ("", "child(lambda: (os.setsid(), child(), say('out'), forever()))\nwait_line('out')", ""),
    "orphan": ("libc.prctl(36, 1)\nmiddle = child(lambda: (child(), wait_for('go'), os._exit(0)))", "os.waitpid(middle, 0)", ""),
    "grandchildren": ("kid = child(lambda: (wait_for('go'), [child() for _ in range(3)], say('three'), forever()))", "wait_line('three')", ""),
    "group": ("kid = child()", "os.setpgid(kid, kid)", ""),
    "stopped": ("kid = child()", "os.kill(kid, 19)\nos.waitid(os.P_PID, kid, os.WSTOPPED | os.WNOWAIT)", ""),
    "was-stopped": ("kid = child()\nos.kill(kid, 19)\nos.waitid(os.P_PID, kid, os.WSTOPPED | os.WNOWAIT)", "os.kill(kid, 18)", ""),
    "threads": ("", "for _ in range(100):\n    threading.Thread(target=forever, daemon=True).start()", "assert threading.active_count() == 101"),
    "exec": ("kid = child(lambda: (wait_for('go'), os.execv('/bin/sleep', ['sleep', '1000'])))",
             "while b'sleep' not in open(f'/proc/{kid}/cmdline', 'rb').read():\n    pass", ""),
    "session-without-leader": ("", "libc.prctl(36, 1)\nmiddle = child(lambda: (os.setsid(), child(), os._exit(0)))\nos.waitpid(middle, 0)", ""),
    "file-replaced": ("""
libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
def map_it(byte):
    with open(home + "/new", "wb") as f:
        f.write(byte * 8192)
    os.rename(home + "/new", home + "/mapped")
    fd = os.open(home + "/mapped", os.O_RDONLY)
    assert libc.mmap(0x300000000000, 8192, 1, 0x12, fd, 0) == 0x300000000000
    os.close(fd)
map_it(b"a")
""", "map_it(b'b')", "assert ctypes.string_at(0x300000000000, 8192) == 8192 * b'b'"),
    "memfd-grows": ("fd = os.memfd_create('m')\nos.write(fd, b'x' * 5000)", "os.ftruncate(fd, 100)\nos.pwrite(fd, b'y' * 9000, 7)",
                    "assert os.pread(fd, 99999, 0) == b'x' * 7 + b'y' * 9000"),
    "memfd-shrinks": ("fd = os.memfd_create('m')\nos.write(fd, b'x' * 50000)", "os.ftruncate(fd, 10)\nos.ftruncate(fd, 50000)",
                      "assert os.pread(fd, 99999, 0) == b'x' * 10 + bytes(49990)"),
    "memfd-instead": ("fd = os.memfd_create('m')\nos.write(fd, b'x' * 50000)",
                      "os.close(fd)\nother = os.memfd_create('m')\nassert other == fd\nos.write(fd, b'y' * 60000)",
                      "assert os.pread(fd, 99999, 0) == b'y' * 60000"),
    "fifo-instead": ("fd = os.memfd_create('m')\nos.write(fd, b'x' * 50000)",
                     "os.close(fd)\nos.mkfifo(home + '/fifo')\nfifo = os.open(home + '/fifo', os.O_RDWR)\nassert fifo == fd", ""),
    "sealed": ("import fcntl\nfd = os.memfd_create('m', os.MFD_ALLOW_SEALING)\nos.write(fd, b'x' * 5000)",
               "os.pwrite(fd, b'z' * 5000, 3)\nfcntl.fcntl(fd, 1033, 15)", "assert os.pread(fd, 9999, 0) == b'xxx' + b'z' * 5000 and fcntl.fcntl(fd, 1034) == 15"),
}


def shape(machine, root):
    """(state stopped or not, parent, group, session, threads) of each."""
    found, more = {}, {root}
    while more:
        found.update({pid: stat for pid in more if (stat := machine.stat(pid))})
        more = {pid for pid in machine.pids() if (stat := machine.stat(pid)) and int(stat[1]) in found} - found.keys()
    return {pid: (stat[0] if stat[0] in "TZ" else "", stat[1] if pid != root else "", *stat[2:4], stat[17]) for pid, stat in found.items()}


@pytest.mark.parametrize("changes_at", (1, 2))
@pytest.mark.parametrize("name", SHAPES)
def test_shape(tool, machines, workdir, name, changes_at):
    first, then, right = SHAPES[name]
    here, there = machines.make("here"), machines.make("there")
    out = f"{workdir}/out"
    program = BEGIN + first + "\nsay('ready')\nwait_for('go')\n" + then + "\nsay('changed')\ndef check():\n" + \
        "".join(f"    {line}\n" for line in (right or "pass").splitlines()) + END
    pid = here.start(["/usr/bin/python3", "-c", program, workdir], out)
    wait_line(out, "ready")
    answers, shapes = [], []

    def before(gate, direction, kind, raw):
        if direction == gate.TO_SOURCE and kind == SAY and word_of(raw) in (STAGED, ROUND_DONE):
            answers.append(1)
            if len(answers) == min(changes_at, 2) and not shapes:
                with open(f"{workdir}/go", "w", encoding="ascii"):
                    pass
                wait_line(out, "changed")
                shapes.append(shape(here, pid))
    receiver = there.receive(tool)
    gate = Gate(receiver.socket, before)
    done = here.run(tool.command("migrate", "-t", pid, "--max-downtime", "2", "--max-rounds", changes_at, f"unix:{gate.path}"))
    gate.end()
    status, said = receiver.ended()
    assert (done.returncode, status) == (0, 0), done.stderr + said + read_or_empty(receiver.log)[-3000:]
    if not shapes:
        pytest.skip("there was no second round")
    try:
        wait_until(lambda: shape(there, pid) == shapes[0], "it is as it was")       # a stop takes a moment to be one
    except TooLate:
        assert shape(there, pid) == shapes[0]
    with open(f"{workdir}/check", "w", encoding="ascii"):
        pass
    wait_until(lambda: "fine\n" in read_or_empty(out) or "Error" in read_or_empty(out), "it has looked")
    assert "fine\n" in read_or_empty(out), read_or_empty(out)
    assert os.path.exists(f"{there.proc}/{pid}")
