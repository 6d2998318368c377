# SPDX-License-Identifier: Apache-2.0
"""Which of --tracker's words this kernel can do."""
import pytest

NEEDS = {"scan": ("pagemap_scan", "uffd_wp_async", "pidfd_getfd"), "soft-dirty": ("soft_dirty",), "none": ()}


def has_tracker(tool, name):
    lines = [line.split() for line in tool.check("--all").stdout.splitlines()]
    can = {words[0] for words in lines if len(words) > 1 and words[1] == "yes"}
    return can.issuperset(NEEDS[name])


def need_tracker(tool, *names):
    """One of them, or the test is passed over."""
    if not tool.is_ferry or not any(has_tracker(tool, name) for name in names):
        pytest.skip(f"no tracking by {' or '.join(names)} here")
