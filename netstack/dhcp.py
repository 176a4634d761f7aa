"""DHCP for hosts straight on an Ethernet link (RFC 2131, 2132): an address, a gateway and name servers.

The client speaks over the host's own UDP sockets; it needs no privilege beyond the link. Messages are checked before
they are believed: ours by transaction number and hardware address, option lengths by the bytes there are.

>>> from netstack.dhcp import Message
>>> m = Message.parse(Message(op=1, xid=7, mac=bytes(6), options={53: b"\\x01"}).build())
>>> m.xid, m.kind
(7, 1)
"""

from __future__ import annotations

import ipaddress
import os
import random
import socket as _kernel
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from netstack.errors import NetstackError

if TYPE_CHECKING:
    from netstack.host import Host

SERVER, CLIENT = 67, 68
MAGIC = b"\x63\x82\x53\x63"
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE = range(1, 8)
# Options (RFC 2132)
MASK, ROUTER, DNS, HOST_NAME, DOMAIN, MTU, BROADCAST_ADDRESS = 1, 3, 6, 12, 15, 26, 28
REQUESTED, LEASE, OVERLOAD, KIND, SERVER_ID, PARAMETERS = 50, 51, 52, 53, 54, 55
SIZE, T1, T2, CLIENT_ID = 57, 58, 59, 61
FIRST_WAIT_S, LAST_WAIT_S = 4.0, 64.0        # RFC 2131 section 4.1: doubled each time, a second to and fro
FOREVER = 0xFFFFFFFF
_FIXED = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")


class DhcpError(NetstackError, OSError):
    """No server gave an address."""


@dataclass
class Message:
    """One message; addresses are text, options raw bytes by number."""

    op: int
    xid: int
    mac: bytes
    flags: int = 0
    secs: int = 0
    ciaddr: str = "0.0.0.0"  # noqa: S104 - "none", not a place to listen
    yiaddr: str = "0.0.0.0"  # noqa: S104
    siaddr: str = "0.0.0.0"  # noqa: S104
    options: dict[int, bytes] = field(default_factory=dict)

    def build(self) -> bytes:
        """The bytes, padded to the 300 that old relays want (RFC 1542 section 2.1)."""
        raw = _FIXED.pack(self.op, 1, 6, 0, self.xid, self.secs, self.flags,
                          *(ipaddress.IPv4Address(a).packed for a in (self.ciaddr, self.yiaddr, self.siaddr)), bytes(4),
                          self.mac, b"", b"", MAGIC)
        for number, value in self.options.items():
            for at in range(0, max(len(value), 1), 255):
                part = value[at:at + 255]
                raw += bytes([number, len(part)]) + part
        return (raw + b"\xff").ljust(300, b"\0")

    @classmethod
    def parse(cls, raw: bytes) -> Message:
        """Read a message.

        Raises
        ------
        ValueError
            It is none, or an option reaches beyond it.
        """
        if len(raw) < _FIXED.size:
            raise ValueError(f"{len(raw)} bytes are no DHCP message")
        op, htype, hlen, _, xid, secs, flags, ci, yi, si, _, chaddr, sname, file, magic = _FIXED.unpack_from(raw)
        if magic != MAGIC or op not in (1, 2) or htype != 1 or hlen != 6:
            raise ValueError("no DHCP message for Ethernet")
        options: dict[int, bytes] = {}
        _read_options(raw[_FIXED.size:], options)
        overload = options.get(OVERLOAD, b"\0")[:1] or b"\0"
        if overload[0] & 1:
            _read_options(file, options)
        if overload[0] & 2:
            _read_options(sname, options)
        ciaddr, yiaddr, siaddr = (str(ipaddress.IPv4Address(a)) for a in (ci, yi, si))
        return cls(op, xid, chaddr[:6], flags, secs, ciaddr, yiaddr, siaddr, options)

    @property
    def kind(self) -> int:
        """DHCPOFFER, DHCPACK, ...; 0: it says none."""
        value = self.options.get(KIND, b"")
        return value[0] if len(value) == 1 else 0

    def address(self, number: int) -> str | None:
        """The first address of an option."""
        found = self.addresses(number)
        return found[0] if found else None

    def addresses(self, number: int) -> tuple[str, ...]:
        value = self.options.get(number, b"")
        if len(value) % 4:
            return ()
        return tuple(str(ipaddress.IPv4Address(value[at:at + 4])) for at in range(0, len(value), 4))

    def number(self, option: int) -> int | None:
        value = self.options.get(option, b"")
        return int.from_bytes(value, "big") if len(value) in (1, 2, 4) else None


