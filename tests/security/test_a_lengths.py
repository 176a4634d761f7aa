"""Rows A1 to A3, A9, A10 on a live stack: what a packet says of its own size, and options that lead astray."""

import ipaddress

import pytest
from scapy.layers.inet import ICMP, IP, IPerror

from netstack.stack import Stack
from netstack.testing.packets import build_icmp, build_ipv4, build_ipv6, build_udp, checksum
from tests.ip.fragments import S, memory, sent, taken
from tests.security.rig import difference

US, PEER = "10.0.0.1", "10.0.0.2"
US6, PEER6 = "fd00::1", "fd00::2"


def server(version: int = 4):
    """A stack with one address and a datagram socket on port 53."""
    us, net = (US, "/24") if version == 4 else (US6, "/64")
    stack = Stack(addresses=(us + net,), seed=1)
    stack.advance(S)
    sock = stack.socket("dgram", family=2 if version == 4 else 10)
    sock.bind((us, 53))
    return stack, sock


def drops(stack, before) -> dict[str, int]:
    return {k: v for k, v in difference(stack, before).items() if k.startswith("drop_")}


def quiet(stack) -> None:
    """Nothing was said, nothing is kept."""
    assert sent(stack) == [] and memory(stack) == (0, 0) and stack.next_deadline() is None


def restated(packet: bytes, total: int) -> bytes:
    """The packet with another total length, its header's checksum right."""
    if packet[0] >> 4 == 6:
        return packet[:4] + (total - 40 & 0xFFFF).to_bytes(2, "big") + packet[6:]
    head = packet[:2] + total.to_bytes(2, "big") + packet[4:10] + bytes(2) + packet[12:20]
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + packet[20:]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("padding", [0, 1, 18])
def test_a1_every_total_length_is_held_to_the_frame_and_padding_is_cut_off(version, padding):
    """The length may be anything from 0 to 8 more than there is; a datagram without checksum shows what was read."""
    header, us, peer = (20, US, PEER) if version == 4 else (40, US6, PEER6)
    body = bytes(range(1, 24))
    for total in range(0 if version == 4 else 40, header + 8 + len(body) + padding + 9):
        stack, sock = server(version)
        there = max(0, min(total - header - 8, len(body)))
        datagram = build_udp(peer, us, 9, 53, body[:there])[header:header + 8] + body      # right for what is stated
        packet = (build_ipv4 if version == 4 else build_ipv6)(peer, us, 17, datagram) + b"\xca" * padding
        before = stack.counters()
        stack.input(restated(packet, total), stack.now_ns)
        if total < header or total > len(packet):
            assert drops(stack, before) == {"drop_ip_total_length": 1} and taken(sock) == []
        elif total < header + 8:
            assert drops(stack, before) == {"drop_udp_length": 1} and taken(sock) == []
        else:
            assert taken(sock) == [body[:there]] and drops(stack, before) == {}, "no padding, nothing beyond"
        quiet(stack)


@pytest.mark.parametrize("version", [4, 6])
def test_a1_a_packet_cut_at_any_byte_is_dropped_and_counted_once(version):
    us, peer = (US, PEER) if version == 4 else (US6, PEER6)
    whole = build_udp(peer, us, 9, 53, b"all of it")
    for length in range(1, len(whole)):
        stack, sock = server(version)
        before = stack.counters()
        stack.input(whole[:length], stack.now_ns)
        assert sum(drops(stack, before).values()) == 1, length
        assert taken(sock) == []
        quiet(stack)


def test_a2_every_header_length_against_every_frame_on_a_live_stack():
    """IHL 0 to 15, frames of 14 to 80 bytes: below 5, or beyond the packet, is dropped; the rest is a header."""
    for ihl in range(16):
        for size in range(14, 81):
            stack, sock = server()
            head = bytes([0x40 | ihl, 0]) + size.to_bytes(2, "big") + bytes(4) + bytes([64, 17, 0, 0]) \
                + ipaddress.IPv4Address(PEER).packed + ipaddress.IPv4Address(US).packed
            raw = (head + b"\1" * 60)[:size]
            if 20 <= 4 * ihl <= size - 8:
                raw = raw[:4 * ihl] + b"\0\7\0\x35" + (size - 4 * ihl).to_bytes(2, "big") + bytes(2) + raw[4 * ihl + 8:]
            if size >= 12:
                raw = raw[:10] + bytes(2) + raw[12:]
                raw = raw[:10] + checksum(raw[:max(20, 4 * ihl)]).to_bytes(2, "big") + raw[12:]
            before = stack.counters()
            stack.input(raw, stack.now_ns)
            got = taken(sock)
            if size < 20 or ihl < 5 or 4 * ihl > size:
                assert drops(stack, before) == {"drop_ip_header_length": 1} and got == [], (ihl, size)
            elif size < 4 * ihl + 8:
                assert drops(stack, before) == {"drop_udp_length": 1} and got == []
            else:
                assert got == [raw[4 * ihl + 8:]] and drops(stack, before) == {}
            quiet(stack)


