"""A pytest plugin: hosts on virtual time as fixtures.

    @pytest.mark.netstack(loss=0.05, delay="20ms", seed=3)
    def test_the_client_tries_again(netstack_pair):
        netstack_pair.run(my_program(netstack_pair.client, netstack_pair.server))

A test that fails says its seed. Nothing of netstack is imported until a fixture is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from netstack.host import Host
    from netstack.testing.virtual import VirtualNetwork

CLIENT, SERVER = "10.0.0.1", "10.0.0.2"
_SEED: pytest.StashKey[int] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "netstack(seed=0, mtu=1500, **faults): what the network of netstack_net and netstack_pair is like: "
                   "loss, duplicate, reorder, corrupt, delay, jitter, rate, queue; see netstack.testing.VirtualNetwork")


class Pair:
    """Two hosts on virtual time.

    Attributes
    ----------
    client, server : Host
        10.0.0.1 and 10.0.0.2, which the network also calls ``client`` and ``server``.
    net : VirtualNetwork
    """

    def __init__(self, net: VirtualNetwork) -> None:
        self.net = net
        self.client: Host = net.host(CLIENT, name="client")
        self.server: Host = net.host(SERVER, name="server")

    def run(self, main: Any, **options: Any) -> Any:
        """`VirtualNetwork.run`: asyncio's own functions mean the client's network."""
        return self.net.run(main, **options)


@pytest.fixture
def netstack_net(request: pytest.FixtureRequest) -> Iterator[VirtualNetwork]:
    """A `netstack.testing.VirtualNetwork` as the marker ``netstack`` describes it, without hosts."""
    from netstack.testing.virtual import VirtualNetwork

    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("netstack"))):     # the closest counts
        options.update(marker.kwargs)
    with VirtualNetwork(**options) as net:
        request.node.stash[_SEED] = net.seed
        yield net


@pytest.fixture
def netstack_pair(netstack_net: VirtualNetwork) -> Pair:
    """A client and a server on virtual time: `Pair`."""
    return Pair(netstack_net)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    seed = item.stash.get(_SEED, None)
    if report.failed and seed is not None:
        report.sections.append(("netstack", f"seed {seed}, replay with NETSTACK_SEED={seed}"))
