"""Transfers over bad networks, 10,000 seeds at full scale, each twice: once with the stacks left alone, once
with each stack snapshotted and restored at a random step. Every stream must be equal, and so must every byte
that leaves.

A seed chooses sizes, faults up to 10 % each, mtu and options. ``NETSTACK_SEED=n`` runs that one alone.
"""

import os
import random
from collections import Counter

import pytest

from netstack.testing import Pair, SimulationError
from netstack.testing.network import chosen_seed
from tests.support import scale

CHUNKS = 20
FIXED_SEED = os.environ.get("NETSTACK_SEED")


def scenario(seed):
    """What happens under a seed: (settings of the pair, bytes a to b, bytes b to a)."""
    rng = random.Random(f"transfer {seed}")

    def up_to(p):
        return rng.choice((0.0, rng.uniform(0, p), p))

    settings = dict(
        mtu=rng.choice((576, 1500, 1500, 9000, 65535)),
        loss=up_to(0.1), duplicate=up_to(0.1), reorder=up_to(0.1), corrupt=up_to(0.1),
        delay=rng.choice((0, 1000, rng.randrange(50_000_000))),
        jitter=rng.choice((0, rng.randrange(5_000_000))),
        reorder_delay=rng.randrange(1, 20_000_000),
        sysctl={
            "net.ipv4.tcp_timestamps": int(rng.random() < 0.8),
            "net.ipv4.tcp_window_scaling": int(rng.random() < 0.9),
            "net.ipv4.tcp_ecn": random.Random(f"ecn {seed}").choice((1, 2, 3, 3)),
        },
    )
    if rng.random() < 0.2:
        settings.update(rate=rng.randrange(1_000_000, 100_000_000), queue=rng.randrange(5, 200))
        settings.update(mark=random.Random(f"mark {seed}").choice((None, 4, 20)))
    return settings, 65536 + int(rng.expovariate(1 / 20000)), 65536 + int(rng.expovariate(1 / 20000))


def run(seed, restore=None):
    """One transfer; the pair afterwards and how often each stack was restored."""
    settings, there, back = scenario(seed)
    pair = Pair(seed=seed, log=True, **settings)
    done = Counter()
    step = 0

    def on_step():
        nonlocal step
        step += 1
        for host, at in (restore or {}).items():
            if step == at:
                pair.restore(pair.a if host == "a" else pair.b)
                done[host] += 1

    pair.transfer(there, back, on_step=on_step, limit="24h")
    pair.run()                                       # until nothing is due: closed, TIME-WAIT over
    assert pair.a.stack.sockets() == pair.b.stack.sockets() == [], f"seed {seed}: sockets are left over"
    return pair, step, done


def run_twins(seed):
    alone, steps, _ = run(seed)
    rng = random.Random(f"restore {seed}")
    at = {"a": rng.randint(1, steps), "b": rng.randint(1, steps)}
    again, _, done = run(seed, at)
    assert done == {"a": 1, "b": 1}
    for one, two in ((alone.a, again.a), (alone.b, again.b)):
        if one.log.raw() != two.log.raw():
            first = next((f"{x[0]} ns: {x} became {y}" for x, y in
                          zip(one.log.frames(), two.log.frames(), strict=False) if x != y), "it spoke longer")
            raise SimulationError(f"{one} spoke differently after a restore at steps {at}: {first}; "
                                  f"replay with NETSTACK_SEED={seed}")


def seeds_of(chunk):
    if FIXED_SEED:
        return [int(FIXED_SEED)] if chunk == 0 else []
    count = scale(10_000, CHUNKS)
    return range(chunk * count // CHUNKS, (chunk + 1) * count // CHUNKS)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_stream_is_equal_and_a_restored_stack_says_the_same(chunk):
    for seed in seeds_of(chunk):
        run_twins(seed)


def test_a_run_repeats_byte_for_byte_and_another_seed_differs():
    first, _, _ = run(chosen_seed(5))
    second, _, _ = run(chosen_seed(5))
    assert first.a.log.raw() == second.a.log.raw() and first.now_ns == second.now_ns
    if not FIXED_SEED:
        assert run(6)[0].a.log.raw() != first.a.log.raw()


def test_a_failing_seed_is_named_and_replays(monkeypatch):
    def fate():
        with pytest.raises(SimulationError) as caught:
            Pair(seed=3, loss=1.0).transfer(1000, limit="1s")
        return str(caught.value)

    monkeypatch.delenv("NETSTACK_SEED", raising=False)
    text = fate()
    assert "replay with NETSTACK_SEED=3" in text and "time is up" in text
    monkeypatch.setenv("NETSTACK_SEED", "4711")
    assert "replay with NETSTACK_SEED=4711" in fate()


def test_the_faults_really_happen():
    total = Counter()
    for seed in range(20):
        pair = Pair(seed=seed, loss=0.1, duplicate=0.1, reorder=0.1, corrupt=0.1, delay="5ms")
        pair.transfer(65536, 65536)
        for direction in pair.faults.stats().values():
            total.update(direction)
        for host in (pair.a, pair.b):
            total.update({k: v for k, v in host.stack.counters().items() if k.startswith("drop_")})
    assert min(total[k] for k in ("lost", "duplicated", "reordered", "corrupted")) > 100
    assert total["drop_tcp_checksum"] > 100
