"""The uplink to another router of this machine, whose blocks are the pools of this one.

A network of routers behind routers: each knows its own stacks, and of what is behind another router one route for the
whole block, however many stacks are there (paper sections 3 and 5). To the parent this router is a stack that has the
block; to this one the parent is an uplink, which may bring packets from everywhere but its own pools. Each is a hop.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netstack.errors import ConfigError, RouterError
from netstack.link.emulation import NAMES, Emulation
from netstack.router.attachment import Attachment
from netstack.router.block_messages import MAX_BLOCKS, Network
from netstack.router.blocks import parse_block
from netstack.router.client import attach
from netstack.router.protocol import ProtocolError
from rings.errors import RingError

if TYPE_CHECKING:
    from netstack.router.forwarding import Forwarder

EXAMPLE = "write router:NAME,block=/26, with one block of each version of IP"
TIMEOUT_S = 1.0  # for answers of the parent: who serves our own stacks waits for them


@dataclass(frozen=True, kw_only=True)
class ParentConfig:
    """What ``--uplink router:NAME`` was told.

    Attributes
    ----------
    name : str
        The other router.
    blocks : tuple of ipaddress networks
        Wanted of it, as `netstack.router.blocks.parse_block` gives them.
    emulation : Emulation or None
        A bad link, in front of it.
    """

    name: str
    blocks: tuple[Network, ...]
    emulation: Emulation | None = None

    kind = "router"
    addresses = gateways = ()

    @classmethod
    def parse(cls, text: str) -> ParentConfig:
        """Read ``router:NAME[,block=BLOCK]...`` and the settings of a bad link.

        Raises
        ------
        ConfigError
            Anything else.
        """
        head, *options = text.split(",")
        name = head.partition(":")[2]
        blocks: list[Network] = []
        bad: dict[str, Any] = {}
        try:
            for option in options:
                key, equals, value = option.partition("=")
                if key == "block" and equals:
                    blocks.append(parse_block(value))
                elif key in (*NAMES, "seed") and equals:
                    bad[key] = int(value) if key in ("queue", "seed") else value
                else:
                    raise ConfigError(f"unknown option {option!r}; {EXAMPLE}")
            if not name or not blocks:
                raise ConfigError(EXAMPLE)
            if len(blocks) > MAX_BLOCKS:
                raise ConfigError(f"{len(blocks)} blocks, at most {MAX_BLOCKS}")
            return cls(name=name, blocks=tuple(blocks), emulation=Emulation.of(bad))
        except ValueError as error:                      # ConfigError is one
            raise ConfigError(f"uplink {text!r}: {error}") from None


class ParentUplink:
    """An attachment to another router, in this one's service as the way out.

    Parameters
    ----------
    config : ParentConfig
    default : bool
        Packets for addresses outside the pools go here.

    Attributes
    ----------
    blocks : list of ipaddress networks
        Leased from the parent. They stay the same should it be started again.

    Raises
    ------
    RouterError
        No such router, or no such block of it.
    """

    watched = True  # a parent that was killed tells nobody in the data path

    def __init__(self, config: ParentConfig, *, default: bool = True):
        self.config = config
        self.default = default
        self.port: int | None = None
        lease = self._ask(block=config.blocks)
        self._lease: Attachment | None = lease
        self._token = lease.token
        self.blocks = list(lease.blocks)

    def check(self, pools: Iterable[Network]) -> None:
        """Raises ConfigError for a pool of this router that the parent would not route here."""
        for pool in pools:
            if not any(pool.version == block.version and pool.subnet_of(block)  # type: ignore[arg-type]
                       for block in self.blocks):
                raise ConfigError(f"pool {pool} is not in the block of router {self.config.name}, "
                                  f"{', '.join(map(str, self.blocks))}: leave the pool out (it is the block then)")

    def open(self, forwarder: Forwarder) -> None:
        """Attach, if need be again, and hand the rings to the data path.

        Raises
        ------
        RouterError
            The parent is not back, or has not our blocks for us.
        """
        lease = self._lease = self._lease or self._ask(block=self.blocks, token=self._token)
        channel = lease.link.channel
        with contextlib.ExitStack() as undo:
            undo.callback(self.leave)
            port = forwarder.add_stack(
                channel.tx, channel.rx, channel.fileno(), channel.peer_fds, mtu=lease.mtu,
                wake_is_socket=channel.layout.backend == "memfd", keep=channel)
            undo.callback(forwarder.remove, port)
            forwarder.lead_outside(port, default=self.default)
            if self.config.emulation is not None:
                forwarder.emulate(port, seed=self.config.emulation.seed, **self.config.emulation.settings)
            undo.pop_all()
        self.port = port

    def _ask(self, **what) -> Attachment:
        try:
            return attach(self.config.name, timeout=TIMEOUT_S, **what)
        except (ProtocolError, RingError) as error:
            raise RouterError(errno.EPROTO, f"router {self.config.name!r}: {error}") from None

    def lost(self) -> bool:
        """Is the parent gone?"""
        return self._lease is not None and self._lease.gone

    def close(self, forwarder: Forwarder) -> None:
        """Take it out of service; it may be opened again."""
        if self.port is not None:
            forwarder.remove(self.port)
            self.port = None
        self.leave()

    def leave(self) -> None:
        """Give the blocks back; no port has the rings. Leaving twice is allowed."""
        if self._lease is not None:
            self._lease.close()
            self._lease = None


def parent_of(configs) -> ParentUplink:
    """The router that one with these uplinks is behind, joined.

    Raises
    ------
    ConfigError
        It would be behind several.
    """
    parents = [config for config in configs if config.kind == "router"]
    if len(parents) > 1:
        raise ConfigError("a router is behind one other router: give one uplink router:NAME, with several blocks")
    return ParentUplink(parents[0], default=parents[0] is configs[0])
