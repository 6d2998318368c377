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
