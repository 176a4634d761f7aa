"""``netstack limit``: what a stack may send through a router."""

from __future__ import annotations

import json

import click

from netstack.cli.capture import find_attachment
from netstack.cli.limits import limits
from netstack.errors import NetstackError


def describe(found: tuple[int, int, int, int]) -> dict:
    """A limit as plain values."""
    bytes_s, packets_s, bytes_once, packets_once = found
    return {
        "rate_bits_s": 8 * bytes_s if bytes_s else None,
        "packets_s": packets_s or None,
        "burst_bytes": bytes_once if bytes_s else None,
        "burst_packets": packets_once if packets_s else None,
    }


def sentence(limit: dict) -> str:
    """A limit as people read it."""
    said = []
    if limit["rate_bits_s"]:
        said.append(f"{limit['rate_bits_s']:,} bit/s, {limit['burst_bytes']:,} bytes at once")
    if limit["packets_s"]:
        said.append(f"{limit['packets_s']:,} packets/s, {limit['burst_packets']:,} at once")
    return "; ".join(said) or "no limit"


@click.command()
@click.argument("target", metavar="ADDRESS|PID|ID")
@click.option("--name", default=None, help="The router (default: $NETSTACK_ROUTER, or 'default').")
@limits("what it sends")
@click.option("--none", "unlimited", is_flag=True, help="Take its limit away.")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
def command(target, name, limit, unlimited, as_json):
    """Show what the attachment of an address, a process or a number may send, or change it.

    What a stack has beyond its limit waits in its own ring: nothing is lost, and nobody else notices. Only the router's
    owner may change it.

    \b
    netstack limit 10.77.0.2
    netstack limit 10.77.0.2 --rate 10mbit --packets 2000
    netstack limit 10.77.0.2 --none
    """
    from netstack.router.client import ControlClient

    if unlimited and limit is not None:
        raise click.UsageError("--none takes the limit away: not with another one")
    try:
        with ControlClient(name) as client:
            found = find_attachment(client.attachments(), target)
            if unlimited or limit is not None:
                now = describe(client.set_limit(found["id"], limit))
            else:
                now = describe(client.limit(found["id"]))
    except (NetstackError, OSError) as error:
        raise click.ClickException(getattr(error, "strerror", None) or str(error)) from error
    if as_json:
        click.echo(json.dumps({"id": found["id"], "addresses": found["addresses"], **now}))
    else:
        click.echo(f"{(found['addresses'] or [str(found['id'])])[0]}: {sentence(now)}")
