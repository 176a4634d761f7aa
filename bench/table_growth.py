"""``python -m bench.table_growth [--quick]``: what an address for each process does to the tables of routers around.

The paper leaves it open (section 5: forwarding tables may grow faster than caches). Here a router stands in front of
hosts, each behind a next hop of its own, with so many processes that have an address each. It knows them by

- a block for each host, out of which the host's own router hands addresses to processes;
- a route for each process, their addresses from the host's block (nobody aggregates);
- a route for each process, their addresses from one pool for all hosts (they move, or were handed out centrally);
- blocks, and a route for each process that has moved to another host and kept its address: 1 % and 10 % of them.

For each: routes, bytes of what packets look at and of all prefixes, lookups a second for addresses of processes, on one
core.
"""

from __future__ import annotations

import argparse
import array
import random
import statistics
import sys
import time

from bench.route_tables import entry

BASE = 0x64400000                # 100.64.0.0/10 (RFC 6598): 4 million addresses
LOOKUPS = 1 << 17


def host_of(host: int, processes: int) -> tuple[int, int]:
    """A host's block: base and prefix length, twice as large as its processes need, as blocks are."""
    bits = (2 * processes - 1).bit_length()
    return BASE + (host << bits), 32 - bits


def table(scheme: str, hosts: int, processes: int, dice: random.Random) -> tuple[bytes, list[int]]:
    """Packed routes, and the addresses of all processes."""
    own = [[host_of(h, processes)[0] + 1 + p for p in range(processes)] for h in range(hosts)]
    blocks = [entry(*host_of(h, processes), h + 1) for h in range(hosts)]
    every = [address for some in own for address in some]
    if scheme == "a block each":
        return b"".join(blocks), every
    if scheme == "a route each, from the host's block":
        return b"".join(entry(a, 32, h + 1) for h, some in enumerate(own) for a in some), every
    if scheme == "a route each, from one pool":
        dice.shuffle(every)
        return b"".join(entry(a, 32, i // processes + 1) for i, a in enumerate(every)), every
    moved = dice.sample(every, round(len(every) * float(scheme.split()[-2]) / 100))
    bits = 32 - host_of(0, processes)[1]
    away = [entry(a, 32, ((a - BASE >> bits) + dice.randrange(1, hosts)) % hosts + 1) for a in moved]
    return b"".join(blocks + away), every


SCHEMES = ["a block each", "a route each, from the host's block", "a route each, from one pool", "blocks, moved: 1 %",
           "blocks, moved: 10 %"]


def measured(scheme: str, hosts: int, processes: int, seconds: float) -> dict[str, float]:
    from netstack.router.prefixes import PrefixTable

    dice = random.Random(hosts * 1000 + processes)
    packed, every = table(scheme, hosts, processes, dice)
    prefixes = PrefixTable()
    prefixes.load(packed)
    memory = prefixes.memory()
    some = b"".join(dice.choice(every).to_bytes(4, "big") for _ in range(LOOKUPS))
    out = array.array("H", bytes(2 * LOOKUPS))
    prefixes.find_many(some, out)
    if 0 in out:
        raise RuntimeError(f"{scheme}: a process is not found")
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while not rates or time.perf_counter() < end:
        began = time.perf_counter()
        prefixes.find_many(some, out)
        rates.append(LOOKUPS / (time.perf_counter() - began))
    fixed = 1 << 20              # the array of the first 18 bits, the same in every table
    return {"routes": len(prefixes), "lookup_kib": (memory["lookup"] - fixed) / 1024,
            "prefixes_kib": memory["prefixes"] / 1024, "lookups_per_s": statistics.median(rates)}


def main(argv=None):
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.table_growth", description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="small tables, short measurements")
    arguments = parser.parse_args(argv)
    sizes = [(8, 16)] if arguments.quick else [(64, 64), (256, 256), (1024, 1024)]
    print("| hosts x processes | routes by | routes | KiB to look at | KiB of prefixes | M lookups/s |\n"
          "|---|---|---|---|---|---|")
    for hosts, processes in sizes:
        for scheme in SCHEMES:
            m = measured(scheme, hosts, processes, 0.02 if arguments.quick else 0.5)
            print(f"| {hosts:,} x {processes:,} | {scheme} | {m['routes']:,} | {m['lookup_kib']:,.0f} | "
                  f"{m['prefixes_kib']:,.0f} | {m['lookups_per_s'] / 1e6:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
