"""The pools of one router: how they are written, which one an address is of, and what a stack gets that asks for none.

IPv4 and IPv6 pools live side by side. The first pool of a version is where a stack gets its address of that version
from; the others have addresses for those who ask, and for everybody once the first is empty.
"""

from __future__ import annotations

import errno
import hmac
import ipaddress
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from netstack.errors import ConfigError, PoolEmptyError, RouterError
from netstack.router.paths import runtime_folder
from netstack.router.pool import AddressPool, Lease, format_address, is_v4, pack_address

ADDRESSING = ("process", "interface")
DEFAULT_V4 = "10.77.0.0/16"
MAX_POOLS = 16
IPV6_MIN_MTU = 1280  # RFC 8200 section 5: no link of IPv6 carries less
ANY_V4, ANY_V6 = pack_address("0.0.0.0"), pack_address("::")  # asked for: whichever there is of that version
MACHINE_ID = "/etc/machine-id"


def machine_identity() -> bytes:
    """What tells this machine from others (machine-id(5)), a secret; where there is none, as in containers, one of our
    own in the folder of control sockets."""
    try:
        with open(MACHINE_ID, "rb") as file:
            if identity := bytes.fromhex(file.read().decode().strip()):
                return identity
    except (OSError, ValueError):
        pass
    path = os.path.join(runtime_folder(), "identity")
    made = secrets.token_bytes(16)
    try:
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(made)
            return made
    except FileExistsError:
        with open(path, "rb") as file:
            return file.read(16) or made                 # empty: its maker has not written yet


def unique_local_network(name: str) -> ipaddress.IPv6Network:
    """The IPv6 network of a router of this name that was given none: a /64 of a unique local /48 (RFC 4193).

    Its 40 random bits come from the machine's identity and the router's name: a router has the same network each time
    it starts, and two routers that meet have different ones.
    """
    # The identity is a secret: what is seen of it is keyed by it.
    digest = hmac.digest(machine_identity(), b"netstack router " + name.encode(), "sha256")
    return ipaddress.IPv6Network((b"\xfd" + digest[:5] + bytes(10), 64))


@dataclass(frozen=True)
class PoolConfig:
    """One pool.

    Attributes
    ----------
    network : str
        ``"10.77.0.0/16"``, ``"fd77::/64"``.
    addressing : str or None
        ``"process"``: an address for each stack; ``"interface"``: one for all that ask for none; None: as the router
        says.
    """

    network: str
    addressing: str | None = None

    @classmethod
    def parse(cls, text: str | PoolConfig) -> PoolConfig:
        """Read ``NETWORK[,addressing=process|interface]``.

        Raises
        ------
        ConfigError
            Anything else.
        """
        if isinstance(text, cls):
            return text
        network, *options = str(text).split(",")
        addressing = None
        for option in options:
            key, _, addressing = option.partition("=")
            if key != "addressing" or addressing not in ADDRESSING:
                raise ConfigError(
                    f"pool {text!r}: unknown option {option!r}; write 10.77.0.0/16, or fd77::/64,addressing="
                    f"{'|'.join(ADDRESSING)}"
                )
        return cls(network.strip(), addressing)


