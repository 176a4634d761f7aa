"""Routes as they are written: `Router(routes=...)`, `add_route`, ``netstack route``; and how they are refused."""

import contextlib
import errno
import ipaddress
import json
import socket
import struct
import sys

import pytest
from click.testing import CliRunner
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from netstack.cli.main import main
from netstack.errors import ConfigError, RouterError
from netstack.router import Router, protocol, uplinks
from netstack.router.client import ControlClient
from netstack.router.devices.device import FileDevice
from netstack.router.protocol import Type
from netstack.router.static_routes import Route
from tests.router.lan import parsed, put, take, wait_until
from tests.support import ROOT, run

POOL = "10.77.0.0/16"
TWO = ["tap:one,address=192.0.2.2/24,gateway=192.0.2.1", "tap:two,address=198.51.100.2/24,address=2001:db8::2/64"]


@pytest.fixture
def wires(monkeypatch):
    """Uplinks are socket pairs: the far ends by name."""
    ends = {}

    def open_wire(config, mac, *_, **options):
        near, ends[config.name] = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        return FileDevice(near.detach(), name=config.name)

    monkeypatch.setattr(uplinks, "open_device", open_wire)
    yield ends
    for end in ends.values():
        end.close()


@pytest.fixture
def router(runtime, wires):
    with Router(POOL, uplinks=TWO, spin_us=0) as router:
        yield router
        assert router.check_conservation() == []


def texts(router):
    return [str(route) for route in router.routes()]


ITSELF = ["0.0.0.0/0 dev one default", "10.77.0.0/16 pool", "192.0.2.0/24 dev one link", "198.51.100.0/24 dev two link",
          "::/0 dev one default", "2001:db8::/64 dev two link"]


def asked_for(end) -> str:
    """The address that the router asks for next behind an uplink."""
    def look():
        with contextlib.suppress(BlockingIOError):
            frame = Ether(end.recv(65536))
            if ARP in frame and frame[ARP].op == 1 and frame[ARP].psrc != frame[ARP].pdst:
                return frame[ARP].pdst
        return None

    return wait_until(look)


def send(attachment, destination):
    assert put(attachment.link.channel, IP(src=attachment.address, dst=destination) / ICMP())
    attachment.link.channel.flush()


def test_each_uplink_leads_to_its_network_and_the_first_to_the_rest(router, wires):
    assert texts(router) == ITSELF
    with router.attach() as a:
        for destination, name, whom in (("192.0.2.77", "one", "192.0.2.77"), ("8.8.8.8", "one", "192.0.2.1"),
                                        ("198.51.100.77", "two", "198.51.100.77")):
            send(a, destination)
            assert asked_for(wires[name]) == whom


def test_written_routes_come_and_go(router, wires):
    router.add_route("203.0.113.0/24,via=198.51.100.9,dev=two")
    router.add_route("203.0.113.128/25,via=192.0.2.9")
    router.add_route("10.0.0.0/8,dev=two")                           # around the pool
    assert texts(router)[1:3] == ["10.0.0.0/8 dev two", "10.77.0.0/16 pool"]
    assert texts(router)[5:7] == ["203.0.113.0/24 via 198.51.100.9 dev two", "203.0.113.128/25 via 192.0.2.9 dev one"]
    with router.attach() as a:
        for destination, name, whom in (("203.0.113.1", "two", "198.51.100.9"), ("203.0.113.200", "one", "192.0.2.9"),
                                        ("10.1.2.3", "two", "10.1.2.3")):
            send(a, destination)
            assert asked_for(wires[name]) == whom
        router.remove_route("203.0.113.128/25")
        router.remove_route("203.0.113.0/24")
        send(a, "203.0.113.5")
        assert asked_for(wires["one"]) == "192.0.2.1"
        send(a, "10.77.99.99")
        error = wait_until(lambda: take(a.link.channel))
        assert parsed(error)[ICMP].type == 3


