# SPDX-License-Identifier: Apache-2.0
"""
A dump as one stream: to a file, through a pipe, packed and unpacked. What is restored is what the program (mutator/) saw.

FERRY_STREAM_SEEDS programs (24) spread over the modes; FERRY_SEED is the first one's.
"""
import array
import fcntl
import os
import random
import resource
import signal
import socket
import subprocess
import termios
import time

import pytest

import paths
from board import Board
from mutator import Mutator
from program import end_tree
from streams import STREAM, OtherMachine, StreamTool, borders_of, dump_command
from tool import ToolFailed
from waiting import counting, gone, read_or_empty, wait_asleep, wait_gone, wait_line, wait_until

SEED = int(os.environ.get("FERRY_SEED") or random.SystemRandom().randrange(1 << 32))
SEEDS = int(os.environ.get("FERRY_STREAM_SEEDS", "24"))


@pytest.fixture
def stream(tool):
    return StreamTool(tool)


SLOW_BYTES, SLOW_S, WORDY_BYTES = 1 << 16, 0.002, 128 << 20
# The zeros come first: what is mapped later lies lower.
WORDY = f"""
import time
words = b"".join(b"%011d of the same words again.\\n" % n for n in range({WORDY_BYTES} // 40))
zeros = bytearray(b"x") * (8 << 20)
zeros[:] = bytes(8 << 20)
print("ready", flush=True)
time.sleep(1000)
"""


# ---- every way there is ----

def direct(life, _dice, stream):
    """Dumped as a stream and restored from it, twice in a row."""
    for link in range(2):
        life.run_on(200)
        life.tool = stream
        life.dump(link)
        life.restore(link)


def compressed(life, dice, stream):
    life.run_on(200)
    life.tool = StreamTool(stream, "--compress", dice.choice(("lz4", "zstd", "zstd:9", "auto")))
    life.dump(0)
    life.restore(0)


def packed(life, dice, stream):
    """A link of a chain becomes a stream, which is restored, unpacked, and restored from there."""
    links = dice.randrange(1, 4)
    for link in range(links):
        life.run_on(200)
        life.dump(link, *(["-R"] if link < links - 1 else []), "--track-mem", *(["--prev-images-dir", f"../images-{link - 1}"] if link else []))
    life.end()
    path = f"{life.images('packed')}/{STREAM}"
    os.makedirs(life.images("packed"))
    stream.pack(life.images(links - 1), path, *dice.choice(([], ["--compress", "zstd"])))
    stream.unpack(path, life.images("unpacked"))
    plain, life.tool = life.tool, stream
    life.restore(links - 1, life.images("packed"))
    life.end()
    life.tool = plain
    life.restore(links - 1, life.images("unpacked"))


def unpacked(life, _dice, stream):
    life.run_on(200)
    plain, life.tool = life.tool, stream
    life.dump(0)
    life.tool = plain
    stream.unpack(f"{life.images(0)}/{STREAM}", life.images("unpacked"))
    life.restore(0, life.images("unpacked"))


MODES = [direct, compressed, packed, unpacked]


