"""Blocks of a pool: prefixes that one attachment has whole, so that a network needs one route for it instead of one for
each of its addresses (paper sections 3 and 5).

A block is aligned, as prefixes are, and shares no address with another block, with a lease, or with what is never
leased. It is *leased*, *held* for the token of its owner, *resting* or free, as addresses are (`netstack.router.pool`).
Free blocks need no list: free is what nobody has, so what is given back is part of larger blocks again at once.

Addresses are counted from the bottom of a pool and blocks taken from its top, so that they meet late; both are drawn at
random in large IPv6 pools. A block that rests is taken again when no other fits, the one that rested longest first.
"""

from __future__ import annotations

import bisect
import errno
import hmac
import ipaddress
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netstack.errors import AddressTakenError, ConfigError, PoolEmptyError, RouterError
from netstack.router.journal import digest_of

if TYPE_CHECKING:
    from netstack.router.pool import AddressPool

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SMALLEST_HOST_BITS = 2  # a block has four addresses at least: /30, /126
RESTING_LIMIT = 1024  # blocks whose last use is remembered
DRAWS = 64
EXAMPLE = "write a length, /26 or /64, or a network, 10.77.4.0/26"


def parse_block(text: Any) -> Network:
    """The block that somebody wants: ``26``, ``"/26"``, ``"10.77.4.0/26"``, ``"::/64"``.

    A length up to 32 is of IPv4, a longer one of IPv6; network 0.0.0.0 or :: is any of that length.

    Raises
    ------
    ConfigError
        Anything else.
    """
    if isinstance(text, Network):
        return text
    words = str(text).strip()
    if words.removeprefix("/").isdecimal():
        length = int(words.removeprefix("/"))
        words = f"{'0.0.0.0' if length <= 32 else '::'}/{length}"
    try:
        network = ipaddress.ip_network(words)
    except ValueError as error:
        raise ConfigError(f"block {text!r}: {error}; {EXAMPLE}") from None
    if "/" not in words:
        raise ConfigError(f"block {text!r} is one address: ask for it as an address, or {EXAMPLE}")
    return network


def is_any(wanted: Network) -> bool:
    """Whether the router chooses where it lies."""
    return int(wanted.network_address) == 0


