# SPDX-License-Identifier: Apache-2.0
"""redis-server with data, listening on a unix socket and a port."""
from cycles import many_lives, sockets_of, wait_sockets
from redis import Client, server_argv, wait_ready

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
