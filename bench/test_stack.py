"""Stacks on virtual time: one segment in and out, a connection from SYN to the last FIN, a datagram, from Python."""

import errno

import pytest

from netstack.link import Wire
from netstack.stack import Stack

SERVER = ("10.0.0.2", 80)


class Pair:
    """Two stacks on a wire, and a clock that moves with every pass."""

    def __init__(self, mtu=1500, **sysctl):
        one, two = Wire(mtu=mtu)
        self.a = Stack(links=[one], addresses="10.0.0.1/24", mtu=mtu, seed=1, sysctl=sysctl)
        self.b = Stack(links=[two], addresses="10.0.0.2/24", mtu=mtu, seed=2, sysctl=sysctl)
        self.now = 1_000_000_000
        self.listener = self.b.socket()
        self.listener.bind(SERVER)
        self.listener.listen(1024)

    def settle(self, rounds=3):
        for _ in range(rounds):
            self.now += 1000
            self.a.process(self.now)
            self.b.process(self.now)

    def connect(self):
        client = self.a.socket()
        assert client.connect_ex(SERVER) == errno.EINPROGRESS
        self.settle()
        return client, self.listener.accept()[0]


@pytest.fixture
def pair():
    return Pair()


@pytest.mark.parametrize("size", [64, 1448, 65536])
def test_stream_in_and_out(benchmark, pair, size):
    client, server = pair.connect()
    data = bytes(size)

    def transfer():
        client.send(data)
        got = 0
        while got < size:
            pair.settle(1)
            got += len(server.recv(1 << 20))
        return got

    assert benchmark(transfer) == size


def test_connect_and_full_close(benchmark, pair):
    def life():
        client, server = pair.connect()
        client.shutdown(1)
        pair.settle(1)
        assert server.recv(1) == b""
        server.close()
        pair.settle(1)
        assert client.recv(1) == b""
        client.close()
        return True

    assert benchmark(life)


def test_datagram(benchmark, pair):
    receiver = pair.b.socket(2, 2)
    receiver.bind(("10.0.0.2", 9))
    sender = pair.a.socket(2, 2)

    def transfer():
        sender.sendto(b"m" * 64, ("10.0.0.2", 9))
        pair.settle(1)
        return receiver.recvfrom(2048)[0]

    assert benchmark(transfer) == b"m" * 64
