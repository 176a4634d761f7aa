"""Goodput over a simulated bottleneck: one flow, per algorithm, loss, round trip and queue.

``python -m tests.sim.throughput`` measures anew and writes ``throughput.txt`` beside this file; the test compares.
The numbers are exact: same code, same table. A difference is no fault in itself, it is a change that somebody has to
look at: the diff of the table shows what a change of the stack does to everybody.
"""

from __future__ import annotations

import pathlib

from netstack.testing import Pair, Stream
from netstack.testing.network import duration_ns
from netstack.testing.streams import DONE, run_streams

TABLE = pathlib.Path(__file__).with_suffix(".txt")
ALGORITHMS = ("reno", "cubic", "vegas", "bbr", "dctcp", "ledbat")
LOSSES = (0, 0.001, 0.01, 0.03, 0.1, 0.2, 0.3)
ROUND_TRIPS_MS = (10, 50)
QUEUES = (10, 100)                     # packets in front of the bottleneck
RATE = 10_000_000                      # bit/s
SIZE = 2 << 20                         # bytes
SEEDS = (1, 2, 3)


def bottleneck(algorithm, *, seed=1, rate=RATE, queue=100, rtt_ms=50, loss=0.0, **sysctl):
    """A pair whose way from a to b is narrow; losses on that way only."""
    half = f"{rtt_ms * 500}us"
    names = {"net.ipv4.tcp_congestion_control": algorithm, "net.ipv4.tcp_retries2": 100, **sysctl}
    return Pair(seed=seed, sysctl=names, a_to_b=dict(rate=rate, queue=queue, delay=half, loss=loss),
                b_to_a=dict(delay=half))


class Flow:
    """One stream from a to b, stepped through time."""

    def __init__(self, pair, size):
        self.pair = pair
        self.sock, receiver = pair.connect()
        self.streams = Stream(pair.a, self.sock), Stream(pair.b, receiver)
        self.streams[0].give(1, size, 2, 0)
        self.streams[1].give(2, 0, 1, size)

    def step(self, time):
        """Let so much time pass; True when all has arrived."""
        until = self.pair.now_ns + duration_ns(time)
        verdict = run_streams(self.pair.engine, self.streams, until)
        assert all(s.error is None and s.wrong_at is None for s in self.streams)
        if verdict != DONE:
            self.pair.engine.jump(until)
        return verdict == DONE


def goodput(algorithm, loss, rtt_ms, queue, seed):
    """Bit per second of `SIZE` bytes, the handshake and the end included."""
    done = bottleneck(algorithm, seed=seed, loss=loss, rtt_ms=rtt_ms, queue=queue).transfer(SIZE, limit="100h")
    return SIZE * 8 / (done.elapsed_ns / 1e9)


def rows():
    """The table as text."""
    yield f"# Mbit/s of {SIZE >> 20} MiB through {RATE // 10**6} Mbit/s, mean of {len(SEEDS)} seeds"
    yield "# algorithm rtt_ms queue " + " ".join(f"{100 * loss:>6g}%" for loss in LOSSES)
    for algorithm in ALGORITHMS:
        for rtt_ms in ROUND_TRIPS_MS:
            for queue in QUEUES:
                cells = [sum(goodput(algorithm, loss, rtt_ms, queue, seed) for seed in SEEDS) / len(SEEDS)
                         for loss in LOSSES]
                yield f"{algorithm:<11} {rtt_ms:>6} {queue:>5} " + " ".join(f"{c / 1e6:>7.3f}" for c in cells)


if __name__ == "__main__":
    TABLE.write_text("\n".join(rows()) + "\n")
    print(TABLE.read_text(), end="")
