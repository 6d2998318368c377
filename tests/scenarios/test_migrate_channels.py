# SPDX-License-Identifier: Apache-2.0
"""
Migrations over several connections: what is sent goes over all of them, the program arrives as over one, and when one of them breaks
it counts on where it is. Who connects to the channels' port without knowing the number gets nothing, and may cost some seconds.

FERRY_CHANNEL_KILLS instants (60) at which a side is killed; FERRY_SEED chooses them.
"""
import os
import random
import re
import select
import signal
import socket
import statistics
import struct
import subprocess
import threading

import pytest

from certificates import Authority
from machines import CHANNELS, CHECK, within
from program import copy_of
from test_migrate_kill import Counter, Trouble, child_of, send, settle
from test_migrate_wire import ADDRESSES, Wire, arrives, cable, listen, migrate
from waiting import read_or_empty, wait_until

SEED = int(os.environ.get("FERRY_SEED") or random.SystemRandom().randrange(1 << 32))
KILLS = int(os.environ.get("FERRY_CHANNEL_KILLS", "60"))
BATCH = 20
MOVE_S = 0.2                        # what a move takes, and a little more
JOIN = struct.Struct("<II16s")      # which one (or the port), nothing, the number
CHANNELS_MAX = 16
pytestmark = pytest.mark.usefixtures("cabled")


@pytest.fixture
def there(machines):
    return machines.make("there")


@pytest.fixture
def life(machines, workdir):
    return Counter(machines.make("here"), workdir)


@pytest.fixture
def cabled(machines, life, there):  # pylint: disable=unused-argument,redefined-outer-name
    cable(machines)


def brought(log):
    return [int(n) for n in re.findall(r"channel \d+: (\d+) bytes", read_or_empty(log))]


@pytest.mark.parametrize("count", (1, 3, CHANNELS_MAX))
def test_tcp(tool, life, there, workdir, count):  # pylint: disable=redefined-outer-name
    process, port = listen(tool, there, "--allow-plaintext", "-v4", "-o", f"{workdir}/receive.log")
    done = migrate(tool, life, "--allow-plaintext", "--channels", count, f"tcp://{ADDRESSES[1]}:{port}")
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 0, said
    arrives(life, there, done, said)
    each = brought(f"{workdir}/receive.log")
    assert len(each) == count and min(each) > 0 and statistics.median(each) > (5 << 20) / count / 4, each   # 16 are more than it has large frames


def test_tls(tool, life, there, workdir):  # pylint: disable=redefined-outer-name
    ca = Authority(f"{workdir}/ca")
    us, them = ca.sign("us", ADDRESSES[0], f"IP:{ADDRESSES[0]}"), ca.sign("them", ADDRESSES[1], f"IP:{ADDRESSES[1]}")
    process, port = listen(tool, there, "--tls", *ca.options(them), "-v4", "-o", f"{workdir}/receive.log")
    done = migrate(tool, life, "--channels", 3, *ca.options(us), f"tls://{ADDRESSES[1]}:{port}")
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 0, said
    arrives(life, there, done, said)
    assert len(brought(f"{workdir}/receive.log")) == 3


def test_one_after_another(tool, life, there, workdir):  # pylint: disable=redefined-outer-name
    """A receiver that goes on listening takes channels as well: its children listen by themselves."""
    process, port = listen(tool, there, "--allow-plaintext", "--no-once", "-v4", "-o", f"{workdir}/receive.log")
    done = migrate(tool, life, "--allow-plaintext", "--channels", 2, f"tcp://{ADDRESSES[1]}:{port}")
    wait_until(lambda: len(brought(f"{workdir}/receive.log")) == 2, "both channels have ended")
    os.kill(child_of(process), signal.SIGTERM)
    process.communicate(timeout=30)
    arrives(life, there, done)


def test_only_one(tool, life, there):  # pylint: disable=redefined-outer-name
    receiver = there.receive(tool)
    done = migrate(tool, life, "--channels", 2, f"unix:{receiver.socket}")
    assert receiver.ended()[0] == 0
    assert "one connection only" in done.stderr
    arrives(life, there, done)


