"""What a router does with its `Journal`: it writes down what it promises, and begins with what the one before it had
promised, should that have been killed."""

from __future__ import annotations

import ipaddress
import logging
import time
from typing import TYPE_CHECKING, Any

from netstack.router.journal import Journal, digest_of
from netstack.router.pool import HOLD_NS, pack_address

if TYPE_CHECKING:
    from netstack.router.forwarding import Forwarder
    from netstack.router.routed_blocks import RoutedBlocks
    from netstack.router.sharing import SharedAddresses

log = logging.getLogger("netstack.router")


class Memory:
    """The journal of one router. Its methods are called under the router's lock.

    Parameters
    ----------
    path : str
        The journal's file.
    pools : iterable of AddressPool
        Leases go there, and tell the journal from now on.
    forwarder : Forwarder
    shared : SharedAddresses or None
    blocks : RoutedBlocks
    """

    def __init__(self, path: str, pools, forwarder: Forwarder, shared: SharedAddresses | None, blocks: RoutedBlocks):
        self._journal = Journal(path)
        self._shared = shared
        self._returning: set[tuple[int, str]] = set()  # users and digests of sharers that may come back
        self._promised: list[tuple[int, int]] = []     # kinds and numbers that wait for them
        self._promises_end_ns = 0
        found = self._journal.load()
        self.waiting = 0                               # addresses, and blocks, that wait for their stacks
        for pool in pools:
            pool.journal = self._journal
        for text, (uid, epoch, digest) in found.leases.items():
            address = pack_address(text)
            if any(pool.restore(address, digest, uid, epoch) for pool in pools):
                forwarder.hold(address, epoch)
                self.waiting += 1
        for text, (uid, digest) in found.blocks.items():
            network = ipaddress.ip_network(text)
            if any(pool.blocks.restore(network, digest, uid, HOLD_NS) for pool in pools):
                blocks.restored(network)
                self.waiting += 1
        if shared is not None and found.sharers:
            self.waiting += len(shared.addresses)
            self._returning = found.sharers
            self._promised = list(found.ports.elements())
            self._promises_end_ns = time.monotonic_ns() + HOLD_NS
            for (kind, number), uid in found.users.items():
                shared.promise(kind, number, uid, self._promises_end_ns)
            self._journal.note(
                *(f"s {uid} {digest}" for uid, digest in found.sharers),
                *(f"p {kind} {number} {found.users[kind, number]}" for kind, number in self._promised),
            )

    def joined(self, uid: int, token: bytes) -> bool:
        """A stack shares the shared addresses. True: it did so before the router was killed."""
        proof = (uid, digest_of(token))
        self._journal.note(f"s {uid} {proof[1]}")
        return proof in self._returning

    def left(self, attached: Any) -> None:
        """It does not any more."""
        self.has_not(attached, set(attached.numbers))
        self._journal.note(f"S {attached.connection.uid} {digest_of(attached.token)}")

    def has(self, attached: Any, kind: int, numbers) -> None:
        """It got these ports."""
        fresh = [number for number in numbers if (kind, number) not in attached.numbers]
        attached.numbers.update((kind, number) for number in fresh)
        self._journal.note(*(f"p {kind} {number} {attached.connection.uid}" for number in fresh))

    def has_not(self, attached: Any, numbers: set[tuple[int, int]]) -> None:
        """It gave these back."""
        gone = attached.numbers & numbers
        attached.numbers -= gone
        self._journal.note(*(f"P {kind} {number}" for kind, number in gone))

    def tick(self, now_ns: int, attached) -> int:
        """Who has come back in time has its ports; what others had is anybody's. Returns when to come again, or 0."""
        if self._promises_end_ns and now_ns >= self._promises_end_ns:
            self._promises_end_ns = 0
            back = {(a.connection.uid, digest_of(a.token)) for a in attached if a.shared}
            self._journal.note(
                *(f"S {uid} {digest}" for uid, digest in self._returning - back),
                *(f"P {kind} {number}" for kind, number in self._promised),
            )
            self._returning, self._promised = set(), []
        return self._promises_end_ns

    def close(self) -> None:
        """The router ends on purpose: nobody was promised anything."""
        self._journal.close()
