"""RTO (RFC 6298), Karn, NewReno (RFC 5681, 6582), limited transmit (RFC 3042), slow start and congestion avoidance."""

import errno

import pytest

from netstack.testing import Pair, is_tcp

from .tools import MS, SO_ERROR, SOL_SOCKET, S, Wire, new_peer, passive, reach

MSS = 1000


def sender(*, peer=None, window=65535, segments=0, **options):
    """A stack with a congestion window of 10 segments of 1000 bytes and that many already sent."""
    s = passive(peer or new_peer(congestion_control="reno"), window=window, mss=MSS, **options)
    if segments:
        s.sock.send(bytes(segments * MSS))
        s.flow.receive_all()
    return s


def cwnd(s):
    return s.sock.info()["cwnd"]


# --- RTO --------------------------------------------------------------------------------------------------------------

def test_rto_is_srtt_plus_at_least_200_ms():
    """RFC 6298 section 2.2, 2.3; Linux's form of the lower bound."""
    peer = new_peer()
    from .tools import Session, listen
    server = listen(peer)
    flow = peer.flow()
    flow.send("S", seq=0, mss=MSS)
    peer.advance("100ms")
    flow.expect(is_tcp(flags="SA"))
    flow.send("A", seq=1, ack=1)
    s = Session(peer, flow, server.accept()[0])
    srtt, var = 100 * MS, 50 * MS
    assert (s.sock.info()["srtt_ns"], s.sock.info()["rttvar_ns"]) == (srtt, var)
    assert s.sock.info()["rto_ns"] == srtt + max(4 * var, 200 * MS)
    for rtt in (20, 300, 300, 5, 80, 100, 100, 100, 100, 100, 100, 100):
        s.sock.send(b"x")
        flow.receive_all()
        peer.advance(rtt * MS)
        s.pure_ack(s.ack + 1)
        var += (abs(srtt - rtt * MS) - var) // 4
        srtt += (rtt * MS - srtt) // 8
        info = s.sock.info()
        assert abs(info["srtt_ns"] - srtt) <= 20 and abs(info["rttvar_ns"] - var) <= 20
        assert info["rto_ns"] == info["srtt_ns"] + max(4 * info["rttvar_ns"], 200 * MS)


def test_retransmissions_double_up_to_120_seconds_and_end_after_r2():
    """RFC 6298 section 5.5, 5.6; RFC 9293 section 3.8.3: R2 at least 100 s."""
    s = sender(segments=1)
    start = s.peer.clock.now_ns
    s.peer.advance("2000s")
    times = [(p.t_ns - start) / MS for p in s.flow.receive_all() if p.payload]
    gaps = [b - a for a, b in zip([0, *times], times, strict=False)]
    assert gaps[0] == pytest.approx(200, abs=1)
    assert all(b == pytest.approx(min(2 * a, 120_000), rel=1e-6) for a, b in zip(gaps, gaps[1:], strict=False))
    assert len(times) == 15 and gaps[-1] == 120_000 and 100_000 <= times[-1]
    assert s.state == "CLOSED" and s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == errno.ETIMEDOUT


def test_an_ack_restarts_the_timer():
    """Section 5.3."""
    s = sender(segments=3)
    s.peer.advance("150ms")
    s.pure_ack(1001)
    s.peer.advance("150ms")
    assert s.flow.receive_all() == []
    s.peer.advance("80ms")
    assert s.flow.receive_all()[0].seq == 1001


def test_the_timer_stops_when_everything_is_acknowledged():
    """Section 5.2."""
    s = sender(segments=3)
    s.pure_ack(3001)
    assert s.peer.stack.next_deadline() is None


def test_a_segment_sent_twice_is_not_timed_and_the_backed_off_rto_stays():
    """Karn; RFC 6298 sections 3 and 5: only a new sample collapses the RTO."""
    s = sender(segments=1)
    srtt = s.sock.info()["srtt_ns"]
    s.peer.advance("900ms")
    assert len(s.flow.receive_all()) == 2          # 200 ms, 400 ms later; RTO is 800 ms now
    s.pure_ack(1001)
    info = s.sock.info()
    assert info["srtt_ns"] == srtt and info["rto_ns"] == pytest.approx(800 * MS, rel=.01)
    s.sock.send(bytes(1000))
    s.flow.receive_all()
    s.peer.advance("1ms")
    s.pure_ack(2001)
    assert s.sock.info()["rto_ns"] < 300 * MS


def test_with_timestamps_the_retransmission_itself_is_timed():
    s = sender(timestamp=(1, 0))
    s.sock.send(bytes(500))
    s.flow.receive_all()
    s.peer.advance("900ms")
    last = s.flow.receive_all()[-1]
    s.peer.advance("7ms")
    s.pure_ack(501, timestamp=(2, last.timestamp[0]))
    assert s.sock.info()["rto_ns"] < 1 * S


