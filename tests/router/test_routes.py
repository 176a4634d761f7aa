"""Routes in the data path: which port a packet goes to that no address is bound for, and who may send from where."""

import ipaddress
import random
import threading

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import UDP as UDP6
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from bench.route_tables import bgp_like, entry
from netstack.errors import ConfigError
from netstack.testing.ring_traffic import RingTraffic
from tests.router.lan import Lan, wait_until
from tests.router.uplink_wires import OURS, THEIRS, Wire
from tests.support import scale

A, B, C = "10.77.0.2", "10.77.0.3", "10.77.0.4"


def net(text):
    return ipaddress.ip_network(text)


def udp(src, dst, **ip):
    return IP(src=src, dst=dst, **ip) / UDP(sport=1, dport=2) / Raw(b"hello")


def udp6(src, dst):
    return IPv6(src=src, dst=dst) / UDP6(sport=1, dport=2) / Raw(b"hello")


@pytest.fixture
def lan():
    return Lan("10.77.0.0/16", "fd77::/48")


# ---- blocks behind attachments


def test_the_longest_prefix_wins_and_an_address_over_all(lan):
    a, b, c = lan.stack(A), lan.stack(B), lan.stack(C, "10.77.8.9")
    lan.forwarder.add_route(net("10.77.8.0/24"), b.port)
    lan.forwarder.add_route(net("10.77.8.64/26"), c.port)
    lan.forwarder.add_route(net("10.77.8.65/32"), b.port)
    to_b, to_c = ["10.77.8.0", "10.77.8.63", "10.77.8.65", "10.77.8.128"], ["10.77.8.64", "10.77.8.127", "10.77.8.9"]
    a.send(*(udp(A, d) for d in to_b + to_c))
    lan.run()
    assert [p.dst for p in b.received()] == to_b
    assert [p.dst for p in c.received()] == to_c
    lan.forwarder.remove_route(net("10.77.8.0/24"))
    a.send(udp(A, "10.77.8.1"), udp(A, "10.77.8.66"))
    lan.run()
    assert [p.dst for p in c.received()] == ["10.77.8.66"]
    assert a.drops() == {"in_unknown_address": 1}                    # the pool's again


def test_blocks_of_ipv6(lan):
    a, b, c = lan.stack("fd77::2"), lan.stack("fd77::3"), lan.stack("fd77::4")
    lan.forwarder.add_route(net("fd77:0:0:8::/64"), b.port)
    lan.forwarder.add_route(net("fd77:0:0:8::f000/116"), c.port)
    a.send(udp6("fd77::2", "fd77:0:0:8::1"), udp6("fd77::2", "fd77:0:0:8::f123"), udp6("fd77::2", "fd77:0:0:9::1"))
    lan.run()
    assert [p.dst for p in b.received()] == ["fd77:0:0:8::1"]
    assert [p.dst for p in c.received()] == ["fd77:0:0:8::f123"]
    assert a.drops() == {"in_unknown_address": 1}
    b.send(udp6("fd77:0:0:8::1", "fd77::2"), udp6("fd77:0:0:8::f123", "fd77::2"))
    lan.run()
    assert [p.src for p in a.received()] == ["fd77:0:0:8::1"] and b.drops() == {"in_spoofed": 1}


def test_an_attachment_sends_from_its_block_and_from_no_other(lan):
    a, b, c = lan.stack(A), lan.stack(B), lan.stack(C, "10.77.8.9")
    lan.forwarder.add_route(net("10.77.8.0/24"), b.port)
    lan.forwarder.add_route(net("10.77.8.64/26"), c.port)
    b.send(udp("10.77.8.1", A), udp(B, A))
    lan.run()
    assert [p.src for p in a.received()] == ["10.77.8.1", B] and not b.drops()
    b.send(udp("10.77.8.65", A), udp("10.77.8.9", A), udp("10.77.9.1", A), udp("10.77.8.1", "10.77.8.2"))
    c.send(udp("10.77.8.1", A))
    lan.run()
    assert not a.received()
    # c's block, c's address inside b's block, nobody's; and what is b's own is not b's to ask for
    assert b.drops() == {"in_spoofed": 3, "in_destination": 1} and c.drops() == {"in_spoofed": 1}


