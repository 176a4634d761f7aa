"""The data path, one round at a time: what is forwarded, answered, dropped, and under which name it is
counted.
"""

import ctypes

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import UDP as UDP6
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.packet import Raw

from netstack.router.pool import pack_address
from tests.router.lan import Lan, put
from tests.support import record_header

A, B, C, R = "10.77.0.2", "10.77.0.3", "10.77.0.4", "10.77.0.1"


@pytest.fixture
def lan():
    return Lan()


@pytest.fixture
def pair(lan):
    return lan, lan.stack(A), lan.stack(B)


def udp(src=A, dst=B, payload=b"hello", **ip):
    return IP(src=src, dst=dst, **ip) / UDP(sport=1, dport=2) / Raw(payload)


def whole(packet):
    """With checksums and lengths filled in."""
    return packet.__class__(bytes(packet))


def sums_are_right(packet) -> bool:
    """The checksums are those that scapy computes."""
    again = packet.copy()
    for layer in (IP, TCP, UDP, ICMP):
        if layer in again:
            del again[layer].chksum
    return bytes(again) == bytes(packet)


@pytest.mark.parametrize("size", [0, 1, 200, 255, 256, 1400, 9000, 65507])
@pytest.mark.parametrize("split", ["whole", 28])
def test_packet_arrives_with_one_hop_less(pair, size, split):
    lan, a, b = pair
    payload = bytes(i * 7 & 0xFF for i in range(size))
    a.send(udp(payload=payload, ttl=9), split=None if split == "whole" else split)
    assert lan.run() == 1
    [got] = b.received()
    assert bytes(got[UDP].payload) == payload and got.ttl == 8 and sums_are_right(got)
    assert not a.received()


def test_many_packets_keep_their_order(pair):
    lan, a, b = pair
    for i in range(1000):
        a.send(udp(payload=i.to_bytes(4, "big")))
        if i % 100 == 99:
            lan.run()
            assert [int.from_bytes(bytes(p[UDP].payload), "big") for p in b.received()] == list(
                range(i - 99, i + 1)
            )
    assert a.counters["forwarded"] == b.counters["out_packets"] == 1000


def test_several_addresses_of_one_attachment(lan):
    a, b = lan.stack(A, C), lan.stack(B)
    a.send(udp(src=A), udp(src=C))
    b.send(udp(src=B, dst=A), udp(src=B, dst=C))
    lan.run()
    assert [p.src for p in b.received()] == [A, C]
    assert [p.dst for p in a.received()] == [A, C]


def test_ipv6_is_forwarded_by_the_same_table():
    lan = Lan("10.77.0.0/16", "fd77::/64")
    a, b = lan.stack("fd77::2"), lan.stack("fd77::3")
    a.send(IPv6(src="fd77::2", dst="fd77::3", hlim=5) / UDP6(sport=1, dport=2) / Raw(b"six"))
    lan.run()
    [got] = b.received()
    assert got.hlim == 4 and bytes(got[UDP].payload) == b"six"


# ---- what is not forwarded


def raw_with(packet, **changes):
    """The packet's bytes with some overwritten: position -> byte."""
    raw = bytearray(bytes(packet))
    for at, value in changes.items():
        raw[int(at[1:])] = value
    return bytes(raw)


