"""Unchanged programs of the standard library on a host that was put under them."""

import http.server
import os
import socket
import threading
import urllib.error
import urllib.request

import pytest

import netstack
from netstack.errors import NetstackError
from netstack.patching import replaced, stale_references

LIMIT = 30.0


@pytest.fixture
def host():
    with netstack.Host(address="10.5.0.1/24", drain=5) as host:
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


def test_a_socket_of_the_stack_refuses_what_only_descriptors_can(host):
    with host.socket() as s:
        for call in (s.dup, s.detach, lambda: s.set_inheritable(True),
                     lambda: netstack.socket.socket(fileno=s.fileno())):
            with pytest.raises(OSError, match="stack"):
                call()
    with pytest.raises(NetstackError, match="no host"):
        netstack.socket.socket()


def test_sendfile_refuses_a_readiness_descriptor(host, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"x" * 100)
    with host.patch(), socket.socket() as s, open(path, "rb") as f:
        with pytest.raises(OSError, match="carries no data"):
            os.sendfile(s.fileno(), f.fileno(), 0, 100)


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
    import sys

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
