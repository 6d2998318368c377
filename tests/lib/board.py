# SPDX-License-Identifier: Apache-2.0
"""The reading side of board.h."""
import os
import struct

from waiting import read_or_empty, wait_until


class Board:
    """Counters of the program that runs in `directory`; its words about what went wrong are in the file `out`."""
    def __init__(self, directory, slots, out=None):
        self.path = os.path.join(directory, "board")
        self.slots = slots
        self.out = out

    def read(self):
        """Slots 1 to `slots`; fails when the program found something wrong."""
        try:
            with open(self.path, "rb") as f:
                values = struct.unpack(f"<{self.slots + 1}Q", f.read(8 * (self.slots + 1)))
        except (FileNotFoundError, struct.error):
            return [0] * self.slots
        assert values[0] == 0, f"{values[0]} things wrong: {read_or_empty(self.out or '')[:2000]}"
        return list(values[1:])

    def slot(self, number):
        """One slot beyond those that grow."""
        with open(self.path, "rb") as f:
            f.seek(8 * number)
            return struct.unpack("<Q", f.read(8))[0]

    def wait_growth(self, deadline_s=20):
        """Until every counter went on from where it was."""
        before = self.read()
        wait_until(lambda: all(now > then for now, then in zip(self.read(), before)),
                   f"the counters of {self.path} go on from {before}", deadline_s)
