"""TCP sockets behave as the standard library's: one test, three networks, the kernel's first."""

import errno
import io
import socket
import struct
import threading

import pytest

from tests.socket.conftest import LIMIT


def refused_port(net) -> int:
    """A port on which nothing listens."""
    s = net.server_socket()
    s.bind((net.server_address, 0))
    port = s.getsockname()[1]
    s.close()
    return port


def reads_all(s) -> bytes:
    out = b""
    while part := s.recv(1 << 16):
        out += part
    return out


# --- connecting -----------------------------------------------------------------------------------------


def test_both_ends_know_their_names(net, listener):
    client = net.client_socket()
    client.settimeout(LIMIT)
    client.connect(listener.getsockname())
    server, address = listener.accept()
    net.opened += [client, server]
    assert address == client.getsockname() == server.getpeername()
    assert client.getpeername() == server.getsockname() == listener.getsockname()
    assert address[0] == net.client_address
    assert server.gettimeout() is None and server.getblocking()
    assert (server.family, server.type) == (socket.AF_INET, socket.SOCK_STREAM)


def test_connect_to_a_port_without_listener_is_refused(net):
    s = net.client_socket()
    net.opened.append(s)
    s.settimeout(LIMIT)
    with pytest.raises(ConnectionRefusedError) as caught:
        s.connect((net.server_address, refused_port(net)))
    assert caught.value.errno == errno.ECONNREFUSED
    again = net.client_socket()
    net.opened.append(again)
    assert again.connect_ex((net.server_address, refused_port(net))) == errno.ECONNREFUSED


def test_connecting_twice_says_so(net, listener):
    client = net.client_socket()
    net.opened.append(client)
    client.connect(listener.getsockname())
    with pytest.raises(OSError) as caught:
        client.connect(listener.getsockname())
    assert caught.value.errno == errno.EISCONN
    assert client.connect_ex(listener.getsockname()) == errno.EISCONN


def test_a_nonblocking_connect_reports_through_so_error(net, listener):
    client = net.client_socket()
    net.opened.append(client)
    client.setblocking(False)
    try:
        client.connect(listener.getsockname())
    except BlockingIOError as e:
        assert e.errno == errno.EINPROGRESS
    server, _ = listener.accept()
    net.opened.append(server)
    client.settimeout(LIMIT)
    server.sendall(b"!")
    assert client.recv(1) == b"!"
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_without_a_connection_most_calls_fail(net):
    s = net.client_socket()
    net.opened.append(s)
    for call in (s.getpeername, lambda: s.recv(1), lambda: s.shutdown(socket.SHUT_RDWR)):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.ENOTCONN
    with pytest.raises(BrokenPipeError) as caught:
        s.send(b"x")
    assert caught.value.errno == errno.EPIPE


def test_a_bound_port_is_taken(net, listener):
    s = net.server_socket()
    net.opened.append(s)
    with pytest.raises(OSError) as caught:
        s.bind(listener.getsockname())
    assert caught.value.errno == errno.EADDRINUSE


def test_an_address_of_somebody_else_cannot_be_bound(net):
    s = net.server_socket()
    net.opened.append(s)
    with pytest.raises(OSError) as caught:
        s.bind(("203.0.113.7", 0))
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_binding_to_port_zero_picks_one(net):
    s = net.server_socket()
    net.opened.append(s)
    assert s.getsockname() == ("0.0.0.0", 0)
    s.bind(("", 0))
    host, port = s.getsockname()
    assert host == "0.0.0.0" and port > 0


def test_accept_times_out_and_does_not_block_when_told(listener):
    listener.settimeout(0.01)
    with pytest.raises(TimeoutError, match="timed out"):
        listener.accept()
    listener.setblocking(False)
    with pytest.raises(BlockingIOError) as caught:
        listener.accept()
    assert caught.value.errno == errno.EAGAIN


@pytest.mark.parametrize("address, error", [
    ("10.0.0.1:80", TypeError), (("10.0.0.1",), TypeError), (("10.0.0.1", 80, 0), TypeError),
    (("10.0.0.1", 70000), OverflowError), (("10.0.0.1", -1), OverflowError), ((1, 80), TypeError),
    (("10.0.0.1", "80"), TypeError),
])
def test_addresses_that_are_none(net, address, error):
    s = net.client_socket()
    net.opened.append(s)
    with pytest.raises(error):
        s.connect(address)


