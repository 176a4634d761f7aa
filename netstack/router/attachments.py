"""The stacks of a router, from ATTACH, which gives them rings and doorbells, to their end, which takes all back."""

from __future__ import annotations

import errno
import hmac
import itertools
import os
import secrets
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from netstack.errors import ConfigError, RouterError
from netstack.log_limit import limited
from netstack.router import protocol
from netstack.router.attached import Attached
from netstack.router.block_messages import Network
from netstack.router.control import OTHERS_SHARE, Connection
from netstack.router.pool import TOKEN_BYTES
from netstack.router.protocol import AttachmentInfo, AttachReply, AttachRequest, Backend, Capability

if TYPE_CHECKING:
    from netstack.link.emulation import Emulation
    from netstack.router.captures import Captures
    from netstack.router.forwarding import Forwarder
    from netstack.router.leasing import Leasing
    from netstack.router.limits import Limits

log = limited("netstack.router")

CAPACITY_MIN = 256 << 10
CAPACITY_MAX = 64 << 20


class Attachments:
    """The attachments of one router, by the number of their port.

    Parameters
    ----------
    forwarder : Forwarder
    lock : threading.RLock
        The router's, which guards its ports.
    leasing : Leasing
    captures : Captures
    limits : Limits
    name, backend, mtu, ring_capacity, emulation
        Of the router, see `netstack.router.router.Router`.
    most : int
        More are refused; of each further user, more than a quarter of them.
    names : bool
        Does somebody here find names for stacks (the uplink ``user``)?
    """

    def __init__(self, forwarder: Forwarder, lock: threading.RLock, leasing: Leasing, captures: Captures,
                 limits: Limits, *, name: str, backend: str, mtu: int, ring_capacity: int, most: int,
                 emulation: Emulation | None, names: bool):
        self._forwarder = forwarder
        self._lock = lock
        self._leasing = leasing
        self._captures = captures
        self._limits = limits
        self._name = name
        self.backend = backend
        self.mtu = mtu
        self.ring_capacity = ring_capacity
        self._max = most
        self._emulation = emulation
        self._seeds = itertools.count(emulation.seed or 0) if emulation else None
        self._names = Capability.NAMES if names else Capability.NONE
        self._attached: dict[int, Attached] = {}
        self.reclaims_ns: deque[int] = deque(maxlen=4096)
        self.endings: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Attached]:
        return iter(self._attached.values())

    def __len__(self) -> int:
        return len(self._attached)

    def of(self, port: int) -> Attached | None:
        return self._attached.get(port)

    def by_token(self, token: bytes) -> Attached | None:
        return next((a for a in self._attached.values() if a.token and hmac.compare_digest(a.token, token)), None)

    def infos(self) -> list[AttachmentInfo]:
        """All, oldest first."""
        with self._lock:
            return [a.info(self._forwarder) for _, a in sorted(self._attached.items())]

    # ---- what the control thread asks for

    def hello(self, connection: Connection) -> bytes:
        return protocol.HELLO_REPLY.pack(
            int(Capability.HOLD | Capability.SHARED | Capability.BLOCKS | self._names),
            os.getpid(),
            self.mtu,
            Backend[self.backend.upper()],
            self._name.encode(),
        )

    def attach(self, connection: Connection, request: AttachRequest) -> tuple[bytes, list[int]]:
        """Make an attachment: addresses, rings, doorbells. Returns the reply and the descriptors to send with
        it.
        """
        with self._lock:
            if connection.attachment is not None:
                raise RouterError(errno.EISCONN, "this connection has an attachment: one connection each")
            if len(self._attached) >= self._max:
                raise RouterError(errno.EUSERS, f"{self._max} stacks are attached: no more")
            most = self._max if connection.is_owner else max(1, self._max // OTHERS_SHARE)
            if sum(a.connection.uid == connection.uid for a in self._attached.values()) >= most:
                raise RouterError(errno.EDQUOT, f"{most} stacks of user {connection.uid} are attached: no more of his")
            mtu = min(request.mtu or self.mtu, self.mtu)
            if mtu < 576:
                raise RouterError(errno.EINVAL, f"mtu {mtu}: 576 to {self.mtu} bytes")
            capacity = check_capacity(request.ring_capacity or self.ring_capacity)
            wanted, blocks = self._leasing.wanted(request, connection.uid, mtu)
            shared = self._leasing.shared_among(wanted)
            if shared and not request.capabilities & Capability.SHARED:
                raise RouterError(
                    errno.EPROTONOSUPPORT,
                    "stacks share an address here and claim their ports, which this one does not know how to: "
                    "let it ask for an address, or use the same release",
                )
            channel, fds, bells, its = self._make_channel(capacity)
            granted = Capability.SHARED if shared else Capability.NONE
            if len(shared) < len(wanted) or blocks:
                granted |= Capability(request.capabilities) & Capability.HOLD
            attached = Attached(connection, channel, bells, mtu, granted)
            attached.token = request.token or secrets.token_bytes(TOKEN_BYTES)
            try:
                self._put_into_service(attached, wanted, blocks)
            except BaseException:
                for sock in its:
                    sock.close()
                self._take_back(attached)
                raise
            connection.attachment = attached
            connection.after_send = its
            self._attached[attached.port] = attached
            lengths, pool_lengths = self._leasing.lengths(attached)
            reply = AttachReply(
                id=attached.port,
                capabilities=attached.capabilities | self._names,
                ring_capacity=capacity,
                generation=channel.generation,
                epoch=attached.leases[0].epoch if attached.leases else 1,
                mtu=mtu,
                backend=Backend[self.backend.upper()],
                fds=len(fds),
                addresses=attached.addresses,
                prefix_lengths=lengths,
                router_addresses=self._leasing.router_addresses(attached),
                token=attached.token,
                blocks=tuple(attached.blocks),
                pool_lengths=pool_lengths,
            )
        log.info(
            "attached %s: process %d, %s",
            attached.whereabouts,
            connection.pid,
            attached.command or "?",
        )
        return reply.pack(), fds

    def detach(self, connection: Connection, why: str) -> None:
        """Take back everything of a stack, at once."""
        began = time.monotonic_ns()
        with self._lock:
            self._captures.forget(connection)
            attached, connection.attachment = connection.attachment, None
            if attached is None:
                return
            self._attached.pop(attached.port, None)
            self.endings[why] += 1
            hold = bool(attached.capabilities & Capability.HOLD) and why != "released"
            self._take_back(attached, hold=hold)
            if not hold:
                self._leasing.forget(attached)
        self.reclaims_ns.append(time.monotonic_ns() - began)
        log.info(
            "detached %s: process %d, %s",
            attached.whereabouts,
            connection.pid,
            why,
        )

    def list_after(self, ident: int) -> bytes:
        with self._lock:
            following = min((i for i in self._attached if i > ident), default=None)
            if following is None:
                return b""
            return self._attached[following].info(self._forwarder).pack()

    # ---- inside

    def _make_channel(self, capacity: int):
        """A channel: the router's side, what the stack gets, sockets to ring it, sockets only it keeps."""
        from rings.channel import channel_pair

        here, there = channel_pair(capacity, self.backend, single_writer=self.backend == "memfd")
        fds, _ = there.export()
        bells, its = [], []
        try:
            if self.backend == "memfd":
                # A stranger could make a write to its eventfd block: its doorbells are sockets (R10).
                for number in (4, 5):
                    here_end, there_end = socket.socketpair(
                        socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
                    )
                    bells.append(here_end)
                    its.append(there_end)
                    fds[number] = there_end.fileno()
        except BaseException:
            for sock in (*bells, *its):
                sock.close()
            here.close()
            raise
        # With eventfds the router keeps what it rings; the stack's side of the channel is forgotten here.
        there.detach()
        return here, fds, bells, its

    def _put_into_service(self, attached: Attached, wanted: list[bytes], blocks: list[Network]) -> None:
        """First what can fail, then the addresses, which may come from an attachment that still lives."""
        channel = attached.channel
        bells = (-1, *(sock.fileno() for sock in attached.bells), -1) if attached.bells else channel.peer_fds
        attached.port = self._forwarder.add_stack(
            channel.tx,
            channel.rx,
            channel.fileno(),
            bells,
            mtu=attached.mtu,
            bells_are_sockets=bool(attached.bells),
            keep=channel,
        )
        if self._emulation is not None and self._seeds is not None:
            self._forwarder.emulate(attached.port, seed=next(self._seeds), **self._emulation.settings)
        self._limits.begin(attached.port)
        self._leasing.give(attached, wanted, blocks)

    def _take_back(self, attached: Attached, *, hold: bool = False) -> None:
        if attached.port:
            self._captures.port_goes(attached.port)
        self._leasing.take_back(attached, hold=hold)
        attached.channel.close()
        for sock in attached.bells:
            sock.close()


def check_capacity(capacity: int) -> int:
    """A ring's size: a power of two from 256 KiB to 64 MiB."""
    if not CAPACITY_MIN <= capacity <= CAPACITY_MAX or capacity & (capacity - 1):
        raise ConfigError(
            f"ring capacity {capacity}: a power of two from {CAPACITY_MIN} to {CAPACITY_MAX} bytes"
        )
    return capacity
