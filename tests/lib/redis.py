# SPDX-License-Identifier: Apache-2.0
"""Debian's redis-server and enough of its protocol to fill it and to ask for the digest of its data."""
import random
import socket

from waiting import wait_until


def server_argv(directory, port=0):
    """Command of a server with all it owns in `directory`: a unix socket, data on demand."""
    return ["redis-server", "--port", port, "--bind", "127.0.0.1", "--unixsocket", f"{directory}/redis.sock", "--dir", directory,
            "--save", "", "--enable-debug-command", "yes", "--logfile", f"{directory}/redis.log", "--daemonize", "no"]


class Client:
    """One connection; commands are lists of words. Closed before a dump, so use `with`."""
    def __init__(self, address):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(60)
        self.socket.connect(address)
        self.reader = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reader.close()
        self.socket.close()

    @staticmethod
    def encode(words):
        raw = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in raw)

    def answer(self):
        line = self.reader.readline()[:-2]
        kind, rest = line[:1], line[1:]
        if kind == b"-" or not line:
            raise RuntimeError(f"redis: {rest.decode() or 'closed the connection'}")
        if kind == b"$":
            return self.reader.read(int(rest) + 2)[:-2] if int(rest) >= 0 else None
        if kind == b"*":
            return [self.answer() for _ in range(int(rest))]
        return int(rest) if kind == b":" else rest.decode()

    def ask(self, *words):
        self.socket.sendall(self.encode(words))
        return self.answer()

    def fill(self, total_bytes, value_bytes=4096, seed=1, digits=1):
        """
        Random values (nothing that could be shared or compressed), sent in batches; returns the number of keys. digits=12:
        the keys are redis-benchmark's.
        """
        rng = random.Random(seed)
        count = total_bytes // value_bytes
        for first in range(0, count, 256):
            keys = range(first, min(first + 256, count))
            self.socket.sendall(b"".join(self.encode(["SET", f"key:{k:0{digits}}", rng.randbytes(value_bytes)]) for k in keys))
            for _ in keys:
                self.answer()
        return count

    def commands_done(self):
        """By all of its clients."""
        lines = self.ask("INFO", "stats").splitlines()
        return next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"total_commands_processed:"))

    def wait_commands(self, count):
        wait_until(lambda: self.commands_done() >= count, f"redis has done {count} commands")

    def digest(self):
        return self.ask("DEBUG", "DIGEST")


def wait_ready(address, deadline_s=20):
    def answers():
        try:
            with Client(address) as client:
                return client.ask("PING") == "PONG"
        except (OSError, RuntimeError):
            return False
    wait_until(answers, "redis-server answers", deadline_s)