def test_a_block_whose_attachment_is_gone_is_answered_until_somebody_has_it(lan):
    a, b = lan.stack(A), lan.stack(B)
    block = net("10.77.8.0/26")
    lan.forwarder.add_route(block, b.port)
    lan.forwarder.remove(b.port)
    a.send(udp(A, "10.77.8.1"), IP(src=A, dst="10.77.8.1") / TCP(sport=1, dport=2, flags="S"))
    lan.run()
    error, reset = a.received()
    assert (error[ICMP].type, error[ICMP].code) == (3, 1) and reset[TCP].flags == "RA"
    assert a.drops() == {"in_dead_address": 2}
    c = lan.stack(C)
    lan.forwarder.add_route(block, c.port, replace=True)
    a.send(udp(A, "10.77.8.1"))
    lan.run()
    assert [p.dst for p in c.received()] == ["10.77.8.1"]
    assert lan.forwarder.routes(4) == [(net("10.77.0.0/16"), "pool", 0, None), (block, "stack", c.port, None)]


# ---- uplinks


@pytest.fixture
def uplinks(lan):
    """One that everything goes to by itself, and two that routes lead to."""
    return [Wire(lan, f"192.0.{i}.1/24", gateways=[f"192.0.{i}.254"], default=i == 0)
            for i in range(2)] + [Wire(lan, "192.0.2.1/24", default=False)]


def test_routes_choose_the_uplink_and_the_gateway(lan, uplinks):
    a, (first, second, third) = lan.stack(A), uplinks
    add = lan.forwarder.add_route
    add(net("198.51.100.0/24"), second.port)
    add(net("198.51.100.0/25"), second.port, gateway="192.0.1.7")
    add(net("203.0.113.0/24"), third.port)
    a.send(*(udp(A, d) for d in ("203.0.112.1", "198.51.100.200", "198.51.100.100", "203.0.113.5")))
    for wire, asked, sent in ((first, ["192.0.0.254"], ["203.0.112.1"]),
                              (second, ["192.0.1.254", "192.0.1.7"], ["198.51.100.200", "198.51.100.100"]),
                              (third, ["203.0.113.5"], ["203.0.113.5"])):
        questions, packets = wire.exchange()
        assert (questions, sorted(p.dst for p in packets)) == (asked, sorted(sent))
        assert all(p.ttl == 63 for p in packets)
    assert a.counters["forwarded"] == 4


def test_the_gateway_counts_behind_an_emulated_link_too(lan, uplinks):
    a, second = lan.stack(A), uplinks[1]
    lan.forwarder.emulate(second.port, delay="0ms")
    lan.forwarder.add_route(net("198.51.100.0/24"), second.port, gateway="192.0.1.7")
    a.send(udp(A, "198.51.100.1"))
    asked, [packet] = second.exchange()
    assert asked == ["192.0.1.7"] and packet.dst == "198.51.100.1"


def test_a_route_for_everything_replaces_the_uplink_that_is_the_default(lan, uplinks):
    a, (first, second, _) = lan.stack(A), uplinks
    lan.forwarder.add_route(net("0.0.0.0/0"), second.port, gateway="192.0.1.9")
    a.send(udp(A, "8.8.8.8"))
    assert first.exchange() == ([], [])
    asked, [packet] = second.exchange()
    assert asked == ["192.0.1.9"] and packet.dst == "8.8.8.8"
    a.send(udp(A, "10.77.200.1"))                                    # the pool is longer
    lan.run()
    assert a.drops() == {"in_unknown_address": 1}
    lan.forwarder.remove_route(net("0.0.0.0/0"))
    a.send(udp(A, "8.8.8.8"))
    assert [p.dst for p in first.exchange()[1]] == ["8.8.8.8"]


def test_nothing_goes_back_where_it_came_from(lan, uplinks):
    second = uplinks[1]
    lan.forwarder.add_route(net("198.51.100.0/24"), second.port)
    second.send(udp("198.51.100.1", "198.51.100.2"))
    asked, [error] = second.exchange()
    assert (error[ICMP].type, error[ICMP].code) == (3, 0) and second.counters["drop_in_no_route"] == 1


