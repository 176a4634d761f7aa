"""The options of a bad link, for commands that have one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click


def bad_link(where: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--delay``, ``--jitter``, ``--rate``, ``--loss``, ``--queue``, ``--seed``; the command gets ``emulation``."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.option("--delay", metavar="TIME", help=f"Emulate a bad link {where}: so late each way, e.g. 5ms.")
        @click.option("--jitter", metavar="TIME", help="Up to so much later; the order stays.")
        @click.option("--rate", metavar="RATE", help="Bits per second each way, e.g. 10mbit.")
        @click.option("--loss", metavar="P", help="Part of the packets lost each way, e.g. 0.01 or 1%.")
        @click.option("--queue", type=int, metavar="N", help="Packets that may wait for the rate (1000).")
        @click.option("--seed", type=int, metavar="N", help="Of the losses and the jitter. Default: random.")
        @functools.wraps(command)
        def wrapped(*, delay, jitter, rate, loss, queue, seed, **values):
            from netstack.errors import ConfigError
            from netstack.link.emulation import Emulation

            try:
                emulation = Emulation.of({"delay": delay, "jitter": jitter, "rate": rate, "loss": loss, "queue": queue,
                                          "seed": seed})
            except ConfigError as error:
                raise click.UsageError(str(error)) from None
            return command(emulation=emulation, **values)

        return wrapped

    return decorate
