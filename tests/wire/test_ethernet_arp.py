"""Ethernet and ARP: what we build scapy reads, what scapy builds we read, nothing malformed passes."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import ARP, Ether

from netstack.counters import DropReason
from netstack.errors import PacketError
from netstack.wire import arp, ethernet
from tests.support import scale

macs = st.binary(min_size=6, max_size=6)
station_macs = macs.map(lambda m: bytes([m[0] & 0xFE]) + m[1:])
addresses = st.integers(0x01000000, 0x7EFFFFFF).map(lambda n: ".".join(str(b) for b in n.to_bytes(4, "big")))


@given(macs, station_macs, st.integers(0x600, 0xFFFF), st.binary(max_size=64))
def test_a_frame_comes_back_as_it_was_built_and_scapy_agrees(dst, src, ethertype, payload):
    frame = ethernet.build(dst, src, ethertype, payload)
    assert ethernet.parse(frame) == (dst.hex(":"), src.hex(":"), ethertype, payload)
    judge = Ether(frame)
    assert (judge.dst, judge.src, judge.type) == (dst.hex(":"), src.hex(":"), ethertype)


@pytest.mark.parametrize("length", range(14))
def test_a_frame_shorter_than_its_header_is_refused(length):
    with pytest.raises(PacketError) as refusal:
        ethernet.parse(bytes(length))
    assert refusal.value.reason == DropReason.DROP_LINK_MALFORMED


def test_a_group_address_as_source_is_refused():
    with pytest.raises(PacketError):
        ethernet.parse(bytes.fromhex("020000000001 030000000002 0800"))


@pytest.mark.parametrize("mac", ["02:00:00:00:00", "02:00:00:00:00:00:01", b"12345", "zz:00:00:00:00:01"])
def test_an_address_that_is_none_raises(mac):
    with pytest.raises(ValueError):
        ethernet.build(mac, "02:00:00:00:00:01", 0x800)


@given(st.sampled_from([arp.REQUEST, arp.REPLY]), station_macs, addresses, macs, addresses)
def test_an_arp_packet_comes_back_as_it_was_built_and_scapy_agrees(
    operation, sender_mac, sender, target_mac, target
):
    packet = arp.build(operation, sender_mac, sender, target_mac, target)
    assert len(packet) == 28
    assert arp.parse(packet + b"padding") == (
        operation,
        sender_mac.hex(":"),
        sender,
        target_mac.hex(":"),
        target,
    )
    judge = ARP(packet)
    assert (judge.op, judge.hwsrc, judge.psrc, judge.hwdst, judge.pdst) == (
        operation,
        sender_mac.hex(":"),
        sender,
        target_mac.hex(":"),
        target,
    )
    rebuilt = ARP(
        op=operation, hwsrc=sender_mac.hex(":"), psrc=sender, hwdst=target_mac.hex(":"), pdst=target
    )
    assert bytes(rebuilt) == packet


GOOD = arp.build(arp.REPLY, "02:00:00:00:00:02", "10.0.0.2", "02:00:00:00:00:01", "10.0.0.1")
MALFORMED = {
    "hardware type": (0, 2, b"\x00\x06"),
    "protocol type": (2, 4, b"\x86\xdd"),
    "hardware length": (4, 5, b"\x08"),
    "protocol length": (5, 6, b"\x10"),
    "operation 0": (6, 8, b"\x00\x00"),
    "operation 3": (6, 8, b"\x00\x03"),
    "sender is a group": (8, 9, b"\x01"),
    "sender 127.0.0.2": (14, 15, b"\x7f"),
    "sender 224.0.0.2": (14, 15, b"\xe0"),
    "sender 255.255.255.255": (14, 18, b"\xff\xff\xff\xff"),
    "sender 0.0.0.2": (14, 15, b"\x00"),
}


@pytest.mark.parametrize("start,end,value", MALFORMED.values(), ids=MALFORMED)
def test_malformed_arp_is_refused(start, end, value):
    with pytest.raises(PacketError) as refusal:
        arp.parse(GOOD[:start] + value + GOOD[end:])
    assert refusal.value.reason == DropReason.DROP_ARP_MALFORMED


@pytest.mark.parametrize("length", range(28))
def test_short_arp_is_refused(length):
    with pytest.raises(PacketError):
        arp.parse(GOOD[:length])


def test_an_address_probe_has_no_sender_address():
    probe = arp.build(arp.REQUEST, "02:00:00:00:00:02", "0.0.0.0", bytes(6), "10.0.0.1")
    assert arp.parse(probe).sender == "0.0.0.0"


def test_random_and_mutated_arp_is_read_or_refused():
    rng = random.Random(20)
    outcomes = set()
    for _ in range(scale(100_000)):
        data = bytearray(GOOD)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(28)] = rng.randrange(256)
        data = bytes(data[: rng.choice((28, 28, 28, rng.randrange(29)))])
        try:
            arp.parse(data)
            outcomes.add("read")
        except PacketError as refusal:
            assert refusal.reason == DropReason.DROP_ARP_MALFORMED
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