def test_an_echo_of_before_the_retransmission_is_no_round_trip():
    """RFC 6298 section 3, RFC 7323 section 4: the receiver had the segment, its answers were lost, and it answers the
    copies with the echo of the first. Taken for a round trip, that age of the loss drives the RTO up with the RTO."""
    s = sender(timestamp=(1, 0))
    s.sock.send(bytes(500))
    first = s.flow.receive_all()[0]
    s.peer.advance("900ms")
    assert len(s.flow.receive_all()) >= 2
    before = s.sock.info()
    s.pure_ack(501, timestamp=(2, first.timestamp[0]))
    after = s.sock.info()
    assert (after["srtt_ns"], after["rto_ns"]) == (before["srtt_ns"], before["rto_ns"])   # still backed off
    s.sock.send(bytes(500))
    stamp = s.flow.receive_all()[-1].timestamp[0]
    s.peer.advance("5ms")
    s.pure_ack(1001, timestamp=(3, stamp))
    assert s.sock.info()["rto_ns"] < 250 * MS


def test_the_rto_stays_near_the_round_trip_at_a_loss_of_a_quarter_without_sack():
    """What the path is said to take stays what it takes, however long answers were lost."""
    worst = []
    for seed in range(12):
        pair = Pair(seed=seed, loss=.25, delay="20ms", sysctl={
            "net.ipv4.tcp_sack": 0, "net.ipv4.tcp_retries2": 100, "net.ipv4.tcp_syn_retries": 100,
            "net.ipv4.tcp_synack_retries": 100})
        sockets = pair.connect(limit="24h")
        samples = [max(sockets[0].info()["srtt_ns"], 200 * MS)]     # the handshake has losses of its own

        def look(sockets=sockets, samples=samples):
            if sockets[0].state not in ("CLOSED", "TIME_WAIT"):
                samples.append(sockets[0].info()["srtt_ns"])

        pair.transfer(30_000, limit="24h", sockets=sockets, on_step=look)
        worst.append(max(samples) / samples[0])
    assert max(worst) == 1, worst


@pytest.mark.parametrize("echo", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, "future", "past"])
def test_a_forged_echo_keeps_the_rto_in_bounds(echo):
    """Security row D14."""
    s = sender(timestamp=(1, 0))
    s.sock.send(bytes(500))
    stamp = s.flow.receive().timestamp[0]
    s.peer.advance("900ms")
    s.flow.receive_all()
    value = {"future": stamp + 10**6, "past": stamp - 10**6}.get(echo, echo) & 0xFFFFFFFF
    s.pure_ack(501, timestamp=(2, value))
    assert 200 * MS <= s.sock.info()["rto_ns"] <= 120 * S


def test_after_a_timeout_everything_goes_again_in_slow_start():
    """RFC 5681 section 3.1 equation 4, RFC 6298 section 5.4."""
    s = sender(segments=10)
    s.peer.advance("250ms")
    assert [(p.seq, len(p.payload)) for p in s.flow.receive_all()] == [(1, 1000)]
    info = s.sock.info()
    assert info["cwnd"] == MSS and info["ssthresh"] == 5 * MSS
    s.pure_ack(1001)
    assert [p.seq for p in s.flow.receive_all()] == [1001, 2001]
    s.pure_ack(3001)
    assert [p.seq for p in s.flow.receive_all()] == [3001, 4001, 5001, 6001]


def test_what_the_peer_kept_is_not_sent_again():
    s = sender(peer=new_peer(congestion_control="reno", frto=0), segments=10)
    s.peer.advance("250ms")
    s.flow.receive_all()
    s.pure_ack(9001)
    assert [p.seq for p in s.flow.receive_all()] == [9001]
    s.pure_ack(10001)
    assert s.flow.receive_all() == [] and s.peer.stack.next_deadline() is None


def test_ssthresh_is_halved_once_for_one_segment_lost_again_and_again():
    """RFC 5681 section 3.1: held constant when the same segment times out again."""
    s = sender(segments=10)
    s.peer.advance("5s")
    assert s.sock.info()["ssthresh"] == 5 * MSS and s.sock.info()["retries"] >= 4


# --- fast retransmit and recovery -------------------------------------------------------------------------------------

def lose_first(segments=10, extra=20):
    """The first of the flight is lost; more data waits in the send buffer."""
    s = sender()
    s.sock.send(bytes((segments + extra) * MSS))
    assert len(s.flow.receive_all()) == segments
    return s


