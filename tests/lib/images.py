# SPDX-License-Identifier: Apache-2.0
"""Looking into image directories with CRIU's own eyes, Debian's crit."""
import os
import re
import subprocess

import paths

# Without a magic, or ferry's own: CRIU and crit pass over them.
NOT_FOR_CRIT = re.compile(r"^(pages-\d+\.img|ferry-.*)$")


def images_in(directory):
    """Names of the images that crit decodes."""
    return sorted(name for name in os.listdir(directory)
                  if (name.endswith(".img") or name.startswith("stats-")) and not NOT_FOR_CRIT.match(name))


def crit_decode(path):
    """The image as JSON text; fails where crit does."""
    done = subprocess.run([paths.CRIT, "decode", "-i", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip(), f"crit decode -i {path}: {done.stderr[-2000:]}"
    return done.stdout


def varint(raw, at):
    value = shift = 0
    while True:
        value |= (raw[at] & 0x7f) << shift
        shift += 7
        at += 1
        if raw[at - 1] < 0x80:
            return value, at


def fields_of(raw):
    """{field number: value} of a protobuf message that has only varints and messages."""
    at, fields = 0, {}
    while at < len(raw):
        tag, at = varint(raw, at)
        value, at = varint(raw, at)
        if tag & 7 == 2:
            value, at = raw[at:at + value], at + value
        fields[tag >> 3] = value
    return fields


DUMP_STATS = {1: "freezing_us", 2: "frozen_us", 3: "memdump_us", 4: "memwrite_us", 5: "pages_scanned", 7: "pages_written", 14: "shpages_written"}


def dump_stats(directory):
    """What stats-dump tells; times in microseconds."""
    with open(os.path.join(directory, "stats-dump"), "rb") as f:
        raw = f.read()
    size = int.from_bytes(raw[8:12], "little")
    stats = fields_of(fields_of(raw[12:12 + size])[1])
    return {name: stats.get(number, 0) for number, name in DUMP_STATS.items()}


def pages_bytes(directory):
    """Bytes of all pages files."""
    return sum(os.path.getsize(os.path.join(directory, name)) for name in os.listdir(directory) if name.startswith("pages-"))
