# SPDX-License-Identifier: Apache-2.0
"""TLS to a page server: certificates of both sides, the peer's TLS, and what is refused before any page moves."""
import os
import random
import shutil
import socket
import subprocess
import tempfile

import pytest

from certificates import Authority
from changer import Changer
from proxy import Fault, Proxy, TO_SERVER
from tool import read_log
from waiting import wait_gone
from wired import PageServer, Wired, merge, page_files

PLACES = int(os.environ.get("FERRY_WIRE_FAULTS", "1000")) // 20


@pytest.fixture(autouse=True)
def only_ferry(tool):
    if not tool.is_ferry:
        pytest.skip("ferry, and the peer beside it")


@pytest.fixture(scope="module")
def pki(request):
    """Of `us` all is right."""
    directory = tempfile.mkdtemp(prefix="pki.", dir=request.session.ferry_work)
    yield Pki(directory)
    shutil.rmtree(directory)


class Pki:
    def __init__(self, directory):
        self.ca, self.other = Authority(f"{directory}/ca"), Authority(f"{directory}/other")
        self.us = self.ca.sign("us", alternative="IP:127.0.0.1")
        self.named = self.ca.sign("named", "localhost")
        self.expired = self.ca.sign("expired", alternative="IP:127.0.0.1", expired=True)
        self.elsewhere = self.ca.sign("elsewhere", "elsewhere", alternative="IP:192.0.2.7,DNS:elsewhere")
        self.revoked = self.ca.sign("revoked", alternative="IP:127.0.0.1")
        self.unknown = self.other.sign("unknown", alternative="IP:127.0.0.1")
        self.list = self.ca.revoke(self.revoked[0])


@pytest.fixture
def changer(start, workdir):
    return Changer(start, workdir)


def serve(tool, workdir, options, **kwargs):
    server = PageServer(tool, f"{workdir}/pages", "--peer-timeout", 10, *options, **kwargs)
    assert server.is_ready, read_log(server.log)
    return server


def dump(tool, workdir, changer, server, options):
    return tool.run("dump", "-t", changer.pid, "-D", f"{workdir}/images", "--peer-timeout", 10, *server.source_options(), *options)


@pytest.mark.parametrize("version", ["", "1.2"])
def test_tls(tool, changer, workdir, pki, version):
    """Also where one side has an OpenSSL that is told to have TLS 1.2 at most."""
    with open(f"{workdir}/openssl.cnf", "w", encoding="ascii") as f:
        f.write("openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nMaxProtocol = TLSv1.2\n")
    env = dict(os.environ, OPENSSL_CONF=f"{workdir}/openssl.cnf") if version else None
    server = serve(tool, workdir, [*pki.ca.options(pki.us), "--tls-cacrl", pki.list])
    os.mkdir(f"{workdir}/images")
    tool.run_well("dump", f"{workdir}/images", "-t", changer.pid, *server.source_options(), *pki.ca.options(pki.us), "--tls-cacrl", pki.list,
                  env=env)
    assert server.end() == 0
    assert f"TLSv{version or '1.3'} with the page server" in read_log(f"{workdir}/images/dump.log")
    merge(f"{workdir}/images", server.directory)
    assert tool.restore(server.directory) == changer.pid
    assert changer.ask() == changer.state


def test_by_name(tool, changer, workdir, pki):
    server = serve(tool, workdir, pki.ca.options(pki.named), address="localhost")
    done = dump(tool, workdir, changer, server, pki.ca.options(pki.us))
    assert (done.returncode, server.end()) == (0, 0), done.stderr


@pytest.mark.parametrize("source,target", [("peer", "tool"), ("tool", "peer")])
def test_peer(request, changer, workdir, pki, source, target):
    source, target = request.getfixturevalue(source), request.getfixturevalue(target)
    wired = Wired(source, server=target, server_options=pki.ca.options(pki.us), source_options=pki.ca.options(pki.us))
    wired.dump(changer.pid, f"{workdir}/images")
    wait_gone(changer.pid)
    wired.restore(f"{workdir}/images")
    assert changer.ask() == changer.state


REFUSED = {
    # the server's pair, the source's, what the source says, what the server says
    "the server's CA is another": ("unknown", "us", "certificate of the page server", "alert"),
    "the source's CA is another": ("us", "unknown", "", "certificate of the source"),
    "the server's has expired": ("expired", "us", "certificate has expired", "alert"),
    "the source's has expired": ("us", "expired", "", "certificate has expired"),
    "the server's is of another host": ("elsewhere", "us", "mismatch", "alert"),
    "the server's is revoked": ("revoked", "us", "certificate revoked", "alert"),
    "the source's is revoked": ("us", "revoked", "", "certificate revoked"),
}


