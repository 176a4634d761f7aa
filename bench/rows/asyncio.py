"""asyncio programs over two Hosts with `netstack.aio`'s loop, against asyncio and uvloop on the kernel's loopback."""

from __future__ import annotations

from bench.measure import Contestant, Row, Settings, python_program

ECHO = "asyncio echo, 64 B and 64 KiB"
HTTP = "HTTP requests per second, asyncio"
PAGE = 200                       # bytes
PEERS = (("asyncio", "asyncio on the kernel, reno"), ("uvloop", "uvloop on the kernel, reno"))


def answers(kind: str, program: str, size: int, connections: int, placement: str = "channel"):
    def run(settings: Settings):
        return python_program("bench.asyncio_programs", "run", kind=kind, program=program, size=size,
                              connections=connections, seconds=settings.seconds, placement=placement)
    return run


def row(name: str, what: str, ours: str, *case, **judged):
    """``what`` is measured; ``ours`` says between whom."""
    return Row(f"{name}, {what}", "1/s", Contestant(ours, answers("hosts", *case)),
               tuple(Contestant(words, answers(kind, *case)) for kind, words in PEERS), **judged)


def echo_rows():
    cases = [(program, size, connections) for program in ("protocols", "streams") for size in (64, 64 << 10)
             for connections in (1, 50)]
    words = {64: "64 B", 64 << 10: "64 KiB"}
    for number, (program, size, connections) in enumerate(cases, 1):
        yield row(f"{ECHO} #{number}", f"{words[size]}, {program}, {connections} at a time", "two Hosts on a channel",
                  program, size, connections, gate=">= 1x the better of the two", goal="2x", needs=1.0, wants=2.0)
    inside = (("protocols", 1), ("protocols", 50), ("streams", 50))
    for number, (program, connections) in enumerate(inside, len(cases) + 1):
        yield row(f"{ECHO} #{number}", f"64 B, {program}, {connections} at a time, both ends in one loop",
                  "two Hosts on a channel", program, 64, connections, "loop")


def http_rows():
    for number, (program, connections) in enumerate(((p, c) for p in ("aiohttp", "uvicorn") for c in (1, 32)), 1):
        what = "aiohttp at both ends" if program == "aiohttp" else "uvicorn with h11, a client that does not parse"
        yield row(f"{HTTP} #{number}", f"{what}, {connections} at a time", "two Hosts on a channel", program, PAGE,
                  connections)


def rows():
    return [*echo_rows(), *http_rows()]


def routed_rows():
    return [Row(f"through the router: {ECHO}, 64 B, protocols, {connections} at a time", "1/s",
                Contestant("two Hosts at a router", answers("hosts", "protocols", 64, connections, "router")),
                tuple(Contestant(words, answers(kind, "protocols", 64, connections)) for kind, words in PEERS))
            for connections in (1, 50)]
