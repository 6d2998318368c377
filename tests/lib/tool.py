# SPDX-License-Identifier: Apache-2.0
"""
The tool under test, by its command line, which ferry and CRIU share. So whatever is written against Tool can be tried
with the peer as well: FERRY_TOOL=criu.
"""
import os
import subprocess

import paths


class ToolFailed(AssertionError):
    """The tool ended badly; the message has its command, its words, and the end of its log."""
    def __init__(self, done, log):
        self.done = done
        tail = "\n".join(log.splitlines()[-25:])
        super().__init__(f"{' '.join(done.args)}\nended with {done.returncode}\n{done.stdout}{done.stderr}\n"
                         f"--- end of its log\n{tail}")


class Tool:
    def __init__(self, name, argv):
        self.name = name
        self.argv = list(argv)

    def __repr__(self):
        return self.name

    @property
    def is_ferry(self):
        return self.name.startswith("ferry")

    def command(self, action, *options):
        return [*self.argv, action, *(str(o) for o in options)]

    def run(self, action, *options, timeout_s=120, **kwargs):
        """Runs to its end whatever that is: returns subprocess's result (text)."""
        return subprocess.run(self.command(action, *options), capture_output=True, text=True, errors="backslashreplace", check=False,
                              stdin=subprocess.DEVNULL, timeout=timeout_s, **kwargs)

    def run_well(self, action, directory, *options, **kwargs):
        log = os.path.join(directory, f"{action}.log")
        done = self.run(action, "-D", directory, "-v4", "-o", log, *options, **kwargs)
        if done.returncode:
            raise ToolFailed(done, read_log(log))
        return done

    def dump(self, pid, directory, *options, **kwargs):
        """Dumps the tree of `pid` into `directory`, which is made when it is missing."""
        os.makedirs(directory, exist_ok=True)
        return self.run_well("dump", str(directory), "-t", pid, *options, **kwargs)

    def restore(self, directory, *options, **kwargs):
        """Restores detached and returns the root's pid."""
        pidfile = os.path.join(directory, "restored.pid")
        if os.path.exists(pidfile):
            os.unlink(pidfile)
        self.run_well("restore", str(directory), "-d", "--pidfile", pidfile, *options, **kwargs)
        with open(pidfile) as f:
            return int(f.read())

    def check(self, *options):
        return self.run("check", *options)


def read_log(path):
    try:
        with open(path, errors="replace") as f:
            return f.read()
    except OSError:
        return "(no log)"


def make_peer():
    """CRIU of Debian's sid, run directly by its own loader (no shell between, so that times are its own)."""
    done = subprocess.run([os.path.join(paths.TOP, "scripts", "peer.sh")], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"no peer; make it first with scripts/peer.sh (there is no network in here): {done.stderr}")
    root = os.path.join(os.path.dirname(done.stdout.strip()), "root")
    libraries = f"{root}/lib/x86_64-linux-gnu:{root}/usr/lib/x86_64-linux-gnu"
    return Tool("criu", [f"{root}/lib64/ld-linux-x86-64.so.2", "--library-path", libraries, f"{root}/usr/sbin/criu"])


def make_tool():
    wanted = os.environ.get("FERRY_TOOL", "ferry")
    if wanted == "criu":
        return make_peer()
    if wanted == "ferry":
        return Tool("ferry", [paths.FERRY])
    return Tool("ferry (" + wanted + ")", [wanted])
