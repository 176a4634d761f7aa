"""The TAP uplink against the kernel, in a network namespace: ARP both ways, ping, errors, a lost device."""

import contextlib
import select
import threading

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Raw

from netstack.errors import LinkError
from netstack.router import Router
from tests.router.conftest import KERNEL
from tests.router.lan import parsed, put, take, wait_until

pytestmark = pytest.mark.root


@contextlib.contextmanager
def routed(netns, uplink="tap:tap0", **options):
    with netns.enter():
        router = Router(uplinks=[uplink], **options)
    with router:
        yield router
        assert router.check_conservation() == []


class Responder(threading.Thread):
    """A stack that can only answer echo requests."""

    def __init__(self, attachment):
        super().__init__(daemon=True)
        self.attachment = attachment
        self.stopping = False
        self.start()

    def run(self):
        channel = self.attachment.link.channel
        while not self.stopping:
            packet = take(channel)
            if packet is None:
                select.select([], [], [], 0.0005)
                continue
            packet = parsed(packet)
            if ICMP in packet and packet[ICMP].type == 8:
                reply = IP(src=packet.dst, dst=packet.src) / ICMP(
                    type=0, id=packet[ICMP].id, seq=packet[ICMP].seq
                )
                put(channel, reply / Raw(bytes(packet[ICMP].payload)))
                channel.flush()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.stopping = True
        self.join(20)


def send(attachment, packet):
    assert put(attachment.link.channel, packet)
    attachment.link.channel.flush()


def receive(attachment, wanted=lambda packet: True):
    def look():
        raw = take(attachment.link.channel)
        packet = parsed(raw) if raw else None
        return packet if packet is not None and wanted(packet) else None

    return wait_until(look)


@pytest.mark.parametrize("size", [0, 56, 1472])
def test_kernel_pings_a_stack(runtime, tap, size):
    with routed(tap) as router, router.attach() as a, Responder(a):
        done = tap.run("ping", "-c", 3, "-i", 0.05, "-W", 5, "-s", size, a.address)
        assert "3 received" in done.stdout and "ttl=63" in done.stdout
        assert f"{a.address} " in tap.run("ip", "neigh", "show", "dev", "tap0").stdout


def test_kernel_pings_the_router_and_sees_it_as_a_hop(runtime, tap):
    with routed(tap) as router, router.attach() as a, Responder(a):
        assert "2 received" in tap.run("ping", "-c", 2, "-i", 0.05, "-W", 5, router.address).stdout
        done = tap.run("ping", "-c", 1, "-W", 5, "-t", 1, a.address, check=False)
        assert f"From {router.address}" in done.stdout and "Time to live exceeded" in done.stdout


def test_address_that_nobody_has_is_not_answered_for(runtime, tap):
    with routed(tap):
        done = tap.run("ping", "-c", 1, "-W", 2, "10.77.5.5", check=False)
        assert "0 received" in done.stdout
        assert "lladdr" not in tap.run("ip", "neigh", "show", "10.77.5.5", "dev", "tap0").stdout


def test_stack_finds_the_kernel_by_arp(runtime, tap):
    with routed(tap) as router, router.attach() as a:
        for i in range(3):  # all wait for one answer
            send(a, IP(src=a.address, dst=KERNEL) / ICMP(id=5, seq=i) / Raw(b"x" * 100))
        got = [receive(a, lambda p: ICMP in p) for _ in range(3)]
        assert [(p.src, p[ICMP].type, p[ICMP].seq) for p in got] == [(KERNEL, 0, i) for i in range(3)]
        send(a, IP(src=a.address, dst=KERNEL) / TCP(sport=1000, dport=9, flags="S", seq=7))
        refused = receive(a, lambda p: TCP in p)
        assert refused[TCP].flags == "RA" and refused[TCP].ack == 8 and refused.ttl == 63


def test_neighbour_that_does_not_answer(runtime, tap):
    with routed(tap) as router, router.attach() as a:
        for _ in range(10):
            send(a, IP(src=a.address, dst="192.0.2.77") / UDP())
        wait_until(lambda: router.counters()["drop_out_neighbor"] == 10)


def test_packet_larger_than_the_taps_mtu(runtime, tap):
    tap.run("ip", "link", "set", "tap0", "mtu", 1300)
    with routed(tap) as router, router.attach() as a:
        send(a, IP(src=a.address, dst=KERNEL, flags="DF") / ICMP() / Raw(bytes(1273)))
        answer = receive(a)
        assert (answer[ICMP].type, answer[ICMP].code, answer[ICMP].nexthopmtu) == (3, 4, 1300)
        send(a, IP(src=a.address, dst=KERNEL) / ICMP() / Raw(bytes(1272)))
        assert receive(a)[ICMP].type == 0


def test_own_address_and_gateway(runtime, tap):
    """The router at 192.0.2.2 sends what is not in 192.0.2.0/24 to 192.0.2.1, which has 198.51.100.1 too."""
    tap.run("ip", "addr", "add", "198.51.100.1/32", "dev", "lo")
    with routed(tap, f"tap:tap0,address=192.0.2.2/24,gateway={KERNEL}") as router, router.attach() as a:
        assert "1 received" in tap.run("ping", "-c", 1, "-W", 5, "192.0.2.2").stdout
        send(a, IP(src=a.address, dst="198.51.100.1") / ICMP(id=3))
        assert receive(a, lambda p: ICMP in p).src == "198.51.100.1"
        assert "198.51.100.1" not in tap.run("ip", "neigh").stdout


