"""Every kind of uplink against the kernel on its other side: TCP both ways, UDP, ping, neighbours, lost devices."""

import contextlib
import ctypes
import hashlib
import ipaddress
import os
import random
import shutil
import socket
import struct
import sys
import threading

import pytest

import netstack
from netstack.errors import ConfigError, LinkError
from netstack.router import Router
from netstack.router.uplinks import UplinkConfig
from tests.router.lan import wait_until
from tests.support import scale

KINDS = ["tap", "tun", "packet", "xdp"]
ETHERNET = [kind for kind in KINDS if kind != "tun"]
KERNEL = {4: "192.0.2.1", 6: "2001:db8::1"}
SECOND = {4: "198.51.100.1", 6: "2001:db8:1::1"}     # the kernel's own, on no link
POOL = {4: "10.77.0.0/16", 6: "fd77::/64"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
BYTES = scale(10_000_000)


class Site:
    """A namespace with devices for uplinks; its kernel has addresses on their other side and routes pools there."""

    def __init__(self, netns):
        self.netns = netns

    def ip(self, *argv):
        self.netns.run("ip", *argv)

    def make(self, kind, name="up0", number=0):
        """The device of an uplink. Returns the interface that the kernel has addresses on."""
        kernel = name if kind in ("tap", "tun") else f"k{name}"
        if kernel == name:
            self.ip("tuntap", "add", "dev", name, "mode", kind)
        else:
            self.ip("link", "add", name, "type", "veth", "peer", "name", kernel)
            self.ip("link", "set", name, "addrgenmode", "none", "up")
            if kind == "xdp":                    # nobody tells the router that a checksum is still to be written
                self.netns.run("ethtool", "-K", kernel, "tx", "off")
        self.ip("link", "set", kernel, "up")
        for version, bits in ((4, 24), (6, 64)):
            address = ipaddress.ip_address(KERNEL[version]) + (number << (8 if version == 4 else 64))
            self.ip("addr", "add", f"{address}/{bits}", "dev", kernel, *(["nodad"] if version == 6 else []))
            if number == 0:
                self.ip("route", "add", POOL[version], "dev", kernel)
        return kernel

    def neighbors(self, device):
        return self.netns.run("ip", "neigh", "show", "dev", device).stdout

    @contextlib.contextmanager
    def router(self, *uplinks, version=4, **options):
        with self.netns.enter():
            router = Router(POOL[version], uplinks=uplinks, **options)
        with router:
            yield router
            assert router.check_conservation() == []

    def socket(self, *arguments):
        """A socket of the namespace's kernel."""
        with self.netns.enter():
            s = socket.socket(*arguments)
        s.settimeout(60)
        return s


@pytest.fixture
def site(runtime, netns):
    return Site(netns)


@pytest.fixture(autouse=True)
def _what_a_kind_needs(request):
    kind = getattr(request.node, "callspec", None) and request.node.callspec.params.get("kind")
    if (kind == "xdp" or "xdp" in request.node.name) and not shutil.which("ethtool"):
        pytest.skip("needs ethtool")


def exchange(a, b):
    """Both ends of a connection send BYTES at a time, and get what the other one sent."""
    rng = random.Random(1)
    sent = [rng.randbytes(BYTES) for _ in range(2)]
    got = [b"", b""]

    def receive(s, i):
        digest, left = hashlib.sha256(), BYTES
        while left:
            piece = s.recv(1 << 16)
            assert piece, f"the connection ended {left} bytes early"
            digest.update(piece)
            left -= len(piece)
        got[i] = digest.digest()

    def run(s, i):
        sender = threading.Thread(target=s.sendall, args=(sent[i],), daemon=True)
        sender.start()
        receive(s, i)
        sender.join(60)

    threads = [threading.Thread(target=run, args=(s, i), daemon=True) for i, s in enumerate((a, b))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert got == [hashlib.sha256(sent[1]).digest(), hashlib.sha256(sent[0]).digest()]


@contextlib.contextmanager
def connected(site, host, version, listens):
    """A connection between a stack and the kernel: (stack's end, kernel's end)."""
    if listens == "kernel":
        with site.socket(FAMILY[version]) as server:
            server.bind((KERNEL[version], 0))
            server.listen()
            a = host.create_connection(server.getsockname()[:2], timeout=60)
            b, _ = server.accept()
            b.settimeout(60)
    else:
        with host.socket(FAMILY[version]) as server:
            server.settimeout(60)
            server.bind((host.addresses[0].split("/")[0], 0))
            server.listen()
            b = site.socket(FAMILY[version])
            b.connect(server.getsockname()[:2])
            a, _ = server.accept()
    with a, b:
        a.settimeout(60)
        yield a, b


@pytest.mark.root
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_and_the_kernel_talk(site, kind, version):
    kernel = site.make(kind)
    with site.router(f"{kind}:up0", version=version) as router, netstack.attach(router.name) as host:
        address = host.addresses[0].split("/")[0]
        for listens in ("kernel", "stack"):
            with connected(site, host, version, listens) as (a, b):
                exchange(a, b)
        for _ in range(3):
            done = site.netns.run("ping", "-c", 1, "-W", 20, address)
            assert "1 received" in done.stdout and "ttl=63" in done.stdout
        with host.socket(FAMILY[version], socket.SOCK_DGRAM) as a, site.socket(FAMILY[version], socket.SOCK_DGRAM) as b:
            a.settimeout(60)
            b.bind((KERNEL[version], 0))
            a.connect(b.getsockname()[:2])
            a.send(b"to the kernel")
            data, where = b.recvfrom(100)
            assert data == b"to the kernel" and where[0] == address
            b.sendto(b"to the stack", where[:2])
            assert a.recv(100) == b"to the stack"
        counters = router.counters()
        assert counters["drop_in_checksum"] == counters["drop_in_malformed"] == counters["neighbor_conflicts"] == 0
        if kind in ETHERNET:
            line, = (each for each in site.neighbors(kernel).splitlines() if each.startswith(f"{address} "))
            known = router.neighbors("up0")
            assert known[KERNEL[version]] == site.netns.run("cat", f"/sys/class/net/{kernel}/address").stdout.strip()
            assert line.split()[1] == "lladdr" and line.split()[2] not in known.values()


@pytest.mark.root
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("more", [",offload=off", ",delay=1ms", "", " for a small mtu"])
@pytest.mark.parametrize("kind", ["tap", "packet"])
def test_large_packets_of_the_kernel_are_cut_and_joined_without_a_trace(site, kind, more, version):
    """With offloads the kernel hands over 64 KiB at a time: also to a stack with a small mtu, or on a bad link."""
    site.make(kind)
    uplink, mtu = f"{kind}:up0{more.removesuffix(' for a small mtu')}", 1500 if more.endswith("mtu") else None
    with site.router(uplink, version=version) as router, netstack.attach(router.name, mtu=mtu) as host:
        with connected(site, host, version, "kernel") as (a, b):
            exchange(a, b)
        counters = router.counters()
        assert counters["drop_in_checksum"] == counters["drop_out_checksum"] == counters["drop_in_too_big"] == 0
        assert counters["drop_in_malformed"] == counters["drop_in_length"] == 0


@pytest.mark.root
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ETHERNET)
def test_gateway_and_own_address(site, kind, version):
    """What is not on the uplink's network goes to its gateway, and nobody else is asked for."""
    kernel = site.make(kind)
    site.ip("addr", "add", SECOND[version], "dev", "lo", *(["nodad"] if version == 6 else []))
    own = ipaddress.ip_interface(f"{ipaddress.ip_address(KERNEL[version]) + 1}/{24 if version == 4 else 64}")
    gateway = KERNEL[version]
    if version == 6:
        site.ip("addr", "add", "fe80::99/64", "dev", kernel, "nodad")
        gateway = "fe80::99"
    uplink = f"{kind}:up0,address={own.with_prefixlen},gateway={gateway}"
    with site.router(uplink, version=version) as router, netstack.attach(router.name) as host:
        with host.socket(FAMILY[version], socket.SOCK_DGRAM) as a, site.socket(FAMILY[version], socket.SOCK_DGRAM) as b:
            b.bind((SECOND[version], 0))
            a.settimeout(60)
            a.connect(b.getsockname()[:2])
            a.send(b"far away")
            data, where = b.recvfrom(100)
            assert data == b"far away"
            b.sendto(b"back", where[:2])
            assert a.recv(100) == b"back"
        assert list(router.neighbors("up0")) == [gateway]
        if version == 4:
            assert "1 received" in site.netns.run("ping", "-c", 1, "-W", 20, str(own.ip)).stdout


@pytest.mark.root
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ETHERNET)
def test_addresses_that_arrive_are_announced(site, kind, version):
    """The kernel has a wrong neighbour entry for an address: it is put right before anybody asks."""
    kernel = site.make(kind)
    first = ipaddress.ip_network(POOL[version])[2]
    with site.router(f"{kind}:up0", version=version) as router:
        site.ip("neigh", "add", str(first), "lladdr", "02:00:00:00:66:66", "nud", "stale", "dev", kernel)
        with router.attach(str(first)) as a:
            assert a.address == str(first)
            wait_until(lambda: "02:00:00:00:66:66" not in site.neighbors(kernel))
            assert f"{first} " in site.neighbors(kernel)


