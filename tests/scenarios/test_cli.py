# SPDX-License-Identifier: Apache-2.0
"""The command line as its callers know it: words, files and exit statuses."""
import fcntl
import os
import pty
import re
import signal
import subprocess
import termios

import pytest

import paths
from program import stat_of
from waiting import read_or_empty, wait_asleep, wait_gone, wait_until

PAGES = {"kill": "resume", "unpack": "pack", "receive": "migrate"}  # commands that have no page of their own
COMMANDS = ("dump", "restore", "check", "show", "verify", "dedup", "squash", "resume", "kill", "page-server", "pre-dump", "pack", "unpack", "migrate", "receive")
NO_PID = 4194303        # pid_max is at most one more
# Ends with status 7 at SIGUSR1, 8 at Ctrl-C.
SLEEPER = ["python3", "-c", "import signal, sys\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))\n"
           "signal.signal(signal.SIGINT, lambda *_: sys.exit(8))\nwhile True: signal.pause()"]


@pytest.fixture(autouse=True)
def only_ferry(tool, monkeypatch):
    if not tool.is_ferry:
        pytest.skip("ferry's own words")
    monkeypatch.setenv("HOME", "/nonexistent")


def rows(tool):
    """What the tables of commands and options say."""
    done = tool.run("--list-options")
    assert done.returncode == 0
    return [line.split("\t") for line in done.stdout.splitlines()]


def options_of(tool, command):
    return [row[1] for row in rows(tool) if row[0] == "option" and row[5] == "taken" and command in row[4].split(",")]


def fails(done, words):
    """One line says why, and nothing else is said but a hint."""
    assert done.returncode == 1
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Try: ")]
    assert len(lines) == 1 and words in lines[0], done.stderr
    assert lines[0].startswith("ferry") and "Error: " in lines[0]


@pytest.fixture
def sleeper(start):
    pid = start(SLEEPER)
    wait_asleep(pid)
    return pid


# ---- words ----

@pytest.mark.parametrize("command", COMMANDS)
def test_help(tool, command):
    for how in ("--help", "-h"):
        done = tool.run(command, how)
        assert done.returncode == 0 and done.stderr == ""
        assert done.stdout.startswith(f"Usage: ferry {command}")
        for option in options_of(tool, command):
            assert f"--{option}" in done.stdout


