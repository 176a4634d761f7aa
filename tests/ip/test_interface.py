"""The way in: link header, lengths, martians, whose packet it is, where the payload lies. And the way out."""

import errno
import random

import pytest
from scapy.layers.inet import IP, UDP, IPOption_NOP
from scapy.layers.l2 import Dot1Q, Ether

from netstack.counters import DropReason as R
from netstack.testing.probe import InterfaceProbe, Packet
from netstack.wire import ethernet, ipv4, udp
from tests.support import scale

US, PEER = "10.0.0.1", "10.0.0.2"
OUR_MAC, PEER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
CLAIM_OK, CLAIM_FULL = 0, -1


def packet(src=PEER, dst=US, payload=b"payload") -> bytes:
    return ipv4.build(src, dst, 17, udp.build(src, dst, 1000, 2000, payload))


def frame(data: bytes, dst=OUR_MAC, src=PEER_MAC, ethertype=0x800) -> bytes:
    return ethernet.build(dst, src, ethertype, data)


# ---- what a packet becomes -----------------------------------------------------


@pytest.mark.parametrize("media", ["ip", "ethernet"])
def test_a_packet_for_us_is_handed_on_with_its_fields(media):
    probe = InterfaceProbe(media=media)
    data = ipv4.build(PEER, US, 17, udp.build(PEER, US, 1000, 2000, b"payload"), tos=0x2E, ttl=9)
    reason, got = probe.input(data if media == "ip" else frame(data), transport_header=8)
    assert reason == R.DROP_NONE
    assert got == Packet(17, PEER, US, 9, 0x2E, False, data, 20, 35, b"payload")
    assert probe.counters["packets_in"] == probe.counters["ip_delivered"] == 1
    assert probe.counters["bytes_in"] == len(data) + (14 if media == "ethernet" else 0)


def test_scapys_packets_pass_and_padding_is_cut_off():
    probe = InterfaceProbe(media="ethernet")
    theirs = Ether(dst=OUR_MAC, src=PEER_MAC) / IP(src=PEER, dst=US) / UDP(sport=1, dport=2) / b"hi"
    reason, got = probe.input(bytes(theirs).ljust(60, b"\xee"), transport_header=8)
    assert (reason, got.length, got.payload) == (R.DROP_NONE, 30, b"hi")
    assert b"\xee" not in got.header


def test_options_lie_between_the_headers():
    theirs = bytes(IP(src=PEER, dst=US, options=[IPOption_NOP()] * 8) / UDP(sport=1, dport=2) / b"hi")
    reason, got = InterfaceProbe().input(theirs, transport_header=8)
    assert (reason, got.header_length, got.payload) == (R.DROP_NONE, 28, b"hi")


def test_headers_are_copied_up_to_128_bytes():
    data = packet(payload=bytes(range(256)))
    _, got = InterfaceProbe().input(data, transport_header=8)
    assert got.header == data[:128]
    assert got.payload == bytes(range(256))


def test_every_split_of_a_packet_into_head_and_body():
    """The body starts exactly behind the transport header; any other split is refused."""
    data = packet()
    for split in range(len(data) + 1):
        reason, got = InterfaceProbe().input(data, split=split, transport_header=8)
        if split < 20:
            assert reason == R.DROP_LINK_MALFORMED or split == 0, split
        else:
            assert reason == R.DROP_NONE
            assert got.payload == (b"payload" if split in (28, len(data)) else None), split


@pytest.mark.parametrize("split", [21, 44, 59, 60])
def test_a_header_that_reaches_into_the_body_is_refused(split):
    theirs = bytes(IP(src=PEER, dst=US, options=[IPOption_NOP()] * 40) / UDP() / b"hi")
    reason, got = InterfaceProbe().input(theirs, split=split)
    assert reason == (R.DROP_NONE if split == 60 else R.DROP_LINK_MALFORMED)


def test_a_transport_header_longer_than_the_packet_is_refused():
    data = packet(payload=b"")
    for size in range(0, 200):
        _, got = InterfaceProbe().input(data, transport_header=size)
        assert (got.payload is None) == (size > 8)


def test_padding_is_no_transport_header():
    data = ipv4.build(PEER, US, 17, b"1234") + b"\xee" * 40
    _, got = InterfaceProbe().input(data, transport_header=8)
    assert got.payload is None
    assert got.header == data[:24]


# ---- A1, A2 on the whole path ----------------------------------------------------


