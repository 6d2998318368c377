# SPDX-License-Identifier: Apache-2.0
"""redis-server with a GiB of data, moved without a disk: its pages go to a page server. FERRY_REDIS_MIB: less of it."""
import os
import subprocess

import pytest

from certificates import Authority
from cycles import wait_sockets
from hosts import ADDRESSES, Hosts
from images import dump_stats
from redis import Client, server_argv, wait_ready
from tool import Tool
from trackers import need_tracker
from waiting import wait_gone
from wired import PageServer, Wired, merge, page_files

MIB = int(os.environ.get("FERRY_REDIS_MIB", "1024"))


@pytest.fixture(autouse=True)
def only_ferry(tool):
    if not tool.is_ferry:
        pytest.skip("ferry's page server")


@pytest.fixture
def far(workdir):
    """Where the server is: a tmpfs."""
    path = f"{workdir}/at-server"
    os.mkdir(path)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


class Redis:
    def __init__(self, start, workdir, size_mib, on=()):
        self.address = f"{workdir}/redis.sock"
        self.pid = start([*on, *server_argv(workdir)])
        wait_ready(self.address)
        with Client(self.address) as client:
            self.keys = client.fill(size_mib << 20)

    def look(self):
        """The digest of its data; and then nobody is connected."""
        with Client(self.address) as client:
            assert client.ask("DBSIZE") == self.keys
            digest = client.digest()
        wait_sockets(self.pid, 1)
        return digest

    def write_some(self, seed):
        with Client(self.address) as client:
            client.fill(8 << 20, seed=seed)
        wait_sockets(self.pid, 1)


def test_without_a_disk(tool, start, workdir, far):
    """At once; then, the restored one, with three pre-dumps between which it is written to."""
    need_tracker(tool, "scan", "soft-dirty")
    redis = Redis(start, workdir, MIB)
    digest = redis.look()
    wired = Wired(tool)
    wired.dump(redis.pid, f"{workdir}/once")
    wait_gone(redis.pid)
    wired.restore(f"{workdir}/once")
    assert redis.look() == digest
    for name in os.listdir(f"{far}/once"):
        os.unlink(f"{far}/once/{name}")
    for link in range(4):
        if link:
            redis.write_some(link)
            digest = redis.look()
        directory = f"{workdir}/link-{link}"
        os.mkdir(directory)
        wired.run_well("dump" if link == 3 else "pre-dump", directory, "-t", redis.pid,
                       *(["--prev-images-dir", f"../link-{link - 1}"] if link else []))
    assert wired.served == 5
    wait_gone(redis.pid)
    assert dump_stats(f"{workdir}/link-3")["pages_written"] < (MIB << 20) / 4096 / 4
    wired.restore(f"{workdir}/link-3")
    assert redis.look() == digest


@pytest.mark.parametrize("tls", [False, True], ids=["", "tls"])
def test_from_host_to_host(tool, start, workdir, far, tls):
    pki = Authority(f"{workdir}/pki") if tls else None
    pairs = [pki.sign(name, alternative=f"IP:{address}") for name, address in zip("ab", ADDRESSES)] if tls else []
    with Hosts() as hosts:
        redis = Redis(start, workdir, MIB // 8, hosts.on(0))
        digest = redis.look()
        server = PageServer(tool, f"{far}/pages", *(pki.options(pairs[1]) if tls else ["--allow-plaintext"]), address=ADDRESSES[1], run=hosts.on(1))
        assert server.is_ready
        here = Tool("ferry", [*hosts.on(0), *tool.argv])
        os.mkdir(f"{workdir}/images")
        done = here.run_well("dump", f"{workdir}/images", "-t", redis.pid, *server.source_options(), *(pki.options(pairs[0]) if tls else []))
        assert server.end() == 0
        assert tls or "in the clear" in done.stderr
        assert page_files(f"{workdir}/images") == []
        wait_gone(redis.pid)
        merge(f"{workdir}/images", server.directory)
        there = Tool("ferry", [*hosts.on(1), *tool.argv])
        assert there.restore(server.directory) == redis.pid
        assert redis.look() == digest