def test_a_lost_uplink_keeps_its_routes_for_when_it_comes_back(lan, uplinks):
    a, second = lan.stack(A), uplinks[1]
    lan.forwarder.add_route(net("198.51.100.0/24"), second.port, gateway="192.0.1.7")
    lan.forwarder.remove(second.port)
    a.send(udp(A, "198.51.100.1"))
    lan.run()
    [error] = a.received()
    assert (error[ICMP].type, error[ICMP].code) == (3, 0) and a.drops() == {"in_no_route": 1}
    again = Wire(lan, "192.0.1.1/24", default=False)
    lan.forwarder.move_routes(second.port, again.port)
    a.send(udp(A, "198.51.100.1"))
    assert again.exchange()[0] == ["192.0.1.7"]
    lan.forwarder.add_route(net("198.51.101.0/24"), again.port, gateway="192.0.1.7")
    lan.forwarder.remove_route(net("198.51.100.0/24"))
    a.send(udp(A, "198.51.101.1"))
    assert [p.dst for p in again.exchange()[1]] == ["198.51.101.1"]


def test_what_comes_in_is_not_from_a_block_of_ours_and_questions_for_it_are_answered(lan, uplinks):
    b, second = lan.stack(B), uplinks[1]
    lan.forwarder.add_route(net("10.77.8.0/26"), b.port)
    second.send(udp("10.77.8.1", B), udp("192.0.1.9", "10.77.8.5"))
    second.exchange()
    assert second.counters["drop_in_spoofed"] == 1
    assert [p.dst for p in b.received()] == ["10.77.8.5"]
    for target, answered in (("10.77.8.63", True), ("10.77.8.64", False)):
        second.far.send(bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src=THEIRS) / ARP(
            op=1, hwsrc=THEIRS, psrc="192.0.1.9", pdst=target)))
        lan.run()
        replies = [f for f in second.frames() if ARP in f and f[ARP].op == 2]
        assert [(f[ARP].psrc, f[ARP].hwsrc) for f in replies] == [(target, OURS)] * answered


MARTIANS = ["0.0.0.1", "127.0.0.1", "127.255.255.255", "169.254.0.1", "169.254.255.255", "224.0.0.1", "239.1.2.3",
            "240.0.0.1", "255.255.255.255"]
MARTIANS_6 = ["::", "::1", "fe80::1", "febf::1", "ff02::1", "ff0e::1"]


@pytest.mark.parametrize("martian", MARTIANS + MARTIANS_6)
def test_no_route_makes_a_martian_go_anywhere(lan, uplinks, martian):
    six = ":" in martian
    a = lan.stack(A, "fd77::2")
    b, second = lan.stack(B), uplinks[1]
    for route in (net("0.0.0.0/0"), net("::/0"), net(martian).supernet(new_prefix=16)):
        lan.forwarder.add_route(route, b.port)
    packet = udp6 if six else udp
    outside, inside = ("2001:db8::1", "fd77::2") if six else ("192.0.1.9", A)
    a.send(packet(inside, martian))
    second.send(packet(outside, martian), packet(martian, inside))
    b.send(packet(martian, inside))
    lan.run()
    assert not b.received() and not a.received()
    assert sum(a.drops().values()) == 1 and sum(b.drops().values()) == 1
    assert sum(v for k, v in second.counters.items() if k.startswith("drop_in")) == 2


# ---- the table


def test_mistakes_say_what_is_wrong_and_change_nothing(lan):
    a, f = lan.stack(A), lan.forwarder
    f.add_route(net("10.77.8.0/26"), a.port)
    before = f.routes(4) + f.routes(6)
    with pytest.raises(ValueError, match=r"10\.77\.8\.0/26 has a route already"):
        f.add_route(net("10.77.8.0/26"), a.port)
    for replace in (False, True):
        with pytest.raises(ValueError, match=r"10\.77\.0\.0/16 is a pool"):
            f.add_route(net("10.77.0.0/16"), a.port, replace=replace)
    with pytest.raises(ValueError, match=r"10\.77\.0\.0/16 is a pool"):
        f.remove_route(net("10.77.0.0/16"))
    with pytest.raises(KeyError, match="no route"):
        f.remove_route(net("10.77.8.0/27"))
    with pytest.raises(KeyError, match="no port 12345"):
        f.add_route(net("198.51.100.0/24"), 12345)
    with pytest.raises(KeyError, match="no port 12345"):
        f.load_routes(4, entry(0xC6336400, 24, 1), [(12345, None)])
    with pytest.raises(ValueError, match="next hop 2, there are 1"):
        f.load_routes(4, entry(0xC6336400, 24, 2), [(a.port, None)])
    with pytest.raises(ValueError, match=r"10\.77\.8\.0/26 has a route already"):
        f.load_routes(4, entry(0x0A4D0800, 26, 1), [(a.port, None)])
    with pytest.raises(KeyError, match="no port 12345"):
        f.move_routes(a.port, 12345)
    assert f.routes(4) + f.routes(6) == before


