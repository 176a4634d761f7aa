"""Fixtures of all tests; the rules of the run (markers, order, CI) stand in the top-level conftest.py."""

import pytest

from tests import support


@pytest.fixture(name="scale")
def _scale():
    """`scale(count)`: count times NETSTACK_TEST_SCALE."""
    return support.scale


@pytest.fixture
def netns():
    """A network namespace of its own, ``lo`` up, gone after the test."""
    reason = support.root_missing()
    if reason:
        pytest.skip(reason)
    with support.network_namespace() as namespace:
        yield namespace