def test_a_default_route_takes_the_place_of_the_first_uplink(runtime, wires):
    with Router(POOL, uplinks=TWO, routes=["default,via=198.51.100.1,dev=two"]) as router:
        assert texts(router)[0] == "0.0.0.0/0 via 198.51.100.1 dev two"
        with router.attach() as a:
            send(a, "8.8.8.8")
            assert asked_for(wires["two"]) == "198.51.100.1"
        router.remove_route("0.0.0.0/0")
        assert texts(router) == ITSELF


def test_routes_wait_for_a_lost_uplink(router, wires):
    router.add_route("203.0.113.0/24,via=198.51.100.9")
    lost = wires["two"]
    lost.close()
    with router.attach() as a:
        wait_until(lambda: router.uplinks()["two"] is None)
        assert "203.0.113.0/24 via 198.51.100.9 dev two gone" in texts(router)
        with pytest.raises(RouterError, match="two is lost; add the route when it is back"):
            router.add_route("203.0.114.0/24,dev=two")
        wait_until(lambda: router.uplinks()["two"] is not None)
        assert "203.0.113.0/24 via 198.51.100.9 dev two" in texts(router)
        send(a, "203.0.113.1")
        assert asked_for(wires["two"]) == "198.51.100.9"


REFUSED = {
    "203.0.113.0/24,dev=three": (errno.ENODEV, r"no uplink 'three'; there are: one, two"),
    "203.0.113.0/24,via=172.16.0.1": (errno.ENETUNREACH, r"172\.16\.0\.1 is on no uplink's network; say which"),
    "203.0.113.0/24,via=192.0.2.1,dev=two": (errno.ENETUNREACH, r"not in 198\.51\.100\.0/24, .* uplink two"),
    "203.0.113.0/24,via=224.0.0.1,dev=two": (errno.EINVAL, "nobody's address"),
    "10.77.3.0/24,dev=two": (errno.EINVAL, r"in the pool 10\.77\.0\.0/16, .*--pool"),
    "10.77.0.0/16,dev=two": (errno.EINVAL, r"in the pool 10\.77\.0\.0/16"),
    "10.77.0.9/32,dev=two": (errno.EINVAL, r"in the pool 10\.77\.0\.0/16"),
    "192.0.2.0/24,dev=two": (errno.EEXIST, r"already: 192\.0\.2\.0/24 dev one link; route a longer"),
    "127.0.0.0/8,dev=two": (errno.EINVAL, "never forwarded"),
    "169.254.3.0/24,dev=two": (errno.EINVAL, "never forwarded"),
    "224.0.0.0/4,dev=two": (errno.EINVAL, "never forwarded"),
    "239.0.0.0/8,dev=two": (errno.EINVAL, "never forwarded"),
    "fe80::/64,dev=two": (errno.EINVAL, "never forwarded"),
    "ff02::/16,dev=two": (errno.EINVAL, "never forwarded"),
    "::1/128,dev=two": (errno.EINVAL, "never forwarded"),
}


@pytest.mark.parametrize("route", REFUSED)
def test_what_cannot_be_says_what_to_do(router, route):
    number, words = REFUSED[route]
    with pytest.raises(RouterError, match=words) as caught:
        router.add_route(route)
    assert caught.value.errno == number and texts(router) == ITSELF


def test_the_same_prefix_twice_is_refused_until_the_first_is_gone(router):
    router.add_route("203.0.113.0/24,dev=two")
    with pytest.raises(RouterError, match=r"already: 203\.0\.113\.0/24 dev two; remove that first"):
        router.add_route("203.0.113.0/24,dev=one")
    router.remove_route("203.0.113.0/24")
    router.add_route("203.0.113.0/24,dev=one")


@pytest.mark.parametrize("network, words", [
    ("203.0.113.0/24", "there is no route"), ("192.0.2.0/24", "comes and goes with its link"), (POOL, "with its pool"),
    ("0.0.0.0/0", "there is no route"),
])
def test_only_written_routes_are_removed(router, network, words):
    with pytest.raises(RouterError, match=words):
        router.remove_route(network)
    assert texts(router) == ITSELF