def test_program_words(tool):
    done = tool.run("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", done.stdout, re.M)
    done = subprocess.run(tool.argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("Usage: ") and done.stdout == ""
    for how in ("-V", "--version"):
        done = tool.run(how)
        assert done.returncode == 0 and re.fullmatch(r"Version: \d+\.\d+\.\d+\n", done.stdout)


def man_page(command):
    with open(os.path.join(paths.TOP, "docs", "man", f"ferry-{command}.1" if command else "ferry.1")) as f:
        return f.read().replace("\\-", "-")


def test_man_pages_know_every_option(tool):
    missing = [f"{command}: --{option}" for command in COMMANDS for option in options_of(tool, command)
               if not re.search(rf"--{option}\b(?!-)", man_page(PAGES.get(command, command)))]
    missing += [f"--{row[1]}" for row in rows(tool) if row[0] == "option" and row[5] != "taken"
                and not re.search(rf"--{row[1]}\b(?!-)", man_page(None))]
    missing += [command for command in COMMANDS if not os.path.exists(os.path.join(paths.TOP, "docs", "man", f"ferry-{command}.1"))]
    assert not missing


def test_man_pages_know_no_other_option(tool):
    names = {row[1] for row in rows(tool) if row[0] == "option"} | {"no-shell-job", "no-once"}
    unknown = {name for command in (None, "dump", "restore", "check", "show", "verify", "dedup", "squash", "resume", "page-server", "pre-dump", "pack", "migrate")
               for name in re.findall(r"(?<![\w-])--([a-z][a-z-]+)", man_page(command)) if name not in names}
    assert not unknown


@pytest.mark.parametrize("words, wanted", [
    (["du"], "dump"), (["dump", "--leave-r"], "--leave-running"), (["dump", "--restore"], ""), (["restore", "--exec"], "--exec-cmd"),
    (["--verb"], "--verbosity"), (["check", "--feature", "mem_"], "mem_dirty_track"), (["dump", "-D", "/pro"], "/proc"),
    (["squash", "-o", "/pro"], "/proc"), (["verify", "/pro"], "/proc"), (["dump", "-o", "/proc/versio"], "/proc/version"),
])
def test_completion(tool, words, wanted):
    script = 'PATH=$1:$PATH; source "$2"; shift 2; COMP_WORDS=(ferry "$@"); COMP_CWORD=$#; _ferry 2>/dev/null; echo "${COMPREPLY[@]}"'
    argv = ["bash", "-c", script, "bash", os.path.dirname(tool.argv[0]), os.path.join(paths.TOP, "completions", "ferry.bash"), *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == wanted


# ---- wrong usage ----

@pytest.mark.parametrize("words, why", [
    (["bogus"], "no such command: bogus"),
    (["dump"], "which process? (-t PID)"),
    (["resume"], "which process? (-t PID)"),
    (["squash"], "to which new directory? (-o OUT)"),
    (["dump", "-t", "0"], "--tree"),
    (["dump", "-t", "abc"], "--tree"),
    (["dump", "-t"], "--tree: wants an argument"),
    (["dump", "--nosuch"], "no such option: --nosuch"),
    (["dump", "-t", "1", "2"], "what is '2' for?"),
    (["restore", "-S"], "--restore-sibling"),
    (["restore", "--exec-cmd"], "--exec-cmd: which command?"),
    (["restore", "-r", "/"], "--root: asks for mount namespaces: not handled yet"),
    (["dump", "--config", "/nonexistent/x"], "/nonexistent/x: No such file or directory"),
    (["check", "--feature", "nope"], "no such feature: nope"),
    (["dump", "-t", "1", "-W", "/nonexistent"], "work directory /nonexistent: No such file or directory"),
    (["dump", "-t", "1", "-W", "/dev/null"], "work directory /dev/null: Not a directory"),
    (["show", "/nonexistent"], "/nonexistent: No such file or directory"),
])
def test_wrong_usage(tool, workdir, words, why):
    fails(tool.run(*words, cwd=workdir), why)
    assert os.listdir(workdir) == []


def test_full_output(tool):
    with open("/dev/full", "w") as full:
        done = subprocess.run(tool.command("check"), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and "No space left" in done.stderr


# ---- logs ----

def test_log_of_a_failed_dump(tool, workdir):
    fails(tool.run("dump", "-t", NO_PID, "-D", workdir, "-v4", "-o", "dump.log"), "there is no process")
    log = read_or_empty(f"{workdir}/dump.log")
    assert re.search(r"^Error \(.*there is no process", log, re.M)


def test_log_is_there_though_the_directory_was_not(tool, workdir):
    fails(tool.run("dump", "-t", NO_PID, "-D", "new", "-o", "dump.log", cwd=workdir), "there is no process")
    assert "Error" in read_or_empty(f"{workdir}/new/dump.log")


def test_log_goes_to_the_work_directory(tool, workdir):
    os.mkdir(f"{workdir}/logs")
    os.mkdir(f"{workdir}/images")
    done = tool.run("restore", "-D", "images", "-W", "logs", "-o", "restore.log", "-d", "--pidfile", "pid", cwd=workdir)
    assert done.returncode == 1
    assert "Error" in read_or_empty(f"{workdir}/logs/restore.log")
    assert os.listdir(f"{workdir}/images") == [] and os.listdir(f"{workdir}/logs") == ["restore.log"]


def test_log_that_cannot_be(tool, workdir):
    fails(tool.run("dump", "-t", NO_PID, "-D", workdir, "-o", "no/dump.log"), "no/dump.log: No such file or directory")


def test_log_takes_note_of_what_is_passed_over(tool, workdir):
    done = tool.run("dump", "-t", NO_PID, "-D", workdir, "-v4", "-o", "log", "--pre-dump-mode", "splice", "--tcp-established")
    assert done.returncode == 1
    log = read_or_empty(f"{workdir}/log")
    assert "--pre-dump-mode is passed over" in log and "--tcp-established is passed over" in log


def test_no_words_at_level_0(tool, workdir):
    done = tool.run("dump", "-t", NO_PID, "-D", workdir, "-verbosity=0")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_configuration_file(tool, workdir):
    with open(f"{workdir}/x.conf", "w") as f:
        f.write("# ours\nlog-file from-config.log\nverbosity=4\n")
    done = tool.run("dump", "-t", NO_PID, "-D", workdir, "--config", f"{workdir}/x.conf", "--no-default-config")
    assert done.returncode == 1
    assert "Error" in read_or_empty(f"{workdir}/from-config.log")
    with open(f"{workdir}/x.conf", "a") as f:
        f.write("nosuch\n")
    fails(tool.run("dump", "-t", NO_PID, "-D", workdir, "--config", f"{workdir}/x.conf"), "x.conf:4: no such option: nosuch")


# ---- check, show ----

def test_check(tool):
    done = tool.check()
    assert done.returncode == 0 and re.fullmatch(r"Tracker: (scan|soft-dirty|none) \(.+\)\nLooks good\.\n", done.stdout)
    done = tool.check("--feature", "kcmp")
    assert done.returncode == 0 and done.stdout == "kcmp is supported\n"
    names = tool.check("--feature", "list").stdout.split()
    assert {"uffd", "mem_dirty_track", "get_rseq_conf", "kcmp_epoll"} <= set(names)
    everything = tool.check("--all")
    lines = everything.stdout.splitlines()
    said = {line.split()[0]: line.split()[1] for line in lines[1:lines.index("")]}
    assert list(said) == names
    assert everything.returncode == (0 if set(said.values()) == {"yes"} else 1)
    assert lines[-1] == ("Looks good." if everything.returncode == 0 else "Looks good but some features are missing.")
    no = [name for name, answer in said.items() if answer == "no"]
    for name in no[:1]:
        fails(tool.check("--feature", name), f"{name} is not supported: ")


def test_show(tool, workdir, sleeper):
    tool.dump(sleeper, workdir, "-R")
    done = tool.run("show", workdir)
    assert done.returncode == 0 and str(sleeper) in done.stdout
    assert tool.run("show", cwd=workdir).stdout == done.stdout
    done = tool.run("show", f"{workdir}/core-{sleeper}.img")
    assert done.returncode == 0 and '"magic": "CORE"' in done.stdout
    fails(tool.run("show", f"{workdir}/dump.log"), "dump.log")


# ---- what becomes of the tasks ----

def test_dump_is_quiet_in_a_pipe(tool, workdir, sleeper):
    done = tool.run("dump", "-t", sleeper, "-D", workdir, "-R", "--pidfile", "pid", "-d", "-S")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not os.path.exists(f"{workdir}/pid")
    done = tool.run("dump", "-t", sleeper, "-D", workdir, "-R", "--display-stats")
    assert done.returncode == 0 and done.stderr == "" and re.search(r"^  pages written +\d+$", done.stdout, re.M)


def test_last_line_on_a_terminal(tool, workdir, sleeper):
    ours, its = pty.openpty()
    done = subprocess.run(tool.command("dump", "-t", sleeper, "-D", workdir, "-R"), stderr=its, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, check=False)
    said = os.read(ours, 4096).decode()
    os.close(ours)
    os.close(its)
    assert done.returncode == 0 and done.stdout == b""
    assert re.fullmatch(r"dumped 1 task, 1 thread, [\d,]+ pages \(\S+ .iB\) to \S+; it stood still for \S+ .?s\r\n", said), said


def test_leave_stopped_then_resume_or_kill(tool, workdir, sleeper):
    tool.dump(sleeper, workdir, "-s")
    wait_until(lambda: stat_of(sleeper)[0] == "T", "it has taken the SIGSTOP")
    assert tool.run("resume", "-t", sleeper).returncode == 0
    wait_asleep(sleeper)
    assert stat_of(sleeper)[0] == "S"
    tool.dump(sleeper, workdir, "-s")
    assert tool.run("kill", "-t", sleeper).returncode == 0
    wait_gone(sleeper)
    fails(tool.run("resume", "-t", sleeper), "")


@pytest.fixture
def images(tool, workdir, sleeper):
    """A directory with the dumped sleeper, and its pid, which is free."""
    tool.dump(sleeper, workdir)
    wait_gone(sleeper)
    return workdir, sleeper


def test_dry_run(tool, images):
    directory, pid = images
    done = tool.run("restore", "-D", directory, "--dry-run")
    assert done.returncode == 0 and "can be restored" in done.stdout
    assert not os.path.exists(f"/proc/{pid}")


def test_pidfile(tool, images):
    directory, pid = images
    with open(f"{directory}/there", "w") as f:
        f.write("mine")
    fails(tool.run("restore", "-D", directory, "-d", "--pidfile", "there"), "there: exists already")
    fails(tool.run("restore", "-D", directory, "-d", "--pidfile", "no/pid"), "No such file or directory")
    assert read_or_empty(f"{directory}/there") == "mine" and not os.path.exists(f"/proc/{pid}")
    done = tool.run("restore", "-D", directory, "-d", "--pidfile", "pid", "-R", "-t", 1)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert read_or_empty(f"{directory}/pid") == str(pid)


@pytest.mark.parametrize("sig, status", [(signal.SIGUSR1, 7), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_foreground_ends_with_the_roots_status(tool, images, sig, status):
    directory, pid = images
    with subprocess.Popen(tool.command("restore", "-D", directory), stdin=subprocess.DEVNULL) as ferry:
        wait_until(lambda: stat_of(pid) or ferry.poll() is not None, "the task is back")
        wait_asleep(pid)
        assert int(stat_of(pid)[1]) == ferry.pid
        os.kill(pid, sig)
        assert ferry.wait(20) == status


def in_session_of(terminal):
    """For Popen: a session of its own on that terminal."""
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def test_ctrl_c_is_the_roots(tool, workdir):
    """A job of a shell comes back into the foreground of another terminal, where Ctrl-C asks the job, not ferry."""
    with subprocess.Popen(SLEEPER, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as job:
        wait_asleep(job.pid)
        tool.dump(job.pid, workdir, "-j")
        pid = job.pid
    ours, its = pty.openpty()
    with subprocess.Popen(tool.command("restore", "-D", workdir, "-j"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, preexec_fn=lambda: in_session_of(its)) as ferry:
        wait_until(lambda: stat_of(pid) or ferry.poll() is not None, "the task is back")
        wait_asleep(pid)
        wait_until(lambda: int(read_or_empty(f"/proc/{ferry.pid}/status").partition("SigIgn:")[2].split()[0], 16) & 2,
                   "ferry has left Ctrl-C to the task")
        os.write(ours, b"\x03")
        assert ferry.wait(20) == 8
    os.close(ours)
    os.close(its)


def test_sibling(tool, images):
    directory, pid = images
    done = tool.run("restore", "-D", directory, "-d", "-S")
    assert done.returncode == 0, done.stderr
    assert int(stat_of(pid)[1]) == os.getpid()
    wait_asleep(pid)
    os.kill(pid, signal.SIGUSR1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_exec_cmd(tool, images):
    directory, pid = images
    told = f'echo $$; sed -n "s/^PPid:[^0-9]*//p" /proc/{pid}/status; exit 5'
    done = tool.run("restore", "-D", directory, "--exec-cmd", "--", "sh", "-c", told)
    assert done.returncode == 5
    me, parent = done.stdout.split()
    assert me == parent
