"""Handshakes under a SYN flood: how many SYNs a core answers, and what clients notice (security rows D1 and F10)."""

from __future__ import annotations

from bench.measure import Contestant, Row, Settings, ours

SYNS = "SYN flood, SYNs answered a second by one core"
CONNECT = "SYN flood, connect of a client among 200 spoofed SYNs a segment, p99"
MEMORY = "SYN flood, growth of resident memory"


def flood(key, scale=1.0, **arguments):
    def run(settings: Settings):
        return ours("syn_flood", seconds=settings.seconds, **arguments)[key] * scale
    return run


def rows():
    return [
        Row(SYNS, "k/s", Contestant("a stack with backlog 128, cookies", flood("syns_per_s", 1e-3)), (),
            ">= 100 k/s", None, 100.0, by_value=True,
            note="spoofed sources, options as Linux sends them; the kernel: 143 k/s on the machine of the checklist"),
        Row(CONNECT, "ms", Contestant("a stack with backlog 128, cookies", flood("p99_us", 1e-3)), (),
            "< 50 ms", None, 50.0, by_value=True, less_is_better=True, note="connect to accept; every client gets in"),
        Row(MEMORY, "KiB", Contestant("a stack with backlog 4096", flood("grown", 1 / 1024, backlog=4096)), (),
            "< 1 MiB", None, 1024.0, by_value=True, less_is_better=True, note="both stacks included"),
    ]
