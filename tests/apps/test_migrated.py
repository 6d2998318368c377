# SPDX-License-Identifier: Apache-2.0
"""
Programs that work move to another machine and back, ten times in one life, while they do so. The machines have networks, mounts and process
numbers of their own, a directory `run` of their own for sockets, and the other files together; what moves goes over the wire alone. After each
move the program is on one machine, whole, and has what it had.

FERRY_MIGRATE_TRIPS times there and back (10).
"""
import json
import os
import shlex
import threading
import urllib.request
from contextlib import contextmanager

import pytest

from board import Board
from machines import CHECK, DROP, HELLO, IMAGE, ROUND, ROUND_DONE, RUNS, SAY, STAGED, Gate, within, word_of
from paths import program
from redis import Client, server_argv
from test_nginx import CONFIG, connections_are_closed, get
from test_nginx import PORT as NGINX_PORT
from test_node import PORT as NODE_PORT
from test_python import ask
from waiting import read_or_empty, wait_until

TRIPS = int(os.environ.get("FERRY_MIGRATE_TRIPS", "10"))
APPS = os.path.dirname(os.path.abspath(__file__))


class App:
    """A program, and the machine that it is on. `names`: of its processes; `check()`: it works, and has what it had."""
    names = ()

    def __init__(self, workdir, machine):
        self.workdir, self.machine, self.out = workdir, machine, f"{workdir}/out"
        self.pid = None

    def start(self, *argv):
        self.pid = self.machine.start(argv, self.out, self.workdir)

    @contextmanager
    def watching(self, socket):
        """Around each move: the socket to migrate to."""
        yield socket

    def moved(self, machine):
        self.machine = machine

    def path(self, name):
        """Of a socket in its machine's `run`, from here."""
        return self.machine.path(f"{self.workdir}/run/{name}")

    def there(self, call):
        """In its machine's network; None while nobody answers."""
        try:
            return within(f"/proc/{self.machine.init}/ns/net", call)
        except ConnectionError:
            return None

    def is_whole(self, names):
        return names == sorted(self.names)

    def end(self):
        pass


class Redis(App):
    """A server, a client that checks it and one that writes as fast as it can; all of them move, with what is between them."""
    names = ("sh", "redis-server", "redis-benchmark", "python3")
    data_bytes = 16 << 20

    def __init__(self, workdir, machine):
        super().__init__(workdir, machine)
        socket = f"{workdir}/run/redis.sock"
        words = server_argv(workdir) + ["--unixsocket", socket]
        load = f"redis-benchmark -s {socket} -c 8 -t set -n 2000000000 -r 2000 -d 1000 -q"
        self.start("sh", "-c", f"{shlex.join(map(str, words))} & /usr/bin/python3 {APPS}/redis_load.py {socket} & "
                               f"until [ -S {socket} ]; do :; done; nice {load} & wait")
        wait_until(lambda: os.path.exists(self.path("redis.sock")), "redis listens")
        with Client(self.path("redis.sock")) as client:
            keys = client.fill(self.data_bytes)
            self.asked = ("DEBUG", "DIGEST-VALUE", *(f"key:{nr}" for nr in range(keys)))
            self.digest = client.ask(*self.asked)
        assert len(set(self.digest)) == keys

    def check(self):
        with Client(self.path("redis.sock")) as client:
            def counts():
                return int(client.ask("GET", "loads") or 0), client.commands_done()
            loads, commands = counts()
            assert client.ask(*self.asked) == self.digest
            wait_until(lambda: (now := counts())[0] > loads and now[1] > commands + 2000, "its clients go on")


class Load(threading.Thread):
    """Calls again and again, a connection each time, but not while it is paused."""
    def __init__(self, call):
        super().__init__(daemon=True)
        self.call, self.done, self.failed, self.ended = call, 0, None, False
        self.may, self.busy = threading.Event(), threading.Lock()
        self.may.set()
        self.start()

    def run(self):
        try:
            while not self.ended:
                self.may.wait()
                with self.busy:
                    if self.may.is_set():
                        self.call()
                        self.done += 1
        except BaseException as e:  # pylint: disable=broad-except
            self.failed = e

    def pause(self):
        self.may.clear()
        with self.busy:
            pass

    def end(self):
        self.ended = True
        self.may.set()
        self.join(30)