class Pools:
    """All addresses of one router.

    Parameters
    ----------
    pools : iterable of str or PoolConfig
        In the order in which stacks get addresses of them; they do not overlap.
    addressing : str
        Of pools that say nothing else.
    reserved : iterable
        Addresses that are never leased.
    last_is_reserved : bool
        Nor is the last one of each pool (before the broadcast): `AddressPool.last_address`.
    clock : callable
        Monotonic time in nanoseconds.

    Attributes
    ----------
    pools : list of AddressPool
    shared : list of bytes
        The address that stacks share, of each version whose first pool has ``addressing="interface"``.

    Raises
    ------
    ConfigError
        A pool that cannot be, none at all, too many, or two that overlap.
    """

    def __init__(
        self,
        pools: Iterable[str | PoolConfig],
        *,
        addressing: str = "process",
        reserved=(),
        last_is_reserved: bool = False,
        clock=time.monotonic_ns,
    ):
        configs = [PoolConfig.parse(pool) for pool in pools]
        if not 1 <= len(configs) <= MAX_POOLS:
            raise ConfigError(f"{len(configs)} pools: a router has 1 to {MAX_POOLS}")
        reserved = list(reserved)
        self.pools = [AddressPool(config.network, reserved=reserved, clock=clock) for config in configs]
        for i, pool in enumerate(self.pools):
            for before in self.pools[:i]:
                if before.network.version == pool.network.version and before.network.overlaps(pool.network):
                    raise ConfigError(
                        f"pools {before.network} and {pool.network} overlap: an address is of one pool only"
                    )
        if last_is_reserved:
            for pool in self.pools:
                pool.reserve(pool.last_address)
        self.shared: list[bytes] = []
        self._first: dict[int, AddressPool] = {}
        self._sharing: dict[int, bytes] = {}
        for config, pool in zip(configs, self.pools, strict=True):
            version = pool.network.version
            first = self._first.setdefault(version, pool) is pool
            if config.addressing == "interface" and not first:
                raise ConfigError(
                    f"pool {pool.network}: the address that stacks share is of the first IPv{version} pool, "
                    f"{self._first[version].network}"
                )
            if first and (config.addressing or addressing) == "interface":
                self._sharing[version] = pool.reserve()
                self.shared.append(self._sharing[version])

    def __iter__(self) -> Iterator[AddressPool]:
        return iter(self.pools)

    def __str__(self) -> str:
        return ", ".join(str(pool.network) for pool in self.pools)

    def of(self, address: bytes) -> AddressPool:
        """The pool of an address.

        Raises
        ------
        RouterError
            None has it (EADDRNOTAVAIL).
        """
        for pool in self.pools:
            if address in pool:
                return pool
        kind = "pool" if len(self.pools) == 1 else "pools"
        raise RouterError(errno.EADDRNOTAVAIL, f"address {format_address(address)} is not in the {kind} {self}")

    def router_address(self, version: int) -> bytes | None:
        """The router's own in the first pool of a version."""
        pool = self._first.get(version)
        return pool.router_address if pool is not None else None

    def wanted(self, addresses: Iterable[bytes], mtu: int) -> list[bytes]:
        """What a stack is to get, in order: addresses, and `ANY_V4` or `ANY_V6` where the router chooses.

        Parameters
        ----------
        addresses : iterable of bytes
            What it asked for; nothing: one of each version.
        mtu : int
            Of its link, bytes: below 1280 there is no IPv6.

        Raises
        ------
        RouterError
            No pool has such an address (EADDRNOTAVAIL), or the link cannot carry IPv6 (EINVAL).
        """
        asked = list(addresses)
        out = asked or [{4: ANY_V4, 6: ANY_V6}[version] for version in sorted(self._first)]
        if not asked and mtu < IPV6_MIN_MTU and len(out) > 1:
            out.remove(ANY_V6)
        for address in out:
            if address not in (ANY_V4, ANY_V6):
                self.of(address)
            elif (4 if address == ANY_V4 else 6) not in self._first:
                raise RouterError(
                    errno.EADDRNOTAVAIL, f"no IPv{4 if address == ANY_V4 else 6} address: the router has {self}"
                )
            if not is_v4(address) and mtu < IPV6_MIN_MTU:
                raise RouterError(errno.EINVAL, f"mtu {mtu}: an address of IPv6 needs {IPV6_MIN_MTU} bytes (RFC 8200)")
        return out

    def shared_address(self, wanted: bytes) -> bytes | None:
        """The address that a stack shares with others which wants any of this version; None: it gets one of its own."""
        return self._sharing.get({ANY_V4: 4, ANY_V6: 6}.get(wanted, 0))

    def lease(self, owner, uid: int, wanted: bytes, token: bytes | None = None) -> tuple[Lease, Any]:
        """Lease an address, or any (`ANY_V4`, `ANY_V6`) of its version. See `AddressPool.lease`."""
        if wanted not in (ANY_V4, ANY_V6):
            return self.of(wanted).lease(owner, uid, wanted, token)
        version = 4 if wanted == ANY_V4 else 6
        pools = [pool for pool in self.pools if pool.network.version == version]
        for pool in pools[:-1]:
            try:
                return pool.lease(owner, uid, None, token)
            except PoolEmptyError:
                continue
        return pools[-1].lease(owner, uid, None, token)

    def check(self, wanted: bytes, uid: int, token: bytes | None = None) -> None:
        """Raise what `lease` would raise for an address that was asked for; do nothing else."""
        if wanted not in (ANY_V4, ANY_V6):
            self.of(wanted).check(wanted, uid, token)

    def release(self, address: bytes, owner) -> bool:
        """See `AddressPool.release`."""
        return self.of(address).release(address, owner)

    def hold(self, address: bytes, owner) -> bool:
        """See `AddressPool.hold`."""
        return self.of(address).hold(address, owner)

    def expire(self) -> list[bytes]:
        """See `AddressPool.expire`."""
        return [address for pool in self.pools for address in pool.expire()]

    def next_expiry_ns(self) -> int | None:
        """See `AddressPool.next_expiry_ns`."""
        return min((ns for pool in self.pools if (ns := pool.next_expiry_ns()) is not None), default=None)

    def forget(self) -> list[bytes]:
        """See `AddressPool.forget`."""
        return [address for pool in self.pools for address in pool.forget()]
