# SPDX-License-Identifier: Apache-2.0
"""nginx: a master and two workers as www-data, with shared memory and socket pairs between them."""
import os
import pwd
import signal
import socket

import pytest

from cycles import many_lives
from program import stat_of, tree_of
from waiting import wait_until

PORT = 8090
CONFIG = """
daemon off;
user www-data;
worker_processes 2;
pid {dir}/nginx.pid;
error_log {dir}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log {dir}/access.log;
    keepalive_timeout 0;
    client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
    server {{
        listen 127.0.0.1:{port};
        listen [::1]:{port};
        root {dir}/www;
        location /who {{ return 200 "$pid $connection\\n"; }}
    }}
}}
"""


def get(path, host="127.0.0.1"):
    """Body of an answer; the connection is closed by the server."""
    with socket.create_connection((host, PORT), timeout=20) as s:
        s.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b"".join(iter(lambda: s.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0], head
    return body


def answers():
    try:
        return get("/who")
    except OSError:
        return False


def connections_are_closed(pid="self"):
    """In the network of that process."""
    with open(f"/proc/{pid}/net/tcp") as four, open(f"/proc/{pid}/net/tcp6") as six:
        lines = four.readlines()[1:] + six.readlines()[1:]
    end = f":{PORT:04X}"
    established_to_close_wait = ("01", "02", "03", "04", "05", "08", "09", "0B")
    return not any(line.split()[1].endswith(end) and line.split()[3] in established_to_close_wait for line in lines)


def workers_of(master):
    return [pid for pid in tree_of(master) if pid != master and int((stat_of(pid) or [0, 0])[1]) == master]


def test_nginx(tool, start, workdir):
    if not tool.is_ferry:
        pytest.skip("the peer needs CAP_SYS_RESOURCE for tasks of another user")
    os.mkdir(f"{workdir}/www")
    content = os.urandom(200_000)
    with open(f"{workdir}/www/file", "wb") as f:
        f.write(content)
    with open(f"{workdir}/nginx.conf", "w") as f:
        f.write(CONFIG.format(dir=workdir, port=PORT))
    master = start(["nginx", "-c", f"{workdir}/nginx.conf"], out=f"{workdir}/out")
    wait_until(answers, "nginx serves")
    workers = wait_until(lambda: len(workers_of(master)) == 2 and workers_of(master), "two workers")
    www_data = pwd.getpwnam("www-data").pw_uid
    wait_until(lambda: all(os.stat(f"/proc/{pid}").st_uid == www_data for pid in workers), "the workers are www-data's")
    number = 0

    def check(_cycle):
        nonlocal number
        assert get("/file") == content and get("/file", "::1") == content
        for _ in range(8):
            pid, connection = map(int, get("/who").split())
            assert pid in workers
            assert connection > number, "the counter that the workers share went back"
            number = connection
        wait_until(connections_are_closed, "connections are closed")

    check(-1)
    many_lives(tool, master, workdir, check)
    os.kill(master, signal.SIGHUP)  # the master still rules: new workers take over
    wait_until(lambda: len(workers_of(master)) == 2 and not set(workers) & set(workers_of(master)), "new workers")
    assert get("/file") == content
