"""`net`: each test that asks for it runs over the kernel, between two stacks and inside one, over a daemon's stack, and
with the kernel's IP below ours."""

import pytest

from tests.socket.like_kernel import EVERYWHERE, running

LIMIT = 30.0


@pytest.fixture(params=EVERYWHERE)
def net(request):
    with running(request, request.param) as network:
        network.opened = []
        yield network
        for s in network.opened:
            s.close()


@pytest.fixture
def listener(net):
    s = net.server_socket()
    s.settimeout(LIMIT)
    s.bind((net.server_address, 0))
    s.listen()
    net.opened.append(s)
    return s


@pytest.fixture
def pair(net, listener):
    """A connected pair: the client's and the server's end."""
    client = net.client_socket()
    client.settimeout(LIMIT)
    client.connect(listener.getsockname())
    server, _ = listener.accept()
    server.settimeout(LIMIT)
    net.opened += [client, server]
    return client, server


@pytest.fixture
def datagrams(net):
    """Two datagram sockets, both bound."""
    out = []
    for make, address in ((net.client_socket, net.client_address), (net.server_socket, net.server_address)):
        s = make(2)
        s.settimeout(LIMIT)
        s.bind((address, 0))
        out.append(s)
    net.opened += out
    return out
