# SPDX-License-Identifier: Apache-2.0
"""Dumps whose pages go to a page server: what is restored is what was dumped, whatever the two sides are."""
import json
import os
import signal
import socket
import subprocess

import pytest

import paths
from changer import Changer, home_in
from chains import disk_pages
from mutator import Mutator
from program import end_tree
from tool import read_log
from trackers import need_tracker
from waiting import gone, read_or_empty, wait_gone, wait_until
from wired import PageServer, Wired, merge, socket_pair

SEED = int(os.environ["FERRY_SEED"])


@pytest.fixture(autouse=True)
def only_ferry(tool):
    if not tool.is_ferry:
        pytest.skip("ferry, and the peer beside it")


@pytest.fixture
def changer(start, workdir):
    return Changer(start, workdir)


@pytest.fixture
def server(workdir):
    """Makes servers; those that still run are ended after the test."""
    servers = []

    def make(tool, name="pages", *options, **kwargs):
        servers.append(PageServer(tool, f"{workdir}/{name}", *options, **kwargs))
        assert servers[-1].is_ready, read_log(servers[-1].log)
        return servers[-1]
    yield make
    for one in servers:
        if one.process.poll() is None:
            one.kill()


def comes_back(tool, directory, changer):
    assert tool.restore(directory) == changer.pid
    assert changer.ask() == changer.state


# ---- what is restored ----

@pytest.mark.parametrize("same", [False, True], ids=["two", "one"])
def test_dump(tool, changer, workdir, same):
    wired = Wired(tool, same=same)
    state = changer.change()
    wired.dump(changer.pid, f"{workdir}/images")
    wait_gone(changer.pid)
    for command in ("restore", "squash") if not same else ():       # nothing is made of images without their pages
        done = tool.run(command, "-D", f"{workdir}/images", *(["-d"] if command == "restore" else ["-o", f"{workdir}/out"]))
        assert done.returncode == 1 and "page server" in done.stderr, done.stderr
        assert gone(changer.pid) and not os.path.exists(f"{workdir}/out")
    done = tool.run("verify", wired.place(f"{workdir}/images"))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    wired.restore(f"{workdir}/images")
    assert changer.ask() == state


def test_page_that_changed_at_the_server(tool, changer, workdir):
    """Its sum was made when it came."""
    wired = Wired(tool)
    wired.dump(changer.pid, f"{workdir}/images")
    wait_gone(changer.pid)
    with open(f"{wired.place(f'{workdir}/images')}/pages-1.img", "r+b") as f:
        f.seek(-2000, os.SEEK_END)
        byte = f.read(1)[0]
        f.seek(-2000, os.SEEK_END)
        f.write(bytes([byte ^ 4]))
    for words in (["verify", wired.place(f"{workdir}/images")], ["restore", "-d", "-D", wired.place(f"{workdir}/images")]):
        done = tool.run(*words)
        assert done.returncode == 1 and "pages-1.img" in done.stderr + done.stdout, f"{done.stdout}{done.stderr}"
    assert gone(changer.pid)


def test_left_running(tool, changer, workdir):
    """Stopped, running on, or in the background: the pages are those of the stop."""
    for name, how in (("r", ["-R"]), ("s", ["-s"]), ("b", ["-R", "--background-or-stop"])):
        wired = Wired(tool)
        state = changer.change()
        wired.dump(changer.pid, f"{workdir}/{name}", *how)
        if name == "s":
            assert tool.run("resume", "-t", changer.pid).returncode == 0
        changer.ask()
        end_tree(changer.pid)
        wired.restore(f"{workdir}/{name}")
        assert changer.ask() == state


@pytest.mark.parametrize("deduped", [False, True], ids=["", "deduped"])
@pytest.mark.parametrize("same", [False, True], ids=["two", "one"])
@pytest.mark.parametrize("pre_dumps", [1, 3])
def test_chain(tool, start, workdir, pre_dumps, same, deduped):
    """Many tasks, shared memory, changes of all kinds between pre-dumps."""
    need_tracker(tool, "scan", "soft-dirty")
    wired = Wired(tool, same=same, server_options=["--auto-dedup"] if deduped else [], source_options=["--auto-dedup"] if deduped else [])
    mutator = Mutator(wired, start, workdir, SEED + pre_dumps)
    mutator.run_on(30)
    for link in range(pre_dumps):
        mutator.pre_dump(link, *(["--prev-images-dir", f"../images-{link - 1}"] if link else []))
        mutator.run_on(20)
    mutator.dump(pre_dumps, "--prev-images-dir", f"../images-{pre_dumps - 1}")
    place = wired.place(mutator.images(pre_dumps))
    assert os.path.islink(f"{place}/parent")
    mutator.restore_and_live(pre_dumps)


