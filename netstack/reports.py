"""What is known of sockets, typed: `TcpInfo` as in ``linux/tcp.h``, `SocketInfo` of a whole socket.

`netstack.stack.Stack.sockets`, `netstack.socket.socket.tcp_info` and ``netstack ss`` give these.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from typing import NamedTuple

LINUX_STATES = {
    1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RCVD", 4: "FIN_WAIT_1", 5: "FIN_WAIT_2", 6: "TIME_WAIT", 7: "CLOSED",
    8: "CLOSE_WAIT", 9: "LAST_ACK", 10: "LISTEN", 11: "CLOSING",
}
CA_STATES = ("Open", "Disorder", "CWR", "Recovery", "Loss")
_TCP_INFO = struct.Struct("=8B24I4Q6I4Q2I2Q6I2H9I")


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """``struct tcp_info`` of Linux, 280 bytes, names without ``tcpi_``.

    Times are microseconds, those named ``last_`` and ``total_rto_time`` milliseconds; rates are bytes per second
    (2^64 - 1: not paced); ``unacked`` to ``fackets``, ``snd_ssthresh`` and ``snd_cwnd`` are segments. Of a listener
    ``unacked`` is the length of the accept queue and ``sacked`` its limit. ``min_rtt`` is 2^32 - 1 before the first
    sample, ``snd_ssthresh`` 2^31 - 1 before the first loss.
    """

    state: int
    ca_state: int
    retransmits: int
    probes: int
    backoff: int
    options: int
    wscale: int
    rate_flags: int
    rto: int
    ato: int
    snd_mss: int
    rcv_mss: int
    unacked: int
    sacked: int
    lost: int
    retrans: int
    fackets: int
    last_data_sent: int
    last_ack_sent: int
    last_data_recv: int
    last_ack_recv: int
    pmtu: int
    rcv_ssthresh: int
    rtt: int
    rttvar: int
    snd_ssthresh: int
    snd_cwnd: int
    advmss: int
    reordering: int
    rcv_rtt: int
    rcv_space: int
    total_retrans: int
    pacing_rate: int
    max_pacing_rate: int
    bytes_acked: int
    bytes_received: int
    segs_out: int
    segs_in: int
    notsent_bytes: int
    min_rtt: int
    data_segs_in: int
    data_segs_out: int
    delivery_rate: int
    busy_time: int
    rwnd_limited: int
    sndbuf_limited: int
    delivered: int
    delivered_ce: int
    bytes_sent: int
    bytes_retrans: int
    dsack_dups: int
    reord_seen: int
    rcv_ooopack: int
    snd_wnd: int
    rcv_wnd: int
    rehash: int
    total_rto: int
    total_rto_recoveries: int
    total_rto_time: int
    received_ce: int
    delivered_e1_bytes: int
    delivered_e0_bytes: int
    delivered_ce_bytes: int
    received_e1_bytes: int
    received_e0_bytes: int
    received_ce_bytes: int
    ecn_flags: int

    @classmethod
    def parse(cls, data: bytes) -> TcpInfo:
        """From what ``getsockopt(IPPROTO_TCP, TCP_INFO, 280)`` gives, here or of a kernel; what an older kernel leaves
        off is 0."""
        return cls(*_TCP_INFO.unpack(bytes(data[:_TCP_INFO.size]).ljust(_TCP_INFO.size, b"\0")))

    def pack(self) -> bytes:
        """The 280 bytes."""
        return _TCP_INFO.pack(*(getattr(self, f.name) for f in fields(self)))

    @property
    def snd_wscale(self) -> int:
        """The peer's shift."""
        return self.wscale & 15

    @property
    def rcv_wscale(self) -> int:
        """Ours."""
        return self.wscale >> 4

    @property
    def delivery_rate_app_limited(self) -> bool:
        """The rate says what the application sent, not what the path can do."""
        return bool(self.rate_flags & 1)

    @property
    def ecn_mode(self) -> int:
        """0 none, 1 RFC 3168, 2 AccECN, 3 pending."""
        return self.ecn_flags & 3

    @property
    def accecn_opt_seen(self) -> int:
        """The peer's AccECN option: 0 not yet, 1 empty, 2 with counters, 3 zeroed by the network or too late."""
        return self.ecn_flags >> 2 & 3

    @property
    def accecn_fail_mode(self) -> int:
        """What the network spoils: 1 our ACE field, 2 the peer's, 4 our option, 8 the peer's."""
        return self.ecn_flags >> 4 & 15


class MemInfo(NamedTuple):
    """SO_MEMINFO: bytes, ``drops`` in packets."""

    rmem_alloc: int
    rcvbuf: int
    wmem_alloc: int
    sndbuf: int
    fwd_alloc: int
    wmem_queued: int
    optmem: int
    backlog: int
    drops: int


