"""Unchanged programs of the standard library on a host that was put under them."""

import asyncio
import errno
import http.server
import os
import socket
import sys
import threading
import urllib.error
import urllib.request

import pytest

import netstack
from netstack import handle
from netstack.errors import NetstackError
from netstack.patching import StaleReferenceWarning, replaced, stale_references
from tests.places import MODES, host_in, open_sockets

LIMIT = 30.0


@pytest.fixture(params=MODES)
def host(request):
    with host_in(request, request.param, "10.5.0.1/24") as host:
        yield host


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_http_server_and_urllib(host, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(os.urandom(300_000))
    monkeypatch.chdir(tmp_path)
    with host.patch():
        server = http.server.ThreadingHTTPServer(("10.5.0.1", 0), Quiet)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            base = f"http://10.5.0.1:{server.server_port}"
            assert type(server.socket) is netstack.socket.socket
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            for _ in range(3):
                with opener.open(f"{base}/file", timeout=LIMIT) as answer:
                    assert answer.read() == (tmp_path / "file").read_bytes()
            with pytest.raises(urllib.error.HTTPError, match="404"):
                opener.open(f"{base}/missing", timeout=LIMIT)
        finally:
            server.shutdown()
            thread.join(LIMIT)
            server.server_close()
    assert host.counters()["tcp_payload_in"] > 900_000


def test_patch_replaces_what_it_says_and_puts_it_back(host):
    before = {name: getattr(socket, name) for name in dir(socket)}
    sendfile = os.sendfile
    with netstack.patch(host):
        changed = {name for name in before if getattr(socket, name) is not before[name]}
        assert changed == {name for module, name in replaced() if module == "socket"}
        assert ("os", "sendfile") in replaced()
        with socket.socket() as s:
            assert isinstance(s, before["socket"]) and type(s) is socket.socket and s.host is host
    assert {name: getattr(socket, name) for name in before} == before
    assert os.sendfile is sendfile and replaced() == []


def test_patches_nest_and_work_as_decorators(host):
    with netstack.Host(address="10.6.0.1/24") as other:
        with host.patch():
            with other.patch(), socket.socket() as s:
                assert s.host is other
            with socket.socket() as s:
                assert s.host is host

        @netstack.patch(host)
        def program():
            with socket.socket() as s:
                return s.host

        assert program() is host
        assert replaced() == []


def test_kernel_sockets_stay_kernel_sockets(host):
    with host.patch():
        a, b = socket.socketpair()
        with a, b:
            a.sendall(b"through the kernel")
            assert b.recv(100) == b"through the kernel"
            assert a.host is None and a.family == socket.AF_UNIX
            c = socket.socket(fileno=os.dup(a.fileno()))
            c.close()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            assert s.fileno() >= 0
            s.settimeout(1)
            assert s.gettimeout() == s.timeout == 1.0


def test_a_descriptor_s_number_means_its_socket(host):
    """As with a kernel's descriptors: two objects of one number, the end of one is the end of both."""
    s = host.socket()
    s.bind(("127.0.0.1", 0))
    twin = netstack.socket.socket(fileno=s.fileno())
    assert twin.getsockname() == s.getsockname() and twin.fileno() == s.fileno()
    twin.close()
    for call in (s.listen, s.close):
        with pytest.raises(OSError) as failure:
            call()
        assert failure.value.errno == errno.EBADF
    assert s.fileno() == -1


def test_a_descriptor_that_was_detached_can_be_a_socket_again(host):
    for type in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        s = host.socket(type=type)
        s.bind(("127.0.0.1", 0))
        address = s.getsockname()
        fd = s.detach()
        assert fd >= 0 and s.fileno() == -1
        with netstack.socket.socket(fileno=fd) as again:
            assert again.getsockname() == address and again.host is host and again.type == type
        with pytest.raises(OSError):
            os.fstat(fd)
    with host.patch():
        fd = socket.socket().detach()
        socket.close(fd)
        with pytest.raises(OSError):
            os.fstat(fd)


def test_one_of_two_objects_may_give_the_descriptor_to_the_other(host):
    s = host.socket()
    with netstack.socket.socket(fileno=s.fileno()) as other:
        assert s.detach() == other.fileno() and s.fileno() == -1
        other.bind(("127.0.0.1", 0))


def test_socket_close_closes_a_socket_of_the_stack(host):
    with host.patch():
        s = socket.socket()
        s.bind(("127.0.0.1", 0))
        address = s.getsockname()
        socket.close(s.fileno())
        with pytest.raises(OSError):
            s.listen()
        with pytest.raises(OSError):
            s.close()
        with socket.socket() as again:
            again.bind(address)
        with pytest.raises(OSError):
            socket.close(-1)
        a, b = socket.socketpair()
        b.close()
        socket.close(a.detach())


def test_inheritance_is_the_descriptor_s(host):
    with host.socket() as s:
        assert not s.get_inheritable()
        s.set_inheritable(True)
        assert s.get_inheritable() and os.get_inheritable(s.fileno())


def test_a_file_with_the_inode_of_a_socket_is_no_socket(host, tmp_path):
    with host.socket() as s, open(tmp_path / "file", "w") as file:
        handle.readiness_files[os.fstat(file.fileno()).st_ino] = s._handle
        with pytest.raises(OSError) as failure:
            netstack.socket.socket(fileno=file.fileno())
        assert failure.value.errno == errno.ENOTSOCK


def test_a_socket_needs_a_host():
    with pytest.raises(NetstackError, match="no host"):
        netstack.socket.socket()


def test_sendfile_reads_the_file_and_sends_it(host, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(range(256)) * 40)
    address = host.addresses[0].partition("/")[0]
    with host.patch(), socket.create_server((address, 0)) as listener, open(path, "rb") as f:
        with socket.create_connection(listener.getsockname()) as s:
            peer, _ = listener.accept()
            with peer:
                assert os.sendfile(s.fileno(), f.fileno(), 5, 100) == 100
                assert peer.recv(1000) == path.read_bytes()[5:105] and f.tell() == 0
                assert os.sendfile(s, f.fileno(), None, 100) == 100       # a socket will do, and the file's own place
                assert peer.recv(1000) == path.read_bytes()[:100] and os.lseek(f.fileno(), 0, os.SEEK_CUR) == 100
                assert os.sendfile(s.fileno(), f.fileno(), 1 << 20, 100) == 0
                f.seek(0)
                assert s.sendfile(f, 1000, 5000) == 5000 and f.tell() == 6000
                assert peer.recv(5000, socket.MSG_WAITALL) == path.read_bytes()[1000:6000]
                s.setblocking(False)
                with pytest.raises(BlockingIOError):
                    for _ in range(100_000):
                        os.sendfile(s.fileno(), f.fileno(), 0, 10_000)
                reading, writing = os.pipe()
                with pytest.raises(OSError) as e:
                    os.sendfile(s.fileno(), reading, None, 100)
                assert e.value.errno == errno.EINVAL
                os.close(reading), os.close(writing)
        for other in (listener, socket.socket()):
            with other, pytest.raises(OSError) as e:
                os.sendfile(other.fileno(), f.fileno(), 0, 100)
            assert e.value.errno == errno.EPIPE or (other is listener and e.value.errno == errno.EINVAL)


@pytest.mark.parametrize("question", [
    ("10.5.0.1", 80), ("127.0.0.1", None), (b"10.1.2.3", "80"), ("localhost", 80), (None, 80),
    ("10.1", 1),
])
def test_getaddrinfo_answers_as_the_kernel_does(host, question):
    def ask():
        return {entry for entry in socket.getaddrinfo(*question, socket.AF_INET, 0, 0)
                if entry[1] != socket.SOCK_RAW}

    expected = ask()
    with host.patch():
        assert ask() == expected
        assert len(socket.getaddrinfo(*question, type=socket.SOCK_STREAM)) == 1


def test_names(host):
    with host.patch():
        assert socket.gethostbyname("localhost") == "127.0.0.1"
        assert socket.gethostbyname(socket.gethostname()) == "10.5.0.1"
        assert socket.gethostbyname_ex("10.0.0.9") == ("10.0.0.9", [], ["10.0.0.9"])
        assert socket.gethostbyaddr("127.0.0.1")[0] == "localhost"
        assert socket.getnameinfo(("10.0.0.9", 80), 0) == ("10.0.0.9", "http")
        assert socket.getnameinfo(("10.0.0.9", 80), socket.NI_NUMERICSERV)[1] == "80"
        assert socket.getfqdn("10.0.0.9") == "10.0.0.9"
        for call in (lambda: socket.gethostbyname("no-such-name.invalid"),
                     lambda: socket.getaddrinfo("no-such-name.invalid", 80),
                     lambda: socket.getaddrinfo("10.0.0.1", "no-such-service"),
                     lambda: socket.getaddrinfo("localhost", 80, flags=socket.AI_NUMERICHOST),
                     lambda: socket.getaddrinfo("", 80), lambda: socket.getaddrinfo(None, None)):
            with pytest.raises(socket.gaierror):
                call()
    with pytest.raises(ValueError, match="dns"):
        netstack.Host(address="10.0.0.1/24", dns="everywhere")


def test_references_taken_before_the_patch_are_found(host):
    import types

    module = types.ModuleType("took_it_early")
    module.made = socket.socket
    sys.modules["took_it_early"] = module
    try:
        assert ("took_it_early", "made") in stale_references()
    finally:
        del sys.modules["took_it_early"]


def test_a_host_says_what_is_wrong_with_its_settings():
    from netstack.errors import ConfigError
    from netstack.link import channel_pair

    a, b = channel_pair(mtu=1500)
    with pytest.raises(ConfigError, match="at most 1500"):
        netstack.Host(link=a, address="10.0.0.1/24", mtu=9000)
    with pytest.raises(ConfigError):
        netstack.Host(address="10.0.0.1/240")
    a.close()
    b.close()


def test_ssl_keeps_its_base_class_when_the_patch_is_what_loads_it():
    from tests.support import run

    program = """
import sys, socket
plain = socket.socket
import netstack
host = netstack.Host(address="10.5.0.1/24")
assert "ssl" not in sys.modules
with host.patch():
    import ssl
    assert ssl.SSLSocket.__mro__[1] is plain, ssl.SSLSocket.__mro__
"""
    run([sys.executable, "-c", program])


# --- several hosts, and the kernel beside them


@pytest.fixture
def two(host):
    """Two hosts that do not know each other."""
    with netstack.Host(address="10.6.0.1/16", drain=5) as other:
        yield host, other


def serve_once(make, address, answer):
    """A server in a thread that says who it is; its address."""
    listener = make()
    listener.bind((address, 0))
    listener.listen()

    def run():
        with listener:
            s, _ = listener.accept()
            with s:
                s.sendall(answer)

    threading.Thread(target=run, daemon=True).start()
    return listener.getsockname()


def answer_of(address):
    with socket.create_connection(address, timeout=LIMIT) as s:
        return s.recv(100), s.host


def test_sockets_go_to_the_host_that_reaches_the_address(two):
    first, second = two
    a = serve_once(first.socket, "10.5.0.1", b"first")
    b = serve_once(second.socket, "10.6.0.1", b"second")
    with netstack.patch(first, second):
        assert answer_of(a) == (b"first", first)
        assert answer_of(b) == (b"second", second)
        with socket.socket(type=socket.SOCK_DGRAM) as s:       # nobody reaches it: it is the first host's business
            with pytest.raises(OSError, match="unreachable"):
                s.connect(("192.0.2.1", 9))
            assert s.host is first
        for bound, expected in (("10.6.0.1", second), ("10.5.0.1", first), ("", first), ("127.0.0.1", first)):
            with socket.socket() as s:
                s.bind((bound, 0))
                assert s.host is expected
        with socket.socket(type=socket.SOCK_DGRAM) as s:
            s.sendto(b"x", ("10.6.0.1", 9))
            assert s.host is second


def test_the_longest_prefix_counts(host):
    with netstack.Host(address="10.0.0.1/8") as wide:
        with netstack.patch(wide, host), socket.socket(type=socket.SOCK_DGRAM) as near, \
                socket.socket(type=socket.SOCK_DGRAM) as far:
            near.connect(("10.5.0.1", 9))
            far.connect(("10.0.0.1", 9))
            assert near.host is host and far.host is wide


def test_route_auto_leaves_loopback_and_the_rest_to_the_kernel(host):
    plain = socket.socket
    kernels = serve_once(plain, "127.0.0.1", b"kernel")
    ours = serve_once(host.socket, "10.5.0.1", b"ours")
    with netstack.patch(host, route="auto"):
        assert answer_of(kernels) == (b"kernel", None)
        assert answer_of(ours) == (b"ours", host)
        server = socket.create_server(("10.5.0.1", 0))
        assert server.host is host
        server.close()
        with socket.socket() as s:                     # an address that is nobody's: what the kernel says of it
            with pytest.raises(OSError):
                s.bind(("203.0.113.7", 0))
            assert s.host is None
        assert socket.gethostbyname("localhost") == "127.0.0.1"
    with pytest.raises(ValueError, match="route"):
        netstack.patch(host, route="some")
    with pytest.raises(ValueError, match="needs a host"):
        netstack.patch()


def test_options_timeouts_and_the_number_survive_the_choice(host):
    address = serve_once(host.socket, "10.5.0.1", b"ours")
    with netstack.patch(host, route="auto"):
        s = socket.socket()
        s.settimeout(LIMIT)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        number = s.fileno()
        assert s.host is None
        s.connect(address)
        assert s.host is host and s.fileno() == number and s.gettimeout() == LIMIT
        assert s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        import select

        assert select.select([s], [], [], LIMIT)[0] == [s]
        assert s.recv(10) == b"ours"
        s.close()
        with pytest.raises(OSError):
            os.fstat(number)


@pytest.mark.parametrize("ours", [True, False], ids=["own loop", "asyncio's loop"])
def test_asyncio_goes_both_ways_under_auto(host, ours):
    async def echo(reader, writer):
        writer.write(await reader.read(100))
        writer.close()

    async def main():
        for address, owner in (("127.0.0.1", None), ("10.5.0.1", host)):
            server = await asyncio.start_server(echo, address, 0)
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection(address, port)
            writer.write(b"x")
            assert await reader.read() == b"x"
            assert writer.get_extra_info("socket")._sock.host is owner
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

    with netstack.patch(host, route="auto"):
        loop = netstack.aio.new_event_loop() if ours else asyncio.new_event_loop()
        loop.run_until_complete(asyncio.wait_for(main(), LIMIT))
        loop.close()


def test_names_of_other_threads_are_the_hosts_too(host):
    answers = []
    with host.patch():
        thread = threading.Thread(target=lambda: answers.append(socket.gethostbyname(socket.gethostname())))
        thread.start()
        thread.join(LIMIT)
    assert answers == ["10.5.0.1"]


def test_interfaces_are_the_host_s(host):
    with host.patch():
        for number, name in socket.if_nameindex():
            assert socket.if_nametoindex(name) == number and socket.if_indextoname(number) == name
        with pytest.raises(OSError, match="no interface"):
            socket.if_nametoindex("no such")
        with pytest.raises(OSError):
            socket.if_indextoname(99)


def test_a_patch_warns_of_modules_that_came_before_it(host, monkeypatch):
    import types

    module = types.ModuleType("took_it_early")
    module.made = socket.socket
    monkeypatch.setitem(sys.modules, "took_it_early", module)
    with pytest.warns(StaleReferenceWarning, match="took_it_early.made"):
        host.patch().undo()
    with pytest.raises(NetstackError, match="took_it_early.made"):
        host.patch(strict=True)
    assert netstack.patched() == []


# --- dup, detach, export


def connected(host):
    listener = host.create_server(("10.5.0.1", 0))
    client = host.create_connection(listener.getsockname(), timeout=LIMIT)
    server, _ = listener.accept()
    server.settimeout(LIMIT)
    listener.close()
    return client, server


def test_dup_shares_a_connection_until_both_are_closed(host):
    client, server = connected(host)
    twin = client.dup()
    assert type(twin) is type(client) and twin.getsockname() == client.getsockname()
    assert twin.fileno() not in (-1, client.fileno())
    client.sendall(b"1")
    client.close()
    assert client.fileno() == -1
    with pytest.raises(OSError) as failure:
        client.send(b"x")
    assert failure.value.errno == errno.EBADF
    twin.sendall(b"2")
    assert server.recv(1) + server.recv(1) == b"12"
    third = twin.dup()
    twin.close()
    third.close()
    assert server.recv(1) == b""
    with pytest.raises(OSError):
        third.dup()
    server.close()
    assert open_sockets(host) == 0


def test_an_exported_connection_is_one_for_child_processes(host):
    import subprocess

    client, server = connected(host)
    carrier = client.export()
    assert client.fileno() == -1 and carrier.family == socket.AF_UNIX
    program = "import sys; sys.stdout.write(sys.stdin.read().upper())"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=carrier, stdout=carrier)
    carrier.close()
    server.sendall(b"question " * 50_000)
    server.shutdown(socket.SHUT_WR)
    got = bytearray()
    while piece := server.recv(100_000):
        got += piece
    assert got == b"QUESTION " * 50_000 and child.wait(LIMIT) == 0
    server.close()


def test_detach_gives_the_number_that_was_known(host):
    client, server = connected(host)
    number = client.fileno()
    assert client.detach() == number and client.detach() == -1
    os.write(number, b"through the descriptor")
    assert server.recv(100) == b"through the descriptor"
    server.sendall(b"back")
    assert os.read(number, 100) == b"back"
    os.close(number)
    assert server.recv(1) == b""
    server.close()


def test_tls_without_a_patch_runs_over_the_descriptor(host):
    """``context.wrap_socket`` adopts the descriptor, then detaches it: by then it carries data."""
    import ssl

    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("server.test").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    client, server = connected(host)
    wrapped = []
    thread = threading.Thread(target=lambda: wrapped.append(server_side.wrap_socket(server, server_side=True)))
    thread.start()
    with client_side.wrap_socket(client, server_hostname="server.test") as s:
        thread.join(LIMIT)
        s.sendall(b"x")
        assert wrapped[0].recv(1) == b"x"
    wrapped[0].close()
