"""Neighbour discovery on virtual time: asking, answering, growing stale, routers, redirects (RFC 4861)."""

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)

from tests.ip.nd_rig import (
    EVIL_MAC,
    OTHER,
    OUR_MAC,
    PEER,
    PEER_MAC,
    ROUTER,
    ROUTER_MAC,
    US,
    Link,
    S,
    advertisement,
    group_mac,
    solicitation,
    solicited_node,
)


def question(frame, target=PEER, to=None):
    """Is it our solicitation for a target: of everybody, or of the station with a MAC?"""
    asked = frame[ICMPv6ND_NS]
    assert frame[IPv6].hlim == 255 and asked.tgt == target and asked[ICMPv6NDOptSrcLLAddr].lladdr == OUR_MAC
    assert frame[IPv6].dst == (target if to else solicited_node(target))
    assert frame.dst == (to or group_mac(solicited_node(target)))
    return True


# ---- asking ----------------------------------------------------------------------------------------


def test_the_first_packet_asks_the_group_of_the_target_and_leaves_with_the_answer():
    link = Link()
    asked, = link.send(b"first")
    assert question(asked) and asked[IPv6].src == US
    assert link.send(b"second") == []
    first, second = link.give(advertisement())
    assert (first.dst, bytes(first[UDP].payload), bytes(second[UDP].payload)) == (PEER_MAC, b"first", b"second")
    later, = link.send(b"third")
    assert later.dst == PEER_MAC and UDP in later


def test_three_questions_a_second_apart_and_then_the_destination_is_unreachable():
    link = Link()
    s = link.stack.socket(family=10)
    s.connect_ex((PEER, 80))
    link.run(10)
    assert [question(f) for f in link.take()] == [True] * 3
    assert s.getsockopt(1, 4) == 113                     # EHOSTUNREACH
    assert link.stack.counters()["drop_neighbor_unreachable"] >= 1


def test_a_neighbour_that_is_used_is_asked_again_after_a_delay_by_unicast():
    link = Link().known()
    link.run(40)
    sent, = link.send()
    assert UDP in sent                                   # STALE: usable, nothing is asked yet
    link.run(4.9)
    assert link.take() == []                             # DELAY
    link.run(0.2)
    asked, = link.take()
    assert question(asked, to=PEER_MAC)                  # PROBE
    link.give(advertisement())
    link.run(25)
    assert link.take() == []


def test_tcp_that_makes_progress_confirms_its_neighbour_without_a_question():
    link = Link().known()
    listener = link.stack.socket(family=10)
    listener.bind((US, 80))
    listener.listen()
    syn_ack, = link.give(IPv6(src=PEER, dst=US) / TCP(sport=9, dport=80, flags="S", seq=1))
    link.give(IPv6(src=PEER, dst=US) / TCP(sport=9, dport=80, flags="A", seq=2, ack=syn_ack[TCP].seq + 1))
    sock, _ = listener.accept()
    ack = syn_ack[TCP].seq + 1
    for _ in range(40):                                  # two minutes of one byte each three seconds
        link.run(3)
        sock.send(b"x")
        sent = link.take()
        assert all(TCP in f and ICMPv6ND_NS not in f for f in sent) and sent
        ack += 1
        link.give(IPv6(src=PEER, dst=US) / TCP(sport=9, dport=80, flags="A", seq=2, ack=ack))


def test_a_neighbour_that_left_is_asked_three_times_then_everybody_is():
    link = Link().known()
    link.run(40)
    link.send()
    link.run(9)
    assert [question(f, to=PEER_MAC) for f in link.take()] == [True] * 3
    asked, = link.send()
    assert question(asked)
    sent = link.give(advertisement(mac=EVIL_MAC))        # it came back with another card
    assert [f.dst for f in sent] == [EVIL_MAC]


# ---- answering -------------------------------------------------------------------------------------


def answers(link, packet, **frame):
    found = link.give(packet, **frame)
    return found[0] if found else None


def test_a_question_for_our_address_is_answered_to_whom_it_came_from():
    answer = answers(Link(), solicitation())
    na = answer[ICMPv6ND_NA]
    assert (answer.dst, answer[IPv6].src, answer[IPv6].dst, answer[IPv6].hlim) == (PEER_MAC, US, PEER, 255)
    assert (na.tgt, na.S, na.O, na.R) == (US, 1, 1, 0) and na[ICMPv6NDOptDstLLAddr].lladdr == OUR_MAC