@dataclass(frozen=True, slots=True)
class SocketInfo:
    """One socket of a stack, or what is left of one.

    Attributes
    ----------
    id : int
        Its number in the stack; 0: a TIME-WAIT record, which is no socket any more.
    kind : str
        ``"tcp"``, ``"udp"``, ``"ping"``, ``"raw"`` or ``"udplite"``.
    state : str
        Of TCP by its RFC name; else ``"UDP"``, ``"PING"``, ``"RAW"`` or ``"UDPLITE"``.
    local, lport, remote, rport :
        Addresses as text, ports as numbers; unspecified and 0 where there is none.
    family : int
        2 or 10: AF_INET, AF_INET6.
    orphan : bool
        The application has closed it, TCP has not.
    recv_queue, send_queue : int
        Bytes that the application has not read, and that the peer has not acknowledged; of a listener the accept queue
        and its limit.
    timer : str
        What runs: ``""``, ``"on"`` (retransmission), ``"keepalive"``, ``"timewait"``, ``"persist"``.
    timer_ms, retries : int
        When it fires, and how often it has in a row.
    congestion : str
        Name of the algorithm; empty unless TCP.
    memory : MemInfo
        Buffers.
    cc_info : bytes
        TCP_CC_INFO: the algorithm's structure of ``linux/inet_diag.h``, or nothing.
    tcp : TcpInfo or None
        The counters and variables of a TCP socket.
    """

    id: int
    kind: str
    state: str
    local: str
    lport: int
    remote: str
    rport: int
    family: int
    orphan: bool
    recv_queue: int
    send_queue: int
    timer: str
    timer_ms: int
    retries: int
    congestion: str
    memory: MemInfo
    cc_info: bytes
    tcp: TcpInfo | None

    @property
    def names(self) -> tuple[str, int, str, int]:
        """``(local, lport, remote, rport)``."""
        return self.local, self.lport, self.remote, self.rport

    @classmethod
    def parse(cls, record: bytes) -> SocketInfo:
        """From a ``report_t`` (netstack/stack/report.pxd).

        Raises
        ------
        ValueError
            Too short, or numbers that mean nothing.
        """
        if len(record) < REPORT.size:
            raise ValueError(f"a report of {len(record)} bytes, not {REPORT.size}")
        (_, id, lport, rport, kind, state, family, orphan, timer, retries, cc_size, has_info, recv_queue, send_queue,
         timer_ms, local, remote, congestion, *memory, cc_info, info) = REPORT.unpack_from(record)
        if kind not in KINDS or timer >= len(TIMERS) or kind == 1 and state not in LINUX_STATES:
            raise ValueError("a report that means nothing")
        return cls(
            id=id, kind=KINDS[kind], state=LINUX_STATES[state] if kind == 1 else KINDS[kind].upper(),
            local=_address(local, family), lport=lport, remote=_address(remote, family), rport=rport, family=family,
            orphan=bool(orphan), recv_queue=recv_queue, send_queue=send_queue, timer=TIMERS[timer], timer_ms=timer_ms,
            retries=retries, congestion=congestion.rstrip(b"\0").decode("ascii", "replace"), memory=MemInfo(*memory),
            cc_info=cc_info[:min(cc_size, 20)], tcp=TcpInfo.parse(info) if has_info else None,
        )


@dataclass(frozen=True, slots=True)
class NeighborInfo:
    """One entry of an interface's neighbour table.

    Attributes
    ----------
    address : str
        The neighbour's IP address.
    interface : int
        The interface's number in its stack, from 1 on.
    mac : str
        Its link-layer address, ``"02:00:00:00:00:01"``; empty where it is not known.
    state : str
        As ip-neighbour(8) calls it: ``"REACHABLE"``, ``"STALE"``, ``"DELAY"``, ``"PROBE"``, ``"INCOMPLETE"``,
        ``"FAILED"``.
    probes, queued : int
        Questions sent, and packets that wait for the answer.
    used_ms, confirmed_ms : int or None
        How long ago it was used, and last answered; None: never.
    """

    address: str
    interface: int
    mac: str
    state: str
    probes: int
    queued: int
    used_ms: int | None
    confirmed_ms: int | None

    @classmethod
    def parse(cls, record: bytes) -> NeighborInfo:
        """From a ``neighbor_report_t`` (netstack/stack/report.pxd).

        Raises
        ------
        ValueError
            Too short, or numbers that mean nothing.
        """
        if len(record) < NEIGHBOR.size:
            raise ValueError(f"a neighbour of {len(record)} bytes, not {NEIGHBOR.size}")
        _, interface, address, mac, state, probes, queued, used_ms, confirmed_ms = NEIGHBOR.unpack_from(record)
        if state not in NEIGHBOR_STATES:
            raise ValueError("a neighbour that means nothing")
        return cls(
            address=_address(address, 10), interface=interface, mac=mac.hex(":") if any(mac) else "",
            state=NEIGHBOR_STATES[state], probes=probes, queued=queued,
            used_ms=None if used_ms == _NEVER else used_ms,
            confirmed_ms=None if confirmed_ms == _NEVER else confirmed_ms,
        )


NEIGHBOR = struct.Struct("=II16s6sBBIII")
NEIGHBOR_STATES = {1: "INCOMPLETE", 2: "REACHABLE", 3: "STALE", 4: "PROBE", 5: "FAILED", 6: "DELAY"}
_NEVER = (1 << 32) - 1
REPORT = struct.Struct("=IIHHBBBBBBBB3I16s16s16s9I20s280s")
KINDS = {1: "tcp", 2: "udp", 3: "ping", 4: "raw", 5: "udplite"}
TIMERS = ("", "on", "keepalive", "timewait", "persist")


def _address(packed: bytes, family: int) -> str:
    import ipaddress

    if family == 2 and not any(packed) or packed[:12] == b"\0" * 10 + b"\xff\xff":
        return "{}.{}.{}.{}".format(*packed[12:])
    if packed[0] == 0xFE and packed[1] & 0xC0 == 0x80 and packed[3]:       # the number of its link: see address.pxd
        return f"{ipaddress.IPv6Address(packed[:2] + bytes(2) + packed[4:])}%{packed[3]}"
    return str(ipaddress.IPv6Address(packed))
