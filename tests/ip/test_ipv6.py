"""IPv6 packets on their way in: headers, the chain of extension headers, who may send and who is meant."""

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Jumbo,
    PadN,
    RouterAlert,
)
from scapy.packet import Raw

from netstack.counters import DropReason as R
from netstack.stack import Stack
from netstack.testing.packets import checksum
from netstack.testing.probe import InterfaceProbe

US, THEM = "fd00::1", "fd00::2"


class Peer:
    """A stack with one IPv6 address, and a datagram socket that shows what got through."""

    def __init__(self, **settings):
        self.stack = Stack(addresses=(f"{US}/64",), seed=1, **settings)
        self.socket = self.stack.socket("dgram", family=10)
        self.socket.bind((US, 53))
        self.now = 10**9

    def give(self, packet):
        """The answers to a packet, parsed."""
        self.now += 10**9
        self.stack.input(bytes(packet), self.now)
        out = []
        while (frame := self.stack.pop_output()) is not None:
            answer = IPv6(frame[0])
            assert bytes(IPv6(bytes(answer))) == frame[0]
            out.append(answer)
        return out

    def received(self):
        try:
            return self.socket.recvfrom(2000)[0]
        except BlockingIOError:
            return None

    def drops(self):
        return {k: v for k, v in self.stack.counters().items() if k.startswith("drop_")}


def packet(*headers, dst=US, src=THEM, **fields):
    p = IPv6(src=src, dst=dst, **fields)
    for header in headers:
        p = p / header
    return p / UDP(sport=9, dport=53) / Raw(b"payload")


def problem(answers, code, pointer):
    """The one answer is a Parameter Problem of that code and pointer, with the right sum and the packet in it."""
    assert len(answers) == 1
    answer = answers[0]
    assert (answer.src, answer.dst) == (US, THEM)
    error = answer[ICMPv6ParamProblem]
    assert (error.code, error.ptr) == (code, pointer)
    assert sum_is_right(answer)
    return error


def sum_is_right(answer):
    """Over the pseudo header and all of the message (RFC 4443 section 2.3); scapy errs with padding in it."""
    data = bytes(answer)
    return checksum(data[8:40] + (len(data) - 40).to_bytes(4, "big") + b"\0\0\0\x3a" + data[40:]) == 0


SKIPPED = {
    "hop by hop": [IPv6ExtHdrHopByHop()],
    "router alert": [IPv6ExtHdrHopByHop(options=[RouterAlert()])],
    "destination options": [IPv6ExtHdrDestOpt()],
    "an unknown option to skip": [IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x1e, optdata=b"abc")])],
    "routing header without segments left": [IPv6ExtHdrRouting(segleft=0, addresses=["fd00::9"])],
    "atomic fragment": [IPv6ExtHdrFragment(id=7)],
    "all of them": [IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(segleft=0, addresses=["fd00::9"]),
                    IPv6ExtHdrFragment(id=7), IPv6ExtHdrDestOpt()],
    "much padding": [IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(250)) for _ in range(4)])],
}


@pytest.mark.parametrize("name", SKIPPED)
def test_extension_headers_are_passed_over(name):
    peer = Peer()
    assert peer.give(packet(*SKIPPED[name])) == []
    assert peer.received() == b"payload"
    assert peer.drops() == {}
    assert peer.stack.counters()["ip6_extension_headers"] == len(SKIPPED[name])


@pytest.mark.parametrize("name", SKIPPED)
def test_tcp_behind_extension_headers_is_answered(name):
    peer = Peer()
    listener = peer.stack.socket(family=10)
    listener.bind((US, 80))
    listener.listen()
    p = IPv6(src=THEM, dst=US)
    for header in SKIPPED[name]:
        p = p / header
    answer, = peer.give(p / TCP(sport=9, dport=80, flags="S", seq=5))
    assert answer[TCP].flags == "SA" and answer[TCP].ack == 6


def option(kind, **where):
    return packet(IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=kind, optdata=b"")]), **where)