def test_an_unknown_name_is_an_address_error(net):
    s = net.client_socket()
    net.opened.append(s)
    with pytest.raises(socket.gaierror):
        s.connect(("no-such-name.invalid", 80))


# --- data -----------------------------------------------------------------------------------------------


def test_bytes_arrive_in_order(pair):
    client, server = pair
    client.sendall(b"one")
    client.send(bytearray(b"two"))
    client.send(memoryview(b"three"))
    client.shutdown(socket.SHUT_WR)
    assert reads_all(server) == b"onetwothree"


def test_everything_that_can_be_received_into(pair):
    client, server = pair
    client.sendall(b"0123456789" * 3)
    buffer = bytearray(20)
    assert server.recv_into(buffer, 5) == 5 and buffer[:6] == b"01234\0"
    assert server.recv_into(memoryview(buffer)[5:10]) == 5 and buffer[:10] == b"0123456789"
    assert server.recvfrom(3) == (b"012", None)
    assert server.recvfrom_into(buffer, 3) == (3, None)
    data, ancillary, flags, address = server.recvmsg(4)
    assert (data, ancillary, address) == (b"6789", [], None)
    two = [bytearray(4), bytearray(4)]
    assert server.recvmsg_into(two)[0] == 8 and two == [b"0123", b"4567"]
    assert server.recv(0) == b""
    assert server.recv(100) == b"89"


def test_misuse_of_buffers(pair):
    client, server = pair
    with pytest.raises(ValueError):
        server.recv(-1)
    with pytest.raises(ValueError):
        server.recv_into(bytearray(4), 5)
    with pytest.raises(ValueError):
        server.recv_into(bytearray(4), -1)
    with pytest.raises((TypeError, BufferError)):
        server.recv_into(b"constant")
    with pytest.raises(TypeError):
        client.send("text")
    with pytest.raises(TypeError):
        client.sendall(None)


def test_peeking_leaves_the_bytes(pair):
    client, server = pair
    client.sendall(b"abcdef")
    assert server.recv(3, socket.MSG_PEEK) == b"abc"
    buffer = bytearray(4)
    assert server.recv_into(buffer, 0, socket.MSG_PEEK) == 4 and buffer == b"abcd"
    assert server.recv(6, socket.MSG_WAITALL) == b"abcdef"


def test_waitall_waits_for_all(pair):
    client, server = pair
    server.settimeout(None)

    def send():
        for i in range(10):
            client.sendall(bytes([i]) * 1000)

    thread = threading.Thread(target=send)
    thread.start()
    assert server.recv(10_000, socket.MSG_WAITALL) == b"".join(bytes([i]) * 1000 for i in range(10))
    thread.join()


def test_waitall_with_a_timeout_takes_what_is_there(pair):
    """A socket with a timeout is non-blocking underneath: the flag has nothing to wait for."""
    client, server = pair
    client.sendall(b"abc")
    assert server.recv(3, socket.MSG_PEEK) == b"abc"
    assert server.recv(10, socket.MSG_WAITALL) == b"abc"


def test_gathered_buffers_are_one_stream(pair):
    client, server = pair
    parts = [b"head", bytearray(b"er:"), memoryview(b"body"), b"", bytes(100_000)]
    sent = client.sendmsg(parts)
    assert sent == sum(map(len, parts))
    client.shutdown(socket.SHUT_WR)
    assert reads_all(server) == b"".join(parts)


def test_a_blocking_send_takes_everything(pair):
    client, server = pair
    client.settimeout(None)
    got = []
    reader = threading.Thread(target=lambda: got.append(reads_all(server)))
    reader.start()
    data = bytes(range(256)) * (40 << 10)
    assert client.send(data) == len(data)
    client.shutdown(socket.SHUT_WR)
    reader.join(LIMIT)
    assert got == [data]


def test_a_full_buffer_takes_part_then_blocks_then_times_out(pair):
    client, _ = pair
    client.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError) as caught:
        while sent < 1 << 30:
            n = client.send(bytes(1 << 20))
            assert 0 < n <= 1 << 20
            sent += n
    assert caught.value.errno == errno.EAGAIN
    client.settimeout(0.05)
    with pytest.raises(TimeoutError, match="timed out"):
        while sent < 1 << 30:
            sent += client.send(bytes(1 << 20))
    with pytest.raises(TimeoutError):
        client.sendall(bytes(16 << 20))


