"""Whole connections against somebody else's arithmetic: a table kept beside this file, and the papers' formulas."""

import math

import pytest

from . import throughput
from .throughput import TABLE, Flow, bottleneck

MSS = 1448                             # payload of a segment with timestamps


def test_goodput_is_what_the_table_says():
    """``python -m tests.sim.throughput`` writes it anew; look at its diff."""
    assert list(throughput.rows()) == TABLE.read_text().splitlines()


@pytest.mark.parametrize("loss", [0.001, 0.003, 0.01])
def test_reno_follows_the_square_root_law(loss):
    """Mathis, Semke, Mahdavi, Ott 1997: rate = C * MSS / (RTT * sqrt(p)), C between 0.87 (delayed ACKs) and 1.31."""
    rtt, seconds, rates = 0.1, 200, []
    for seed in range(3):
        flow = Flow(bottleneck("reno", seed=seed, loss=loss, rtt_ms=100, rate=1_000_000_000, queue=10_000), 1 << 32)
        flow.step("60s")                                # slow start is long over
        before = flow.streams[1].received
        flow.step(f"{seconds}s")
        rates.append((flow.streams[1].received - before) / seconds)
    c = sum(rates) / len(rates) * rtt * math.sqrt(loss) / MSS
    assert 0.7 < c < 1.5, f"C = {c:.2f}"


def windows(algorithm, seconds, **path):
    """(time, cwnd, ssthresh, srtt) every 10 ms of an endless flow, in seconds and segments; and the flow."""
    flow = Flow(bottleneck(algorithm, **path), 1 << 32)
    samples = []
    for _ in range(round(seconds * 100)):
        assert not flow.step("10ms")
        info = flow.sock.info()
        samples.append((flow.pair.now_ns / 1e9, info["cwnd"] / MSS, info["ssthresh"] / MSS, info["srtt_ns"] / 1e9))
    return samples, flow


def test_cubic_follows_its_window_function():
    """RFC 9438 section 4.2: W(t) = C (t - K)^3 + Wmax, K = cbrt((Wmax - W(0)) / C), C = 0.4 segments / s^3.

    Wmax is the window at the loss, or 0.85 of it when that is below the one before (fast convergence, section 4.7).
    """
    samples, _ = windows("cubic", 100, rate=20_000_000, queue=100, rtt_ms=100)
    losses = [i for i in range(1, len(samples)) if samples[i][2] != samples[i - 1][2]]
    before, epochs = math.inf, 0
    for begin, end in zip(losses, losses[1:], strict=False):
        at_loss = w_max = samples[begin - 1][1]
        if w_max < before:
            w_max *= (1 + 0.7) / 2
        before = at_loss if w_max == at_loss else w_max
        if end - begin < 200:
            continue                                    # still on the way out of slow start
        start = samples[begin][2]
        assert abs(start - 0.7 * at_loss) <= 1
        k = ((w_max - start) / 0.4) ** (1 / 3)
        recovered = samples[begin][0] + 0.2             # a round trip with the queue, in which the loss is mended
        for time, cwnd, _, _ in samples[begin + 60:end]:
            expected = 0.4 * (time - recovered - k) ** 3 + w_max
            assert abs(cwnd - expected) < 0.04 * w_max, f"{time:.2f} s: {cwnd:.1f} segments, not {expected:.1f}"
        epochs += 1
    assert epochs >= 8


@pytest.mark.parametrize("rtt_ms, rate", [(20, 10_000_000), (50, 10_000_000), (100, 20_000_000)])
def test_vegas_keeps_between_alpha_and_beta_in_the_queue(rtt_ms, rate):
    """Brakmo, Peterson 1995 section 3.2: cwnd - cwnd * BaseRTT / RTT lies between alpha 2 and beta 4 segments."""
    samples, flow = windows("vegas", 30, rate=rate, queue=1000, rtt_ms=rtt_ms)
    base = rtt_ms / 1e3
    queued = [cwnd * (1 - base / srtt) for _, cwnd, _, srtt in samples[-500:]]
    mean = sum(queued) / len(queued)
    assert 1.5 < mean < 5.5, f"{mean:.2f} segments wait"
    assert flow.sock.info()["retransmits"] == 0


def brakmo(algorithm, seed, sack):
    """1 MB over 200 KB/s with ten packets of queue and 50 ms each way (Brakmo, Peterson 1995, section 4)."""
    pair = bottleneck(algorithm, seed=seed, rate=1_600_000, queue=10, rtt_ms=100, **{"net.ipv4.tcp_sack": sack})
    client, server = pair.connect()
    pair.run(f"{seed * 7}ms")
    done = pair.transfer(1 << 20, sockets=(client, server))
    sent = pair.faults.stats()["output"]["pushed"]
    return (1 << 20) / (done.elapsed_ns / 1e9), sent - math.ceil((1 << 20) / MSS)


@pytest.mark.parametrize("sack", [0, 1])
def test_vegas_beats_reno_where_the_queue_is_small(sack):
    """The paper: 37 to 71 % more throughput, 1/5 to 1/2 of the bytes sent again. Its Reno had neither SACK nor probes
    of the tail nor a window that shrinks in proportion: with SACK ours has little to lose, so the direction is what is
    asserted."""
    vegas = [brakmo("vegas", seed, sack) for seed in range(5)]
    reno = [brakmo("reno", seed, sack) for seed in range(5)]
    faster = sum(v for v, _ in vegas) / sum(r for r, _ in reno) - 1
    lost = sum(n for _, n in vegas) / max(1, sum(n for _, n in reno))
    print(f"Vegas against Reno, SACK {sack}: {100 * faster:+.0f} % throughput (paper: +37 to +71 %), "
          f"{lost:.2f} of the extra segments (paper: 0.2 to 0.5)")
    assert faster > 0 and lost <= 0.5
