"""Row I5: nothing but IP packets gets from a stack to an uplink's device."""

import random

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_RA, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

from tests.router.lan import put
from tests.security.test_h_uplink import EVIL_MAC, FRIEND, GATEWAY, A, Uplink
from tests.support import scale


@pytest.fixture
def uplink():
    u = Uplink().known(GATEWAY)
    yield u
    u.check()
    u.close()


def raw():
    """What a stack may write that wants to be more than a station of IP, by name."""
    packet = IP(src=A, dst="198.51.100.7") / ICMP()
    return {
        "a frame": Ether(src=EVIL_MAC, dst="ff:ff:ff:ff:ff:ff") / packet,
        "a tagged frame": Ether(src=EVIL_MAC, dst="02:00:00:00:00:01") / Dot1Q(vlan=7) / packet,
        "ARP": ARP(op=2, hwsrc=EVIL_MAC, psrc=GATEWAY, pdst=FRIEND),
        "a frame of ARP": Ether(src=EVIL_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(op=2, hwsrc=EVIL_MAC, psrc=GATEWAY),
        "IP version 5": b"\x55" + bytes(packet)[1:], "nothing": b"\0" * 60, "one byte": b"\x45",
    }


@pytest.mark.parametrize("kind", raw())
def test_i5_what_is_no_ip_packet_is_dropped(uplink, kind):
    uplink.a.send(raw()[kind])
    uplink.run()
    assert uplink.take() == []
    assert uplink.a.drops() == {"in_malformed": 1}


@pytest.mark.parametrize("kind", [2, 3])
def test_i5_records_of_other_kinds_are_dropped(uplink, kind):
    assert put(uplink.a.channel, IP(src=A, dst="198.51.100.7") / ICMP(), kind=kind)
    uplink.a.channel.flush()
    uplink.run()
    assert uplink.take() == []


@pytest.mark.parametrize("message", [ICMPv6ND_RA(), ICMPv6ND_NA(tgt="fe80::1")])
def test_i5_a_stack_speaks_for_no_router_and_no_neighbour(message):
    """Messages of one link do not leave the one between stack and router."""
    uplink = Uplink(own=["2001:db8::2/64"], pools=["fd77::/64"], address="fd77::2")
    try:
        for source in ("fd77::2", "fe80::1"):
            for destination in ("ff02::1", "fe80::9"):
                uplink.a.send(IPv6(src=source, dst=destination, hlim=255) / message)
        uplink.run()
        assert uplink.take() == [] and sum(uplink.a.drops().values()) == 4
    finally:
        uplink.close()


def test_i5_random_bytes_reach_the_wire_as_ip_to_the_neighbour_or_not_at_all(uplink):
    rng = random.Random(5)
    packet = bytes(IP(src=A, dst="198.51.100.7") / ICMP())
    for _ in range(scale(20_000)):
        mutant = bytearray(packet + rng.randbytes(rng.randrange(60)))
        for _ in range(rng.randrange(1, 4)):
            mutant[rng.randrange(len(mutant))] = rng.randrange(256)
        uplink.a.send(bytes(mutant[:rng.randrange(1, len(mutant) + 1)]))
        uplink.forwarder.run_once()
        for frame in uplink.take():
            assert (frame.type, frame.dst, frame[IP].src) == (0x0800, "02:00:00:00:00:01", A) or ARP in frame
    uplink.a.send(packet)
    uplink.run()
    assert len(uplink.take()) == 1