def test_receiving_times_out_and_does_not_block_when_told(pair):
    _, server = pair
    server.settimeout(0.01)
    for call in (lambda: server.recv(1), lambda: server.recv_into(bytearray(1 << 17)),
                 lambda: server.recvfrom(1)):
        with pytest.raises(TimeoutError, match="timed out"):
            call()
    server.settimeout(0)
    for call in (lambda: server.recv(1), lambda: server.recv_into(bytearray(1 << 17))):
        with pytest.raises(BlockingIOError) as caught:
            call()
        assert caught.value.errno == errno.EAGAIN
    server.settimeout(None)
    with pytest.raises(BlockingIOError):
        server.recv(1, socket.MSG_DONTWAIT)


def test_makefile_reads_lines_and_writes(pair):
    client, server = pair
    with client.makefile("rwb") as f, server.makefile("r", encoding="utf-8", newline="\n") as g:
        f.write("größer\nzweite\n".encode())
        f.flush()
        assert g.readline() == "größer\n"
        assert g.readline() == "zweite\n"
        client.close()
        f.write(b"still open\n")
        f.flush()
        assert g.readline() == "still open\n"
    assert client.fileno() == -1
    server.settimeout(LIMIT)
    assert server.recv(1) == b""


def test_sendfile_falls_back_to_sending(pair, tmp_path):
    client, server = pair
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1000)
    with open(path, "rb") as f:
        thread = threading.Thread(target=lambda: (client.sendfile(f, offset=100), client.shutdown(1)))
        thread.start()
        assert reads_all(server) == path.read_bytes()[100:]
        thread.join()


# --- ending ---------------------------------------------------------------------------------------------


def test_half_close_leaves_the_other_direction(pair):
    client, server = pair
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert reads_all(server) == b"question"
    server.sendall(b"answer")
    server.close()
    assert reads_all(client) == b"answer"
    with pytest.raises(BrokenPipeError):
        client.send(b"x")


def test_shutdown_of_reading_ends_reading(pair):
    client, server = pair
    server.shutdown(socket.SHUT_RD)
    assert server.recv(10) == b""
    server.sendall(b"still writes")
    assert client.recv(100) == b"still writes"


def test_closing_with_unread_data_resets(pair):
    client, server = pair
    client.sendall(b"nobody reads this")
    assert server.recv(6) == b"nobody"
    server.close()
    with pytest.raises(ConnectionResetError) as caught:
        client.recv(1)
    assert caught.value.errno == errno.ECONNRESET
    with pytest.raises(BrokenPipeError):
        client.send(b"x")


def closing(sock):
    """Close in a thread: the thread, and the event that says it is done."""
    done = threading.Event()

    def close():
        sock.close()
        done.set()

    thread = threading.Thread(target=close)
    thread.start()
    return thread, done


