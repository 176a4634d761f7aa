"""What a router does about TCPs that misbehave, and whom it found: what control may ask and change."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from netstack.errors import RouterError
from netstack.router import protocol
from netstack.router.forwarding import Forwarder
from netstack.router.greedy import MISDEEDS

if TYPE_CHECKING:
    from netstack.router.control import Connection

log = logging.getLogger("netstack.router")


def findings(counters: Mapping[str, int]) -> tuple[int, ...]:
    """Connections in which a port's TCPs misbehaved, or those of all ports, in the order of `greedy.MISDEEDS`."""
    return tuple(counters[f"greedy_{what}"] for what in MISDEEDS)


class Conduct:
    """The policy of a router.

    Parameters
    ----------
    forwarder : Forwarder
    lock : threading.RLock
        The router's, which guards its ports.
    """

    def __init__(self, forwarder: Forwarder, lock: threading.RLock):
        self._forwarder = forwarder
        self._lock = lock

    @property
    def policy(self) -> str:
        """One of `greedy.POLICIES`; may be changed. Raises `ConfigError` where one cannot be."""
        return self._forwarder.greedy

    @policy.setter
    def policy(self, wanted: str) -> None:
        with self._lock:
            self._forwarder.set_greedy(wanted)

    def asked(self, connection: Connection, body: bytes) -> bytes:
        """A message GREEDY: what it changes, if anything, and the reply."""
        change, name = protocol.GREEDY.unpack_from(body)
        with self._lock:
            if change:
                if not connection.is_owner:
                    raise RouterError(errno.EPERM, "only the router's owner may change what it does about greedy TCPs")
                self.policy = protocol.text_of(name)
                log.info("process %d sets greedy to %s", connection.pid, self.policy)
            return protocol.GREEDY_REPLY.pack(self.policy.encode(), *findings(self._forwarder.counters(0)))