def refused(tool, workdir, changer, server, source, source_says="", server_says=""):
    """Both say so, nothing was sent or stored, and the program never stopped for it."""
    assert source.returncode == 1 and server.end() == 1, f"{source.stderr}{server.stderr}"
    assert source_says in source.stderr and server_says in server.stderr, f"{source.stderr}{server.stderr}"
    assert len(source.stderr.splitlines()) == 1 and len(server.stderr.splitlines()) == 1
    assert page_files(server.directory) == [] and os.listdir(f"{workdir}/images") == []
    assert changer.ask() == changer.state


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tool, changer, workdir, pki, name):
    theirs, ours, source_says, server_says = REFUSED[name]
    revoked = ["--tls-cacrl", pki.list] if "revoked" in (theirs, ours) else []
    server = serve(tool, workdir, [*pki.ca.options(getattr(pki, theirs)), *revoked])
    source = dump(tool, workdir, changer, server, [*pki.ca.options(getattr(pki, ours)), *revoked])
    refused(tool, workdir, changer, server, source, source_says, server_says)


def test_any_name(tool, changer, workdir, pki):
    server = serve(tool, workdir, pki.ca.options(pki.elsewhere))
    source = dump(tool, workdir, changer, server, [*pki.ca.options(pki.us), "--tls-no-cn-verify"])
    assert (source.returncode, server.end()) == (0, 0)


def test_plaintext_to_tls(tool, changer, workdir, pki):
    server = serve(tool, workdir, pki.ca.options(pki.us))
    source = dump(tool, workdir, changer, server, [])
    refused(tool, workdir, changer, server, source, "", "TLS with the source")


def test_tls_to_plaintext(tool, changer, workdir, pki):
    server = serve(tool, workdir, [])
    source = dump(tool, workdir, changer, server, pki.ca.options(pki.us))
    refused(tool, workdir, changer, server, source, "TLS with the page server", "is none of a page server's")


def test_source_without_certificate(tool, changer, workdir, pki):
    """Its library's own client has none."""
    server = serve(tool, workdir, pki.ca.options(pki.us))
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-CAfile", pki.ca.certificate, "-quiet"],
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert server.end() == 1 and "peer did not return a certificate" in server.stderr, f"{server.stderr}{done}"
    assert page_files(server.directory) == []


def test_silent_source(tool, workdir, pki):
    """Who does not shake hands does not keep it for ever."""
    server = PageServer(tool, f"{workdir}/pages", "--peer-timeout", 1, *pki.ca.options(pki.us))
    with socket.create_connection(("127.0.0.1", server.port)):
        assert server.end() == 1
    assert "has sent nothing for 1 s" in server.stderr


def test_missing_files(tool, changer, workdir, pki):
    """CRIU's own places, where nothing is here, and files that are no certificates."""
    for options, words in ((["--tls"], "/etc/pki/CA/cacert.pem"),
                           (["--tls", "--tls-cacert", pki.ca.certificate], "/etc/pki/criu/cert.pem"),
                           ([*pki.ca.options(pki.us), "--tls-key", pki.named[1]], "key"),
                           ([*pki.ca.options(pki.us), "--tls-cacrl", __file__], "revoked certificates")):
        listener = socket.create_server(("127.0.0.1", 0))
        for done in (tool.run("dump", "-t", changer.pid, "-D", f"{workdir}/images", "--page-server", "--port", listener.getsockname()[1], *options),
                     tool.run("page-server", "-D", f"{workdir}/pages", *options)):
            assert done.returncode == 1 and words in done.stderr, done.stderr
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):    # nobody has connected
            listener.accept()
        listener.close()


def test_flips(tool, changer, workdir, pki):
    """Every byte is looked after, once hands were shaken: whatever changes is known to both."""
    seed = int(os.environ["FERRY_SEED"])
    chance = random.Random(seed)
    for number in range(PLACES + 1):
        for directory in ("images", "pages"):
            shutil.rmtree(f"{workdir}/{directory}", ignore_errors=True)
        server = serve(tool, workdir, pki.ca.options(pki.us))
        fault = Fault("none") if number == 0 else Fault("flip", TO_SERVER, chance.randrange(4096, sizes[TO_SERVER] - 2000), seed + number)
        proxy = Proxy(server.port, fault)
        done = tool.run("dump", "-t", changer.pid, "-D", f"{workdir}/images", "-R", "--page-server", "--port", proxy.port, "--peer-timeout", 10,
                        *pki.ca.options(pki.us))
        status = server.end()
        proxy.end()
        if number == 0:
            assert (done.returncode, status) == (0, 0), done.stderr
            sizes = proxy.seen
            continue
        assert proxy.reached and (done.returncode, status) == (1, 1), f"{fault}, try {number}: {done.stderr}{server.stderr}"
        assert "inventory.img" not in os.listdir(f"{workdir}/images")
    assert changer.ask() == changer.state
