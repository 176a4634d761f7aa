"""A web server of several processes that share a port, asked by wrk from the kernel's side."""

from __future__ import annotations

from bench.measure import Contestant, Row, Settings, python_program


def workers(kind):
    def run(settings: Settings):
        return python_program("bench.workers", "run", kind=kind, seconds=settings.seconds)
    return run


def rows():
    return [Row("HTTP, 200 B, two SO_REUSEPORT workers on one address, wrk in the kernel", "1/s",
                Contestant("workers on stacks that share the router's address, behind a TAP", workers("stacks")),
                (Contestant("the same workers on the kernel, wrk over its loopback", workers("kernel")),),
                note="netstack run, --addressing interface; 16 connections, a thread of Python for each, a second a "
                     "measurement at least; no gate")]
