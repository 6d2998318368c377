# SPDX-License-Identifier: Apache-2.0
"""
Broken input and a hostile surrounding. With checksums, all that is broken is refused before any task exists; without
them (a CRIU's directory) nothing crashes or hangs. A dump that fails leaves the program running.
"""
import json
import os
import random
import shutil
import subprocess

import pytest

import paths
import program
from board import Board
from chains import unseal
from images import NOT_FOR_CRIT, crit_decode, images_in
from procstate import assert_same, see
from waiting import gone, wait_asleep, wait_gone, wait_line, wait_until

SEED = int(os.environ.get("FERRY_SEED") or random.SystemRandom().randrange(1 << 32))
SAMPLES = int(os.environ.get("FERRY_BROKEN_SAMPLES", "150"))
CHECKSUMS = "ferry-checksums.img"
VMA_VDSO = 8
BROKEN = os.path.join(os.path.dirname(paths.FERRY_ASAN), "tests", "fuzz", "broken")
SANITIZER_WORDS = ("AddressSanitizer", "LeakSanitizer", "runtime error:")


@pytest.fixture
def images(tool, start, workdir):
    """A dump of a small program, which has ended; images.pid is the pid it had."""
    class Images(str):
        pid = None
    found = Images(os.path.join(workdir, "images"))
    found.pid = start(["sleep", "1000"])
    wait_asleep(found.pid)
    tool.dump(found.pid, found)
    wait_gone(found.pid)
    return found


def without_checksums(directory):
    """As if some CRIU had dumped it; the sums of pages stay, to be broken too."""
    path = os.path.join(directory, CHECKSUMS)
    if os.path.exists(path):
        os.unlink(path)


def no_tasks():
    wait_until(lambda: not program.strangers(), "no task is left", 5)


def error_lines(done):
    return [line for line in (done.stderr + done.stdout).splitlines() if "Error" in line]


def error_of(done):
    """The one line that says why (the peer takes several)."""
    assert done.returncode == 1, f"status {done.returncode}: {done.stderr}"
    lines = error_lines(done)
    assert len(lines) == 1 or (lines and os.environ.get("FERRY_TOOL") == "criu"), f"not one error line: {done.stderr}"
    return "\n".join(lines)


def assert_refused(done, *words):
    """Status 1, one line that says why, with all of `words` in it, and no task."""
    line = error_of(done)
    for word in words:
        assert str(word).lstrip("/") in line, f"{word!r} is not in {line!r}"
    no_tasks()


def assert_no_crash(done):
    assert done.returncode in range(0, 128), f"status {done.returncode}: {done.stderr}"
    assert not any(word in done.stderr for word in SANITIZER_WORDS), done.stderr


def restore(tool, images, *options):
    return tool.run("restore", "-D", images, "-d", *options, timeout_s=20)


@pytest.mark.parametrize("checksums", [True, False], ids=["checksums", "none"])
def test_every_byte(images, checksums):
    """All truncations and flips, loaded in one process with the sanitizers."""
    if not checksums:
        without_checksums(images)
    done = subprocess.run([BROKEN, images], capture_output=True, text=True, check=False, timeout=500)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-5000:]
    no_tasks()


def broken_copies(images, target, rng):
    """Copies of the directory in `target`, one at a time, each with one image cut or one byte changed."""
    names = [name for name in sorted(os.listdir(images)) if name.endswith(".img") and not name.startswith("pages-")]
    for _ in range(SAMPLES):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(images, target)
        name = rng.choice(names)
        with open(os.path.join(target, name), "r+b") as f:
            content = f.read()
            at = rng.randrange(len(content))
            if rng.random() < 0.3:
                f.truncate(at)
            else:
                f.seek(at)
                f.write(bytes([content[at] ^ rng.randrange(1, 256)]))
        yield f"{name} at {at}"


