"""A TCP/IP stack that lives in the process that uses it."""

from __future__ import annotations

__version__ = "0.1.0"
