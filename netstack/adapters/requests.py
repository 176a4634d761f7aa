"""requests, or urllib3, on a host.

>>> session = requests.Session()                                        # doctest: +SKIP
>>> session.mount("http://", Adapter(host))                             # doctest: +SKIP
>>> session.mount("https://", Adapter(host))                            # doctest: +SKIP
"""

from __future__ import annotations

import socket as _kernel
import sys
from typing import Any

import requests.adapters
import urllib3
import urllib3.connection
import urllib3.exceptions
from urllib3.util.ssl_ import create_urllib3_context

from netstack.tls import SSLSocket


def pool_manager(host: Any, **options: Any) -> urllib3.PoolManager:
    """A ``urllib3.PoolManager`` whose connections are of ``host``."""

    class OnHost:
        def _new_conn(self) -> _kernel.socket:
            c: Any = self
            timeout = (c.timeout,) if c.timeout is None or isinstance(c.timeout, (int, float)) else ()
            try:
                sock = host.create_connection((c._dns_host, c.port), *timeout, source_address=c.source_address)
            except _kernel.gaierror as error:
                raise urllib3.exceptions.NameResolutionError(c.host, c, error) from error
            except TimeoutError as error:
                raise urllib3.exceptions.ConnectTimeoutError(
                    c, f"Connection to {c.host} timed out. (connect timeout={c.timeout})") from error
            except OSError as error:
                raise urllib3.exceptions.NewConnectionError(
                    c, f"Failed to establish a new connection: {error}") from error
            for option in c.socket_options or ():
                sock.setsockopt(*option)
            sys.audit("http.client.connect", c, c.host, c.port)
            return sock

    class Plain(OnHost, urllib3.connection.HTTPConnection):
        pass

    class Secure(OnHost, urllib3.connection.HTTPSConnection):
        def connect(self) -> None:
            if self.ssl_context is None:
                self.ssl_context = create_urllib3_context()
                if not (self.ca_certs or self.ca_cert_dir or self.ca_cert_data):
                    self.ssl_context.load_default_certs()
            self.ssl_context.sslsocket_class = SSLSocket
            super().connect()

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    manager = urllib3.PoolManager(**options)
    manager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
    return manager


class Adapter(requests.adapters.HTTPAdapter):
    """What a ``requests.Session`` mounts to reach servers through a host.

    Parameters
    ----------
    host : Host
    options
        As of ``requests.adapters.HTTPAdapter``.
    """

    def __init__(self, host: Any, **options: Any) -> None:
        self._host = host
        super().__init__(**options)

    def init_poolmanager(self, connections, maxsize, block=False, **options) -> None:
        self._pool_connections, self._pool_maxsize, self._pool_block = connections, maxsize, block
        self.poolmanager = pool_manager(self._host, num_pools=connections, maxsize=maxsize, block=block, **options)
