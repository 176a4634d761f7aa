"""Flows of a trace or a capture: one direction of a connection, ready to be drawn.

Capture files are read by dpkt: small, without dependencies, and it knows both formats. A reader of our own would be
code without a gain, and tshark a program to install.
"""

from __future__ import annotations

import ipaddress
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from netstack.trace import MAGIC, RECEIVED, SENT, Trace

FIN, SYN, RST, ACK = 1, 2, 4, 16
UNLIMITED = 1 << 30                   # bytes: an ssthresh that has not been set yet is not drawn
_ETHERTYPES = (0x0800, 0x86DD)


class Segment(NamedTuple):
    """A TCP segment of a capture, whoever sent it. Time in seconds."""

    t: float
    src: tuple[str, int]
    dst: tuple[str, int]
    seq: int
    ack: int
    length: int
    window: int
    flags: int
    wscale: int | None
    sacks: tuple[tuple[int, int], ...]


@dataclass
class Series:
    """Points of one curve: seconds, and what it shows."""

    t: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)

    def add(self, t: float, y: float) -> None:
        self.t.append(t)
        self.y.append(y)

    def step(self, t: float, y: float) -> None:
        """Add a point only where the curve moves."""
        if not self.y or self.y[-1] != y:
            self.add(t, y)

    def __len__(self) -> int:
        return len(self.t)


class Sent(NamedTuple):
    """A data segment on its way: seconds, first byte and end relative to the SYN, whether sent before."""

    t: float
    start: int
    end: int
    again: bool


class Flow:
    """What one side of a connection sent, and what came back.

    Attributes
    ----------
    local, remote : tuple of str and int
        Sender and receiver.
    sent : list of Sent
        Data segments.
    acked, window : Series
        Bytes acknowledged, and the end of the window offered, both relative to the SYN.
    sacks : list of (float, int, int)
        SACK blocks: time, start, end.
    rtt : Series
        Milliseconds from a segment, sent once, to the acknowledgement that covers it.
    flight, cwnd, ssthresh, srtt : Series
        Bytes not yet acknowledged; of a trace, the stack's own variables: bytes, and milliseconds.
    """

    def __init__(self, local: tuple[str, int], remote: tuple[str, int]) -> None:
        self.local, self.remote = local, remote
        self.sent: list[Sent] = []
        self.acked, self.window, self.flight = Series(), Series(), Series()
        self.rtt, self.srtt, self.cwnd, self.ssthresh = Series(), Series(), Series(), Series()
        self.sacks: list[tuple[float, int, int]] = []
        self._base: int | None = None         # the first sequence number: the SYN's, where it was seen
        self._last = 0                        # the highest relative one, to unwrap by
        self._highest = 0                     # end of what was sent
        self._una = 0
        self._waiting: deque[list] = deque()  # [end, time, sent once], by end

    @property
    def name(self) -> str:
        return f"{_end(self.local)} > {_end(self.remote)}"

    @property
    def payload(self) -> int:
        """Bytes sent, retransmissions counted."""
        return sum(s.end - s.start for s in self.sent)

    def begins_with(self, seq: int) -> bool:
        """The first sequence number is that one."""
        return self._base in (None, seq)

    def _relative(self, seq: int) -> int:
        if self._base is None:
            self._base = seq
        near = (seq - self._base - self._last) & 0xFFFFFFFF
        return self._last + (near - (1 << 32) if near >> 31 else near)

    def on_sent(self, t: float, seq: int, length: int, flags: int) -> None:
        start = self._relative(seq)
        end = start + length + (1 if flags & SYN else 0) + (1 if flags & FIN else 0)
        if end == start:
            return
        self._last = max(self._last, start)
        again = start < self._highest
        if length:
            first = start + (1 if flags & SYN else 0)
            self.sent.append(Sent(t, first, first + length, again))
        if again:
            for waiting in self._waiting:
                if start < waiting[0] <= end:
                    waiting[2] = False
        if end > self._highest:
            self._waiting.append([end, t, not again])
            self._highest = end
        self.flight.add(t, self._highest - self._una)

    def on_ack(self, t: float, ack: int, window: int, sacks: Iterable[tuple[int, int]]) -> None:
        if self._base is None:
            return
        at = self._relative(ack)
        if at > self._una:
            sample, alone = None, True
            while self._waiting and self._waiting[0][0] <= at:
                _, since, once = self._waiting.popleft()
                alone = alone and once
                sample = t - since if alone else None    # a hole filled late would count as a long round trip
            if sample is not None:
                self.rtt.add(t, 1e3 * sample)
            self._una = at
            self.flight.add(t, max(self._highest - at, 0))
        self.acked.add(t, max(at, self._una))
        self.window.add(t, at + window)
        self.sacks.extend((t, self._relative(a), self._relative(b)) for a, b in sacks)


def _end(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _text(packed: bytes) -> str:
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)


# --- traces -----------------------------------------------------------------------------------------------------------

def flows_of_trace(trace: Trace) -> list[Flow]:
    """The sending side of each connection; time counts from the first event."""
    found: dict[object, Flow] = {}
    start = None
    for e in trace:
        if start is None:
            start = e.t_ns
        t = (e.t_ns - start) / 1e9
        key = e.id, e.local, e.lport, e.remote, e.rport
        flow = found.get(key)
        if flow is None:
            flow = found[key] = Flow((_text(e.local), e.lport), (_text(e.remote), e.rport))
        if e.kind == SENT:
            flow.on_sent(t, e.seq, e.length, e.flags)
        elif e.kind == RECEIVED and e.flags & ACK:
            sack = [(e.sack_start, e.sack_end)] if e.sack_start != e.sack_end else []
            flow.on_ack(t, e.ack, e.window, sack)
        if e.cwnd:
            flow.cwnd.step(t, e.cwnd)
        if 0 < e.ssthresh < UNLIMITED:
            flow.ssthresh.step(t, e.ssthresh)
        if e.srtt_ns:
            flow.srtt.step(t, e.srtt_ns / 1e6)
    return list(found.values())


