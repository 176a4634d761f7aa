"""aiohttp's client on a host, by its hooks for sockets and names.

>>> async with aiohttp.ClientSession(connector=connector(host)) as session:     # doctest: +SKIP
...     ...
"""

from __future__ import annotations

import asyncio
import socket as _kernel
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from netstack.aio.connecting import getaddrinfo

_NUMERIC = _kernel.AI_NUMERICHOST | _kernel.AI_NUMERICSERV


class Resolver(AbstractResolver):
    """Asks the host for names."""

    def __init__(self, host: Any) -> None:
        self._host = host

    async def resolve(self, host: str, port: int = 0, family: _kernel.AddressFamily = _kernel.AF_INET
                      ) -> list[ResolveResult]:
        entries = await getaddrinfo(asyncio.get_running_loop(), self._host, host, port, family, _kernel.SOCK_STREAM, 0,
                                    _kernel.AI_ADDRCONFIG)
        return [ResolveResult(hostname=host, host=address[0], port=address[1], family=family_, proto=proto,
                              flags=_NUMERIC) for family_, _, proto, _, address in entries]

    async def close(self) -> None:
        pass


def connector(host: Any, **options: Any) -> aiohttp.TCPConnector:
    """A ``TCPConnector`` whose connections are of ``host``; options as of ``aiohttp.TCPConnector``."""
    return aiohttp.TCPConnector(resolver=Resolver(host), socket_factory=lambda entry: host.socket(*entry[:3]),
                                **options)