def test_too_many(tool, life):  # pylint: disable=redefined-outer-name
    done = migrate(tool, life, "--channels", CHANNELS_MAX + 1, "tcp://127.0.0.1:1")
    assert done.returncode == 1 and "--channels 17: up to 16" in done.stderr
    life.counts_on()


# ---- one breaks ----

def is_socket(path):
    try:
        return os.readlink(path).startswith("socket:")
    except FileNotFoundError:       # it was closed meanwhile
        return False


def is_connected(end):
    try:
        return end.getpeername() is not None
    except OSError:
        return False


def socket_of(pid, nr):
    """A copy of the process's nr-th connected socket; None: it has not so many."""
    numbers = [int(fd) for fd in os.listdir(f"/proc/{pid}/fd") if is_socket(f"/proc/{pid}/fd/{fd}")]
    try:
        ends = [socket.socket(fileno=copy_of(pid, fd)) for fd in sorted(numbers)]
    except OSError:                 # one was closed meanwhile
        return None
    connected = [end for end in ends if end.family == socket.AF_INET and is_connected(end)]
    found = connected[nr] if nr < len(connected) else None
    for end in ends:
        if end is not found:
            end.close()
    return found


@pytest.mark.parametrize("side", ("source", "target"))
@pytest.mark.parametrize("nr", (0, 1, 3))
def test_one_breaks(tool, life, there, side, nr):  # pylint: disable=redefined-outer-name
    """0: the first connection; the others are channels."""
    target, port = listen(tool, there, "--allow-plaintext")
    source = life.machine.popen(tool.command("migrate", "-t", life.pid, "--peer-timeout", "5", "--allow-plaintext", "--channels", 3,
                                             "--bandwidth", "2M", f"tcp://{ADDRESSES[1]}:{port}"),
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    pid = child_of(source if side == "source" else target)
    wait_until(lambda: len(there.pids()) > 4, "vessels are there")
    end = wait_until(lambda: socket_of(pid, nr), "it is connected")
    end.shutdown(socket.SHUT_RDWR)
    end.close()
    _, why = source.communicate(timeout=30)
    _, said = target.communicate(timeout=30)
    assert source.returncode == 1 and target.returncode == 1, why + said
    assert why.count("Error") == 1, why
    assert not life.tree(there)
    life.counts_on()


def come_in_vain(machine, address, port):
    """Ends a target that nobody came to: its source was killed before."""
    try:
        within(f"/proc/{machine.init}/ns/net", lambda: socket.create_connection((address, port), 10)).close()
    except OSError:
        pass        # it listens no more


@pytest.mark.parametrize("batch", range((KILLS + BATCH - 1) // BATCH))
def test_one_runs(tool, machines, life, there, batch):  # pylint: disable=redefined-outer-name
    """As test_migrate_kill has it, over channels: whichever side is killed, whenever."""
    here = life.machine
    for nr in range(batch * BATCH, min((batch + 1) * BATCH, KILLS)):
        dice = random.Random(f"{SEED} {nr}")
        trouble = Trouble(dice, dice.choice(("kill source", "kill target")), None, dice.uniform(0, MOVE_S))
        trouble.committed = True        # nobody looks into the wire: it may have been
        print(nr, trouble)
        address = ADDRESSES[machines.all.index(there)]
        target, port = listen(tool, there, "--allow-plaintext", "--peer-timeout", "1", address=address)
        source = here.popen(tool.command("migrate", "-t", life.pid, "--peer-timeout", "1", "--allow-plaintext", "--channels", dice.randrange(1, 5),
                                         f"tcp://{address}:{port}"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        victim = child_of(source if trouble.action == "kill source" else target)
        timer = threading.Timer(trouble.late_s, send, (victim, signal.SIGKILL))
        timer.start()
        said = source.communicate(timeout=60)[0]
        come_in_vain(here, address, port)
        said += target.communicate(timeout=60)[1]
        timer.join()
        for machine in (here, there):
            wait_until(lambda machine=machine: "ferry" not in {machine.comm(pid) for pid in machine.pids()}, "no ferry is left")
        here, there = settle(tool, life, here, there, trouble, said)


# ---- strangers ----

def connection(machine, port):
    return Wire(within(f"/proc/{machine.init}/ns/net", lambda: socket.create_connection((ADDRESSES[1], port), 10)))


def begin(machine, port, channels):
    """A source that has said hello and wants channels; what it is told."""
    wire = connection(machine, port)
    wire.hello(channels=channels)
    wire.get()                  # its number comes back
    kind, content = wire.get()
    assert kind == CHANNELS
    return wire, JOIN.unpack(content)


def join(machine, port, index, number):
    wire = connection(machine, port)
    wire.begin()
    wire.put(CHANNELS, JOIN.pack(index, 0, number))
    return wire


def drips(machine, port):
    """A byte now and then, as long as they are taken."""
    wire = connection(machine, port)

    def send():
        try:
            while not wire.end.send(b"f") or not wait_readable(wire.end, 0.5):
                pass
        except OSError:
            pass
    threading.Thread(target=send, daemon=True).start()
    return wire


def wait_readable(end, timeout_s):
    return select.select([end], [], [], timeout_s)[0]


def sent_away(wire):
    try:
        return wire.end.recv(1) == b""
    except ConnectionResetError:
        return True


def test_strangers(tool, life, there):  # pylint: disable=redefined-outer-name
    """Those who know the number are taken, in any order, once each."""
    target, port = listen(tool, there, "--allow-plaintext", "--peer-timeout", "20")
    wire, (more, _, number) = begin(life.machine, port, 2)
    assert number != bytes(16) and more not in (0, port)
    strangers = [join(life.machine, more, 0, bytes(16)), join(life.machine, more, 2, number), join(life.machine, more, 0xffffffff, number),
                 connection(life.machine, more), drips(life.machine, more)]
    strangers[3].end.sendall(b"GET / HTTP/1.0\r\n\r\n")
    lanes = [None, join(life.machine, more, 1, number)]
    strangers.append(join(life.machine, more, 1, number))
    lanes[0] = join(life.machine, more, 0, number)
    assert all(map(sent_away, strangers))
    for place in (2, 3):        # hello and its echo were 0 and 1; an empty list of questions is answered by one
        lanes[place % 2].place = place
    lanes[0].put(CHECK)
    assert wire.get() == (CHECK, b"")
    for one in (wire, *lanes):
        one.end.close()
    assert target.wait(30) == 1
    target.communicate()
    assert not life.tree(there)
    life.counts_on()


def test_source_goes(tool, life, there):  # pylint: disable=redefined-outer-name
    """Nobody waits for the channels of one who has gone."""
    target, port = listen(tool, there, "--allow-plaintext", "--peer-timeout", "1000")
    wire, _ = begin(life.machine, port, 2)
    wire.end.close()
    _, said = target.communicate(timeout=30)
    assert target.returncode == 1 and "closed the connection" in said, said


@pytest.mark.parametrize("channels", (CHANNELS_MAX + 1, 0xffffffff))
def test_more_than_there_are(tool, life, there, channels):  # pylint: disable=redefined-outer-name
    target, port = listen(tool, there, "--allow-plaintext")
    wire = connection(life.machine, port)
    wire.hello(channels=channels)
    _, said = target.communicate(timeout=30)
    assert target.returncode == 1 and f"wants {channels} channels" in said


def test_nobody_comes(tool, life, there):  # pylint: disable=redefined-outer-name
    target, port = listen(tool, there, "--allow-plaintext", "--peer-timeout", "1")
    wire, (more, _, number) = begin(life.machine, port, 2)
    lane = join(life.machine, more, 0, number)
    _, said = target.communicate(timeout=30)
    assert target.returncode == 1 and "too few channels" in said, said
    assert wire and lane
    life.counts_on()