HOSTILE = {
    "empty": (b"\x00", "in_malformed"),
    "version 0": (raw_with(udp(), _0=0x05), "in_malformed"),
    "version 15": (raw_with(udp(), _0=0xF5), "in_malformed"),
    "header length 4": (raw_with(udp(), _0=0x44), "in_malformed"),
    "header beyond the packet": (raw_with(udp(), _0=0x4F), "in_malformed"),
    "19 bytes": (bytes(udp())[:19], "in_malformed"),
    "longer than it says": (bytes(udp()) + b"x", "in_length"),
    "shorter than it says": (bytes(udp())[:-1], "in_length"),
    "checksum": (raw_with(udp(), _10=0, _11=0), "in_checksum"),
    "source route": (
        bytes(IP(src=A, dst=B, options=[bytes([131, 7, 4, 10, 77, 0, 4])]) / UDP()),
        "in_options",
    ),
    "option of length 0": (bytes(IP(src=A, dst=B, options=[bytes([7, 0, 0, 0])]) / UDP()), "in_options"),
    "another's source": (bytes(udp(src=B)), "in_spoofed"),
    "nobody's source": (bytes(udp(src="192.0.2.1")), "in_spoofed"),
    "the router's source": (bytes(udp(src=R)), "in_spoofed"),
    "spoofed echo": (bytes(IP(src=C, dst=B) / ICMP()), "in_spoofed"),
    "multicast": (bytes(udp(dst="224.0.0.1")), "in_destination"),
    "broadcast": (bytes(udp(dst="255.255.255.255")), "in_destination"),
    "loopback": (bytes(udp(dst="127.0.0.1")), "in_destination"),
    "this network": (bytes(udp(dst="0.1.2.3")), "in_destination"),
    "itself": (bytes(udp(dst=A)), "in_destination"),
    "the pool's broadcast": (bytes(udp(dst="10.77.255.255")), "in_unknown_address"),
    "IPv6 with mapped source": (bytes(IPv6(src="::ffff:10.77.0.2", dst="fd77::3") / UDP6()), "in_malformed"),
    "IPv6 from nobody": (bytes(IPv6(src="fd77::9", dst="fd77::3") / UDP6()), "in_spoofed"),
    "IPv6 cut": (bytes(IPv6(src="fd77::9", dst="fd77::3") / UDP6())[:39], "in_malformed"),
    "ARP": (bytes.fromhex("0001080006040001020000000001") + bytes(14), "in_malformed"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_bad_packet_is_dropped_and_counted(pair, name):
    lan, a, b = pair
    packet, reason = HOSTILE[name]
    put(a.channel, packet)
    a.send(udp(payload=b"after"))
    assert lan.run() == 2
    assert a.drops() == {reason: 1}
    assert [bytes(p[UDP].payload) for p in b.received()] == [b"after"], "the next packet is not harmed"
    assert not a.received()


TAIL, DATA = 128, 384  # offsets in the stack's region


def garble(channel, at: int, value: int):
    """Overwrite a word of the memory that a stack may write."""
    region = channel._regions[1]
    ctypes.c_uint64.from_address(region.address + at).value = value


@pytest.mark.parametrize("kind", [2, 3])
def test_records_that_are_no_frames(pair, kind):
    lan, a, b = pair
    put(a.channel, udp(), kind=kind)
    a.channel.flush()
    lan.run()
    assert not b.received()
    assert a.drops() == {"in_malformed": 1} or lan.forwarder.failed() == [(a.port, "poisoned")]


@pytest.mark.parametrize("split", range(0, 29))
def test_headers_split_over_head_and_body_are_judged_or_dropped(pair, split):
    lan, a, b = pair
    a.send(udp(), split=split)
    lan.run()
    got = b.received()
    if got:
        assert got[0].ttl == 63 and sums_are_right(got[0])
    else:
        assert a.drops() == {"in_malformed": 1} and 0 < split < 20


# ---- answers


def test_ttl_that_runs_out(pair):
    lan, a, b = pair
    a.send(udp(ttl=1), udp(ttl=0))
    lan.run()
    answers = a.received()
    assert [(p[ICMP].type, p[ICMP].code, p.src, p.dst) for p in answers] == [(11, 0, R, A)] * 2
    assert all(sums_are_right(p) for p in answers)
    assert bytes(answers[0][ICMP].payload)[:28] == bytes(whole(udp(ttl=1)))[:28], (
        "quotes the packet as it came"
    )
    assert a.drops() == {"in_ttl": 2} and not b.received()


def test_too_big_for_the_destination(lan):
    a, b = lan.stack(A), lan.stack(B, mtu=1500)
    a.send(udp(payload=bytes(1472)), udp(payload=bytes(1473)))
    lan.run()
    [answer] = a.received()
    assert (answer[ICMP].type, answer[ICMP].code, answer[ICMP].nexthopmtu) == (3, 4, 1500) and sums_are_right(
        answer
    )
    assert a.drops() == {"in_too_big": 1} and len(b.received()) == 1


@pytest.mark.parametrize(
    "dst, code, reason", [("10.77.99.1", 1, "in_unknown_address"), ("192.0.2.1", 0, "in_no_route")]
)
def test_unknown_destination(pair, dst, code, reason):
    lan, a, _ = pair
    a.send(udp(dst=dst))
    lan.run()
    [answer] = a.received()
    assert (answer[ICMP].type, answer[ICMP].code, answer.src) == (3, code, R) and sums_are_right(answer)
    assert a.drops() == {reason: 1}


@pytest.mark.parametrize(
    "packet",
    [
        IP(src=A, dst="192.0.2.1") / ICMP(type=3, code=1) / bytes(28),
        IP(src=A, dst="192.0.2.1") / ICMP(type=11) / bytes(28),
        IP(src=A, dst="192.0.2.1", frag=7) / Raw(bytes(64)),
        IP(src=A, dst="192.0.2.1", proto=1),
    ],
    ids=[
        "about unreachable",
        "about time exceeded",
        "about a later fragment",
        "about an ICMP without a type",
    ],
)
def test_no_icmp_error(pair, packet):
    lan, a, _ = pair
    a.send(packet)
    lan.run()
    assert not a.received() and a.drops() == {"in_no_route": 1}


def test_icmp_errors_are_limited_per_attachment(lan):
    a, b, c = lan.stack(A), lan.stack(B), lan.stack(C)
    for _ in range(400):
        a.send(udp(ttl=1), flush=False)
    a.channel.flush()
    lan.run()
    assert 50 <= len(a.received()) < 300, "a burst of 50, then 1,000 a second"
    assert a.drops() == {"in_ttl": 400}
    c.send(udp(src=C, ttl=1))
    lan.run()
    assert len(c.received()) == 1, "another attachment has its own limit"
    assert not b.received()


@pytest.mark.parametrize("size", [0, 1, 56, 2000, 60000])
def test_router_answers_echo(lan, size):
    a = lan.stack(A)
    payload = (bytes(range(256)) * 240)[:size]
    a.send(IP(src=A, dst=R, ttl=1) / ICMP(id=7, seq=9) / Raw(payload))
    lan.run()
    [answer] = a.received()
    assert (answer.src, answer.dst, answer.ttl) == (R, A, 64)
    assert (answer[ICMP].type, answer[ICMP].id, answer[ICMP].seq) == (0, 7, 9)
    assert bytes(answer[ICMP].payload) == payload and sums_are_right(answer)
    assert a.counters["consumed"] == 1


def test_router_answers_echo_of_ipv6():
    lan = Lan("fd77::/64", router="fd77::1")
    a = lan.stack("fd77::2")
    a.send(IPv6(src="fd77::2", dst="fd77::1") / ICMPv6EchoRequest(id=3, seq=4, data=b"abc"))
    lan.run()
    [answer] = a.received()
    reply = answer[ICMPv6EchoReply]
    assert (answer.src, answer.dst, reply.id, reply.data) == ("fd77::1", "fd77::2", 3, b"abc")
    sum_before = reply.cksum
    del reply.cksum
    assert IPv6(bytes(answer))[ICMPv6EchoReply].cksum == sum_before


def test_router_refuses_the_rest(lan):
    a = lan.stack(A)
    a.send(
        IP(src=A, dst=R) / TCP(sport=5, dport=80, flags="S", seq=100),
        IP(src=A, dst=R) / UDP(sport=5, dport=53),
        IP(src=A, dst=R, proto=132) / Raw(bytes(20)),
    )
    lan.run()
    reset, unreachable = a.received()
    assert reset[TCP].flags == "RA" and reset[TCP].ack == 101
    assert (unreachable[ICMP].type, unreachable[ICMP].code) == (3, 3)
    assert a.drops() == {"in_protocol": 1} and a.counters["consumed"] == 2


# ---- addresses of the dead (RFC 9293 section 3.10.7.1)


@pytest.mark.parametrize(
    "segment, expected",
    [
        (TCP(flags="A", seq=5, ack=1000) / Raw(b"xyz"), ("R", 1000, 0)),
        (TCP(flags="PA", seq=5, ack=7) / Raw(b"xyz"), ("R", 7, 0)),
        (TCP(flags="SA", seq=5, ack=7), ("R", 7, 0)),
        (TCP(flags="S", seq=5), ("RA", 0, 6)),
        (TCP(flags="", seq=5) / Raw(b"xyz"), ("RA", 0, 8)),
        (TCP(flags="F", seq=2**32 - 1) / Raw(b"xyz"), ("RA", 0, 3)),
        (TCP(flags="S", seq=5, options=[("MSS", 1460), ("SAckOK", b"")]), ("RA", 0, 6)),
        (TCP(flags="R", seq=5), None),
        (TCP(flags="RA", seq=5, ack=1), None),
    ],
    ids=["ACK", "data", "SYN+ACK", "SYN", "no ACK", "FIN, wrapping", "SYN with options", "RST", "RST+ACK"],
)
def test_segment_to_a_dead_address_is_reset(pair, segment, expected):
    lan, a, b = pair
    lan.forwarder.remove(b.port)
    segment.sport, segment.dport = 40001, 80
    a.send(IP(src=A, dst=B) / segment)
    lan.run()
    answers = a.received()
    assert a.drops() == {"in_dead_address": 1}
    if expected is None:
        assert not answers
        return
    [answer] = answers
    assert (answer.src, answer.dst, answer[TCP].sport, answer[TCP].dport) == (B, A, 80, 40001)
    assert (str(answer[TCP].flags), answer[TCP].seq, answer[TCP].ack) == expected and sums_are_right(answer)


@pytest.mark.parametrize("offset", [0, 4, 6, 15])
def test_no_reset_for_a_malformed_segment(pair, offset):
    lan, a, b = pair
    lan.forwarder.remove(b.port)
    a.send(IP(src=A, dst=B) / TCP(flags="S", dataofs=offset))
    lan.run()
    assert not a.received()


def test_dead_address_of_ipv6_is_reset():
    lan = Lan("fd77::/64", router="fd77::1")
    a, b = lan.stack("fd77::2"), lan.stack("fd77::3")
    lan.forwarder.remove(b.port)
    a.send(IPv6(src="fd77::2", dst="fd77::3") / TCP(sport=1, dport=2, flags="A", ack=77))
    lan.run()
    [answer] = a.received()
    assert (answer.src, answer[TCP].flags, answer[TCP].seq) == ("fd77::3", "R", 77)
    sum_before = answer[TCP].chksum
    del answer[TCP].chksum
    assert IPv6(bytes(answer))[TCP].chksum == sum_before


def test_datagram_to_a_dead_address_is_unreachable_until_it_is_leased_again(pair):
    lan, a, b = pair
    lan.forwarder.remove(b.port)
    a.send(udp())
    lan.run()
    assert a.received()[0][ICMP].code == 1
    again = lan.stack(B)
    a.send(udp(payload=b"again"))
    lan.run()
    assert [bytes(p[UDP].payload) for p in again.received()] == [b"again"] and not a.received()


# ---- states and epochs


def test_held_address_is_silent(pair):
    lan, a, b = pair
    lan.forwarder.remove(b.port, hold=True)
    a.send(IP(src=A, dst=B) / TCP(flags="A"), udp())
    lan.run()
    assert not a.received() and a.drops() == {"in_held": 2}
    lan.forwarder.set_state(pack_address(B), "dead")
    a.send(IP(src=A, dst=B) / TCP(flags="A"))
    lan.run()
    assert len(a.received()) == 1


def test_address_that_moves_takes_its_packets_along_and_the_old_owner_is_silenced(pair):
    lan, a, b = pair
    new = lan.stack(C)
    lan.forwarder.bind(new.port, pack_address(B), 2, commit=True)
    assert lan.forwarder.entries()[B] == ("commit", new.port, 2)
    a.send(udp())
    b.send(udp(src=B, dst=A))
    new.send(udp(src=B, dst=A, payload=b"new"))
    lan.run()
    assert len(new.received()) == 1 and not b.received()
    assert [bytes(p[UDP].payload) for p in a.received()] == [b"new"]
    assert b.drops() == {"in_old_epoch": 1}
    lan.forwarder.remove(b.port)
    assert lan.forwarder.entries()[B][0] == "commit", "the old owner's death does not touch the new one"


def fill(lan, a, b, n, size=8000):
    """Packets from a to b, who does not read."""
    for i in range(n):
        a.send(udp(payload=i.to_bytes(4, "big") + bytes(size)))
        lan.run()


def test_queued_packets_of_an_old_epoch_are_dropped(pair):
    lan, a, b = pair
    fill(lan, a, b, 60)
    queued = b.counters["queued"]
    assert queued > 5
    lan.forwarder.advance_epoch(b.port)
    while b.received():
        lan.run()
    assert b.drops() == {"out_old_epoch": queued}
    lan.check()


# ---- a stack that does not read


def test_full_ring_goes_to_the_queue_then_is_dropped_and_hurts_nobody_else():
    lan = Lan(queue_limit=100_000)
    a, b, c = lan.stack(A), lan.stack(B), lan.stack(C)
    seen = 0
    for i in range(200):
        a.send(udp(payload=i.to_bytes(4, "big") + bytes(8000)), udp(dst=C, payload=bytes(8000)))
        lan.run()
        seen += len(c.received())
    assert seen == 200, "the third one gets everything"
    assert lan.forwarder.queue_bytes(b.port) <= 100_000
    counters = b.counters
    assert counters["to_packets"] == 200
    assert counters["out_packets"] + counters["queued"] + counters["drop_out_queue_full"] == 200
    assert counters["drop_out_queue_full"] > 100 and not a.drops() and not c.drops()
    got = []
    while more := b.received():
        got += [int.from_bytes(bytes(p[UDP].payload)[:4], "big") for p in more]
        lan.run()
    assert got == list(range(len(got))) and len(got) == counters["out_packets"] + counters["queued"], (
        "in order"
    )
    assert lan.forwarder.queue_bytes(b.port) == 0


def test_packets_that_wait_long_are_marked_if_they_may_be(pair):
    lan, a, b = pair
    before = 0
    for ecn in (1, 2, 3, 0):
        while b.counters.get("marked", 0) == before and ecn in (1, 2):
            a.send(udp(payload=bytes(30000), tos=ecn))
            lan.run()
        before = b.counters.get("marked", 0)
    a.send(udp(payload=b"not capable", tos=0))
    got = []
    while more := b.received():
        got += more
        lan.run()
    marks = {p.tos for p in got}
    assert 3 in marks and all(sums_are_right(p) for p in got)
    assert b.counters["marked"] == sum(p.tos == 3 for p in got)


def test_queue_of_a_stack_that_ends_is_counted(pair):
    lan, a, b = pair
    fill(lan, a, b, 60)
    queued = b.counters["queued"]
    last = lan.forwarder.remove(b.port)
    assert last["drop_out_detached"] == queued
    lan.check()


# ---- hostile rings


def test_poisoned_ring_detaches_this_attachment_only(lan):
    a, b, c = lan.stack(A), lan.stack(B), lan.stack(C)
    garble(a.channel, TAIL, 1 << 40)
    lan.run()
    assert lan.forwarder.failed() == [(a.port, "poisoned")]
    c.send(udp(src=C))
    lan.run()
    assert len(b.received()) == 1
    b.send(udp(src=B, dst=A))
    lan.run()
    assert b.counters["forwarded"] == 1 and a.drops() == {"out_detached": 1}
    lan.forwarder.remove(a.port)
    lan.check()


@pytest.mark.parametrize(
    "record",
    [
        (0,),
        (7,),
        (0xFFFFFFFF,),
        (4096, 1, 1020),
        (64, 1, 8, 60),
        (64, 0),
        (64, 2),
        (0xFFFFFFFF, 3, 1020, 0x3FF),
    ],
    ids=str,
)
def test_impossible_record_poisons_this_attachment_only(lan, record):
    a, b, c = lan.stack(A), lan.stack(B), lan.stack(C)
    a.send(udp())
    garble(a.channel, DATA, record_header(0, *record))
    c.send(udp(src=C))
    lan.run()
    assert lan.forwarder.failed() == [(a.port, "poisoned")]
    assert [p.src for p in b.received()] == [C]


@pytest.mark.parametrize("header", [0, 1, 2**64 - 1], ids=hex)
def test_damaged_record_header_costs_a_batch_and_is_counted(lan, header):
    a, b = lan.stack(A), lan.stack(B)
    a.send(udp(payload=b"lost"))
    garble(a.channel, DATA, header)
    lan.run()
    a.send(udp(payload=b"after"))
    lan.run()
    assert lan.forwarder.failed() == []
    assert a.counters["header_errors"] == 1 and a.counters["in_packets"] == 1
    assert [bytes(p[UDP].payload) for p in b.received()] == [b"after"]
    lan.check()


def test_hostile_head_of_the_other_ring(lan):
    """The stack claims to have read what was never written."""
    a, b = lan.stack(A), lan.stack(B)
    head = b.channel._regions[1].size - 4096 + 128
    garble(b.channel, head, 1 << 50)
    for _ in range(40):
        a.send(udp(payload=bytes(8000)))
        lan.run()
    assert lan.forwarder.failed() == [(b.port, "poisoned")]


def test_closed_ring_is_told(lan):
    a = lan.stack(A)
    a.send(udp(dst=R))
    a.channel.close()
    lan.run()
    assert lan.forwarder.failed() == [(a.port, "closed")]
    assert a.counters["in_packets"] == 1, "what was sent before is taken"


def test_ports_are_used_again_and_old_ids_are_not(lan):
    a = lan.stack(A)
    lan.forwarder.remove(a.port)
    again = lan.stack(A)
    assert again.port != a.port
    with pytest.raises(KeyError):
        lan.forwarder.counters(a.port)


def test_more_ports_than_there_is_room_for():
    lan = Lan(max_ports=1)
    lan.stack(A)
    with pytest.raises(BlockingIOError, match="1 ports"):
        lan.stack(B)


def test_table_with_thousands_of_addresses_that_come_and_go():
    lan = Lan()
    a, b = lan.stack(A), lan.stack(B)
    names = [f"10.77.{i >> 8}.{i & 255}" for i in range(100, 5100)]
    for name in names:
        lan.forwarder.bind_local(pack_address(name))
    for name in names[::2]:
        lan.forwarder.forget(pack_address(name))
    entries = lan.forwarder.entries()
    assert set(entries) == {A, B, R, *names[1::2]}
    for name in names[:60]:
        a.send(IP(src=A, dst=name) / ICMP())
    lan.run()
    answers = a.received()
    assert [p.src for p in answers if p[ICMP].type == 0] == names[1:60:2]
    b.send(udp(src=B, dst=A))
    lan.run()
    assert len(a.received()) == 1
