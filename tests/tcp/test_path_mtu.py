"""Path MTU: what reports are believed (RFC 1191, RFC 5927, security row C11), probes and black holes (RFC 4821)."""

import pytest

from netstack.testing import build_icmp

from .tools import SOL_TCP, A, B, new_peer, passive

TCP_MAXSEG = 2


def too_big(s, seq, mtu, *, kind=3, code=4, change=None):
    """A router says that the stack's packet with that relative sequence number was larger than mtu."""
    head = s.flow.build("A")                                  # addresses and ports the other way round
    quoted = bytearray(head[:28])
    quoted[12:16], quoted[16:20] = head[16:20], head[12:16]
    quoted[20:22], quoted[22:24] = head[22:24], head[20:22]
    quoted[24:28] = (s.flow.irs + seq & 0xFFFFFFFF).to_bytes(4, "big")
    if change:
        change(quoted)
    s.peer.inject(build_icmp(B, A, kind, code, rest=mtu.to_bytes(4, "big"), payload=bytes(quoted)))


def sending(**sysctl):
    """Ten segments of 1460 bytes in flight."""
    s = passive(new_peer(**sysctl))
    s.sock.send(bytes(14600))
    assert s.lengths() == [1460] * 10
    return s


def counters(s):
    return s.peer.stack.counters()


def test_a_report_makes_segments_smaller_and_sends_again_at_once():
    s = sending()
    cwnd = s.sock.info()["cwnd"]
    too_big(s, 1, 1000)
    again = s.lengths()
    assert again and max(again) == 960 and sum(again) == 14600
    assert s.sock.info()["cwnd"] == cwnd                      # no sign of congestion
    s.pure_ack(14601)
    s.sock.send(bytes(5000))
    assert max(s.lengths()) == 960
    assert counters(s)["tcp_pmtu_lowered"] == 1 and counters(s)["tcp_timeouts"] == 0


@pytest.mark.parametrize("mtu", [0, 1, 68, 296, 551, 1500, 1501, 65535])
def test_an_unbelievable_size_is_ignored(mtu):
    s = sending()
    too_big(s, 1, mtu)
    assert s.lengths() == [] and s.sock.getsockopt(SOL_TCP, TCP_MAXSEG) == 1460
    assert counters(s)["tcp_pmtu_lowered"] == 0


@pytest.mark.parametrize("seq", [-1, 0, 14601, 14602, 1 << 31])
def test_a_report_about_what_is_not_in_flight_is_ignored(seq):
    s = sending()
    too_big(s, seq, 1000)
    assert s.lengths() == [] and counters(s)["tcp_pmtu_lowered"] == 0


def test_only_one_who_sent_a_packet_that_large_believes_it():
    s = passive()
    s.sock.send(bytes(500))
    s.flow.receive_all()
    too_big(s, 1, 1000)
    assert s.lengths() == [] and counters(s)["tcp_pmtu_lowered"] == 0


@pytest.mark.parametrize("where", [16, 20, 22])
def test_a_forged_name_reaches_nobody(where):
    s = sending()

    def change(quoted):
        quoted[where] ^= 1

    too_big(s, 1, 1000, change=change)
    assert s.lengths() == [] and counters(s)["tcp_pmtu_lowered"] == 0


def test_source_quench_is_ignored():
    """RFC 6633."""
    s = sending()
    before = s.sock.info()["cwnd"]
    too_big(s, 1, 1000, kind=4, code=0)
    assert s.lengths() == [] and s.sock.info()["cwnd"] == before


def test_what_was_believed_is_forgotten_after_ten_minutes():
    s = sending()
    too_big(s, 1, 1000)
    s.flow.receive_all()
    s.pure_ack(14601)
    s.peer.advance("599s")
    s.sock.send(bytes(3000))
    assert max(s.lengths()) == 960
    s.pure_ack(17601)
    s.peer.advance("2s")
    s.sock.send(bytes(3000))
    assert max(s.lengths()) == 1460


def test_probes_find_the_largest_size_that_passes():
    """A wire that swallows what is larger than 1300 bytes and says nothing."""
    s = passive(new_peer(mtu_probing=2), mss=1460)
    assert s.sock.getsockopt(SOL_TCP, TCP_MAXSEG) == 1024
    seen = 0
    expected, held = 1, []
    for _ in range(400):
        try:
            s.sock.send(bytes(40_000))
        except BlockingIOError:
            pass
        for p in s.flow.receive_all():
            if len(p.payload) + 40 > 1300:
                seen += 1
                continue
            if p.seq <= expected:
                expected = max(expected, p.seq + len(p.payload))
                while held and held[0][0] <= expected:
                    expected = max(expected, sum(held.pop(0)))
            elif p.seq > expected:
                held = sorted({*held, (p.seq, len(p.payload))})
            s.pure_ack(expected)
        s.peer.advance("10ms")
    mss = s.sock.getsockopt(SOL_TCP, TCP_MAXSEG)
    assert 1300 - 40 - 8 <= mss <= 1260
    assert counters(s)["tcp_mtu_probes"] - counters(s)["tcp_mtu_probes_arrived"] == seen >= 1
    assert counters(s)["tcp_timeouts"] == 0


@pytest.mark.parametrize("probing", [0, 1])
def test_a_black_hole_is_noticed_when_probing_is_on(probing):
    s = passive(new_peer(mtu_probing=probing))
    s.sock.send(bytes(14600))
    sizes = []
    for _ in range(100):
        s.peer.advance("1s")
        sizes += s.lengths()
    assert min(sizes) == (1460 if not probing else pytest.approx(250, abs=280)) and sizes[0] == 1460
    if probing:
        assert 1024 in sizes


def test_a_window_of_one_small_segment_is_one_of_the_larger_once_the_report_is_forgotten():
    """After a timeout cwnd is one segment (RFC 5681 section 3.1), also when segments have become larger meanwhile."""
    s = sending(early_retrans=0)
    too_big(s, 1, 552)
    s.lengths()
    s.pure_ack(14601)
    s.sock.send(bytes(100))
    s.peer.advance("1s")                                      # its timeout
    s.pure_ack(14701)
    s.lengths()
    assert s.sock.info()["cwnd"] < 1460
    s.peer.advance("10min")
    s.sock.send(bytes(1460))
    assert s.lengths() == [1460] and s.sock.info()["cwnd"] == 1460
