"""Names of a host with both versions of IP: servers over IPv6, the order of addresses, Happy Eyeballs, HTTP by name."""

import http.server
import os
import socket
import threading
import urllib.request

import pytest

import netstack
from netstack import connecting
from tests.router.lan import wait_until
from tests.socket.name_server import world

LIMIT = 30.0
BOTH = {"addresses": ("10.9.0.1/24", "2001:db8:9::1/64"),
        "serving": ("10.9.0.53/24", "10.9.0.80/24", "2001:db8:9::53/64", "2001:db8:9::80/64")}
SERVER = "2001:db8:9::53"
ZONE = """
www.example. 300 A 10.9.0.80
www.example. 300 AAAA 2001:db8:9::80
dead6.example. 300 A 10.9.0.80
dead6.example. 300 AAAA 2001:db8:9::dead
private.example. 300 A 10.9.0.80
private.example. 300 AAAA fd00::80
four.example. 300 A 10.9.0.80
six.example. 300 AAAA 2001:db8:9::80
0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.9.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 300 PTR www.example.
"""


@pytest.fixture
def net():
    with world(SERVER, **BOTH) as made:
        made.server = made.serve(ZONE, SERVER)
        with made.serving.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True) as made.listener:
            made.listener.settimeout(LIMIT)
            yield made


def test_a_server_is_asked_over_ipv6_and_ipv6_addresses_come_first(net):
    assert net.addresses("www.example") == ["2001:db8:9::80", "10.9.0.80"]
    assert net.resolver.gethostbyaddr("2001:db8:9::80")[0] == "www.example"
    assert net.resolver.getnameinfo(("2001:db8:9::80", 80, 0, 0), 0) == ("www.example", "http")


def test_the_order_is_that_of_rfc_6724_with_the_hosts_own_sources(net):
    assert net.addresses("private.example") == ["10.9.0.80", "fd00::80"], "another label than the source's"


def test_a_truncated_answer_over_ipv6(net):
    def cut(query, response, transport):
        if transport == "UDP":
            response.flags |= 0x0200
            response.answer = []
        return response

    net.server.change = cut
    assert net.addresses("six.example", socket.AF_INET6) == ["2001:db8:9::80"]
    assert [transport for _, _, transport in net.server.asked] == ["UDP", "TCP"]


@pytest.mark.parametrize("name, peer", [
    ("www.example", "2001:db8:9::80"), ("dead6.example", "10.9.0.80"), ("four.example", "10.9.0.80"),
    ("six.example", "2001:db8:9::80"), ("2001:db8:9::80", "2001:db8:9::80")])
def test_the_first_address_that_answers_is_connected(net, name, peer, monkeypatch):
    monkeypatch.setattr(connecting, "RESOLUTION_DELAY_S", LIMIT)       # what is late here is the machine
    if name != "dead6.example":
        monkeypatch.setattr(connecting, "ATTEMPT_DELAY_S", LIMIT)
    with net.host.create_connection((name, 80), timeout=LIMIT) as s:
        assert s.getpeername()[:2] == (peer, 80)
        server, _ = net.listener.accept()
        server.close()
    assert [info for info in net.host.stack.sockets() if info.state == "SYN_SENT"] == [], "the loser is closed"


def test_an_answer_for_ipv6_that_never_comes_is_not_waited_for():
    with world(SERVER, timeout=30.0, **BOTH) as net:
        server = net.serve(ZONE, SERVER, lambda query, response, transport: (
            None if query.question[0].rdtype == 28 else response))
        with net.serving.create_server(("10.9.0.80", 80)), net.host.create_connection(("www.example", 80), LIMIT) as s:
            assert s.getpeername() == ("10.9.0.80", 80)
        wait_until(lambda: len(server.asked) > 1)          # it may hear of the other question later
        assert [rdtype for _, rdtype, _ in server.asked].count("AAAA") == 1, "and the first question still waits"


def test_an_answer_for_ipv6_that_comes_late_takes_its_turn():
    """IPv4 comes first and nobody answers there; IPv6 comes when its attempt runs."""
    zone = "late.example. 60 A 10.9.0.99\nlate.example. 60 AAAA 2001:db8:9::80\n"
    with world(SERVER, timeout=30.0, **BOTH) as net:
        tried = threading.Event()

        def late(query, response, transport):
            if query.question[0].rdtype == 28:
                tried.wait(LIMIT)
            return response

        net.serve(zone, SERVER, late)
        original = net.host.socket

        def watched(family, kind, *rest):
            if kind == socket.SOCK_STREAM:
                tried.set()
            return original(family, kind, *rest)

        net.host.socket = watched
        with net.serving.create_server((("2001:db8:9::80"), 80), family=socket.AF_INET6), \
                net.host.create_connection(("late.example", 80), LIMIT) as s:
            assert s.getpeername()[0] == "2001:db8:9::80"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class DualStack(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    seen: list[str] = []

    def process_request(self, request, client_address):
        self.seen.append(client_address[0])
        super().process_request(request, client_address)


def test_http_on_a_dual_stack_server_by_name_over_both_versions(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(os.urandom(100_000))
    monkeypatch.chdir(tmp_path)
    DualStack.seen = []
    with world(SERVER, **BOTH) as net:
        net.serve(ZONE, SERVER)
        with net.serving.patch():
            server = DualStack(("::", 8080), Quiet)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            with net.host.patch():
                opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                for name in ("six.example", "four.example", "www.example", "[2001:db8:9::80]"):
                    with opener.open(f"http://{name}:8080/file", timeout=LIMIT) as answer:
                        assert answer.read() == (tmp_path / "file").read_bytes()
        finally:
            server.shutdown()
            thread.join(LIMIT)
            server.server_close()
    assert DualStack.seen == ["2001:db8:9::1", "::ffff:10.9.0.1", "2001:db8:9::1", "2001:db8:9::1"]


def test_literals_with_zones_name_interfaces_of_the_host():
    with netstack.Host(address="2001:db8::1/64") as host:
        for zone, number in (("if1", 1), ("lo", 2), ("7", 7)):
            assert host.getaddrinfo(f"fe80::1%{zone}", 80, type=socket.SOCK_STREAM)[0][4] == ("fe80::1", 80, 0, number)
        with pytest.raises(socket.gaierror):
            host.getaddrinfo("fe80::1%eth9", 80)
        assert [a[0] for *_, a in host.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)] == ["::1", "127.0.0.1"]
        passive = host.getaddrinfo(None, 80, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        assert [a[0] for *_, a in passive] == ["0.0.0.0", "::"]