def test_chain_sends_what_changed(tool, changer, workdir):
    """And says of the rest that the parent has it: a server that has none gets all."""
    need_tracker(tool, "scan", "soft-dirty")
    wired, sizes = Wired(tool), []
    for link in range(3):
        directory = f"{workdir}/{link}"
        os.mkdir(directory)
        wired.run_well("pre-dump", directory, "-t", changer.pid, *(["--prev-images-dir", f"../{link - 1}"] if link else []))
        sizes.append(disk_pages(wired.place(directory)))
        changer.change()
    assert sizes[1] < sizes[0] / 2
    server = PageServer(tool, f"{workdir}/alone")
    os.mkdir(f"{workdir}/3")
    done = tool.run_well("dump", f"{workdir}/3", "-t", changer.pid, "--prev-images-dir", "../2", *server.source_options())
    assert server.end() == 0
    assert "has no earlier pages" in done.stderr
    assert disk_pages(f"{workdir}/alone") > sizes[0] * 0.9
    merge(f"{workdir}/3", f"{workdir}/alone")
    os.symlink("../at-server/2", f"{workdir}/alone/parent")
    comes_back(tool, f"{workdir}/alone", changer)


def test_dedup_at_the_server(tool, changer, workdir):
    need_tracker(tool, "scan", "soft-dirty")
    for name, options in (("kept", []), ("deduped", ["--auto-dedup"])):
        wired = Wired(tool, server_options=options)
        for link in range(3):
            directory = f"{workdir}/{name}-{link}"
            os.mkdir(directory)
            wired.run_well("dump", directory, "-R", "--track-mem", "-t", changer.pid,
                           *(["--prev-images-dir", f"../{name}-{link - 1}"] if link else []))
            changer.change()
    kept, deduped = ([disk_pages(wired.place(f"{workdir}/{name}-{link}")) for link in range(3)] for name in ("kept", "deduped"))
    assert deduped[0] < kept[0] and deduped[1] < kept[1]
    state = changer.state
    end_tree(changer.pid)
    for link in range(2):       # what gave up pages is not restored by itself
        done = tool.run("restore", "-D", wired.place(f"{workdir}/deduped-{link}"), "-d")
        assert done.returncode == 1 and "given up for a newer dump" in done.stderr
    for name in ("kept", "deduped"):
        wired.restore(f"{workdir}/{name}-2")
        assert changer.ask() != state       # it is what it was before its last change
        end_tree(changer.pid)


def test_tree_that_shares_pages(tool, start, workdir):
    status = f"{home_in(workdir)}/status"
    pid = start([paths.program("resources", "cow"), status])

    def wait_for(word):
        text = wait_until(lambda: (text := read_or_empty(status)).endswith(word) and text, f"it says {word!r}", 30)
        assert "FAIL" not in text, text
    wait_for("ready\n")
    wired = Wired(tool)
    wired.dump(pid, f"{workdir}/images")
    wait_gone(pid)
    assert not os.path.exists(f"{workdir}/images/cow")
    wired.restore(f"{workdir}/images")
    with open(status, "w", encoding="ascii"):
        pass
    os.kill(pid, signal.SIGUSR1)
    wait_for(" 1\n")


def test_next_dump_goes_to_files(tool, changer, workdir):
    """On top of a link whose pages are on a server: here nobody has them, so it is a full one."""
    need_tracker(tool, "scan", "soft-dirty")
    wired = Wired(tool)
    os.mkdir(f"{workdir}/a")
    wired.run_well("pre-dump", f"{workdir}/a", "-t", changer.pid)
    changer.change()
    tool.dump(changer.pid, f"{workdir}/b", "--prev-images-dir", "../a")
    comes_back(tool, f"{workdir}/b", changer)


def test_next_dump_goes_to_a_server(tool, changer, workdir, server):
    """On top of a link in files: the server has a copy of it."""
    need_tracker(tool, "scan", "soft-dirty")
    os.mkdir(f"{workdir}/a")
    tool.run_well("pre-dump", f"{workdir}/a", "-t", changer.pid)
    changer.change()
    one = server(tool, "pages", "--prev-images-dir", "../a")
    os.mkdir(f"{workdir}/b")
    tool.run_well("dump", f"{workdir}/b", "-t", changer.pid, "--prev-images-dir", "../a", *one.source_options())
    assert one.end() == 0
    assert disk_pages(f"{workdir}/pages") < disk_pages(f"{workdir}/a") / 2
    merge(f"{workdir}/b", f"{workdir}/pages")
    comes_back(tool, f"{workdir}/pages", changer)