def _read_options(raw: bytes, into: dict[int, bytes]) -> None:
    """Parts of one option are joined (RFC 3396)."""
    at = 0
    while at < len(raw) and raw[at] != 255:
        if raw[at] == 0:
            at += 1
            continue
        if at + 2 > len(raw) or at + 2 + raw[at + 1] > len(raw):
            raise ValueError(f"option {raw[at]} reaches beyond the message")
        into[raw[at]] = into.get(raw[at], b"") + raw[at + 2:at + 2 + raw[at + 1]]
        at += 2 + raw[at + 1]


@dataclass(frozen=True)
class Lease:
    """What a server gave.

    Attributes
    ----------
    address, prefix_length, gateway, servers, domain, mtu :
        The address, its network, the default router, name servers, the domain, the link's MTU if it says one.
    server : str
        Who gave it.
    seconds : float
        How long; ``inf`` for ever.
    renew_at, rebind_at, until : float
        On the monotonic clock.
    """

    address: str
    prefix_length: int
    gateway: str | None
    servers: tuple[str, ...]
    domain: str | None
    mtu: int | None
    server: str
    seconds: float
    renew_at: float
    rebind_at: float
    until: float

    @classmethod
    def of(cls, ack: Message, asked_at: float) -> Lease:
        """The lease that an acknowledgement grants, counted from when it was asked for (RFC 2131 section 4.4.1).

        Raises
        ------
        ValueError
            An address no host can have, or no server named.
        """
        address = ipaddress.IPv4Address(ack.yiaddr)
        if address.is_unspecified or address.is_multicast or address.is_loopback or int(address) >= 0xF0000000:
            raise ValueError(f"{address} is no address for a host")
        mask = ack.address(MASK)
        prefix = ipaddress.IPv4Network(f"0.0.0.0/{mask}").prefixlen if mask else _classful(address)
        server = ack.address(SERVER_ID)
        if server is None:
            raise ValueError("a lease from nobody")
        seconds = ack.number(LEASE)
        lasting = float("inf") if seconds in (None, FOREVER) else float(max(seconds or 0, 10))
        renew = ack.number(T1) or lasting * 0.5
        rebind = ack.number(T2) or lasting * 0.875
        if not renew < rebind < lasting:
            renew, rebind = lasting * 0.5, lasting * 0.875
        domain = ack.options.get(DOMAIN, b"").rstrip(b"\0").decode("ascii", "replace") or None
        mtu = ack.number(MTU)
        return cls(str(address), prefix, ack.address(ROUTER), ack.addresses(DNS), domain,
                   mtu if mtu is not None and 576 <= mtu <= 65535 else None, server, lasting, asked_at + renew,
                   asked_at + rebind, asked_at + lasting)


def _classful(address: ipaddress.IPv4Address) -> int:
    first = int(address) >> 24
    return 8 if first < 128 else 16 if first < 192 else 24


