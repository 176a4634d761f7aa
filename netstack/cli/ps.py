"""``netstack ps``: who is attached to a router, and its ways out."""

from __future__ import annotations

import json

import click

from netstack.cli.greedy import found_text
from netstack.errors import NetstackError
from netstack.router.greedy import MISDEEDS

STATES = {1: "active", 2: "failed", 3: "held"}


def describe(info) -> dict:
    """One attachment as plain values."""
    from netstack.router.pool import format_address

    return {
        "id": info.id,
        "pid": info.pid,
        "uid": info.uid,
        "command": info.command,
        "addresses": [format_address(a) for a in info.addresses],
        "blocks": [str(block) for block in info.blocks],
        "state": STATES.get(info.state, str(info.state)),
        "epoch": info.epoch,
        "mtu": info.mtu,
        "packets_from": info.packets_in,
        "bytes_from": info.bytes_in,
        "packets_to": info.packets_out,
        "bytes_to": info.bytes_out,
        "drops_from": info.drops_in,
        "drops_to": info.drops_out,
        "uptime_s": round(info.uptime_ns / 1e9, 3),
        "limit_bits_s": 8 * info.limit_bytes_s or None,
        "limit_packets_s": info.limit_packets_s or None,
        "limited": info.limited,
        "deferred": info.deferred,
        "greedy": dict(zip(MISDEEDS, info.greedy, strict=True)),
    }


def describe_uplink(info) -> dict:
    """One uplink as plain values."""
    return {
        "uplink": info.name if info.name == info.kind else f"{info.kind}:{info.name}",
        "state": "up" if info.id else "lost",
        "id": info.id,
        "mtu": info.mtu,
        "packets_from": info.packets_in,
        "bytes_from": info.bytes_in,
        "packets_to": info.packets_out,
        "bytes_to": info.bytes_out,
        "drops_from": info.drops_in,
        "drops_to": info.drops_out,
        "queued": info.queued,
        "greedy": dict(zip(MISDEEDS, info.greedy, strict=True)),
    }


def uptime(seconds: float) -> str:
    """Short: 42s, 3m10s, 2h05m, 4d03h."""
    s = int(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h{s // 60 % 60:02d}m"
    return f"{s // 86400}d{s // 3600 % 24:02d}h"


def limit_text(row: dict) -> str:
    """What a stack may send: a line for bits, one for packets; empty without a limit."""
    kinds = (("limit_bits_s", "bit/s"), ("limit_packets_s", "pkt/s"))
    return "\n".join(f"{row[key]:,} {unit}" for key, unit in kinds if row.get(key))


def table(rows: list[dict], title: str):
    """The table for people. "From" is what the stack sent, "to" what it was sent."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    out = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    left = ("addresses", "command")
    limits = [limit_text(row) for row in rows]
    with_limits = any(limits)
    found = [found_text(row["greedy"]) for row in rows]
    for column in ("pid", "addresses", "packets from", "to", "drops from", "to", *["limit"] * with_limits,
                   *["greedy"] * any(found), "up", "command"):
        out.add_column(
            column,
            justify="left" if column in left else "right",
            no_wrap=column != "command",
            overflow="ellipsis",
        )
    for row, limit, misdeeds in zip(rows, limits, found, strict=True):
        out.add_row(
            str(row["pid"]),
            "\n".join((*row["addresses"], *row["blocks"])),
            f"{row['packets_from']:,}",
            f"{row['packets_to']:,}",
            f"{row['drops_from']:,}",
            f"{row['drops_to']:,}",
            *[limit] * with_limits,
            *[misdeeds] * any(found),
            uptime(row["uptime_s"]),
            Text(row["command"]),              # others' words are no markup
        )
    return out


def uplink_table(rows: list[dict]):
    """The table of ways out. "From" is what came from outside, "to" what went there."""
    from rich import box
    from rich.table import Table

    out = Table(box=box.SIMPLE_HEAD)
    found = [found_text(row["greedy"]) for row in rows]
    for column in ("uplink", "state", "packets from", "to", "drops from", "to", "waiting", "mtu",
                   *["greedy"] * any(found)):
        out.add_column(column, justify="left" if column in ("uplink", "state") else "right", no_wrap=True)
    for row, misdeeds in zip(rows, found, strict=True):
        numbers = (row[key] for key in ("packets_from", "packets_to", "drops_from", "drops_to", "queued", "mtu"))
        out.add_row(row["uplink"], row["state"], *(f"{n:,}" for n in numbers), *[misdeeds] * any(found))
    return out


@click.command()
@click.option("--name", default=None, help="The router (default: $NETSTACK_ROUTER, or 'default').")
@click.option("--uplinks", "uplinks_only", is_flag=True, help="Show its uplinks only.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects: the stacks, or the uplinks.")
def command(name, uplinks_only, as_json):
    """Show who is attached to a router, and its uplinks: process, addresses and blocks, packets and drops."""
    from netstack.router.client import ControlClient

    try:
        with ControlClient(name) as client:
            rows = [describe(info) for info in client.attachments()]
            uplinks = [describe_uplink(info) for info in client.uplinks()]
            title = f"router {client.name}, process {client.router_pid}"
    except (NetstackError, OSError) as error:
        raise click.ClickException(getattr(error, "strerror", None) or str(error)) from error
    if as_json:
        click.echo(json.dumps(uplinks if uplinks_only else rows, indent=2))
        return
    if not uplinks_only and not rows:
        click.echo(f"{title}: nobody is attached")
    if uplinks_only and not uplinks:
        click.echo(f"{title}: no uplinks")
    if (rows and not uplinks_only) or uplinks:
        from rich.console import Console

        if rows and not uplinks_only:
            Console().print(table(rows, title))
        if uplinks:
            Console().print(uplink_table(uplinks))
