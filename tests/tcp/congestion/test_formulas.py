"""Each algorithm on an ideal stream of acknowledgements, against the formulas of its paper."""

import struct

import pytest
from netstack.testing.congestion import CongestionProbe

MS = 10**6
MSS = 1000


def rounds(probe, n, rtt_ns, *, base_ns=None, per_round=None, **sample):
    """n round trips: the whole window acknowledged segment by segment over each. cwnd in segments after every one."""
    out = []
    for _ in range(n):
        segments = min(probe.cwnd // MSS, 1000)
        start = probe.now_ns
        for i in range(segments):
            probe.ack(MSS, now_ns=start + rtt_ns * (i + 1) // segments, rtt_ns=base_ns or rtt_ns,
                      in_flight=probe.cwnd - MSS, **sample)
        out.append(probe.cwnd // MSS)
    return out


def test_reno_doubles_then_adds_one_segment_a_round_trip():
    """RFC 5681 section 3.1."""
    probe = CongestionProbe("reno")
    assert rounds(probe, 3, 50 * MS) == [20, 40, 80]
    probe.loss()
    assert probe.ssthresh == probe.cwnd == 40 * MSS
    assert rounds(probe, 3, 50 * MS) == [41, 42, 43]


@pytest.mark.parametrize("name", ["reno", "cubic", "vegas", "dctcp", "ledbat"])
def test_ssthresh_is_at_least_two_segments(name):
    probe = CongestionProbe(name, cwnd=2)
    probe.loss()
    assert probe.ssthresh == 2 * MSS
    probe.rto()
    assert probe.ssthresh == 2 * MSS and probe.cwnd == MSS


@pytest.mark.parametrize("name", ["reno", "cubic", "vegas", "dctcp", "ledbat", "bbr"])
def test_nothing_an_algorithm_does_meets_the_guard_rails(name):
    probe = CongestionProbe(name, rtt_ns=40 * MS)
    for k in range(6):
        rounds(probe, 8, (40 + 5 * k) * MS)
        probe.loss(probe.cwnd)
        probe.recovered()
        probe.idle(10**9, 200 * MS)
    assert probe.clamped == 0 and MSS <= probe.cwnd <= 1 << 30


def cubic_window(t, w_max, beta=717 / 1024, c=0.4):
    k = ((w_max * (1 - beta)) / c) ** (1 / 3)
    return c * (t - k) ** 3 + w_max


def test_cubic_follows_its_window_function():
    """RFC 9438 figure 1, within two segments, through both halves of the curve."""
    probe = CongestionProbe("cubic", cwnd=1000, rtt_ns=100 * MS)
    probe.ssthresh = 1000 * MSS
    probe.loss()
    assert probe.cwnd == 700 * MSS
    start, rtt = probe.now_ns, 100 * MS
    for _ in range(150):
        rounds(probe, 1, rtt)
        t = (probe.now_ns - start) / 1e9
        assert abs(probe.cwnd / MSS - cubic_window(t, 1000)) <= max(3, 0.01 * probe.cwnd / MSS), t


def test_cubic_is_never_slower_than_reno_with_its_own_average():
    """RFC 9438 section 4.3: on a short path the Reno-friendly estimate leads."""
    probe = CongestionProbe("cubic", cwnd=20, rtt_ns=5 * MS)
    probe.ssthresh = 20 * MSS
    probe.loss()
    grown = rounds(probe, 60, 5 * MS)
    alpha = 8 / 15                                               # as Linux rounds 3 (1 - b) / (1 + b)
    assert 14 + int(60 * alpha * 0.8) <= grown[-1] <= 14 + int(60 * alpha) + 2


def test_cubic_converges_fast_when_losses_come_below_the_last_maximum():
    """RFC 9438 section 4.7."""
    probe = CongestionProbe("cubic", cwnd=100)
    probe.loss()
    assert probe.cwnd == 70 * MSS                                # W_max is 100
    probe.loss()
    probe.recovered()
    assert probe.cwnd == 49 * MSS                                # W_max is 70 * (1 + 0.7) / 2 = 59
    probe.ssthresh = probe.cwnd
    w = rounds(probe, 40, 100 * MS)
    assert abs(w[22] - 59) <= 6


def test_cubic_leaves_slow_start_when_the_round_trip_grows():
    """RFC 9406: N_RTT_SAMPLE samples 4 ms above the last round's; then five rounds at a quarter of the growth."""
    probe = CongestionProbe("cubic", rtt_ns=30 * MS)
    assert rounds(probe, 2, 30 * MS) == [20, 40]
    w = rounds(probe, 9, 36 * MS)
    assert probe.ssthresh < 1 << 30
    assert w[2] / w[1] < 1.35                                    # conservative slow start: a quarter


def test_jitter_brings_slow_start_back():
    probe = CongestionProbe("cubic", rtt_ns=30 * MS)
    rounds(probe, 2, 30 * MS)
    rounds(probe, 1, 36 * MS)
    w = rounds(probe, 3, 30 * MS)
    assert w[-1] / w[-2] > 1.9 and probe.ssthresh == 1 << 30


def test_without_hystart_slow_start_knows_only_losses():
    probe = CongestionProbe("cubic", rtt_ns=30 * MS, hystart=0)
    rounds(probe, 2, 30 * MS)
    rounds(probe, 5, 60 * MS)
    assert probe.ssthresh == 1 << 30


def test_vegas_stands_between_alpha_and_beta():
    """Brakmo and Peterson 1995: the queue it keeps is 2 to 4 segments, whatever it starts from."""
    pipe, base = 50, 50 * MS
    probe = CongestionProbe("vegas", cwnd=10, rtt_ns=base)
    for _ in range(200):
        queue = max(0, probe.cwnd // MSS - pipe)
        rounds(probe, 1, base + base * queue // pipe)
    held = []
    for _ in range(20):
        queue = max(0, probe.cwnd // MSS - pipe)
        held.append(rounds(probe, 1, base + base * queue // pipe)[0] - pipe)
    assert all(2 <= q <= 5 for q in held), held


def test_vegas_learns_that_its_path_became_longer():
    """After re-routing the old BaseRTT would starve it: La, Walrand, Anantharam 1999."""
    probe = CongestionProbe("vegas", cwnd=40, rtt_ns=50 * MS)
    probe.ssthresh = 40 * MSS
    rounds(probe, 10, 50 * MS)
    rounds(probe, 400, 100 * MS)                                 # no queue: only longer
    base = struct.unpack("<4I", probe.info)[3]
    assert base == 100_000 and probe.cwnd > 40 * MSS


def test_dctcp_cuts_by_half_of_the_marked_share():
    """RFC 8257 section 3.3: alpha converges to the share of marked bytes."""
    probe = CongestionProbe("dctcp", cwnd=100)
    probe.ssthresh = 100 * MSS
    for _ in range(200):
        probe.cwnd = 100 * MSS
        for i in range(100):
            probe.ack(MSS, ce_bytes=MSS if i % 4 == 0 else 0, in_flight=99 * MSS, cwnd_limited=False)
    _, _, alpha, marked, total = struct.unpack("<HHIII", probe.info)
    assert abs(alpha - 256) <= 20 and abs(marked * 4 - total) <= 4 * MSS
    before = probe.cwnd
    probe.ecn()
    assert abs(probe.cwnd - before * (1 - alpha / 2048)) <= MSS
    probe.cwnd = before
    probe.loss()
    assert probe.cwnd == before // 2                             # section 3.5


def test_ledbat_gives_way_above_its_target():
    """Multiplicative decrease in proportion to what is above 60 ms."""
    probe = CongestionProbe("ledbat", cwnd=50, rtt_ns=20 * MS)
    rounds(probe, 2, 20 * MS)
    before = probe.cwnd
    rounds(probe, 6, 180 * MS)                                   # 100 ms above the target
    assert probe.cwnd < before // 2 and probe.cwnd >= 2 * MSS


def test_undo_restores_what_a_spurious_reduction_took():
    probe = CongestionProbe("cubic", cwnd=50)
    probe.loss()
    probe.undo()
    assert probe.cwnd == 50 * MSS and probe.ssthresh == 1 << 30
    probe.undo()                                                 # once
    assert probe.cwnd == 50 * MSS and probe.clamped == 0


def test_a_switch_on_the_way_keeps_the_window():
    probe = CongestionProbe("reno", cwnd=30, rtt_ns=20 * MS)
    probe.loss()
    window = probe.cwnd, probe.ssthresh
    for name in ("cubic", "vegas", "ledbat", "dctcp", "bbr", "reno"):
        probe.switch(name)
        assert probe.name == name and (probe.cwnd, probe.ssthresh) == window
    assert probe.pacing_rate == 0                                # BBR's rate went with it


def test_the_clamp_holds():
    probe = CongestionProbe("reno")
    probe.cwnd_clamp = 25 * MSS
    rounds(probe, 5, 10 * MS)
    assert probe.cwnd == 25 * MSS and probe.clamped == 0


def bbr_on_a_path(probe, n, rate, rtt_ns):
    """n round trips over a path that delivers at most *rate* bytes a second."""
    delivered = 0
    for _ in range(n):
        inflight = min(probe.cwnd, int(rate * rtt_ns / 1e9 * 3))
        interval = max(rtt_ns, inflight * 10**9 // rate)
        start, prior, done = probe.now_ns, delivered, 0
        while done < inflight:
            done += MSS
            delivered += MSS
            probe.ack(MSS, now_ns=start + interval * done // inflight, rtt_ns=interval,
                      in_flight=max(0, inflight - done), delivered=inflight, interval_ns=interval,
                      prior_delivered=max(0, delivered - inflight),
                      tx_in_flight=inflight)
        assert prior <= delivered


def test_bbr_finds_the_rate_of_its_path():
    """Startup, drain, then near the bottleneck's rate with a window of a few round trips."""
    rate, rtt = 1_250_000, 40 * MS
    probe = CongestionProbe("bbr", rtt_ns=rtt)
    bbr_on_a_path(probe, 60, rate, rtt)
    low, high, min_rtt_us, _, _ = struct.unpack("<5I", probe.info)
    bandwidth = low | high << 32
    assert 0.9 * rate <= bandwidth <= 1.1 * rate
    assert min_rtt_us == 40_000
    assert 0.7 * rate <= probe.pacing_rate <= 1.4 * rate
    assert probe.cwnd <= 3.5 * rate * rtt / 1e9
