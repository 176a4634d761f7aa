"""The host of a program whose stack is in a daemon: the face of `netstack.Host`, with nothing behind it here."""

from __future__ import annotations

import os
import socket as _kernel
from typing import Any

from netstack.config import ResolverConfig
from netstack.daemon.client import Client
from netstack.daemon.handle import DaemonHandle
from netstack.errors import NetstackError
from netstack.host import Host
from netstack.resolver import Resolver


class DaemonHost(Host):
    """A daemon's host, as one of its clients has it.

    Parameters
    ----------
    name : str, optional
        Which daemon; ``$NETSTACK_DAEMON`` or ``default`` without it.
    dns, resolver
        As of `Host`: names are asked for by this process, through the daemon's stack.
    spin_us : float
        How long a waiting thread looks at its socket's memory before it sleeps, microseconds.

    Raises
    ------
    NoDaemonError
        None runs under that name.
    """

    def __init__(self, name: str | None = None, *, dns: bool | str = True, resolver: ResolverConfig | None = None,
                 spin_us: float = 20.0) -> None:
        self.client = Client(name, spin_us)
        self.addresses = tuple(self.client.addresses)
        self.link = None
        self.drain = 0.0                               # the daemon delivers what closed sockets sent
        self.serves = True
        self._client_pid = os.getpid()
        self._lease = None
        self.resolver = Resolver(self._own_addresses, dns, config=resolver, make_socket=self.socket,
                                 interface_index=self.interface_index, interface_name=self.if_indextoname,
                                 source_address=self.client.source_address)

    @property
    def reaches_out(self) -> bool:
        return True

    def heir(self) -> Host:
        """The same: a forked child shares the daemon's sockets."""
        return self

    def open_handle(self, family: int, type: int, proto: int) -> Any:
        return DaemonHandle.open(self.client, family, type, proto, self)

    def if_nameindex(self) -> list[tuple[int, str]]:
        """As ``socket.if_nameindex``: ``[(1, "if1"), (2, "lo")]``."""
        return [(1, "if1"), (2, "lo")]

    def _own_addresses(self) -> list[str]:
        own = [a.partition("/")[0] for a in self.addresses]
        return sorted(own, key=lambda a: (_kernel.AF_INET6 if ":" in a else _kernel.AF_INET, a.startswith("fe80:")))

    def add_address(self, address: str, gateway: str | None = None) -> None:
        raise _not_here()

    def remove_address(self, address: str) -> None:
        raise _not_here()

    def start_trace(self, records: int = 65536) -> None:
        raise _not_here()

    def stop_trace(self) -> Any:
        raise _not_here()

    def counters(self) -> dict[str, int]:
        """Nothing: what the stack counts is the daemon's."""
        return {}

    @property
    def closed(self) -> bool:
        return not self.client.alive

    def close(self) -> None:
        """Leave the daemon: sockets of this process are closed, and deliver what they sent."""
        self.client.close()

    def __repr__(self) -> str:
        return f"<netstack.Host {', '.join(self.addresses)} of a daemon ({'closed' if self.closed else 'open'})>"


def _not_here() -> NetstackError:
    return NetstackError("this is the daemon's business: its stack is not in this process")
