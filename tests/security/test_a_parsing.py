"""Rows A6 to A8: headers, options and pointers that lie about their lengths."""

import random
import struct

import pytest

from netstack.testing.packets import build_ipv4, checksum
from netstack.wire import tcp as wire_tcp
from tests.security.rig import difference, established, listening, nothing_left
from tests.support import scale
from tests.tcp.tools import A, B

TCP = 6


def segment(sport, dport, seq, ack, flags, *, offset, body, urgent=0):
    """TCP header fields and whatever follows them, checksum right over all of it, cut to what there is."""
    head = struct.pack("!HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, offset << 4, flags, 65535, 0,
                       urgent)
    return head + body


def packet(raw):
    """An IPv4 packet from the peer with that segment; the sum is right if the segment is long enough to hold one."""
    pseudo = bytes(map(int, B.split("."))) + bytes(map(int, A.split("."))) + struct.pack("!BBH", 0, TCP, len(raw))
    if len(raw) >= 18:
        raw = raw[:16] + bytes(2) + raw[18:]
        raw = raw[:16] + checksum(pseudo + raw).to_bytes(2, "big") + raw[18:]
    return build_ipv4(B, A, TCP, raw)


def test_a6_a_data_offset_below_five_or_beyond_the_segment_is_dropped_before_options():
    with nothing_left() as peer:
        s = established(peer)
        seq, ack = s.flow.iss + 1, s.flow.irs + 1
        for offset in range(16):
            for length in range(81):
                raw = segment(40000, 80, seq, ack, 0x10, offset=offset, body=b"\x01" * 61)[:length]
                before = peer.stack.counters()
                peer.inject(packet(raw))
                changed = difference(peer.stack, before)
                bad = length < 20 or offset < 5 or 4 * offset > length
                assert changed.get("drop_tcp_length", 0) == bad, (offset, length, changed)
                if bad:
                    assert peer.received == [] and not s.sock.poll() & 1
                elif length > 4 * offset:
                    taken = s.sock.recv(100)
                    assert taken == b"\x01" * (length - 4 * offset)
                    seq += len(taken)
                peer.received.clear()
        assert s.state == "ESTABLISHED"


def reference_options(area):
    """An independent reading of an option area: {kind: body} of the options this stack speaks, first to last."""
    out = {}
    at = 0
    sizes = {2: (4,), 3: (3,), 4: (2,), 8: (10,), 5: (10, 18, 26, 34)}
    while at < len(area):
        kind = area[at]
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        if at + 1 >= len(area):
            break
        size = area[at + 1]
        if size < 2 or at + size > len(area):
            break
        if size in sizes.get(kind, ()):
            out[kind] = area[at + 2:at + size]
        at += size
    return out


def check_options(area):
    raw = segment(1, 2, 3, 4, 0x02, offset=15, body=area)
    h = wire_tcp.parse(raw)
    expected = reference_options(area)
    assert h.header_length == 60
    assert (h.mss or None) == (int.from_bytes(expected[2], "big") or None if 2 in expected else None)
    assert h.wscale == (min(expected[3][0], 14) if 3 in expected else None)
    assert h.sack_permitted == (4 in expected)
    assert h.timestamps == (struct.unpack("!II", expected[8]) if 8 in expected else None)
    blocks = tuple(struct.iter_unpack("!II", expected[5])) if 5 in expected else ()
    assert tuple(map(tuple, h.sack)) == blocks


KNOWN = (0, 1, 2, 3, 4, 5, 8, 19, 28, 30, 34, 172, 174, 253, 254, 255)


@pytest.mark.parametrize("kind", range(16))
def test_a7_every_option_kind_and_length_at_every_offset_ends_the_walk_or_is_read_right(kind):
    """All 256 kinds in 16 parts; those nobody speaks at a share of the lengths when the suite is scaled down."""
    rng = random.Random(kind)
    every = scale(256, 16)
    for k in range(kind * 16, kind * 16 + 16):
        lengths = range(256) if k in KNOWN else sorted(rng.sample(range(256), every))
        for length in lengths:
            for offset in range(40):
                tail = bytes((k, length)) + bytes(range(7, 45))
                check_options((b"\x01" * offset + tail)[:40])
                if length < 4:                              # where the walk has to end, nothing behind it is read
                    for behind in (b"\x02\x04\x05\xb4" + bytes(40), b"\xff" * 40):
                        check_options((b"\x01" * offset + bytes((k, length)) + behind)[:40])


@pytest.mark.unwatched         # segments go to the stack directly
def test_a7_hostile_options_on_a_live_stack_leave_it_alive_and_bounded():
    rng = random.Random(7)
    with nothing_left(syn_retries=1) as peer:
        listening(peer)
        for i in range(scale(20_000)):
            area = bytearray(rng.randbytes(40))
            for _ in range(3):
                at = rng.randrange(39)
                area[at], area[at + 1] = rng.choice(KNOWN), rng.choice((0, 1, 2, 3, 4, 10, 18, 41, 255))
            flags = rng.choice((0x02, 0x10, 0x12, 0x18))
            peer.inject(packet(segment(1024 + i % 60000, 80, rng.getrandbits(32), rng.getrandbits(32), flags,
                                       offset=15, body=bytes(area))))
            peer.received.clear()
            assert len(peer.stack.sockets()) <= 1 + 129       # the listener and its backlog


@pytest.mark.parametrize("urgent", [0, 1, 2, 5, 100, 32768, 65535])
def test_a8_an_urgent_pointer_drives_nothing(urgent):
    """RFC 6093: in line. Also over a gap, where a stack that skips urgent bytes loses its count (CVE-2019-12255)."""
    data = bytes(range(200))
    with nothing_left() as peer:
        s = established(peer)
        seq = s.flow.iss + 1

        def send(start, end, flags=0x38):
            peer.inject(packet(segment(40000, 80, seq + start, s.flow.irs + 1, flags, offset=5, body=data[start:end],
                                       urgent=urgent)))

        send(0, 50)
        send(100, 150)
        send(40, 60)
        send(150, 200)
        send(60, 100)
        assert s.sock.recv(1000) == data
        with pytest.raises(BlockingIOError):
            s.sock.recv(1)


def test_a8_urgent_without_data_is_an_acknowledgement():
    with nothing_left() as peer:
        s = established(peer)
        for urgent in (0, 1, 65535):
            peer.inject(packet(segment(40000, 80, s.flow.iss + 1, s.flow.irs + 1, 0x30, offset=5, body=b"",
                                       urgent=urgent)))
        assert not s.sock.poll() & 1 and s.state == "ESTABLISHED"
