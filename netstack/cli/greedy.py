"""``netstack greedy``: what a router does about TCPs that misbehave."""

from __future__ import annotations

import json

import click

from netstack.errors import NetstackError
from netstack.router.greedy import POLICIES


def found_text(found: dict[str, int]) -> str:
    """Connections by misdeed, a line each; empty where nobody was found."""
    return "\n".join(f"{n:,} {what}" for what, n in found.items() if n)


@click.command()
@click.argument("policy", type=click.Choice(POLICIES), required=False)
@click.option("--name", default=None, help="The router (default: $NETSTACK_ROUTER, or 'default').")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
def command(policy, name, as_json):
    """Show what a router does about TCPs that misbehave and how many it found, or change what it does.

    Only the router's owner may change it. Connections that were open before anybody was watched are judged by little.
    Who was found of what: netstack ps.

    \b
    netstack greedy
    netstack greedy count
    netstack greedy off
    """
    from netstack.router.client import ControlClient

    try:
        with ControlClient(name) as client:
            now, found = client.set_greedy(policy) if policy else client.greedy()
    except (NetstackError, OSError) as error:
        raise click.ClickException(getattr(error, "strerror", None) or str(error)) from error
    if as_json:
        click.echo(json.dumps({"policy": now, "found": found}))
    else:
        click.echo(f"{now}: found {found_text(found).replace(chr(10), ', ') or 'nobody'}")
