"""``netstack route``: what a router does with addresses that no stack has."""

from __future__ import annotations

import itertools
import json

import click

from netstack.errors import NetstackError

NAME = click.option("--name", default=None, help="The router (default: $NETSTACK_ROUTER, or 'default').")


def written(prefix: str, words: tuple[str, ...]) -> str:
    """``PREFIX via A dev U`` as `netstack.router.static_routes.Route` reads it."""
    if len(words) % 2 or any(word not in ("via", "dev") for word in words[::2]):
        raise click.UsageError("write PREFIX [via GATEWAY] [dev UPLINK]")
    return ",".join([prefix, *(f"{key}={value}" for key, value in zip(words[::2], words[1::2], strict=True))])


def describe(route) -> dict:
    """One route as plain values."""
    return {
        "network": str(route.network),
        "gateway": str(route.gateway) if route.gateway is not None else None,
        "device": route.device or None,
        "attachment": route.attachment or None,
        "kind": route.kind,
        "lost": route.lost,
    }


def asked(name: str | None, what):
    """A question to the router, its complaints as the command's own."""
    from netstack.router.client import ControlClient

    try:
        with ControlClient(name) as client:
            return what(client)
    except (NetstackError, OSError, ValueError) as error:
        raise click.ClickException(getattr(error, "strerror", None) or str(error)) from error


def show(name: str | None, as_json: bool, most: int | None) -> None:
    routes = asked(name, lambda client: list(itertools.islice(client.routes(), most)))
    if as_json:
        click.echo(json.dumps([describe(route) for route in routes], indent=2))
    else:
        for route in routes:
            click.echo(str(route))


@click.group(invoke_without_command=True)
@NAME
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
@click.option("-n", "most", type=click.IntRange(1), metavar="N", help="The first N only.")
@click.pass_context
def command(ctx, name, as_json, most):
    """Show the routes of a router, or change them.

    Packets go by the longest prefix. "default" is the first uplink, as long as no route says otherwise; "link" the
    network of an uplink, "pool" what the router hands out, "attachment" who has a block of its own.

    \b
    netstack route add 198.51.100.0/24 via 192.0.2.9 dev tap1
    netstack route del 198.51.100.0/24
    """
    if ctx.invoked_subcommand is None:
        show(name, as_json, most)


@command.command("list")
@NAME
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
@click.option("-n", "most", type=click.IntRange(1), metavar="N", help="The first N only.")
def list_routes(name, as_json, most):
    """Show the routes."""
    show(name, as_json, most)


@command.command("add")
@NAME
@click.argument("prefix", metavar="PREFIX|default")
@click.argument("words", nargs=-1, metavar="[via GATEWAY] [dev UPLINK]")
def add(name, prefix, words):
    """Add a route; only the router's owner may.

    Without a gateway the uplink's own takes packets on, or whoever has the address. Without an uplink it is the one on
    whose network the gateway is.
    """
    asked(name, lambda client: client.add_route(written(prefix, words)))


@command.command("del")
@NAME
@click.argument("prefix", metavar="PREFIX|default")
def remove(name, prefix):
    """Remove a route that was added; only the router's owner may."""
    asked(name, lambda client: client.remove_route("0.0.0.0/0" if prefix == "default" else prefix))
