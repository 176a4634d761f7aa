"""Blocks in a router: leased from its pools, and routed to the attachments that have them.

Each block is one route, whatever number of addresses are in use behind it. Its attachment may send from all of it, and
uplinks answer for all of it (ARP, neighbour discovery); no single address of it is announced, since the router's
station is that of the whole pool. All methods are called under the router's lock.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from netstack.errors import PoolEmptyError, RouterError
from netstack.router.block_messages import Network, network_of
from netstack.router.blocks import is_any
from netstack.router.pool import HOLD_NS, AddressPool
from netstack.router.pools import ANY_V4, IPV6_MIN_MTU, Pools

if TYPE_CHECKING:
    from netstack.router.forwarding import Forwarder
    from netstack.router.protocol import AttachRequest

T = TypeVar("T")


class RoutedBlocks:
    """The blocks of one router.

    Parameters
    ----------
    pools : Pools
    forwarder : Forwarder
        Has their routes.
    """

    def __init__(self, pools: Pools, forwarder: Forwarder):
        self._pools = pools
        self._forwarder = forwarder

    def wanted(self, request: AttachRequest, uid: int, mtu: int) -> list[Network]:
        """What a stack asks for.

        Raises
        ------
        RouterError
            It cannot be had; says what to do. That no block is free is found by `lease`.
        """
        out = [network_of(*block) for block in request.blocks]
        for each in out:
            if each.version == 6 and mtu < IPV6_MIN_MTU:
                raise RouterError(errno.EINVAL, f"mtu {mtu}: a block of IPv6 needs {IPV6_MIN_MTU} bytes (RFC 8200)")
            self._of_first(each, lambda pool, each=each: pool.blocks.check(each, uid, request.token))
        return out

    @staticmethod
    def instead(addresses: list[bytes], asked: bool, blocks: list[Network]) -> list[bytes]:
        """The addresses of a stack that gets these blocks: where it asked for none, none of a block's version."""
        if asked:
            return addresses
        versions = {block.version for block in blocks}
        return [a for a in addresses if (4 if a == ANY_V4 else 6) not in versions]

    def lease(self, attached: Any, wanted: list[Network], token: bytes) -> None:
        """Lease them to an attachment that has its port, and route them there.

        First what may fail, then what may be taken from an attachment that lives.
        """
        uid = attached.connection.uid
        got: dict[Network, int] = {}
        for i, each in sorted(enumerate(wanted), key=lambda pair: not is_any(pair[1])):
            block, previous = self._of_first(
                each, lambda pool, each=each: pool.blocks.lease(attached, uid, each, token))
            if previous is not None:
                previous.blocks.remove(block.network)
            attached.blocks.append(block.network)
            got[block.network] = i
            self._tidy()
            self._forwarder.add_route(block.network, attached.port, replace=True)
        attached.blocks.sort(key=got.__getitem__)                      # as they were asked for

    def take_back(self, attached: Any, *, hold: bool) -> None:
        """An attachment goes. Its blocks wait for its token with `hold`, else they rest; before its port goes."""
        for network in attached.blocks:
            blocks = self.pool_of(network).blocks
            done = blocks.hold(network, attached, HOLD_NS) if hold else blocks.release(network, attached)
            if done:
                self._forwarder.set_block_aside(network, held=hold)
        self._tidy()

    def restored(self, network: Network) -> None:
        """One that the router before this one had leased: it waits."""
        self._forwarder.set_block_aside(network, held=True)

    def expire(self) -> list[Network]:
        """Those whose hold ended since the last call: nobody has them any more."""
        over = []
        for pool in self._pools:
            for network in pool.blocks.expired():
                over.append(network)
                if pool.blocks.rests(network):                         # else others have it, or part of it, by now
                    self._forwarder.set_block_aside(network)
        self._tidy()
        return over

    def pool_of(self, network: Network) -> AddressPool:
        """The pool that a block is of.

        Raises
        ------
        RouterError
            None has it (EADDRNOTAVAIL).
        """
        for pool in self._pools:
            if network.version == pool.network.version and network.subnet_of(pool.network):  # type: ignore[arg-type]
                return pool
        raise RouterError(errno.EADDRNOTAVAIL, f"block {network} is in no pool of {self._pools}: ask for any "
                          f"(/{network.prefixlen})")

    def _of_first(self, wanted: Network, ask: Callable[[AddressPool], T]) -> T:
        """What the pool says that has what is wanted: of any, the first that does not refuse."""
        if not is_any(wanted):
            return ask(self.pool_of(wanted))
        pools = [pool for pool in self._pools if pool.network.version == wanted.version]
        if not pools:
            raise RouterError(errno.EADDRNOTAVAIL, f"no block of IPv{wanted.version}: the router has {self._pools}")
        failures: list[RouterError] = []
        for pool in pools:
            try:
                return ask(pool)
            except RouterError as error:
                failures.append(error)
        raise next((failure for failure in failures if isinstance(failure, PoolEmptyError)), failures[0])

    def _tidy(self) -> None:
        """What rested and is not remembered is not answered for."""
        for pool in self._pools:
            for network in pool.blocks.gone():
                route = self._forwarder.route(network)
                if route is not None and route[1:3] == ("stack", 0):
                    self._forwarder.remove_route(network)
        for address in self._pools.forget():
            self._forwarder.forget(address)
