"""Options: order byte for byte as Linux has it, what is echoed, MSS (RFC 6691), scale and timestamps (7323)."""

import random
import struct

import pytest

from netstack.stack import Stack
from netstack.testing import ScriptedPeer, build_ipv4, is_tcp
from netstack.wire import tcp as wire_tcp

from .tools import SOL_TCP, TCP_MAXSEG, A, B, active, dial, listen, new_peer, passive

NONE = dict(sack=0, timestamps=0, window_scaling=0)
MSS = "020405b4"                     # 1460
SACK_OK = "0402"


def shift_of(options: bytes) -> str:
    return options[-1:].hex()


def syn(**sysctl):
    return dial(new_peer(**sysctl)).flow.expect(is_tcp(flags="S"))


@pytest.mark.parametrize("off, pattern", [
    ((), MSS + SACK_OK + "080a{ts}00000000" + "010303{ws}"),
    (("timestamps",), MSS + "0101" + SACK_OK + "010303{ws}"),
    (("timestamps", "window_scaling"), MSS + "0101" + SACK_OK),
    (("timestamps", "sack"), MSS + "010303{ws}"),
    (("window_scaling",), MSS + SACK_OK + "080a{ts}00000000"),
    (("sack",), MSS + "0101080a{ts}00000000" + "010303{ws}"),
    (("sack", "window_scaling"), MSS + "0101080a{ts}00000000"),
    (("sack", "timestamps", "window_scaling"), MSS),
])
def test_the_order_of_options_on_a_syn_is_linuxs(off, pattern):
    """conformance/README.md section 4: mss,sackOK,TS,nop,wscale and its shorter forms."""
    packet = syn(**dict.fromkeys(off, 0))
    ts = f"{packet.timestamp[0]:08x}" if packet.timestamp else ""
    assert packet.options.hex() == pattern.format(ts=ts, ws=shift_of(packet.options))


@pytest.mark.parametrize("offer, pattern", [
    (dict(mss=1460), MSS),
    (dict(mss=1460, sack_permitted=True), MSS + "0101" + SACK_OK),
    (dict(mss=1460, window_scale=3), MSS + "010303{ws}"),
    (dict(mss=1460, timestamp=(77, 0)), MSS + "0101080a{ts}0000004d"),
    (dict(mss=1460, sack_permitted=True, window_scale=3), MSS + "0101" + SACK_OK + "010303{ws}"),
    (dict(mss=1460, sack_permitted=True, timestamp=(77, 0)), MSS + SACK_OK + "080a{ts}0000004d"),
    (dict(mss=1460, sack_permitted=True, timestamp=(77, 0), window_scale=3),
     MSS + SACK_OK + "080a{ts}0000004d" + "010303{ws}"),
    (dict(), MSS),
])
def test_a_syn_ack_echoes_only_what_was_offered(offer, pattern):
    peer = new_peer()
    listen(peer)
    flow = peer.flow()
    flow.send("S", seq=0, **offer)
    packet = flow.expect(is_tcp(flags="SA", mss=1460))
    ts = f"{packet.timestamp[0]:08x}" if packet.timestamp else ""
    assert packet.options.hex() == pattern.format(ts=ts, ws=shift_of(packet.options))


@pytest.mark.parametrize("name, offer", [
    ("timestamps", dict(timestamp=(77, 0))), ("sack", dict(sack_permitted=True)),
    ("window_scaling", dict(window_scale=3)),
])
def test_what_is_switched_off_is_not_answered(name, offer):
    peer = new_peer(**{name: 0})
    listen(peer)
    flow = peer.flow()
    flow.send("S", seq=0, mss=1460, **offer)
    assert flow.expect(is_tcp(flags="SA")).options.hex() == MSS


def test_data_segments_carry_nop_nop_timestamp():
    s = passive(timestamp=(77, 0))
    s.sock.send(b"x")
    packet = s.flow.expect(is_tcp(flags="PA", payload=b"x", timestamp=lambda t: t is not None))
    assert packet.options.hex() == f"0101080a{packet.timestamp[0]:08x}{packet.timestamp[1]:08x}"


