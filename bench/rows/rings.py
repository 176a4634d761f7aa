"""Rings between two processes, ours and those of other people, from C (``bench/c/ring_bench.c``) and from Python."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess

from bench import build
from bench.measure import Absent, Contestant, Row, Settings, program, python_program

PEERS = {
    "libatomic-queue": ("atomic_queue", "-DWITH_ATOMIC_QUEUE", "#include <atomic_queue/atomic_queue.h>", ()),
    "boost": ("boost", "-DWITH_BOOST", "#include <boost/lockfree/spsc_queue.hpp>", ()),
    "DPDK rte_ring": ("dpdk", "-DWITH_DPDK", 'extern "C" {\n#include <rte_config.h>\n#include <rte_ring.h>\n}', ()),
}


@functools.cache
def dpdk_flags():
    done = subprocess.run(["pkg-config", "--cflags", "libdpdk"], capture_output=True, text=True)
    return tuple(f for f in done.stdout.split() if not f.startswith("-m")) or ("-I/usr/include/dpdk",)


@functools.cache
def dpdk_libraries():
    done = subprocess.run(["pkg-config", "--libs", "libdpdk"], capture_output=True, text=True)
    return tuple(done.stdout.split())


@functools.cache
def harness():
    """The ring benchmark with every peer whose headers are here; (path, names of peers)."""
    if not (build.ROOT / "bench/c/ring_bench.c").exists():
        raise Absent("bench/c/ring_bench.c is not in this tree")
    flags, here, libraries = [], [], ()
    extra = os.environ.get("BENCH_PEERS")
    if extra:
        flags += [f"-I{p}" for d in pathlib.Path(extra).iterdir() for p in (d, d / "include") if p.is_dir()]
    for name, (_, define, source, _) in PEERS.items():
        more = dpdk_flags() if name.startswith("DPDK") else ()
        if build.compiles(source, *flags, *more):
            flags += [define, *more]
            here.append(name)
            if name.startswith("DPDK"):
                libraries = dpdk_libraries()
    return build.c_program("ring_bench", "ring_bench.c", "ring_ours.c", "ring_peers.cpp",
                           flags=tuple(flags), libraries=libraries), here


def figure(contestant, test, settings: Settings):
    exe, here = harness()
    for name, (word, *_) in PEERS.items():
        if word == contestant and name not in here:
            raise Absent(f"no headers of {name}")
    said = program([exe, contestant, "--test", test, "--seconds", settings.seconds / 2, "--json"])
    return json.loads(said)["value"]


def contestants(test, *names):
    return tuple(Contestant(n, functools.partial(figure, PEERS[n][0], test)) for n in names)


def mine(test, name="rings"):
    return Contestant(name, functools.partial(figure, "ours", test))


def line_round_trip(seconds=0.1):
    """(ns of a two-line cache ping-pong, "near" or "far"): where the two CPUs sit just now. None: unknown."""
    try:
        value = figure("machine", "rtt", Settings(seconds=2 * seconds))
    except (Absent, build.BuildError, RuntimeError, OSError, subprocess.TimeoutExpired):
        return None
    return value, "near" if value < 250 else "far"


# ---- from Python -----------------------------------------------------------------------------------------------------

def python_figure(which, test, settings: Settings):
    said = python_program("bench.python_rings", "run", which=which, test=test, seconds=settings.seconds / 2)
    if "absent" in said:
        raise Absent(said["absent"])
    return said["value"]


def python_peers(test, *names):
    return tuple(Contestant(n, functools.partial(python_figure, n, test)) for n in names)


def rows():
    eight = "SPSC ring between two processes, 8-byte items, one by one / 32 a batch"
    records = "the same, 64 B and 1500 B records copied in and out"
    python = "ring from Python, 64 B one by one / batched / round trip"
    two = ("libatomic-queue", "boost")
    return [
        Row(f"{eight} #1", "M/s", mine("one"), (*contestants("one", *two),
            *(Contestant(c.name, c.run, judges=False) for c in contestants("one", "DPDK rte_ring"))),
            "1x the better of libatomic-queue and boost", "1x the best of all", 1.0, 1.0),
        Row(f"{eight} #2", "M/s", mine("batch"), contestants("batch", "DPDK rte_ring"),
            "1.3x rte_ring", "1.8x rte_ring", 1.3, 1.8),
        Row(f"{records} #1", "M/s", mine("rec64"), contestants("rec64", *two),
            "1x the better of libatomic-queue and boost", "1.2x the best of all", 1.0, 1.2),
        Row(f"{records} #2", "M/s", mine("rec1500"), contestants("rec1500", *two),
            "1x the better of libatomic-queue and boost", "1.2x the best of all", 1.0, 1.2),
        Row("ring round trip, spinning", "ns", mine("rtt"),
            (Contestant("two-line cache ping-pong of this machine", functools.partial(figure, "machine", "rtt")),),
            "<= 1.5x that", "<= 1.1x", 1 / 1.5, 1 / 1.1, less_is_better=True),
        Row(f"{python} #1", "M/s", Contestant("rings", functools.partial(python_figure, "rings", "one")),
            python_peers("one", "pyzmq ipc", "multiprocessing.Pipe"), "2 M/s", "4 M/s", 2.0, 4.0, by_value=True),
        Row(f"{python} #2", "M/s", Contestant("rings", functools.partial(python_figure, "rings", "batch")),
            python_peers("batch", "faster-fifo", "pyzmq ipc"), "5 M/s", "20 M/s", 5.0, 20.0, by_value=True),
        Row(f"{python} #3", "us", Contestant("rings", functools.partial(python_figure, "rings", "rtt")),
            python_peers("rtt", "pyzmq ipc", "multiprocessing.Pipe"), "3 us", "1.2 us", 3.0, 1.2, by_value=True,
            less_is_better=True),
    ]
