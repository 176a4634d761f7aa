"""F17: a short run of tests/faults/soak.py, which goes on for as long as wanted by hand."""

import pytest

from tests.faults.soak import Soak
from tests.support import descriptors, scale


@pytest.mark.timeout(900)
def test_f17_everything_at_once(runtime, backend):
    before = len(descriptors())
    soak = Soak(clients=3, backend=backend)
    try:
        soak.run(scale(60))
    finally:
        soak.end()
    assert not soak.problems
    assert soak.kills > 3 and soak.connections > 10 and soak.bytes > 1 << 20
    assert len(descriptors()) <= before + 2          # what the process opens once
