"""What the router forwards on one core, and the rows between two stacks again, through a router of this process."""

from __future__ import annotations

from bench import build
from bench.measure import Absent, Contestant, Row, Settings, program, python_program
from bench.rows import tcp
from bench.rows.rings import line_round_trip

FORWARD = "router, packets forwarded per second between two stacks, 64 B, one core"
LATENCY = "added latency of the router, a packet of 64 B"
KILLS = "throughput that others lose in the second in which a stack is killed (F1)"
PREFIX = "through the router: "


def routed(function, key, /, scale=1.0, **arguments):
    def run(settings: Settings):
        said = python_program("bench.routed", "call", name=function,
                              arguments={"seconds": settings.seconds, **arguments})
        return said[key] * scale
    return run


def forwarded(settings: Settings):
    return python_program("bench.forwarding", "run", seconds=settings.seconds) * 1e-6


def by_routes(n):
    return lambda settings: python_program("bench.forwarding", "run", seconds=settings.seconds, routes=n) * 1e-6


def latency(settings: Settings):
    return python_program("bench.forwarding", "latency")


def cache_line(settings: Settings):
    where = line_round_trip()
    if where is None:
        raise Absent("the two CPUs' distance cannot be measured here")
    return where[0]


def kernel_forwarded(settings: Settings):
    exe = build.c_program("kernel_forwarding", "kernel_forwarding.c")
    return float(program([exe, "--seconds", settings.seconds])) * 1e-6


def forwarding_rows():
    return [Row(FORWARD, "M/s", Contestant("router between two rings", forwarded),
                (Contestant("kernel forwarding over veth", kernel_forwarded),), "5 M/s", "20 M/s", 5.0, 20.0,
                by_value=True, note="the router's own time; the kernel's without what its sender and a drop cost"),
            Row(f"{FORWARD} #2", "M/s", Contestant("by one route, random destinations", by_routes(1)), (),
                "5 M/s", "20 M/s", 5.0, 20.0, by_value=True),
            Row(f"{FORWARD} #3", "M/s", Contestant("by 1,000,000 routes, random ones", by_routes(1_000_000)), (),
                "5 M/s", "20 M/s", 5.0, 20.0, by_value=True),
            Row(LATENCY, "ns", Contestant("from ring to ring by the router's thread", latency),
                (Contestant("a cache line there and back", cache_line),), less_is_better=True,
                note="one packet at a time, nobody sleeps; there and back is what the two transfers cost at least")]


def killed(settings: Settings):
    seconds = 2 if settings.quick else max(10, 10 * settings.seconds)
    return max(0.0, python_program("bench.kills", "run", seconds=seconds, timeout=300)["dip_percent"])


def kill_rows():
    return [Row(KILLS, "%", Contestant("two others at the router", killed), (), "< 5 %", "< 5 %", 5.0, 5.0,
                by_value=True, less_is_better=True,
                note="medians of seconds with and without; beside what the machine does meanwhile, which meets both")]


def uplinked(uplink, direction):
    def run(settings: Settings):
        return python_program("bench.uplinked", "run", uplink=uplink, direction=direction, seconds=settings.seconds)
    return run


def uplink_rows():
    return [Row(f"TCP bulk over an uplink of the router, a TAP, MTU 1500, {direction}", "Gbit/s",
                Contestant("64 KiB at a time (IFF_VNET_HDR)", uplinked("tap:up0", direction)),
                (Contestant("a packet at a time", uplinked("tap:up0,offload=off", direction)),),
                note="between a Python program and the kernel, the router in the program's process")
            for direction in ("to kernel", "from kernel")]


def rows():
    ours = {
        tcp.BULK: routed("bulk", "gbit_s", mtu=1500),
        tcp.BULK_64K: routed("bulk", "gbit_s", mtu=65535),
        f"{tcp.PINGPONG} #1": routed("pingpong", "us"),
        tcp.CONNECT: routed("connect_close", "per_s"),
        tcp.MESSAGES: routed("messages", "per_s", scale=1e-6),
        tcp.UDP: routed("udp", "per_s", scale=1e-6),
    }
    return [Row(PREFIX + row.name, row.unit, Contestant("two stacks at a router", ours[row.name]), row.peers,
                less_is_better=row.less_is_better)
            for row in tcp.rows() if row.name in ours]