@pytest.mark.parametrize("timestamp", [None, (77, 0)])
def test_sack_blocks_follow_nop_nop(timestamp):
    s = passive(sack_permitted=True, **({"timestamp": timestamp} if timestamp else {}))
    stamp = {"timestamp": (78, 0)} if timestamp else {}
    s.flow.send("A", seq=101, ack=1, payload=bytes(50), **stamp)
    packet = s.flow.expect(is_tcp(flags="A", ack=1, sack=((101, 151),)))
    tail = packet.options[12:] if timestamp else packet.options
    assert tail.hex() == f"0101050a{s.flow.iss + 101:08x}{s.flow.iss + 151:08x}"


# --- MSS --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("offered, largest", [
    (None, 536), (0, 536), (1, 216), (8, 216), (215, 216), (216, 216), (536, 536), (1400, 1400), (1460, 1460),
    (1461, 1460), (65535, 1460),
])
def test_segments_are_never_larger_than_the_peers_mss(offered, largest):
    """RFC 9293 section 3.7.1 (536 when none is said); a tiny one is clamped (security rows D6, D7)."""
    s = passive(mss=offered)
    s.sock.send(bytes(4000))
    assert s.lengths()[0] == largest


@pytest.mark.parametrize("offered, largest", [(None, 536), (8, 216), (1000, 1000), (9000, 1460)])
def test_the_same_for_an_active_open(offered, largest):
    s = active(mss=offered)
    s.sock.send(bytes(4000))
    assert s.lengths()[0] == largest


def test_option_bytes_come_off_every_segment():
    """RFC 6691: the MSS option does not count options, the segment does."""
    s = passive(mss=1000, timestamp=(5, 0))
    s.sock.send(bytes(3000))
    assert s.lengths()[:2] == [988, 988]


@pytest.mark.parametrize("mtu, mss", [(1500, 1460), (1280, 1240), (576, 536), (9000, 8960), (65535, 65495)])
def test_the_announced_mss_follows_the_mtu(mtu, mss):
    assert syn(mtu=mtu).mss == mss


def test_maxseg_lowers_what_is_announced_and_sent_but_never_raises_it():
    peer = new_peer()
    for asked, announced in ((1000, 1000), (9000, 1460)):
        sock = peer.stack.socket()
        sock.setsockopt(SOL_TCP, TCP_MAXSEG, asked)
        sock.connect_ex((B, 9000))
        flow = peer.flow(9000, sock.getsockname()[1])
        assert flow.accept().mss == announced
        sock.send(bytes(3000))
        assert len(flow.receive().payload) == announced


# --- window scale -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rmem_max, shift", [(65535, 0), (65536, 1), (1 << 20, 5), (6 << 20, 7), (15 << 20, 8)])
def test_the_shift_is_the_smallest_that_says_the_largest_buffer(rmem_max, shift):
    peer = new_peer(**{"net.core.rmem_default": 65535, "net.core.rmem_max": rmem_max})
    assert dial(peer).flow.expect(is_tcp(flags="S")).window_scale == shift


def test_windows_are_scaled_only_when_both_offer():
    """RFC 7323 section 2.2."""
    s = passive(window_scale=2, window=1000)
    s.pure_ack(1, window=1000)
    assert s.sock.info()["snd_wnd"] == 4000
    s = passive(window=1000)
    assert s.sock.info()["snd_wnd"] == 1000
    s.data(b"x")
    s.flow.expect(is_tcp(window=lambda w: w > 65000))


def test_the_window_of_a_syn_is_not_scaled():
    peer = new_peer()
    listen(peer)
    flow = peer.flow()
    flow.send("S", seq=0, mss=1460, window_scale=7, window=500)
    flow.expect(is_tcp(flags="SA", window=65535))
    flow.send("PA", seq=1, ack=1, payload=b"x", window=500)
    flow.expect(is_tcp(flags="A", window=lambda w: w < 65535))


