# SPDX-License-Identifier: Apache-2.0
"""A bash pipeline of four live processes: no line is lost, none comes twice."""
import os

from cycles import many_lives
from program import tree_of
from waiting import read_or_empty, wait_until


def test_bash(tool, start, workdir):
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pipeline.sh")
    out = f"{workdir}/out"
    pid = start(["bash", script], cwd=workdir)

    def lines():
        return read_or_empty(out).split("\n")[:-1]

    def check(_cycle):
        now = lines()
        wait_until(lambda: len(lines()) >= len(now) + 20, "the pipeline goes on")
        got = lines()
        assert got == [f"<{n}>" for n in range(len(got))]

    check(-1)
    assert len(tree_of(pid)) == 5  # the shell and the four
    many_lives(tool, pid, workdir, check, leave_out=("/fds", "/Sig"))  # the shell blocks SIGCHLD and opens files now and then
