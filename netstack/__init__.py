"""A TCP/IP stack that lives in the process that uses it."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

# Loaded on first use: importing the package alone costs nothing.
_LAZY = {
    "Host": ("netstack.host", "Host"),
    "attach": ("netstack.host", "attach"),
    "patch": ("netstack.patching", "patch"),
    "patched": ("netstack.patching", "replaced"),
    "stale_references": ("netstack.patching", "stale_references"),
    "ResolverConfig": ("netstack.config", "ResolverConfig"),
    "Router": ("netstack.router", "Router"),
    "Stack": ("netstack.stack", "Stack"),
    "aio": ("netstack.aio", None),
    "key_log": ("netstack.key_log", None),
    "link": ("netstack.link", None),
    "socket": ("netstack.socket", None),
    "testing": ("netstack.testing", None),
    "tls": ("netstack.tls", None),
}

__all__ = sorted([*_LAZY, "__version__", "get_include"])


def __getattr__(name: str):
    try:
        module, attribute = _LAZY[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    found = importlib.import_module(module)
    value = found if attribute is None else getattr(found, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


def get_include() -> str:
    """Directory of the C headers (``netstack/inet_checksum.h``, ...), for compilers.

    Declarations for cimport are found through the package itself.
    """
    import os

    return os.path.join(os.path.dirname(__file__), "include")
