"""Rows A9, A12, B8, G3, G4, H1 to H4 of the checklist over IPv6: an Ethernet with somebody hostile on it."""

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.packet import Raw

from netstack.testing.packets import build_ipv6, checksum
from tests.ip.nd_rig import (
    EVIL_MAC,
    OTHER,
    PEER,
    PEER_MAC,
    ROUTER,
    ROUTER_MAC,
    US,
    Link,
    advertisement,
    solicitation,
    solicited_node,
)
from tests.ip.test_ndp import advertisement_of_router, first_hop, prefix
from tests.support import scale


def with_options(packet, options: bytes) -> IPv6:
    """The message with raw options behind it, its sum right."""
    data = bytes(packet)
    body = data[40:42] + b"\0\0" + data[44:] + options
    total = checksum(data[8:40] + len(body).to_bytes(4, "big") + b"\0\0\0\x3a" + body)
    return IPv6(build_ipv6(packet.src, packet.dst, 58, body[:2] + total.to_bytes(2, "big") + body[4:], ttl=255))


MESSAGES = {
    "solicitation": IPv6(src=PEER, dst=solicited_node(US), hlim=255) / ICMPv6ND_NS(tgt=US),
    "advertisement": IPv6(src=PEER, dst=US, hlim=255) / ICMPv6ND_NA(tgt=PEER, S=1),
    "router": IPv6(src=ROUTER, dst="ff02::1", hlim=255) / ICMPv6ND_RA(routerlifetime=1800),
    "redirect": IPv6(src=ROUTER, dst=US, hlim=255) / ICMPv6ND_Redirect(tgt="fe80::5", dst="2001:db8::1"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a12_an_option_of_length_0_or_beyond_the_message_drops_it_whole(name):
    link_option = bytes([1, 1]) + bytes.fromhex(PEER_MAC.replace(":", ""))
    for length in range(256):
        for before in (b"", link_option):
            link = Link(accept_ra=1, accept_redirects=1)
            options = before + bytes([77, length]) + bytes(14)      # 16 bytes: one option of length 2, nothing else
            link.give(with_options(MESSAGES[name], options))
            assert link.drops().get("drop_nd_invalid", 0) == (length != 2), (length, link.drops())


def test_a12_name_servers_of_even_length_are_none():
    for length in range(256):
        link = Link(accept_ra=1)
        option = bytes([25, length, 0, 0, 0, 0, 0, 60]) + b"\x20\x01\x0d\xb8" + bytes(12)
        option = (option + b"\x20\x01\x0d\xb8" + bytes(11) + b"\1") if length != 3 else option
        option = (option + bytes(8 * 256))[:8 * length] if length else option
        if len(option) > 1400:
            option = option[:1400]
        link.give(with_options(MESSAGES["router"], option))
        if length == 0 or 8 * length > 1400:
            assert link.drops()["drop_nd_invalid"] == 1
        else:
            assert bool(link.stack.name_servers) == (length >= 3 and length % 2 == 1), length


@pytest.mark.parametrize("name", MESSAGES)
def test_b8_discovery_in_fragments_is_ignored(name):
    link = Link(accept_ra=1, accept_redirects=1)
    link.send()
    packet = MESSAGES[name]
    whole = IPv6(src=packet.src, dst=packet.dst, hlim=255) / IPv6ExtHdrFragment(nh=58, id=9) / bytes(packet)[40:]
    link.dropped(whole, "nd_invalid")
    first = IPv6(src=packet.src, dst=packet.dst, hlim=255) / IPv6ExtHdrFragment(nh=58, id=9, m=1) / bytes(packet)[40:56]
    assert link.give(first) == []
    assert link.stack.name_servers == [] and first_hop(link) is None


def test_a9_echo_of_any_length_is_answered_with_what_came_and_nothing_else():
    for size in range(0, 9):
        link = Link().known()
        data = bytes([128, 0, 0, 0, 1, 2, 3, 4])[:size]
        packet = build_ipv6(PEER, US, 58, data)
        if size >= 4:
            total = checksum(packet[8:40] + size.to_bytes(4, "big") + b"\0\0\0\x3a" + data)
            packet = packet[:42] + total.to_bytes(2, "big") + packet[44:]
        answers = link.give(IPv6(packet))
        if size < 8:
            assert answers == [] and link.drops() == {"drop_icmp_length": 1}
        else:
            assert bytes(answers[0][ICMPv6EchoReply])[4:] == bytes([1, 2, 3, 4])


@pytest.mark.parametrize("packet", [
    IPv6(src=PEER, dst="ff02::1") / ICMPv6EchoRequest(),
    IPv6(src=PEER, dst="ff02::1") / UDP(dport=9),
    IPv6(src=PEER, dst="ff02::1", nh=200) / Raw(bytes(8)),
    IPv6(src="::", dst=US) / ICMPv6EchoRequest(),
    IPv6(src=PEER, dst=US) / ICMPv6DestUnreach(code=4) / Raw(bytes(IPv6(src=PEER, dst=US) / UDP(dport=9))),
    IPv6(src=PEER, dst=US) / ICMPv6DestUnreach(type=77) / Raw(bytes(48)),
    IPv6(src=PEER, dst=US) / IPv6ExtHdrFragment(nh=17, offset=10, m=0) / Raw(bytes(8)),
])
def test_g3_what_must_not_be_answered_is_met_with_silence(packet):
    assert Link().known().give(packet) == []


def test_g3_a_packet_to_one_in_a_frame_to_all_is_met_with_silence():
    link = Link().known()
    for packet in (IPv6(src=PEER, dst=US) / ICMPv6EchoRequest(), IPv6(src=PEER, dst=US) / UDP(dport=9)):
        assert link.give(packet, dst="33:33:00:00:00:01") == []


def test_g4_routers_are_not_heard_unless_that_is_wanted_and_redirects_change_nothing():
    link = Link()
    link.dropped(advertisement_of_router() / prefix(A=1), "nd_ignored", src=ROUTER_MAC)
    link.dropped(MESSAGES["redirect"], "nd_ignored", src=ROUTER_MAC)
    link.run(100)
    assert link.take() == [] and first_hop(link) is None
    assert [a for a in link.stack.addresses if "%" not in a] == [US]
    link = Link(accept_ra=1)
    link.give(advertisement_of_router(), src=ROUTER_MAC)
    redirect = IPv6(src=ROUTER, dst=US, hlim=255) / ICMPv6ND_Redirect(tgt="fe80::66", dst="2001:db9::7")
    link.dropped(redirect, "nd_ignored", src=EVIL_MAC)
    assert first_hop(link) == ROUTER


@pytest.mark.parametrize("packet", [
    advertisement_of_router(src="fd00::99"), advertisement_of_router(src="::"),
    IPv6(src=ROUTER, dst="ff02::1", hlim=254) / ICMPv6ND_RA(routerlifetime=1800),
    IPv6(src=ROUTER, dst="ff02::1", hlim=255) / ICMPv6ND_RA(routerlifetime=1800, code=1),
    IPv6(bytes(IPv6(src=ROUTER, dst="ff02::1", hlim=255) / ICMPv6ND_RA())[:55]),
])
def test_g4_an_advertisement_that_fails_a_check_makes_no_router(packet):
    link = Link(accept_ra=1)
    assert link.give(packet, src=ROUTER_MAC) == []
    assert first_hop(link) is None


def test_h1_an_advertisement_nobody_asked_for_changes_nothing():
    link = Link()
    link.dropped(advertisement(mac=EVIL_MAC), "nd_unsolicited", src=EVIL_MAC)
    link.known()
    for packet in (advertisement(mac=EVIL_MAC, S=0), advertisement(mac=EVIL_MAC, S=1, O=0), advertisement(mac=EVIL_MAC),
                   advertisement(mac=EVIL_MAC, dst="ff02::1", S=0)):
        link.give(packet, src=EVIL_MAC)
    sent = link.send()
    assert [f.dst for f in sent if UDP in f] == [PEER_MAC]


def test_h2_a_scan_never_evicts_neighbours_in_use():
    link = Link().known().known(OTHER, "02:00:00:00:00:03")
    for n in range(scale(50_000, minimum=2000)):
        s = link.stack.socket("dgram", family=10)
        try:
            s.sendto(b"x", (f"fd00::{n >> 16:x}:{n & 0xFFFF:x}:1", 9))
        except OSError:
            pass
        s.close()
        if n % 1000 == 999:
            link.run(1)
            while link.stack.pop_output() is not None:
                pass
    for address, mac in ((PEER, PEER_MAC), (OTHER, "02:00:00:00:00:03")):
        sent = [f for f in link.send(to=address) if UDP in f]
        assert [f.dst for f in sent] == [mac]
    assert link.drops()["drop_neighbor_queue"] > 0


def test_h3_an_override_makes_us_ask_the_station_we_know_and_it_keeps_its_entry_while_it_answers():
    link = Link().known()
    link.run(2)
    asked, = link.give(advertisement(mac=EVIL_MAC, O=1), src=EVIL_MAC)
    assert asked.dst == PEER_MAC and asked[ICMPv6ND_NS].tgt == PEER
    assert [f.dst for f in link.send()] == [PEER_MAC]
    link.give(advertisement())
    link.run(30)
    assert link.take() == [] and [f.dst for f in link.send() if UDP in f] == [PEER_MAC]


def test_h3_an_override_is_honoured_when_the_station_we_knew_does_not_answer():
    link = Link().known()
    link.run(2)
    link.give(advertisement(mac=EVIL_MAC, O=1), src=EVIL_MAC)
    link.run(4)
    link.take()
    asked, = link.send(b"who has it now")
    assert asked[IPv6].dst == solicited_node(PEER)
    sent, = link.give(advertisement(mac=EVIL_MAC), src=EVIL_MAC)
    assert sent.dst == EVIL_MAC


def test_h3_claims_to_our_address_are_counted_and_answered_once_in_ten_seconds():
    link = Link()
    sent = []
    for _ in range(50):
        sent += link.give(advertisement(US, EVIL_MAC, dst="ff02::1", src="fe80::66", S=0), src=EVIL_MAC)
        link.run(0.1)
    assert len(sent) == 1 and sent[0][ICMPv6ND_NA].tgt == US
    assert US in link.stack.addresses


@pytest.mark.timeout(1200)             # scapy makes each packet
def test_h4_a_flood_of_solicitations_makes_no_neighbours():
    link = Link().known()
    before = len(link.stack.snapshot())
    for n in range(scale(100_000, minimum=2000)):
        source = f"fd00::{n >> 16:x}:{n & 0xFFFF:x}:2"
        link.give(solicitation(src=source, mac=f"02:00:01:{n >> 16 & 255:02x}:{n >> 8 & 255:02x}:{n & 255:02x}"))
    assert [f.dst for f in link.send()] == [PEER_MAC]
    assert len(link.stack.snapshot()) < before + 200, "numbers may be longer, tables are not"