# --- captures ---------------------------------------------------------------------------------------------------------

def _ip_of(dpkt, link: int, frame: bytes):
    """The IP packet of a frame, or None."""
    if link == dpkt.pcap.DLT_EN10MB:
        at, kind = 14, int.from_bytes(frame[12:14], "big")
        while kind in (0x8100, 0x88A8):                  # VLAN tags
            kind = int.from_bytes(frame[at + 2:at + 4], "big")
            at += 4
        packet = frame[at:] if kind in _ETHERTYPES else b""
    elif link == dpkt.pcap.DLT_LINUX_SLL:
        packet = frame[16:]
    elif link == dpkt.pcap.DLT_LINUX_SLL2:
        packet = frame[20:]
    elif link == dpkt.pcap.DLT_NULL:
        packet = frame[4:]
    else:
        packet = frame
    if len(packet) < 20:
        return None
    try:
        if packet[0] >> 4 == 4:
            return dpkt.ip.IP(packet)
        return dpkt.ip6.IP6(packet) if packet[0] >> 4 == 6 else None
    except (dpkt.UnpackError, ValueError, IndexError):
        return None


def _segment_of(dpkt, t: float, ip) -> Segment | None:
    tcp = ip.data
    if not isinstance(tcp, dpkt.tcp.TCP):
        return None
    if isinstance(ip, dpkt.ip.IP):
        total = ip.len - 4 * ip.hl                       # the capture may have cut the payload
        source, target = str(ipaddress.IPv4Address(ip.src)), str(ipaddress.IPv4Address(ip.dst))
    else:
        total = ip.plen
        source, target = str(ipaddress.IPv6Address(ip.src)), str(ipaddress.IPv6Address(ip.dst))
    wscale, sacks = None, []
    try:
        for kind, data in dpkt.tcp.parse_opts(tcp.opts):
            if kind == dpkt.tcp.TCP_OPT_WSCALE and len(data) == 1:
                wscale = min(data[0], 14)
            elif kind == dpkt.tcp.TCP_OPT_SACK:
                sacks = [(int.from_bytes(data[i:i + 4], "big"), int.from_bytes(data[i + 4:i + 8], "big"))
                         for i in range(0, len(data) - 7, 8)]
    except (dpkt.UnpackError, ValueError, IndexError):
        pass
    return Segment(t, (source, tcp.sport), (target, tcp.dport), tcp.seq, tcp.ack, max(total - 4 * tcp.off, 0), tcp.win,
                   tcp.flags, wscale, tuple(sacks))


def read_capture(path: str | os.PathLike[str]) -> Iterator[Segment]:
    """The TCP segments of a pcap or pcapng file, in its order.

    Raises
    ------
    ValueError
        It is neither, or is cut short in its head.
    ImportError
        dpkt is not installed (``pip install netstack[plot]``).
    """
    import dpkt

    with open(path, "rb") as file:
        try:
            reader = dpkt.pcap.UniversalReader(file)
            link = reader.datalink()
            for t, frame in reader:
                ip = _ip_of(dpkt, link, bytes(frame))
                segment = _segment_of(dpkt, float(t), ip) if ip is not None else None
                if segment is not None:
                    yield segment
        except (dpkt.Error, ValueError) as error:
            raise ValueError(f"{os.fspath(path)}: no capture that can be read: {error}") from None


def flows_of_capture(segments: Iterable[Segment]) -> list[Flow]:
    """Both directions of each connection; time counts from the first segment."""
    every: list[Flow] = []
    found: dict[object, Flow] = {}
    scales: dict[object, int | None] = {}                # of whoever sent it; None: the SYN had none, or was not seen
    start = None
    for s in segments:
        if start is None:
            start = s.t
        t = s.t - start
        forth, back = (s.src, s.dst), (s.dst, s.src)
        if s.flags & SYN:
            scales[forth] = s.wscale
            if not s.flags & ACK and forth in found and not found[forth].begins_with(s.seq):
                del found[forth]                         # the names are used again: another connection
                found.pop(back, None)
        if forth not in found:
            found[forth] = Flow(*forth)
            every.append(found[forth])
        found[forth].on_sent(t, s.seq, s.length, s.flags)
        if s.flags & ACK and back in found:
            agreed = scales.get(forth) is not None and scales.get(back) is not None
            shift = scales[forth] if agreed and not s.flags & SYN else 0
            found[back].on_ack(t, s.ack, s.window << (shift or 0), s.sacks)
    return every


def read(path: str | os.PathLike[str]) -> list[Flow]:
    """The flows with data of a trace or capture, whichever it is, those with the most bytes first.

    Raises
    ------
    ValueError
        It is neither.
    """
    with open(path, "rb") as file:
        is_trace = file.read(len(MAGIC)) == MAGIC
    flows = flows_of_trace(Trace.load(path)) if is_trace else flows_of_capture(read_capture(path))
    return sorted((f for f in flows if f.sent), key=lambda f: -f.payload)
