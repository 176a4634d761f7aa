"""``netstack proxy``: kernel programs speak SOCKS5 to it, and meet servers that only the stack reaches."""

import random
import re
import shutil
import signal
import socket
import subprocess
import threading
from contextlib import contextmanager

import pytest

from netstack.socks import IPV4, RESET, Malformed, Refusal, read_address, write_address
from tests.cli.conftest import NETSTACK, SERVER, netstack_command, run
from tests.support import scale

LIMIT = 60


@contextmanager
def proxy(*argv, **options):
    """The command; gives ``(address, port)`` to connect to."""
    process = subprocess.Popen([*NETSTACK, "proxy", "--socks", "127.0.0.1:0", "--dns", SERVER, *argv],
                               stdout=subprocess.PIPE, text=True, **options)
    try:
        line = process.stdout.readline()
        found = re.fullmatch(r"SOCKS5 on (127\.0\.0\.1):(\d+), through 10\.88\.\d+\.\d+\n", line)
        assert found, line
        yield found[1], int(found[2])
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
        process.stdout.close()


@pytest.fixture
def echo(servers):
    """A port of the server that sends everything back, and its end too."""
    listener = servers.host.create_server((SERVER, 0))

    def carry(s):
        with s:
            while data := s.recv(65536):
                s.sendall(data)

    def serve():
        while True:
            try:
                s, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=carry, args=(s,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def greet(where, methods=b"\0"):
    s = socket.create_connection(where, LIMIT)
    s.sendall(bytes([5, len(methods)]) + methods)
    return s, s.recv(2)


def ask(s, command, kind_address_port):
    s.sendall(bytes([5, command, 0]) + kind_address_port)
    answer = s.recv(300)
    assert answer[0] == 5 and answer[2] == 0
    return answer[1], answer[3:]


def name(text, port):
    return bytes([3, len(text)]) + text.encode() + port.to_bytes(2, "big")


def test_connections_by_address_and_by_name(servers, echo):
    data = random.Random(1).randbytes(1 << 20)
    with proxy() as where:
        for target in (write_address((SERVER, echo)), name("server.example", echo)):
            s, method = greet(where)
            with s:
                assert method == b"\5\0"
                reply, bound = ask(s, 1, target)
                assert reply == 0 and bound[0] == IPV4 and read_address(bound)[0].startswith("10.88.")
                threading.Thread(target=lambda s=s: (s.sendall(data), s.shutdown(socket.SHUT_WR)), daemon=True).start()
                got = b""
                while more := s.recv(1 << 16):
                    got += more
                assert got == data


def test_a_reset_goes_through(servers):
    with servers.host.create_server((SERVER, 0)) as listener, proxy() as where:
        listener.settimeout(LIMIT)
        for mine in (False, True):
            s, _ = greet(where)
            with s:
                assert ask(s, 1, write_address(listener.getsockname()))[0] == 0
                peer, _ = listener.accept()
                peer.settimeout(LIMIT)
                s.sendall(b"x")
                assert peer.recv(10) == b"x"
                one, other = (s, peer) if mine else (peer, s)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                one.close()
                with pytest.raises(ConnectionResetError):
                    other.recv(10)
                peer.close()


@pytest.mark.parametrize(("command", "target", "reply"), [
    (1, write_address((SERVER, 1)), 5),                           # refused
    (1, name("no-such-name.example", 80), 4),                     # host unreachable
    (2, write_address((SERVER, 80)), 7),                          # BIND
    (9, write_address((SERVER, 80)), 7),
    (1, b"\7\0\0\0", 8),                                          # no such type of address
])
def test_what_does_not_work_is_answered(servers, command, target, reply):
    with proxy() as where:
        s, _ = greet(where)
        with s:
            assert ask(s, command, target)[0] == reply
            assert s.recv(1) == b""


def test_a_user_must_be_the_right_one(servers, echo):
    with proxy("--user", "me:secret") as where:
        s, method = greet(where)
        with s:
            assert method == b"\5\xff" and s.recv(1) == b""
        for password, status in ((b"secret", 0), (b"wrong", 1), (b"", 1)):
            s, method = greet(where, b"\0\2")
            with s:
                assert method == b"\5\2"
                s.sendall(b"\1\2me" + bytes([len(password)]) + password)
                assert s.recv(2) == bytes([1, status])
                if status:
                    assert s.recv(1) == b""
                else:
                    assert ask(s, 1, write_address((SERVER, echo)))[0] == 0


def test_datagrams(servers):
    with servers.host.socket(type=socket.SOCK_DGRAM) as server, proxy() as where, \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        server.settimeout(LIMIT)
        client.settimeout(LIMIT)
        server.bind((SERVER, 5000))
        client.bind(("127.0.0.1", 0))
        s, _ = greet(where)
        with s:
            reply, bound = ask(s, 3, write_address(client.getsockname()))
            assert reply == 0
            relay = read_address(bound)[:2]
            for target in (write_address((SERVER, 5000)), name("server.example", 5000)):
                client.sendto(b"\0\0\1" + target + b"a piece", relay)          # FRAG: dropped
                client.sendto(b"\0\0\0" + target + b"hello", relay)
                data, peer = server.recvfrom(100)
                assert data == b"hello"
                server.sendto(b"world", peer)
                data, _ = client.recvfrom(100)
                assert data == b"\0\0\0" + write_address((SERVER, 5000)) + b"world"
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:     # somebody else's port
                other.sendto(b"\0\0\0" + write_address((SERVER, 5000)) + b"not mine", relay)
                client.sendto(b"\0\0\0" + write_address((SERVER, 5000)) + b"mine", relay)
                assert server.recv(100) == b"mine"


def test_broken_requests_end_their_connection_and_nothing_else(servers, echo):
    rng = random.Random(1928)
    good = b"\5\1\0" + bytes([5, 1, 0]) + write_address((SERVER, echo))
    with proxy() as where:
        for _ in range(scale(300)):
            data = bytearray(good if rng.random() < 0.7 else rng.randbytes(rng.randrange(1, 40)))
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            with socket.create_connection(where, LIMIT) as s:
                s.sendall(bytes(data[:rng.randrange(1, len(data) + 1)]))
                s.shutdown(socket.SHUT_WR)
                try:
                    while s.recv(4096):
                        pass
                except ConnectionResetError:
                    pass
        s, _ = greet(where)
        with s:
            assert ask(s, 1, write_address((SERVER, echo)))[0] == 0


def test_every_address_field_is_read_within_its_bounds():
    whole = name("server.example", 80)
    for n in range(1, len(whole)):
        with pytest.raises(Malformed):
            read_address(whole[:n])
    assert read_address(whole + b"behind") == ("server.example", 80, len(whole))
    for kind in set(range(256)) - {1, 3, 4}:
        with pytest.raises(Refusal):
            read_address(bytes([kind]) + bytes(300))
    for bad in (b"", bytes([3, 0, 0, 80]), b"\3\1\xff\0\x50"):
        with pytest.raises((Malformed, Refusal)):
            read_address(bad)
    for address in (("192.0.2.1", 1), ("2001:db8::1", 65535)):
        assert read_address(write_address(address)) == (*address, len(write_address(address)))


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl(servers, tmp_path):
    import http.server

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"through the stack")

        def log_message(self, *args):
            pass

    with servers.host.patch(), http.server.ThreadingHTTPServer((SERVER, 0), Page) as web:
        threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
        try:
            with proxy("--user", "me:secret") as (address, port):
                done = run(["curl", "-sS", "--max-time", str(LIMIT), "--socks5-hostname", f"me:secret@{address}:{port}",
                            f"http://server.example:{web.server_port}/"])
                assert done.stdout == "through the stack"
        finally:
            web.shutdown()


def test_who_may_use_it_must_be_said_where_others_reach_it(runtime):
    done = netstack_command("proxy", "--socks", "0.0.0.0:1080")
    assert done.returncode == 2 and "--user" in done.stderr
    for bad in ("1080", "127.0.0.1", "name:1080", "127.0.0.1:99999"):
        assert "ADDRESS:PORT" in netstack_command("proxy", "--socks", bad).stderr
    assert "NAME:PASSWORD" in netstack_command("proxy", "--user", "me").stderr


def test_no_router_is_one_line(runtime):
    done = netstack_command("proxy", "--socks", "127.0.0.1:0")
    assert done.returncode == 2 and done.stderr.startswith("Error: ") and len(done.stderr.splitlines()) == 1