def test_next_hops_are_used_again(lan):
    a, f = lan.stack(A), lan.forwarder
    for i in range(70_000):                    # more than there are numbers
        f.add_route(net("198.51.100.0/24"), a.port, gateway=ipaddress.ip_address(0x0A000000 + i))
        f.remove_route(net("198.51.100.0/24"))
    assert f.routes(4) == [(net("10.77.0.0/16"), "pool", 0, None)]


def test_there_are_65535_next_hops(lan):
    a, f = lan.stack(A), lan.forwarder
    count = 65535 - 2                          # the pools have one each
    hops = [(a.port, ipaddress.ip_address(0x0A000000 + i)) for i in range(count)]
    f.load_routes(4, b"".join(entry(0xC0000000 | i << 8, 24, i + 1) for i in range(count)), hops)
    with pytest.raises(ConfigError, match="at most 65535 next hops"):
        f.add_route(net("198.51.100.0/24"), a.port, gateway="10.99.0.1")
    f.add_route(net("198.51.100.0/24"), a.port, gateway="10.0.0.1")
    assert f.routes(4, after=net("192.255.253.0/24"))[-1] == (net("198.51.100.0/24"), "stack", a.port, "10.0.0.1")


def test_a_listing_comes_in_parts(lan):
    a, f = lan.stack(A), lan.forwarder
    wanted = [net(f"198.51.{i}.0/{length}") for i in range(20) for length in (24, 25)]
    for network in wanted:
        f.add_route(network, a.port)
    found, last = [], net("10.77.0.0/16")
    while part := f.routes(4, after=last, most=7):
        found += [row[0] for row in part]
        last = found[-1]
    assert found == wanted


def test_packets_go_on_while_routes_come_and_go():
    """The data thread forwards to one address; meanwhile the table around it is loaded, changed and emptied."""
    lan = Lan(spin_us=0)
    a, b = lan.stack(A, capacity=1 << 20), lan.stack(B, capacity=1 << 20)
    inside = "198.51.100.77"
    lan.forwarder.add_route(net("198.51.100.0/24"), b.port)
    packed = bytearray(bgp_like(scale(1_000_000), seed=9))
    for at in range(0, len(packed), 8):        # nothing inside ours
        if packed[at : at + 3] == bytes([198, 51, 100]):
            packed[at + 2] = 101
    unique = {bytes(packed[at : at + 5]): bytes(packed[at : at + 8]) for at in range(0, len(packed), 8)}
    traffic = RingTraffic(a.channel, b.channel, bytes(udp(A, inside)))
    stop = threading.Event()

    def blast():
        while not stop.is_set():
            traffic.blast(5_000_000, 64)

    sender = threading.Thread(target=blast)
    lan.forwarder.start()
    try:
        sender.start()
        lan.forwarder.load_routes(4, b"".join(unique.values()), [(a.port, None)] * 64)
        dice = random.Random(1)
        networks = [row[0] for row in lan.forwarder.routes(4, most=scale(20_000)) if row[1] != "pool"]
        for network in dice.sample(networks, len(networks)):
            lan.forwarder.remove_route(network)
        for length in (1, 8, 16, 18, 23):
            lan.forwarder.add_route(net(f"{inside}/32").supernet(new_prefix=length), a.port, replace=True)
    finally:
        stop.set()
        sender.join(60)
        lan_quiet = wait_until(lambda: traffic.drain() == 0 and traffic.received == traffic.sent, 60)
        lan.forwarder.stop()
    assert lan_quiet and traffic.received == traffic.sent > 0
    lan.check()
