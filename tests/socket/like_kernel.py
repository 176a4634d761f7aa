"""The same test against kernel sockets and against ours: two endpoints that can reach each other, under one face."""

from __future__ import annotations

import socket as kernel
import tempfile

import pytest

import netstack
from netstack.daemon.server import Server
from netstack.link import channel_pair


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
        self.folder = tempfile.TemporaryDirectory()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NETSTACK_RUNTIME_DIR", self.folder.name)
            self.daemon = Server(netstack.Host(address="10.0.0.1/24", drain=5), "test").start()
            self.client = netstack.attach("test", mode="daemon")
            self.server = netstack.attach("test", mode="daemon")

    def server_socket(self, type=kernel.SOCK_STREAM):
        return self.server.socket(kernel.AF_INET, type)

    def client_socket(self, type=kernel.SOCK_STREAM):
        return self.client.socket(kernel.AF_INET, type)

    def close(self) -> None:
        self.client.close()
        self.server.close()
        self.daemon.stop()
        self.folder.cleanup()


NETWORKS = {n.name: n for n in (Kernel, TwoHosts, OneHost, Daemon)}