def first_host(block: Network) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The first address of a block but its own: what a stack gets that has no other."""
    return block.network_address + 1


@dataclass
class Block:
    """One block that is leased or held.

    Attributes
    ----------
    network : ipaddress network
    digest : str
        Of the token that its owner proves itself with.
    uid : int
        User of the owner; token and uid must both agree.
    owner : object
        The attachment, or None while it is held.
    held_until_ns : int
        Monotonic time at which a hold ends; 0 while leased.
    """

    network: Network
    digest: str
    uid: int
    owner: Any = None
    held_until_ns: int = 0

    def known_to(self, uid: int, token: bytes | None) -> bool:
        """Is this the token, and the user?"""
        return bool(token) and uid == self.uid and hmac.compare_digest(digest_of(token or b""), self.digest)


class Blocks:
    """The blocks of one pool, which owns this and lends no address that lies in one.

    Numbers are those of addresses, counted from the pool's first.
    """

    def __init__(self, pool: AddressPool):
        self._pool = pool
        self._bits = pool.network.max_prefixlen
        self._base = int(pool.network.network_address)
        self._taken: list[tuple[int, int]] = []  # start and end of blocks that are leased or held, in order
        self._blocks: dict[int, Block] = {}  # by start
        self._held: dict[int, Block] = {}  # the part that waits for its owner
        # Start and end, oldest first. None shares an address with another, or with one that is leased.
        self._resting: OrderedDict[Network, tuple[int, int]] = OrderedDict()
        self._released = False  # since the pool was counted through
        self._expired: list[Network] = []
        self._gone: list[Network] = []  # nobody's any more, and not remembered

    def __len__(self) -> int:
        """How many are leased or held."""
        return len(self._blocks)

    # ---- what the pool asks

    def covering(self, number: int) -> Block | None:
        """The block that has an address, by its number."""
        return self._overlapping(number, number + 1)

    def skip(self, number: int) -> int:
        """The first number from this one on that no block has, or had so lately that it rests."""
        while True:
            block = self.covering(number)
            if block is not None:
                number = self._range(block.network)[1]
                continue
            end = next((end for start, end in self._resting.values() if start <= number < end), None)
            if end is None:
                return number
            number = end

    def give_up_resting(self) -> bool:
        """The pool has no other address left: blocks rest no longer. False: none were given back meanwhile."""
        released, self._released = self._released, False
        self._gone += self._resting
        self._resting.clear()
        return released

    # ---- leasing

    def lease(self, owner, uid: int, wanted: Network, token: bytes | None = None) -> tuple[Block, Any]:
        """Lease a block.

        Parameters
        ----------
        owner, uid, token
            As of `AddressPool.lease`.
        wanted : ipaddress network
            As `parse_block` gives it.

        Returns
        -------
        tuple
            The block, and the attachment that had it until now (or None).

        Raises
        ------
        AddressTakenError
            It, or an address of it, is somebody's.
        PoolEmptyError
            No block of this length is free.
        RouterError
            A length that cannot be had here (EINVAL), or a block that is never leased (EADDRNOTAVAIL).
        """
        self.check(wanted, uid, token)
        network = self._find(wanted.prefixlen) if is_any(wanted) else wanted
        start, end = self._range(network)
        before = self._blocks.get(start)
        if before is not None:
            previous, before.owner = before.owner, owner
            before.held_until_ns = 0
            self._held.pop(start, None)
            return before, previous
        for resting in [each for each, (first, last) in self._resting.items() if first < end and start < last]:
            del self._resting[resting]
            self._gone.append(resting)
        self._pool.forget_within(start, end)
        return self._add(Block(network, digest_of(token or secrets.token_bytes(16)), uid, owner)), None

    def check(self, wanted: Network, uid: int, token: bytes | None = None) -> None:
        """Raise what `lease` would raise, but for a pool that is used up."""
        self._pool.expire_holds()
        self._check_length(wanted)
        if is_any(wanted):
            return
        if not wanted.subnet_of(self._pool.network):  # type: ignore[arg-type]
            raise RouterError(errno.EADDRNOTAVAIL, f"block {wanted} is not in the pool {self._pool.network}: ask for "
                              f"any (/{wanted.prefixlen})")
        start, end = self._range(wanted)
        same = self._blocks.get(start)
        if same is not None and same.network == wanted and same.known_to(uid, token):
            return
        other = self._overlapping(start, end)
        if other is not None:
            state = "held for its owner" if other.owner is None else "taken"
            what = f"block {wanted}" if other.network == wanted else f"block {wanted} overlaps {other.network}, which"
            raise AddressTakenError(errno.EADDRINUSE, f"{what} is {state}: ask for any (/{wanted.prefixlen}), or bring "
                                    "the token of its lease")
        obstacle = self._pool.obstacle_within(start, end)
        if obstacle is not None:
            raise obstacle

    def restore(self, network: Network, digest: str, uid: int, hold_ns: int) -> bool:
        """A block of the router before this one: held for its owner. False: there is no such block here."""
        if network.version != self._pool.network.version or not network.subnet_of(self._pool.network):  # type: ignore
            return False
        start, end = self._range(network)
        if (self._pool.network.prefixlen >= network.prefixlen or self._overlapping(start, end) is not None
                or self._pool.obstacle_within(start, end) is not None):
            return False
        block = self._add(Block(network, digest, uid, None, self._pool.clock() + hold_ns))
        self._held[start] = block
        return True

    def release(self, network: Network, owner) -> bool:
        """The owner gives it back. False if somebody else has it by now (or it is held)."""
        block = self._blocks.get(self._range(network)[0])
        if block is None or block.network != network or block.owner is not owner:
            return False
        self._retire(block)
        return True

    def hold(self, network: Network, owner, hold_ns: int) -> bool:
        """The owner is gone but may come back with its token within `hold_ns`."""
        start = self._range(network)[0]
        block = self._blocks.get(start)
        if block is None or block.network != network or block.owner is not owner:
            return False
        block.owner = None
        block.held_until_ns = self._pool.clock() + hold_ns
        self._held[start] = block
        return True

    def expire(self, now_ns: int) -> None:
        """End the holds that nobody claimed in time."""
        for block in [block for block in self._held.values() if block.held_until_ns <= now_ns]:
            self._retire(block)
            self._expired.append(block.network)

    def expired(self) -> list[Network]:
        """Those whose hold ended since the last call."""
        over, self._expired = self._expired, []
        return over

    def rests(self, network: Network) -> bool:
        """Whether it was somebody's, and is nobody's."""
        return network in self._resting

    def next_expiry_ns(self) -> int | None:
        return min((block.held_until_ns for block in self._held.values()), default=None)

    def gone(self) -> list[Network]:
        """Blocks that rested, and are not remembered since the last call: no route has to answer for them."""
        over, self._gone = self._gone, []
        return over

    # ---- inside

    def _range(self, network: Network) -> tuple[int, int]:
        start = int(network.network_address) - self._base
        return start, start + network.num_addresses

    def _network(self, start: int, length: int) -> Network:
        return ipaddress.ip_network((self._pool.network.network_address + start, length))

    def _add(self, block: Block) -> Block:
        start, end = self._range(block.network)
        bisect.insort(self._taken, (start, end))
        self._blocks[start] = block
        if self._pool.journal is not None:
            self._pool.journal.note(f"b {block.network} {block.uid} {block.digest}")
        return block

    def _retire(self, block: Block) -> None:
        start, end = self._range(block.network)
        del self._taken[bisect.bisect_left(self._taken, (start, end))]
        del self._blocks[start]
        self._held.pop(start, None)
        block.owner = None
        self._resting[block.network] = (start, end)
        self._released = True
        while len(self._resting) > RESTING_LIMIT:
            self._gone.append(self._resting.popitem(last=False)[0])
        if self._pool.journal is not None:
            self._pool.journal.note(f"B {block.network}")

    def _check_length(self, wanted: Network) -> None:
        pool = self._pool.network
        longest = pool.max_prefixlen - SMALLEST_HOST_BITS
        if wanted.version == pool.version and pool.prefixlen < wanted.prefixlen <= longest:
            return
        if pool.prefixlen >= longest:
            raise RouterError(errno.EINVAL, f"pool {pool} is too small for blocks: give the router a larger one "
                              "(--pool)")
        raise RouterError(errno.EINVAL, f"block /{wanted.prefixlen}: pool {pool} has blocks from /{pool.prefixlen + 1} "
                          f"(largest) to /{longest}; ask for one of these, or give the router a larger pool (--pool)")

    def _overlapping(self, start: int, end: int) -> Block | None:
        i = bisect.bisect_left(self._taken, (end,)) - 1
        return self._blocks[self._taken[i][0]] if i >= 0 and self._taken[i][1] > start else None

    def _find(self, length: int) -> Network:
        """A free one: that nobody ever had, if there is any, else the one that rested longest."""
        shift = self._bits - length
        in_use = {n >> shift for n in self._pool.numbers_in_use()}
        lately = {n >> shift for n in self._pool.numbers_resting()}
        start = self._search(shift, in_use | lately, sorted([*self._taken, *self._resting.values()]))
        if start is None:
            start = self._longest_rested(shift, in_use)
        if start is None:
            start = self._search(shift, in_use, self._taken)
        if start is not None:
            return self._network(start, length)
        why = "its addresses are drawn from all over it" if self._pool.is_large else "it is used up"
        raise PoolEmptyError(errno.ENOBUFS, f"pool {self._pool.network} has no free block /{length}, {why}: ask for a "
                             "smaller one, or give the router a larger pool (--pool)")

    def _search(self, shift: int, in_use: set[int], taken: list[tuple[int, int]]) -> int | None:
        """Where 2**shift aligned addresses are free, as the first's number.

        `in_use` are such places with single addresses in use, `taken` the ranges of blocks in order.
        """
        top = self._pool.network.num_addresses
        for _ in range(DRAWS if self._pool.is_large else 0):
            k = secrets.randbelow(top >> shift)
            i = bisect.bisect_left(taken, ((k + 1) << shift,)) - 1
            if k not in in_use and (i < 0 or taken[i][1] <= k << shift):
                return k << shift
        for start, end in (*reversed(taken), (0, 0)):                 # the gaps, from the top
            k, lowest = (top >> shift) - 1, -(-end >> shift)
            while k >= lowest:
                if k not in in_use:
                    return k << shift
                k -= 1
            top = start
        return None

    def _longest_rested(self, shift: int, in_use: set[int]) -> int | None:
        size = 1 << shift
        for start, end in self._resting.values():
            first = end - size
            if first >= start and first >> shift not in in_use and self._overlapping(first, end) is None:
                return first
        return None
