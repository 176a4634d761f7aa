"""The rows between two stacks again, through a router of this process."""

from __future__ import annotations

from bench.measure import Contestant, Row, Settings, python_program
from bench.rows import tcp

PREFIX = "through the router: "


def routed(function, key, /, scale=1.0, **arguments):
    def run(settings: Settings):
        said = python_program("bench.routed", "call", name=function,
                              arguments={"seconds": settings.seconds, **arguments})
        return said[key] * scale
    return run


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
