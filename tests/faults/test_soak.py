"""F17: a short run of tests/faults/soak.py, which goes on for as long as wanted by hand."""

import pytest

import netstack
from tests.faults.soak import Soak
from tests.support import descriptors, scale


@pytest.mark.timeout(900)
def test_f17_everything_at_once(runtime, backend):
    with netstack.Router() as router, netstack.attach(router.name, drain=0):
        pass                                         # what the process opens once
    before = len(descriptors())
    soak = Soak(clients=3, backend=backend)
    try:
        soak.run(scale(60))
        while not soak.problems and (soak.kills < 4 or soak.connections < 11 or soak.bytes < 1 << 20):
            soak.run(1)                              # a slow machine takes longer for as much
    finally:
        soak.end()
    assert not soak.problems
    assert len(descriptors()) <= before + 2          # bells of its host, which is closed, and still here
