"""``--publish``: ports of the machine that are stacks', for the uplink ``user``."""

from __future__ import annotations

import click

published = click.option(
    "--publish",
    multiple=True,
    metavar="[tcp:|udp:]HOST:PORT:ADDRESS:PORT",
    help="Give a port of the machine to a stack: 127.0.0.1:8080:10.77.0.2:80. With --uplink user. Repeatable.",
)


def with_published(uplinks: tuple[str, ...], publish: tuple[str, ...]) -> tuple[str, ...]:
    """The uplinks, ``user`` among them with these ports.

    Raises
    ------
    click.UsageError
        No uplink could serve them.
    """
    if not publish:
        return uplinks
    if not any(text.split(",")[0] == "user" for text in uplinks):
        raise click.UsageError("--publish needs --uplink user, which takes what arrives at the machine's ports")
    options = "".join(f",publish={each}" for each in publish)
    return tuple(text + options if text.split(",")[0] == "user" else text for text in uplinks)
