# SPDX-License-Identifier: Apache-2.0
"""
Dumps of what changed since another one. A program (mutator/) changes its memory in every way there is; each link of a
chain, restored, has to be what the program itself saw at the moment of that dump.

FERRY_SEEDS programs (300) spread over the modes, and as many for --background; FERRY_SEED is the first one's. A failing one tells how it
alone runs again.
"""
import os
import random
import shutil
from array import array

import pytest

import paths
from mutator import HEAD, PAGE, SEEN, SHARED, WRITE, Mutator, op_names, regions_of

SEED = int(os.environ.get("FERRY_SEED") or random.SystemRandom().randrange(1 << 32))
SEEDS = int(os.environ.get("FERRY_SEEDS", "300"))
BATCH = 10


def some_steps(dice):
    return dice.choice((10, 50, 200, 200, 500, 1000))


def after(link):
    """Options of what continues `link`."""
    return [] if link is None else ["--prev-images-dir", f"../images-{link}"]


def make_chain(life, dice, links, *options, pre_dumps=0.3):
    """Links 0 to `links` - 1, each dumped at a barrier, the last with the program's end; pre-dumps between, by chance."""
    previous = None
    for link in range(links):
        life.run_on(some_steps(dice))
        if dice.random() < pre_dumps:
            life.pre_dump(f"before-{link}", *after(previous), *options)
            previous = f"before-{link}"
            life.run_on(some_steps(dice))
        life.dump(link, *([] if link == links - 1 else ["-R"]), "--track-mem", *after(previous), *options)
        previous = link
    life.end()


def in_any_order(life, dice, *links):
    for link in dice.sample(links, len(links)):
        life.restore_and_live(link)


# ---- modes ----

def full(life, dice):
    for link in range(3):
        life.run_on(some_steps(dice))
        if link < 2 and dice.random() < 0.5:
            life.dump_behind(link)
        else:
            life.dump(link, *(["-R"] if link < 2 else []))
    life.end()
    in_any_order(life, dice, *range(3))


def pre_dumps(life, dice):
    for link in range(2):
        life.run_on(some_steps(dice))
        life.pre_dump(link, *after(link - 1 if link else None))
    life.run_on(some_steps(dice))
    life.dump(2, *after(1))
    life.end()
    life.restore_and_live(2)


def chain(life, dice):
    make_chain(life, dice, 4)
    in_any_order(life, dice, *range(4))


def untracked(life, dice):
    make_chain(life, dice, 3, "--tracker", "none")
    in_any_order(life, dice, *range(3))


def soft_dirty(life, dice):
    make_chain(life, dice, 4, "--tracker", "soft-dirty")
    in_any_order(life, dice, *range(4))


def auto_dedup(life, dice):
    make_chain(life, dice, 4, "--auto-dedup")
    life.restore_and_live(3)


def dedup(life, dice):
    make_chain(life, dice, 4)
    life.tool.run_well("dedup", life.images(2))
    in_any_order(life, dice, 2, 3)
    life.tool.run_well("dedup", life.images(3))
    life.restore_and_live(3)


def squash(life, dice):
    make_chain(life, dice, 4)
    for link in (1, 3):
        life.tool.run_well("squash", life.images(link), "-o", f"{life.images(link)}-whole")
    for link in range(4):
        shutil.rmtree(life.images(link))
    for link in (1, 3):
        life.restore_and_live(link, f"{life.images(link)}-whole")


def background(life, dice):
    """Each a directory of its own; then a chain."""
    for link in range(4):
        life.run_on(some_steps(dice))
        life.dump_behind(link, "--background", *(["--track-mem"] if link else []), *after(link - 1 if link > 1 else None))
    life.end()
    in_any_order(life, dice, *range(4))


def mixed(life, dice):
    """Links of all kinds on top of one another."""
    previous = None
    for link in range(5):
        life.run_on(some_steps(dice))
        if dice.random() < 0.3:
            life.pre_dump(f"before-{link}", *after(previous))
            previous = f"before-{link}"
            life.run_on(some_steps(dice))
        if dice.random() < 0.5:
            life.dump_behind(link, "--background", "--track-mem", *after(previous))
        else:
            life.dump(link, "-R", "--track-mem", *after(previous))
        previous = link
    life.end()
    in_any_order(life, dice, *range(5))


def lives(life, dice):
    """Each link is dumped in the life that began with the one before."""
    previous = None
    for link in range(4):
        if previous is not None:
            life.restore(previous)
        life.run_on(some_steps(dice))
        if dice.random() < 0.5:
            life.pre_dump(f"before-{link}", *after(previous))
            previous = f"before-{link}"
            life.run_on(some_steps(dice))
        life.dump(link, "--track-mem", *after(previous))
        life.end()
        previous = link
    in_any_order(life, dice, *range(4))


def branches(life, dice):
    """A link continues any one before it, though what was noted since is about the last one."""
    for link in range(5):
        life.run_on(some_steps(dice))
        life.dump(link, *(["-R"] if link < 4 else []), "--track-mem", *after(dice.randrange(link) if link else None))
    life.end()
    in_any_order(life, dice, *range(5))


def killed(life, dice):
    """Between the links the tool dies, in pre-dumps and in dumps. Whatever it had begun to note, no page is lost."""
    for link in range(4):
        previous = link - 1 if link else None
        life.run_on(some_steps(dice))
        life.pre_dump_killed(f"killed-pre-{link}", dice.uniform(0, 0.02), *after(previous))
        life.run_on(some_steps(dice))
        life.dump_killed(f"killed-{link}", dice.uniform(0, 0.03), "--track-mem", *after(previous))
        life.run_on(some_steps(dice))
        life.dump(link, *(["-R"] if link < 3 else []), "--track-mem", *after(previous))
    life.end()
    in_any_order(life, dice, *range(4))