@pytest.mark.parametrize("text, words", [
    ("203.0.113.0/24", "where does it lead"), ("203.0.113.1/24,dev=one", "host bits"), ("x,dev=one", "does not appear"),
    ("203.0.113.0/24,via=x", "does not appear"), ("203.0.113.0/24,metric=5", "'metric=5'"),
    ("203.0.113.0/24,dev=", "'dev='"),
    ("203.0.113.0/24,dev=one,dev=two", "'dev=two'"), ("203.0.113.0/24,via=2001:db8::1", "other version"),
])
def test_what_cannot_be_read_shows_how_it_is_written(text, words):
    with pytest.raises(ConfigError, match=words):
        Route.parse(text)


def test_a_router_without_uplinks_and_one_with_two_on_one_network(runtime, wires):
    with Router(POOL) as router, pytest.raises(RouterError, match="no uplink; give it one"):
        router.add_route("203.0.113.0/24,dev=one")
    with pytest.raises(ConfigError, match=r"192\.0\.2\.0/24 is the network of another uplink too"):
        Router(POOL, uplinks=["tap:one,address=192.0.2.2/24", "tap:two,address=192.0.2.3/24"])
    with pytest.raises(RouterError, match="no uplink 'three'"):
        Router(POOL, uplinks=TWO, routes=["203.0.113.0/24,dev=three"])


def test_routes_of_ipv6_and_a_gateway_that_is_link_local(router, wires):
    router.add_route("2001:db8:5::/48,via=fe80::9,dev=two")
    assert "2001:db8:5::/48 via fe80::9 dev two" in texts(router)
    assert str(Route.parse("default,via=fe80::1,dev=two")) == "::/0 via fe80::1 dev two"


# ---- over the control socket


def test_the_client_sees_and_changes_the_same(router):
    with ControlClient(router.name) as client:
        for i in range(20):                                          # more than fit into one message
            client.add_route(f"203.0.{i}.0/24,via=198.51.100.{i + 3},dev=two")
        client.add_route("2001:db8:5::/48,via=fe80::9,dev=two")
        assert list(client.routes()) == router.routes() and len(router.routes()) == len(ITSELF) + 21
        client.remove_route("203.0.7.0/24")
        assert list(client.routes()) == router.routes() and len(router.routes()) == len(ITSELF) + 20
        with pytest.raises(RouterError, match="no uplink 'three'"):
            client.add_route("203.0.113.0/24,dev=three")
        with pytest.raises(RouterError, match="there is no route"):
            client.remove_route("203.0.7.0/24")


def test_who_is_not_the_owner_looks_and_changes_nothing(router):
    class Stranger:
        is_owner = False

    body = protocol.ROUTE.pack(1, 4, 24, b"\0" * 10 + b"\xff\xff" + bytes([203, 0, 113, 0]), bytes(16), b"two")
    with pytest.raises(RouterError, match="only the router's owner") as caught:
        router._service.change_route(Stranger(), body)
    assert caught.value.errno == errno.EPERM and texts(router) == ITSELF


HOSTILE = [
    (Type.ROUTE, struct.pack("<BBBx16s16s32s", 1, 5, 24, bytes(16), bytes(16), b"two")),
    (Type.ROUTE, struct.pack("<BBBx16s16s32s", 1, 4, 33, bytes(16), bytes(16), b"two")),
    (Type.ROUTE, struct.pack("<BBBx16s16s32s", 1, 6, 255, bytes(16), bytes(16), b"two")),
    (Type.ROUTE, struct.pack("<BBBx16s16s32s", 1, 4, 8, b"\xff" * 16, bytes(16), b"two")),
    (Type.ROUTE, struct.pack("<BBBx16s16s32s", 1, 4, 0, bytes(16), bytes(16), b"\xff" * 32)),
    (Type.ROUTE, struct.pack("<BBBx16s16s32s", 1, 4, 0, bytes(16), bytes(16), b"")),
    (Type.ROUTE, struct.pack("<BBBx16s16s32s", 7, 4, 0, bytes(16), bytes(16), b"two")),
    (Type.ROUTES, struct.pack("<BBBx16s", 0, 0, 0, bytes(16))),
    (Type.ROUTES, struct.pack("<BBBx16s", 4, 1, 200, bytes(16))),
    (Type.ROUTES, struct.pack("<BBBx16s", 6, 1, 1, b"\xff" * 16)),
]


