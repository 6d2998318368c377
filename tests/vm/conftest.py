# SPDX-License-Identifier: Apache-2.0
import pytest


@pytest.fixture(autouse=True)
def nothing_left():
    """A guest outlives the test that began it. The end of the session sees whether one is left."""