# Words that a tool's help has when it can do a mode.
NEEDS = {pre_dumps: "pre-dump", untracked: "--tracker", auto_dedup: "--auto-dedup", dedup: "dedup ", squash: "squash",
         background: "--background", mixed: "--background"}
MODES = [full, pre_dumps, chain, untracked, soft_dirty, auto_dedup, dedup, squash, background, mixed, lives, branches, killed]


def seeds_of(mode):
    """All for the moment of a program that runs on; the others, which prove the same thing together, share as many."""
    return SEEDS if mode is background else max(1, SEEDS // (len(MODES) - 1))


CASES = [pytest.param(mode, batch, id=f"{mode.__name__}-{batch}") for mode in MODES
         for batch in range((seeds_of(mode) + BATCH - 1) // BATCH)]


@pytest.fixture
def begin(tool, start, workdir):
    """begin(seed) -> a life that runs, in a directory of its own."""
    def make(seed, mode=""):
        directory = os.path.join(workdir, f"seed-{seed}")
        os.mkdir(directory)
        return Mutator(tool, start, directory, random.Random(f"{seed} {mode}").getrandbits(63))
    return make


@pytest.fixture(scope="session")
def tool_help(tool):
    return tool.run("--help").stdout + tool.run("dump", "--help").stdout


@pytest.mark.parametrize("mode, batch", CASES)
def test_restored_as_it_was(request, begin, tool, tool_help, mode, batch):
    needs = "" if mode is full else NEEDS.get(mode, "--prev-images-dir")
    if needs not in tool_help:
        pytest.skip(f"the tool knows no {needs}")
    if mode is soft_dirty and tool.run("check", "--feature", "soft_dirty").returncode != 0:
        pytest.skip("this kernel has no soft-dirty: see tests/vm")
    for seed in range(SEED + batch * BATCH, SEED + min((batch + 1) * BATCH, seeds_of(mode))):
        command = f"{os.path.relpath(paths.INIT)} /usr/bin/python3 -m pytest '{request.node.nodeid.replace(f'-{batch}]', '-0]')}'"
        print(f"seed {seed}; alone: FERRY_SEEDS=1 FERRY_SEED={seed} {command}")
        life = begin(seed, mode.__name__)
        mode(life, random.Random(seed))
        shutil.rmtree(life.directory)


# ---- the generator itself ----

def test_all_is_done(begin):
    """Some seeds, and every operation was done; what is seen at a barrier is seen again."""
    left, seed = set(op_names()[1:]), SEED
    while left and seed < SEED + 100:
        life = begin(seed)
        for _ in range(5):
            life.run_on(500)
            assert life.stand().differences(life.stand()) == []
        life.end()
        left -= {name for name, count in life.op_counts().items() if count}
        seed += 1
    assert not left, f"never done: {left}"


FLAGS_FROM = 55     # in an entry of pagemap; below is where the page is, which the kernel may change


def page_tables(truth):
    """What the kernel has for every page of every window."""
    found = []
    for raw in truth.seen.values():
        with open(f"/proc/{HEAD.unpack_from(raw)[2]}/pagemap", "rb") as f:
            for name, base, _, pages in regions_of(raw):
                if base and name != "stack":
                    f.seek(base // PAGE * 8)
                    found += [entry >> FLAGS_FROM for entry in array("Q", f.read(pages * 8))]
    return found


def test_looking_leaves_no_trace(begin):
    """What is not there is not there afterwards either: no tracker sees anything of it. (Once it may be khugepaged's work.)"""
    traces = 0
    for seed in range(SEED, SEED + 5):
        life = begin(seed)
        for _ in range(5):
            life.run_on(200)
            looks = [page_tables(life.stand()) for _ in range(3)]
            traces += looks[0] != looks[1] != looks[2]
        life.end()
    assert traces <= 1


def changeable(raw):
    """(window, address) of pages that are mapped and that a debugger may write to."""
    for name, base, at, pages in regions_of(raw):
        for i in range(pages):
            seen, _, rights, *_ = SEEN.unpack_from(raw, at + i * SEEN.size)
            if base and seen and (rights & WRITE or not rights & SHARED):
                yield name, base + i * PAGE


@pytest.mark.parametrize("count", range(3))
def test_a_changed_byte_is_seen(begin, count):
    """In whichever process and page; and nothing else is seen when it is as before."""
    dice = random.Random(f"{SEED} {count}")
    life = begin(SEED + count)
    for _ in range(20):
        life.run_on(200)
        truth = life.stand()
        process = dice.choice(sorted(truth.seen))
        raw = truth.seen[process]
        name, page = dice.choice(list(changeable(raw)) or [("", 0)])
        if page:
            change = HEAD.unpack_from(raw)[2], page + dice.randrange(PAGE), dice.randrange(1, 256)
            change_byte(*change)
            wanted, seen = f"process {process}, {name} page", truth.differences(life.stand(), most=10000)
            assert any(line.startswith(wanted) and f"{page:#x}" in line for line in seen), (wanted, page, seen)
            change_byte(*change)
        assert truth.differences(life.stand()) == []
    life.end()


def change_byte(pid, at, difference):
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ difference]))
