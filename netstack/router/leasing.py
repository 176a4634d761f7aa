"""What a stack gets of a router and gives back: addresses, blocks, a part in the addresses that stacks share.

Pools say what is free, the data path is told whose it is, and the journal remembers it. All methods are called under
the router's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstack.router.attached import Attached
from netstack.router.block_messages import Network
from netstack.router.control import FAR_AWAY
from netstack.router.pool import is_v4
from netstack.router.pools import ANY_V4, ANY_V6, Pools

if TYPE_CHECKING:
    from netstack.router.forwarding import Forwarder
    from netstack.router.memory import Memory
    from netstack.router.protocol import AttachRequest
    from netstack.router.routed_blocks import RoutedBlocks
    from netstack.router.sharing import SharedAddresses
    from netstack.router.user import UserUplink


class Leasing:
    """The addresses and blocks of one router, and who has them.

    Parameters
    ----------
    forwarder : Forwarder
    pools : Pools
    blocks : RoutedBlocks
    shared : SharedAddresses or None
    memory : Memory or None
        Its journal.
    user : UserUplink or None
        Forgets the flows of who has gone.
    """

    def __init__(self, forwarder: Forwarder, pools: Pools, blocks: RoutedBlocks, shared: SharedAddresses | None,
                 memory: Memory | None, user: UserUplink | None):
        self._forwarder = forwarder
        self._pools = pools
        self._blocks = blocks
        self._shared = shared
        self._memory = memory
        self._user = user

    def wanted(self, request: AttachRequest, uid: int, mtu: int) -> tuple[list[bytes], list[Network]]:
        """The addresses and the blocks that a stack is to get.

        Raises
        ------
        RouterError
            It cannot have them; says what to do.
        """
        blocks = self._blocks.wanted(request, uid, mtu)
        wanted = self._pools.wanted(self._asked(request), mtu)
        wanted = self._blocks.instead(wanted, bool(request.addresses), blocks)
        for address in wanted:
            self._pools.check(address, uid, request.token)
        return wanted, blocks

    def _asked(self, request: AttachRequest) -> list[bytes]:
        """Who comes back names the shared addresses, too: it is to share them again."""
        if not request.token:
            return list(request.addresses)
        shared = {a: ANY_V4 if is_v4(a) else ANY_V6 for a in (self._shared.addresses if self._shared else ())}
        return [shared.get(address, address) for address in request.addresses]

    def shared_among(self, wanted: list[bytes]) -> list[bytes]:
        """Those of the wanted addresses that others have, too."""
        return [address for each in wanted if (address := self._pools.shared_address(each)) is not None]

    def give(self, attached: Attached, wanted: list[bytes], blocks: list[Network]) -> None:
        """First the blocks, which may fail, then the addresses, which may come from an attachment that still lives."""
        uid = attached.connection.uid
        self._blocks.lease(attached, blocks, attached.token)
        for each in wanted:
            shared = self._pools.shared_address(each)
            if shared is not None and self._shared is not None:
                returned = self._memory is not None and self._memory.joined(uid, attached.token)
                self._shared.join(attached.port, uid, shared, returned=returned)
                attached.shared = (*attached.shared, shared)
                continue
            lease, previous = self._pools.lease(attached, uid, each, attached.token)
            if previous is not None:
                previous.leases.remove(lease)
            attached.leases.append(lease)
            self._forwarder.bind(attached.port, lease.address, lease.epoch)
            self._forwarder.announce(lease.address)

    def lengths(self, attached: Attached) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """How long the prefixes are of the pools that its addresses are of, and its blocks."""
        return (tuple(self._pools.of(address).prefix_length for address in attached.addresses),
                tuple(self._blocks.pool_of(network).prefix_length for network in attached.blocks))

    def router_addresses(self, attached: Attached) -> tuple[bytes, ...]:
        """The router's own in these pools, one of each version."""
        return tuple(
            dict.fromkeys(pool.router_address for pool in (
                *(self._pools.of(address) for address in attached.addresses),
                *(self._blocks.pool_of(network) for network in attached.blocks)))
        )[:2]

    def take_back(self, attached: Attached, *, hold: bool) -> None:
        """All that it has, and its port. With `hold` its addresses and blocks wait for its token."""
        if attached.port:
            self._blocks.take_back(attached, hold=hold)
            self._forwarder.remove(attached.port, hold=hold)
        if attached.shared and self._memory is not None:
            self._memory.left(attached)
        for lease in attached.leases:
            if hold:
                self._pools.hold(lease.address, attached)
            else:
                self._pools.release(lease.address, attached)
        for address in self._pools.forget():
            self._forwarder.forget(address)

    def forget(self, attached: Attached) -> None:
        """It does not come back: what it had through the uplink ``user`` ends."""
        if self._user is not None:
            if not attached.shared:
                self._user.forget(attached.addresses)
            self._user.forget(attached.blocks)

    def tick(self, now_ns: int, attached) -> int:
        """What waited for its stack long enough is anybody's. Returns when to come again.

        Parameters
        ----------
        now_ns : int
        attached : iterable of Attached
            All there are.
        """
        for address in self._pools.expire():
            if self._pools.of(address).rests(address):  # else others have it by now
                self._forwarder.set_state(address, "dead")
            if self._user is not None:
                self._user.forget([address])
        over = self._blocks.expire()
        if self._user is not None:
            self._user.forget(over)
        promises = self._memory.tick(now_ns, attached) if self._memory is not None else 0
        return min(self._pools.next_expiry_ns() or FAR_AWAY, promises or FAR_AWAY)
