# SPDX-License-Identifier: Apache-2.0
"""
Dumps whose pages go to a page server. Wired is a Tool whose dumps and pre-dumps do: so what is driven with a Tool
(mutator.py, changer.py) can be driven over the wire as well.
"""
import os
import re
import shutil
import socket
import subprocess

from tool import Tool, ToolFailed, read_log
from waiting import read_or_empty, wait_until

PAGES = re.compile(r"^(pages-|pagemap-)")


class PageServer:
    """One that listens, and its end. `tool`: ferry or the peer."""
    def __init__(self, tool, directory, *options, ps_socket=None, address="127.0.0.1", run=()):
        os.makedirs(directory, exist_ok=True)
        self.tool, self.directory, self.address = tool, directory, address
        self.log = f"{directory}.server.log"
        ready, its = os.pipe()
        words = ["-D", directory, "-v4", "-o", self.log, "--status-fd", its]
        words += ["--address", address] if ps_socket is None else ["--ps-socket", ps_socket.fileno()]
        passed = [its] + ([ps_socket.fileno()] if ps_socket else [])
        self.process = subprocess.Popen([*run, *tool.command("page-server", *words, *options)], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=passed)
        os.close(its)
        with os.fdopen(ready, "rb") as f:
            self.is_ready = f.read(1) == b"\0"
        self.port = self.find_port() if self.is_ready and ps_socket is None else None

    def find_port(self):
        words = "listening on .*, port ([0-9]+)" if self.tool.is_ferry else "Using ([0-9]+) port"
        return int(wait_until(lambda: re.search(words, read_or_empty(self.log)), "it tells its port").group(1))

    def source_options(self):
        return ["--page-server", "--address", self.address, "--port", self.port]

    def end(self, timeout_s=60):
        """Its exit status; what it said is `stderr` then."""
        try:
            _, self.stderr = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return self.process.returncode

    def kill(self):
        self.process.kill()
        self.process.communicate()


def merge(source, pages):
    """The source's images beside the pages; `parent` is each one's own."""
    for name in os.listdir(source):
        if name != "parent" and not os.path.isdir(f"{source}/{name}"):
            shutil.copy2(f"{source}/{name}", f"{pages}/{name}")


def page_files(directory):
    return [name for name in os.listdir(directory) if PAGES.match(name)]


class Wired(Tool):
    """
    same: source and server have one directory. Else the server's have the same names in DIRECTORY/../at-server, where
    `../NAME` leads from one to the other as it does at the source.
    """
    def __init__(self, tool, same=False, server=None, server_options=(), source_options=()):
        super().__init__(tool.name, tool.argv)
        self.same, self.server_tool = same, server or tool
        self.server_options, self.source_options = server_options, source_options
        self.served = 0

    def place(self, directory):
        if self.same:
            return directory
        above, name = os.path.split(directory)
        return f"{above}/at-server/{name}"

    def run_well(self, action, directory, *options, **kwargs):
        if action not in ("dump", "pre-dump"):
            return super().run_well(action, directory, *options, **kwargs)
        place = self.place(directory)
        prev = list(options[options.index("--prev-images-dir"):][:2]) if "--prev-images-dir" in options else []
        server = PageServer(self.server_tool, place, *prev, *self.server_options)
        assert server.is_ready, read_log(server.log)
        try:
            done = super().run_well(action, directory, *options, *server.source_options(), *self.source_options, **kwargs)
        except ToolFailed:
            server.kill()
            raise
        assert server.end() == 0, f"{server.stderr}\n{read_log(server.log)}"
        self.served += 1
        if not self.same:
            assert page_files(directory) == []
            merge(directory, place)
        return done

    def restore(self, directory, *options, **kwargs):
        return super().restore(self.place(directory), *options, **kwargs)


def socket_pair():
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
