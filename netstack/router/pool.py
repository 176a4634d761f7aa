"""An address pool: who may use which address, for how long, and who gets which one next.

An address is *free*, *leased* (to an attachment), *held* (its owner died or moves, and may come back with its
token) or *resting* (free, but used before). Leases go to addresses that were never used first and then to
those that rested longest: segments of a connection that died with its process meet nobody new for as long as
possible (design section 6).

In a large IPv6 network addresses are drawn at random, so that one says nothing of its owner, nor of who else is there
(the aim of RFC 7721 and 8981), and nothing counts through the network. Small ones and IPv4 are counted through.

Addresses are 16 bytes inside, IPv4 mapped (RFC 4291 section 2.5.5.2), as everywhere in the stack.
"""

from __future__ import annotations

import errno
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from netstack.errors import AddressTakenError, ConfigError, PoolEmptyError, RouterError
from netstack.router.blocks import Blocks
from netstack.router.journal import Journal, digest_of

TOKEN_BYTES = 16
RESTING_LIMIT = 1024  # addresses whose last use is remembered: some 0.6 MiB
HOLD_NS = 10_000_000_000  # how long an address waits for its owner's token (security.md R18)
LARGE_BITS = 24  # an IPv6 network whose addresses have so many bits of their own is drawn from
_ANYCAST = range(0xFDFFFFFFFFFFFF80, 0xFE00000000000000)  # interface identifiers of no single host (RFC 2526, RFC 5453)
DRAWS = 64  # with 65,536 of 2**24 leased and as many resting, one draw in 128 fails
_V4_MAPPED = b"\0" * 10 + b"\xff\xff"
_NEVER_FORWARDED = [
    ipaddress.ip_network(n) for n in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/64", "fe80::/10", "ff00::/8")
]


def pack_address(address) -> bytes:
    """16 bytes in network order from text, an ``ipaddress`` object, or 4 or 16 bytes."""
    if isinstance(address, (bytes, bytearray, memoryview)):
        packed = bytes(address)
        if len(packed) not in (4, 16):
            raise ValueError(f"an address has 4 or 16 bytes, not {len(packed)}")
    else:
        packed = ipaddress.ip_address(address).packed
    return _V4_MAPPED + packed if len(packed) == 4 else packed


def is_v4(packed: bytes) -> bool:
    """Whether 16 bytes are an IPv4 address."""
    return packed[:12] == _V4_MAPPED


