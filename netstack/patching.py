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
import warnings
from typing import Any

from netstack import socket as face
from netstack.errors import NetstackError
from netstack.placing import Placement, Route

_NAME_FUNCTIONS = ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo",
                   "getfqdn")
_INTERFACE_FUNCTIONS = tuple(name for name in ("if_nameindex", "if_nametoindex", "if_indextoname")
                             if hasattr(_kernel, name))
_ORIGINALS = {name: getattr(_kernel, name) for name in ("socket", "close", *_NAME_FUNCTIONS, *_INTERFACE_FUNCTIONS)}


class StaleReferenceWarning(UserWarning):
    """A module took a name of the standard library before it was replaced, and goes on using the kernel."""


def _asks_hosts(name: str):
    """A function of names: each host is asked until one knows; what none knows, the kernel is asked under "auto"."""
    original = _ORIGINALS[name]

    @functools.wraps(original)
    def function(*args, **kwargs):
        placement = face.current_placement()
        hosts = placement.hosts()
        for host in hosts[:-1]:
            with contextlib.suppress(_kernel.gaierror, _kernel.herror):
                return getattr(host.resolver, name)(*args, **kwargs)
        try:
            return getattr(hosts[-1].resolver, name)(*args, **kwargs)
        except (_kernel.gaierror, _kernel.herror):
            if placement.route == "all":
                raise
        except TypeError as error:                     # as the C function's: nothing in it holds the arguments
            args = kwargs = ()
            raise error.with_traceback(None) from None
        return original(*args, **kwargs)

    return function


def _asks_interfaces(name: str):
    """A function of interfaces; under "auto" the kernel's are what programs ask for."""
    original = _ORIGINALS[name]

    @functools.wraps(original)
    def function(*args):
        placement = face.current_placement()
        if placement.route == "auto":
            return original(*args)
        return getattr(placement.first(), name)(*args)

    return function


class patch(contextlib.ContextDecorator):
    """Let the IP sockets that this process makes from now on be those of ``hosts``.

    Works at once; ``undo()``, or the end of the ``with`` block, puts back what was there. As a decorator it
    works during each call. It is of the whole process, all its threads included; patches nest, the innermost counts.

    Parameters
    ----------
    *hosts : Host or callable
        The hosts, or functions that give one when the first socket is made (and again in a forked child). Of several,
        a socket belongs to the one that has the address it binds to, or that reaches the address it connects to: its
        own address, the longest prefix, then any route. What none reaches is the first one's business.
    route : {"all", "auto"}
        "all": every IP socket, loopback included, is one of the hosts'. "auto": loopback, and what the hosts do not
        reach, stay the kernel's; so do names that they do not know.
    dns : True, False or "kernel", optional
        Set the hosts' way with names that they do not know themselves.
    tls : bool
        Let ``ssl.SSLContext.wrap_socket`` work on the hosts' sockets (`netstack.tls`).
    sendfile : bool
        Replace ``os.sendfile`` as well, by one that takes the descriptors of stack sockets too: it reads the file and
        sends what it read.
    strict : bool
        Refuse to start while a module holds a name that was taken before the patch; without it, modules that are
        not the standard library's are warned of.

    Raises
    ------
    NetstackError
        With ``strict``: the modules and names.

    Warns
    -----
    StaleReferenceWarning

    Examples
    --------
    >>> with netstack.patch(host):                                      # doctest: +SKIP
    ...     urllib.request.urlopen("http://10.9.0.1/").read()
    """

    def __init__(self, *hosts: Any, route: Route = "all", dns=None, tls: bool = True, sendfile: bool = True,
                 strict: bool = False) -> None:
        if not hosts:
            raise ValueError("patch() needs a host")
        for host in hosts:
            if dns is not None and callable(host):
                raise ValueError("dns is a setting of the host that the function returns")
            if dns is not None:
                host.resolver.dns = dns
        self._placement = Placement([host if callable(host) else _giver(host) for host in hosts], route)
        self._tls = tls
        self._sendfile = sendfile
        self._strict = strict
        self._undo: list[tuple[object, str, object]] = []
        self._active = False
        self.apply()

    def _replace(self, module, name: str, value) -> None:
        self._undo.append((module, name, vars(module)[name]))
        setattr(module, name, value)

    def apply(self) -> None:
        """Put the hosts in place, if they are not."""
        if self._active:
            return
        self._look_for_stale_references()
        tls_modules = _tls_modules() if self._tls else None
        self._active = True
        face.placements.append(self._placement)
        self._replace(_kernel, "socket", face.socket)
        self._replace(_kernel, "close", face.close)
        for name in _NAME_FUNCTIONS:
            self._replace(_kernel, name, _asks_hosts(name))
        for name in _INTERFACE_FUNCTIONS:
            self._replace(_kernel, name, _asks_interfaces(name))
        if tls_modules is not None:
            ssl, tls = tls_modules
            self._replace(ssl.SSLContext, "sslsocket_class", tls.SSLSocket)
            self._replace(ssl.SSLSocket, "_create", classmethod(tls.create))
        if self._sendfile:
            self._replace(os, "sendfile", face.sendfile)

    def _look_for_stale_references(self) -> None:
        stale = [entry for entry in stale_references()
                 if entry[0].partition(".")[0] not in (*sys.stdlib_module_names, "__main__")]
        if not stale:
            return
        text = ", ".join(f"{module}.{name}" for module, name in stale)
        if self._strict:
            raise NetstackError(f"taken before the patch, and still the kernel's: {text}")
        warnings.warn(f"taken before the patch, and still the kernel's: {text}", StaleReferenceWarning, stacklevel=4)

    def undo(self) -> None:
        """Put back what was there. Sockets that exist stay what they are."""
        if not self._active:
            return
        self._active = False
        while self._undo:
            setattr(*self._undo.pop())
        face.placements.remove(self._placement)

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


def _tls_modules() -> tuple[Any, Any] | None:
    """ssl and `netstack.tls`; ssl takes its base class from ``socket``, so it is loaded before anything is replaced.
    None in an interpreter without ssl."""
    try:
        import ssl

        from netstack import tls
    except ImportError:
        return None
    return ssl, tls


def _giver(host: Any):
    return lambda: host


def replaced() -> list[tuple[str, str]]:
    """``(module, name)`` of everything that is replaced now."""
    out = [("socket", name) for name in _ORIGINALS if getattr(_kernel, name) is not _ORIGINALS[name]]
    ssl = sys.modules.get("ssl")
    tls = sys.modules.get("netstack.tls")
    if ssl is not None and tls is not None and ssl.SSLContext.sslsocket_class is tls.SSLSocket:
        out += [("ssl", "SSLContext.sslsocket_class"), ("ssl", "SSLSocket._create")]
    if os.sendfile is face.sendfile:
        out.append(("os", "sendfile"))
    return out


def stale_references() -> list[tuple[str, str]]:
    """``(module, name)`` where loaded modules still hold an original: they were imported before the patch."""
    originals = {id(value): name for name, value in _ORIGINALS.items()}
    mine = {"socket", __name__, face.__name__, "netstack.resolver.functions", "netstack.exporting", "netstack.tls"}
    found = []
    for module_name, module in list(sys.modules.items()):
        if module_name in mine or module is None:
            continue
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if id(value) in originals:
                found.append((module_name, name))
    return sorted(found)
