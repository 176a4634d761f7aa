"""ICMP and UDP headers: scapy as judge both ways, every length of security rows A9 and A10."""

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Raw

from netstack.counters import DropReason
from netstack.errors import PacketError
from netstack.wire import icmp, ipv4, udp
from tests.support import scale

u8 = st.integers(0, 255)
u16 = st.integers(0, 65535)
addresses = st.integers(0, 0xFFFFFFFF).map(lambda n: ".".join(str(b) for b in n.to_bytes(4, "big")))
A, B = "10.0.0.1", "10.0.0.2"


def reason_of(parse, *args) -> DropReason:
    try:
        parse(*args)
    except PacketError as refusal:
        return refusal.reason
    return DropReason.DROP_NONE


# ---- ICMP --------------------------------------------------------------------


@given(u8, u8, u16, u16, st.binary(max_size=200))
def test_a_message_comes_back_as_it_was_built(type_, code, identifier, sequence, payload):
    assert icmp.parse(icmp.build(type_, code, identifier, sequence, payload)) == (
        type_,
        code,
        identifier,
        sequence,
        payload,
    )


@given(st.sampled_from([icmp.ECHO_REQUEST, icmp.ECHO_REPLY]), u16, u16, st.binary(max_size=200))
def test_scapy_reads_and_writes_the_same_echo(type_, identifier, sequence, payload):
    ours = icmp.build(type_, 0, identifier, sequence, payload)
    judge = ICMP(ours)
    assert (judge.type, judge.code, judge.id, judge.seq) == (type_, 0, identifier, sequence)
    assert bytes(ICMP(type=type_, id=identifier, seq=sequence) / Raw(payload)) == ours


@given(st.integers(0, 15), st.binary(min_size=28, max_size=60))
def test_scapy_writes_the_same_unreachable(code, quoted):
    theirs = bytes(ICMP(type=3, code=code) / Raw(quoted))
    assert icmp.build(icmp.UNREACHABLE, code, 0, 0, quoted) == theirs


@pytest.mark.parametrize("length", range(8))
def test_a9_a_message_under_8_bytes_is_refused(length):
    whole = icmp.build(icmp.ECHO_REQUEST, 0, 1, 1)
    assert reason_of(icmp.parse, whole[:length]) == DropReason.DROP_ICMP_LENGTH


def test_every_single_bit_of_a_message_is_covered_by_its_checksum():
    good = icmp.build(icmp.ECHO_REQUEST, 0, 7, 9, b"odd payload")
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        assert reason_of(icmp.parse, bytes(bad)) == DropReason.DROP_ICMP_CHECKSUM


@pytest.mark.parametrize("bad", [{"type": 256}, {"code": -1}, {"identifier": 65536}, {"sequence": -1}])
def test_a_field_of_icmp_that_does_not_fit_raises(bad):
    with pytest.raises(ValueError):
        icmp.build(**{"type": 8, **bad})


# ---- UDP ---------------------------------------------------------------------


@given(addresses, addresses, u16, u16, st.binary(max_size=200), st.binary(max_size=5))
@example(A, B, 1, 2, b"", b"")
def test_a_datagram_comes_back_as_it_was_built(src, dst, sport, dport, payload, behind):
    datagram = udp.build(src, dst, sport, dport, payload)
    assert udp.parse(datagram + behind, src, dst) == (sport, dport, 8 + len(payload), True, payload)


@given(addresses, addresses, u16, u16, st.binary(max_size=200))
def test_scapy_reads_and_writes_the_same_datagram(src, dst, sport, dport, payload):
    ours = ipv4.build(src, dst, 17, udp.build(src, dst, sport, dport, payload), id=1, df=False)
    theirs = IP(src=src, dst=dst, id=1) / UDP(sport=sport, dport=dport) / Raw(payload)
    assert bytes(theirs) == ours
    judge = IP(ours)[UDP]
    assert (judge.sport, judge.dport, judge.len) == (sport, dport, 8 + len(payload))


def test_a_checksum_that_computes_to_zero_is_sent_as_all_ones():
    base = udp.build(A, B, 1000, 2000, b"\0\0")
    zero_payload = base[6:8]  # adding the complement of the sum makes the sum all ones, its complement zero
    datagram = udp.build(A, B, 1000, 2000, zero_payload)
    assert datagram[6:8] == b"\xff\xff"
    assert udp.parse(datagram, A, B).has_checksum
    assert reason_of(udp.parse, datagram, A, B) == DropReason.DROP_NONE


def test_a10_every_length_field_against_every_delivered_length():
    whole = udp.build(A, B, 1, 2, bytes(16))[:6] + b"\0\0" + bytes(16)
    for delivered in range(25):
        for length in range(delivered + 3):
            data = (whole[:4] + length.to_bytes(2, "big") + whole[6:])[:delivered]
            if delivered < 8 or length < 8 or length > delivered:
                assert reason_of(udp.parse, data, A, B) == DropReason.DROP_UDP_LENGTH, (delivered, length)
            else:
                assert udp.parse(data, A, B).payload == bytes(length - 8)


def test_no_checksum_is_accepted_and_said():
    datagram = udp.build(A, B, 1, 2, b"xyz")[:6] + b"\0\0xyz"
    assert udp.parse(datagram, A, B) == (1, 2, 11, False, b"xyz")


def test_every_single_bit_of_a_datagram_and_its_addresses_is_covered():
    good = udp.build(A, B, 1, 2, b"odd payload")
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        assert reason_of(udp.parse, bytes(bad), A, B) != DropReason.DROP_NONE, bit
    assert reason_of(udp.parse, good, A, "10.0.0.3") == DropReason.DROP_UDP_CHECKSUM
    assert reason_of(udp.parse, good, "10.0.1.1", B) == DropReason.DROP_UDP_CHECKSUM


@pytest.mark.parametrize("bad", [(-1, 2), (1, 65536)])
def test_a_port_that_does_not_fit_raises(bad):
    with pytest.raises(ValueError):
        udp.build(A, B, *bad)


def test_the_largest_datagram_and_one_byte_more():
    assert udp.parse(udp.build(A, B, 1, 2, bytes(65507)), A, B).length == 65515
    with pytest.raises(ValueError):
        udp.build(A, B, 1, 2, bytes(65508))


def test_random_and_mutated_bytes_are_read_or_refused():
    rng = random.Random(17)
    seen = set()
    seeds = [udp.build(A, B, 53, 53, b"query"), icmp.build(8, 0, 1, 1, b"ping")]
    for i in range(scale(200_000)):
        data = bytearray(rng.randbytes(rng.randrange(40)) if i % 3 == 0 else rng.choice(seeds))
        for _ in range(rng.randrange(3) if data else 0):
            data[rng.randrange(len(data))] = rng.randrange(256)
        data = bytes(data[: rng.choice((len(data), rng.randrange(len(data) + 1)))])
        seen.add(reason_of(udp.parse, data, A, B))
        seen.add(reason_of(icmp.parse, data))
    assert seen == {
        DropReason.DROP_NONE,
        DropReason.DROP_UDP_LENGTH,
        DropReason.DROP_UDP_CHECKSUM,
        DropReason.DROP_ICMP_LENGTH,
        DropReason.DROP_ICMP_CHECKSUM,
    }
