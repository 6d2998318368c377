# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, made by the openssl command: a CA, and what it signs (or revokes)."""
import os
import subprocess

CONFIG = """
[ca]
default_ca = it
[it]
database = {d}/index
serial = {d}/serial
crlnumber = {d}/crlnumber
new_certs_dir = {d}
default_md = sha256
default_days = 10
default_crl_days = 10
policy = any
unique_subject = no
copy_extensions = copy
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
"""


def openssl(*words):
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Authority:
    """A CA in `directory`, which it makes."""
    def __init__(self, directory):
        self.directory = directory
        os.makedirs(directory)
        for name, text in (("index", ""), ("serial", "01\n"), ("crlnumber", "01\n"), ("config", CONFIG.format(d=directory))):
            with open(f"{directory}/{name}", "w", encoding="ascii") as f:
                f.write(text)
        self.certificate, self.key, self.revoked = (f"{directory}/{name}.pem" for name in ("ca", "ca-key", "crl"))
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", self.key, "-out", self.certificate, "-days", "10",
                "-subj", "/CN=an authority")

    def sign(self, name, common_name="127.0.0.1", alternative=None, expired=False):
        """(certificate, key) in files."""
        certificate, key, request = (f"{self.directory}/{name}{end}" for end in (".pem", "-key.pem", ".csr"))
        more = ["-addext", f"subjectAltName={alternative}"] if alternative else []
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={common_name}", *more)
        dates = ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"] if expired else []
        openssl("ca", "-batch", "-config", f"{self.directory}/config", "-cert", self.certificate, "-keyfile", self.key,
                "-in", request, "-out", certificate, "-notext", *dates)
        return certificate, key

    def revoke(self, certificate=None):
        """The list of what is revoked, with that one in it."""
        common = ["-config", f"{self.directory}/config", "-cert", self.certificate, "-keyfile", self.key]
        if certificate:
            openssl("ca", *common, "-revoke", certificate)
        openssl("ca", *common, "-gencrl", "-out", self.revoked)
        return self.revoked

    def options(self, pair=None):
        """What a side that has this pair is to be told."""
        return ["--tls", "--tls-cacert", self.certificate] + (["--tls-cert", pair[0], "--tls-key", pair[1]] if pair else [])
