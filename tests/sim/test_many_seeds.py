"""F7: 10,000 seeds (at full scale) x 1 MiB each way under loss, duplication and reordering up to 30 %, all algorithms.

Up to 10 % loss every stream must be equal. Above, once with the limits on retransmissions lifted: every stream must be
equal; and once as they are: equal, or ETIMEDOUT exactly when the last retransmission that is allowed went unanswered.
Every trace runs through the state checker, here as everywhere. ``NETSTACK_SEED=n`` runs that one alone.
No Python runs per packet of a transfer (``netstack/testing/streams.pyx``).
"""

import errno
import os
import random
from collections import Counter

import pytest

from netstack.testing import Pair, SimulationError
from tests.support import scale

CHUNKS = 20
FIXED_SEED = os.environ.get("NETSTACK_SEED")
MIB = 1 << 20
LIFTED = {"net.ipv4.tcp_retries2": 100, "net.ipv4.tcp_syn_retries": 127, "net.ipv4.tcp_synack_retries": 127}
ALGORITHMS = ("reno", "cubic", "vegas", "bbr", "dctcp", "ledbat")
SECOND = 10**9
RTO_MAX = 120 * SECOND


def network(seed):
    """What a seed does to the wire, and the algorithms of both ends."""
    rng = random.Random(f"many {seed}")
    faults = dict(
        loss=rng.uniform(0, 0.3), duplicate=rng.uniform(0, 0.3), reorder=rng.uniform(0, 0.3),
        delay=rng.choice((0, 100_000, rng.randrange(50_000_000))), jitter=rng.choice((0, rng.randrange(5_000_000))),
        reorder_delay=rng.randrange(1, 20_000_000),
    )
    sysctl = {
        "net.ipv4.tcp_congestion_control": ALGORITHMS[seed % len(ALGORITHMS)],
        "net.ipv4.tcp_sack": int(rng.random() < 0.8),
        "net.ipv4.tcp_timestamps": int(rng.random() < 0.8),
    }
    return faults, sysctl


def seeds_of(chunk, count=10_000):
    if FIXED_SEED:
        return [int(FIXED_SEED)] if chunk == 0 else []
    count = scale(count, CHUNKS)
    return range(chunk * count // CHUNKS, (chunk + 1) * count // CHUNKS)


def transfer(seed, size=MIB, limits=None, **kw):
    faults, sysctl = network(seed)
    pair = Pair(seed=seed, sysctl={**sysctl, **(limits or {})}, **faults, **kw)
    return pair, pair.transfer(size, size, limit="240000h")


def after_the_last_progress(segments):
    """What a host sent and got since its peer last acknowledged something new."""
    una, since = None, 0
    for i, p in enumerate(segments):
        if p.direction == "in" and "A" in p.flags and (una is None or 0 < (p.ack - una) & 0xFFFFFFFF < 1 << 31):
            una, since = p.ack, i + 1
    return una, segments[since:]


def assert_given_up_at_the_limit(host, now_ns, limits):
    """The host's trace ends in silence: as many timeouts as allowed, each after twice the time of the one before."""
    segments = [p for p in host.packets() if p.t_ns < now_ns and p.checksum_ok and p.ip_ok]
    una, rest = after_the_last_progress(segments)
    if una is None:
        limit = limits["net.ipv4.tcp_syn_retries"]
        sent = [p.t_ns for p in rest if p.direction == "out"]
        assert all("S" in p.flags and "A" not in p.flags for p in rest if p.direction == "out")
    else:
        limit = limits["net.ipv4.tcp_retries2"]
        sent = [p.t_ns for p in rest if p.direction == "out" and p.seq == una and p.seq_length]
    times = sorted({*sent, now_ns})
    begins = {}
    for p in segments:
        begins.setdefault(p.t_ns, p.direction)
    # What an answer made it send again (the other segment arrived) is no timeout, and starts the timer anew.
    gaps = [b - a for a, b in zip(times, times[1:], strict=False) if begins.get(b) != "in"]
    assert len(gaps) >= limit, f"{len(gaps)} silences, the limit is {limit}"
    last = gaps[-limit:]
    for one, two in zip(last, last[1:], strict=False):
        assert abs(two - min(2 * one, RTO_MAX)) <= 1000, f"no doubling: {[g / SECOND for g in gaps]}"
    if una is None:
        assert len(gaps) == limit + 1 and gaps[0] == SECOND


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_f7_every_stream_is_equal_with_the_limits_lifted(chunk):
    for seed in seeds_of(chunk):
        transfer(seed, limits=LIFTED if network(seed)[0]["loss"] > 0.1 else None)


@pytest.mark.unwatched                 # the traces are those of the test before, unless a limit is reached: see below
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_f7_above_a_tenth_of_loss_a_stream_is_equal_or_times_out_at_the_limit(chunk):
    for seed in seeds_of(chunk):
        if network(seed)[0]["loss"] > 0.1:
            equal_or_timed_out(seed, MIB, {"net.ipv4.tcp_retries2": 15, "net.ipv4.tcp_syn_retries": 6})


def test_f7_lower_limits_are_reached_and_kept_exactly():
    fates = Counter()
    for seed in [int(FIXED_SEED)] if FIXED_SEED else range(scale(2000, 100)):
        if network(seed)[0]["loss"] > 0.1:
            fates[equal_or_timed_out(seed, 100_000, {"net.ipv4.tcp_retries2": 3, "net.ipv4.tcp_syn_retries": 2})] += 1
    assert FIXED_SEED or (fates["equal"] and fates["timed out"]), fates


def test_f7_a_failure_replays_from_its_seed(monkeypatch):
    """The same end, of the same host, at the same nanosecond; also when the seed comes from the environment."""
    limits = {"net.ipv4.tcp_retries2": 3, "net.ipv4.tcp_syn_retries": 2}

    def end(seed):
        with pytest.raises(SimulationError) as caught:
            transfer(seed, 100_000, limits)
        return str(caught.value), caught.value.host.address

    failing = next(seed for seed in range(1000) if network(seed)[0]["loss"] > 0.2
                   and equal_or_timed_out(seed, 100_000, limits) == "timed out")
    first = end(failing)
    assert f"replay with NETSTACK_SEED={failing}" in first[0] and end(failing) == first
    monkeypatch.setenv("NETSTACK_SEED", str(failing))
    faults, sysctl = network(failing)
    with pytest.raises(SimulationError) as caught:
        Pair(seed=1, sysctl={**sysctl, **limits}, **faults).transfer(100_000, 100_000, limit="240000h")
    assert str(caught.value) == first[0]


@pytest.mark.parametrize("seed", [71, 203])
def test_f7_ledbat_lives_on_when_its_base_delays_are_forgotten(seed):
    """Ten minutes of timeouts: no round trip is remembered, and the gain must not be divided by what is none."""
    faults, sysctl = network(seed)
    Pair(seed=seed, sysctl={**sysctl, **LIFTED, "net.ipv4.tcp_congestion_control": "ledbat"}, **faults).transfer(
        MIB, MIB, limit="240000h")


def equal_or_timed_out(seed, size, limits):
    try:
        transfer(seed, size, limits)
    except SimulationError as caught:
        if caught.error is None or caught.error.errno != errno.ETIMEDOUT:
            raise
        with pytest.raises(SimulationError) as again:          # the same once more, with a log to look into
            transfer(seed, size, limits, log=True)
        try:
            assert_given_up_at_the_limit(again.value.host, int(str(again.value).split("(at ")[1].split()[0]), limits)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        return "timed out"
    return "equal"
