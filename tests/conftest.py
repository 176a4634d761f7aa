"""Fixtures of all tests; the rules of the run (markers, order, CI) stand in the top-level conftest.py."""

import pytest

from tests import support


@pytest.fixture(name="scale")
def _scale():
    """`scale(count)`: count times NETSTACK_TEST_SCALE."""
    return support.scale


@pytest.fixture(autouse=True)
def _traces_are_judged(request):
    """Every trace of a simulated network runs through the state checker (`netstack.testing.watched`).

    ``@pytest.mark.unwatched`` leaves a test out: one whose stack is made to say what it must not say.
    """
    if request.node.get_closest_marker("unwatched"):
        yield
        return
    from netstack.testing.watching import watched

    with watched():
        yield


@pytest.fixture
def netns():
    """A network namespace of its own, ``lo`` up, gone after the test."""
    reason = support.root_missing()
    if reason:
        pytest.skip(reason)
    with support.network_namespace() as namespace:
        yield namespace


@pytest.fixture(scope="session")
def shared_netns():
    """One network namespace for all hybrid hosts, which have its kernel's addresses: what tests give to ``near``."""
    reason = support.root_missing()
    if reason:
        pytest.skip(reason)
    with support.network_namespace() as namespace:
        namespace.run("ip", "link", "add", "near", "type", "veth", "peer", "name", "far")
        for device in ("near", "far"):
            namespace.run("ip", "link", "set", device, "mtu", "65535", "up")
        yield namespace
