"""Rows H1 to H4 at an uplink that speaks IPv6: solicitations, advertisements, and who is believed (RFC 4861, 6583)."""

import pytest
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.security.test_h_uplink import EVIL_MAC, OUR_MAC, Uplink

A, GATEWAY, FRIEND, ROUTER = "fd77::2", "2001:db8::1", "2001:db8::9", "2001:db8::2"
LINK_LOCAL = "fe80::ff:fe00:77"                  # of OUR_MAC
MACS = {GATEWAY: "02:00:00:00:00:01", FRIEND: "02:00:00:00:00:09"}


def group(address):
    """(Ethernet address, solicited-node group) of an address whose last 24 bits are small."""
    last = int(address.rpartition(":")[2] or "0", 16)
    return f"33:33:ff:00:{last >> 8:02x}:{last & 255:02x}", f"ff02::1:ff00:{last:x}"


class Uplink6(Uplink):
    def __init__(self):
        super().__init__(own=[f"{ROUTER}/64"], gateways=[GATEWAY], pools=["fd77::/64"], address=A)

    def send(self, dst, stack=None):
        """A packet of an attachment; what went onto the wire."""
        stack = stack or self.a
        stack.send(IPv6(src=stack.address, dst=dst, hlim=9) / ICMPv6EchoRequest())
        self.run()
        return self.take()

    def known(self, address):
        asked, = self.send(address)
        assert (asked.dst, asked[IPv6].dst) == group(address) and asked[ICMPv6ND_NS].tgt == address
        assert asked[IPv6].hlim == 255 and asked[IPv6].src == ROUTER and asked[ICMPv6NDOptSrcLLAddr].lladdr == OUR_MAC
        sent, = self.say(advertisement(address, MACS[address]))
        assert sent.dst == MACS[address] and ICMPv6EchoRequest in sent and sent[IPv6].hlim == 8
        return self


@pytest.fixture
def uplink():
    u = Uplink6()
    yield u
    u.check()
    u.close()


def advertisement(address, mac, to=ROUTER, S=1, hlim=255, link=True, **more):
    option = ICMPv6NDOptDstLLAddr(lladdr=mac) if link else Raw(b"")
    return Ether(src=mac, dst=OUR_MAC) / IPv6(src=more.get("src", address), dst=to, hlim=hlim) / ICMPv6ND_NA(
        tgt=address, S=S, O=1, R=0, code=more.get("code", 0)) / option


def solicitation(about, src=FRIEND, mac=None, hlim=255, link=True, **more):
    mac = mac or MACS.get(src, EVIL_MAC)
    ethernet, ip = group(about)
    return Ether(src=mac, dst=ethernet) / IPv6(src=src, dst=more.get("dst", ip), hlim=hlim) / ICMPv6ND_NS(tgt=about) / (
        ICMPv6NDOptSrcLLAddr(lladdr=mac) if link else Raw(b""))


@pytest.mark.parametrize("about, router", [(A, 0), (ROUTER, 1), (LINK_LOCAL, 1)])
def test_h3_the_router_answers_for_what_it_hosts(uplink, about, router):
    frame = solicitation(about)
    if about == LINK_LOCAL:
        frame.dst, frame[IPv6].dst = "33:33:ff:00:00:77", "ff02::1:ff00:77"
    answer, = uplink.say(frame)
    na = answer[ICMPv6ND_NA]
    assert (answer.dst, answer[IPv6].dst, answer[IPv6].src) == (MACS[FRIEND], FRIEND, about)
    assert (na.tgt, na.S, na.O, na.R, answer[IPv6].hlim) == (about, 1, 1, router, 255)
    assert answer[ICMPv6NDOptDstLLAddr].lladdr == OUR_MAC
    again = IPv6(bytes(answer[IPv6]))
    del again[ICMPv6ND_NA].cksum
    assert IPv6(bytes(again))[ICMPv6ND_NA].cksum == na.cksum


def test_h3_who_tries_an_address_that_is_taken_is_told_like_everybody(uplink):
    """Duplicate address detection (RFC 4862 section 5.4.3): from ::, answered to all nodes."""
    answer, = uplink.say(solicitation(A, src="::", mac=EVIL_MAC, link=False))
    assert (answer.dst, answer[IPv6].dst) == ("33:33:00:00:00:01", "ff02::1") and answer[ICMPv6ND_NA].S == 0


def broken():
    """Neighbour messages that must not be listened to (RFC 4861 section 7.1.1)."""
    bad_sum = solicitation(A)
    bad_sum[ICMPv6ND_NS].cksum = 7
    no_option = Ether(bytes(solicitation(A))[:-7] + b"\0" + bytes(6))
    return {
        "over a router": solicitation(A, hlim=254), "checksum": bad_sum, "option of no length": no_option,
        "a group's address": solicitation(A, mac="03:00:00:00:00:01"), "target a group": solicitation(A) and Ether(
            bytes(solicitation("ff02::1"))),
        "from :: with an address": solicitation(A, src="::", mac=EVIL_MAC),
        "from :: to one": solicitation(A, src="::", dst=A, link=False, mac=EVIL_MAC),
        "cut short": Ether(bytes(solicitation(A))[:60]), "not ours": solicitation("fd77::9"),
    }


