# SPDX-License-Identifier: Apache-2.0
"""Where things are. FERRY_BUILD names another build directory."""
import os

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(TOP, os.environ.get("FERRY_BUILD", "build"))
PROGRAMS = os.path.join(BUILD, "tests")
INIT = os.path.join(PROGRAMS, "lib", "init")
DETACH = os.path.join(PROGRAMS, "lib", "detach")
FERRY = os.path.join(BUILD, "ferry")
FERRY_ASAN = os.path.join(TOP, "build-asan", "ferry")
CRIT = "/usr/bin/crit"


def program(folder, name):
    """A program of tests/`folder` that Meson built."""
    return os.path.join(PROGRAMS, folder, name)