def test_the_highest_bits_of_an_unknown_option_say_what_happens():
    for kind in range(2, 256):
        peer = Peer()
        answers = peer.give(option(kind))
        if kind >> 6 == 0:
            assert answers == [] and peer.received() == b"payload"
        else:
            assert peer.received() is None and peer.drops() == {"drop_ip_extension": 1}
            if kind >> 6 == 1:
                assert answers == []
            else:
                problem(answers, 2, 42)


def test_to_a_group_only_one_kind_of_unknown_option_is_answered():
    for kind, answered in ((0x42, 0), (0x82, 1), (0xc2, 0)):
        assert len(Peer().give(option(kind, dst="ff02::1"))) == answered


def test_hop_by_hop_options_stand_at_the_beginning_or_the_header_is_unknown():
    problem(Peer().give(packet(IPv6ExtHdrDestOpt(), IPv6ExtHdrHopByHop())), 1, 40)


@pytest.mark.parametrize("protocol", [1, 2, 4, 50, 51, 89, 132, 135, 200, 254, 255])
def test_an_unknown_next_header_is_answered_with_a_pointer_to_its_number(protocol):
    peer = Peer()
    problem(peer.give(IPv6(src=THEM, dst=US, nh=protocol) / Raw(bytes(40))), 1, 6)
    assert peer.drops() == {"drop_ip_protocol": 1}
    problem(peer.give(IPv6(src=THEM, dst=US) / IPv6ExtHdrDestOpt(nh=protocol) / Raw(bytes(40))), 1, 40)


def test_no_next_header_ends_a_packet_in_silence():
    peer = Peer()
    assert peer.give(IPv6(src=THEM, dst=US, nh=59) / Raw(b"what is here does not matter")) == []


def test_g3_no_error_is_made_about_an_error():
    for message in (ICMPv6DestUnreach(), ICMPv6TimeExceeded(), ICMPv6ParamProblem()):
        p = IPv6(src=THEM, dst=US) / IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x82)]) / message / Raw(bytes(48))
        assert Peer().give(p) == []
    p = IPv6(src=THEM, dst=US) / IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x82)]) / ICMPv6EchoRequest()
    assert len(Peer().give(p)) == 1


def test_an_error_is_1280_bytes_at_most():
    answer, = Peer(mtu=9000).give(IPv6(src=THEM, dst=US) / UDP(sport=9, dport=54) / Raw(bytes(8000)))
    assert len(bytes(answer)) == 1280


def test_errors_are_limited_in_rate():
    peer = Peer()
    answers = []
    for _ in range(200):
        peer.stack.input(bytes(IPv6(src=THEM, dst=US) / UDP(dport=54)), 5 * 10**9)
        while (frame := peer.stack.pop_output()) is not None:
            answers.append(frame)
    assert 0 < len(answers) <= 60
    assert peer.drops()["drop_icmp_rate"] == 200 - len(answers)


# ---- what a packet says of itself -----------------------------------------------------------------


def test_traffic_class_and_hop_limit_are_read():
    probe = InterfaceProbe((f"{US}/64",))
    reason, got = probe.input(bytes(packet(tc=0xb8, hlim=7, fl=0x12345)))
    assert reason == R.DROP_NONE
    assert (got.tos, got.ttl, got.protocol, got.src, got.dst) == (0xb8, 7, 17, THEM, US)


def test_every_length_the_header_can_state_stays_within_the_frame():
    whole = bytes(packet())
    for stated in range(0, len(whole) - 40 + 9):
        data = whole[:4] + stated.to_bytes(2, "big") + whole[6:]
        reason, got = InterfaceProbe((f"{US}/64",)).input(data, transport_header=min(stated, 8))
        if stated > len(whole) - 40:
            assert reason == R.DROP_IP_TOTAL_LENGTH
        else:
            assert got.length == 40 + stated
            assert got.payload == whole[40 + min(stated, 8):40 + stated]