@pytest.mark.root
def test_two_uplinks_of_different_kinds_at_once(site):
    """The world is behind the first; who asks through the second is answered there too."""
    site.make("packet", "up0")
    site.make("tap", "up1", number=1)
    with site.router("packet:up0", "tap:up1,address=192.0.3.2/24") as router, netstack.attach(router.name) as host:
        with connected(site, host, 4, "kernel") as (a, b):
            exchange(a, b)
        assert "1 received" in site.netns.run("ping", "-c", 1, "-W", 20, "-I", "up1", "192.0.3.2").stdout
        ports = router.uplinks()
        assert router.counters(ports["up0"])["out_packets"] > router.counters(ports["up1"])["out_packets"] > 0


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_f18_an_uplink_comes_back_with_its_device_and_hurts_nobody(site, kind):
    site.make(kind)
    with (
        site.router(f"{kind}:up0") as router,
        netstack.attach(router.name) as host,
        netstack.attach(router.name) as other,
    ):
        with connected(site, host, 4, "kernel") as (a, b):
            exchange(a, b)
        with other.socket() as server:
            server.bind((other.addresses[0].split("/")[0], 80))
            server.listen()
            a = host.create_connection(server.getsockname(), timeout=60)
            b, _ = server.accept()
        with a, b:
            site.ip("link", "del", "up0")
            wait_until(lambda: router.uplinks() == {"up0": None})
            exchange(a, b)                       # between stacks all goes on
            with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.sendto(b"nobody gets this", (KERNEL[4], 9))
            wait_until(lambda: router.counters()["drop_in_no_route"])
            site.make(kind)
            wait_until(lambda: router.uplinks()["up0"] is not None)
            with connected(site, host, 4, "kernel") as ends:
                exchange(*ends)
            exchange(a, b)


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_f18_a_link_that_is_down_loses_packets_and_works_when_it_is_up(site, kind):
    kernel = site.make(kind)
    with site.router(f"{kind}:up0") as router, netstack.attach(router.name) as host:
        def ping():
            return "1 received" in site.netns.run("ping", "-c", 1, "-W", 1, address, check=False).stdout

        address = host.addresses[0].split("/")[0]
        wait_until(ping)
        site.ip("link", "set", "up0", "down")
        with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, contextlib.suppress(OSError):
            for _ in range(100):
                s.sendto(bytes(100), (KERNEL[4], 9))
        site.ip("link", "set", "up0", "up")
        site.ip("route", "replace", POOL[4], "dev", kernel)
        wait_until(ping, 60)
        assert router.uplinks()["up0"] is not None


