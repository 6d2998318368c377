# SPDX-License-Identifier: Apache-2.0
"""
A client of the redis-server at the unix socket argv[1] that remembers what it has written, and looks whether it is there. One connection for
its whole life; the key `loads` counts what was fine, and a disagreement ends it.
"""
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from redis import Client, wait_ready

KEYS = 2000
dice, model = random.Random(1), {}
wait_ready(sys.argv[1])
with Client(sys.argv[1]) as client:
    while True:
        key, value = dice.randrange(KEYS), dice.randbytes(dice.choice((10, 1000, 5000)))
        had = client.ask("GETSET", f"load:{key}", value)
        assert had == model.get(key), f"load:{key} is {had!r} instead of {model.get(key)!r}"
        model[key] = value
        assert client.ask("INCR", "loads") > 0
