"""httpx on a host.

>>> httpx.Client(transport=Transport(host))                                                 # doctest: +SKIP
>>> httpx.AsyncClient(transport=AsyncTransport(host))                                       # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

import httpx

from netstack.adapters.httpcore import AsyncNetworkBackend, NetworkBackend


class Transport(httpx.HTTPTransport):
    """Connections are of ``host``, proxies' included; options as of ``httpx.HTTPTransport``."""

    def __init__(self, host: Any, **options: Any) -> None:
        super().__init__(**options)
        self._pool._network_backend = NetworkBackend(host)


class AsyncTransport(httpx.AsyncHTTPTransport):
    """The same under asyncio or trio; options as of ``httpx.AsyncHTTPTransport``."""

    def __init__(self, host: Any, **options: Any) -> None:
        super().__init__(**options)
        self._pool._network_backend = AsyncNetworkBackend(host)
