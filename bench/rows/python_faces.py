"""Sockets of two Hosts from Python, against the kernel's from Python, and against our own C caller."""

from __future__ import annotations

from bench.measure import Contestant, Row, Settings, python_program
from bench.rows.tcp import PINGPONG, kernel, stacks

BULK = "the same from Python `sendall` / `recv_into`"
ASLEEP = "TCP ping-pong 64 B, Python, asleep / adaptive spin (S = 50 us)"
CALL = "send + recv call, 64 B, from Python, GIL kept"


def hosts(test, **arguments):
    def run(settings: Settings):
        return python_program("bench.python_sockets", "run", kind="hosts", test=test, seconds=settings.seconds,
                              **arguments)
    return run


def kernel_python(test):
    def run(settings: Settings):
        return python_program("bench.python_sockets", "run", kind="kernel", test=test, seconds=settings.seconds)
    return run


def rows():
    peer = Contestant("kernel over loopback, Python, reno", kernel_python("pingpong"))
    return [
        Row(BULK, "Gbit/s", Contestant("two Hosts on a channel", hosts("bulk")),
            (Contestant("our own C caller", stacks("bulk", "gbit_s", mtu=65535)),),
            ">= 0.9x our own C figure", "0.95x", 0.9, 0.95),
        Row(f"{PINGPONG} #2", "us", Contestant("two Hosts on a channel, spin_us=1000", hosts("pingpong", spin_us=1000)),
            (Contestant("kernel over loopback, C, spinning, reno", kernel("pingpong")),),
            "6 us", "2.5 us", 6.0, 2.5, by_value=True, less_is_better=True),
        Row(f"{ASLEEP} #1", "us", Contestant("two Hosts on a channel, spin_us=0", hosts("pingpong", spin_us=0)),
            (peer,), "<= 1x the kernel", "0.8x", 1.0, 1 / 0.8, less_is_better=True),
        Row(f"{ASLEEP} #2", "us", Contestant("two Hosts on a channel, spin_us=50", hosts("pingpong", spin_us=50)),
            (peer,), "<= 0.1x the kernel", "0.03x", 10.0, 1 / 0.03, less_is_better=True),
        Row(CALL, "us", Contestant("one Host to itself", hosts("call")),
            (Contestant("kernel over loopback", kernel_python("call")),), "0.5 us", "0.15 us", 0.5, 0.15,
            by_value=True, less_is_better=True),
        *(Row(f"{CALL}: one {which}", "ns", Contestant("one Host to itself", hosts(which)),
              (Contestant("kernel over loopback", kernel_python(which)),), less_is_better=True, note=note)
          for which, note in (("send", "what arrives is processed in it, as in the kernel's"),
                              ("recv", "of bytes that wait"))),
    ]