# ---- the peer ----

@pytest.mark.parametrize("restorer", ["tool", "peer"])
@pytest.mark.parametrize("source,target", [("peer", "tool"), ("tool", "peer"), ("tool", "tool")])
def test_peer(request, changer, workdir, source, target, restorer):
    source, target, restorer = (request.getfixturevalue(name) for name in (source, target, restorer))
    wired = Wired(source, server=target)
    wired.dump(changer.pid, f"{workdir}/images")
    wait_gone(changer.pid)
    assert restorer.restore(wired.place(f"{workdir}/images")) == changer.pid
    assert changer.ask() == changer.state


@pytest.mark.parametrize("restorer", ["tool", "peer"])
def test_chain_on_the_peers_server(request, tool, peer, changer, workdir, restorer):
    """Its pages are CRIU's own files then, and their parents."""
    need_tracker(tool, "scan", "soft-dirty")
    restorer = request.getfixturevalue(restorer)
    wired = Wired(tool, server=peer)
    for link in range(3):
        directory = f"{workdir}/{link}"
        os.mkdir(directory)
        wired.run_well("dump" if link == 2 else "pre-dump", directory, "-t", changer.pid,
                       *(["--prev-images-dir", f"../{link - 1}"] if link else []))
        if link < 2:
            changer.change()
    wait_gone(changer.pid)
    assert disk_pages(wired.place(f"{workdir}/1")) < disk_pages(wired.place(f"{workdir}/0")) / 2
    assert restorer.restore(wired.place(f"{workdir}/2")) == changer.pid
    assert changer.ask() == changer.state


# ---- how it is called ----

@pytest.mark.parametrize("source,target", [("tool", "tool"), ("peer", "tool"), ("tool", "peer")])
def test_handed_socket(request, tool, changer, workdir, source, target):
    """The server ends though our end of it is still open."""
    source, target = request.getfixturevalue(source), request.getfixturevalue(target)
    ours, theirs = socket_pair()
    server = PageServer(target, f"{workdir}/pages", ps_socket=theirs)
    theirs.close()
    os.mkdir(f"{workdir}/images")
    source.run_well("dump", f"{workdir}/images", "-t", changer.pid, "--page-server", "--ps-socket", ours.fileno(), pass_fds=[ours.fileno()])
    assert server.end() == 0
    ours.close()
    merge(f"{workdir}/images", server.directory)
    comes_back(tool, server.directory, changer)


def test_daemon(tool, changer, workdir):
    """It returns when it serves; the pidfile has the one that does; the port is told."""
    done = tool.run("page-server", "-D", f"{workdir}/pages", "-d", "--pidfile", f"{workdir}/pid", "--port", 0)
    assert done.returncode == 0 and done.stderr == ""
    port = int(done.stdout.split()[-1])
    with open(f"{workdir}/pid", encoding="ascii") as f:
        pid = int(f.read())
    assert os.getsid(pid) == pid and not gone(pid)
    os.mkdir(f"{workdir}/images")
    tool.run_well("dump", f"{workdir}/images", "-t", changer.pid, "--page-server", "--port", port)
    wait_gone(pid)
    merge(f"{workdir}/images", f"{workdir}/pages")
    comes_back(tool, f"{workdir}/pages", changer)
    done = tool.run("page-server", "-D", f"{workdir}/pages", "-d", "--pidfile", f"{workdir}/pid")
    assert done.returncode == 1 and "exists already" in done.stderr


def test_status_fd_is_closed_without_a_word(tool, workdir):
    ready, its = os.pipe()
    done = tool.run("page-server", "-D", workdir, "--address", "192.0.2.1", "--tls", "--status-fd", its, pass_fds=[its])
    os.close(its)
    assert done.returncode == 1 and os.read(ready, 1) == b""
    os.close(ready)
    done = tool.run("page-server", "-D", workdir, "--status-fd", "77")
    assert done.returncode == 1 and "--status-fd 77" in done.stderr


def test_who_may_connect(tool, workdir, server):
    """Other machines only with --tls, or by an explicit word."""
    for address in ("0.0.0.0", "::", "192.0.2.1"):
        done = tool.run("page-server", "-D", workdir, "--address", address)
        assert done.returncode == 1 and "--allow-plaintext" in done.stderr
    one = server(tool, "open", "--allow-plaintext", address="0.0.0.0")
    socket.create_connection(("127.0.0.1", one.port)).close()
    assert one.end() == 1
    one = server(tool, "named", address="localhost")
    socket.create_connection(("localhost", one.port)).close()
    assert one.end() == 1