def test_a_packet_cut_anywhere_is_dropped_and_read_no_further():
    for name, headers in SKIPPED.items():
        whole = bytes(packet(*headers))
        for length in range(0, len(whole) - 15, 1 if len(whole) < 300 else 37):
            reason, _ = InterfaceProbe((f"{US}/64",)).input(whole[:length])
            assert reason != R.DROP_NONE, name


def test_payload_in_a_body_of_its_own_is_found_behind_extension_headers():
    for headers in SKIPPED.values():
        whole = bytes(packet(*headers))
        probe = InterfaceProbe((f"{US}/64",))
        reason, got = probe.input(whole, split=len(whole) - 7, transport_header=8)
        assert (reason, got.payload) == (R.DROP_NONE, b"payload")
        if len(headers):
            assert probe.input(whole, split=44)[0] == R.DROP_LINK_MALFORMED


# ---- security rows ----------------------------------------------------------------------------------


def test_a4_headers_of_full_length_without_end_and_in_crowds_end_the_walk():
    for header in (IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt):
        for length in range(256):            # longer than the packet, each as the first and as the second header
            for before in ([], [IPv6ExtHdrDestOpt()]):
                peer = Peer()
                raw = bytearray(bytes(packet(*before, header())))
                raw[40 + 8 * len(before) + 1] = length
                peer.give(bytes(raw))
                assert peer.stack.counters()["ip6_extension_headers"] <= 2
                if 8 * length > 15 + 8:      # beyond the packet, whose payload is 15 bytes
                    assert peer.drops() == {"drop_ip_extension": 1} and peer.received() is None
    for count in range(1, 301):
        peer = Peer()
        chain = b"".join(bytes([60 if i < count - 1 else 17, 0, 1, 4, 0, 0, 0, 0]) for i in range(count))
        body = chain + bytes(UDP(sport=9, dport=53) / Raw(b"x"))
        data = bytes(IPv6(src=THEM, dst=US, nh=60, plen=len(body))) + body
        peer.give(data)
        assert peer.stack.counters()["ip6_extension_headers"] == min(count, 9)
        assert peer.drops().get("drop_ip_extension", 0) == (count > 8)


def test_a4_options_of_every_type_and_length_at_every_place_stay_within_their_header():
    for at in range(6):
        for kind in (0, 1, 5, 0x3e, 0x7e, 0xbe, 0xc2, 0xfe):
            for length in (0, 1, 2, 3, 4, 5, 6, 127, 255):
                options = bytearray(6)
                options[at] = kind
                if at < 5:
                    options[at + 1] = length
                probe = InterfaceProbe((f"{US}/64",))
                raw = bytearray(bytes(packet(IPv6ExtHdrDestOpt())))
                raw[42:48] = options
                reason, _ = probe.input(bytes(raw))
                fits = at < 5 and at + 2 + length <= 6
                expected = kind == 0 or (fits and kind >> 6 == 0)
                if kind == 0 and at < 5 and length and at + 1 < 6:
                    continue                 # the length byte is an option of its own then
                assert (reason == R.DROP_NONE) == expected, (at, kind, length)


def test_a5_a_routing_header_with_segments_left_is_a_problem_of_its_type():
    for kind in range(256):
        for left in (1, 2, 255):
            peer = Peer()
            raw = bytearray(bytes(packet(IPv6ExtHdrRouting(segleft=left, addresses=["fd00::9"]))))
            raw[42] = kind
            problem(peer.give(bytes(raw)), 0, 42)
            assert peer.received() is None


def test_a5_jumbo_payloads_are_refused():
    peer = Peer()
    problem(peer.give(packet(IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=70000)]))), 2, 42)
    raw = bytearray(bytes(packet(IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=70000)]))))
    raw[4:6] = b"\0\0"
    assert peer.give(bytes(raw)) == []
    assert peer.received() is None and peer.drops() == {"drop_ip_extension": 2}