@pytest.mark.parametrize("checksums", [True, False], ids=["checksums", "none"])
def test_real_restores(tool, images, workdir, checksums):
    """A sample of the same with the program itself, sanitizers in it: what makes tasks is tried as well."""
    print(f"FERRY_SEED={SEED}")
    sanitized = type(tool)("ferry with sanitizers", [paths.FERRY_ASAN]) if tool.name == "ferry" else tool
    if not checksums:
        without_checksums(images)
    for what in broken_copies(images, f"{workdir}/broken", random.Random(SEED)):
        done = restore(sanitized, f"{workdir}/broken")
        print(what, done.returncode, *error_lines(done)[:1])
        assert_no_crash(done)
        if checksums:
            assert_refused(done)
        elif done.returncode == 0:
            for pid in program.strangers():
                program.kill(pid)
                wait_gone(pid)
        no_tasks()


@pytest.mark.parametrize("checksums", [True, False], ids=["checksums", "none"])
def test_verify_of_broken(tool, images, workdir, checksums):
    """It says so, and looks at all there is, with the sanitizers in it."""
    if not tool.is_ferry:
        pytest.skip("ferry's own command")
    sanitized = type(tool)("ferry with sanitizers", [paths.FERRY_ASAN]) if tool.name == "ferry" else tool
    if not checksums:
        without_checksums(images)
    for what in broken_copies(images, f"{workdir}/broken", random.Random(SEED)):
        done = sanitized.run("verify", f"{workdir}/broken", timeout_s=20)
        print(f"FERRY_SEED={SEED}", what, done.returncode, done.stdout)
        assert_no_crash(done)
        assert done.returncode == 1 or (done.returncode == 2 and not checksums)
        assert ("BROKEN" in done.stdout) == (done.returncode == 1)


def test_missing_images(tool, images, workdir):
    """With checksums each is missed by name; without, nothing crashes."""
    for checksums in (True, False):
        if not checksums:
            without_checksums(images)
        for name in sorted(os.listdir(images)):
            if not name.endswith(".img") or name == CHECKSUMS:
                continue
            aside = os.path.join(workdir, name)
            os.rename(os.path.join(images, name), aside)
            done = restore(tool, images)
            if checksums:
                assert_refused(done, name)
            else:
                assert_no_crash(done)
                program.end_tree(images.pid)
            os.rename(aside, os.path.join(images, name))
            no_tasks()


def test_no_directory(tool, workdir):
    assert_refused(restore(tool, f"{workdir}/nothing"), "nothing")
    assert_refused(restore(tool, workdir))


@pytest.mark.parametrize("cut", [1, 4096, None], ids=["byte", "page", "all"])
def test_short_pages(tool, images, cut):
    name = next(name for name in os.listdir(images) if name.startswith("pages-"))
    path = os.path.join(images, name)
    os.truncate(path, os.path.getsize(path) - cut if cut else 0)
    assert_refused(restore(tool, images), "pages")


def crit_edit(images, name, change):
    """Changes the JSON of an image and encodes it again."""
    path = os.path.join(images, name)
    decoded = json.loads(crit_decode(path))
    change(decoded["entries"])
    subprocess.run([paths.CRIT, "encode", "-o", path], input=json.dumps(decoded), text=True, check=True)


def first(entries):
    return entries[0]



HUGE = 1 << 63
EDITS = {
    "descriptor without a file": ("fdinfo-", lambda e: first(e).update(id=9999)),
    "descriptor number": ("fdinfo-", lambda e: first(e).update(fd=0x7fffffff)),
    "descriptor twice": ("fdinfo-", lambda e: e.append(dict(first(e)))),
    "file twice": ("files", lambda e: e.append(dict(first(e)))),
    "parent that is not": ("pstree", lambda e: first(e).update(ppid=4242)),
    "own parent": ("pstree", lambda e: first(e).update(ppid=first(e)["pid"])),
    "pid 0": ("pstree", lambda e: first(e).update(pid=0)),
    "pid 1": ("pstree", lambda e: first(e).update(pid=1)),
    "thread twice": ("pstree", lambda e: first(e)["threads"].append(first(e)["threads"][0])),
    "exe without a file": ("mm-", lambda e: first(e).update(exe_file_id=9999)),
    "mapping of 2^63 bytes": ("mm-", lambda e: first(e)["vmas"][0].update(end=hex(HUGE))),
    "mapping that ends before it starts": ("mm-", lambda e: first(e)["vmas"][0].update(start="0x7ffff0000000")),
    "mapping at no page": ("mm-", lambda e: first(e)["vmas"][0].update(start="0x123456789")),
    "mapping twice": ("mm-", lambda e: first(e)["vmas"].append(first(e)["vmas"][0])),
    "pages where no mapping is": ("pagemap-", lambda e: e[1].update(vaddr="0x1000")),
    "2^31 pages": ("pagemap-", lambda e: e[1].update(nr_pages=1 << 31)),
    "pages file that is not": ("pagemap-", lambda e: first(e).update(pages_id=77)),
    "pages backwards": ("pagemap-", lambda e: e.append(dict(e[1]))),
    "advice that throws pages away": ("mm-", lambda e: first(e)["vmas"][0].update(madv=hex(1 << 4))),
    "200,000 threads": ("pstree", lambda e: first(e)["threads"].extend(range(1_000_000, 1_200_000))),
    "cwd without a file": ("fs-", lambda e: first(e).update(cwd_id=9999)),
}