@pytest.mark.parametrize("media", ["ip", "ethernet"])
def test_a1_every_truncation_of_a_packet_is_dropped(media):
    probe = InterfaceProbe(media=media)
    whole = packet() if media == "ip" else frame(packet())
    for length in range(len(whole)):
        reason, got = probe.input(whole[:length])
        assert got is None and reason != R.DROP_NONE, length
    assert probe.input(whole)[0] == R.DROP_NONE
    assert probe.counters["packets_in"] == len(whole) + 1


def test_the_checksum_is_left_to_a_link_that_vouches_for_it():
    bad = bytearray(packet())
    bad[10] ^= 1
    assert InterfaceProbe().input(bytes(bad))[0] == R.DROP_IP_CHECKSUM
    assert InterfaceProbe(trusted=True).input(bytes(bad))[0] == R.DROP_NONE


# ---- the link header ---------------------------------------------------------------


@pytest.mark.parametrize(
    "data,reason",
    [
        (frame(packet(), dst="02:00:00:00:00:09"), R.DROP_LINK_NOT_OURS),
        (frame(packet(), ethertype=0x86DD), R.DROP_IP_VERSION),
        (frame(packet(), ethertype=46), R.DROP_LINK_TYPE),
        (bytes(Ether(dst=OUR_MAC, src=PEER_MAC) / Dot1Q(vlan=1) / packet()), R.DROP_LINK_TYPE),
        (bytes.fromhex("020000000001030000000002 0800") + packet(), R.DROP_LINK_MALFORMED),
        (frame(b""), R.DROP_IP_HEADER_LENGTH),
        (frame(b"\x60" + bytes(39)), R.DROP_IP_VERSION),
    ],
)
def test_frames_that_are_not_for_ipv4_here(data, reason):
    assert InterfaceProbe(media="ethernet").input(data) == (reason, None)


def test_arp_and_other_versions_on_a_channel():
    arp = bytes.fromhex("0001080006040001") + bytes(20)
    assert InterfaceProbe().input(arp) == (R.DROP_ARP_ON_CHANNEL, None)
    assert InterfaceProbe().input(b"\x60" + bytes(39)) == (R.DROP_IP_DESTINATION, None)
    assert InterfaceProbe().input(b"\x60" + bytes(38)) == (R.DROP_IP_HEADER_LENGTH, None)
    assert InterfaceProbe().input(b"\x50" + bytes(39)) == (R.DROP_IP_VERSION, None)
    assert InterfaceProbe().input(bytes(40)) == (R.DROP_IP_VERSION, None)


def test_a_frame_to_everybody_marks_the_packet_as_broadcast():
    probe = InterfaceProbe(media="ethernet")
    assert probe.input(frame(packet(), dst="ff:ff:ff:ff:ff:ff"))[1].broadcast
    assert probe.input(frame(packet(), dst="01:00:5e:00:00:01"))[1].broadcast
    assert not probe.input(frame(packet()))[1].broadcast


# ---- G1, G2: who sent it, for whom -----------------------------------------------------

MARTIANS = [
    "0.0.0.0",
    "0.0.0.1",
    "0.255.255.255",
    "127.0.0.0",
    "127.0.0.1",
    "127.1.2.3",
    "127.255.255.255",
    "224.0.0.0",
    "224.0.0.1",
    "224.0.0.251",
    "225.1.1.1",
    "230.1.2.3",
    "239.255.255.250",
    "239.255.255.255",
    "240.0.0.0",
    "240.0.0.1",
    "247.1.1.1",
    "250.0.0.1",
    "254.255.255.255",
    "255.0.0.1",
    "255.255.255.254",
    "255.255.255.255",
    "10.0.0.255",
    "192.168.7.63",
    US,
    "192.168.7.33",
]
HOSTS = [
    "1.0.0.0",
    "9.255.255.255",
    "10.0.0.0",
    "10.0.0.2",
    "10.0.0.254",
    "126.255.255.255",
    "128.0.0.0",
    "172.16.0.1",
    "192.168.7.62",
    "192.168.7.64",
    "198.51.100.7",
    "203.0.113.1",
    "223.255.255.255",
    "100.64.0.1",
    "169.254.1.1",
]


def two_addresses(**options) -> InterfaceProbe:
    return InterfaceProbe((f"{US}/24", "192.168.7.33/27"), **options)