def test_two_duplicates_send_new_data_and_the_third_the_missing_segment():
    """RFC 3042; RFC 5681 section 3.2."""
    s = lose_first()
    s.pure_ack(1)
    assert [p.seq for p in s.flow.receive_all()] == [10001]
    s.pure_ack(1)
    assert [p.seq for p in s.flow.receive_all()] == [11001]
    assert cwnd(s) == 10 * MSS
    s.pure_ack(1)
    assert [p.seq for p in s.flow.receive_all()] == [1]
    info = s.sock.info()
    assert info["ssthresh"] == 5 * MSS          # what limited transmit sent does not count
    assert info["cwnd"] == 9 * MSS              # RFC 9937: what is in flight, 8, and the one to send again
    assert s.peer.stack.counters()["tcp_fast_retransmits"] == 1


def test_each_second_duplicate_of_a_halved_window_lets_a_segment_go():
    """RFC 9937 section 6: in proportion to what is delivered while more than ssthresh is in flight."""
    s = lose_first()
    for _ in range(3):
        s.pure_ack(1)
    assert [p.seq for p in s.flow.receive_all()] == [10001, 11001, 1]
    sent = []
    for _ in range(6):
        s.pure_ack(1)
        sent.append([p.seq for p in s.flow.receive_all()])
    assert sent == [[], [12001], [], [13001], [], []]


def test_a_full_acknowledgement_ends_recovery_at_ssthresh():
    """RFC 9937 section 6, the end of recovery; without SACK something above must be acknowledged first (RFC 6582)."""
    s = lose_first()
    for _ in range(9):
        s.pure_ack(1)
    sent = s.flow.receive_all()
    end = max(p.seq + len(p.payload) for p in sent)
    s.pure_ack(end)
    info = s.sock.info()
    assert info["ssthresh"] == 5 * MSS <= info["cwnd"] <= 6 * MSS
    assert s.sock.getsockopt(6, 11, 280)[1] == 0                 # TCP_CA_Open


def test_a_partial_acknowledgement_sends_the_next_hole_as_prr_allows():
    s = lose_first()
    for _ in range(3):
        s.pure_ack(1)
    s.flow.receive_all()
    s.pure_ack(3001)
    s.pure_ack(3001)                    # RFC 9937: one segment for two delivered
    first = s.flow.receive_all()[0]
    assert (first.seq, len(first.payload)) == (3001, 1000)
    assert s.sock.getsockopt(6, 11, 280)[1] == 3                 # TCP_CA_Recovery
    s.pure_ack(12001)
    s.pure_ack(13001)
    assert s.sock.getsockopt(6, 11, 280)[1] == 0


def test_duplicates_below_recover_do_not_start_a_second_episode():
    """RFC 6582 section 3.2 step 2, section 4."""
    s = lose_first(extra=2)
    for _ in range(3):
        s.pure_ack(1)
    s.flow.receive_all()
    s.pure_ack(12001)
    after = s.sock.info()["ssthresh"]
    s.sock.send(bytes(3000))
    s.flow.receive_all()
    for _ in range(5):
        s.pure_ack(12001)
    assert s.sock.info()["ssthresh"] == after and s.peer.stack.counters()["tcp_fast_retransmits"] == 1


@pytest.mark.parametrize("change", ["window", "data", "fin"])
def test_what_is_no_duplicate_acknowledgement_does_not_count(change):
    """RFC 5681 section 2: no data, no window change, no FIN."""
    s = lose_first()
    for i in range(6):
        if change == "window":
            s.pure_ack(1, window=65535 - 1 - i)
        elif change == "data":
            s.data(b"x")
        else:
            s.flow.send("FA", seq=5000 + i, ack=1)
    assert s.peer.stack.counters()["tcp_fast_retransmits"] == 0


def test_invented_duplicates_bring_no_more_than_half_a_window_a_round():
    """Security row D11: duplicates never stand for more segments than are out, and each second one sends one."""
    s = lose_first(extra=100)
    for _ in range(10):
        s.pure_ack(1)
    assert s.sock.info()["snd_nxt"] - s.sock.info()["snd_una"] & 0xFFFFFFFF <= 16 * MSS


def test_duplicates_without_anything_outstanding_do_nothing():
    s = sender()
    for _ in range(5):
        s.pure_ack(1)
    assert s.peer.stack.counters()["tcp_fast_retransmits"] == 0 and cwnd(s) == 10 * MSS


def test_a_timeout_in_fast_recovery_goes_back_to_the_start():
    s = lose_first()
    for _ in range(4):
        s.pure_ack(1)
    s.flow.receive_all()
    s.peer.advance("250ms")
    assert s.flow.receive_all()[0].seq == 1 and cwnd(s) == MSS
    assert s.sock.getsockopt(6, 11, 280)[1] == 4                 # TCP_CA_Loss


# --- growth -----------------------------------------------------------------------------------------------------------

def test_the_initial_window_is_ten_segments():
    """RFC 6928."""
    s = sender()
    s.sock.send(bytes(50_000))
    assert s.lengths() == [MSS] * 10