def test_a_question_by_unicast_without_a_link_address_is_answered_too():
    answer = answers(Link(), solicitation(mac=None, dst=US))
    assert answer.dst == PEER_MAC and answer[ICMPv6ND_NA].S == 1


def test_who_tries_our_address_hears_that_it_is_taken():
    answer = answers(Link(), solicitation(src="::", mac=None))
    na = answer[ICMPv6ND_NA]
    assert (answer[IPv6].dst, na.tgt, na.S, na.O) == ("ff02::1", US, 0, 1)


BAD_SOLICITATIONS = {
    "hop limit 254": IPv6(src=PEER, dst=US, hlim=254) / ICMPv6ND_NS(tgt=US),
    "code 1": IPv6(src=PEER, dst=US, hlim=255) / ICMPv6ND_NS(tgt=US, code=1),
    "target a group": IPv6(src=PEER, dst=US, hlim=255) / ICMPv6ND_NS(tgt="ff02::1"),
    "from nobody with a link address": solicitation(src="::"),
    "from nobody to one": IPv6(src="::", dst=US, hlim=255) / ICMPv6ND_NS(tgt=US),
    "a group as link address": solicitation(mac="33:33:00:00:00:01"),
}


@pytest.mark.parametrize("name", BAD_SOLICITATIONS)
def test_a_solicitation_that_fails_a_check_is_dropped(name):
    Link().dropped(BAD_SOLICITATIONS[name], "nd_invalid")


BAD_ADVERTISEMENTS = {
    "hop limit 254": IPv6(src=PEER, dst=US, hlim=254) / ICMPv6ND_NA(tgt=PEER),
    "code 1": IPv6(src=PEER, dst=US, hlim=255) / ICMPv6ND_NA(tgt=PEER, code=1),
    "target a group": IPv6(src=PEER, dst=US, hlim=255) / ICMPv6ND_NA(tgt="ff02::1"),
    "solicited, but to a group": IPv6(src=PEER, dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt=PEER, S=1),
    "from nobody": IPv6(src="::", dst=US, hlim=255) / ICMPv6ND_NA(tgt=PEER),
    "a group as link address": advertisement(mac="33:33:00:00:00:01"),
}


@pytest.mark.parametrize("name", BAD_ADVERTISEMENTS)
def test_an_advertisement_that_fails_a_check_is_dropped(name):
    link = Link()
    link.send()
    link.dropped(BAD_ADVERTISEMENTS[name], "nd_invalid")


def test_discovery_on_media_without_it_is_dropped_and_counted():
    from netstack.stack import Stack

    stack = Stack(addresses=(f"{US}/64",), seed=1)
    for packet in (solicitation(dst=US), advertisement()):
        stack.input(bytes(packet), S)
    assert stack.counters()["drop_nd_on_channel"] == 2
    assert stack.pop_output() is None and stack.next_deadline() is None


# ---- routers ---------------------------------------------------------------------------------------


def advertisement_of_router(lifetime=1800, prf=0, src=ROUTER, dst="ff02::1", **fields):
    return IPv6(src=src, dst=dst, hlim=255) / ICMPv6ND_RA(routerlifetime=lifetime, prf=prf, **fields) / \
        ICMPv6NDOptSrcLLAddr(lladdr=ROUTER_MAC)


def prefix(text="2001:db8::", length=64, L=1, A=0, valid=3600, preferred=1800):
    return ICMPv6NDOptPrefixInfo(prefix=text, prefixlen=length, L=L, A=A, validlifetime=valid,
                                 preferredlifetime=preferred)


def first_hop(link, to="2001:db9::7"):
    """Whom a packet to there makes us ask for; None: there is no route."""
    try:
        sent = link.send(to=to)
    except OSError as e:
        assert e.errno == 101
        return None
    return sent[0][ICMPv6ND_NS].tgt if sent and ICMPv6ND_NS in sent[0] else sent[0].dst if sent else "waits"


def test_a_router_is_asked_for_and_becomes_the_way_out():
    link = Link((), settle=False, accept_ra=1)
    link.run(3)
    asked = [f for f in link.take() if ICMPv6ND_RS in f]
    assert len(asked) == 1 and asked[0][IPv6].dst == "ff02::2" and asked[0][IPv6].hlim == 255
    link.run(20)
    assert 3 <= len([f for f in link.take() if ICMPv6ND_RS in f]) <= 5
    link = Link(accept_ra=1)
    assert first_hop(link) is None
    link.give(advertisement_of_router(), src=ROUTER_MAC)
    assert first_hop(link) == ROUTER
    link.run(1801)
    link.take()
    assert first_hop(link) is None