@pytest.mark.parametrize("what", EDITS)
def test_nonsense(tool, images, what):
    """Well-formed images that make no sense: each is refused before any task exists."""
    prefix, change = EDITS[what]
    without_checksums(images)
    name = next(n for n in sorted(os.listdir(images)) if n.startswith(prefix) and not NOT_FOR_CRIT.match(n))
    crit_edit(images, name, change)
    assert_refused(restore(tool, images))


def record(*fields):
    """A record whose message has the varint fields (number, value)."""
    def varint(value):
        return bytes([value & 0x7f | 0x80]) + varint(value >> 7) if value > 0x7f else bytes([value])
    message = b"".join(varint(number << 3) + varint(value) for number, value in fields)
    return len(message).to_bytes(4, "little") + message


def place_in_pages(images, pid, address):
    """(pages file, offset) of what a task's pagemap says of `address`."""
    head, *runs = json.loads(crit_decode(f"{images}/pagemap-{pid}.img"))["entries"]
    offset = 0
    for run in runs:
        start, count = int(str(run["vaddr"]), 0), run["nr_pages"]
        if start <= address < start + count * 4096:
            return f"{images}/pages-{head['pages_id']}.img", offset + address - start
        offset += count * 4096
    return pytest.fail(f"no page at {address:#x}")


def vdso_in(images, pid):
    """(start, end)"""
    mappings = first(json.loads(crit_decode(f"{images}/mm-{pid}.img"))["entries"])["vmas"]
    return next((int(str(m["start"]), 0), int(str(m["end"]), 0)) for m in mappings if int(str(m["status"]), 0) & VMA_VDSO)


@pytest.mark.parametrize("where", ["start", "end"])
def test_vdso_of_another_kernel(tool, images, where):
    unseal(images)
    start, end = vdso_in(images, images.pid)
    path, offset = place_in_pages(images, images.pid, start + 100 if where == "start" else end - 1)
    with open(path, "r+b") as f:
        f.seek(offset)
        byte = f.read(1)
        f.seek(offset)
        f.write(bytes([byte[0] ^ 1]))
    assert_refused(restore(tool, images), "vdso")
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(byte)
    assert tool.restore(images) == images.pid


@pytest.mark.parametrize("how", ["changed", "gone", "moved"])
def test_vdso_of_its_own(tool, start, workdir, how):
    """A program that did something to its vdso is left alone."""
    out = f"{workdir}/out"
    pid = start([paths.program("scenarios", "vdso"), out, how], cwd=workdir)
    wait_line(out, "ready")
    wait_asleep(pid)
    assert_dump_failed_well(tool, pid, f"{workdir}/images", "vdso")


@pytest.mark.parametrize("pages", [1 << 40, 1 << 51, 1 << 52, (1 << 64) - 1])
def test_sizes_beyond_all(tool, images, pages):
    """A run of so many pages (2^51 are 2^63 bytes), in numbers that crit cannot write."""
    without_checksums(images)
    name = next(n for n in os.listdir(images) if n.startswith("pagemap-"))
    path = os.path.join(images, name)
    decoded = json.loads(crit_decode(path))["entries"]
    head, run = decoded[0], decoded[1]
    with open(path, "r+b") as f:
        f.truncate(8)
        f.seek(8)
        f.write(record((1, head["pages_id"])))
        f.write(record((1, int(str(run["vaddr"]), 0)), (2, pages & 0xffffffff), (4, 4), (5, pages)))
    assert_refused(restore(tool, images))


