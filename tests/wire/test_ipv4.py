"""IPv4 headers: scapy as judge both ways, every malformed length and option of security rows A1 to A3."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.packet import Raw

from netstack.counters import DropReason
from netstack.errors import PacketError
from netstack.wire import ipv4
from tests.support import scale

u8 = st.integers(0, 255)
u16 = st.integers(0, 65535)
addresses = st.integers(0, 0xFFFFFFFF).map(lambda n: ".".join(str(b) for b in n.to_bytes(4, "big")))


def checksum(data: bytes) -> int:
    """RFC 1071, the slow way."""
    total = sum(int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def header(*, version=4, ihl=5, total=20, flags_offset=0, options=b"", good_sum=True) -> bytes:
    """A header with any fields, checksum right over as much of it as there is."""
    raw = bytearray(
        bytes([version << 4 | ihl, 0])
        + total.to_bytes(2, "big")
        + b"\0\1"
        + flags_offset.to_bytes(2, "big")
        + b"\x40\x11\0\0"
        + b"\x0a\0\0\2"
        + b"\x0a\0\0\1"
        + options
    )
    if good_sum:
        raw[10:12] = checksum(bytes(raw[: ihl * 4])).to_bytes(2, "big")
    return bytes(raw)


def reason_of(data: bytes, **options) -> DropReason:
    try:
        ipv4.parse(data, **options)
    except PacketError as refusal:
        return refusal.reason
    return DropReason.DROP_NONE


@given(addresses, addresses, u8, st.binary(max_size=100), u8, u8, u16, st.booleans(), st.binary(max_size=8))
def test_a_packet_comes_back_as_it_was_built(src, dst, protocol, payload, tos, ttl, ident, df, padding):
    packet = ipv4.build(src, dst, protocol, payload, tos=tos, ttl=ttl, id=ident, df=df)
    assert ipv4.parse(packet + padding) == ipv4.IPv4(
        src, dst, protocol, tos, ttl, ident, df, 20, 20 + len(payload), b"", payload
    )


@given(addresses, addresses, u8, st.binary(max_size=100), u8, u8, u16, st.booleans())
def test_scapy_reads_and_writes_the_same_bytes(src, dst, protocol, payload, tos, ttl, ident, df):
    ours = ipv4.build(src, dst, protocol, payload, tos=tos, ttl=ttl, id=ident, df=df)
    judge = IP(ours)
    assert (judge.src, judge.dst, judge.proto, judge.tos, judge.ttl, judge.id) == (
        src,
        dst,
        protocol,
        tos,
        ttl,
        ident,
    )
    assert (judge.version, judge.ihl, judge.len, judge.frag) == (4, 5, len(ours), 0)
    assert judge.flags == ("DF" if df else 0)
    theirs = IP(src=src, dst=dst, proto=protocol, tos=tos, ttl=ttl, id=ident, flags="DF" if df else 0) / Raw(
        payload
    )
    assert bytes(theirs) == ours
    assert checksum(ours[:20]) == 0


def test_the_largest_packet_and_one_byte_more():
    packet = ipv4.build("10.0.0.1", "10.0.0.2", 17, bytes(65515))
    assert ipv4.parse(packet).total_length == 65535
    with pytest.raises(ValueError):
        ipv4.build("10.0.0.1", "10.0.0.2", 17, bytes(65516))


@pytest.mark.parametrize("field,value", [("tos", 256), ("ttl", -1), ("id", 65536)])
def test_a_field_that_does_not_fit_raises(field, value):
    with pytest.raises(ValueError, match=field):
        ipv4.build("10.0.0.1", "10.0.0.2", 17, **{field: value})


def test_a1_every_total_length_against_every_delivered_length():
    for delivered in range(0, 61):
        for total in range(0, delivered + 9):
            data = (header(total=total) + bytes(range(40)))[:delivered]
            if delivered < 20:
                assert reason_of(data) == DropReason.DROP_IP_HEADER_LENGTH
            elif 20 <= total <= delivered:
                assert ipv4.parse(data).payload == bytes(range(40))[: total - 20]
            else:
                assert reason_of(data) == DropReason.DROP_IP_TOTAL_LENGTH


def test_a2_every_header_length_against_every_delivered_length():
    for ihl, delivered in itertools.product(range(16), range(14, 81)):
        data = (header(ihl=ihl, total=delivered, options=b"\1" * 60))[:delivered].ljust(delivered, b"\1")
        got = reason_of(data)
        if delivered < 20 or ihl < 5 or ihl * 4 > delivered:
            assert got == DropReason.DROP_IP_HEADER_LENGTH, (ihl, delivered)
        else:
            assert got == DropReason.DROP_NONE, (ihl, delivered)


@pytest.mark.parametrize("version", [v for v in range(16) if v != 4])
def test_another_version_is_refused(version):
    assert reason_of(header(version=version)) == DropReason.DROP_IP_VERSION


def test_every_single_bit_of_the_header_is_covered_by_its_checksum():
    good = ipv4.build("10.0.0.2", "10.0.0.1", 17)
    for bit in range(160):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        assert reason_of(bytes(bad)) != DropReason.DROP_NONE, bit


def test_verify_false_leaves_the_checksum_unread():
    bad = header(good_sum=False)
    assert reason_of(bad) == DropReason.DROP_IP_CHECKSUM
    assert ipv4.parse(bad, verify=False).src == "10.0.0.2"


OPTIONS = {
    "end": (b"\0\0\0\0", True),
    "no operation": (b"\1\1\1\1", True),
    "end hides what follows": (b"\0\x83\x00\xff", True),
    "record route": (b"\x07\x07\x04\0\0\0\0\0", True),
    "timestamp": (b"\x44\x08\x05\0\0\0\0\0", True),
    "router alert": (b"\x94\x04\0\0", True),
    "unknown": (b"\x63\x04\1\2", True),
    "loose source route": (b"\x83\x07\x04\x0a\0\0\3\0", False),
    "strict source route": (b"\x89\x07\x04\x0a\0\0\3\0", False),
    "source route behind others": (b"\x94\x04\0\0\1\x89\x03\x04", False),
    "two source routes": (b"\x83\x03\x04\x89\x03\x04\0\0", False),
    "length 0": (b"\x07\0\0\0", False),
    "length 1": (b"\x07\1\0\0", False),
    "past the end": (b"\x07\5\4\0", False),
    "far past the end": (b"\x44\xff\5\0", False),
    "kind without length": (b"\1\1\1\x07", False),
    "source route of length 0": (b"\x83\0\0\0", False),
}


@pytest.mark.parametrize("options,passes", OPTIONS.values(), ids=OPTIONS)
def test_a3_options_by_rule(options, passes):
    size = 20 + len(options)
    data = header(ihl=size // 4, total=size, options=options)
    assert reason_of(data) == (DropReason.DROP_NONE if passes else DropReason.DROP_IP_OPTIONS)
    if passes:
        assert ipv4.parse(data).options == options
        assert bytes(IP(data))[:20] == data[:20]


def options_pass(options: bytes) -> bool:
    """The rule, written down once more: RFC 791 options to their end, no source route."""
    while options:
        if options[0] == 0:
            return True
        size = 1 if options[0] == 1 else options[1] if len(options) > 1 else 0
        if options[0] != 1 and (size < 2 or size > len(options) or options[0] in (131, 137)):
            return False
        options = options[size:]
    return True


def test_a3_every_kind_and_length_at_every_offset():
    passed = 0
    for kind, length, offset in itertools.product(
        range(256), (0, 1, 2, 3, 4, 39, 40, 41, 255), (0, 1, 37, 38, 39)
    ):
        options = (b"\1" * offset + bytes([kind, length])).ljust(40, b"\1")[:40]
        got = reason_of(header(ihl=15, total=60, options=options))
        wanted = DropReason.DROP_NONE if options_pass(options) else DropReason.DROP_IP_OPTIONS
        assert got == wanted, (kind, length, offset)
        passed += got == DropReason.DROP_NONE
    assert passed > 1000


@pytest.mark.parametrize("flags_offset", [0x2000, 0x0001, 0x1FFF, 0x2001, 0x6000, 0x3FFF])
def test_fragments_are_refused(flags_offset):
    assert reason_of(header(flags_offset=flags_offset)) == DropReason.DROP_IP_FRAGMENT


@pytest.mark.parametrize("flags_offset", [0x0000, 0x4000, 0x8000])
def test_whole_packets_are_none_whatever_the_other_flags_say(flags_offset):
    assert reason_of(header(flags_offset=flags_offset)) == DropReason.DROP_NONE


def test_random_and_mutated_headers_are_read_or_refused():
    rng = random.Random(4)
    seen = set()
    for i in range(scale(200_000)):
        if i % 4 == 0:
            data = rng.randbytes(rng.randrange(70))
        else:
            ihl = rng.choice((5, 5, 6, 10, 15))
            size = ihl * 4 + rng.randrange(20)
            mutated = bytearray(
                header(ihl=ihl, total=size, options=rng.randbytes(ihl * 4 - 20)).ljust(size, b"x")
            )
            for _ in range(rng.randrange(3)):
                mutated[rng.randrange(len(mutated))] = rng.randrange(256)
            if rng.random() < 0.7:
                mutated[10:12] = b"\0\0"
                mutated[10:12] = checksum(bytes(mutated[: (mutated[0] & 15) * 4])).to_bytes(2, "big")
            data = bytes(mutated)
        seen.add(reason_of(data))
        if seen and reason_of(data) == DropReason.DROP_NONE:
            got = ipv4.parse(data)
            assert 20 <= got.header_length <= got.total_length <= len(data)
            assert len(got.payload) == got.total_length - got.header_length
    assert seen >= {
        DropReason.DROP_NONE,
        DropReason.DROP_IP_VERSION,
        DropReason.DROP_IP_HEADER_LENGTH,
        DropReason.DROP_IP_TOTAL_LENGTH,
        DropReason.DROP_IP_CHECKSUM,
        DropReason.DROP_IP_OPTIONS,
    }
