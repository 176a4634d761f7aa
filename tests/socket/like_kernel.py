"""The same test against kernel sockets and against ours: two endpoints that can reach each other, under one face."""

from __future__ import annotations

import contextlib
import socket as kernel

import pytest

import netstack
from netstack.link import channel_pair
from tests.places import daemon_of


class Kernel:
    """Both sides on the kernel's loopback."""

    name = "kernel"
    server_address = "127.0.0.1"
    client_address = "127.0.0.1"
    free_port = 0

    def server_socket(self, type=kernel.SOCK_STREAM):
        return kernel.socket(kernel.AF_INET, type)

    client_socket = server_socket

    def close(self) -> None:
        pass


class TwoHosts:
    """Two stacks with a channel between them."""

    name = "channel"
    server_address = "10.0.0.2"
    client_address = "10.0.0.1"

    def __init__(self) -> None:
        here, there = channel_pair()
        self.client = netstack.Host(link=here, address="10.0.0.1/24", drain=5)
        self.server = netstack.Host(link=there, address="10.0.0.2/24", drain=5)

    def server_socket(self, type=kernel.SOCK_STREAM):
        return self.server.socket(kernel.AF_INET, type)

    def client_socket(self, type=kernel.SOCK_STREAM):
        return self.client.socket(kernel.AF_INET, type)

    def close(self) -> None:
        self.client.close()
        self.server.close()


class OneHost:
    """Both sides in one stack, over its own loopback."""

    name = "loopback"
    server_address = "127.0.0.1"
    client_address = "127.0.0.1"

    def __init__(self) -> None:
        self.host = netstack.Host(address="10.0.0.1/24", drain=5)

    def server_socket(self, type=kernel.SOCK_STREAM):
        return self.host.socket(kernel.AF_INET, type)

    client_socket = server_socket

    def close(self) -> None:
        self.host.close()


class Daemon:
    """Two clients of one daemon, over its stack's loopback."""

    name = "daemon"
    server_address = "127.0.0.1"
    client_address = "127.0.0.1"

    def __init__(self) -> None:
        self.open = contextlib.ExitStack()
        self.client, self.server = self.open.enter_context(daemon_of("10.0.0.1/24", clients=2))

    def server_socket(self, type=kernel.SOCK_STREAM):
        return self.server.socket(kernel.AF_INET, type)

    def client_socket(self, type=kernel.SOCK_STREAM):
        return self.client.socket(kernel.AF_INET, type)

    def close(self) -> None:
        self.open.close()


class Hybrid:
    """Two hosts of ours on one kernel's IP, over the loopback of the namespace that the thread is in."""

    name = "hybrid"
    server_address = "127.0.0.1"
    client_address = "127.0.0.1"
    server_is_kernel = client_is_kernel = False

    def __init__(self) -> None:
        self.hosts = [None if of_kernel else netstack.attach(mode="hybrid", drain=5)
                      for of_kernel in (self.server_is_kernel, self.client_is_kernel)]

    def _socket(self, host, type):
        return kernel.socket(kernel.AF_INET, type) if host is None else host.socket(kernel.AF_INET, type)

    def server_socket(self, type=kernel.SOCK_STREAM):
        return self._socket(self.hosts[0], type)

    def client_socket(self, type=kernel.SOCK_STREAM):
        return self._socket(self.hosts[1], type)

    def close(self) -> None:
        for host in self.hosts:
            if host is not None:
                host.close()


class HybridToKernel(Hybrid):
    name = "hybrid to kernel"
    server_is_kernel = True


class KernelToHybrid(Hybrid):
    name = "kernel to hybrid"
    client_is_kernel = True


NETWORKS = {n.name: n for n in (Kernel, TwoHosts, OneHost, Daemon, Hybrid, HybridToKernel, KernelToHybrid)}
EVERYWHERE = [pytest.param(name, marks=[pytest.mark.root] if issubclass(network, Hybrid) else [])
              for name, network in NETWORKS.items()]


def without(*names):
    """Marks a test that some of the networks have no part in."""
    return pytest.mark.parametrize("net", [p for p in EVERYWHERE if p.values[0] not in names], indirect=True)


@contextlib.contextmanager
def running(request, name):
    """A network of that name; with a hybrid one the thread is in its namespace."""
    with contextlib.ExitStack() as stack:
        if issubclass(NETWORKS[name], Hybrid):
            stack.enter_context(request.getfixturevalue("shared_netns").enter())
        yield stack.enter_context(contextlib.closing(NETWORKS[name]()))