def test_modes(tool, changer, workdir):
    old = os.umask(0)
    try:
        one = tool.run("page-server", "-D", f"{workdir}/new", "--port", 0, "-d")
        os.mkdir(f"{workdir}/images")
        tool.run_well("dump", f"{workdir}/images", "-t", changer.pid, "--page-server", "--port", one.stdout.split()[-1])
    finally:
        os.umask(old)
    assert os.stat(f"{workdir}/new").st_mode & 0o777 == 0o700
    assert all(os.stat(f"{workdir}/new/{name}").st_mode & 0o777 == 0o600 for name in os.listdir(f"{workdir}/new"))


def test_wrong_words(tool, workdir, changer):
    for words, said in ((["--page-server"], "--port"), (["--page-server", "--port", "70000"], "--port"),
                        (["--page-server", "--port", "1"], "Connection refused"),
                        (["--page-server", "--ps-socket", "99"], "descriptor 99"),
                        (["--page-server", "--port", "1", "--address", "no.such.host.invalid"], "no.such.host.invalid"),
                        (["--page-server", "--port", "1", "--stream"], "a stream has its pages in it"),
                        (["--progress", "yaml"], "--progress yaml"), (["--progress", "json:99"], "--progress json:99")):
        done = tool.run("dump", "-t", changer.pid, "-D", f"{workdir}/images", *words)
        assert done.returncode == 1 and said in done.stderr, done.stderr
        changer.ask()


def test_progress_events(tool, changer, workdir):
    """On both sides, an event a line, to a descriptor."""
    (a, its_a), (b, its_b) = os.pipe(), os.pipe()
    os.mkdir(f"{workdir}/images")
    one = tool.run("page-server", "-D", f"{workdir}/pages", "-d", "--port", 0, "--progress", f"json:{its_a}", pass_fds=[its_a])
    tool.run_well("dump", f"{workdir}/images", "-t", changer.pid, "--page-server", "--port", one.stdout.split()[-1],
                  "--progress", f"json:{its_b}", pass_fds=[its_b])
    for reader, writer in ((a, its_a), (b, its_b)):
        os.close(writer)
        with os.fdopen(reader) as f:
            events = [json.loads(line) for line in f]
        assert [event["event"] for event in events][-1] == "done"
        assert all(event["event"] == "progress" for event in events[:-1])
        assert events[-1]["bytes"] == events[-1]["pages"] * 4096 >= 4 << 20


# ---- failures ----

def test_full_disk(tool, changer, workdir, server):
    """The reason is the server's, and both say it; the program runs on."""
    small = f"{workdir}/small"
    os.mkdir(small)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], check=True)
    try:
        one = server(tool, "small/pages")
        done = tool.run("dump", "-t", changer.pid, "-D", f"{workdir}/images", *one.source_options())
        assert done.returncode == 1 and "the page server at 127.0.0.1" in done.stderr and "failed: No space left on device" in done.stderr
        assert one.end() == 1 and "No space left on device" in one.stderr
        assert changer.ask() == changer.state
        assert tool.run("restore", "-D", f"{workdir}/images", "-d").returncode == 1
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("who", ["server", "source"])
def test_one_side_dies(tool, changer, workdir, server, who):
    """In the middle, with a peer that is stopped there by a full pipe of ours."""
    one = server(tool)
    listener = socket.create_server(("127.0.0.1", 0))
    command = tool.command("dump", "-t", changer.pid, "-D", f"{workdir}/images", "--page-server", "--port", listener.getsockname()[1])
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as source:
        here, _ = listener.accept()
        there = socket.create_connection(("127.0.0.1", one.port))
        there.sendall(here.recv(32, socket.MSG_WAITALL))                # PARENT
        here.sendall(there.recv(4, socket.MSG_WAITALL))
        there.sendall(here.recv(32, socket.MSG_WAITALL))                # OPEN2
        here.sendall(there.recv(1, socket.MSG_WAITALL))
        there.sendall(here.recv(1 << 20, socket.MSG_WAITALL))           # and some pages
        if who == "server":
            one.kill()
            here.close()
            there.close()
            assert source.wait() == 1 and "closed the connection" in source.stderr.read()
        else:
            source.kill()
            source.wait()
            here.close()
            there.close()
            assert one.end() == 1 and "closed the connection" in one.stderr
    listener.close()
    assert changer.ask() == changer.state
    assert tool.run("restore", "-D", f"{workdir}/images", "-d").returncode == 1
