"""A stack talks to itself inside: its own addresses and 127.0.0.0/8 never reach a link."""

import errno

import pytest

from netstack.stack import Stack

from .tools import SO_ERROR, SOL_SOCKET, A, S, states


def new_stack():
    stack = Stack(addresses=(A, "10.0.0.9"), seed=1)
    stack.advance(S)
    return stack


def settle(stack, ms=1000):
    for _ in range(ms):
        stack.advance(stack.now_ns + 1_000_000)
    assert stack.pop_output() is None, "a packet to ourselves went out"


@pytest.mark.parametrize("bound, asked", [
    ("127.0.0.1", "127.0.0.1"), ("", "127.0.0.1"), (A, A), ("", A), ("", "10.0.0.9"), ("", "127.9.8.7"), ("", ""),
])
def test_connect_to_ourselves(bound, asked):
    stack = new_stack()
    server = stack.socket()
    server.bind((bound, 80))
    server.listen()
    client = stack.socket()
    assert client.connect_ex((asked, 80)) in (0, errno.EINPROGRESS)
    settle(stack, 5)
    sock, address = server.accept()
    assert client.state == "ESTABLISHED" and address == client.getsockname()
    client.send(b"question")
    assert sock.recv(100) == b"question"
    sock.send(b"answer")
    assert client.recv(100) == b"answer"
    client.close()
    settle(stack, 100)
    assert sock.recv(1) == b""
    sock.close()
    settle(stack, 100)
    assert states(stack) == ["LISTEN", "TIME_WAIT"]


def test_a_closed_port_of_ours_refuses():
    stack = new_stack()
    client = stack.socket()
    client.connect_ex((A, 81))
    settle(stack, 5)
    assert client.state == "CLOSED" and client.getsockopt(SOL_SOCKET, SO_ERROR) == errno.ECONNREFUSED


def test_much_data_to_ourselves():
    stack = new_stack()
    server = stack.socket()
    server.bind(("", 80))
    server.listen()
    client = stack.socket()
    client.connect_ex((A, 80))
    settle(stack, 5)
    sock, _ = server.accept()
    data = bytes(range(256)) * 8192
    sent, got = 0, bytearray()
    for _ in range(100_000):
        if sent < len(data):
            try:
                sent += client.send(data[sent:sent + 100_000])
            except BlockingIOError:
                pass
        try:
            got += sock.recv(1 << 16)
        except BlockingIOError:
            stack.advance(stack.now_ns + 1_000_000)
        if len(got) == len(data):
            break
    assert bytes(got) == data and stack.pop_output() is None


def test_loopback_addresses_do_not_come_in_from_a_link():
    """RFC 1122 section 3.2.1.3 (g)."""
    from netstack.testing import build_tcp
    stack = new_stack()
    server = stack.socket()
    server.bind(("", 80))
    server.listen()
    stack.input(build_tcp("10.0.0.2", "127.0.0.1", 1, 80, "S"), S)
    stack.input(build_tcp("127.0.0.1", A, 1, 80, "S"), S)
    stack.input(build_tcp(A, A, 80, 80, "S"), S)
    assert stack.pop_output() is None and stack.socket_count == 1