def test_a_lifetime_of_zero_takes_the_router_back():
    link = Link(accept_ra=1)
    link.give(advertisement_of_router(), src=ROUTER_MAC)
    link.give(advertisement_of_router(lifetime=0), src=ROUTER_MAC)
    assert first_hop(link) is None


def test_the_router_with_the_higher_preference_is_used_and_another_when_it_does_not_answer():
    link = Link(accept_ra=1)
    link.give(advertisement_of_router(prf=3, src="fe80::1"), src=ROUTER_MAC)
    link.give(advertisement_of_router(prf=1, src="fe80::2"), src=ROUTER_MAC)
    link.give(advertisement_of_router(prf=0, src="fe80::3"), src=ROUTER_MAC)
    assert first_hop(link) == "fe80::2"
    link.run(3.5)                                        # it does not answer
    link.take()
    assert first_hop(link) == "fe80::3"


def test_a_router_that_says_it_is_a_host_is_no_router_any_more():
    link = Link(accept_ra=1)
    link.give(advertisement_of_router(), src=ROUTER_MAC)
    assert first_hop(link) == ROUTER
    link.give(advertisement(target=ROUTER, mac=ROUTER_MAC, R=0), src=ROUTER_MAC)
    link.take()
    assert first_hop(link) is None


def test_an_advertised_prefix_is_on_link_as_long_as_it_lives():
    link = Link(accept_ra=1)
    link.give(advertisement_of_router() / prefix(valid=100), src=ROUTER_MAC)
    assert first_hop(link, "2001:db8::7") == "2001:db8::7"
    link.run(101)
    link.take()
    assert first_hop(link, "2001:db8::8") == ROUTER


def test_hop_limit_mtu_and_timers_are_what_the_router_says():
    link = Link(accept_ra=1)
    link.give(advertisement_of_router(chlim=7, retranstimer=2000) / ICMPv6NDOptMTU(mtu=1300), src=ROUTER_MAC)
    link.known()
    sent, = link.send(bytes(1252))
    assert sent[IPv6].hlim == 7 and len(sent[IPv6]) == 1300
    assert [len(f[IPv6]) <= 1300 for f in link.send(bytes(1253))] == [True, True], "in two pieces"
    link.send(to=OTHER)
    link.times.clear()
    link.run(10)
    link.take()
    assert [b - a for a, b in zip(link.times, link.times[1:], strict=False)] == [2 * S]


def test_an_mtu_below_the_least_or_above_the_links_is_not_taken():
    for mtu in (0, 68, 1279, 1501, 9000, 0xFFFFFFFF):
        link = Link(accept_ra=1)
        link.give(advertisement_of_router() / ICMPv6NDOptMTU(mtu=mtu), src=ROUTER_MAC)
        link.known()
        assert len(link.send(bytes(1452))[0][IPv6]) == 1500


def test_name_servers_are_kept_for_their_lifetime():
    link = Link(accept_ra=1)
    both = ICMPv6NDOptRDNSS(dns=["2001:db8::53", "fe80::53"], lifetime=60)
    link.give(advertisement_of_router() / both, src=ROUTER_MAC)
    assert link.stack.name_servers == ["2001:db8::53", "fe80::53%1"]
    link.give(advertisement_of_router() / ICMPv6NDOptRDNSS(dns=["fe80::53"], lifetime=0), src=ROUTER_MAC)
    assert link.stack.name_servers == ["2001:db8::53"]
    link.run(61)
    assert link.stack.name_servers == []


def test_tables_of_what_routers_say_are_bounded():
    link = Link(accept_ra=1)
    for n in range(1, 60):
        link.give(advertisement_of_router(src=f"fe80::{n:x}") / prefix(f"2001:db8:{n:x}::")
                  / ICMPv6NDOptRDNSS(dns=[f"2001:db8::{n:x}"], lifetime=600), src=ROUTER_MAC)
    assert len(link.stack.name_servers) == 8
    assert first_hop(link, "2001:db8:3b::1").startswith("fe80::")


def test_redirects_are_followed_only_where_they_are_accepted_and_only_from_the_router():
    def redirect(src=ROUTER, target="fe80::98", dst="2001:db9::7"):
        return IPv6(src=src, dst=US, hlim=255) / ICMPv6ND_Redirect(tgt=target, dst=dst)

    for accept, packet, hop in (
            (0, redirect(), ROUTER), (1, redirect(), "fe80::98"), (1, redirect(src="fe80::77"), ROUTER),
            (1, redirect(target="2001:db9::9"), ROUTER), (1, redirect(target="2001:db9::7"), "2001:db9::7")):
        link = Link(accept_ra=1, accept_redirects=accept)
        link.give(advertisement_of_router(), src=ROUTER_MAC)
        link.give(packet, src=ROUTER_MAC)
        assert first_hop(link) == hop


