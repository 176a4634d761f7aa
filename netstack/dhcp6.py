"""DHCPv6 without addresses, for hosts straight on an Ethernet link (RFC 8415 section 18.2.6).

A router advertisement that says so (its O or M flag) makes the host ask all DHCPv6 servers of the link for name servers
and search domains, and again when what they said grows old. `Inquiry` decides what is sent when and what is believed;
it reads no clock and does no I/O. `Client` gives it a socket of the host and the time.

>>> from netstack.dhcp6 import DNS_SERVERS, Message
>>> import ipaddress
>>> m = Message(7, 0x123456, {DNS_SERVERS: ipaddress.IPv6Address("2001:db8::53").packed})
>>> Message.parse(m.build()).addresses(DNS_SERVERS)
('2001:db8::53',)
"""

from __future__ import annotations

import ipaddress
import os
import random
import select
import socket as _kernel
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from netstack.wire.domain_names import read_names

if TYPE_CHECKING:
    from netstack.host import Host

CLIENT, SERVER = 546, 547
ALL_SERVERS = "ff02::1:2"                    # All_DHCP_Relay_Agents_and_Servers
REPLY, INFORMATION_REQUEST = 7, 11
# Options (RFC 8415 section 21, RFC 3646)
CLIENT_ID, SERVER_ID, WANTED, ELAPSED, STATUS, DNS_SERVERS, DOMAINS, REFRESH, MAX_RT = 1, 2, 6, 8, 13, 23, 24, 32, 83
# RFC 8415 section 7.6
MAX_DELAY_S, TIMEOUT_S, MAX_RT_S = 1.0, 1.0, 3600.0
REFRESH_DEFAULT_S, REFRESH_MIN_S = 86400.0, 600.0
FOREVER = 0xFFFFFFFF
ICMP6_FILTER, ROUTER_ADVERTISEMENT = 1, 134
LISTEN_S = 5.0                               # how long after each request an answer is waited for with a socket open
STEP_S = 0.25                                # between two looks at whether the client is to stop


@dataclass
class Message:
    """One message; options are raw bytes by number, the first of each."""

    kind: int
    xid: int
    options: dict[int, bytes] = field(default_factory=dict)

    def build(self) -> bytes:
        out = struct.pack("!I", self.kind << 24 | self.xid)
        for number, value in self.options.items():
            out += struct.pack("!HH", number, len(value)) + value
        return out

    @classmethod
    def parse(cls, raw: bytes) -> Message:
        """Read a message between client and server.

        Raises
        ------
        ValueError
            It is too short, or an option reaches beyond it.
        """
        if len(raw) < 4:
            raise ValueError(f"{len(raw)} bytes are no DHCPv6 message")
        options: dict[int, bytes] = {}
        at = 4
        while at < len(raw):
            if at + 4 > len(raw):
                raise ValueError("an option cut short")
            number, length = struct.unpack_from("!HH", raw, at)
            if at + 4 + length > len(raw):
                raise ValueError(f"option {number} reaches beyond the message")
            options.setdefault(number, raw[at + 4:at + 4 + length])
            at += 4 + length
        return cls(raw[0], int.from_bytes(raw[1:4], "big"), options)

    def addresses(self, number: int) -> tuple[str, ...]:
        value = self.options.get(number, b"")
        if len(value) % 16:
            return ()
        return tuple(str(ipaddress.IPv6Address(value[at:at + 16])) for at in range(0, len(value), 16))

    def names(self, number: int) -> tuple[str, ...]:
        try:
            return tuple(read_names(self.options.get(number, b"")))
        except ValueError:
            return ()

    def number(self, option: int) -> int | None:
        value = self.options.get(option, b"")
        return int.from_bytes(value, "big") if len(value) == 4 else None


@dataclass(frozen=True)
class Information:
    """What a server said.

    Attributes
    ----------
    servers, search : tuple of str
        Name servers; search domains without their last dots.
    server : bytes
        The DUID of who said so.
    refresh_at : float
        When to ask again, on the caller's clock; ``inf`` never.
    """

    servers: tuple[str, ...]
    search: tuple[str, ...]
    server: bytes
    refresh_at: float


