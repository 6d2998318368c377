# SPDX-License-Identifier: Apache-2.0
"""--shell-job: a program that reads and writes the terminal it was started from comes back on another one."""
import fcntl
import os
import pty
import subprocess
import termios

import pytest

from program import comm_of, kill, tree_of
from streams import STREAM, StreamTool
from waiting import wait_gone, wait_until

ANSWERER = ["sh", "-c", "sed -u s/^/got:/; :"]     # the shell leads the session, sed is the job


@pytest.fixture(name="terminals")
def fixture_terminals():
    """Starts commands, each on a new terminal; gives the terminal's other end and the process."""
    opened, started = [], []

    def start(argv):
        ours, its = pty.openpty()
        opened.extend((ours, its))

        def lead():
            os.setsid()
            fcntl.ioctl(its, termios.TIOCSCTTY, 0)
        # pylint: disable=subprocess-popen-preexec-fn
        started.append(subprocess.Popen(argv, stdin=its, stdout=its, stderr=its, preexec_fn=lead))
        return ours, started[-1]

    yield start
    for process in started:
        pids = tree_of(process.pid)
        for pid in pids:
            kill(pid)
        process.wait()
        for pid in pids:
            wait_gone(pid)
    for fd in opened:
        os.close(fd)


def answer(ours, line, process):
    """What comes back for `line`, echo and answer."""
    os.set_blocking(ours, False)
    said = b""

    def has_answered():
        nonlocal said
        try:
            said += os.read(ours, 4096)
        except BlockingIOError:
            pass
        return b"got:" + line in said or process.poll() is not None

    os.write(ours, line + b"\n")
    wait_until(has_answered, "the job answers on its terminal")
    return said


def job_of(shell):
    def started():
        job = tree_of(shell.pid)[-1]
        return job if job != shell.pid and comm_of(job) != comm_of(shell.pid) else None
    return wait_until(started, "the shell has started its job")


def test_comes_back_on_another_terminal(tool, workdir, terminals):
    ours, shell = terminals(ANSWERER)
    job = job_of(shell)
    assert b"got:before" in answer(ours, b"before", shell)

    refused = tool.run("dump", "-t", job, "-D", workdir)
    assert refused.returncode == 1
    assert "--shell-job" in refused.stderr
    assert b"got:still" in answer(ours, b"still", shell)

    tool.dump(job, workdir, "-j")
    shell.wait(20)
    refused = tool.run("restore", "-D", workdir)
    assert refused.returncode == 1
    assert "--shell-job" in refused.stderr

    ours, ferry = terminals(tool.command("restore", "-D", workdir, "-j"))
    said = answer(ours, b"after", ferry)
    assert b"got:after" in said, said
    assert os.readlink(f"/proc/{job}/fd/0") == os.readlink(f"/proc/{ferry.pid}/fd/0")
    os.write(ours, b"\x04")
    assert ferry.wait(20) == 0


def test_comes_back_from_a_stream(tool, workdir, terminals):
    """Standard input is the stream: the terminal is known by the output."""
    _, shell = terminals(ANSWERER)
    job, stream = job_of(shell), StreamTool(tool)
    stream.dump(job, workdir, "-j")
    shell.wait(20)
    ours, ferry = terminals(["/bin/sh", "-c", f'exec "$@" <{workdir}/{STREAM}', "sh", *tool.command("restore", "--stream", "-j")])
    said = answer(ours, b"after", ferry)
    assert b"got:after" in said, said
    os.write(ours, b"\x04")
    assert ferry.wait(20) == 0


def test_no_terminal_to_give(tool, workdir, terminals):
    _, shell = terminals(ANSWERER)
    job = job_of(shell)
    tool.dump(job, workdir, "-j")
    shell.wait(20)
    with subprocess.Popen(tool.command("restore", "-D", workdir, "-j"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, start_new_session=True) as ferry:
        said = ferry.communicate(timeout=20)[0]
    assert ferry.returncode == 1
    assert "terminal of this restore" in said
