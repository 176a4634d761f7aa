"""Routers behind routers: a block of the outer one is the pool of the inner one, which is one route to all others."""

import contextlib
import ipaddress
import signal
import socket
import subprocess
import sys

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Raw

import netstack
from netstack.errors import ConfigError, NoRouterError, RouterError
from netstack.router import Router
from netstack.router.protocol import ProtocolError
from rings.errors import RingClosed
from tests.faults.routers import Nursery
from tests.router.lan import answers, parsed, put, take, wait_until
from tests.support import ROOT

LIMIT = 60
POOLS = ("10.77.0.0/16", "fd77::/48")


@pytest.fixture
def outer(runtime, backend):
    with Router(POOLS, "outer", backend=backend, ring_capacity=1 << 18) as router:
        yield router
        assert router.check_conservation() == []


@contextlib.contextmanager
def inner(options=",block=/26,block=/64", **more):
    with Router(uplinks=[f"router:outer{options}"], ring_capacity=1 << 18, **more) as router:
        yield router
        assert router.check_conservation() == []


def talk(a, b, version):
    """A connection from one host to another, with an echo."""
    there = next(x for x in b.addresses if (":" in x) == (version == 6)).partition("/")[0]
    here = next(x for x in a.addresses if (":" in x) == (version == 6)).partition("/")[0]
    with b.create_server((there, 80), family=socket.AF_INET6 if version == 6 else socket.AF_INET) as listener, \
            a.create_connection((there, 80), LIMIT) as client:
        listener.settimeout(LIMIT)
        server, peer = listener.accept()
        with server:
            assert peer[0] == here
            server.settimeout(LIMIT)
            client.sendall(b"x" * 100_000)
            got = b""
            while len(got) < 100_000:
                got += server.recv(65536)
            assert got == b"x" * 100_000


def blocks_of(router):
    return [route for route in router.routes() if route.kind == "stack"]


@pytest.mark.parametrize("version", [4, 6])
def test_stacks_of_a_tree_of_routers_reach_each_other(outer, version):
    with inner() as one, inner() as two, netstack.attach(outer.name) as top:
        first = outer.attachments()[0].id
        assert one.pools == [str(route.network) for route in blocks_of(outer) if route.attachment == first]
        with netstack.attach(one.name) as a, netstack.attach(two.name) as b:
            for pair in ((a, b), (b, a), (a, top), (top, b)):
                talk(*pair, version)


def test_a_router_is_one_route_however_many_stacks_are_behind_it(outer):
    with inner() as one, contextlib.ExitStack() as stack:
        before = blocks_of(outer)
        stacks = [stack.enter_context(one.attach()) for _ in range(20)]
        assert blocks_of(outer) == before and len(before) == 2 and len(outer.attachments()) == 1
        assert all(ipaddress.ip_address(s.address) in before[0].network for s in stacks)


def test_each_router_is_a_hop_and_answers_for_itself(outer):
    with inner() as one, one.attach() as a, outer.attach() as top:
        def ask(ttl):
            assert put(a.link.channel, IP(src=a.address, dst=top.address, ttl=ttl) / UDP(dport=9) / Raw(b"x"))
            a.link.channel.flush()

        for ttl, router in ((1, one.address), (2, outer.address)):
            ask(ttl)
            error = parsed(wait_until(lambda: take(a.link.channel)))
            assert (error.src, error[ICMP].type) == (router, 11)
        ask(64)
        assert parsed(wait_until(lambda: take(top.link.channel))).ttl == 62


def test_the_outer_routers_bell_is_heard_however_often_it_rings(outer):
    """In sealed memory it is a socket, which must not fill up: the inner router sleeps before each packet."""
    with inner(spin_us=0) as one, one.attach() as a, outer.attach() as top:
        packet = IP(src=top.address, dst=a.address) / UDP(dport=9) / Raw(b"x")
        for _ in range(1500):
            assert put(top.link.channel, packet)
            top.link.channel.flush()
            wait_until(lambda: take(a.link.channel))
        port = one.uplinks()["outer"]
        assert one.counters(port)["wakes"] > 500


@pytest.mark.parametrize("error", [ProtocolError("nonsense"), RingClosed("nonsense")])
def test_a_parent_that_says_nonsense_is_no_parent(runtime, monkeypatch, error):
    def attach(*_, **options):
        raise error

    monkeypatch.setattr("netstack.router.parent.attach", attach)
    with pytest.raises(RouterError, match="router 'outer': nonsense"):
        Router(uplinks=["router:outer,block=26"])


def test_neither_side_speaks_for_the_other(outer):
    with inner() as one, one.attach() as a, outer.attach() as top:
        def send(stack, **names):
            assert put(stack.link.channel, IP(**names) / UDP(dport=9) / Raw(b"x"))
            stack.link.channel.flush()

        send(a, src=top.address, dst=top.address)
        wait_until(lambda: one.counters(a.id)["drop_in_spoofed"] == 1)
        send(top, src=a.address, dst=a.address)
        wait_until(lambda: outer.counters(top.id)["drop_in_spoofed"] == 1)
        send(top, src=top.address, dst=a.address)
        assert parsed(wait_until(lambda: take(a.link.channel))).src == top.address


def test_what_is_gone_in_an_inner_router_is_refused_there(outer):
    with inner() as one, outer.attach() as top:
        with one.attach() as a:
            where = a.address
        assert put(top.link.channel, IP(src=top.address, dst=where) / TCP(sport=1, dport=2, flags="S"))
        top.link.channel.flush()
        assert parsed(wait_until(lambda: take(top.link.channel)))[TCP].flags == "RA"
    assert [route.lost for route in blocks_of(outer)] == [True, True], "closed, and its blocks given back"


