"""`net`: two endpoints for asyncio, on the kernel, on two hosts with a channel between them, on one host, on a
daemon's, and on two with the kernel's IP below them.
"""

import asyncio
import contextlib
import functools

import pytest

import netstack
from netstack.link import FaultInjector, channel_pair
from tests.places import daemon_of, host_in

LIMIT = 30.0


class Net:
    """Where clients connect from (`connect`) and servers stand (`serve`), and the loop that serves both."""

    def __init__(self, kind, request):
        self.kind = kind
        self.hosts = []
        self.others = contextlib.ExitStack()           # what stands below the hosts
        if kind == "kernel":
            self.address, self.client_address = "127.0.0.1", "127.0.0.1"
            self.client = self.server = None
        elif kind == "loopback":
            self.address = self.client_address = "10.0.0.2"
            self.client = self.server = netstack.Host(address="10.0.0.2/24", drain=5)
            self.hosts = [self.client]
        elif kind == "daemon":
            self.address = self.client_address = "10.0.0.2"
            self.hosts = self.client, self.server = self.others.enter_context(daemon_of("10.0.0.2/24", clients=2))
        elif kind == "hybrid":
            self.address = self.client_address = "10.0.0.2"
            self.hosts = self.client, self.server = [
                self.others.enter_context(host_in(request, kind, "10.0.0.2/24")) for _ in range(2)]
        else:
            here, there = channel_pair()
            if kind == "lossy":
                here = FaultInjector(here, seed=5, loss=0.02)
                there = FaultInjector(there, seed=6, loss=0.02)
            self.address, self.client_address = "10.0.0.2", "10.0.0.1"
            self.client = netstack.Host(link=here, address="10.0.0.1/24", drain=5)
            self.server = netstack.Host(link=there, address="10.0.0.2/24", drain=5)
            self.hosts = [self.client, self.server]
        self.loop = netstack.aio.new_event_loop() if self.hosts else asyncio.new_event_loop()

    def run(self, coroutine):
        """Run a test's coroutine to its end; nothing may be left over in the loop."""
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, LIMIT))

    def __getattr__(self, name):
        """connect, listen, open_connection, start_server of the side that does such a thing."""
        module, host = {
            "create_connection": (netstack.aio.connecting, self.client),
            "open_connection": (netstack.aio.connecting, self.client),
            "create_server": (netstack.aio.connecting, self.server),
            "start_server": (netstack.aio.connecting, self.server),
        }[name]
        if host is not None:
            return functools.partial(getattr(module, name), host)
        return getattr(asyncio if name in ("open_connection", "start_server") else self.loop, name)

    def socket(self, side, *args):
        import socket

        host = getattr(self, side)
        s = host.socket(*args) if host is not None else socket.socket(*args)
        s.setblocking(False)
        return s

    def close(self):
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        for host in self.hosts:
            host.close()
        self.others.close()


@pytest.fixture(params=["kernel", "channel", "loopback", "lossy", "daemon",
                        pytest.param("hybrid", marks=pytest.mark.root)])
def net(request):
    network = Net(request.param, request)
    yield network
    network.close()
