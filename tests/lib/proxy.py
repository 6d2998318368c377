# SPDX-License-Identifier: Apache-2.0
"""
A proxy between a source and a page server, for one connection, that does one thing wrong at one place: cuts, waits,
flips a bit. And it splits what it forwards where it is told to. Nothing is reordered: TCP does not.
"""
import random
import select
import socket
import struct
import threading

TO_SERVER, TO_SOURCE = 0, 1
HEADER = struct.Struct("<IIQQQ")
OPEN2, ADD_F, HERE = 4, 6, 4


class Fault:
    """kind: "cut", "flip" or "wait" at byte `offset` of a direction; "split" everywhere; "none"."""
    def __init__(self, kind, direction=TO_SERVER, offset=0, seed=0):
        self.kind, self.direction, self.offset = kind, direction, offset
        self.random = random.Random(seed)

    def __repr__(self):
        return f"{self.kind} at byte {self.offset} {'to the source' if self.direction else 'to the server'}"


class Cut(Exception):
    pass


class Proxy:
    """Listens at once; forwards to `port` when somebody has connected, until both have closed, or to the cut."""
    def __init__(self, port, fault):
        self.target, self.fault = port, fault
        self.seen = [0, 0]
        self.recorded = [bytearray(), bytearray()]
        self.reached = False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        self.listener.settimeout(30)
        try:
            source, _ = self.listener.accept()
        except OSError:
            return
        with source, socket.create_connection(("127.0.0.1", self.target)) as server:
            try:
                self.forward([source, server])
            except (Cut, OSError):
                pass

    def forward(self, ends):
        open_ = {0, 1}      # directions
        for end in ends:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while open_:
            for end in select.select([ends[d] for d in open_], [], [])[0]:
                direction = ends.index(end)
                raw = end.recv(1 << 18)
                if raw:
                    self.pass_on(ends[1 - direction], direction, raw)
                else:
                    open_.discard(direction)
                    ends[1 - direction].shutdown(socket.SHUT_WR)

    def pass_on(self, to, direction, raw):
        self.recorded[direction] += raw
        at = self.fault.offset - self.seen[direction]
        hit = direction == self.fault.direction and 0 <= at < len(raw)
        self.seen[direction] += len(raw)
        if self.fault.kind == "split":
            return self.split(to, raw)
        if not hit or self.fault.kind == "none":
            return to.sendall(raw)
        self.reached = True
        to.sendall(raw[:at])
        if self.fault.kind == "cut":
            raise Cut
        if self.fault.kind == "flip":
            to.sendall(bytes([raw[at] ^ 1 << self.fault.random.randrange(8)]))
            return to.sendall(raw[at + 1:])
        select.select([], [], [], 0.05)     # what comes later comes all the same
        return to.sendall(raw[at:])

    def split(self, to, raw):
        at = 0
        while at < len(raw):
            n = self.fault.random.choice((1, 2, 31, 33, 4095, 70000))
            to.sendall(raw[at:at + n])
            at += n

    def end(self):
        self.listener.close()
        self.thread.join(30)
        assert not self.thread.is_alive()


def messages(raw):
    """(offset, command, flags, pages, address, id and type, offset of the bytes) of each message."""
    at = 0
    while at < len(raw):
        word, _, pages, address, what = HEADER.unpack_from(raw, at)
        yield at, word & 0xffff, word >> 16, pages, address, what, at + HEADER.size
        at += HEADER.size + (pages * 4096 if word & 0xffff == ADD_F and word >> 16 & HERE else 0)
    assert at == len(raw)


def boundaries(raw):
    """Offsets at which a message, or the pages of one, begin."""
    found = []
    for at, command, flags, _, _, _, its_bytes in messages(raw):
        found += [at, its_bytes] if command == ADD_F and flags & HERE else [at]
    return found


def pages_sent(raw):
    """What chains.all_pages() is to say of it: {name of the pagemap: {address: bytes}}."""
    things = {}
    for _, command, flags, pages, address, what, its_bytes in messages(raw):
        name = f"pagemap-{'shmem-' if what & 255 == 2 else ''}{what >> 8}.img"
        if command == OPEN2:
            things[name] = {}
        if command == ADD_F and flags & HERE:
            things[name].update({address + i * 4096: bytes(raw[its_bytes + i * 4096:its_bytes + (i + 1) * 4096]) for i in range(pages)})
    return things
