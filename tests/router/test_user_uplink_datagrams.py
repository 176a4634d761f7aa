"""The uplink that needs no privilege: UDP, names, echo, and published UDP ports. No test here needs root."""

import contextlib
import errno
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import pytest

import netstack
from netstack.router import Router
from tests.router.lan import wait_until
from tests.router.outside import MACHINE, NAMES, data_of, echo, free_port, tcp_server, udp_server
from tests.support import ROOT


@pytest.fixture
def make(runtime):
    """``make(options)``: a router with this uplink, and a host behind it."""
    with contextlib.ExitStack() as stack:

        def one(options=f",loopback={MACHINE}", **more):
            router = stack.enter_context(Router(uplinks=[f"user{options}"]))
            host = stack.enter_context(netstack.attach(router.name, **more))
            host.drain = 1.0
            return router, host

        yield one


def udp(host, *, to=None):
    s = host.socket(type=socket.SOCK_DGRAM)
    s.settimeout(20)
    if to is not None:
        s.connect(to)
    return s


def same(data, sender):
    return data


@pytest.mark.parametrize("mtu", [None, 1500])
def test_datagrams_of_every_size_come_back(make, mtu):
    """With a small mtu they leave the stack in pieces, and come back in pieces."""
    router, host = make(mtu=mtu)
    sizes = [0, 1, 3, 1400, 1472, 1473, 9000, 65507]
    with udp_server(same) as port, udp(host) as s:
        for n in sizes:
            data, _ = data_of(n, n)
            for _ in range(2 if mtu else 1):           # the first that does not fit tells the relay how much does
                s.sendto(data, (MACHINE, port))
                s.settimeout(2 if mtu else 20)
                with contextlib.suppress(TimeoutError):
                    got, sender = s.recvfrom(65535)
                    break
            assert got == data and sender == (MACHINE, port)
    counts = router.relayed()
    assert counts["datagrams_out"] >= len(sizes) and counts["datagrams_flows"] == 1


def test_one_port_is_one_port_whoever_it_talks_to(make):
    """Endpoint-independent mapping (RFC 4787 section 4.1): both servers see the same port."""
    router, host = make()
    seen = []

    def note(data, sender):
        seen.append(sender)
        return data

    with udp_server(note) as one, udp_server(note) as two, udp(host) as s:
        for port in (one, two, one):
            s.sendto(b"x", (MACHINE, port))
            assert s.recvfrom(10) == (b"x", (MACHINE, port))
    assert len(set(seen)) == 1 and len(seen) == 3
    assert router.relayed()["datagrams"] == 1


def test_nobody_there_is_an_error_to_who_is_connected(make):
    router, host = make()
    with udp(host, to=(MACHINE, free_port(socket.SOCK_DGRAM))) as s:
        s.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            s.recv(1)
    assert router.relayed()["datagrams_errors"] == 1


def test_what_is_not_served_is_an_error(make):
    router, host = make("")
    for address, code in (("169.254.169.254", errno.EHOSTUNREACH), (NAMES, errno.ECONNREFUSED)):
        with udp(host, to=(address, 99)) as s:
            s.send(b"x")
            with pytest.raises(OSError) as caught:
                s.recv(1)
            assert caught.value.errno == code
    assert router.relayed()["datagrams_denied"] == 2 and router.relayed()["datagrams"] == 0


def test_the_port_used_least_recently_makes_room(make):
    router, host = make(f",loopback={MACHINE},flows=32")          # 16 for UDP, 8 of one address
    with udp_server(same) as port, contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(udp(host, to=(MACHINE, port))) for _ in range(9)]

        def talk(s):
            s.send(b"x")
            assert s.recv(10) == b"x"

        for s in sockets[:8]:
            talk(s)
        talk(sockets[0])                               # used again: the second is the oldest now
        talk(sockets[8])
        counts = router.relayed()
        assert (counts["datagrams"], counts["flows_evicted"], counts["datagrams_flows"]) == (8, 1, 9)
        talk(sockets[0])
        assert router.relayed()["datagrams_flows"] == 9
        talk(sockets[1])                               # gets another port of the kernel's, and goes on
        assert router.relayed()["datagrams_flows"] == 10


def test_an_idle_port_ends(make):
    router, host = make(f",loopback={MACHINE},idle=0.2")
    with udp_server(same) as port, udp(host, to=(MACHINE, port)) as s:
        s.settimeout(2)

        def echoed():
            """An answer that takes longer than the port lives finds it gone: ask again."""
            s.send(b"x")
            with contextlib.suppress(TimeoutError):
                return s.recv(10) == b"x"

        for n in (1, 2):
            wait_until(echoed)
            wait_until(lambda: router.relayed()["datagrams"] == 0)
            assert router.relayed()["flows_idle"] >= n


