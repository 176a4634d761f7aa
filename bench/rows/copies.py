"""Checksum-and-copy against memcpy, both hot, in one process (``bench/c/checksum_bench.c``)."""

from __future__ import annotations

import functools
import json

from bench import build
from bench.measure import Contestant, Row, program

NAME = "checksum-and-copy, 1460 B / 8960 B, hot"


class Pair:
    """One run of the program gives both figures of a round: the peer's call hands out what ours has left."""

    def __init__(self, size):
        self.size = size
        self.waiting = {}

    def measure(self, which, settings):
        if which not in self.waiting:
            exe = build.c_program("checksum_bench", "checksum_bench.c")
            rounds = 31 if settings.quick else 101
            said = json.loads(program([exe, "--rounds", rounds, self.size]))
            self.waiting = {"copy": said["copy_ns"], "memcpy": said["memcpy_ns"]}
        return self.waiting.pop(which)


def rows():
    out = []
    for part, (size, gate, goal, needs, wants) in enumerate((
            (1460, "<= 1.6x memcpy", "<= 1.2x", 1 / 1.6, 1 / 1.2),
            (8960, "<= 1.1x memcpy", "<= 1.02x", 1 / 1.1, 1 / 1.02)), 1):
        pair = Pair(size)
        out.append(Row(
            f"{NAME} #{part}", "ns", Contestant("checksum_and_copy", functools.partial(pair.measure, "copy")),
            (Contestant("memcpy", functools.partial(pair.measure, "memcpy")),), gate, goal, needs, wants,
            less_is_better=True))
    return out