class Client:
    """A DHCP client of one host and its Ethernet link.

    Parameters
    ----------
    host : Host
        It needs no address yet.
    mac : bytes
        Hardware address of its link.
    name : str, optional
        Host name to tell the server.
    seed : int, optional
        Makes waits and transaction numbers repeatable.
    """

    def __init__(self, host: Host, mac: bytes, *, name: str | None = None, seed: int | None = None) -> None:
        self.host = host
        self.mac = mac
        self.name = name
        self.lease: Lease | None = None
        self._random = random.Random(seed if seed is not None else os.urandom(16))  # noqa: S311 - seeded by the system
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # --- messages

    def _message(self, kind: int, xid: int, **fields: Any) -> Message:
        options = {KIND: bytes([kind]), CLIENT_ID: b"\x01" + self.mac}
        if kind in (DISCOVER, REQUEST):
            options[PARAMETERS] = bytes([MASK, ROUTER, DNS, DOMAIN, MTU, LEASE, T1, T2])
            options[SIZE] = struct.pack("!H", 1472)
            if self.name:
                options[HOST_NAME] = self.name.encode("ascii", "ignore")[:63]
        options.update(fields.pop("options", {}))
        return Message(1, xid, self.mac, options=options, **fields)

    def _socket(self) -> Any:
        s = self.host.socket(_kernel.AF_INET, _kernel.SOCK_DGRAM)
        s.setsockopt(_kernel.SOL_SOCKET, _kernel.SO_BROADCAST, 1)
        s.setsockopt(_kernel.SOL_SOCKET, _kernel.SO_REUSEADDR, 1)
        s.bind(("", CLIENT))
        return s

    def _exchange(self, s: Any, message: Message, to: str, wanted: tuple[int, ...], until: float,
                  server: str | None = None) -> tuple[Message, float]:
        """Send until a wanted answer comes: ``(answer, when that was asked)``. TimeoutError at *until*."""
        wait = FIRST_WAIT_S
        while True:
            asked = time.monotonic()
            if asked >= until:
                raise TimeoutError("no DHCP server answered")
            s.sendto(message.build(), (to, SERVER))
            pause = min(asked + wait + self._random.uniform(-1, 1), until)
            wait = min(2 * wait, LAST_WAIT_S)
            while (left := pause - time.monotonic()) > 0:
                s.settimeout(left)
                try:
                    raw, (_, port) = s.recvfrom(2048)
                    answer = Message.parse(raw)
                except (TimeoutError, ValueError):
                    continue
                if (answer.op, answer.xid, answer.mac, port) == (2, message.xid, self.mac, SERVER) and \
                        answer.kind in wanted and (server is None or answer.address(SERVER_ID) in (server, None)):
                    return answer, asked

    # --- the lease

    def acquire(self, timeout: float = 60.0) -> Lease:
        """Discover, request, and use what was acknowledged.

        Raises
        ------
        DhcpError
            Nobody gave an address in time.
        """
        until = time.monotonic() + timeout
        try:
            with self._socket() as s:
                while True:
                    xid = self._random.getrandbits(32)
                    discover = self._message(DISCOVER, xid, flags=0x8000)
                    offer, _ = self._exchange(s, discover, "255.255.255.255", (OFFER,), until)
                    server = offer.address(SERVER_ID)
                    if server is None:
                        continue
                    request = self._message(REQUEST, xid, flags=0x8000, options={
                        REQUESTED: ipaddress.IPv4Address(offer.yiaddr).packed,
                        SERVER_ID: ipaddress.IPv4Address(server).packed})
                    answer, asked = self._exchange(s, request, "255.255.255.255", (ACK, NAK), until, server)
                    if answer.kind == ACK:
                        try:
                            lease = Lease.of(answer, asked)
                        except ValueError:
                            continue
                        self._use(lease)
                        return lease
        except TimeoutError as e:
            raise DhcpError(*e.args) from None

    def _use(self, lease: Lease) -> None:
        old = self.lease
        if old is not None and (old.address, old.prefix_length) != (lease.address, lease.prefix_length):
            self.host.remove_address(old.address)
            old = None
        if old is None:
            self.host.add_address(f"{lease.address}/{lease.prefix_length}", lease.gateway)
        self.lease = lease

    def renew(self, timeout: float = 10.0) -> bool:
        """Ask for more time: the server that gave it, from ``rebind_at`` on any. False: nobody answered.

        Raises
        ------
        DhcpError
            The server takes the address back; it is used no more.
        """
        lease = self.lease
        if lease is None:
            raise DhcpError("there is no lease to renew")
        xid = self._random.getrandbits(32)
        to = lease.server if time.monotonic() < lease.rebind_at else "255.255.255.255"
        with self._socket() as s:
            request = self._message(REQUEST, xid, ciaddr=lease.address)
            try:
                answer, asked = self._exchange(s, request, to, (ACK, NAK), time.monotonic() + timeout)
            except (TimeoutError, OSError):
                return False
        if answer.kind == NAK:
            self._lose()
            raise DhcpError(f"{lease.server} takes {lease.address} back")
        try:
            self._use(Lease.of(answer, asked))
        except ValueError:
            return False
        return True

    def _lose(self) -> None:
        if self.lease is not None:
            self.host.remove_address(self.lease.address)
            self.lease = None

    def release(self) -> None:
        """Give the address back (nobody answers that)."""
        lease = self.lease
        if lease is None:
            return
        with self._socket() as s:
            message = self._message(RELEASE, self._random.getrandbits(32), ciaddr=lease.address,
                                    options={SERVER_ID: ipaddress.IPv4Address(lease.server).packed})
            s.sendto(message.build(), (lease.server, SERVER))
        self._lose()

    # --- keeping it

    def start(self) -> None:
        """Keep the lease from a thread of its own: renew, rebind, begin anew when it is lost."""
        self._thread = threading.Thread(target=self._keep, name="netstack-dhcp", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _keep(self) -> None:
        while not self._stop.is_set():
            lease = self.lease
            now = time.monotonic()
            try:
                if lease is None:
                    self.acquire(30.0)
                elif now >= lease.until:
                    self._lose()
                elif now >= lease.renew_at:
                    if not self.renew(min(10.0, lease.until - now)):
                        edge = lease.rebind_at if now < lease.rebind_at else lease.until
                        self._stop.wait(max(min((edge - now) / 2, 60.0), 1.0))
                else:
                    self._stop.wait(min(lease.renew_at - now, 3600.0))
            except OSError:
                if self.host.closed:
                    return
                self._stop.wait(5.0)
