# SPDX-License-Identifier: Apache-2.0
"""A directory that has a dump is used for another one. Whatever becomes of that, nobody restores a mixture of both."""
import os
import subprocess

import pytest

from changer import Links
from program import end_tree


@pytest.fixture
def links(tool, start, workdir):
    return Links(tool, start, workdir)


def fails(links, name, *options, prev=None, said, limit=None):
    command = links.command("dump", name, "-R", *options, prev=prev)
    done = subprocess.run(["prlimit", f"--fsize={limit}", *command] if limit else command, capture_output=True, text=True,
                          check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and said in done.stderr, done.stderr


def is_refused(links, name, said):
    done = links.tool.run("restore", "-D", links.directory(name), "-d")
    assert done.returncode == 1 and said in done.stderr, done.stderr


def test_refused_before_it_begins(links):
    """What gave up pages is still said to, and what has a parent has it."""
    links.dump("a")
    links.program.change()
    links.dump("b")
    links.program.change()
    links.dump("c")
    links.tool.run_well("dedup", links.directory("b"))
    fails(links, "a", prev="nowhere", said="no images")
    fails(links, "b", prev="b", said="itself")
    fails(links, "a", prev="c", said="does not end")
    links.end()
    is_refused(links, "a", "given up for a newer dump")
    for name in ("b", "c"):
        links.comes_back(name)


def test_fails_half_way(links):
    """Neither the old dump is there nor the new one, and nothing is read through it."""
    links.dump("a")
    links.program.change()
    links.dump("b")
    links.program.change()
    fails(links, "a", limit=1 << 20, said="File too large")
    end_tree(links.pid)
    is_refused(links, "a", "inventory.img")
    is_refused(links, "b", "the chain is broken")


def test_forgets_old_tasks(links, start):
    """The memory of a task that is no more would be taken for that of a new one with its number."""
    links.take("dump", "a", "-R", prev=None)
    other = start(["/usr/bin/sleep", "1000"])
    assert links.tool.run("dump", "-D", links.directory("a"), "-t", other).returncode == 0
    assert [name for name in os.listdir(links.directory("a")) if name.startswith(("pagemap-", "pages-"))] and \
        not os.path.exists(f"{links.directory('a')}/pagemap-{links.pid}.img")


def test_pre_dump_of_who_calls_exec(tool, start, workdir):
    """Again and again: a pre-dump of any moment of that is one, if of a program that has gone already."""
    if not tool.is_ferry:
        pytest.skip("CRIU can't track here")
    script = f"{workdir}/again"
    with open(script, "w", encoding="utf-8") as f:
        f.write("#!/bin/sh\nexec \"$0\"\n")
    os.chmod(script, 0o755)
    pid = start([script])
    for nth in range(40):
        os.mkdir(f"{workdir}/{nth}")
        tool.run_well("pre-dump", f"{workdir}/{nth}", "-t", pid, *(["--prev-images-dir", f"../{nth - 1}"] if nth else []))
    end_tree(pid)