class Inquiry:
    """What a client sends and believes; times are seconds of any clock that only goes forward.

    Parameters
    ----------
    mac : bytes
        Hardware address of the link; the client's DUID is made of it (RFC 8415 section 11.4).
    seed : int, optional
        Makes waits and transaction numbers repeatable.
    """

    def __init__(self, mac: bytes, seed: int | None = None) -> None:
        self.duid = struct.pack("!HH", 3, 1) + mac
        self.information: Information | None = None
        self.due: float | None = None               # when the next request goes out; None: nothing is asked
        self._random = random.Random(seed if seed is not None else os.urandom(16))  # noqa: S311 - seeded by the system
        self._xid = 0
        self._began = 0.0
        self._wait = 0.0
        self._most = MAX_RT_S

    def begin(self, now: float) -> None:
        """Ask, after a delay that keeps hosts apart which heard the same advertisement."""
        self._xid = self._random.getrandbits(24)
        self._began = 0.0
        self._wait = 0.0
        self.due = now + self._random.uniform(0, MAX_DELAY_S)

    def look(self, now: float, wanted: bool) -> float:
        """Begin when there is something to ask: a router says so, and nothing is known or it has grown old.

        Returns when to look again, ``inf`` where only another advertisement gives reason to.
        """
        if not wanted and self.due is None:
            return float("inf")
        if self.due is None and (self.information is None or now >= self.information.refresh_at):
            self.begin(now)
        if self.due is not None:
            return self.due
        return self.information.refresh_at if self.information is not None else float("inf")

    def next_request(self, now: float) -> bytes | None:
        """The request to send now, if one is due (RFC 8415 section 15: waits double, without an end)."""
        if self.due is None or now < self.due:
            return None
        if not self._wait:
            self._began = now
            self._wait = TIMEOUT_S * (1 + self._random.uniform(-0.1, 0.1))
        else:
            self._wait *= 2 + self._random.uniform(-0.1, 0.1)
            if self._wait > self._most:
                self._wait = self._most * (1 + self._random.uniform(-0.1, 0.1))
        self.due = now + self._wait
        elapsed = min(int((now - self._began) * 100), 0xFFFF)
        return Message(INFORMATION_REQUEST, self._xid, {
            CLIENT_ID: self.duid, ELAPSED: struct.pack("!H", elapsed),
            WANTED: struct.pack("!4H", DNS_SERVERS, DOMAINS, REFRESH, MAX_RT)}).build()

    def heard(self, raw: bytes, now: float) -> bool:
        """Whether a datagram answers the request (RFC 8415 section 16.10); if so, `information` is what it says."""
        try:
            m = Message.parse(raw)
        except ValueError:
            return False
        server = m.options.get(SERVER_ID, b"")
        if self.due is None or not self._wait or m.kind != REPLY or m.xid != self._xid or not server or \
                m.options.get(CLIENT_ID) != self.duid:
            return False
        most = m.number(MAX_RT)
        if most is not None and 60 <= most <= 86400:        # RFC 8415 section 21.25, also from one that refuses
            self._most = float(most)
        if m.options.get(STATUS, b"\0\0")[:2] != b"\0\0":
            return False
        refresh = m.number(REFRESH)
        lasting = REFRESH_DEFAULT_S if refresh is None else max(float(refresh), REFRESH_MIN_S)
        if refresh == FOREVER:
            lasting = float("inf")
        servers = tuple(a for a in m.addresses(DNS_SERVERS) if not ipaddress.IPv6Address(a).is_multicast and a != "::")
        self.information = Information(servers, m.names(DOMAINS), server, now + lasting)
        self.due = None
        return True


class Client:
    """Asks for a host when a router of its link says that somebody knows more, from a thread of its own.

    The thread sleeps on a raw socket that hears nothing but router advertisements.
    """

    def __init__(self, host: Host, mac: bytes, *, seed: int | None = None) -> None:
        self.host = host
        self.inquiry = Inquiry(mac, seed)
        self._stopped = threading.Event()
        self._wake, self._awake = os.pipe()
        self._thread = threading.Thread(target=self._run, name="netstack-dhcp6", daemon=True)

    @property
    def information(self) -> Information | None:
        """What was last said; None: nothing yet."""
        return self.inquiry.information

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        os.write(self._awake, b"x")
        self._thread.join()
        os.close(self._wake)
        os.close(self._awake)

    def _run(self) -> None:
        try:
            with self.host.socket(_kernel.AF_INET6, _kernel.SOCK_RAW, _kernel.IPPROTO_ICMPV6) as routers:
                passed = bytearray(b"\xff" * 32)
                passed[ROUTER_ADVERTISEMENT // 8] &= ~(1 << ROUTER_ADVERTISEMENT % 8) & 0xFF
                routers.setsockopt(_kernel.IPPROTO_ICMPV6, ICMP6_FILTER, bytes(passed))
                routers.setblocking(False)
                poll = select.poll()
                poll.register(routers.fileno(), select.POLLIN)
                poll.register(self._wake, select.POLLIN)
                while not self._stopped.is_set():
                    self._drain(routers)
                    again = self.inquiry.look(time.monotonic(), self.host.driver.learnt()[2])
                    request = self.inquiry.next_request(time.monotonic())
                    if request is not None:
                        self._ask(request)
                    else:
                        poll.poll(None if again == float("inf") else max(int((again - time.monotonic()) * 1000) + 1, 0))
        except OSError:
            if not self.host.closed:
                raise

    @staticmethod
    def _drain(routers) -> None:
        try:
            while True:
                routers.recv(1)
        except BlockingIOError:
            return

    def _ask(self, request: bytes) -> None:
        """Send a request and wait a little for the answer."""
        until = min(time.monotonic() + LISTEN_S, self.inquiry.due or 0.0)
        with self.host.socket(_kernel.AF_INET6, _kernel.SOCK_DGRAM) as s:
            s.bind(("::", CLIENT))
            try:
                s.sendto(request, (ALL_SERVERS, SERVER, 0, 1))
            except OSError:
                if self.host.closed:
                    raise
                return                                       # no address of the link yet: as if it had been lost
            while not self._stopped.is_set() and (left := until - time.monotonic()) > 0:
                s.settimeout(min(left, STEP_S))
                try:
                    raw = s.recv(2048)
                except TimeoutError:
                    continue
                if self.inquiry.heard(raw, time.monotonic()):
                    return