@pytest.mark.parametrize("src", MARTIANS)
def test_g1_g2_a_source_no_other_host_has_is_dropped(src):
    probe = two_addresses()
    assert probe.input(packet(src=src)) == (R.DROP_IP_SOURCE, None)
    assert probe.sent() == []


@pytest.mark.parametrize("src", HOSTS)
def test_g2_any_host_may_send(src):
    assert two_addresses().input(packet(src=src))[0] == R.DROP_NONE


@pytest.mark.parametrize(
    "dst,broadcast",
    [
        (US, False),
        ("192.168.7.33", False),
        ("255.255.255.255", True),
        ("10.0.0.255", True),
        ("192.168.7.63", True),
        ("224.0.0.1", True),
    ],
)
def test_destinations_that_are_ours(dst, broadcast):
    reason, got = two_addresses().input(packet(dst=dst))
    assert (reason, got.broadcast) == (R.DROP_NONE, broadcast)


def test_groups_that_nobody_joined_are_not_ours():
    assert two_addresses().input(packet(dst="239.255.255.250")) == (R.DROP_MULTICAST, None)


@pytest.mark.parametrize(
    "dst",
    [
        "10.0.0.3",
        "10.0.0.0",
        "10.0.1.255",
        "127.0.0.1",
        "0.0.0.0",
        "240.0.0.1",
        "192.168.7.255",
        "8.8.8.8",
        "255.255.255.254",
    ],
)
def test_destinations_that_are_not(dst):
    assert two_addresses().input(packet(dst=dst)) == (R.DROP_IP_DESTINATION, None)


def test_short_prefixes_have_no_broadcast_address():
    for text, other in (("10.0.0.0/31", "10.0.0.1"), ("10.0.0.1/32", "10.0.0.1")):
        probe = InterfaceProbe((text,))
        assert probe.input(packet(dst=other, src="10.9.9.9"))[0] == (
            R.DROP_NONE if text.endswith("32") else R.DROP_IP_DESTINATION
        )
        assert probe.input(packet(src="10.0.0.255", dst=text.split("/")[0]))[0] == R.DROP_NONE


def test_the_loopback_takes_what_no_wire_may_bring():
    probe = InterfaceProbe(("127.0.0.1/8", "10.0.0.1/32"), loopback=True)
    for src, dst in (
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "127.8.8.8"),
        (US, US),
        (US, "127.255.255.255"),
    ):
        reason, got = probe.input(packet(src=src, dst=dst))
        assert (reason, got.src, got.dst, got.broadcast) == (R.DROP_NONE, src, dst, False)


# ---- addresses of an interface -----------------------------------------------------------


def test_addresses_are_added_found_and_removed():
    probe = InterfaceProbe(())
    assert probe.add_address("10.0.0.1/24") == 0
    assert probe.add_address("10.0.0.1/16") == -errno.EEXIST
    assert probe.add_address("10.0.1.1/24") == 0
    assert (probe.has_address("10.0.0.1"), probe.has_address("10.0.0.2")) == (True, False)
    assert (probe.on_link("10.0.0.77"), probe.on_link("10.0.1.77"), probe.on_link("10.0.2.1")) == (
        True,
        True,
        False,
    )
    assert probe.remove_address("10.0.0.1") == 0
    assert probe.remove_address("10.0.0.1") == -errno.EADDRNOTAVAIL
    assert not probe.has_address("10.0.0.1") and probe.has_address("10.0.1.1")
    assert probe.input(packet(dst="10.0.1.1"))[0] == R.DROP_NONE
    assert probe.input(packet())[0] == R.DROP_IP_DESTINATION


@pytest.mark.parametrize("text", ["0.0.0.0/8", "224.0.0.1/32", "255.255.255.255/32", "240.0.0.1/24", "10.0.0.1/33"])
def test_an_address_no_host_can_have_is_refused(text):
    assert InterfaceProbe(()).add_address(text) == -errno.EINVAL


def test_an_interface_holds_sixteen_addresses():
    probe = InterfaceProbe([f"10.0.{i}.1/24" for i in range(16)])
    assert probe.add_address("10.0.16.1/24") == -errno.ENOSPC
    assert probe.input(packet(dst="10.0.7.1"))[0] == R.DROP_NONE


def test_a_loopback_has_all_of_its_prefix():
    assert InterfaceProbe(("127.0.0.1/8",), loopback=True).has_address("127.99.1.1")
    assert not InterfaceProbe(("10.0.0.1/8",)).has_address("10.99.1.1")


# ---- out ------------------------------------------------------------------------------------


