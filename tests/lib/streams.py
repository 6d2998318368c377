# SPDX-License-Identifier: Apache-2.0
"""
Dumps that are streams. StreamTool is used as any Tool: a dump of it leaves one file in its directory, which its restore
reads through a pipe.

Streams in pieces: frames_of() takes one apart, stream_of() makes one of frames, with the right checksums whatever is in them.
"""
import ctypes
import os
import re
import struct
import subprocess

import paths
from program import strangers
from tool import Tool, ToolFailed, read_log
from waiting import read_or_empty, wait_until

STREAM = "dump.stream"


class StreamTool(Tool):
    def __init__(self, tool, *options):
        super().__init__(tool.name + " stream", tool.argv)
        self.options = options

    def dump(self, pid, directory, *options, **kwargs):
        os.makedirs(directory, exist_ok=True)
        log = os.path.join(directory, "dump.log")
        with open(os.path.join(directory, STREAM), "wb") as out:
            done = subprocess.run(self.command("dump", "-W", directory, "-v4", "-o", log, "-t", pid, "--stream", *self.options, *options),
                                  stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, text=True, check=False, timeout=120,
                                  **kwargs)
        if done.returncode:
            raise ToolFailed(fill_in(done), read_log(log))
        return done

    def restore(self, directory, *options, **kwargs):
        pidfile, log = os.path.join(directory, "restored.pid"), os.path.join(directory, "restore.log")
        if os.path.exists(pidfile):
            os.unlink(pidfile)
        with subprocess.Popen(["cat", os.path.join(directory, STREAM)], stdout=subprocess.PIPE) as cat:
            done = subprocess.run(self.command("restore", "-W", directory, "-v4", "-o", log, "--stream", "-d", "--pidfile", pidfile,
                                               *options),
                                  stdin=cat.stdout, capture_output=True, text=True, check=False, timeout=120, **kwargs)
            cat.stdout.close()
        if done.returncode:
            raise ToolFailed(done, read_log(log))
        assert kept_pages(read_log(log)) == 0, "pages were not sent in the order in which they are wanted"
        with open(pidfile, encoding="utf-8") as f:
            return int(f.read())

    def pack(self, directory, path, *options):
        with open(path, "wb") as out:
            done = subprocess.run(self.command("pack", *options, directory), stdin=subprocess.DEVNULL, stdout=out,
                                  stderr=subprocess.PIPE, text=True, check=False, timeout=120)
        if done.returncode:
            raise ToolFailed(fill_in(done), "")

    def unpack(self, path, directory):
        done = self.run("unpack", path, directory)
        if done.returncode:
            raise ToolFailed(done, "")


def dump_command(tool, pid, workdir, *options):
    return tool.command("dump", "-t", pid, "--stream", "-W", workdir, "-v4", "-o", "dump.log", *options)


def kept_pages(log):
    """Pages that were kept for later; but for those of the vdso (two a task), which are looked at when all else is done."""
    kept, tasks = re.search(r"(\d+) pages came before", log), re.search(r"restored (\d+) task", log)
    return max(0, int(kept.group(1)) - 2 * int(tasks.group(1))) if kept and tasks else 0


# ---- to another machine ----

# What a process had in memory before it became a command counts as the command's peak: so a small one, not the tests', begins it.
PEAK = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[2:]).returncode
with open(sys.argv[1], "w") as f:
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=f)
sys.exit(status)
"""


def with_peak(path, argv):
    """The command, which leaves its peak of memory (KiB) in the file when it has ended."""
    return ["/usr/bin/python3", "-c", PEAK, path, *argv]


TARGET = """
import resource, subprocess, sys
ferry, words = sys.argv[1], sys.argv[2]
done = subprocess.run([ferry, "restore", "--stream", "-v4", "-o", "restore.log", "-W", words, "-d", "--pidfile", "pid"])
assert done.returncode == 0
pid = open(words + "/pid").read()
print("restored", pid, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, flush=True)
sys.stdin = open("/dev/null")
subprocess.run(["tail", "-f", "--pid", pid, "/dev/null"])
"""


class OtherMachine:
    """A pid namespace of its own, in which `restore --stream` reads `stdin`; its words are in the directory."""
    def __init__(self, tool, directory, stdin):
        self.directory = directory
        self.process = subprocess.Popen([paths.INIT, "/usr/bin/python3", "-c", TARGET, *tool.argv, directory], stdin=stdin,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def restored(self):
        """The root's pid over there; peak_bytes: what the restore needed for itself, and for pages that came too early."""
        line = self.process.stdout.readline()
        assert line.startswith("restored "), line + self.process.stdout.read()
        _, pid, rss_kib = line.split()
        self.peak_bytes = int(rss_kib) * 1024 + kept_pages(read_log(f"{self.directory}/restore.log")) * 4096
        return int(pid)

    def outside(self, pid):
        """Our number of a process over there."""
        return next(outer for outer in strangers() if f"NSpid:\t{outer}\t{pid}\n" in read_or_empty(f"/proc/{outer}/status"))

    def end(self):
        self.process.kill()
        self.process.communicate()
        wait_until(lambda: "init" not in strangers().values(), "the other machine is gone")


# ---- in pieces ----

HEAD = b"ferrySTR" + (1).to_bytes(4, "little") + bytes(4)
IMAGE, BYTES, PAGES_FILE, STATE_END, PAGES, SEAL = range(1, 7)
PAGES_HEAD_BYTES = 32
FRAME = struct.Struct("<IIQQ")      # type, length, sums


def hash_of(content):
    xxh3 = ctypes.CDLL("libxxhash.so.0").XXH3_64bits
    xxh3.argtypes, xxh3.restype = (ctypes.c_char_p, ctypes.c_size_t), ctypes.c_uint64
    return xxh3(content, len(content))


def frame_of(place, kind, content):
    """With the sum of its bytes, and one of its head and place."""
    total = hash_of(content)
    return FRAME.pack(kind, len(content), total, hash_of(struct.pack("<QIIQ", place, len(content), kind, total))) + content


def frames_of(raw):
    """[(type, bytes)] of a stream, the seal too."""
    at, frames = len(HEAD), []
    while at < len(raw):
        kind, size, _, _ = FRAME.unpack_from(raw, at)
        at += FRAME.size + size
        frames.append((kind, bytes(raw[at - size:at])))
    assert raw[:len(HEAD)] == HEAD and at == len(raw)
    return frames


def borders_of(raw):
    """Where the head, each frame, and what is behind the last begin."""
    borders = [0, len(HEAD)]
    for _, content in frames_of(raw):
        borders.append(borders[-1] + FRAME.size + len(content))
    return borders


def stream_of(frames):
    """The frames (without a seal) as a whole stream."""
    raw = bytearray(HEAD)
    for place, (kind, content) in enumerate([*frames, (SEAL, None)]):
        if content is None:
            content = place.to_bytes(8, "little") + len(raw).to_bytes(8, "little")
        raw += frame_of(place, kind, content)
    return bytes(raw)


def fill_in(done):
    done.args, done.stdout = [str(a) for a in done.args], ""
    return done