def last_address(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The last address of a network but one: in IPv4 that is before the broadcast."""
    return network.network_address + (network.num_addresses - 2)


def format_address(packed: bytes) -> str:
    """Text of 16 bytes, IPv4 in dotted form."""
    if is_v4(packed):
        return str(ipaddress.IPv4Address(packed[12:]))
    return str(ipaddress.IPv6Address(packed))


@dataclass
class Lease:
    """One address that is leased or held.

    Attributes
    ----------
    address : bytes
        16 bytes.
    digest : str
        Of the token that its owner proves itself with.
    uid : int
        User of the owner; token and uid must both agree.
    epoch : int
        Rises each time the address changes hands: packets of an older epoch are dropped.
    owner : object
        The attachment, or None while the address is held.
    held_until_ns : int
        Monotonic time at which a hold ends; 0 while leased.
    """

    address: bytes
    digest: str
    uid: int
    epoch: int
    owner: Any = None
    held_until_ns: int = 0

    def known_to(self, uid: int, token: bytes | None) -> bool:
        """Is this the token, and the user?"""
        return bool(token) and uid == self.uid and hmac.compare_digest(digest_of(token or b""), self.digest)


class AddressPool:
    """Addresses of one network, leased to attachments.

    Parameters
    ----------
    network : str
        ``"10.77.0.0/16"``, ``"fd77::/64"``. The first host address is the router's own; the first address (the network,
        or all its routers) and in IPv4 the last (broadcast) are never leased.
    reserved : iterable
        Further addresses that are never leased.
    clock : callable
        Monotonic time in nanoseconds.

    Attributes
    ----------
    blocks : netstack.router.blocks.Blocks
        Prefixes of it that attachments have whole.
    """

    def __init__(self, network: str = "10.77.0.0/16", *, reserved=(), clock=time.monotonic_ns):
        try:
            self.network = ipaddress.ip_network(network)
        except ValueError as error:
            raise ConfigError(
                f"pool {network!r}: {error}; a pool is a network such as 10.77.0.0/16 or fd77::/64"
            ) from None
        for never in _NEVER_FORWARDED:
            if never.version == self.network.version and never.overlaps(self.network):
                raise ConfigError(f"pool {network}: routers do not forward to addresses of {never}")
        self.clock = clock
        self._base = int(self.network.network_address)
        size = self.network.num_addresses
        last = size - 2 if self.network.version == 4 else size - 1
        if last < 2:
            raise ConfigError(f"pool {network}: needs room for the router and at least one more address")
        self.router_address = pack_address(self.network.network_address + 1)
        self._first, self._last = 2, last
        self._fresh = self._first  # lowest number that was never leased in order
        self._reserved = {pack_address(a) for a in reserved} | {self.router_address}
        self._leases: dict[bytes, Lease] = {}
        # released addresses and their epochs, oldest first
        self._resting: OrderedDict[bytes, int] = OrderedDict()
        self._held: dict[bytes, Lease] = {}  # the part of _leases that waits for its owner
        self._bits = self.network.max_prefixlen - self.network.prefixlen
        self._large = self.network.version == 6 and self._bits >= LARGE_BITS
        self._expired: list[bytes] = []
        self._forgotten: list[bytes] = []  # released, in what is a block now
        self.blocks = Blocks(self)
        self.journal: Journal | None = None  # hears of each lease and of its end

    def reserve(self, address: bytes | None = None) -> bytes:
        """An address, or the next, is leased to nobody from now on: it is the router's to share."""
        address = address or self._least_recently_used()
        self._reserved.add(address)
        return address

    @property
    def last_address(self) -> bytes:
        """The last that could be leased."""
        return pack_address(last_address(self.network))

    @property
    def prefix_length(self) -> int:
        return self.network.prefixlen

    def __contains__(self, address: bytes) -> bool:
        version = 4 if is_v4(address) else 6
        if version != self.network.version:
            return False
        packed = address[12:] if version == 4 else address
        return ipaddress.ip_address(packed) in self.network

    def __len__(self) -> int:
        """How many addresses are leased or held."""
        return len(self._leases)

    def lease_of(self, address: bytes) -> Lease | None:
        return self._leases.get(address)

    # ---- leasing

    def lease(
        self, owner, uid: int, address: bytes | None = None, token: bytes | None = None
    ) -> tuple[Lease, Any]:
        """Lease one address.

        Parameters
        ----------
        owner : object
            The attachment that gets it.
        uid : int
            Its user.
        address : bytes, optional
            The address asked for; without one the least recently used address is chosen.
        token : bytes, optional
            Proof of an earlier lease: takes the address over, also from an attachment that still lives.

        Returns
        -------
        tuple
            The lease, and the attachment that had the address until now (or None).

        Raises
        ------
        AddressTakenError
            The address is leased or held and the token (or the user) is another.
        PoolEmptyError
            No address is free.
        RouterError
            The address is not of this pool, or is never leased (EADDRNOTAVAIL).
        """
        self._expire()
        if address is None:
            address = self._draw() if self._large else self._least_recently_used()
        else:
            self.check(address, uid, token)
        before = self._leases.get(address)
        if before is None:
            epoch = self._resting.pop(address, 0) + 1
            lease = Lease(address, digest_of(token or secrets.token_bytes(TOKEN_BYTES)), uid, epoch, owner)
            self._leases[address] = lease
            self._note(lease)
            return lease, None
        previous, before.owner = before.owner, owner
        before.epoch += 1
        before.held_until_ns = 0
        self._held.pop(address, None)
        self._note(before)
        return before, previous

    def restore(self, address: bytes, digest: str, uid: int, epoch: int, hold_ns: int = HOLD_NS) -> bool:
        """A lease of the router before this one: held for its owner. False: there is no such address here."""
        if address not in self or not self._leasable(address) or address in self._leases:
            return False
        if self.blocks.covering(self._number(address)) is not None:
            return False
        lease = Lease(address, digest, uid, epoch)
        lease.held_until_ns = self.clock() + hold_ns
        self._leases[address] = self._held[address] = lease
        self._note(lease)
        return True

    def check(self, address: bytes, uid: int, token: bytes | None = None) -> None:
        """Raise what `lease` would raise for this address; do nothing else."""
        self._expire()
        if address not in self:
            raise RouterError(
                errno.EADDRNOTAVAIL, f"address {format_address(address)} is not in the pool {self.network}"
            )
        if not self._leasable(address):
            raise RouterError(
                errno.EADDRNOTAVAIL,
                f"address {format_address(address)} is never leased: it is the "
                f"router's, the network's, the broadcast or a reserved one",
            )
        block = self.blocks.covering(self._number(address))
        if block is not None:
            raise AddressTakenError(
                errno.EADDRINUSE,
                f"address {format_address(address)} lies in the block {block.network}, which one attachment has whole: "
                "ask for another one, or for none (any)",
            )
        before = self._leases.get(address)
        if before is not None and not before.known_to(uid, token):
            state = "held for its owner" if before.owner is None else "taken"
            raise AddressTakenError(
                errno.EADDRINUSE,
                f"address {format_address(address)} is {state}: ask for "
                f"another one, for none (any), or bring the token of its lease",
            )

    def release(self, address: bytes, owner) -> bool:
        """The owner gives the address back. False if somebody else has it by now (or it is held)."""
        lease = self._leases.get(address)
        if lease is None or lease.owner is not owner:
            return False
        self._retire(lease)
        return True

    def hold(self, address: bytes, owner, hold_ns: int = HOLD_NS) -> bool:
        """The owner is gone but may come back with its token within `hold_ns`."""
        lease = self._leases.get(address)
        if lease is None or lease.owner is not owner:
            return False
        lease.owner = None
        lease.held_until_ns = self.clock() + hold_ns
        self._held[address] = lease
        return True

    def expire(self) -> list[bytes]:
        """End the holds that nobody claimed in time; returns the addresses whose hold ended since the last
        call.
        """
        self._expire()
        over, self._expired = self._expired, []
        return over

    def rests(self, address: bytes) -> bool:
        """Whether it was somebody's, and is nobody's, nor part of a block."""
        return address in self._resting

    def next_expiry_ns(self) -> int | None:
        """Monotonic time of the next end of a hold, or None."""
        held = [lease.held_until_ns for lease in self._held.values()]
        block = self.blocks.next_expiry_ns()
        return min(held if block is None else [*held, block], default=None)

    # ---- what blocks ask

    @property
    def is_large(self) -> bool:
        """Are its addresses drawn?"""
        return self._large

    def expire_holds(self) -> None:
        """End the holds that nobody claimed in time, of addresses and of blocks."""
        self._expire()

    def numbers_in_use(self) -> set[int]:
        """Of addresses that no block may have: leased, held, or never leased."""
        never = {0} | ({self.network.num_addresses - 1} if self.network.version == 4 else set())
        return never | {self._number(a) for a in self._reserved if a in self} | set(map(self._number, self._leases))

    def numbers_resting(self) -> Iterator[int]:
        """Of addresses that a block takes only if it must."""
        return (self._number(address) for address in self._resting)

    def obstacle_within(self, start: int, end: int) -> RouterError | None:
        """Why these numbers are no block, as far as single addresses are concerned."""
        for address in (*self._reserved, *self._leases):
            if address in self and start <= self._number(address) < end:
                break
        else:
            if start == 0 or (end == self.network.num_addresses and self.network.version == 4):
                address = pack_address(self.network[0 if start == 0 else -1])
            else:
                return None
        text = format_address(address)
        if address in self._leases:
            return AddressTakenError(errno.EADDRINUSE, f"{text} of this block is another's: ask for any of its length")
        return RouterError(errno.EADDRNOTAVAIL, f"{text} of this block is never leased: it is the router's, the "
                           "network's, the broadcast or a reserved one; ask for any of its length")

    def forget_within(self, start: int, end: int) -> None:
        """These numbers are a block: whose they were is nothing to remember, nor to answer for."""
        if end - start < len(self._resting):
            inside = [a for a in (pack_address(self.network[n]) for n in range(start, end)) if a in self._resting]
        else:
            inside = [a for a in self._resting if start <= self._number(a) < end]
        for address in inside:
            del self._resting[address]
        self._forgotten += inside

    # ---- inside

    def forget(self) -> list[bytes]:
        """Released addresses whose last use is not remembered any more, in blocks or oldest first: the table may drop
        them too.
        """
        over = []
        while len(self._resting) > RESTING_LIMIT:
            over.append(self._resting.popitem(last=False)[0])
        if over and self._fresh > self._last:
            self._fresh = self._first  # what was forgotten is found by counting again
        over += self._forgotten
        self._forgotten = []
        return over

    def _retire(self, lease: Lease) -> None:
        del self._leases[lease.address]
        self._held.pop(lease.address, None)
        self._resting[lease.address] = lease.epoch
        lease.owner = None
        if self.journal is not None:
            self.journal.note(f"- {format_address(lease.address)}")

    def _note(self, lease: Lease) -> None:
        if self.journal is not None:
            self.journal.note(f"+ {format_address(lease.address)} {lease.uid} {lease.epoch} {lease.digest}")

    def _expire(self) -> None:
        now = self.clock()
        self.blocks.expire(now)
        for lease in [lease for lease in self._held.values() if lease.held_until_ns <= now]:
            self._retire(lease)
            self._expired.append(lease.address)

    def _number(self, address: bytes) -> int:
        packed = address[12:] if self.network.version == 4 else address
        return int.from_bytes(packed, "big") - self._base

    def _leasable(self, address: bytes) -> bool:
        return self._first <= self._number(address) <= self._last and address not in self._reserved

    def _draw(self) -> bytes:
        """A random address that nobody has, or had as long as that is remembered."""
        for _ in range(DRAWS):
            number = secrets.randbits(self._bits)
            address = (self._base + number).to_bytes(16, "big")
            if int.from_bytes(address[8:], "big") in _ANYCAST or not self._leasable(address):
                continue
            if address in self._leases or address in self._resting or self.blocks.covering(number) is not None:
                continue
            return address
        raise PoolEmptyError(
            errno.ENOBUFS, f"pool {self.network}: no free address in {DRAWS} draws; give the router a larger one"
        )

    def _least_recently_used(self) -> bytes:
        while (number := self.blocks.skip(self._fresh)) <= self._last:
            address = pack_address(self.network.network_address + number)
            self._fresh = number + 1
            if address not in self._leases and address not in self._resting and address not in self._reserved:
                return address
        if self._resting:
            return next(iter(self._resting))
        if self.blocks.give_up_resting():
            self._fresh = self._first
            return self._least_recently_used()
        raise PoolEmptyError(
            errno.ENOBUFS,
            f"pool {self.network} is empty: all {self._last - self._first + 1} "
            f"addresses are leased, alone or in blocks; give the router a larger pool (--pool)",
        )
