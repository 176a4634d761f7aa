"""Rows H1, H2 over ARP and G4 over discovery, where the rows' other tests leave something open."""

import pytest
from scapy.layers.inet6 import ICMPv6ND_Redirect, IPv6

from netstack.counters import DropReason as R
from netstack.testing.probe import InterfaceProbe
from netstack.wire import arp, ethernet, ipv4
from tests.ip.nd_rig import PEER as PEER6
from tests.ip.nd_rig import ROUTER, ROUTER_MAC, Link
from tests.ip.nd_rig import US as US6
from tests.ip.test_ndp import advertisement_of_router, first_hop

S = 1_000_000_000
US, PEER, OTHER = "10.0.0.1", "10.0.0.2", "10.0.0.3"
OUR_MAC, PEER_MAC, EVIL_MAC, OTHER_MAC = (f"02:00:00:00:00:{n:02x}" for n in (1, 2, 0x66, 3))
SENT, DROPPED = 0, -3


def station() -> InterfaceProbe:
    return InterfaceProbe((f"{US}/8",), media="ethernet", mac=OUR_MAC)


def packet(dst: str) -> bytes:
    return ipv4.build(US, dst, 17, bytes(8))


def answer(sender_mac: str, sender: str, target_mac: str = OUR_MAC, target: str = US) -> bytes:
    return ethernet.build(OUR_MAC, sender_mac, 0x806, arp.build(arp.REPLY, sender_mac, sender, target_mac, target))


def known(table: InterfaceProbe, address: str, mac: str, now: int) -> None:
    assert table.send(address, packet(address), now) == SENT
    assert table.input(answer(mac, address), now)[0] == R.DROP_NONE
    table.sent()


def test_h1_an_answer_to_somebody_else_is_none():
    """While we ask, and while we check: an answer whose target is another station says nothing to us."""
    table = station()
    table.send(PEER, packet(PEER))
    table.sent()
    assert table.input(answer(EVIL_MAC, PEER, OTHER_MAC, OTHER))[0] == R.DROP_ARP_UNSOLICITED
    assert table.neighbors[PEER][0] == "incomplete" and table.sent() == []
    known(table, PEER, PEER_MAC, 1)
    table.send(PEER, packet(PEER), 40 * S)
    assert table.neighbors[PEER][0] == "probe"
    assert table.input(answer(PEER_MAC, PEER, OTHER_MAC, OTHER), 40 * S)[0] == R.DROP_ARP_UNSOLICITED
    assert table.neighbors[PEER][0] == "probe", "what is said to others is no proof that he hears us"


def test_h2_new_neighbours_do_not_take_the_places_of_those_in_use():
    """A full table of stations that answered: new ones, however many answer too, find no place within a minute."""
    table = station()
    friends = [f"10.1.{n // 256}.{n % 256}" for n in range(512)]
    for n, friend in enumerate(friends):
        known(table, friend, f"02:00:00:01:{n >> 8:02x}:{n & 255:02x}", n)
    for k in range(2000):
        now = S + k * 25_000_000
        assert table.send(f"10.2.{k // 256}.{k % 256}", packet(PEER), now) == DROPPED
        table.input(answer(EVIL_MAC, f"10.2.{k // 256}.{k % 256}"), now)
        if k % 100 == 0:
            for friend in friends:
                assert table.send(friend, packet(friend), now) == SENT
    table.sent()
    assert set(table.neighbors) == set(friends) and table.counters["drop_neighbor_queue"] == 2000


def redirect(src=ROUTER, target="fe80::98", dst="2001:db9::7") -> IPv6:
    return IPv6(src=src, dst=US6, hlim=255) / ICMPv6ND_Redirect(tgt=target, dst=dst)


def heard() -> Link:
    """A link where redirects are followed, with a default router that is known and a neighbour that is, too."""
    link = Link(accept_ra=1, accept_redirects=1).known()
    link.give(advertisement_of_router(), src=ROUTER_MAC)
    return link


@pytest.mark.parametrize("mac", [ROUTER_MAC, EVIL_MAC])
def test_g4_a_redirect_is_believed_of_the_first_hop_only(mac):
    """RFC 4861 section 8.1: from the router that leads there now; what is on the link has none."""
    link = heard()
    link.dropped(redirect(dst=PEER6, target="fe80::66"), "nd_ignored", src=mac)
    sent = link.send(to=PEER6)
    assert [f.dst for f in sent] == ["02:00:00:00:00:02"], "a neighbour stays a neighbour"
    link.dropped(redirect(src="fe80::98"), "nd_ignored", src=mac)
    assert first_hop(link) == ROUTER
    link.give(redirect(), src=mac)
    link.take()
    assert first_hop(link) == "fe80::98"
    link.dropped(redirect(src="fe80::98", target="fe80::66"), "nd_ignored", src=mac)
    assert first_hop(link) in ("fe80::98", "waits"), "nor does the new hop hand it on"


def test_g4_a_redirect_ends_when_the_hop_it_names_does_not_answer():
    link = heard()
    link.give(redirect(), src=ROUTER_MAC)
    assert first_hop(link) == "fe80::98"
    link.run(4)                                      # it does not answer
    link.take()
    assert first_hop(link) == ROUTER


def test_g4_a_snapshot_keeps_redirects_and_their_bound():
    from netstack.stack import Stack
    from netstack.testing.probe import route_count

    link = heard()
    own = route_count(link.stack)
    for n in range(40):
        link.give(redirect(dst=f"2001:db9::{n:x}"), src=ROUTER_MAC)
    assert route_count(link.stack) == own + 32
    link.stack = Stack.restore(link.stack.snapshot(), link.now)
    assert route_count(link.stack) == own + 32
    for n in range(40, 100):
        link.give(redirect(dst=f"2001:db9::{n:x}"), src=ROUTER_MAC)
    assert route_count(link.stack) == own + 32
    assert first_hop(link, "2001:db9::63") == "fe80::98"
