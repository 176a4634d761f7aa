"""What makes no sense is refused with the standard library's exception, on the kernel and on a stack alike."""

import os

import pytest

MESSAGE = b"message"


@pytest.mark.parametrize("item", [
    object(), (object(), 0, b"data"), (0, object(), b"data"), (0, 0, object()), (0, 0), (0, 0, b"data", 42), 0])
def test_ancillary_items_are_checked(pair, datagrams, item):
    for s in (pair[0], datagrams[0]):
        with pytest.raises(TypeError):
            s.sendmsg([MESSAGE], [item])
        with pytest.raises(TypeError):
            s.sendmsg([MESSAGE], [(0, 0, b""), item])


@pytest.mark.parametrize("arguments, error", [
    (([bytearray(9)], -1), ValueError), (([bytearray(9)], 0, object()), TypeError), ((9,), TypeError),
    (([b"read-only"],), TypeError), (([object()],), TypeError)])
def test_recvmsg_into_checks_its_arguments(pair, datagrams, arguments, error):
    for s in (pair[0], datagrams[0]):
        s.settimeout(0)
        with pytest.raises(error):
            s.recvmsg_into(*arguments)


@pytest.mark.parametrize("arguments", [
    ("text", ("127.0.0.1", 9)), (5j, ("127.0.0.1", 9)), (MESSAGE, None), (MESSAGE, 0, None),
    (MESSAGE, "0", ("127.0.0.1", 9)), (MESSAGE,), (MESSAGE, 0, ("127.0.0.1", 9), 4)])
def test_sendto_checks_its_arguments(datagrams, arguments):
    with pytest.raises(TypeError):
        datagrams[0].sendto(*arguments)


def test_repr_names_the_descriptor_that_was_asked_for(pair):
    for s in pair:
        assert f"fd={s.fileno()}" in repr(s)
        assert f"raddr={s.getpeername()!r}" in repr(s)


def test_fromfd_shares_a_connection(net, pair):
    client, server = pair
    other = type(client)(fileno=os.dup(client.fileno()))           # what socket.fromfd does
    assert other.getpeername() == server.getsockname() and other.fileno() != client.fileno()
    client.close()
    other.sendall(MESSAGE)
    assert server.recv(100) == MESSAGE
    other.close()
    assert server.recv(100) == b""
