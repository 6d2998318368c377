# SPDX-License-Identifier: Apache-2.0
"""redis-server with data, listening on a unix socket and a port."""
import os
import random
import subprocess

import pytest

from cycles import many_lives, sockets_of, wait_sockets
from images import dump_stats
from program import end_tree
from redis import Client, server_argv, wait_ready
from waiting import wait_gone

PORT = 6390


def test_redis(tool, start, workdir):
    pid = start(server_argv(workdir, PORT) + ["--appendonly", "yes"])
    address = f"{workdir}/redis.sock"
    wait_ready(address)
    listening = 2
    with Client(address) as client:
        keys = client.fill(8 << 20)
        client.ask("SET", "kept", "1", "EX", 3600)
        assert client.ask("DBSIZE") == keys + 1

    def digest():
        with Client(address) as client:
            value = client.digest()
        wait_sockets(pid, listening)
        return value

    wait_sockets(pid, listening)
    assert sockets_of(pid) == listening
    expected = digest()

    def check(cycle):
        nonlocal expected
        assert digest() == expected, "the data changed"
        with Client(("127.0.0.1", PORT)) as client:
            assert client.ask("INCR", "lives") == cycle + 1
            assert 0 < client.ask("TTL", "kept") <= 3600
        expected = digest()

    # It starts threads when it likes, but loses none.
    many_lives(tool, pid, workdir, check, leave_out=("/Threads", "/maps", ": new,"))
    with Client(address) as client:
        assert client.ask("BGREWRITEAOF").startswith("Background")  # forks


@pytest.fixture
def server(start, workdir):
    return Server(start, workdir)


class Server:
    """With 32 MiB of data, and a chain of its dumps."""
    def __init__(self, start, workdir):
        self.workdir, self.address = workdir, f"{workdir}/redis.sock"
        self.pid = start(server_argv(workdir))
        wait_ready(self.address)
        with Client(self.address) as client:
            self.keys = client.fill(32 << 20)

    def digest(self):
        with Client(self.address) as client:
            value = client.digest()
        wait_sockets(self.pid, 1)
        return value

    def take(self, tool, action, link, *options):
        directory = f"{self.workdir}/link-{link}"
        os.mkdir(directory)
        on_top = ["--prev-images-dir", f"../link-{link - 1}"] if link else []
        done = tool.run_well(action, directory, "-t", self.pid, *on_top, *options)
        assert done.stderr == "", done.stderr
        return dump_stats(directory)["pages_written"]

    def comes_back(self, tool, link, digest):
        assert tool.restore(f"{self.workdir}/link-{link}") == self.pid
        assert self.digest() == digest
        with Client(self.address) as client:
            assert client.ask("SET", "key:1", "lives") == "OK"
        end_tree(self.pid)


def need_chains(tool):
    if "--prev-images-dir" not in tool.run("dump", "--help").stdout:
        pytest.skip("no chains")


def test_pre_dumps_under_load(tool, server):
    """Five while redis-benchmark writes as fast as it can, and the dump when it has ended."""
    need_chains(tool)
    load = ["redis-benchmark", "-s", server.address, "-t", "set,lpush,incr", "-n", "100000000", "-r", "5000", "-d", "500", "-q"]
    with subprocess.Popen(load, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as benchmark:
        pages = []
        try:
            for link in range(5):
                with Client(server.address) as client:
                    client.wait_commands(client.commands_done() + 2000)
                pages.append(server.take(tool, "pre-dump", link))
                assert benchmark.poll() is None
        finally:
            benchmark.kill()
    digest = server.digest()
    pages.append(server.take(tool, "dump", 5))
    wait_gone(server.pid)
    print(f"pages of each link: {pages}")
    assert pages[0] > 32 << 20 >> 12
    server.comes_back(tool, 5, digest)


def test_chain_of_twenty(tool, server):
    """Every link comes back with the data of its moment."""
    need_chains(tool)
    dice, digests, pages = random.Random(int(os.environ["FERRY_SEED"])), [], []
    for link in range(20):
        with Client(server.address) as client:
            for key in dice.sample(range(server.keys), 200):
                client.ask("SET", f"key:{key}", dice.randbytes(dice.choice((10, 4096, 30000))))
            for key in dice.sample(range(server.keys), 20):
                client.ask("DEL", f"key:{key}")
        digests.append(server.digest())
        pages.append(server.take(tool, "dump", link, "-R", "--track-mem"))
    print(f"pages of each link: {pages}")
    end_tree(server.pid)
    assert len(set(digests)) == 20
    for link, digest in enumerate(digests):
        server.comes_back(tool, link, digest)
