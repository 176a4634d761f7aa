"""The forwarding table by itself: lookups, memory, loading, changes. Each function runs in a process of its own."""

from __future__ import annotations

import array
import os
import pathlib
import random
import statistics
import time

from bench import build
from bench.route_tables import addresses, bgp_like

BATCH = 1 << 18                  # addresses that are looked up again and again: more than any predictor remembers


def packed_table(n: int) -> pathlib.Path:
    """A file with `n` prefixes, made once."""
    path = build.OUT / f"bgp-{n}.bin"
    if not path.exists():
        build.OUT.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(bgp_like(n))
        temporary.rename(path)
    return path


def wanted(kind: str, n: int) -> pathlib.Path:
    """A file with the addresses to look up: ``random`` ones, ``inside`` random prefixes, or ``sequential`` /24s."""
    path = build.OUT / f"addresses-{kind}-{n}.bin"
    if not path.exists():
        if kind == "sequential":
            data = b"".join((0x01000000 + (i << 8)).to_bytes(4, "big") for i in range(BATCH))
        else:
            data = addresses(BATCH, inside=packed_table(n).read_bytes() if kind == "inside" else None)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(data)
        temporary.rename(path)
    return path


def loaded(n: int):
    from netstack.router.prefixes import PrefixTable

    table = PrefixTable()
    table.load(packed_table(n).read_bytes())
    return table


def lookups(seconds: float, kind: str, n: int) -> float:
    """Lookups a second, one after the other on one core."""
    table, data = loaded(n), wanted(kind, n).read_bytes()
    out = array.array("H", bytes(2 * BATCH))
    table.find_many(data, out)
    clock, rates = time.perf_counter, []
    end = clock() + seconds
    while not rates or clock() < end:
        began = clock()
        table.find_many(data, out)
        rates.append(BATCH / (clock() - began))
    return statistics.median(rates)


def memory(n: int) -> dict[str, float]:
    """Bytes per prefix: of what lookups read, and of all prefixes in order."""
    return {name: size / n for name, size in loaded(n).memory().items()}


def load(n: int) -> float:
    """Seconds to load `n` prefixes that come in any order."""
    from netstack.router.prefixes import PrefixTable

    data = packed_table(n).read_bytes()
    began = time.perf_counter()
    PrefixTable().load(data)
    return time.perf_counter() - began


def updates(seconds: float, n: int) -> float:
    """Changes a second, each by a call from Python: a prefix of the table goes, and comes again with another answer."""
    table = loaded(n)
    networks = [network for network, _ in zip((net for net, _ in table.items()), range(n), strict=False)]
    some = random.Random(1).sample(networks, min(len(networks), 20000))
    clock, done = time.perf_counter, 0
    end = clock() + seconds
    began = clock()
    while clock() < end:
        network = some[done % len(some)]
        table.remove(network)
        table.set(network, 1 + done % 64)
        done += 1
    return 2 * done / (clock() - began)


def count_lookups(n: int) -> None:
    """`n` lookups among 100,000 prefixes, for `bench.instructions`."""
    table, data = loaded(100_000), wanted("inside", 100_000).read_bytes()
    out = array.array("H", bytes(2 * BATCH))
    for at in range(0, n, BATCH):
        table.find_many(data[: 4 * min(BATCH, n - at)], out)
