"""A TCP/IP stack that lives in the process that uses it."""

from __future__ import annotations

__version__ = "0.1.0"


def get_include() -> str:
    """Directory of the C headers (``netstack/inet_checksum.h``, ...), for compilers.

    Declarations for cimport are found through the package itself.
    """
    import os

    return os.path.join(os.path.dirname(__file__), "include")
