"""The control socket against clients that break its rules: they are cut off, nobody else notices."""

import array
import contextlib
import errno
import os
import random
import select
import socket
import stat
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout

import pytest

from netstack.errors import RouterError
from netstack.router import Router, protocol
from netstack.router.client import ControlClient
from netstack.router.control import HANDSHAKE_NS
from netstack.router.paths import socket_path
from netstack.router.protocol import AttachRequest, Capability, Type
from tests.router.lan import wait_until
from tests.support import descriptors


def serves(router) -> bool:
    """Does it take a stack (again)? Connections that ended count until their end was noticed."""
    try:
        router.attach().close()
        return True
    except RouterError:
        return False


@pytest.fixture
def router(runtime):
    with Router(ring_capacity=1 << 18, max_attachments=8) as router:
        yield router
        wait_until(lambda: serves(router))  # still at work after whatever the test did
        assert router.check_conservation() == []


def connect(router) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(router.path)              # waits while the router's queue is full: a call with a timeout would not
    sock.settimeout(20)
    return sock


def hello(router) -> socket.socket:
    sock = connect(router)
    sock.send(protocol.pack(Type.HELLO, 1, bytes(8)))
    assert protocol.unpack(sock.recv(1024))[:3] == (Type.HELLO, 1, 0)
    return sock


def ended(sock) -> bool:
    try:
        return sock.recv(1024) == b""
    except ConnectionResetError:
        return True


HELLO = protocol.pack(Type.HELLO, 1, bytes(8))


@pytest.mark.parametrize(
    "message",
    [
        b"x",
        HELLO[:-1],
        HELLO + b"x",
        b"",
        HELLO[:16],
        bytes(512),
        b"NSRX" + HELLO[4:],
        HELLO[:4] + b"\x02\x00" + HELLO[6:],
        HELLO[:6] + b"\x63\x00" + HELLO[8:],
        protocol.pack(Type.ATTACH, 1, AttachRequest().pack()),
        protocol.pack(Type.PING, 1),
    ],
    ids=[
        "1 byte",
        "too short",
        "too long",
        "empty",
        "header only",
        "zeros",
        "magic",
        "version",
        "type",
        "ATTACH before HELLO",
        "PING before HELLO",
    ],
)
def test_first_message_that_is_no_hello(router, message):
    sock = connect(router)
    sock.send(message)
    assert ended(sock)
    sock.close()


@pytest.mark.parametrize("message", [b"x", HELLO + b"x", bytes(512), HELLO[:6] + b"\x63\x00" + HELLO[8:]])
def test_attached_client_that_breaks_the_protocol_loses_its_attachment(router, message):
    sock = hello(router)
    sock.send(protocol.pack(Type.ATTACH, 2, AttachRequest().pack()))
    data, fds = protocol.receive(sock, protocol.MAX_FDS)
    assert protocol.unpack(data)[2] == 0 and len(fds) == 6
    assert len(router.attachments()) == 1
    sock.send(message)
    assert ended(sock)
    wait_until(lambda: not router.attachments())
    protocol.close_fds(fds)
    sock.close()


@pytest.mark.parametrize("count", [1, 2, 8, 200])
def test_descriptors_sent_to_the_router_are_closed_and_end_the_connection(router, count):
    before = len(descriptors())
    sock = hello(router)
    read, write = os.pipe()
    sock.sendmsg(
        [protocol.pack(Type.PING, 2)],
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write] * count))],
    )
    assert ended(sock)
    os.close(write)
    assert select.select([read], [], [], 20)[0] and os.read(read, 1) == b"", "no copy of it is left"
    os.close(read)
    sock.close()
    wait_until(lambda: len(descriptors()) == before)


def test_silent_client_is_cut_off(router):
    sock = connect(router)
    assert ended(sock)
    sock.close()
    assert HANDSHAKE_NS == 10**9


def test_half_a_handshake_a_thousand_times(router, scale):
    for _ in range(scale(1000)):
        connect(router).close()
        sock = connect(router)
        sock.send(HELLO)
        sock.close()
    wait_until(lambda: serves(router))


def test_an_attachment_waits_while_the_routers_queue_is_full(runtime):
    path = socket_path("busy")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, \
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as first, ThreadPoolExecutor(1) as pool:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)                # and the queue is full
        late = pool.submit(ControlClient, "busy")
        with pytest.raises(FutureTimeout):
            late.result(0.2)
        for _ in range(2):
            listener.accept()[0].close()
        with pytest.raises(RouterError) as failure:
            late.result(20)
        assert failure.value.errno != errno.EAGAIN


def test_more_connections_than_allowed(runtime):
    with Router(ring_capacity=1 << 18, max_attachments=1) as router:  # 66 connections
        socks = [hello(router) for _ in range(66)]
        refused = connect(router)
        assert ended(refused)
        socks.pop().close()
        wait_until(lambda: len(router._control._connections) == 65)
        hello(router).close()
        for sock in (*socks, refused):
            sock.close()


def test_one_attachment_per_connection_and_another_after_its_release(router):
    sock = hello(router)

    def ask(kind, body=b""):
        sock.send(protocol.pack(kind, 9, body))
        data, fds = protocol.receive(sock, protocol.MAX_FDS)
        protocol.close_fds(fds)
        return protocol.unpack(data)[2]

    attach = AttachRequest().pack()
    assert ask(Type.ATTACH, attach) == 0
    assert ask(Type.ATTACH, attach) != 0
    assert len(router.attachments()) == 1
    assert ask(Type.RELEASE) == 0 and router.attachments() == []
    assert ask(Type.RELEASE) == 0, "releasing nothing is no mistake"
    assert ask(Type.ATTACH, attach) == 0
    assert ask(Type.COUNTERS, protocol.COUNTERS.pack(12345, 0)) != 0
    sock.close()