def test_a_stack_that_goes_takes_its_ports_along(make):
    router, host = make()
    with udp_server(same) as port:
        with netstack.attach(router.name) as other, udp(other) as s, udp(host) as mine:
            for each in (s, mine):
                each.sendto(b"x", (MACHINE, port))
                each.recv(1)
            assert router.relayed()["datagrams"] == 2
        wait_until(lambda: router.relayed()["datagrams"] == 1)


# ---- names


def answers(address):
    """A name server that knows one name."""
    import dns.message
    import dns.rrset

    def answer(data, sender):
        query = dns.message.from_wire(data)
        response = dns.message.make_response(query)
        if query.question[0].rdtype == 1:
            response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", address))
        return response.to_wire()

    return answer


def test_names_are_those_of_the_machine(make):
    pytest.importorskip("dns")
    with udp_server(answers("192.0.2.9")) as port:
        router, host = make(f",dns=127.0.0.1:{port}")
        assert host.getaddrinfo("www.example.net", 80, socket.AF_INET, socket.SOCK_STREAM) == [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.9", 80))]
        with udp(host, to=(NAMES, 53)) as s:           # as any program may, that has its own resolver
            import dns.message

            s.send(dns.message.make_query("other.example.net", "A").to_wire())
            assert dns.message.from_wire(s.recv(512)).answer[0][0].address == "192.0.2.9"


def test_names_over_tcp(make):
    pytest.importorskip("dns")
    answer = answers("192.0.2.10")

    def serve(connection):
        size = int.from_bytes(connection.recv(2, socket.MSG_WAITALL), "big")
        data = answer(connection.recv(size, socket.MSG_WAITALL), None)
        connection.sendall(len(data).to_bytes(2, "big") + data)

    with tcp_server(serve) as port:
        _, host = make(f",dns=127.0.0.1:{port}")
        host.resolver.stub.settings._config = netstack.ResolverConfig(tcp=True)
        assert host.gethostbyname("www.example.net") == "192.0.2.10"


def test_a_name_server_that_refuses_hands_over_to_the_next(make):
    pytest.importorskip("dns")
    with udp_server(answers("192.0.2.9")) as port:
        _, host = make(f",dns=127.0.0.1:{free_port(socket.SOCK_DGRAM)},dns=127.0.0.1:{port}")
        host.resolver.stub.settings._config = netstack.ResolverConfig(timeout=0.5, attempts=3)
        assert host.gethostbyname("www.example.net") == "192.0.2.9"


def test_names_come_from_resolv_conf_as_it_is_now(make, tmp_path):
    from netstack.config import ResolverConfig
    from netstack.resolver.resolv_conf import SettingsSource

    router, host = make()
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 192.0.2.1\n")
    uplink = router._user
    uplink._names = SettingsSource(ResolverConfig(), str(file), loopback=True)
    heard = []
    uplink._relay, relay = type("Ears", (), {
        "__getattr__": lambda self, name: getattr(relay, name),
        "set_servers": lambda self, servers: (heard.append(servers), relay.set_servers(servers))[1]})(), uplink._relay
    with udp(host, to=(NAMES, 53)) as s:
        s.send(b"x")
        wait_until(lambda: heard)
        assert heard[-1] == [("192.0.2.1", 53)]
        file.write_text("nameserver 127.0.0.53\n")
        s.close()
    with udp(host, to=(NAMES, 53)) as s:
        s.send(b"x")
        wait_until(lambda: heard[-1] == [("127.0.0.53", 53)])


def test_without_name_servers_names_are_refused(make):
    _, host = make(",dns=off")
    with udp(host, to=(NAMES, 53)) as s:
        s.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            s.recv(1)


# ---- published ports


def test_a_published_port_of_udp_is_the_stacks(make):
    router, host = make(",publish=udp:127.0.0.1:0:10.77.0.2:53")
    [(kind, _, port)] = router.published
    assert kind == "udp"
    with udp(host) as server, contextlib.ExitStack() as stack:
        server.bind(("", 53))
        clients = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(3)]
        for i, client in enumerate(clients):
            client.settimeout(20)
            client.connect(("127.0.0.1", port))
            client.send(b"%d" % i)
        for _ in clients:
            data, sender = server.recvfrom(10)
            assert sender[0] == NAMES
            server.sendto(b"answer " + data, sender)
        for i, client in enumerate(clients):
            assert client.recv(20) == b"answer %d" % i
        stranger = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        stranger.bind(("127.0.0.1", 0))
        server.sendto(b"unasked", (NAMES, stranger.getsockname()[1]))     # who has not called is out of reach
        wait_until(lambda: router.relayed()["datagrams_denied"] == 1)
        stranger.settimeout(0)
        with pytest.raises(BlockingIOError):
            stranger.recv(10)