@pytest.mark.parametrize("kind, body", HOSTILE)
def test_hostile_messages_are_refused(router, kind, body):
    with ControlClient(router.name) as client:
        with pytest.raises(RouterError) as caught:
            client.request(kind, body)
        assert caught.value.errno in (errno.EINVAL, errno.ENODEV)
        client.ping()
    assert texts(router) == ITSELF


def test_the_command(router, monkeypatch):
    monkeypatch.setenv("NETSTACK_ROUTER", router.name)

    def netstack(*argv):
        return CliRunner().invoke(main, ["route", *argv])

    assert netstack().output.splitlines() == ITSELF
    assert netstack("add", "203.0.113.0/24", "via", "198.51.100.9", "dev", "two").exit_code == 0
    assert netstack("add", "default", "via", "192.0.2.200").exit_code == 0
    shown = netstack("list", "-n", "1").output
    assert shown == "0.0.0.0/0 via 192.0.2.200 dev one\n"
    rows = json.loads(netstack("--json").output)
    assert {"network": "203.0.113.0/24", "gateway": "198.51.100.9", "device": "two", "attachment": None,
            "kind": "static", "lost": False} in rows
    done = netstack("add", "203.0.113.0/24", "dev", "one")
    assert done.exit_code == 1 and "netstack route del 203.0.113.0/24" in done.output
    assert netstack("del", "203.0.113.0/24").exit_code == netstack("del", "default").exit_code == 0
    assert netstack("list").output.splitlines() == ITSELF
    assert netstack("add", "203.0.113.0/24", "metric", "5").exit_code == 2
    done = netstack("add", "203.0.113.7/24", "dev", "one")
    assert done.exit_code == 1 and "host bits" in done.output


def test_the_router_command_takes_routes(runtime):
    done = run([sys.executable, "-m", "netstack", "router", "--route", "203.0.113.0/24,dev=one"], check=False, cwd=ROOT)
    assert done.returncode == 1 and "this router has no uplink; give it one" in done.stderr


def test_blocks_behind_attachments_are_shown_and_not_removed_by_hand(router):
    with router.attach() as a:
        router._forwarder.add_route(ipaddress.ip_network("10.77.8.0/26"), a.id)
        assert f"10.77.8.0/26 attachment {a.id}" in texts(router)
        with pytest.raises(RouterError, match="comes and goes with its stack"):
            router.remove_route("10.77.8.0/26")
        with ControlClient(router.name) as client:
            assert list(client.routes()) == router.routes()
    wait_until(lambda: "10.77.8.0/26 attachment gone" in texts(router))


# ---- against the kernel


@pytest.mark.root
def test_two_networks_of_the_kernel_and_one_behind_a_gateway(runtime, netns):
    for i, name in enumerate(("tap0", "tap1")):
        netns.run("ip", "tuntap", "add", "dev", name, "mode", "tap")
        netns.run("ip", "addr", "add", f"192.0.{2 + i}.1/24", "dev", name)
        netns.run("ip", "link", "set", name, "up")
    netns.run("ip", "addr", "add", "203.0.113.1/32", "dev", "lo")
    netns.run("ip", "route", "add", "10.77.0.0/16", "via", "192.0.3.2", "dev", "tap1")
    with netns.enter():
        router = Router(POOL, uplinks=["tap:tap0,address=192.0.2.2/24", "tap:tap1,address=192.0.3.2/24"],
                        routes=["203.0.113.0/24,via=192.0.3.1,dev=tap1"])
    with router, router.attach() as a:
        for destination in ("203.0.113.1", "192.0.3.1"):
            assert put(a.link.channel, IP(src=a.address, dst=destination) / ICMP(id=7) / Raw(b"x" * 32))
            a.link.channel.flush()
            packet = parsed(wait_until(lambda: take(a.link.channel)))
            assert (packet.src, packet[ICMP].type, packet[ICMP].id) == (destination, 0, 7)
        ports = router.uplinks()
        assert router.counters(ports["tap1"])["out_packets"] == 2
        assert router.counters(ports["tap0"])["to_packets"] == 0
        assert router.check_conservation() == []