BAD_OPTIONS = {
    "length 0": b"\x07\0\4\0", "length 1": b"\x07\1\4\0", "past the end": b"\x07\5\4\0", "far past": b"\x44\xff\5\0",
    "no length": b"\1\1\1\x07", "loose route": b"\x83\7\4\x0a\0\0\3\0", "strict route": b"\x89\7\4\x0a\0\0\3\0",
    "a route in a route": b"\x89\x0b\4\x83\7\4\x0a\0\0\3\0", "two routes": b"\x83\7\4\x0a\0\0\3\x89\7\4\x0a\0\0\4\0\0",
    "a route behind others": b"\x94\4\0\0\1\x83\3\4", "a route of length 0": b"\x83\0\0\0",
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_a3_bad_options_are_dropped_and_never_sent_back(name):
    """CVE-2019-12256: an error about such a packet would copy them. Neither an error nor an echo is made."""
    datagram, echo = build_udp(PEER, US, 9, 9, b"closed")[20:], build_icmp(PEER, US, 8)[20:]
    for protocol, body in ((17, datagram), (1, echo), (200, bytes(8))):
        stack, _ = server()
        before = stack.counters()
        stack.input(build_ipv4(PEER, US, protocol, body, options=BAD_OPTIONS[name]), stack.now_ns)
        assert drops(stack, before) == {"drop_ip_options": 1}
        quiet(stack)


@pytest.mark.parametrize("options", [b"\x07\7\4\0\0\0\0\0", b"\x44\x08\5\0\0\0\0\0", b"\x94\4\0\0", b"\x63\4\1\2"])
def test_a3_what_answers_packets_with_good_options_has_none(options):
    stack, _ = server()
    datagram = build_udp(PEER, US, 9, 9, b"closed")[20:]
    stack.input(build_ipv4(PEER, US, 17, datagram, options=options), stack.now_ns)
    stack.input(build_ipv4(PEER, US, 1, build_icmp(PEER, US, 8, payload=b"echo")[20:], options=options), stack.now_ns)
    error, echo = (IP(p) for p in sent(stack))
    assert error.ihl == 5 and (error[ICMP].type, error[ICMP].code) == (3, 3)
    assert error[IPerror].ihl == 5 + len(options) // 4, "what is quoted is quoted as it came"
    assert echo.ihl == 5 and echo[ICMP].type == 0 and bytes(echo[ICMP])[8:] == b"echo"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("large", [0, 1400])
def test_a9_an_echo_returns_what_came_and_no_byte_of_what_came_before(version, large):
    """Every message is longer in memory than it says, behind one full of a canary; under 8 bytes there is no answer."""
    us, peer, header, kind = (US, PEER, 20, 8) if version == 4 else (US6, PEER6, 40, 128)
    protocol, build = (1, build_ipv4) if version == 4 else (58, build_ipv6)
    stack, _ = server(version)
    canary = b"\xca\xfe" * (large // 2)
    for length in range(41):
        if canary:
            stack.input(build_icmp(peer, us, kind, payload=canary), stack.now_ns)
            assert canary in sent(stack)[0]
        body = build_icmp(peer, us, kind, rest=b"\1\2\3\4", payload=bytes(max(0, length - 8)))[header:][:length]
        before = stack.counters()
        stack.input(build(peer, us, protocol, body) + b"\xca\xfe" * 50, stack.now_ns)
        answers = sent(stack)
        if length < 8:
            assert answers == [] and drops(stack, before) == {"drop_icmp_length": 1}
        else:
            answer, = answers
            assert len(answer) == header + length and b"\xca\xfe\xca\xfe" not in answer
            assert answer[header + 4:] == b"\1\2\3\4" + bytes(length - 8)
            stated = answer[2:4] if version == 4 else answer[4:6]
            assert int.from_bytes(stated, "big") == len(answer) - (version == 6) * 40


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [8, 9, 20])
def test_a10_a_length_below_8_or_beyond_the_packet_is_dropped(version, size):
    """The field may be anything from 0 to the payload and 3 more, and the largest; the sum is right for what it is."""
    us, peer, header = (US, PEER, 20) if version == 4 else (US6, PEER6, 40)
    body = bytes(range(1, size - 7))
    for length in [*range(size + 4), 65535]:
        stack, sock = server(version)
        stated = build_udp(peer, us, 9, 53, body[:max(0, length - 8)])[header:]
        datagram = stated[:4] + length.to_bytes(2, "big") + stated[6:8] + body
        before = stack.counters()
        stack.input((build_ipv4 if version == 4 else build_ipv6)(peer, us, 17, datagram), stack.now_ns)
        if 8 <= length <= size:
            assert taken(sock) == [body[:length - 8]] and drops(stack, before) == {}
        else:
            assert taken(sock) == [] and drops(stack, before) == {"drop_udp_length": 1}, length
        quiet(stack)


def test_a10_a_datagram_without_checksum_is_one_of_ipv4_only():
    for version, us, peer, header in ((4, US, PEER, 20), (6, US6, PEER6, 40)):
        stack, sock = server(version)
        whole = build_udp(peer, us, 9, 53, b"unchecked")
        before = stack.counters()
        stack.input(whole[:header + 6] + bytes(2) + whole[header + 8:], stack.now_ns)
        assert taken(sock) == ([b"unchecked"] if version == 4 else [])
        assert drops(stack, before) == ({} if version == 4 else {"drop_udp_checksum": 1})
        quiet(stack)
