# SPDX-License-Identifier: Apache-2.0
"""Two hosts on one: network namespaces, joined by a cable (veth). Other namespaces are the test's own."""
import os
import subprocess

# Where ip has names of namespaces: a file system of our own, as this machine may have some of its own there.
PLACE = "/run/netns"
ADDRESSES = ("10.77.0.1", "10.77.0.2")


def ip(*words):
    subprocess.run(["ip", *words], check=True, stdin=subprocess.DEVNULL)


class Hosts:
    """`on(n)` goes in front of a command that is to run on host n (0, 1)."""
    def __init__(self):
        self.names = [f"ferry-{os.getpid()}-{n}" for n in range(2)]

    def __enter__(self):
        made = 0
        self.made_place = not os.path.isdir(PLACE)
        os.makedirs(PLACE, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", PLACE], check=True)
        try:
            for name in self.names:
                ip("netns", "add", name)
                made += 1
            ip("link", "add", "cable", "netns", self.names[0], "type", "veth", "peer", "name", "cable", "netns", self.names[1])
            for name, address in zip(self.names, ADDRESSES):
                ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
                ip("-n", name, "link", "set", "lo", "up")
                ip("-n", name, "link", "set", "cable", "up")
        except subprocess.CalledProcessError:
            self.remove(made)
            raise
        return self

    def __exit__(self, *_):
        self.remove(2)

    def remove(self, count):
        for name in self.names[:count]:
            ip("netns", "del", name)
        for _ in range(2):      # ip's own, and ours below it
            subprocess.run(["umount", PLACE], check=False, stderr=subprocess.DEVNULL)
        if self.made_place:
            os.rmdir(PLACE)

    def on(self, n):
        return ["nsenter", f"--net=/run/netns/{self.names[n]}", "--"]
