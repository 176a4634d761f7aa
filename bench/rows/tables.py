"""The forwarding table with a million prefixes of the Internet's shape, beside DPDK's DIR-24-8."""

from __future__ import annotations

import functools
import shlex
import subprocess

from bench import build, tables
from bench.measure import Absent, Contestant, Row, Settings, program, python_program

TABLE = "forwarding table, 1 M IPv4 prefixes"
N = 1_000_000
PEER = "DPDK rte_fib (DIR-24-8), bulks of 32"


def lookups(kind):
    return lambda settings: python_program("bench.tables", "lookups", seconds=settings.seconds, kind=kind, n=N) * 1e-6


@functools.cache                               # a count, not a time: the same in every round
def bytes_per_prefix(settings: Settings):
    return sum(python_program("bench.tables", "memory", n=N).values())


def load(settings: Settings):
    return python_program("bench.tables", "load", n=N)


def updates(settings: Settings):
    return python_program("bench.tables", "updates", seconds=settings.seconds, n=N) * 1e-3


@functools.cache                               # loading takes it ten seconds: once is enough for what does not vary
def fib(seconds: float, turn: int):
    """Lookups a second in millions, bytes per prefix, seconds to load."""
    try:
        flags = shlex.split(subprocess.run(["pkg-config", "--cflags", "libdpdk"], capture_output=True, text=True,
                                           check=True).stdout)
        libraries = shlex.split(subprocess.run(["pkg-config", "--libs", "libdpdk"], capture_output=True, text=True,
                                               check=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        raise Absent("libdpdk-dev or pkg-config is not installed") from None
    exe = build.c_program("fib_peer", "fib_peer.c", flags=tuple(flags), libraries=tuple(libraries))
    said = program([exe, tables.packed_table(N), tables.wanted("inside", N), seconds], timeout=300)
    rate, size, took, _ = said.splitlines()[-1].split()
    return float(rate) * 1e-6, int(size) / N, float(took)


def peer(which, once=False):
    return (Contestant(PEER, lambda settings: fib(settings.seconds, 0 if once else settings.turn)[which]),)


def rows():
    return [
        Row(TABLE, "M lookups/s", Contestant("poptrie, random addresses", lookups("random")), (),
            "50 M lookups/s/core", "200 M", 50, 200, by_value=True),
        Row(f"{TABLE} #2", "M lookups/s", Contestant("poptrie, addresses in random prefixes", lookups("inside")),
            peer(0), "50 M lookups/s/core", "200 M", 50, 200, by_value=True),
        Row(f"{TABLE} #3", "M lookups/s", Contestant("poptrie, one /24 after the other", lookups("sequential")),
            (), "50 M lookups/s/core", "200 M", 50, 200, by_value=True),
        Row(f"{TABLE} #4", "B/prefix", Contestant("both structures", bytes_per_prefix), peer(1, once=True),
            "<= 16 B/prefix", None, 16, None, by_value=True, less_is_better=True,
            note="what lookups read and all prefixes in order; the peer's without its own list of prefixes"),
        Row(f"{TABLE}: loading them", "s", Contestant("poptrie", load), peer(2, once=True), less_is_better=True),
        Row(f"{TABLE}: changes", "k/s", Contestant("poptrie, calls from Python", updates)),
    ]