# ---- link-local addresses -----------------------------------------------------------------------------


def test_link_local_addresses_are_written_without_the_number_of_their_link():
    link = Link()
    own = next(a for a in link.stack.addresses if a.startswith("fe80"))
    bare = own.partition("%")[0]
    assert own.endswith("%1")
    reply = answers(link, IPv6(src="fe80::7", dst=bare) / ICMPv6EchoRequest(id=1))
    assert reply[ICMPv6ND_NS].tgt == "fe80::7"           # asked for first
    reply, = link.give(advertisement("fe80::7", dst=bare))
    assert (reply[IPv6].src, reply[IPv6].dst) == (bare, "fe80::7") and ICMPv6EchoReply in reply


def test_sockets_name_a_link_by_the_zone_of_an_address():
    link = Link()
    own = next(a for a in link.stack.addresses if a.startswith("fe80")).partition("%")[0]
    s = link.stack.socket("dgram", family=10)
    s.bind((own, 5000, 0, 1))
    assert s.getsockname() == (own, 5000, 0, 1)
    link.known("fe80::7")
    link.give(IPv6(src="fe80::7", dst=own) / UDP(sport=9, dport=5000) / b"hello")
    assert s.recvfrom(10) == (b"hello", ("fe80::7", 9, 0, 1))
    s.sendto(b"answer", ("fe80::7%1", 9))
    s.sendto(b"answer", ("fe80::7", 9, 0, 1))
    s.sendto(b"answer", ("fe80::7", 9))                  # there is one link only
    assert [(f[IPv6].src, f[IPv6].dst) for f in link.take()] == [(own, "fe80::7")] * 3
    with pytest.raises(OSError, match="Invalid"):
        s.sendto(b"answer", ("fe80::7", 9, 0, 5))


def test_everything_about_neighbours_and_routers_survives_a_snapshot():
    from netstack.stack import Stack

    link = Link(accept_ra=1)
    server = ICMPv6NDOptRDNSS(dns=["2001:db8::53"], lifetime=600)
    link.give(advertisement_of_router(prf=1, chlim=9) / prefix(A=1) / server, src=ROUTER_MAC)
    link.known()
    link.send(to=OTHER)
    link.run(0.5)
    link.take()
    other = Link(accept_ra=1)
    other.stack = Stack.restore(link.stack.snapshot(), link.now)
    other.now = link.now
    assert other.stack.snapshot() == link.stack.snapshot()
    for _ in range(60):
        link.run(1)
        other.run(1)
        assert [bytes(f) for f in link.take()] == [bytes(f) for f in other.take()]
    assert (link.stack.addresses, link.stack.name_servers) == (other.stack.addresses, other.stack.name_servers)
    assert any(a.startswith("2001:db8:") for a in other.stack.addresses)


def test_simulated_hosts_find_each_other_and_go_on_after_a_snapshot_on_a_lossy_ethernet():
    from netstack.testing import Network

    net = Network(seed=11, media="ethernet")
    a, b = net.host((f"{US}/64", "10.0.0.1/24"), loss=0.05), net.host((f"{PEER}/64", "10.0.0.2/24"), loss=0.05)
    net.run("5s")
    for host in (a, b):
        assert host.address in host.stack.addresses
    listener = b.socket(family=10)
    listener.bind(("::", 80))
    listener.listen()
    for address in (PEER, "::ffff:10.0.0.2"):
        client = a.socket(family=10)
        client.connect_ex((address, 80))
        net.run("1min", condition=lambda c=client: c.poll() & 4)
        number, waiting = client.id, listener.id
        for host in (a, b):
            net.restore(host)
        client, listener = a.stack.socket_by_id(number), b.stack.socket_by_id(waiting)
        net.run("1min", condition=lambda s=listener: s.poll() & 1)
        server, peer = listener.accept()
        client.send(b"x" * 10_000)
        received = bytearray()

        def everything(s=server, into=received):
            if s.poll() & 1:
                into += s.recv(65536)
            return len(into) == 10_000

        net.run("1min", condition=everything)
        assert peer[0] == (US if address == PEER else "::ffff:10.0.0.1")