@pytest.mark.root
def test_f18_an_xdp_program_that_is_detached_is_attached_again(site):
    """By somebody with the right to: the queue is the kernel's until the router notices."""
    kernel = site.make("xdp")
    with site.router("xdp:up0") as router, netstack.attach(router.name) as host:
        address = host.addresses[0].split("/")[0]
        first = router.uplinks()["up0"]
        device = router._uplinks.all[0].device
        assert device.mode == "native" and not device.zero_copy
        bpf_link_detach()
        wait_until(lambda: router.uplinks()["up0"] not in (None, first))
        assert "1 received" in site.netns.run("ping", "-c", 1, "-W", 20, address).stdout
        assert "xdp" in site.netns.run("ip", "link", "show", "up0").stdout and kernel
    assert "xdp" not in site.netns.run("ip", "link", "show", "up0").stdout


def bpf_link_detach():
    """``bpf(BPF_LINK_DETACH)`` on what holds the program of a device of this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:bpf_link":
                attribute = ctypes.create_string_buffer(struct.pack("I", fd), 128)
                assert libc.syscall({"x86_64": 321, "aarch64": 280}[os.uname().machine], 34, attribute, 128) == 0


@pytest.mark.root
def test_two_routers_cannot_have_one_queue(site):
    site.make("xdp")
    with site.router("xdp:up0"), site.netns.enter(), pytest.raises(LinkError, match="another program holds queue 0"):
        Router(uplinks=["xdp:up0"])


@pytest.mark.root
def test_an_interface_without_that_queue_says_so(site):
    site.make("xdp")
    with site.netns.enter(), pytest.raises(LinkError, match="has it a queue 200"):
        Router(uplinks=["xdp:up0,queue=200"])


@pytest.mark.root
@pytest.mark.parametrize("uplink, why", [
    ("packet:none0", "no such interface"), ("packet:lo", "not an Ethernet"),
    ("xdp:none0", "no such interface"), ("xdp:lo", "not an Ethernet"),
    ("packet:this-name-is-too-long", "1 to 15"), ("tun:up0", "is no tun"), ("tap:up0", "is no tap"),
])
def test_devices_that_cannot_be_opened(site, uplink, why):
    site.make("tun" if uplink.startswith("tap") else "tap")
    with site.netns.enter(), pytest.raises((LinkError, ValueError), match=why):
        Router(uplinks=[uplink])


@pytest.mark.root
def test_packet_uplink_without_privilege_says_what_to_do(site):
    site.make("packet")
    done = site.netns.run("setpriv", "--bounding-set=-all", "--inh-caps=-all", "python3", "-c", """
