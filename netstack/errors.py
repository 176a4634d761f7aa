"""Exceptions: each is a `NetstackError` and the built-in that callers already catch."""

from __future__ import annotations


class NetstackError(Exception):
    """Base of all exceptions of this package."""


class ConfigError(NetstackError, ValueError):
    """A setting that cannot be."""


class LinkError(NetstackError, OSError):
    """A link could not be opened, or is gone."""


class RouterError(NetstackError, OSError):
    """The router refused, or a request to it failed."""


class NoRouterError(RouterError, ConnectionRefusedError):
    """No router runs under that name."""


class NoDaemonError(RouterError, ConnectionRefusedError):
    """No daemon runs under that name."""


class AddressTakenError(RouterError):
    """The address asked for belongs to another attachment."""


class PoolEmptyError(RouterError):
    """The router has no free address left."""


class AddressConflictError(NetstackError, OSError):
    """Another station of the link has the address (RFC 5227)."""


class ForkedError(NetstackError, OSError):
    """A socket or host made before ``fork`` was used in the child."""


class SnapshotError(NetstackError, ValueError):
    """Bytes that are no snapshot, or of a version this stack does not read."""


class PacketError(NetstackError, ValueError):
    """Bytes that are no such packet; ``reason`` is the `netstack.counters.DropReason`."""

    def __init__(self, reason: int):
        from netstack.counters import DropReason

        self.reason = DropReason(reason)
        super().__init__(self.reason.name)
