# SPDX-License-Identifier: Apache-2.0
"""
The python program with 1 GiB of objects that test_large.py dumps: a thousand large ones and a million small ones, some of
which it changes all the time, until SIGUSR1: from then on it is as it is, and writes a digest of all to the file argv[1] at
each.
"""
import hashlib
import os
import random
import signal
import sys
import time

dice = random.Random(7)
seed = os.urandom(1 << 20)
large = [bytearray(seed) for _ in range(850)]
for number in range(850 << 8):      # each page has a number, or nobody would see two that changed places
    at = (number & 255) << 12
    large[number >> 8][at:at + 8] = number.to_bytes(8, "little")
small = {i: (str(i) * 3, [i, i + 1.5]) for i in range(700_000)}
asked = changes = 0


def digest():
    state = hashlib.blake2b()
    for piece in large:
        state.update(piece)
    for key, value in small.items():
        if key % 16 == 0:
            state.update(repr((key, value)).encode())
    return state.hexdigest()


def say(text):
    with open(f"{sys.argv[1]}.new", "w", encoding="utf-8") as f:
        f.write(text + "\n")
    os.rename(f"{sys.argv[1]}.new", sys.argv[1])


def ask(sig, _frame):
    global asked
    asked = sig


signal.signal(signal.SIGUSR1, ask)
for i, piece in enumerate(large):
    piece[:8] = i.to_bytes(8, "little")
say("ready")
while True:
    while asked:
        if asked == signal.SIGUSR1:
            asked = -1
            say(f"{changes} {digest()}")
        time.sleep(0.02)
    changes += 1
    piece, at = dice.choice(large), dice.randrange(1 << 20)
    piece[at] = (piece[at] + 1) % 256
    small[dice.randrange(len(small))] = (f"changed {changes}", [changes])
    time.sleep(0.0002)