@pytest.mark.parametrize("offered, used", [(0, 0), (1, 1), (14, 14), (15, 14), (255, 14)])
def test_a_shift_above_fourteen_counts_as_fourteen(offered, used):
    """RFC 7323 section 2.3."""
    s = passive(window_scale=offered, window=3)
    s.pure_ack(1, window=3)
    assert s.sock.info()["snd_wnd"] == 3 << used


def test_the_scaled_window_says_the_whole_buffer():
    s = passive(peer=new_peer(**{"net.core.rmem_default": 1 << 20}), window_scale=0)
    s.data(b"x")
    assert s.flow.receive().window << 7 >= (1 << 20) - 2 * (1 << 7)


# --- timestamps -------------------------------------------------------------------------------------------------------

def test_the_clock_of_timestamps_ticks_in_milliseconds():
    s = passive(timestamp=(1, 0))
    s.sock.send(b"a")
    first = s.flow.receive().timestamp[0]
    s.pure_ack(2, timestamp=(2, first))
    s.peer.advance("123ms")
    s.sock.send(b"b")
    assert s.flow.receive().timestamp[0] - first & 0xFFFFFFFF == 123


def test_two_connections_start_their_timestamps_apart():
    """RFC 7323 section 7.1; security row C8."""
    peer = new_peer()
    stamps = {dial(peer, 9000 + i).flow.receive().timestamp[0] for i in range(50)}
    spread = sorted(stamps)
    assert len(stamps) == 50 and spread[-1] - spread[0] > 1 << 28


# --- parser -----------------------------------------------------------------------------------------------------------

def header(options: bytes) -> bytes:
    options += bytes(-len(options) % 4)
    return struct.pack("!HHIIBBHHH", 1, 2, 3, 4, (20 + len(options)) << 2, 0x12, 5, 0, 0) + options


def test_every_kind_and_length_at_every_offset_stays_in_bounds():
    """Security row A7: bounded, no field from beyond the header, whatever follows stays unread when the walk ends."""
    for at in range(0, 40, 3):
        for kind in range(256):
            for length in (*range(16), 34, 38, 39, 40, 41, 128, 255):
                options = (b"\x01" * at + bytes((kind, length)) + b"\x05" * 40)[:40]
                fields = wire_tcp.parse(header(options))
                assert fields.header_length == 60
                if kind > 1 and (length < 2 or at + length > 40):
                    assert (fields.mss, fields.wscale, fields.timestamps, fields.sack) == (None, None, None, ())


@pytest.mark.parametrize("seed", range(3))
def test_random_options_never_read_beyond_the_header(seed):
    """Bytes behind the header do not change what is read."""
    chance = random.Random(seed)
    for _ in range(3000):
        options = chance.randbytes(chance.randrange(41))
        head = header(options)
        assert wire_tcp.parse(head) == wire_tcp.parse(head + b"\xff" * 8)


@pytest.mark.parametrize("words", range(16))
def test_data_offset_below_five_or_beyond_the_segment_is_refused(words):
    """Security row A6."""
    peer = new_peer()
    listen(peer)
    drops = 0
    for size in range(0, 81):
        segment = bytearray(header(b"") + bytes(80))[:size]
        if size > 12:
            segment[12] = words << 4
        bad = size < 20 or words < 5 or words * 4 > size
        if bad:
            with pytest.raises(ValueError):
                wire_tcp.parse(bytes(segment))
        else:
            assert wire_tcp.parse(bytes(segment)).header_length == words * 4
        peer.inject(build_ipv4(B, A, 6, bytes(segment)))
        drops += bad
    assert peer.stack.counters().get("drop_tcp_length", 0) == drops


def test_options_written_are_read_back():
    peer = ScriptedPeer(Stack(addresses=A, seed=3), B, A)
    packet = dial(peer).flow.receive()
    fields = wire_tcp.parse(packet.raw[20:])
    assert (fields.mss, fields.wscale, fields.sack_permitted, fields.timestamps) == (
        packet.mss, packet.window_scale, True, packet.timestamp)