def test_slow_start_doubles_each_round_trip():
    """RFC 5681 section 3.1."""
    s = sender()
    s.sock.send(bytes(500_000))
    flights = []
    for _ in range(3):
        packets = s.flow.receive_all()
        flights.append(len(packets))
        for p in packets:
            s.pure_ack(p.seq + len(p.payload))
    assert flights == [10, 20, 40]


def test_congestion_avoidance_adds_a_segment_each_round_trip():
    """Equation 3 of section 3.1."""
    s = lose_first(extra=400)
    for _ in range(3):
        s.pure_ack(1)
    sent = s.flow.receive_all()
    end = max(p.seq + len(p.payload) for p in sent)
    s.pure_ack(max(end, s.sock.info()["snd_nxt"] - s.flow.irs))
    flights = []
    for _ in range(8):
        packets = s.flow.receive_all()
        flights.append(len(packets))
        s.peer.advance("1ms")
        for p in packets:
            s.pure_ack(p.seq + len(p.payload))
    growth = [b - a for a, b in zip(flights[2:], flights[3:], strict=False)]
    assert all(0 <= g <= 1 for g in growth) and sum(growth) >= 3, flights


def test_many_small_acknowledgements_earn_no_more_than_one():
    """RFC 3465; security row D11 (ACK splitting)."""
    s = sender(segments=10)
    before = cwnd(s)
    for i in range(1, 1001):
        s.pure_ack(1 + i)
    assert cwnd(s) <= before + 2 * MSS


def test_a_window_that_is_not_used_does_not_grow():
    """RFC 7661."""
    s = sender()
    for _ in range(20):
        s.sock.send(bytes(1000))
        s.flow.receive_all()
        s.pure_ack(s.ack + 1000)
    assert cwnd(s) == 10 * MSS


def test_after_idle_the_window_falls_back_towards_the_initial_one():
    """RFC 5681 section 4.1; RFC 2861's decay."""
    s = sender()
    s.sock.send(bytes(150_000))
    for _ in range(4):
        for p in s.flow.receive_all():
            s.pure_ack(p.seq + len(p.payload))
    while (packets := s.flow.receive_all()):
        s.pure_ack(packets[-1].seq + len(packets[-1].payload))
    grown = cwnd(s)
    assert grown > 40 * MSS
    s.peer.advance("60s")
    assert cwnd(s) == grown                   # it decays when sending goes on
    s.sock.send(bytes(100_000))
    assert len(s.flow.receive_all()) == 10 and s.sock.info()["ssthresh"] >= grown * 3 // 4


def test_idle_decay_is_a_setting():
    s = sender(peer=new_peer(slow_start_after_idle=0))
    s.sock.send(bytes(30_000))
    while (packets := s.flow.receive_all()):
        s.pure_ack(packets[-1].seq + len(packets[-1].payload))
    grown = cwnd(s)
    s.peer.advance("60s")
    s.sock.send(bytes(60_000))
    assert len(s.flow.receive_all()) == grown // MSS > 10


def test_receiving_does_not_decay_the_window():
    s = sender()
    s.sock.send(bytes(150_000))
    for _ in range(4):
        for p in s.flow.receive_all():
            s.pure_ack(p.seq + len(p.payload))
    while (packets := s.flow.receive_all()):
        s.pure_ack(packets[-1].seq + len(packets[-1].payload))
    grown = cwnd(s)
    for _ in range(50):
        s.peer.advance("1s")
        s.data(bytes(100))
    assert cwnd(s) == grown


def test_bytes_sent_counts_each_byte_once():
    s = sender(window=3000)
    s.sock.send(bytes(2500))
    s.flow.receive_all()
    s.peer.advance("3s")
    s.sock.send(bytes(400))
    s.peer.advance("3s")
    while (packets := s.flow.receive_all()):
        s.pure_ack(max(p.seq + len(p.payload) for p in packets))
    assert s.sock.info()["bytes_sent"] == 2900 and s.peer.stack.counters()["tcp_payload_out"] == 2900


@pytest.mark.parametrize("loss", [.01, .05, .2, .3])
def test_a_lossy_wire_ends_with_the_same_bytes(loss):
    wire = Wire(int(loss * 1000), loss=loss)
    a, b = wire.connect()
    data = bytes(range(256)) * 400
    sent, got = 0, bytearray()
    for _ in range(400_000):
        if sent < len(data):
            try:
                sent += a.send(data[sent:sent + 20_000])
            except BlockingIOError:
                pass
        try:
            got += b.recv(1 << 16)
        except BlockingIOError:
            pass
        if len(got) == len(data) or not wire.step():
            break
    assert bytes(got) == data


def test_state_names_are_linuxs_in_tcp_info():
    assert len(reach("ESTABLISHED").sock.getsockopt(6, 11, 280)) == 280
