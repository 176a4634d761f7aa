"""Limits on what stacks send: how they are written, the one that all get, and changes while the router runs."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netstack.errors import ConfigError, RouterError
from netstack.router import protocol
from netstack.router.forwarding import Forwarder
from netstack.router.limiting import limit, limit_of
from netstack.units import duration_ns, rate_bits

if TYPE_CHECKING:
    from netstack.router.control import Connection

log = logging.getLogger("netstack.router")

BURST_NS = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What an attachment may send at most; the rest waits in its ring.

    Parameters
    ----------
    rate : int or str, optional
        Of IP packets, bit/s, or text (``"10mbit"``). Without one any.
    packets : int, optional
        A second. Without one any.
    burst : int or str
        What may go at once after a pause: as much as comes in so long, nanoseconds, or text (``"10ms"``); at least one
        packet of the attachment's mtu.

    Raises
    ------
    ConfigError
        A value that cannot be.
    """

    rate: int | str | None = None
    packets: int | None = None
    burst: int | str = BURST_NS

    def __post_init__(self) -> None:
        try:
            rate = None if self.rate is None else rate_bits(self.rate)
            packets = None if self.packets is None else int(self.packets)
            burst = duration_ns(self.burst)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"limit: {error}") from None
        if rate is not None and not 8 <= rate <= 8 << 32:
            raise ConfigError(f"limit: rate {self.rate!r}: 8 bit/s (a byte) to {8 << 32}")
        if packets is not None and not 1 <= packets <= 1 << 32:
            raise ConfigError(f"limit: packets {self.packets!r}: 1 to {1 << 32} a second")
        if burst > 10**10:
            raise ConfigError(f"limit: burst {self.burst!r}: at most 10s")
        for name, value in (("rate", rate), ("packets", packets), ("burst", burst)):
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, given: Mapping[str, Any] | Limit | None) -> Limit | None:
        """The limit of some settings, or None: neither a rate nor packets are given."""
        if given is None or isinstance(given, Limit):
            return given
        said = {name: value for name, value in given.items() if value is not None}
        unknown = said.keys() - {"rate", "packets", "burst"}
        if unknown:
            raise ConfigError(f"no setting {', '.join(sorted(unknown))} of a limit: there are rate, packets, burst")
        if said.keys() == {"burst"}:
            raise ConfigError("a burst alone limits nothing: give a rate or packets too")
        return cls(**said) if said else None

    def settings(self) -> dict[str, int]:
        """For `limiting.limit`."""
        bytes_s, packets_s = int(self.rate or 0) // 8, self.packets or 0
        burst = int(self.burst)
        return {
            "bytes": bytes_s,
            "packets": packets_s,
            "depth_bytes": min(bytes_s * burst // 10**9, 1 << 32),
            "depth_packets": min(packets_s * burst // 10**9, 1 << 32),
        }


class Limits:
    """The limits of a router's attachments.

    Parameters
    ----------
    forwarder : Forwarder
    lock : threading.RLock
        The router's, which guards its ports.
    default : mapping or Limit, optional
        Of each stack that attaches.
    """

    def __init__(self, forwarder: Forwarder, lock: threading.RLock, default: Mapping[str, Any] | Limit | None):
        self._forwarder = forwarder
        self._lock = lock
        self.default = Limit.of(default)

    def begin(self, port: int) -> None:
        """A stack attaches."""
        if self.default is not None:
            limit(self._forwarder, port, **self.default.settings())

    def set(self, port: int, wanted: Mapping[str, Any] | Limit | None) -> None:
        """Another limit for one attachment, from now on; None: no limit.

        Raises
        ------
        RouterError
            No such attachment.
        """
        found = Limit.of(wanted)
        with self._lock:
            try:
                limit(self._forwarder, port, **(found.settings() if found else {}))
            except KeyError:
                raise RouterError(errno.ENOENT, f"no attachment {port}") from None

    def of(self, port: int) -> tuple[int, int, int, int]:
        """Bytes a second, packets a second, bytes at once, packets at once; 0: no limit. KeyError: it is gone."""
        with self._lock:
            return limit_of(self._forwarder, port)

    def asked(self, connection: Connection, body: bytes) -> bytes:
        """A message LIMIT: what it changes, if anything, and the reply."""
        port, change, rate, packets, burst = protocol.LIMIT.unpack_from(body)
        if change:
            if not connection.is_owner:
                raise RouterError(errno.EPERM, "only the router's owner may change the limits of its stacks")
            wanted = Limit(rate=rate or None, packets=packets or None, burst=burst) if rate or packets else None
            self.set(port, wanted)
            log.info("process %d limits attachment %d to %s", connection.pid, port, wanted or "nothing")
        try:
            return protocol.LIMIT_REPLY.pack(*self.of(port))
        except KeyError:
            raise RouterError(errno.ENOENT, f"no attachment {port}") from None
