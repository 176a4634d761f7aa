"""The options of a limit on what stacks send, for commands that have one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click


def limits(what: str, *, prefix: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--[PREFIX]rate``, ``--[PREFIX]packets``, ``--[PREFIX]burst``; the command gets ``limit``, None without any."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.option(f"--{prefix}rate", "limit_rate", metavar="RATE",
                      help=f"Limit {what} to so many bits a second, e.g. 100mbit; the rest waits in its ring.")
        @click.option(f"--{prefix}packets", "limit_packets", type=int, metavar="N", help="To so many packets a second.")
        @click.option(f"--{prefix}burst", "limit_burst", metavar="TIME",
                      help="What may go at once: as much as comes in so long (10ms), at least one packet.")
        @functools.wraps(command)
        def wrapped(*, limit_rate, limit_packets, limit_burst, **values):
            from netstack.errors import ConfigError
            from netstack.router.limits import Limit

            try:
                limit = Limit.of({"rate": limit_rate, "packets": limit_packets, "burst": limit_burst})
            except ConfigError as error:
                raise click.UsageError(str(error)) from None
            return command(limit=limit, **values)

        return wrapped

    return decorate