def test_the_first_of_several_uplinks_leads_to_the_world(runtime, tap):
    """Both networks know 198.51.100.1; what is for it goes to the first."""
    tap.run("ip", "addr", "add", "198.51.100.1/32", "dev", "lo")
    tap.run("ip", "tuntap", "add", "dev", "tap1", "mode", "tap")
    tap.run("ip", "addr", "add", "203.0.113.1/24", "dev", "tap1")
    tap.run("ip", "link", "set", "tap1", "up")
    uplinks = [f"tap:tap0,address=192.0.2.2/24,gateway={KERNEL}", "tap:tap1,address=203.0.113.2/24"]

    def received(device):
        return int(tap.run("cat", f"/sys/class/net/{device}/statistics/rx_packets").stdout)

    with tap.enter():
        router = Router(uplinks=uplinks)
    with router, router.attach() as a:
        before = received("tap1")
        for i in range(5):
            send(a, IP(src=a.address, dst="198.51.100.1") / ICMP(id=9, seq=i))
            assert receive(a, lambda p: ICMP in p).src == "198.51.100.1"
        assert received("tap0") >= 5
        assert received("tap1") == before
        assert router.check_conservation() == []


def test_spoofed_packets_from_outside(runtime, tap):
    with routed(tap) as router, router.attach() as a, router.attach() as b:
        tap.run("ip", "addr", "add", f"{b.address}/32", "dev", "tap0")
        tap.run("ping", "-c", 1, "-W", 1, "-I", b.address, a.address, check=False)
        wait_until(lambda: router.counters()["drop_in_spoofed"] >= 1)
        assert take(a.link.channel) is None


def test_segment_from_the_kernel_to_a_dead_address_is_reset(runtime, tap):
    with routed(tap) as router:
        with router.attach() as a:
            address = a.address
        done = tap.run(
            "python3",
            "-c",
            f"""
import socket
try:
    socket.create_connection(("{address}", 80), 10)
except ConnectionRefusedError:
    print("refused")
""",
        )
        assert done.stdout == "refused\n"


def test_frames_that_are_none(runtime, tap):
    """What a hostile neighbour may put on the wire: counted or ignored, and the router goes on."""
    with routed(tap) as router, router.attach() as a, Responder(a):
        mac = tap.run("cat", "/sys/class/net/tap0/address").stdout.strip()
        tap.run("ping", "-c", 1, "-W", 5, a.address)
        script = f"""
import random, socket
rng = random.Random(3)
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("tap0", 0))
router = bytes(6)
for line in open("/proc/net/arp"):
    if line.startswith("{a.address} "):
        router = bytes.fromhex(line.split()[3].replace(":", ""))
me = bytes.fromhex("{mac}".replace(":", ""))
for i in range(3000):
    kind = rng.choice([b"\\x08\\x00", b"\\x08\\x06", b"\\x86\\xdd", b"\\x81\\x00"])
    head = rng.choice([router, b"\\xff" * 6]) + me + kind
    body = bytearray(rng.randbytes(rng.randrange(0, 120)))
    if body and rng.random() < 0.7:
        body[0] = rng.choice([0x45, 0x46, 0x4f, 0x60, 0x00])
    if kind == b"\\x08\\x06" and len(body) >= 28 and rng.random() < 0.8:
        body[:8] = bytes.fromhex("0001080006040001")
    s.send(head + body)
"""
        tap.run("python3", "-c", script)
        assert "2 received" in tap.run("ping", "-c", 2, "-i", 0.05, "-W", 5, a.address).stdout


@pytest.mark.parametrize("uplink, why", [("tap:this-name-is-too-long", "1 to 15"), ("tap:lo", "lo")])
def test_uplinks_that_cannot_be_opened(runtime, tap, uplink, why):
    with tap.enter(), pytest.raises((LinkError, ValueError), match=why):
        Router(uplinks=[uplink])
    with Router() as router:  # and nothing of the failed one is in the way
        router.attach().close()


def test_uplink_that_is_held_by_another(runtime, tap):
    with routed(tap), tap.enter(), pytest.raises(LinkError, match="tap0"):
        Router(uplinks=["tap:tap0"])


def test_uplink_that_goes_away_takes_nobody_along(runtime, tap):
    with routed(tap) as router, router.attach() as a, router.attach() as b:
        send(a, IP(src=a.address, dst=KERNEL) / ICMP())
        receive(a, lambda p: ICMP in p)
        tap.run("ip", "link", "del", "tap0")
        send(a, IP(src=a.address, dst=KERNEL) / ICMP())
        wait_until(lambda: router._forwarder.ports == 2)
        send(a, IP(src=a.address, dst=KERNEL) / ICMP())
        assert receive(a)[ICMP].type == 3, "no way out: unreachable"
        send(a, IP(src=a.address, dst=b.address) / UDP())
        assert receive(b).src == a.address


def test_link_down_and_up_again(runtime, tap):
    with routed(tap) as router, router.attach() as a, Responder(a):
        tap.run("ping", "-c", 1, "-W", 5, a.address)
        before = router.counters()["drop_out_link"]
        tap.run("ip", "link", "set", "tap0", "down")
        send(a, IP(src=a.address, dst=KERNEL) / ICMP())
        wait_until(lambda: router.counters()["drop_out_link"] > before)
        tap.run("ip", "link", "set", "tap0", "up")
        tap.run("ip", "route", "add", "10.77.0.0/16", "dev", "tap0")
        assert "1 received" in tap.run("ping", "-c", 1, "-W", 5, a.address).stdout