@pytest.fixture
def small_disk(workdir):
    """A tmpfs of 64 KiB."""
    path = os.path.join(workdir, "small")
    os.mkdir(path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


def sleeping(start):
    pid = start(["sleep", "1000"])
    wait_asleep(pid)
    return pid


def assert_dump_failed_well(tool, pid, directory, *words):
    before = see(pid)
    done = tool.run("dump", "-t", pid, "-D", directory)
    line = error_of(done)
    for word in words:
        assert word in line, f"{word!r} is not in {line!r}"
    assert not gone(pid)
    wait_asleep(pid)
    assert_same(before, see(pid))


def test_full_disk(tool, start, small_disk):
    assert_dump_failed_well(tool, sleeping(start), small_disk, "No space left on device")


def test_unwritable_directory(tool, start, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert_dump_failed_well(tool, sleeping(start), small_disk, "Read-only file system")


def test_dump_into_no_directory(tool, start, workdir):
    assert_dump_failed_well(tool, sleeping(start), f"{workdir}/no/such", "No such file or directory")


def test_dump_of_nobody(tool, workdir):
    done = tool.run("dump", "-t", 3999999, "-D", workdir)
    assert_refused(done, 3999999)


def test_pid_is_taken(tool, images, start):
    """Whoever has the pid is left alone; when it is free, the same images restore."""
    with open("/proc/sys/kernel/ns_last_pid", "w") as f:
        f.write(str(images.pid - 3))  # detach and its child are the next, what they start gets the pid
    taker = start(["sleep", "2000"])
    assert taker == images.pid
    wait_asleep(taker)
    before = see(taker)
    assert str(taker) in error_of(restore(tool, images))
    assert_same(before, see(taker))
    program.end_tree(taker)
    assert tool.restore(images) == images.pid


OWNED = """
import fcntl, os, signal, sys
fd = os.open("/dev/null", os.O_RDONLY)
fcntl.fcntl(fd, fcntl.F_SETOWN, int(sys.argv[1]))
signal.pause()
"""


def test_owner_is_gone(tool, start, workdir):
    """A descriptor's signals went to a process that is not in the tree, and that has ended since: now to nobody."""
    owner = sleeping(start)
    pid = start(["/usr/bin/python3", "-c", OWNED, owner])
    wait_asleep(pid)
    tool.dump(pid, f"{workdir}/images")
    wait_gone(pid)
    program.end_tree(owner)
    assert tool.restore(f"{workdir}/images") == pid


@pytest.fixture
def mapping(tool, start, workdir):
    """A dump of a program with a mapped file: (its pid, the file, the images)."""
    path = f"{workdir}/mapped"
    with open(path, "wb") as f:
        f.write(os.urandom(4 * 4096))
    pid = start([paths.program("scenarios", "mapper"), path], cwd=workdir)
    Board(workdir, 1).wait_growth()
    tool.dump(pid, f"{workdir}/images")
    wait_gone(pid)
    return pid, path, f"{workdir}/images"


@pytest.mark.parametrize("size", [0, 4096, 5 * 4096])
def test_mapped_file_changed_size(tool, mapping, size):
    pid, path, directory = mapping
    original = os.path.getsize(path)
    with open(path, "rb") as f:
        content = f.read()
    os.truncate(path, size)
    assert_refused(restore(tool, directory), path)
    with open(path, "wb") as f:
        f.write(content)
    assert os.path.getsize(path) == original
    assert tool.restore(directory) == pid


def test_missing_library(tool, start, workdir):
    library, directory = f"{workdir}/libown.so", f"{workdir}/images"
    shutil.copy("/usr/lib/x86_64-linux-gnu/libm.so.6", library)
    pid = start(["sleep", "1000"], env={**os.environ, "LD_PRELOAD": library})
    wait_asleep(pid)
    if library not in "".join(see(pid)[pid]["maps"]):
        pytest.fail("the library is not mapped")
    tool.dump(pid, directory)
    wait_gone(pid)
    os.rename(library, library + ".aside")
    assert_refused(restore(tool, directory), library)
    os.rename(library + ".aside", library)
    assert tool.restore(directory) == pid