def fill(sock, *, seconds):
    """SO_LINGER, and as much as both buffers take; how many bytes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))
    sock.settimeout(0.3)
    total = 0
    with pytest.raises(TimeoutError):       # for as long as that: the peer has taken what it can, too
        while True:
            total += sock.send(bytes(65536))
    sock.settimeout(None)
    return total


def test_close_lingers_until_the_peer_has_everything(pair):
    client, server = pair
    total = fill(client, seconds=20)
    thread, done = closing(client)
    assert not done.wait(0.2)               # the peer's buffer is full: it cannot have everything
    assert len(reads_all(server)) == total
    thread.join(LIMIT)
    assert done.is_set()


def test_close_lingers_no_longer_than_it_was_told_and_nothing_is_lost(pair):
    client, server = pair
    total = fill(client, seconds=1)
    thread, done = closing(client)
    assert done.wait(LIMIT)
    thread.join()
    assert len(reads_all(server)) == total


def test_a_linger_of_zero_resets(pair):
    client, server = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    with pytest.raises(ConnectionResetError):
        server.recv(1)


def test_writing_to_a_closed_peer_ends_in_a_broken_pipe(pair):
    client, server = pair
    server.close()
    assert client.recv(1) == b""
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(10_000):
            client.send(bytes(1000))
    with pytest.raises(BrokenPipeError):
        client.send(b"x")


def test_a_closed_socket_is_bad(pair):
    client, _ = pair
    client.close()
    client.close()
    assert client.fileno() == -1
    for call in (lambda: client.recv(1), lambda: client.send(b"x"), client.getsockname,
                 lambda: client.recv_into(bytearray(1)), lambda: client.sendall(b"x"),
                 lambda: client.setsockopt(1, 2, 1), lambda: client.getsockopt(1, 2), lambda: client.listen(),
                 lambda: client.connect(("127.0.0.1", 1)), lambda: client.bind(("127.0.0.1", 0)),
                 lambda: client.shutdown(2), client.accept):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EBADF


def test_the_context_manager_closes(net):
    with net.client_socket() as s:
        assert s.gettimeout() is None
    assert s.fileno() == -1
    with pytest.warns(ResourceWarning, match="unclosed"):
        s = net.client_socket()
        del s


def test_a_method_in_use_keeps_a_socket_open(net, listener):
    def connected():
        s = net.client_socket()
        s.connect(listener.getsockname())
        return s

    receive = connected().recv
    server, _ = listener.accept()
    net.opened.append(server)
    server.sendall(b"here")
    assert receive(4) == b"here"
    with pytest.warns(ResourceWarning):
        del receive


# --- settings -------------------------------------------------------------------------------------------


def test_timeouts(net):
    s = net.client_socket()
    net.opened.append(s)
    assert s.gettimeout() is None and s.timeout is None and s.getblocking() is True
    s.settimeout(2)
    assert s.gettimeout() == 2.0 and s.timeout == 2.0 and s.getblocking() is True
    s.settimeout(0.0)
    assert s.gettimeout() == 0.0 and s.getblocking() is False
    s.setblocking(True)
    assert s.gettimeout() is None
    for wrong, error in ((-1, ValueError), ("1", TypeError), (float("nan"), ValueError)):
        with pytest.raises(error):
            s.settimeout(wrong)


def test_the_default_timeout_is_taken_over(net):
    socket.setdefaulttimeout(3.5)
    try:
        with net.client_socket() as s:
            assert s.gettimeout() == 3.5
    finally:
        socket.setdefaulttimeout(None)


@pytest.mark.parametrize("level, option, default", [
    (socket.SOL_SOCKET, socket.SO_TYPE, socket.SOCK_STREAM),
    (socket.SOL_SOCKET, socket.SO_ERROR, 0),
    (socket.SOL_SOCKET, socket.SO_REUSEADDR, 0),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0),
    (socket.SOL_SOCKET, socket.SO_ACCEPTCONN, 0),
    (socket.SOL_SOCKET, socket.SO_DOMAIN, socket.AF_INET),
    (socket.SOL_SOCKET, socket.SO_PROTOCOL, socket.IPPROTO_TCP),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 0),
    (socket.IPPROTO_TCP, socket.TCP_CORK, 0),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 7200),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 75),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 9),
    (socket.IPPROTO_IP, socket.IP_TTL, 64),
])
def test_options_have_the_kernels_defaults(net, level, option, default):
    s = net.client_socket()
    net.opened.append(s)
    assert s.getsockopt(level, option) == default
    assert s.getsockopt(level, option, 4) == struct.pack("i", default)


@pytest.mark.parametrize("level, option, value", [
    (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_IP, socket.IP_TTL, 33),
])
def test_options_can_be_set(net, level, option, value):
    s = net.client_socket()
    net.opened.append(s)
    s.setsockopt(level, option, value)
    assert s.getsockopt(level, option) == value
    s.setsockopt(level, option, struct.pack("i", value))
    assert s.getsockopt(level, option) == value


def test_options_that_do_not_exist(net):
    s = net.client_socket()
    net.opened.append(s)
    with pytest.raises(OSError) as caught:
        s.getsockopt(socket.SOL_SOCKET, 9999)
    assert caught.value.errno == errno.ENOPROTOOPT
    with pytest.raises(OSError) as caught:
        s.setsockopt(socket.IPPROTO_TCP, 9999, 1)
    assert caught.value.errno == errno.ENOPROTOOPT
    with pytest.raises(TypeError):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, None)


def test_it_is_a_socket(pair):
    client, _ = pair
    assert isinstance(client, socket.socket)
    assert isinstance(client.makefile("rb"), io.BufferedReader)
    assert "raddr=" in repr(client)
    assert client.get_inheritable() is False
