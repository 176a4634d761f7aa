"""Put a host under unchanged programs: the standard library's ``socket`` module uses it.

Replaced are exactly the names of `replaced`, no others: ``socketpair``, ``fromfd``, ``select`` and
``selectors`` stay the kernel's; ``create_connection`` and ``create_server`` follow, since they look
``socket`` up when called.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket as _kernel
import sys
from typing import Any

from netstack import socket as face

_NAME_FUNCTIONS = ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo",
                   "getfqdn")
_ORIGINALS = {name: getattr(_kernel, name) for name in ("socket", *_NAME_FUNCTIONS)}


def _asks_host(name: str):
    @functools.wraps(_ORIGINALS[name])
    def function(*args, **kwargs):
        return getattr(face.current_host().resolver, name)(*args, **kwargs)

    return function


class patch(contextlib.ContextDecorator):
    """Let every IP socket that this process makes from now on be one of ``host``.

    Works at once; ``undo()``, or the end of the ``with`` block, puts back what was there. As a decorator it
    works during each call. Patches nest: the innermost host is used.

    Parameters
    ----------
    host : Host or callable
        The host, or a function that gives it when the first socket is made (and again in a forked child).
    dns : True, False or "kernel", optional
        Set the host's way with names that it does not know itself.
    tls : bool
        Let ``ssl.SSLContext.wrap_socket`` work on the host's sockets (`netstack.tls`).
    sendfile : bool
        Replace ``os.sendfile`` as well, by one that refuses the descriptors of stack sockets with EINVAL;
        callers such as asyncio fall back to sending then.

    Examples
    --------
    >>> with netstack.patch(host):                                      # doctest: +SKIP
    ...     urllib.request.urlopen("http://10.9.0.1/").read()
    """

    def __init__(self, host: Any, *, dns=None, tls: bool = True, sendfile: bool = True) -> None:
        if callable(host) and dns is not None:
            raise ValueError("dns is a setting of the host that the function returns")
        if dns is not None:
            host.resolver.dns = dns
        self._choose = host if callable(host) else lambda: host
        self._tls = tls
        self._sendfile = sendfile
        self._undo: list[tuple[object, str, object]] = []
        self._active = False
        self.apply()

    def _replace(self, module, name: str, value) -> None:
        self._undo.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    def apply(self) -> None:
        """Put the host in place, if it is not."""
        if self._active:
            return
        self._active = True
        face._choose_host.append(self._choose)
        self._replace(_kernel, "socket", face.socket)
        for name in _NAME_FUNCTIONS:
            self._replace(_kernel, name, _asks_host(name))
        if self._tls:
            with contextlib.suppress(ImportError):         # an interpreter without ssl has nothing to replace
                import ssl

                from netstack.tls import SSLSocket

                self._replace(ssl.SSLContext, "sslsocket_class", SSLSocket)
        if self._sendfile:
            self._replace(os, "sendfile", face.fake_sendfile)

    def undo(self) -> None:
        """Put back what was there. Sockets that exist stay what they are."""
        if not self._active:
            return
        self._active = False
        while self._undo:
            setattr(*self._undo.pop())
        face._choose_host.remove(self._choose)

    def __enter__(self) -> patch:
        self.apply()
        return self

    def __exit__(self, *exc) -> None:
        self.undo()

    def _recreate_cm(self):
        return self

    def __call__(self, func):
        self.undo()
        return super().__call__(func)


def replaced() -> list[tuple[str, str]]:
    """``(module, name)`` of everything that is replaced now."""
    out = [("socket", name) for name in _ORIGINALS if getattr(_kernel, name) is not _ORIGINALS[name]]
    ssl = sys.modules.get("ssl")
    tls = sys.modules.get("netstack.tls")
    if ssl is not None and tls is not None and ssl.SSLContext.sslsocket_class is tls.SSLSocket:
        out.append(("ssl", "SSLContext.sslsocket_class"))
    if os.sendfile is face.fake_sendfile:
        out.append(("os", "sendfile"))
    return out


def stale_references() -> list[tuple[str, str]]:
    """``(module, name)`` where loaded modules still hold an original: they were imported before the patch."""
    originals = {id(value): name for name, value in _ORIGINALS.items()}
    mine = {"socket", __name__, face.__name__, "netstack.resolver.functions"}
    found = []
    for module_name, module in list(sys.modules.items()):
        if module_name in mine or module is None:
            continue
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if id(value) in originals:
                found.append((module_name, name))
    return sorted(found)
