"""The uplink that needs no privilege, in a network: a namespace with the router, another one that is the world."""

import errno
import pathlib
import socket
import struct
import threading

import pytest

import netstack
from netstack.router import Router
from tests.router.lan import wait_until
from tests.router.outside import digest_of, echo, tcp_server
from tests.support import network_namespace, root_missing

pytestmark = pytest.mark.root

HERE, THERE, FAR = "198.51.100.1", "198.51.100.2", "203.0.113.5"
IP_RECVERR, MSG_ERRQUEUE = 11, 0x2000


@pytest.fixture
def world(runtime):
    """``(here, there)``: the router's namespace, whose ways all lead to the other one."""
    if reason := root_missing():
        pytest.skip(reason)
    with network_namespace() as here, network_namespace() as there:
        here.run("ip", "link", "add", "out", "type", "veth", "peer", "name", "in", "netns", there.name)
        here.run("ip", "addr", "add", f"{HERE}/24", "dev", "out")
        here.run("ip", "link", "set", "out", "up")
        here.run("ip", "route", "add", "default", "via", THERE)
        here.run("ip", "route", "add", "unreachable", "192.0.2.1")
        here.run("ip", "route", "add", "prohibit", "192.0.2.2")
        there.run("ip", "route", "add", "blackhole", "192.0.2.3")
        there.run("ip", "addr", "add", f"{THERE}/24", "dev", "in")
        there.run("ip", "addr", "add", f"{FAR}/32", "dev", "lo")
        there.run("ip", "link", "set", "in", "up")
        there.run("ip", "route", "add", "203.0.113.0/24", "via", "198.51.100.9")
        with there.enter():
            pathlib.Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        with here.enter():
            pathlib.Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 65535")
            pathlib.Path("/proc/sys/net/ipv4/tcp_syn_retries").write_text("1")
        yield here, there


@pytest.fixture
def net(world):
    """``(there, router, host)``"""
    here, there = world
    with here.enter():
        router = Router(uplinks=[f"user,publish={HERE}:8080:10.77.0.2:80"])
    with router, netstack.attach(router.name) as host:
        host.drain = 1.0
        yield there, router, host


def test_tcp_reaches_the_world_as_the_machine_itself(net):
    there, router, host = net
    seen = []

    def serve(connection):
        seen.append(connection.getpeername()[0])
        echo(connection)

    with there.enter(), tcp_server(serve, FAR) as port:
        with host.create_connection((FAR, port), 20) as s:
            s.sendall(bytes(300_000))
            s.shutdown(socket.SHUT_WR)
            assert digest_of(s)[0] == 300_000
            assert s.getpeername() == (FAR, port)
    assert seen == [HERE]


def test_what_the_kernel_says_of_a_way_the_stack_hears(net):
    _, router, host = net
    with pytest.raises(OSError) as caught:             # prohibited: for good, as on the kernel itself
        host.create_connection(("192.0.2.2", 80), 20)
    assert caught.value.errno == errno.EHOSTUNREACH
    before = host.counters()["icmp_errors_in"]
    with host.socket() as s:                           # unreachable: perhaps not for long (RFC 1122 section 4.2.3.9)
        s.setblocking(False)
        assert s.connect_ex(("192.0.2.1", 80)) == errno.EINPROGRESS
        wait_until(lambda: host.counters()["icmp_errors_in"] > before)
    with host.socket(type=socket.SOCK_DGRAM) as s:
        s.settimeout(20)
        s.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        s.connect(("192.0.2.1", 80))
        s.send(b"x")
        with pytest.raises(OSError) as caught:
            s.recv(1)
        assert caught.value.errno == errno.EHOSTUNREACH
    assert router.relayed()["streams_unreachable"] >= 2      # the SYN may have been sent again meanwhile