@pytest.mark.parametrize("kind", broken())
def test_h2_questions_that_are_not_answered(uplink, kind):
    assert uplink.say(broken()[kind]) == []


def lies(address):
    """Ways to say that an address is at EVIL_MAC without having been asked, and broken answers."""
    return {
        "unsolicited, override": advertisement(address, EVIL_MAC, to="ff02::1", S=0),
        "solicited, override": advertisement(address, EVIL_MAC),
        "solicited, not to us": advertisement(address, EVIL_MAC, to=A),
        "over a router": advertisement(address, EVIL_MAC, hlim=64),
        "question": solicitation(ROUTER, src=address, mac=EVIL_MAC),
        "redirect": Ether(src=EVIL_MAC, dst=OUR_MAC) / IPv6(src=address, dst=ROUTER, hlim=255) / ICMPv6ND_Redirect(
            tgt=FRIEND, dst="2001:db8:5::1") / ICMPv6NDOptDstLLAddr(lladdr=EVIL_MAC),
    }


@pytest.mark.parametrize("kind", lies(GATEWAY))
def test_h1_nothing_said_unasked_makes_an_ipv6_neighbour(uplink, kind):
    uplink.say(lies(GATEWAY)[kind])
    assert uplink.forwarder.neighbors(uplink.port) == {}
    asked, = uplink.send(GATEWAY)
    assert asked.dst == group(GATEWAY)[0]


@pytest.mark.parametrize("kind", lies(GATEWAY))
def test_h3_an_override_leaves_the_entry_and_the_neighbour_is_asked(uplink, kind):
    """Against RFC 4861 section 7.2.5, which takes the new address at once."""
    uplink.known(GATEWAY)
    before = uplink.conflicts
    uplink.say(lies(GATEWAY)[kind])
    assert uplink.conflicts - before == (kind not in ("over a router", "redirect"))
    assert [f.dst for f in uplink.send("2001:db8:7::7")] == [MACS[GATEWAY]]


@pytest.mark.parametrize("broken_answer", [
    advertisement(GATEWAY, EVIL_MAC, link=False), advertisement(GATEWAY, EVIL_MAC, S=0),
    advertisement(GATEWAY, EVIL_MAC, hlim=1), advertisement(GATEWAY, EVIL_MAC, code=1),
    advertisement(GATEWAY, EVIL_MAC, to=FRIEND), advertisement(GATEWAY, "03:00:00:00:00:01"),
], ids=["without an address", "unsolicited", "over a router", "code", "to another", "a group's"])
def test_h3_answers_that_are_none(uplink, broken_answer):
    uplink.send(GATEWAY)
    assert uplink.say(broken_answer) == []
    assert uplink.forwarder.neighbors(uplink.port) == {GATEWAY: (None, 1)}
    sent, = uplink.say(advertisement(GATEWAY, MACS[GATEWAY]))
    assert sent.dst == MACS[GATEWAY]


def test_h2_a_scan_of_a_network_evicts_nobody_and_leaves_places():
    uplink = Uplink6().freeze()
    try:
        uplink.known(GATEWAY).known(FRIEND)
        stacks = [uplink.a, *(uplink.stack(f"fd77::1:{n}") for n in range(1, 7))]
        asked = {f[ICMPv6ND_NS].tgt for i, stack in enumerate(stacks[:2]) for n in range(150)
                 for f in uplink.send(f"2001:db8::{i + 1}:{n + 16:x}", stack) if ICMPv6ND_NS in f}
        assert len(asked) == 2 * 128, "each attachment has its part of what may be asked for"
        for i, stack in enumerate(stacks[2:]):
            asked |= {f[ICMPv6ND_NS].tgt for n in range(130)
                      for f in uplink.send(f"2001:db8::{i + 5}:{n + 16:x}", stack) if ICMPv6ND_NS in f}
        assert len(asked) == 512, "and all have half of the table"
        for address in (GATEWAY, FRIEND):
            assert [f.dst for f in uplink.send(address) if ICMPv6EchoRequest in f] == [MACS[address]]
        uplink.check()
    finally:
        uplink.close()


def test_h3_a_link_local_gateway_is_asked_from_a_link_local_address():
    uplink = Uplink(own=[], gateways=["fe80::1"], pools=["fd77::/64"], address=A)
    try:
        uplink.a.send(IPv6(src=A, dst="2001:db8:7::7") / ICMPv6EchoRequest())
        uplink.run()
        asked, = uplink.take()
        assert asked[IPv6].src == LINK_LOCAL and asked[ICMPv6ND_NS].tgt == "fe80::1"
        sent, = uplink.say(advertisement("fe80::1", MACS[GATEWAY], to=LINK_LOCAL))
        assert sent.dst == MACS[GATEWAY] and sent[IPv6].dst == "2001:db8:7::7"
    finally:
        uplink.close()