def test_a5_a_first_fragment_holds_the_whole_chain_or_is_a_problem():
    chain = bytes([17, 2, 1, 20]) + bytes(20) + bytes(UDP(sport=9, dport=53) / Raw(bytes(32)))
    for length in range(0, len(chain), 8):
        peer = Peer()
        p = IPv6(src=THEM, dst=US) / IPv6ExtHdrFragment(nh=60, m=1, id=5) / Raw(chain[:length])
        answers = peer.give(p)
        if length < 32:                      # 24 of options and 8 of UDP
            problem(answers, 3, 0)
        else:
            assert answers == []
        assert peer.received() is None


def test_a5_a_fragment_of_odd_length_or_beyond_the_largest_packet_is_a_problem():
    problem(Peer().give(IPv6(src=THEM, dst=US) / IPv6ExtHdrFragment(nh=17, m=1, id=5) / Raw(bytes(33))), 0, 4)
    beyond = IPv6ExtHdrFragment(nh=17, offset=8191, m=0, id=5) / Raw(bytes(64))
    problem(Peer().give(IPv6(src=THEM, dst=US) / beyond), 0, 42)


def test_a10_udp_without_checksum_or_with_a_wrong_length_is_dropped():
    peer = Peer()
    assert peer.give(IPv6(src=THEM, dst=US) / UDP(sport=9, dport=53, chksum=0) / Raw(b"x")) == []
    assert peer.drops() == {"drop_udp_checksum": 1}
    for length in (0, 7, 8, 15, 16, 17, 65535):
        peer = Peer()
        peer.give(IPv6(src=THEM, dst=US) / UDP(sport=9, dport=53, len=length) / Raw(b"payload"))
        assert peer.received() == (b"payload" if length == 15 else None)
        assert peer.drops() == ({} if length == 15 else {
            "drop_udp_length" if length < 8 or length > 15 else "drop_udp_checksum": 1})


MARTIANS = ["::", "::1", "::2", "::10.0.0.1", "::ffff:10.0.0.2", "ff02::1", "ff0e::1234", "ff00::", US, "fe80:1::1",
            "febf::1", "fe80:0:0:1::1"]


@pytest.mark.parametrize("source", MARTIANS)
def test_g2_no_host_has_such_a_source_and_nothing_is_said(source):
    peer = Peer()
    assert peer.give(packet(src=source)) == []
    assert peer.give(IPv6(src=source, dst=US) / TCP(dport=80, flags="S")) == []
    assert peer.give(IPv6(src=source, dst=US) / ICMPv6EchoRequest()) == []
    assert peer.give(packet(IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x82)]), src=source)) == []
    assert peer.received() is None
    assert set(peer.drops()) <= {"drop_ip_source", "drop_ip_extension"} and sum(peer.drops().values()) == 4


@pytest.mark.parametrize("destination", [
    "fd00::3", "::", "::1", "::ffff:10.0.0.1", "ff01::1", "ff00::1", "ff02::2", "ff02::fb", "fe80::1"])
def test_g2_nothing_is_said_about_packets_for_others(destination):
    peer = Peer()
    assert peer.give(packet(dst=destination)) == []
    assert peer.give(IPv6(src=THEM, dst=destination) / TCP(dport=80, flags="S")) == []
    assert peer.received() is None
    assert peer.drops() == {"drop_ip_destination": 2}


def test_g2_a_syn_to_a_group_is_silently_dropped():
    peer = Peer()
    listener = peer.stack.socket(family=10)
    listener.bind(("::", 80))
    listener.listen()
    assert peer.give(IPv6(src=THEM, dst="ff02::1") / TCP(dport=80, flags="S")) == []
    assert peer.drops() == {"drop_tcp_flags": 1}


def test_g1_one_of_our_own_addresses_from_outside_is_dropped():
    peer = Peer()
    assert peer.give(IPv6(src=US, dst=US) / TCP(sport=80, dport=80, flags="S")) == []
    assert peer.drops() == {"drop_ip_source": 1}
