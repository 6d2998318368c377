# SPDX-License-Identifier: Apache-2.0
"""
Fixtures of every test that runs programs. They run inside tests/lib/init: a pid namespace whose init reaps at once.

    workdir   a directory on tmpfs, kept when the test fails
    tool      what is tested (FERRY_TOOL: ferry, criu or a path)
    peer      CRIU of Debian's sid
    start     start(argv, ...) -> pid; the tree is ended after the test
    machines  machines.make(name): other machines, that are gone after the test
    shell     shell(words): the same for a few words of sh
"""
import os
import random
import shlex
import shutil
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))

# pylint: disable=wrong-import-position
import paths
import program
from machines import Machines, Shells
import tool as tools
from waiting import TooLate, read_or_empty, wait_until

RERUN_VARIABLES = ("FERRY_TOOL", "FERRY_BUILD", "FERRY_PEER", "FERRY_SEED", "FERRY_SEEDS", "FERRY_APP_CYCLES", "FERRY_KILLS",
                   "FERRY_BROKEN_SAMPLES", "FERRY_STREAM_SEEDS", "FERRY_STREAM_CUTS", "FERRY_FUZZ_RUNS", "FERRY_WIRE_FAULTS",
                   "FERRY_REDIS_MIB", "FERRY_MIGRATE_TRIPS", "FERRY_MIGRATE_SEEDS", "FERRY_MIGRATE_KILLS", "FERRY_MIGRATE_LIES",
                   "FERRY_CHANNEL_KILLS")
# Drawn here, so that the command that runs a failed test again has it.
os.environ.setdefault("FERRY_SEED", str(random.SystemRandom().randrange(1 << 32)))


def pytest_configure(config):
    if "tests/lib/init" not in read_or_empty("/proc/1/cmdline"):
        again = shlex.join([paths.INIT, "/usr/bin/python3", "-m", "pytest", *config.invocation_params.args])
        raise pytest.UsageError(f"these tests need a pid namespace of their own. Run: {again}")


def base_of_work():
    """$FERRY_WORK, or /dev/shm, a tmpfs that outlives this namespace; /tmp where it is small, as in some containers."""
    if "FERRY_WORK" in os.environ:
        return os.environ["FERRY_WORK"]
    shm = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None
    return "/dev/shm" if shm and shm.f_bavail * shm.f_frsize >= 1 << 30 else "/tmp"


def mounts():
    with open("/proc/self/mountinfo") as f:
        return {line.split(None, 1)[1].strip() for line in f}


def pytest_sessionstart(session):
    os.umask(0o022)     # other users' programs look into what tests make
    session.ferry_mounts = mounts()
    session.ferry_work = tempfile.mkdtemp(prefix="ferry-test.", dir=base_of_work())
    os.chmod(session.ferry_work, 0o755)


def pytest_sessionfinish(session):
    if not hasattr(session, "ferry_work"):
        return
    program.GIVEN_UP.clear()
    leaks = [f"process {pid} ({comm})" for pid, comm in program.strangers().items()]
    leaks += [f"mount {line}" for line in mounts() - session.ferry_mounts]
    for leak in leaks:
        print(f"\nLEFT BEHIND: {leak}")
    if leaks:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    try:
        os.rmdir(session.ferry_work)
    except OSError:
        print(f"\nkept: {session.ferry_work}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        item.ferry_failed = True
        variables = [f"{name}={shlex.quote(os.environ[name])}" for name in RERUN_VARIABLES if name in os.environ]
        command = shlex.join([os.path.relpath(paths.INIT), "/usr/bin/python3", "-m", "pytest", item.nodeid])
        report.sections.append(("run again", " ".join(variables + [command])))
        if "workdir" in item.funcargs:
            report.sections.append(("kept", str(item.funcargs["workdir"])))


@pytest.fixture
def workdir(request):
    path = tempfile.mkdtemp(prefix=request.node.name.replace("/", "_")[:60] + ".", dir=request.session.ferry_work)
    os.chmod(path, 0o755)
    request.node.ferry_failed = False
    yield path
    if not request.node.ferry_failed:
        shutil.rmtree(path)


@pytest.fixture(scope="session")
def tool():
    return tools.make_tool()


@pytest.fixture(scope="session")
def peer():
    return tools.make_peer()


@pytest.fixture
def machines(workdir):  # pylint: disable=redefined-outer-name
    made = Machines(workdir)
    yield made
    made.end()


@pytest.fixture
def shell():
    made = Shells()
    yield made.run
    made.end()


def what_stays():
    """What there is when who is about to end had time for it: keepers of tasks that have ended, servers that have said their last word."""
    program.reap()
    try:
        wait_until(lambda: "ferry-keeper" not in program.strangers().values(), "no keeper is left")
        wait_until(lambda: not program.strangers(), "nothing is left", 2)
    except TooLate:
        pass
    return program.strangers()


@pytest.fixture(autouse=True)
def nothing_left(request, workdir):  # pylint: disable=unused-argument,redefined-outer-name
    """After every test: what it started is ended; what runs on beside that is a leak."""
    yield
    left = what_stays()
    request.node.ferry_failed |= bool(left)
    program.end_all(left)
    assert not left, f"left behind: {left}"


@pytest.fixture
def start(nothing_left):  # pylint: disable=unused-argument,redefined-outer-name
    pids = []

    def start_one(argv, **kwargs):
        pids.append(program.start(argv, **kwargs))
        return pids[-1]
    yield start_one
    for pid in pids:
        program.end_tree(pid)