from netstack.router.devices.packet import open_packet
try:
    open_packet("up0", bytes([2, 0, 0, 0, 0, 1]))
except PermissionError as error:
    print(error)
""", check=False)
    assert "cap_net_raw" in done.stdout, done.stderr


@pytest.mark.parametrize("text, why", [
    ("tap:a,address=192.0.2.2/24,address=192.0.2.3/24", "more than one address"),
    ("tap:a,gateway=192.0.2.1", "needs the address"),
    ("tap:a,address=192.0.2.2/24,gateway=198.51.100.1", "not in 192.0.2.0/24"),
    ("tap:a,address=2001:db8::2/64,gateway=192.0.2.1", "needs the address"),
    ("tun:a,address=192.0.2.2/24,gateway=192.0.2.1", "needs no gateway"),
    ("wlan:a", "write tap:NAME"),
    ("tap:a,color=red", "unknown option"),
    ("tap:a,address=nowhere", "nowhere"),
])
def test_uplinks_that_make_no_sense(text, why):
    with pytest.raises(ConfigError, match=why):
        UplinkConfig.parse(text)


def test_an_uplink_of_both_versions_is_read():
    config = UplinkConfig.parse("tap:a,address=192.0.2.2/24,address=2001:db8::2/64,gateway=192.0.2.1,gateway=fe80::1")
    assert [str(a) for a in config.addresses] == ["192.0.2.2/24", "2001:db8::2/64"]
    assert [str(g) for g in config.gateways] == ["192.0.2.1", "fe80::1"]


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tap", "tun"])
def test_a_device_that_root_made_for_a_user_needs_no_privilege(site, kind):
    """Offloads included."""
    site.ip("tuntap", "add", "dev", "up0", "mode", kind, "user", "65534")
    site.ip("link", "set", "up0", "up")
    script = f"""
from netstack.router.devices.tuntap import open_tuntap
fd, mtu = open_tuntap("{kind}", "up0", offload=True)
print(fd > 2, mtu)
"""
    nobody = ["setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all"]
    done = site.netns.run(*nobody, sys.executable, "-c", script, check=False)
    assert done.stdout == "True 1500\n", done.stderr


@pytest.mark.root
def test_xdp_on_an_interface_whose_driver_knows_nothing_of_it(site):
    """A bridge: the kernel runs the program behind the driver."""
    kernel = site.make("xdp", "port0")
    site.ip("link", "add", "up0", "type", "bridge")
    site.ip("link", "set", "port0", "master", "up0")
    site.ip("link", "set", "up0", "addrgenmode", "none", "up")
    with site.router("xdp:up0") as router, netstack.attach(router.name) as host:
        assert router._uplinks.all[0].device.mode == "generic"
        with connected(site, host, 4, "kernel") as (a, b):
            exchange(a, b)
        assert router.neighbors("up0").keys() == {KERNEL[4]} and kernel