def test_on_ip_media_a_packet_is_sent_as_it_is():
    probe = InterfaceProbe()
    data = packet(src=US, dst=PEER)
    assert probe.send(PEER, data, 77) == CLAIM_OK
    assert probe.sent() == [(data, 77)]
    assert (probe.counters["packets_out"], probe.counters["bytes_out"]) == (1, len(data))


@pytest.mark.parametrize(
    "dst,mac",
    [
        ("255.255.255.255", "ff:ff:ff:ff:ff:ff"),
        ("10.0.0.255", "ff:ff:ff:ff:ff:ff"),
        ("224.0.0.1", "01:00:5e:00:00:01"),
        ("239.255.255.250", "01:00:5e:7f:ff:fa"),
        ("224.129.2.3", "01:00:5e:01:02:03"),
    ],
)
def test_groups_need_no_arp(dst, mac):
    probe = InterfaceProbe(media="ethernet")
    data = packet(src=US, dst=dst)
    assert probe.send(dst, data, 5) == CLAIM_OK
    assert probe.sent() == [(ethernet.build(mac, OUR_MAC, 0x800, data), 5)]


def test_a_full_link_is_backpressure_and_nothing_is_lost():
    probe = InterfaceProbe()
    probe.fill(True)
    assert probe.send(PEER, packet(src=US, dst=PEER)) == CLAIM_FULL
    probe.fill(False)
    assert probe.send(PEER, packet(src=US, dst=PEER)) == CLAIM_OK
    assert len(probe.sent()) == 1
    assert not any(name.startswith("drop_") for name in probe.counters)


def test_a_claim_that_is_not_committed_leaves_nothing():
    probe = InterfaceProbe()
    assert probe.send(PEER, packet(src=US, dst=PEER), commit=False) == CLAIM_OK
    assert probe.send(PEER, packet(src=US, dst=PEER, payload=b"2"), 2) == CLAIM_OK
    assert probe.sent() == [(packet(src=US, dst=PEER, payload=b"2"), 2)]


# ---- anything at all ------------------------------------------------------------------------------


@pytest.mark.parametrize("media", ["ip", "ethernet"])
def test_random_and_mutated_frames_are_handed_on_or_counted(media):
    rng = random.Random(791)
    probe = two_addresses(media=media)
    seen = set()
    seeds = [
        packet(),
        packet(dst="255.255.255.255"),
        packet(payload=bytes(300)),
        bytes(IP(src=PEER, dst=US, options=[IPOption_NOP()] * 12) / UDP() / b"x"),
    ]
    for _ in range(scale(200_000)):
        data = bytearray(rng.choice(seeds) if rng.random() < 0.9 else rng.randbytes(rng.randrange(80)))
        for _ in range(rng.randrange(3) if data else 0):
            data[rng.randrange(min(len(data), 60))] = rng.randrange(256)
        if rng.random() < 0.6 and len(data) >= 20:
            data[10:12] = b"\0\0"
            data[10:12] = checksum(data)
        data = bytes(data[: rng.choice((len(data), len(data), rng.randrange(len(data) + 1)))])
        if media == "ethernet":
            data = frame(data, ethertype=rng.choice((0x800, 0x800, 0x800, 0x806, 0x86DD)))
        split = rng.choice((-1, -1, 28, 34, 42, rng.randrange(len(data) + 1)))
        reason, got = probe.input(data, split=split, transport_header=rng.choice((0, 8, 20, 60)))
        assert (reason == R.DROP_NONE) == (got is not None)
        seen.add(reason)
        if got is not None and got.protocol != 255:
            assert 20 <= got.header_length <= len(got.header) <= 128
            assert got.length <= len(data)
    assert seen >= {
        R.DROP_NONE,
        R.DROP_IP_VERSION,
        R.DROP_IP_HEADER_LENGTH,
        R.DROP_IP_TOTAL_LENGTH,
        R.DROP_IP_CHECKSUM,
        R.DROP_IP_FRAGMENT,
        R.DROP_IP_SOURCE,
        R.DROP_IP_DESTINATION,
        R.DROP_LINK_MALFORMED,
    }


def checksum(data: bytearray) -> bytes:
    """The checksum of the header that starts data, as its length field would have it."""
    head = bytes(data[: max(20, (data[0] & 15) * 4)])
    head += b"\0" * (len(head) % 2)
    total = sum(int.from_bytes(head[i : i + 2], "big") for i in range(0, len(head), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")