# ---- echo


def may_ping() -> bool:
    low, high = map(int, pathlib.Path("/proc/sys/net/ipv4/ping_group_range").read_text().split())
    return any(low <= group <= high for group in (os.getegid(), *os.getgroups()))


def test_echo_goes_through_where_the_kernel_allows_it(make):
    router, host = make()
    with host.socket(type=socket.SOCK_DGRAM, proto=socket.IPPROTO_ICMP) as s:
        s.settimeout(20)
        request = b"\x08\0\0\0\0\0\0\x07" + b"payload"
        s.sendto(request, (MACHINE, 0))
        if may_ping():
            data, sender = s.recvfrom(100)
            assert sender[0] == MACHINE and data[0] == 0 and data[6:] == request[6:]
            assert (router.relayed()["echoes_out"], router.relayed()["echoes_in"]) == (1, 1)
        else:
            wait_until(lambda: router.relayed()["echoes_forbidden"] == 1)


def test_the_names_address_answers_echo_itself(make):
    _, host = make("")
    with host.socket(type=socket.SOCK_DGRAM, proto=socket.IPPROTO_ICMP) as s:
        s.settimeout(20)
        s.sendto(b"\x08\0\0\0\0\0\0\x07hello", (NAMES, 0))
        assert s.recvfrom(100)[1][0] == NAMES


# ---- IPv6, and another user


@pytest.mark.parametrize("mtu", [None, 1280])
def test_datagrams_of_ipv6_come_in_pieces_too(runtime, mtu):
    router = Router("fd77::/64", uplinks=["user,loopback=fd77::1"])
    with router, netstack.attach(router.name, mtu=mtu) as host:
        host.drain = 1.0
        with udp_server(same, "::1") as port, host.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            s.settimeout(2 if mtu else 20)
            for n in (0, 1200, 1233, 9000):
                data, _ = data_of(n, n)
                got = None
                for _ in range(2 if mtu else 1):
                    s.sendto(data, ("fd77::1", port))
                    with contextlib.suppress(TimeoutError):
                        got = s.recv(65535)
                        break
                assert got == data


def test_each_pool_has_its_address_for_names(runtime):
    pytest.importorskip("dns")
    with udp_server(answers("192.0.2.9")) as port:
        pools = ["10.77.0.0/16", "10.88.0.0/24", "fd77::/64"]
        with Router(pools, uplinks=[f"user,dns=127.0.0.1:{port}"]) as router:
            for address in ("10.77.0.9", "10.88.0.9", "fd77::9"):
                with netstack.attach(router.name, address) as host:
                    host.drain = 1.0
                    assert host.gethostbyname("www.example.net") == "192.0.2.9"


def test_a_pool_of_ipv6_goes_the_same_way(runtime):
    with Router("fd77::/64", uplinks=["user,loopback=fd77::1"]) as router, netstack.attach(router.name) as host:
        host.drain = 1.0
        with tcp_server(echo, "::1") as port:
            with host.socket(socket.AF_INET6) as s:
                s.settimeout(20)
                s.connect(("fd77::1", port))
                s.sendall(b"six")
                assert s.recv(3, socket.MSG_WAITALL) == b"six"
            with host.socket(socket.AF_INET6) as s, pytest.raises(ConnectionRefusedError):
                s.settimeout(20)
                s.connect(("fd77::1", free_port()))
        with udp_server(same, "::1") as port, host.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            s.settimeout(20)
            s.sendto(b"sixth", ("fd77::1", port))
            data, sender = s.recvfrom(10)
            assert (data, sender[0]) == (b"sixth", "fd77::1")


POWERLESS = """
import socket
import netstack
from netstack.router import Router
from tests.router.outside import echo, tcp_server, udp_server
with Router(uplinks=["user,loopback=10.77.0.1"]) as router, netstack.attach(router.name) as host:
    host.drain = 1.0
    with tcp_server(echo) as port, host.create_connection(("10.77.0.1", port), 20) as s:
        s.sendall(b"tcp")
        print(s.recv(3, socket.MSG_WAITALL).decode())
    with udp_server(lambda data, sender: data) as port, host.socket(type=socket.SOCK_DGRAM) as s:
        s.settimeout(20)
        s.sendto(b"udp", ("10.77.0.1", port))
        print(s.recv(3).decode())
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")][0])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run without privilege already")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
def test_it_needs_no_privilege(runtime):
    done = subprocess.run(["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", sys.executable, "-c",
                           POWERLESS], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.stdout.split() == ["tcp", "udp", "0" * 16], done.stderr
