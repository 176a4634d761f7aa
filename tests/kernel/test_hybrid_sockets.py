"""The tests of sockets over the hybrid stack on one kernel: ours to ours, ours to the kernel, the kernel to ours."""

import socket as kernel

import pytest

import netstack
from tests.socket.conftest import datagrams, listener, pair  # noqa: F401 - fixtures
from tests.socket.test_datagrams import *  # noqa: F403 - the tests
from tests.socket.test_streams import *  # noqa: F403

pytestmark = pytest.mark.root


class Hybrid:
    """Hosts of ours, and the kernel, on the loopback of one namespace."""

    server_address = client_address = "127.0.0.1"

    def __init__(self, client, server):
        self.hosts = {who: netstack.attach(mode="hybrid", drain=5) for who in {client, server} if who != "kernel"}
        self.client, self.server = client, server
        self.opened = []

    def _socket(self, who, kind):
        return kernel.socket(kernel.AF_INET, kind) if who == "kernel" else self.hosts[who].socket(kernel.AF_INET, kind)

    def server_socket(self, type=kernel.SOCK_STREAM):
        return self._socket(self.server, type)

    def client_socket(self, type=kernel.SOCK_STREAM):
        return self._socket(self.client, type)

    def close(self):
        for host in self.hosts.values():
            host.close()


@pytest.fixture(params=["ours to ours", "ours to kernel", "kernel to ours"])
def net(request, netns):
    client, _, server = request.param.split()
    with netns.enter():
        network = Hybrid("first" if client == "ours" else client, "second" if server == "ours" else server)
        yield network
        for s in network.opened:
            s.close()
        network.close()