def test_auto_on_a_slow_wire(tool, start, workdir):
    """Pages of zeros, which cost the wire nothing, are no reason to give up compressing."""
    out = f"{workdir}/out"
    pid = start(["/usr/bin/python3", "-c", WORDY], out=out)
    wait_line(out, "ready")
    sent = 0
    with subprocess.Popen(dump_command(tool, pid, workdir, "-R", "--compress", "auto"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as dump:
        while piece := os.read(dump.stdout.fileno(), SLOW_BYTES):
            sent += len(piece)
            time.sleep(SLOW_S)          # it is the wire that is slow
        assert dump.wait() == 0, dump.stderr.read()
    assert sent < WORDY_BYTES * 0.6, f"{sent >> 20} MiB"


@pytest.mark.parametrize("batch", range((SEEDS + 7) // 8))
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
def test_mutator(tool, start, workdir, mode, batch, stream):
    for nth in range(batch, SEEDS // len(MODES), (SEEDS + 7) // 8):
        seed = (SEED + nth * len(MODES) + MODES.index(mode)) % (1 << 32)
        print(f"seed {seed}")
        directory = os.path.join(workdir, str(nth))
        os.makedirs(directory)
        life = Mutator(tool, start, directory, seed)
        mode(life, random.Random(seed), stream)
        life.run_on(30)
        life.stand()
        life.end()


# ---- through a pipe, to another machine ----

COUNTER = counting(0.005)


@pytest.fixture
def other_machine():
    begun = []

    def begin(*args):
        begun.append(OtherMachine(*args))
        return begun[-1]
    yield begin
    for machine in begun:
        machine.end()


@pytest.mark.parametrize("kind", ("pipe", "socket"))
def test_moves_to_another_machine(tool, start, workdir, other_machine, kind):
    out = f"{workdir}/out"
    pid = start(["/usr/bin/python3", "-c", COUNTER], out=out)
    wait_line(out, "3")
    if kind == "pipe":
        read_end, write_end = os.pipe()
        ends = [os.fdopen(read_end, "rb"), os.fdopen(write_end, "wb")]
    else:
        ends = list(socket.socketpair())
    target = other_machine(tool, workdir, ends[0])
    with subprocess.Popen(dump_command(tool, pid, workdir), stdin=subprocess.DEVNULL, stdout=ends[1], stderr=subprocess.PIPE,
                          text=True) as dump:
        for end in ends:
            end.close()
        assert dump.wait(60) == 0, dump.stderr.read()
    wait_gone(pid)
    assert target.restored() == pid
    there = int(read_or_empty(out).split("\n")[-2])
    wait_until(lambda: int(read_or_empty(out).split("\n")[-2]) > there + 10, "it counts on over there")
    numbers = [int(line) for line in read_or_empty(out).split("\n")[:-1]]
    assert numbers == list(range(1, len(numbers) + 1)), "it went on exactly where it was"


def test_source_runs_on_without_a_reader(tool, start, workdir):
    """The reader has gone before, or after a part; it reads all and says that it failed."""
    pid = start(["sleep", "1000"])
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as out:
        done = subprocess.run(dump_command(tool, pid, workdir), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, text=True,
                              check=False)
    assert done.returncode == 1 and "the stream's reader has gone" in done.stderr
    assert not gone(pid)
    ours, theirs = socket.socketpair()
    target = subprocess.Popen(tool.command("restore", "--stream", "-d"), stdin=theirs, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(dump_command(tool, pid, workdir), stdin=subprocess.DEVNULL, stdout=ours, stderr=subprocess.PIPE, text=True) as dump:
        ours.close()
        theirs.close()
        assert dump.wait(60) == 1
        assert f"pid {pid} is taken by another task" in dump.stderr.read()
    assert target.wait() == 1
    target.communicate()
    assert not gone(pid)
    end_tree(pid)


# ---- usage ----

def pending(pipe):
    """Bytes in a pipe that nobody has read yet."""
    left = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, left)
    return left[0]


def is_reading(pid):
    return read_or_empty(f"/proc/{pid}/syscall").startswith("0 ")


def test_stands_still_at_full_speed(tool, start, workdir):
    """While the program waits, the dump steps back behind nobody."""
    pid = start([paths.program("bench", "memory"), 16], cwd=workdir)
    wait_until(lambda: Board(workdir, 2).read()[0], "memory is filled")
    read_end, write_end = os.pipe()
    with subprocess.Popen(dump_command(tool, pid, workdir), stdin=subprocess.DEVNULL, stdout=write_end, stderr=subprocess.PIPE) as dump:
        os.close(write_end)
        try:
            wait_until(lambda: pending(read_end) >= 1 << 19, "pages are in the pipe")
            nice = os.getpriority(os.PRIO_PROCESS, dump.pid)
        finally:
            os.close(read_end)
        assert dump.wait(60) == 1
    assert nice == os.getpriority(os.PRIO_PROCESS, 0)
    end_tree(pid)


def test_show(tool, start, workdir, stream):
    pid = start(["sleep", "1000"])
    stream.dump(pid, workdir, "-R")
    path = f"{workdir}/{STREAM}"
    assert f"{pid} sleep" in tool.run("show", path).stdout
    with open(path, "rb") as f:
        done = subprocess.run(tool.command("show", "-"), stdin=f, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and f"{pid} sleep" in done.stdout


def test_through_a_compressor(tool, start, workdir, stream):
    pid = start(["sleep", "1000"])
    stream.dump(pid, workdir)
    wait_gone(pid)
    path = f"{workdir}/{STREAM}"
    subprocess.run(f"zstd -q <{path} >{path}.zst && zstd -dc <{path}.zst | {tool.argv[0]} restore --stream -d", shell=True, check=True)
    assert not gone(pid)
    end_tree(pid)


@pytest.mark.parametrize("options, words", [
    (["pre-dump", "-t", "1", "--stream"], "whole dump"),
    (["dump", "-t", "1", "--stream", "--track-mem"], "whole dump"),
    (["dump", "-t", "1", "--stream", "--background"], "whole dump"),
    (["dump", "-t", "1", "--stream", "--auto-dedup"], "on top of no other"),
    (["dump", "-t", "1", "--stream", "--compress", "best"], "--compress best"),
    (["dump", "-t", "1", "--stream", "--compress", "zstd:99"], "--compress zstd:99"),
    (["dump", "-t", "1", "--compress", "zstd"], "--compress is for streams"),
    (["unpack", "/dev/null"], "which stream"),
    (["unpack", "/dev/null", "{}/new"], "cut after 0 bytes"),
    (["unpack", "{}", "{}/new"], "directory"),
    (["pack", "{}/none"], "No such file"),
    (["restore", "--stream"], "cut after 0 bytes"),
])
def test_wrong_usage(tool, workdir, options, words):
    done = tool.run(*(option.replace("{}", workdir) for option in options))
    assert done.returncode == 1 and words in done.stderr, done.stderr
    assert not os.path.exists(f"{workdir}/new")


def test_a_terminal_gets_no_stream(tool):
    ours, theirs = os.openpty()
    try:
        done = subprocess.run(tool.command("pack", "/"), stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE, text=True,
                              check=False)
        assert done.returncode == 1 and "terminal" in done.stderr
    finally:
        os.close(ours)
        os.close(theirs)


def restarted(tool, redirection, *words):
    """The command with a descriptor closed or led elsewhere."""
    return subprocess.run(["/bin/bash", "-c", f'exec "$@" {redirection}', "bash", *tool.command(*words)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)


@pytest.mark.parametrize("output, words", [
    (">&-", "Bad file descriptor"), ("</dev/null >&0", "Bad file descriptor"), (">/dev/full", "No space left on device"),
])
def test_no_output(tool, start, workdir, output, words):
    """Nor does the stream go into the log, which would be opened as descriptor 1; the program runs on."""
    pid = start(["sleep", "1000"])
    wait_asleep(pid)
    log = f"{workdir}/dump.log"
    done = restarted(tool, output, "dump", "-t", pid, "--stream", "-W", workdir, "-v4", "-o", log)
    assert done.returncode == 1 and words in done.stderr, done.stderr
    with open(log, "rb") as f:
        assert b"ferrySTR" not in f.read()
    wait_asleep(pid)


def test_file_limit(tool, start, workdir):
    pid = start(["/usr/bin/python3", "-c", "import signal; signal.pause()"])
    wait_asleep(pid)
    with open(f"{workdir}/out", "wb") as out:
        done = subprocess.run(dump_command(tool, pid, workdir), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, text=True,
                              check=False, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)))
    assert done.returncode == 1 and "File too large" in done.stderr, done.stderr
    wait_asleep(pid)


def test_no_input(tool, workdir):
    done = restarted(tool, "<&-", "restore", "--stream", "-d", "-W", workdir, "-o", "restore.log")
    assert done.returncode == 1 and "Bad file descriptor" in done.stderr, done.stderr


def test_ends_that_do_not_block(tool, start, workdir):
    """Both ends of the pipe are non-blocking, and it is small: each waits for the other."""
    pid = start(["/usr/bin/python3", "-c", "import signal; memory = bytearray(range(256)) * 100000; signal.pause()"])
    wait_asleep(pid)
    ends = os.pipe()
    for fd in ends:
        os.set_blocking(fd, False)
    target = subprocess.Popen(tool.command("unpack", "-", f"{workdir}/new"), stdin=ends[0], stderr=subprocess.PIPE, text=True)
    dump = subprocess.Popen(dump_command(tool, pid, workdir), stdin=subprocess.DEVNULL, stdout=ends[1], stderr=subprocess.PIPE,
                            text=True)
    for fd in ends:
        os.close(fd)
    assert dump.wait() == 0, dump.communicate()
    assert target.wait() == 0, target.communicate()
    dump.communicate(), target.communicate()
    wait_gone(pid)
    assert tool.restore(f"{workdir}/new") == pid


@pytest.mark.parametrize("options", [["--dry-run"], ["--dry-run", "--pidfile", "pid"]])
def test_dry_run(tool, start, workdir, stream, options):
    pid = start(["sleep", "1000"])
    stream.dump(pid, workdir)
    wait_gone(pid)
    with open(f"{workdir}/{STREAM}", "rb") as f:
        done = subprocess.run(tool.command("restore", "--stream", "-W", workdir, *options), stdin=f, capture_output=True, text=True,
                              check=False)
    assert done.returncode == 0 and "can be restored" in done.stdout, done.stderr
    assert gone(pid) and not os.path.exists(f"{workdir}/pid")


def test_command_and_pidfile(tool, start, workdir, stream):
    """What ferry becomes reads nothing of the stream, and has no descriptor of it."""
    pid = start(["sleep", "1000"])
    stream.dump(pid, workdir)
    wait_gone(pid)
    with open(f"{workdir}/{STREAM}", "rb") as f:
        done = subprocess.run(tool.command("restore", "--stream", "-W", workdir, "--pidfile", "pid", "-S", "-d", "--exec-cmd", "--",
                                           "/bin/sh", "-c", "cat; ls -l /proc/$$/fd"),
                              stdin=f, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_or_empty(f"{workdir}/pid") == str(pid)
    assert STREAM not in done.stdout and "/dev/null" in done.stdout
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")} == {"/dev/null"}
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)      # it is a sibling of the command: our child


def test_pidfile_exists(tool, start, workdir, stream):
    pid = start(["sleep", "1000"])
    stream.dump(pid, workdir)
    wait_gone(pid)
    with pytest.raises(ToolFailed, match="exists already"):
        stream.restore(workdir, "--pidfile", f"{workdir}/{STREAM}")
    assert gone(pid)


def test_unpack_is_killed(tool, start, workdir, stream):
    """At any time: what is left is no dump, also where there are no checksums yet, and is in nobody's way."""
    pid = start(["sleep", "1000"])
    stream.dump(pid, workdir)
    wait_gone(pid)
    with open(f"{workdir}/{STREAM}", "rb") as f:
        raw = f.read()
    for at in borders_of(raw)[1:-1]:
        directory = f"{workdir}/{at}"
        with subprocess.Popen(tool.command("unpack", "-", directory), stdin=subprocess.PIPE) as unpack:
            unpack.stdin.write(raw[:at])
            unpack.stdin.flush()
            wait_until(lambda: os.path.isdir(directory) and pending(unpack.stdin) == 0 and is_reading(unpack.pid), "it has read all there is")
            unpack.kill()
        for options in ([], ["--no-verify"]):
            done = tool.run("restore", "-D", directory, "-d", *options)
            assert done.returncode == 1, at
        assert os.path.getsize(f"{directory}/inventory.img") == 0 if os.path.exists(f"{directory}/inventory.img") else at <= 16
