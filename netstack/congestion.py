"""Congestion control in Python: a class, a name, and every connection may use it.

An algorithm is told once per round trip, or per batch of acknowledgements, what happened, and says how large
the window should be. It is never called for a segment: the compiled core folds what it sees into a `Report`,
keeps the window between two reports, cuts it at once when something is lost, and holds every answer inside its
guard rails: one segment at least, no growth that acknowledgements have not paid for. An algorithm that raises is
logged once, and its connection goes on with the default one.

Packages offer algorithms by an entry point of the group ``netstack.congestion``; they are loaded when somebody asks for
their name.
"""

from __future__ import annotations

import logging
from typing import Protocol, TypeVar, runtime_checkable

from netstack.tcp.congestion.plugin import Connection, Decision, Report, is_known, register_class

__all__ = ["Algorithm", "Connection", "Decision", "Report", "find", "register"]

GROUP = "netstack.congestion"
log = logging.getLogger(GROUP)


@runtime_checkable
class Algorithm(Protocol):
    """What an algorithm has; any class with these serves.

    ``__init__`` gets a `Connection`. Two class attributes are optional:

    ``beta`` : float
        What is left of the window, at once, after a loss or ECN; 0.5 without it. `on_report` may say otherwise.
    ``per_ack`` : bool
        Report every batch of acknowledgements instead of every round trip.
    """

    def on_report(self, report: Report) -> float | Decision | None:
        """The window wanted, in bytes; or a `Decision`; or None: as it is."""


A = TypeVar("A", bound=type)


def register(name: str, algorithm: A | None = None):
    """Make an algorithm known by name: for ``stack.set``, ``TCP_CONGESTION`` and everything else that takes one.

    A name that was registered from Python before means the new class from now on. Works as a decorator.

    Parameters
    ----------
    name : str
        1 to 15 ASCII characters.
    algorithm : type, optional
        A class with the methods of `Algorithm`.

    Raises
    ------
    ValueError
        The name cannot be, or a compiled algorithm has it; ``beta`` is not between 0 and 1.
    TypeError
        It is no class with ``on_report``.

    Examples
    --------
    >>> @register("half-bdp")
    ... class HalfBdp:
    ...     def __init__(self, connection): ...
    ...     def on_report(self, report):
    ...         return report.delivery_rate * report.base_rtt_ns / 2e9
    """
    if algorithm is None:
        return lambda cls: register(name, cls)
    if not isinstance(algorithm, type) or not callable(getattr(algorithm, "on_report", None)):
        raise TypeError(f"congestion control {name!r}: a class with a method on_report(report), not {algorithm!r}")
    register_class(name, algorithm, float(getattr(algorithm, "beta", 0.5)), bool(getattr(algorithm, "per_ack", False)))
    return algorithm


def find(name: str | bytes) -> bool:
    """Whether there is an algorithm of that name; one that only a package's entry point offers is loaded.

    A package that fails to load is logged and counts as none.
    """
    text = name.encode() if isinstance(name, str) else bytes(name).split(b"\0")[0][:15]
    if not text or not text.isascii() or is_known(text):
        return bool(text) and is_known(text)
    from importlib.metadata import entry_points

    for point in entry_points(group=GROUP, name=text.decode()):
        try:
            register(point.name, point.load())
        except Exception:  # noqa: BLE001 - a broken package must not break a socket option
            log.exception("congestion control %s of %s cannot be loaded", point.name, point.value)
            continue
        break
    return is_known(text)