def test_f2_the_outer_router_is_killed_and_connections_of_the_inner_one_go_on(runtime, backend):
    with Nursery(name="outer", pool=POOLS, backend=backend, ring_capacity=1 << 18) as nursery, inner() as one, \
            netstack.attach(one.name, drain=1) as a, netstack.attach(one.name, drain=1) as b, \
            netstack.attach(nursery.name, drain=1) as top:
        pools = one.pools
        there = top.addresses[0].partition("/")[0]
        with top.create_server((there, 80)) as listener:
            client = a.create_connection((there, 80), LIMIT)
            server, _ = listener.accept()
        with client, server:
            server.settimeout(LIMIT)
            for _ in range(2):
                nursery.end()
                wait_until(lambda: one.uplinks() == {"outer": None}, LIMIT)
                talk(a, b, 4)                                            # at home nothing happened
                client.sendall(b"hello")
                nursery.start()
                assert server.recv(10) == b"hello"
                assert one.uplinks()["outer"] and one.pools == pools
                assert one._parent._lease.token == one._parent._token, "by token, not when the hold was over"
        assert one.check_conservation() == []


def test_without_its_parent_a_router_says_that_there_is_no_way(runtime):
    with Router(POOLS, "outer") as outer, inner() as one, one.attach() as a:
        outer.close()
        wait_until(lambda: one.uplinks() == {"outer": None}, LIMIT)
        assert put(a.link.channel, IP(src=a.address, dst="10.77.0.1") / UDP(dport=9))
        a.link.channel.flush()
        error = parsed(wait_until(lambda: take(a.link.channel)))
        assert (error[ICMP].type, error[ICMP].code) == (3, 0)


def test_a_pool_inside_the_block_and_one_outside(outer):
    with inner(",block=10.77.4.0/24", pool=["10.77.4.0/26", "10.77.4.128/25"]) as one:
        assert one.pools == ["10.77.4.0/26", "10.77.4.128/25"]
    with pytest.raises(ConfigError, match="is not in the block of router outer, 10.77.4.0/24: leave the pool out"), \
            inner(",block=10.77.4.0/24", pool="10.78.0.0/24"):
        pass
    assert outer.attachments() == [], "nothing is left of it"


@pytest.mark.parametrize("text, why", [
    ("router:outer", "router:NAME,block"), ("router:,block=26", "router:NAME,block"),
    ("router:outer,block=x", "length"),
    ("router:outer,block=10.77.4.1/26", "host bits"), ("router:outer,address=10.0.0.1/8", "unknown option"),
    ("router:outer" + ",block=26" * 5, "at most 4"), ("router:outer,block=26,loss=2", "loss"),
])
def test_what_is_no_router_uplink(outer, text, why):
    with pytest.raises(ConfigError, match=why):
        Router(uplinks=[text])


def test_errors_say_what_to_do(outer):
    with pytest.raises(NoRouterError, match="no router named 'other' is running"):
        Router(uplinks=["router:other,block=26"])
    with pytest.raises(RouterError, match="larger pool"):
        Router(uplinks=["router:outer,block=/8"])
    with pytest.raises(ConfigError, match="behind one other router"):
        Router(uplinks=["router:outer,block=26", "router:other,block=26"])
    with pytest.raises(ConfigError, match="larger|room|pool"):
        Router("10.77.4.0/31", uplinks=["router:outer,block=10.77.4.0/26"])
    with inner() as one, pytest.raises(RouterError, match="another router, which routes by itself"):
        one.add_route("198.51.100.0/24,via=192.0.2.1,dev=outer")
    wait_until(lambda: outer.attachments() == [])


def test_a_bad_link_to_the_outer_router(outer):
    with inner(",block=/26,delay=1ms,seed=1") as one, netstack.attach(one.name) as a, \
            netstack.attach(outer.name) as top:
        talk(a, top, 4)


def test_programs_behind_a_router_of_the_command_line(runtime):
    """Both are confined; the inner one's program reaches the outer one's."""
    def started(*argv):
        return subprocess.Popen([sys.executable, "-m", "netstack", "router", *argv], cwd=ROOT, stderr=subprocess.PIPE,
                                text=True)

    with contextlib.ExitStack() as stack:
        for name, options in (("outer", ["--pool", POOLS[0]]), ("inner", ["--uplink", "router:outer,block=/26"])):
            process = stack.enter_context(started("--name", name, *options))
            stack.callback(process.send_signal, signal.SIGTERM)
            wait_until(lambda process=process, name=name: answers(name) or process.poll() is not None, LIMIT)
            assert process.poll() is None, process.stderr.read()
        with netstack.attach("outer") as top, top.create_server((top.addresses[0].partition("/")[0], 80)) as listener:
            listener.settimeout(LIMIT)
            where = listener.getsockname()
            program = f"import socket; s = socket.create_connection({where!r}); s.sendall(b'x')"
            client = subprocess.Popen([sys.executable, "-m", "netstack", "run", "--name", "inner", "--", "-c", program],
                                      cwd=ROOT)
            server, peer = listener.accept()
            with server:
                server.settimeout(LIMIT)
                assert server.recv(1) == b"x" and ipaddress.ip_address(peer[0]) in ipaddress.ip_network(POOLS[0])
            assert client.wait(LIMIT) == 0