def test_client_that_does_not_read_replies_is_cut_off_and_delays_nobody(router):
    sock = hello(router)
    sock.setblocking(False)
    sent = 0
    try:
        while sent < 100_000:
            sock.send(protocol.pack(Type.PING, 1))
            sent += 1
    except (BlockingIOError, BrokenPipeError, ConnectionResetError):
        pass
    wait_until(lambda: serves(router))
    sock.close()


SILENT = {Type.UNCLAIM, Type.STAY, Type.FLOWS}       # told, not asked: the protocol promises no answer


def attached(sock) -> None:
    """Attach by this connection, if there is room."""
    sock.send(protocol.pack(Type.ATTACH, 2, AttachRequest(capabilities=int(Capability.SHARED)).pack()))
    protocol.close_fds(protocol.receive(sock, protocol.MAX_FDS)[1])


@pytest.mark.parametrize("addressing", ["process", "interface"])
def test_random_messages(runtime, caplog, scale, addressing):
    """Valid headers with random bodies, of every type and of two that there are not, and random bytes, with and without
    an attachment: an answer or the end, and the router lives."""
    rng = random.Random(11)
    with Router(ring_capacity=1 << 18, max_attachments=8, addressing=addressing) as router:
        for n in range(scale(2000)):
            sock = hello(router)
            if n % 2:
                attached(sock)
            for _ in range(3):
                kind = rng.randrange(min(Type) - 1, max(Type) + 2)
                message = bytearray(protocol.pack(kind, rng.getrandbits(32), rng.randbytes(496)))
                if rng.random() < 0.2:
                    message[rng.randrange(512)] ^= 1 << rng.randrange(8)
                try:
                    sock.send(message)
                    if int.from_bytes(message[6:8], "little") in SILENT:
                        sock.send(protocol.pack(Type.PING, 1))
                    data, fds = protocol.receive(sock, protocol.MAX_FDS)
                except OSError as error:
                    assert not isinstance(error, TimeoutError), f"no answer to a message of type {kind}"
                    break
                protocol.close_fds(fds)
                if not data:
                    break
            sock.close()
        wait_until(lambda: not router.attachments())
        wait_until(lambda: serves(router))
        assert router.check_conservation() == []
    assert not [record for record in caplog.records if "mistake" in record.getMessage()], caplog.text


@pytest.mark.parametrize(
    "message", [protocol.LIST_REPLY, protocol.ATTACH_REPLY, protocol.ATTACH, protocol.HELLO_REPLY]
)
def test_bodies_fit_a_message(message: struct.Struct):
    assert message.size <= protocol.BODY_BYTES


def test_counters_come_in_as_many_messages_as_they_take(router):
    from netstack.router.client import ControlClient
    from netstack.router.forwarding import counter_names

    with ControlClient(router.name) as control:
        assert list(control.counters()) == counter_names() and len(counter_names()) > protocol.MAX_COUNTERS
    sock = hello(router)
    for first in (len(counter_names()), 10**6, 2**64 - 1):
        sock.send(protocol.pack(Type.COUNTERS, 2, protocol.COUNTERS.pack(0, first)))
        assert not any(protocol.unpack(protocol.receive(sock)[0])[3][16:])
    sock.close()


def test_only_the_owner_can_reach_the_socket(router):
    folder = os.stat(os.path.dirname(router.path))
    assert stat.S_IMODE(folder.st_mode) == 0o700 and stat.S_IMODE(os.stat(router.path).st_mode) == 0o600


def test_who_gets_the_number_of_a_connection_that_ended_is_not_taken_for_it(runtime, monkeypatch):
    """Of what the router finds at one look the first ends a connection, the second is another one, which gets its
    number, and the third is about the one that ended."""
    with Router(ring_capacity=1 << 18) as router, hello(router) as busy, contextlib.ExitStack() as undo:
        hostile = router.attach()
        [number] = [fd for fd, connection in router._control._connections.items() if connection.attachment]
        holds, go_on = threading.Event(), threading.Event()
        monkeypatch.setattr(router._attachments, "list_after", lambda _: holds.set() or (go_on.wait(60) and b""))
        busy.send(protocol.pack(Type.LIST, 2, protocol.LIST.pack(0)))
        assert holds.wait(60)                            # its thread does nothing else until it goes on
        memoryview(hostile.link.channel._regions[1].mapping).cast("Q")[128 // 8] = 1 << 60
        hostile.link.channel.peer_doorbells[1].kick()
        assert select.select([router._forwarder.fileno()], [], [], 60)[0], "it is poisoned"
        late = undo.enter_context(connect(router))
        hostile._control.close()
        while (fd := os.dup(0)) < number:                # the number is the lowest that will be free
            undo.callback(os.close, fd)
        os.close(fd)
        go_on.set()
        assert protocol.unpack(busy.recv(1024))[0] == Type.LIST
        for sock, kind in ((late, Type.HELLO), (busy, Type.PING), (late, Type.PING)):
            sock.send(protocol.pack(kind, 1, bytes(8)))
            assert protocol.unpack(sock.recv(1024))[:3] == (kind, 1, 0)
        assert number in router._control._connections and not router.attachments()
        hostile.close()
