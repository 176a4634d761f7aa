"""TLS over a stack's sockets: the standard library's SSLSocket, each test also over the kernel's sockets."""

import contextlib
import errno
import http.client
import http.server
import os
import select
import socket
import ssl
import sys
import threading

import pytest

import netstack
from tests.socket.conftest import LIMIT
from tests.socket.like_kernel import without

trustme = pytest.importorskip("trustme")
KERNELS_CLIENT = "kernel", "kernel to hybrid"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def contexts(authority):
    """(client's, server's); the server's name is server.test."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("server.test", "10.0.0.2", "127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    server.set_alpn_protocols(["h2", "http/1.1"])
    client.set_alpn_protocols(["http/1.1"])
    return client, server


@pytest.fixture(autouse=True)
def tls(net):
    """What wraps: with nothing patched the module's function for the stack, the context's method for the kernel."""
    def wrap(context, sock, **options):
        if isinstance(sock, netstack.socket.socket):
            return netstack.tls.wrap_socket(context, sock, **options)
        return context.wrap_socket(sock, **options)
    net.wrap = wrap


@contextlib.contextmanager
def running(function, *args):
    """A thread beside the block; what it raised is raised here."""
    failed = []

    def run():
        try:
            function(*args)
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(LIMIT)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


@pytest.fixture
def secure(net, pair, contexts):
    """A pair of TLS sockets, shaken hands."""
    plain_client, plain_server = pair
    out = []
    with running(lambda: out.append(net.wrap(contexts[1], plain_server, server_side=True))):
        client = net.wrap(contexts[0], plain_client, server_hostname="server.test")
    net.opened += [client, *out]
    return client, out[0]


def test_both_ends_agree_and_tell(secure):
    client, server = secure
    assert isinstance(client, ssl.SSLSocket) and isinstance(server, socket.socket)
    assert client.version() == server.version() == "TLSv1.3"
    assert client.cipher() == server.cipher()
    assert client.selected_alpn_protocol() == server.selected_alpn_protocol() == "http/1.1"
    assert ("DNS", "server.test") in client.getpeercert()["subjectAltName"]
    assert client.getpeercert(binary_form=True).startswith(b"0\x82")
    assert client.get_channel_binding("tls-unique") is not None
    assert client.getpeername() == server.getsockname()
    assert client.gettimeout() == LIMIT and not client.server_side and server.server_side
    client.sendall(b"question")
    assert server.recv(100) == b"question"
    server.sendall(b"answer")
    space = bytearray(100)
    assert client.recv_into(space) == 6 and space[:6] == b"answer"


def test_the_socket_given_away_is_closed(net, pair, contexts):
    client, server = pair
    wrapped = net.wrap(contexts[0], client, server_hostname="server.test", do_handshake_on_connect=False)
    net.opened.append(wrapped)
    assert client.fileno() == -1
    for call in (lambda: client.recv(1), lambda: client.send(b"x"), client.getsockname):
        with pytest.raises(OSError) as failure:
            call()
        assert failure.value.errno == errno.EBADF
    assert wrapped.getsockname() == server.getpeername()


@without(*(KERNELS_CLIENT if sys.version_info < (3, 13) else ()))      # which leaves it to the collector
def test_a_name_that_is_none_leaves_no_socket_open(net, pair, contexts):
    """Who gave his socket away cannot close it (CPython does it since 3.13)."""
    client, server = pair
    with pytest.raises(UnicodeError) as failure:           # it holds on to what was under way
        net.wrap(contexts[0], client, server_hostname=".example")
    assert client.fileno() == -1 and server.recv(1) == b"" and failure.tb


def test_much_data_both_ways_at_once(secure):
    client, server = secure
    size = 3_000_000
    there, back = os.urandom(size), os.urandom(size)

    def receive(sock, expected):
        got = bytearray()
        while len(got) < size:
            got += sock.recv(100_000)
        assert got == expected

    with running(receive, client, back), running(receive, server, there), running(server.sendall, back):
        client.sendall(there)


def test_select_shows_every_record_that_waits(secure):
    client, server = secure
    for _ in range(3):
        server.sendall(b"x" * 1000)
    got = 0
    while got < 3000:
        if not client.pending():
            assert select.select([client], [], [], LIMIT)[0]
        got += len(client.recv(300))
    assert got == 3000


def test_a_timeout_is_of_one_call(secure):
    client, server = secure
    client.settimeout(0.02)
    with pytest.raises(TimeoutError, match="read operation timed out"):
        client.recv(1)
    with pytest.raises(TimeoutError, match="write operation timed out"):
        for _ in range(1000):
            client.sendall(bytes(1 << 20))
    client.settimeout(LIMIT)
    server.settimeout(LIMIT)


def test_a_handshake_times_out(net, pair, contexts):
    client, _ = pair
    client.settimeout(0.02)
    with pytest.raises(TimeoutError, match="handshake operation timed out"):
        net.wrap(contexts[0], client, server_hostname="server.test")


def test_nonblocking_ends_say_what_they_wait_for(net, pair, contexts):
    plain_client, plain_server = pair
    client = net.wrap(contexts[0], plain_client, server_hostname="server.test", do_handshake_on_connect=False)
    server = net.wrap(contexts[1], plain_server, server_side=True, do_handshake_on_connect=False)
    net.opened += [client, server]
    client.setblocking(False)
    server.setblocking(False)
    waiting = {client: client.do_handshake, server: server.do_handshake}
    wants = dict.fromkeys(waiting, "r")
    while waiting:
        for sock, call in list(waiting.items()):
            try:
                call()
                del waiting[sock]
            except ssl.SSLWantReadError:
                wants[sock] = "r"
            except ssl.SSLWantWriteError:
                wants[sock] = "w"
        readers = [s for s in waiting if wants[s] == "r"]
        if len(readers) == len(waiting) and readers:
            assert select.select(readers, [], [], LIMIT)[0]
    with pytest.raises(ssl.SSLWantReadError):
        client.recv(1)
    # Fill it until it wants to write; the repeated write completes and nothing is lost or doubled.
    blocks = (bytes([i % 251]) * 20_000 for i in range(100_000))
    sent = bytearray()
    block = next(blocks)
    while True:
        try:
            n = client.send(block)
        except ssl.SSLWantWriteError:
            break
        sent += block[:n]
        block = block[n:] or next(blocks)
    got = bytearray()
    stuck = True
    while stuck or len(got) < len(sent):
        with contextlib.suppress(ssl.SSLWantReadError):
            got += server.recv(1 << 16)
            continue
        if stuck:
            with contextlib.suppress(ssl.SSLWantWriteError):
                sent += block[:client.send(block)]
                stuck = False
                continue
        assert select.select([server], [client] if stuck else [], [], LIMIT) != ([], [], [])
    assert got == sent


def test_unwrap_gives_a_plain_connection(secure):
    client, server = secure
    out = []
    with running(lambda: out.append(server.unwrap())):
        plain = client.unwrap()
    plain.sendall(b"in the clear")
    assert out[0].recv(100) == b"in the clear"
    with pytest.raises(ValueError, match="No SSL wrapper"):
        client.unwrap()


def test_an_end_without_goodbye_is_an_error_unless_it_is_suppressed(net, pair, contexts):
    plain_client, plain_server = pair
    out = []
    with running(lambda: out.append(net.wrap(contexts[1], plain_server, server_side=True, suppress_ragged_eofs=False))):
        client = net.wrap(contexts[0], plain_client, server_hostname="server.test")
    out[0].sendall(b"x")
    assert client.recv(1) == b"x"              # and the tickets: a close with unread data is a reset
    client.close()
    with out[0] as server, pytest.raises(ssl.SSLEOFError):
        server.recv(10)


def test_suppressed_it_is_the_end_of_the_stream(secure):
    client, server = secure
    server.sendall(b"x")
    assert client.recv(1) == b"x"
    client.close()
    assert server.recv(10) == b""


@without(*KERNELS_CLIENT)                              # the kernel resets such a connection
def test_tickets_that_nobody_read_are_no_reason_for_a_reset(secure):
    client, server = secure                            # TLS 1.3: the server has sent its tickets by now; a daemon
    assert select.select([client], [], [], LIMIT)[0]   # passes them on when it comes to it
    client.close()
    assert server.recv(10) == b""                      # else a ConnectionResetError


def test_a_close_behind_the_peer_s_goodbye_returns(secure):
    client, server = secure
    server.settimeout(0.05)
    with pytest.raises(TimeoutError):
        server.unwrap()                                # says goodbye, and waits for ours
    client.close()


@without(*KERNELS_CLIENT, "hybrid to kernel")          # whose OpenSSL words it in its own way
def test_application_data_that_nobody_read_is_one(secure):
    client, server = secure
    server.sendall(bytes(100_000))
    client.close()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        for _ in range(1000):
            server.sendall(bytes(1000))


def test_a_certificate_of_another_name_is_refused_and_the_server_told(net, pair, contexts):
    client, server = pair

    def serve():
        with pytest.raises(ssl.SSLError, match="(?i)alert"):
            with net.wrap(contexts[1], server, server_side=True) as s:
                s.recv(1)

    with running(serve), pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        net.wrap(contexts[0], client, server_hostname="other.test")


def test_plain_text_is_no_handshake(net, pair, contexts):
    client, server = pair
    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(ssl.SSLError, match="(?i)http.request"):
        net.wrap(contexts[1], server, server_side=True)


def test_what_makes_no_sense_is_refused(net, pair, contexts):
    client, _ = pair
    with pytest.raises(ValueError, match="check_hostname"):
        net.wrap(contexts[0], client)
    with pytest.raises(ValueError, match="client mode"):
        net.wrap(contexts[1], client, server_side=True, server_hostname="x")
    datagrams = net.client_socket(socket.SOCK_DGRAM)
    net.opened.append(datagrams)
    with pytest.raises(NotImplementedError, match="stream"):
        net.wrap(contexts[0], datagrams, server_hostname="x")
    client.setblocking(False)
    with pytest.raises(ValueError, match="non-blocking"):
        net.wrap(contexts[0], client, server_hostname="server.test")


def test_connect_and_accept_of_wrapped_sockets(net, contexts):
    listener = net.wrap(contexts[1], net.server_socket(), server_side=True)
    client = net.wrap(contexts[0], net.client_socket(), server_hostname="server.test")
    net.opened += [listener, client]
    listener.bind((net.server_address, 0))
    listener.listen()
    listener.settimeout(LIMIT)
    client.settimeout(LIMIT)

    def serve():
        server, address = listener.accept()
        with server:
            server.settimeout(LIMIT)
            assert address == server.getpeername()
            with server.makefile("rwb") as f:
                f.write(f.readline().upper())

    with running(serve):
        client.connect(listener.getsockname())
        client.sendall(b"line\n")
        assert client.makefile("rb").readline() == b"LINE\n"
    with pytest.raises(ValueError, match="already-connected"):
        client.connect(listener.getsockname())


def test_a_session_is_resumed(net, contexts, listener):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    session = None
    for turn in range(2):
        plain = net.client_socket()
        plain.settimeout(LIMIT)
        plain.connect(listener.getsockname())
        accepted, _ = listener.accept()
        accepted.settimeout(LIMIT)
        out = []
        with running(lambda s=accepted, o=out: o.append(net.wrap(contexts[1], s, server_side=True))):
            client = net.wrap(context, plain, session=session)
        assert client.session_reused is (turn == 1)
        session = client.session
        client.close()
        out[0].close()


def test_post_handshake_authentication(net, pair, authority):
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("server.test").configure_cert(server_side)
    authority.configure_trust(server_side)
    server_side.post_handshake_auth = True
    server_side.verify_mode = ssl.CERT_REQUIRED
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    authority.issue_cert("me.test").configure_cert(client_side)
    client_side.post_handshake_auth = True
    plain_client, plain_server = pair
    seen = []

    def serve():
        with net.wrap(server_side, plain_server, server_side=True) as s:
            s.recv(1)
            seen.append(s.getpeercert())
            s.verify_client_post_handshake()
            s.sendall(b"2")
            s.recv(1)
            seen.append(s.getpeercert())

    with running(serve):
        with net.wrap(client_side, plain_client, server_hostname="server.test") as client:
            client.sendall(b"1")
            assert client.recv(1) == b"2"
            client.sendall(b"3")
    assert not seen[0] and ("DNS", "me.test") in seen[1]["subjectAltName"]


@without(*KERNELS_CLIENT)                              # a kernel's socket goes on waiting
def test_closing_breaks_off_a_reader(secure):
    client, server = secure
    begun = threading.Event()

    def read():
        begun.set()
        with pytest.raises((OSError, ValueError)):
            client.recv(1)

    with running(read):
        begun.wait(LIMIT)
        client.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass


def test_http_server_and_client_with_tls_unchanged(contexts, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(os.urandom(400_000))
    monkeypatch.chdir(tmp_path)
    before = ssl.SSLContext.sslsocket_class
    with netstack.Host(address="10.0.0.2/24", drain=5) as host, host.patch():
        server = http.server.ThreadingHTTPServer(("10.0.0.2", 0), Quiet)
        server.socket = contexts[1].wrap_socket(server.socket, server_side=True)
        assert type(server.socket) is netstack.tls.SSLSocket
        with running(server.serve_forever, 0.05):
            client = http.client.HTTPSConnection("10.0.0.2", server.server_port, context=contexts[0], timeout=LIMIT)
            for _ in range(3):
                client.request("GET", "/file")
                assert client.getresponse().read() == (tmp_path / "file").read_bytes()
            client.close()
            server.shutdown()
        server.server_close()
        assert host.counters()["tcp_payload_in"] > 1_200_000
    assert ssl.SSLContext.sslsocket_class is before


def test_kernel_sockets_keep_the_standard_library_s_class_while_patched(contexts):
    with netstack.Host(address="10.0.0.2/24") as host, host.patch():
        a, b = socket.socketpair()
        with a, b:
            a.settimeout(LIMIT)
            b.settimeout(LIMIT)
            out = []
            with running(lambda: out.append(contexts[1].wrap_socket(a, server_side=True))):
                client = contexts[0].wrap_socket(b, server_hostname="server.test")
            with client, out[0] as server:
                assert type(client) is type(server) is ssl.SSLSocket
                client.sendall(b"x")
                assert server.recv(1) == b"x"
