"""UDP-Lite headers (RFC 3828): a sum in plain Python as judge, every coverage against every length."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstack.counters import DropReason as R
from netstack.errors import PacketError
from netstack.testing.packets import checksum
from netstack.wire import udp
from tests.support import scale

A, B = "10.0.0.1", "10.0.0.2"
A6, B6 = "fd00::1", "fd00::2"
PSEUDO = {A: bytes([10, 0, 0, 1, 10, 0, 0, 2, 0, 136]),
          A6: bytes.fromhex("fd00" + 24 * "0" + "0001" + "fd00" + 24 * "0" + "0002")}
u16 = st.integers(0, 65535)


def pseudo(src: str, length: int) -> bytes:
    """RFC 3828 section 3.2: the length is the IP payload's, not the coverage."""
    return PSEUDO[src] + (length.to_bytes(2, "big") if src == A else length.to_bytes(4, "big") + bytes([0, 0, 0, 136]))


def refusal(data: bytes, src: str = A, dst: str = B) -> R:
    try:
        udp.parse_lite(data, src, dst)
    except PacketError as error:
        return error.reason
    return R.DROP_NONE


@given(u16, u16, st.binary(max_size=100), st.data(), st.sampled_from([(A, B), (A6, B6)]))
def test_a_datagram_comes_back_and_its_sum_covers_what_it_says(sport, dport, payload, data, ends):
    whole = 8 + len(payload)
    coverage = data.draw(st.one_of(st.just(0), st.integers(8, whole)))
    datagram = udp.build_lite(*ends, sport, dport, payload, coverage)
    assert udp.parse_lite(datagram, *ends) == (sport, dport, coverage or whole, payload)
    assert datagram[4:6] == coverage.to_bytes(2, "big")
    assert checksum(pseudo(ends[0], whole) + datagram[:coverage or whole]) == 0


@pytest.mark.parametrize("coverage", [0, *range(8, 21)])
def test_a_flipped_bit_is_noticed_exactly_where_the_sum_covers(coverage):
    good = udp.build_lite(A, B, 1, 2, bytes(range(12)), coverage)
    covered = coverage or 20
    for bit in range(8 * 20):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        if bit // 8 in (4, 5):
            assert refusal(bytes(bad)) in (R.DROP_UDP_CHECKSUM, R.DROP_UDPLITE_COVERAGE)
        else:
            assert refusal(bytes(bad)) == (R.DROP_UDP_CHECKSUM if bit // 8 < covered else R.DROP_NONE), bit
    assert refusal(good, A, "10.0.0.3") == R.DROP_UDP_CHECKSUM
    assert refusal(good + b"x") == R.DROP_UDP_CHECKSUM             # the length stands in the pseudo header


def test_every_coverage_against_every_delivered_length():
    """RFC 3828 section 3.1: 1 to 7, and beyond the datagram, must be discarded; under 8 bytes there is no header."""
    for delivered in range(24):
        for coverage in range(delivered + 3):
            head = bytes([0, 1, 0, 2, *coverage.to_bytes(2, "big"), 0, 0])
            data = bytearray(head + bytes(16))[:delivered]
            if delivered < 8:
                assert refusal(bytes(data)) == R.DROP_UDP_LENGTH
                continue
            data[6:8] = (checksum(pseudo(A, delivered) + data[:coverage or delivered]) or 0xFFFF).to_bytes(2, "big")
            legal = coverage == 0 or 8 <= coverage <= delivered
            assert refusal(bytes(data)) == (R.DROP_NONE if legal else R.DROP_UDPLITE_COVERAGE), (delivered, coverage)


def test_a_datagram_without_checksum_is_illegal():
    assert refusal(udp.build_lite(A, B, 1, 2, b"abc")[:6] + b"\0\0abc") == R.DROP_UDP_CHECKSUM


def test_a_sum_that_computes_to_zero_is_sent_as_all_ones():
    zero = udp.build_lite(A, B, 1000, 2000, b"\0\0", 10)[6:8]
    datagram = udp.build_lite(A, B, 1000, 2000, zero, 10)
    assert datagram[6:8] == b"\xff\xff" and refusal(datagram) == R.DROP_NONE


def test_what_does_not_fit_raises():
    for bad in ((-1, 2), (1, 65536)):
        with pytest.raises(ValueError):
            udp.build_lite(A, B, *bad)
    for coverage in (1, 7, 12, -1):
        with pytest.raises(ValueError):
            udp.build_lite(A, B, 1, 2, b"abc", coverage)
    with pytest.raises(ValueError):
        udp.build_lite(A, B, 1, 2, bytes(65508))


def test_random_and_mutated_bytes_are_read_or_refused():
    rng = random.Random(3828)
    seen = set()
    for i in range(scale(100_000)):
        size = rng.randrange(40)
        data = bytearray(rng.randbytes(size) if i % 3 == 0 else
                         udp.build_lite(A, B, 1, 2, rng.randbytes(size), rng.choice((0, 8, 8 + size))))
        for _ in range(rng.randrange(3) if data else 0):
            data[rng.randrange(len(data))] = rng.randrange(256)
        seen.add(refusal(bytes(data[: rng.choice((len(data), rng.randrange(len(data) + 1)))])))
    assert seen == {R.DROP_NONE, R.DROP_UDP_LENGTH, R.DROP_UDP_CHECKSUM, R.DROP_UDPLITE_COVERAGE}
