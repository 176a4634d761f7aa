"""TCP and UDP between two stacks from C, against the kernel's sockets from C (``bench/c/kernel_sockets.c``)."""

from __future__ import annotations

import functools

from bench import build
from bench.measure import Contestant, Row, Settings, ours, program, python_program

BULK = "TCP bulk, MTU 1500, no offload, two processes, a core each, C caller"
BULK_64K = "TCP bulk, same host, 64 KiB segments"
SEGMENT = "CPU per segment, both ends, one thread, MTU 1500, SACK + timestamps + CUBIC on"
PINGPONG = "TCP ping-pong 64 B, spinning, C / Python"
CONNECT = "connect + full close per second, two processes"
MESSAGES = "64 B messages streamed"
UDP = "UDP 64 B"
TAP = "over TAP or TUN, kernel as the other end"


def kernel(*arguments):
    """A contestant: the kernel, reno, with these arguments of kernel_sockets."""
    def run(settings: Settings):
        exe = build.c_program("kernel_sockets", "kernel_sockets.c")
        return float(program([exe, *arguments, "--cc", "reno", "--seconds", settings.seconds]))
    return run


def stacks(function, key, /, scale=1.0, **arguments):
    """A contestant: a function of bench/_programs/stacks.pyx, and which of its figures counts."""
    def run(settings: Settings):
        return ours(function, seconds=settings.seconds, **arguments)[key] * scale
    return run


def tapped(direction):
    """A contestant: one stack on a TAP, the kernel behind it."""
    def run(settings: Settings):
        return python_program("bench.tapped", "run", direction=direction, seconds=settings.seconds)
    return run


def segment_cost(settings: Settings, **arguments):
    return ours("segment", total=(16 if settings.quick else 64) << 20, **arguments)["ns"]


def rows():
    veth = Contestant("kernel over veth, offload off, reno", kernel("bulk", "--link", "veth", "--mtu", "1500"))
    return [
        Row(BULK, "Gbit/s", Contestant("two stacks on a channel", stacks("bulk", "gbit_s", mtu=1500)),
            (veth,), "2x", "4x", 2.0, 4.0),
        Row(SEGMENT, "ns", Contestant("two stacks on a channel", segment_cost),
            (Contestant("kernel over lo, MTU 1500, offload off, reno", kernel("segment", "--mtu", "1500")),),
            "<= 450 ns", "<= 300 ns", 450, 300, by_value=True, less_is_better=True,
            note="timestamps and CUBIC on, SACK agreed but nothing lost; one acknowledgement a pass"),
        Row(BULK_64K, "Gbit/s", Contestant("two stacks on a channel", stacks("bulk", "gbit_s", mtu=65535)),
            (Contestant("kernel over loopback, reno", kernel("bulk")),), "2x loopback", "6x", 2.0, 6.0),
        *(Row(f"{TAP} #{part}", "Gbit/s", Contestant(f"a stack on a TAP, MTU 1500, no offload, {direction}",
                                                    tapped(direction)),
              (veth,), "3.25 Gbit/s, 6.5 with offload headers", "10 Gbit/s", 3.25, 10.0, by_value=True,
              note=f"{direction}; the peer has the kernel at both ends")
          for part, direction in enumerate(("to kernel", "from kernel"), 1)),
        Row(f"{PINGPONG} #1", "us", Contestant("two stacks on a channel", stacks("pingpong", "us")),
            (Contestant("kernel over loopback, spinning, reno", kernel("pingpong")),),
            "3 us", "1.2 us", 3.0, 1.2, by_value=True, less_is_better=True),
        Row(CONNECT, "1/s", Contestant("two stacks on a channel", stacks("connect_close", "per_s")),
            (Contestant("kernel over loopback, reno", kernel("connect")),), "4x", "16x", 4.0, 16.0),
        Row(MESSAGES, "M/s", Contestant("two stacks on a channel", stacks("messages", "per_s", scale=1e-6)),
            (Contestant("kernel over loopback, TCP_NODELAY, reno", scaled(kernel("messages"), 1e-6)),),
            "2x", "8x", 2.0, 8.0),
        Row(UDP, "M/s", Contestant("two stacks on a channel", stacks("udp", "per_s", scale=1e-6)),
            (Contestant("kernel over loopback", scaled(kernel("udp"), 1e-6)),), "4x", "18x", 4.0, 18.0),
    ]


def scaled(run, factor):
    return functools.partial(lambda settings: run(settings) * factor)