def test_silence_stays_silence(net):
    """The kernel gives up after three seconds; the stack hears nothing of it, and asks on by its own clock."""
    _, router, host = net
    with host.socket() as s:
        s.setblocking(False)
        assert s.connect_ex(("192.0.2.3", 80)) == errno.EINPROGRESS
        wait_until(lambda: router.relayed()["streams_timed_out"])
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0 and host.counters()["icmp_errors_in"] == 0
        with pytest.raises(OSError):
            s.getpeername()


def test_udp_is_answered_by_anybody(net):
    """Endpoint-independent filtering: as without a relay, the answer may come from another address and port."""
    there, router, host = net
    with there.enter():
        asked, other = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
    with asked, other, host.socket(type=socket.SOCK_DGRAM) as s:
        asked.bind((THERE, 5000))
        other.bind((FAR, 6000))
        s.settimeout(20)
        s.sendto(b"question", (THERE, 5000))
        data, sender = asked.recvfrom(100)
        assert data == b"question" and sender[0] == HERE
        other.sendto(b"answer", sender)
        assert s.recvfrom(100) == (b"answer", (FAR, 6000))


def test_who_calls_a_published_port_is_seen(net):
    there, router, host = net
    assert router.published == [("tcp", HERE, 8080)]
    with host.create_server(("", 80)) as server:
        server.settimeout(20)
        with there.enter():
            caller = socket.socket()
        with caller:
            caller.bind((FAR, 0))
            caller.settimeout(20)
            caller.connect((HERE, 8080))
            connection, peer = server.accept()
            with connection:
                assert peer == caller.getsockname()
                connection.sendall(b"hello")
                assert caller.recv(5, socket.MSG_WAITALL) == b"hello"


def test_echo_reaches_the_world(net):
    _, router, host = net
    with host.socket(type=socket.SOCK_DGRAM, proto=socket.IPPROTO_ICMP) as s:
        s.settimeout(20)
        for address in (THERE, FAR):
            for n in (0, 56, 1400, 4000):
                s.sendto(b"\x08\0\0\0\0\0\0\x07" + bytes(range(256)) * 16, (address, 0))
                data, sender = s.recvfrom(8192)
                assert sender[0] == address and data[0] == 0 and data[8:] == bytes(range(256)) * 16, n
    assert router.relayed()["datagrams"] == 1          # one identifier


@pytest.mark.parametrize("kind", ["udp", "echo"])
def test_the_way_shows_its_hops(net, kind):
    """The router takes one from the TTL, the relay hands the rest to the kernel; its errors keep their sender."""
    _, router, host = net
    proto = socket.IPPROTO_ICMP if kind == "echo" else 0
    with host.socket(type=socket.SOCK_DGRAM, proto=proto) as s:
        s.settimeout(20)
        s.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 2)
        s.sendto(b"\x08\0\0\0\0\0\0\x07probe", ("203.0.113.99", 33434))

        def look():
            try:
                return s.recvmsg(200, 500, MSG_ERRQUEUE)
            except BlockingIOError:
                return None

        s.setblocking(False)
        _, [(_, _, control)], _, _ = wait_until(look)
    number, origin, type_, code = struct.unpack_from("=IBBB", control)
    assert (origin, type_, code) == (2, 11, 0) and number == errno.EHOSTUNREACH
    assert socket.inet_ntoa(control[20:24]) == THERE
    assert router.relayed()["datagrams_errors"] == 1


def test_many_transfers_at_once_arrive_whole(net, scale):
    there, router, host = net
    n, size = scale(100, 4), 200_000
    results = []

    def one(port):
        with host.create_connection((THERE, port), 60) as s:
            sender = threading.Thread(target=lambda: (s.sendall(bytes(size)), s.shutdown(socket.SHUT_WR)))
            sender.start()
            results.append(digest_of(s)[0])
            sender.join()

    with there.enter(), tcp_server(echo, THERE) as port:
        threads = [threading.Thread(target=one, args=(port,)) for _ in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [size] * n and router.check_conservation() == []
