"""A host in each place that a stack can have: this process, a daemon, this process above the kernel's IP.

`MODES` are the parameters of a fixture that wants all three, `host_in` makes the host. Hybrid ones are in
`shared_netns`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator

import pytest

import netstack
from netstack.daemon.host import DaemonHost
from netstack.daemon.server import Server
from tests.support import NetNamespace

MODES = ["library", "daemon", pytest.param("hybrid", marks=pytest.mark.root)]
DRAIN = 5.0
NOBODY = netstack.ResolverConfig(servers=())           # as a host without a link asks


@contextlib.contextmanager
def daemon_of(*addresses: str, clients: int = 1, link=None, resolver=NOBODY) -> Iterator[list[netstack.Host]]:
    """Clients of a daemon whose host, their ``behind``, has the addresses. Without a link it only reaches itself."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NETSTACK_RUNTIME_DIR", folder)
            server = stack.enter_context(Server(netstack.Host(link, addresses, drain=DRAIN), "test"))
            hosts = [stack.enter_context(netstack.attach("test", mode="daemon", resolver=resolver))
                     for _ in range(clients)]
        for host in hosts:
            host.behind = server.host
            host.counters = server.host.counters       # of which clients know nothing
        yield hosts


def give(namespace: NetNamespace, *addresses: str) -> None:
    """The kernel of the namespace has the addresses from now on."""
    for address in addresses:
        more = ["nodad"] if ":" in address else []
        namespace.run("ip", "addr", "replace", address, "dev", "near", *more)


@contextlib.contextmanager
def host_in(request: pytest.FixtureRequest, mode: str, *addresses: str) -> Iterator[netstack.Host]:
    """A host with the addresses. In the block of a hybrid one the thread, and those it starts, are in its namespace."""
    if mode == "library":
        with netstack.Host(address=addresses, drain=DRAIN) as host:
            yield host
    elif mode == "daemon":
        with daemon_of(*addresses) as hosts:
            yield hosts[0]
    else:
        namespace = request.getfixturevalue("shared_netns")
        give(namespace, *addresses)
        with namespace.enter(), \
                netstack.attach(mode="hybrid", address=addresses, drain=DRAIN, resolver=NOBODY) as host:
            yield host


def open_sockets(host: netstack.Host) -> int:
    """How many this process has of the host."""
    return host.client.sockets if isinstance(host, DaemonHost) else host.driver.sockets
