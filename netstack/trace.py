"""Traces of a stack: what its connections sent and received, with cwnd, ssthresh and round-trip time at each step.

`netstack.stack.Stack.start_trace` and `netstack.Host.start_trace` begin one, ``stop_trace`` gives a `Trace`; ``netstack
plot`` draws its file.

Examples
--------
>>> from netstack.testing import Pair
>>> pair = Pair(seed=1, delay="10ms", rate="10mbit")
>>> pair.a.stack.start_trace()
>>> _ = pair.transfer(100_000)
>>> trace = pair.a.stack.stop_trace()
>>> sum(e.length for e in trace if e.kind == SENT and not e.again)
100000
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

SENT, RECEIVED = 1, 2
MAGIC = b"netstack trace 1\n"
EVENT = struct.Struct("=qqQ12IHH4B16s16s")


class Event(NamedTuple):
    """One segment, and the connection's variables after it.

    Times are nanoseconds of the stack's clock, windows and sizes bytes, sequence numbers as on the wire.

    Attributes
    ----------
    id : int
        Number of the socket in its stack.
    window : int
        The peer's, scaled, as it stands; of a segment sent: what it announces.
    sack_start, sack_end : int
        The first SACK block, both 0: none.
    kind : int
        `SENT` or `RECEIVED`.
    flags : int
        Of the TCP header.
    ca_state : int
        As in TCP_INFO: 0 open, 1 disorder, 2 CWR, 3 recovery, 4 loss.
    again : int
        1: a retransmission.
    local, remote : bytes
        Addresses, IPv4 as ``::ffff:a.b.c.d``.
    """

    t_ns: int
    srtt_ns: int
    pacing_rate: int
    id: int
    seq: int
    ack: int
    length: int
    window: int
    snd_una: int
    snd_nxt: int
    in_flight: int
    cwnd: int
    ssthresh: int
    sack_start: int
    sack_end: int
    lport: int
    rport: int
    kind: int
    flags: int
    ca_state: int
    again: int
    local: bytes
    remote: bytes


class Trace:
    """Events in their order.

    Parameters
    ----------
    data : bytes
        Records, `EVENT` each.
    missed : int
        How many older ones were overwritten.
    """

    def __init__(self, data: bytes, missed: int = 0) -> None:
        if len(data) % EVENT.size:
            raise ValueError(f"{len(data)} bytes are no whole records of {EVENT.size}")
        self.data = data
        self.missed = missed

    def __len__(self) -> int:
        return len(self.data) // EVENT.size

    def __iter__(self) -> Iterator[Event]:
        return map(Event._make, EVENT.iter_unpack(self.data))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file that `load` and ``netstack plot`` read."""
        head = json.dumps({"record": EVENT.size, "fields": Event._fields, "missed": self.missed}).encode()
        with open(path, "wb") as file:
            file.write(MAGIC + head + b"\n" + self.data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            This is no trace, or one of another version.
        """
        with open(path, "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ValueError(f"{os.fspath(path)}: no trace of netstack")
            head = json.loads(file.readline(1 << 16))
            if not isinstance(head, dict) or head.get("record") != EVENT.size or tuple(head["fields"]) != Event._fields:
                raise ValueError(f"{os.fspath(path)}: a trace of another version")
            return cls(file.read(), int(head["missed"]))

    def __repr__(self) -> str:
        return f"<Trace of {len(self)} events{f', {self.missed} older ones missed' if self.missed else ''}>"
