# SPDX-License-Identifier: Apache-2.0
"""
Chains of directories, read and made by hand: what a page is, followed through `parent`; and a full dump that becomes a
child of an earlier one of the same program.
"""
import os
import re
import struct

from images import fields_of

PAGE = 4096
PARENT, HERE = 1, 4
MAGIC = struct.pack("<II", 0x54564319, 0x56084025)
LINK_MAGIC = struct.pack("<II", 0x54564319, 0x4652594c)
PAGEMAP = re.compile(r"^pagemap-(shmem-)?\d+\.img$")


def read_bytes(path):
    with open(path, "rb") as f:
        return f.read()


def write_bytes(path, raw):
    with open(path, "wb") as f:
        f.write(raw)


def pagemaps_in(directory):
    return sorted(name for name in os.listdir(directory) if PAGEMAP.match(name))


def records_of(path):
    raw, at, records = read_bytes(path), 8, []
    while at < len(raw):
        size = struct.unpack_from("<I", raw, at)[0]
        records.append(fields_of(raw[at + 4:at + 4 + size]))
        at += 4 + size
    return records


def entries_of(directory, name):
    """(pages id, [(address, pages, flags)])"""
    head, *entries = records_of(f"{directory}/{name}")
    return head[1], [(e.get(1, 0), e.get(5, e[2]), e.get(4, HERE)) for e in entries]


def pages_of(directory, name):
    """{address: bytes} of a pagemap, through the chain."""
    if not os.path.exists(f"{directory}/{name}"):
        return {}
    pages_id, entries = entries_of(directory, name)
    raw, at, pages = read_bytes(f"{directory}/pages-{pages_id}.img"), 0, {}
    up = pages_of(f"{directory}/parent", name) if any(not flags & HERE for _, _, flags in entries) else {}
    for start, count, flags in entries:
        for address in range(start, start + count * PAGE, PAGE):
            if flags & HERE:
                pages[address] = raw[at:at + PAGE]
                at += PAGE
            else:
                pages[address] = up[address]
    return pages


def all_pages(directory):
    return {name: pages_of(directory, name) for name in pagemaps_in(directory)}


# ---- writing ----

def varint(value):
    raw = bytearray()
    while value >= 0x80:
        raw.append(value & 0x7f | 0x80)
        value >>= 7
    raw.append(value)
    return bytes(raw)


def message(*fields):
    """(number, int or bytes)..."""
    return b"".join(varint(n << 3) + varint(v) if isinstance(v, int) else varint(n << 3 | 2) + varint(len(v)) + v for n, v in fields)


def record(*fields):
    raw = message(*fields)
    return struct.pack("<I", len(raw)) + raw


def runs_of(pages, up):
    """[address, pages, flags], rising."""
    runs = []
    for address in sorted(pages):
        flags = PARENT if up.get(address) == pages[address] else HERE
        if runs and runs[-1][2] == flags and runs[-1][0] + runs[-1][1] * PAGE == address:
            runs[-1][1] += 1
        else:
            runs.append([address, 1, flags])
    return runs


def write_link(directory, own_id, parent_id=None, memory_only=False):
    fields = [(1, own_id)] + ([(2, parent_id)] if parent_id else []) + ([(3, 1)] if memory_only else [])
    write_bytes(f"{directory}/ferry-link.img", LINK_MAGIC + record(*fields))
    unseal(directory)


def unseal(directory):
    """What is written by hand has no checksums."""
    for name in os.listdir(directory):
        if name == "ferry-checksums.img" or name.startswith("ferry-pages-"):
            os.unlink(f"{directory}/{name}")


def link_id_of(directory):
    return records_of(f"{directory}/ferry-link.img")[0][1]


def make_child(child, parent):
    """The full dump `child` keeps the pages that are not the same in `parent`; what was in its own cow is its own then."""
    pages = all_pages(child)
    for name, own in pages.items():
        pages_id, _ = entries_of(child, name)
        runs = runs_of(own, pages_of(parent, name))
        here = b"".join(own[a + i * PAGE] for a, n, flags in runs if flags == HERE for i in range(n))
        os.unlink(f"{child}/pages-{pages_id}.img")
        write_bytes(f"{child}/pages-{pages_id}.img", here)
        entries = b"".join(record((1, a), (2, n), (4, flags), (5, n)) for a, n, flags in runs)
        write_bytes(f"{child}/{name}", MAGIC + record((1, pages_id)) + entries)
    if os.path.lexists(f"{child}/parent"):
        os.unlink(f"{child}/parent")
    os.symlink(os.path.relpath(parent, child), f"{child}/parent")
    unseal(child)
    assert all_pages(child) == pages


def disk_pages(directory):
    """Pages that the pages files occupy, each file once; a file system may count a few blocks of its own to them."""
    stats = {os.stat(f"{directory}/{name}").st_ino: os.stat(f"{directory}/{name}") for name in os.listdir(directory)
             if name.startswith("pages-")}
    return sum(s.st_blocks * 512 // PAGE for s in stats.values())
