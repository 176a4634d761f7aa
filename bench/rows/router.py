"""What the router forwards on one core, and the rows between two stacks again, through a router of this process."""

from __future__ import annotations

from bench import build
from bench.measure import Contestant, Row, Settings, program, python_program
from bench.rows import tcp

FORWARD = "router, packets forwarded per second between two stacks, 64 B, one core"
PREFIX = "through the router: "


def routed(function, key, /, scale=1.0, **arguments):
    def run(settings: Settings):
        said = python_program("bench.routed", "call", name=function,
                              arguments={"seconds": settings.seconds, **arguments})
        return said[key] * scale
    return run


def forwarded(settings: Settings):
    return python_program("bench.forwarding", "run", seconds=settings.seconds) * 1e-6


def kernel_forwarded(settings: Settings):
    exe = build.c_program("kernel_forwarding", "kernel_forwarding.c")
    return float(program([exe, "--seconds", settings.seconds])) * 1e-6


def forwarding_rows():
    return [Row(FORWARD, "M/s", Contestant("router between two rings", forwarded),
                (Contestant("kernel forwarding over veth", kernel_forwarded),), "5 M/s", "20 M/s", 5.0, 20.0,
                by_value=True, note="the router's own time; the kernel's without what its sender and a drop cost")]


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