class Nginx(App):
    """Clients of its machine ask it all the time, but for the stops: a connection that leads out of the tree can't move."""
    names = ("nginx", "nginx", "nginx")

    def __init__(self, workdir, machine):
        super().__init__(workdir, machine)
        os.mkdir(f"{workdir}/www")
        self.content = os.urandom(200_000)
        with open(f"{workdir}/www/file", "wb") as f:
            f.write(self.content)
        with open(f"{workdir}/nginx.conf", "w", encoding="ascii") as f:
            f.write(CONFIG.format(dir=workdir, port=NGINX_PORT))
        self.start("nginx", "-c", f"{workdir}/nginx.conf")
        wait_until(lambda: self.there(lambda: get("/who")), "nginx serves")
        self.number, self.switching = 0, False
        self.load = [Load(self.request) for _ in range(2)]

    def request(self):
        assert self.there(lambda: get("/file")) == self.content

    def pause(self):
        for one in self.load:
            one.pause()
        wait_until(lambda: connections_are_closed(self.machine.init), "connections are closed")

    def resume(self):
        for one in self.load:
            one.may.set()

    @contextmanager
    def watching(self, socket):
        gate = Gate(socket, self.before)
        try:
            yield gate.path
        finally:
            gate.end()

    def before(self, gate, direction, kind, raw):
        """The source stops it after these words of the target, and sends images when it is not to go on."""
        if direction == gate.TO_SOURCE and (kind == HELLO or (kind == SAY and word_of(raw) in (STAGED, ROUND_DONE))):
            self.pause()
        elif direction == gate.TO_TARGET:
            self.switching |= kind == IMAGE and not self.load[0].may.is_set()
            if kind == CHECK or (kind in (RUNS, DROP, ROUND) and not self.switching):
                self.switching = False
                self.resume()

    def moved(self, machine):
        super().moved(machine)
        self.switching = False
        self.resume()

    def check(self):
        before = [one.done for one in self.load]
        for _ in range(8):
            _, connection = map(int, self.there(lambda: get("/who")).split())
            assert connection > self.number, "the counter that the workers share went back"
            self.number = connection
        wait_until(lambda: all(one.failed or one.done > then + 5 for one, then in zip(self.load, before)), "its clients go on")
        for one in self.load:
            assert not one.failed, one.failed

    def end(self):
        for one in self.load:
            one.end()


class Counting(App):
    """One that tells what it has counted, and what is wrong."""
    def __init__(self, workdir, machine, *argv):
        super().__init__(workdir, machine)
        self.start(*argv)
        self.first = self.last = wait_until(self.see, "it answers")

    def check(self):
        def grew():
            now = self.see()
            assert not now["wrong"], now["wrong"]
            assert now["data"] == self.first["data"]
            return now if all(now[name] > self.last[name] for name in now if isinstance(now[name], int)) else None
        self.last = wait_until(grew, f"counters go on from {self.last}")


class Python(Counting):
    names = ("python3", "cat")

    def __init__(self, workdir, machine):
        super().__init__(workdir, machine, "/usr/bin/python3", f"{APPS}/busy.py", f"{workdir}/run/socket")

    def see(self):
        return ask(self.path("socket")) if os.path.exists(self.path("socket")) else None


class Node(Counting):
    names = ("node",)

    def __init__(self, workdir, machine):
        super().__init__(workdir, machine, "node", f"{APPS}/busy.js", NODE_PORT)

    def see(self):
        now = self.there(self.fetch)
        if now:
            now["answers 0"], now["answers 1"] = now.pop("answers")
        return now

    @staticmethod
    def fetch():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{NODE_PORT}/", timeout=20) as answer:
                return json.load(answer)
        except urllib.error.URLError as e:
            raise e.reason


class Family(App):
    """Twenty tasks with shared memory, of which some are born and some end all the time."""
    tasks, born, passes = 20, 21, 22

    def __init__(self, workdir, machine):
        super().__init__(workdir, machine)
        self.start(program("apps", "family"))
        self.board = Board(workdir, self.passes, self.out)
        self.check()

    def is_whole(self, names):
        """Between the end of one and the birth of the next there are less."""
        return self.tasks - 5 < len(names) <= self.tasks and set(names) == {"family"}

    def check(self):
        self.board.wait_growth()


def processes(machine, others):
    return sorted(machine.comm(pid) for pid in machine.pids() - others)


def move(tool, app, to):
    receiver = to.receive(tool)
    with app.watching(receiver.socket) as socket:
        done = app.machine.run(tool.command("migrate", "-t", app.pid, f"unix:{socket}"))
    status, said = receiver.ended()
    assert (done.returncode, status) == (0, 0), done.stderr + said + read_or_empty(receiver.log)[-3000:]
    app.moved(to)
    return done.stdout


@pytest.fixture
def settle(workdir, machines):
    """Starts one of the programs on the first of two machines: (program, other machine, {machine: its own processes})."""
    made = []

    def settle_one(kind):
        os.mkdir(f"{workdir}/run")
        both = [machines.make("here"), machines.make("there")]
        for machine in both:
            machine.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", f"{workdir}/run"], check=True)
        others = {machine: machine.pids() for machine in both}
        made.append(kind(workdir, both[0]))
        return made[0], both[1], others
    yield settle_one
    for app in made:
        app.end()


@pytest.mark.parametrize("kind", (Redis, Nginx, Python, Node, Family), ids=lambda kind: kind.__name__.lower())
def test_there_and_back(tool, settle, kind):
    app, away, others = settle(kind)
    app.check()
    for _ in range(2 * TRIPS):
        was = app.machine
        print(move(tool, app, away))
        away = was
        wait_until(lambda: not processes(was, others[was]), "it is gone from where it was")
        wait_until(lambda: app.is_whole(processes(app.machine, others[app.machine])), "all of it is here, once")
        app.check()
        assert not processes(was, others[was])
        assert not app.machine.gone(app.pid), read_or_empty(app.out)
