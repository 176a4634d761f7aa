"""``netstack top``: what the stacks of a router are doing, live."""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from netstack.cli.greedy import found_text
from netstack.cli.ps import describe, describe_uplink, uptime
from netstack.errors import NetstackError

if TYPE_CHECKING:
    from netstack.router.client import ControlClient
    from netstack.router.protocol import AttachmentInfo, UplinkInfo

FIRST_LOOK_S = 0.3        # the first screen shows this long
COUNTED = ("packets_from", "bytes_from", "packets_to", "bytes_to", "drops_from", "drops_to")
HELD_BACK = ("limited", "deferred")      # counted of stacks, not of uplinks; columns while somebody is
Row = dict[str, Any]

# Key, name of the order, what it sorts by; numbers come largest first.
ORDERS: dict[str, tuple[str, Callable[[Row], Any], bool]] = {
    "f": ("from", lambda row: row["bytes_from_s"], True),
    "t": ("to", lambda row: row["bytes_to_s"], True),
    "b": ("both", lambda row: row["bytes_from_s"] + row["bytes_to_s"], True),
    "d": ("drops", lambda row: row["drops_from_s"] + row["drops_to_s"], True),
    "w": ("waiting", lambda row: row["queued"], True),
    "u": ("up", lambda row: row["uptime_s"], True),
    "p": ("pid", lambda row: row["pid"], False),
    "c": ("command", lambda row: row["command"], False),
}
BY_NAME = {name: key for key, (name, _, _) in ORDERS.items()}
KEYS = "  ".join(f"{key} {name}" for key, (name, _, _) in ORDERS.items()) + "  r reverse  q quit"


@dataclass(frozen=True, slots=True)
class Look:
    """What a router said at one moment: attachments with what waits for each, and the sums of all."""

    time_s: float
    attachments: dict[int, tuple[AttachmentInfo, int]]
    total: dict[str, int]
    relayed: dict[str, int] = field(default_factory=dict)      # what the uplink ``user`` did; empty without one
    uplinks: dict[int, UplinkInfo] = field(default_factory=dict)


def look(client: ControlClient) -> Look:
    """Ask a router. Who goes meanwhile is left out."""
    from netstack.errors import NoRouterError, RouterError

    found = {}
    for info in client.attachments():
        try:
            found[info.id] = info, client.queued(info.id)
        except NoRouterError:
            raise
        except RouterError:
            client.ping()          # raises if it is the router that went
    uplinks = {info.number: info for info in client.uplinks()}
    return Look(time.monotonic(), found, client.counters(), client.relayed(), uplinks)


def rates(before: Look, now: Look) -> list[Row]:
    """A row for each attachment: as `netstack ps` tells it, ``queued``, and ``NAME_s``, events a second.

    The router's own clock measures the time between; one that came since the look before is measured from its start.
    """
    rows = []
    for ident, (info, queued) in now.attachments.items():
        row = describe(info) | {"queued": queued}
        earlier = before.attachments.get(ident)
        old = describe(earlier[0]) if earlier else dict.fromkeys(COUNTED + HELD_BACK, 0)
        took_s = (info.uptime_ns - (earlier[0].uptime_ns if earlier else 0)) / 1e9
        for name in COUNTED + HELD_BACK:
            row[f"{name}_s"] = round((row[name] - old[name]) / took_s, 1) if took_s > 0 else 0.0
        rows.append(row)
    return rows


def uplink_rates(before: Look, now: Look) -> list[Row]:
    """A row for each uplink: as `netstack ps` tells it, and ``NAME_s``, a second. One that is back counts anew."""
    took_s = max(now.time_s - before.time_s, 1e-9)
    rows = []
    for number, info in now.uplinks.items():
        row = describe_uplink(info)
        earlier = before.uplinks.get(number)
        same = earlier is not None and earlier.id == info.id
        old = describe_uplink(earlier) if same else dict.fromkeys(COUNTED, 0)
        rows.append(row | {f"{name}_s": round((row[name] - old[name]) / took_s, 1) for name in COUNTED})
    return rows


def totals(before: Look, now: Look) -> Row:
    """The whole router, those who are gone included: packets and drops a second, and what waits."""
    took_s = max(now.time_s - before.time_s, 1e-9)

    def rate(prefix: str) -> float:
        change = sum(value - before.total.get(name, 0) for name, value in now.total.items() if name.startswith(prefix))
        return round(change / took_s, 1)

    row: Row = {"packets_s": rate("out_packets"), "bytes_s": rate("out_bytes"), "drops_s": rate("drop_"),
                "queued": now.total.get("queued", 0)}
    if now.relayed:
        kinds = ("streams", "datagrams")
        row["uplink_user"] = {kind: now.relayed[kind] for kind in kinds} | {
            f"{name}_s": round((value - before.relayed.get(name, 0)) / took_s, 1)
            for name, value in now.relayed.items() if name not in kinds}
    return row


def troubles(relay: Row) -> str:
    """What the uplink ``user`` could not do, the most frequent first: ``2.0/s streams refused``."""
    fine = ("streams_opened", "streams_published_s", "bytes_", "datagrams_out", "datagrams_in", "datagrams_flows",
            "echoes_out", "echoes_in", "flows_idle")
    rest = sorted(((rate, name) for name, rate in relay.items()
                   if name.endswith("_s") and rate and not name.startswith(fine)), reverse=True)
    return "".join(f", {short(rate)}/s {name.removesuffix('_s').replace('_', ' ')}" for rate, name in rest[:3])


def ordered(rows: list[Row], key: str, reverse: bool) -> list[Row]:
    """By one of `ORDERS`; what is equal stays in the order of attaching."""
    _, value, largest_first = ORDERS[key]
    return sorted(rows, key=value, reverse=largest_first != reverse)


def short(value: float) -> str:
    """1234567 as 1.23M."""
    for unit in ("", "k", "M", "G"):
        if abs(value) < 999.5:
            return f"{value:.0f}{unit}" if not unit or value >= 99.95 else f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}T"


def table(rows: list[Row], title: str, caption: str | None = None):
    """The table for people. "From" is what the stack sent, "to" what it was sent; rates are per second."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    out = Table(title=Text(title), title_justify="left", caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
    left = ("address", "command")
    held_back = [name for name in HELD_BACK if any(row[f"{name}_s"] for row in rows)]
    found = any(any(row["greedy"].values()) for row in rows)
    for column in ("pid", "address", "from pkt/s", "bit/s", "to pkt/s", "bit/s", "drops/s from", "to",
                   *(f"{name}/s" for name in held_back), "waiting", *["greedy"] * found, "up", "command"):
        out.add_column(column, justify="left" if column in left else "right", no_wrap=True, overflow="ellipsis")
    for row in rows:
        places = [*row["addresses"], *row["blocks"]]
        more = f" +{len(places) - 1}" if len(places) > 1 else ""
        out.add_row(str(row["pid"]), (places or ["?"])[0] + more,
                    short(row["packets_from_s"]), short(8 * row["bytes_from_s"]),
                    short(row["packets_to_s"]), short(8 * row["bytes_to_s"]),
                    short(row["drops_from_s"]), short(row["drops_to_s"]),
                    *(short(row[f"{name}_s"]) for name in held_back), f"{row['queued']:,}",
                    *[found_text(row["greedy"])] * found, uptime(row["uptime_s"]), Text(row["command"]))
    return out


def uplink_table(rows: list[Row]):
    """Ways out. "From" is what came from outside, "to" what went there; rates are per second."""
    from rich import box
    from rich.table import Table

    out = Table(box=box.SIMPLE_HEAD)
    found = any(any(row["greedy"].values()) for row in rows)
    for column in ("uplink", "state", "from pkt/s", "bit/s", "to pkt/s", "bit/s", "drops/s", "waiting",
                   *["greedy"] * found):
        out.add_column(column, justify="left" if column in ("uplink", "state") else "right", no_wrap=True)
    for row in rows:
        out.add_row(row["uplink"], row["state"], short(row["packets_from_s"]), short(8 * row["bytes_from_s"]),
                    short(row["packets_to_s"]), short(8 * row["bytes_to_s"]),
                    short(row["drops_from_s"] + row["drops_to_s"]), f"{row['queued']:,}",
                    *[found_text(row["greedy"])] * found)
    return out


def screen(rows: list[Row], uplinks: list[Row], title: str, caption: str | None = None):
    """Stacks, and below them the uplinks, if there are any."""
    from rich.console import Group

    stacks = table(rows, title, caption)
    return Group(stacks, uplink_table(uplinks)) if uplinks else stacks


def heading(client: ControlClient, rows: list[Row], total: Row, key: str, reverse: bool) -> str:
    said = (f"router {client.name}, process {client.router_pid}: {len(rows)} stacks, "
            f"{short(total['packets_s'])} pkt/s, {short(8 * total['bytes_s'])}bit/s, "
            f"{short(total['drops_s'])} drops/s, {total['queued']:,} waiting; "
            f"by {ORDERS[key][0]}{', reversed' if reverse else ''}")
    relay = total.get("uplink_user")
    if relay:
        said += (f"\nuplink user: {relay['streams']:,} connections, {relay['datagrams']:,} UDP ports, "
                 f"{short(8 * relay['bytes_out_s'])}bit/s out, {short(8 * relay['bytes_in_s'])}bit/s in"
                 f"{troubles(relay)}")
    return said


@contextlib.contextmanager
def keyboard() -> Iterator[Callable[[float], str]]:
    """Keys as they are pressed: a function that waits for one, at most so many seconds; "" is none.

    Without a terminal at the input it only waits.
    """
    if not sys.stdin.isatty():
        yield lambda wait_s: time.sleep(wait_s) or ""
        return
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)

    def pressed(wait_s: float) -> str:
        if not select.select([fd], [], [], max(0.0, wait_s))[0]:
            return ""
        return os.read(fd, 1).decode("ascii", "replace") or "q"      # the terminal went

    try:
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def watch(client: ControlClient, key: str, reverse: bool, interval: float) -> None:
    """The live screen, until q."""
    from rich.console import Console
    from rich.live import Live

    with keyboard() as pressed, Live(console=Console(), screen=True, auto_refresh=False) as live:
        before = look(client)
        pause, now = min(FIRST_LOOK_S, interval), before
        rows: list[Row] = []
        uplinks: list[Row] = []
        total = totals(before, now)
        until = time.monotonic() + pause
        while True:
            what = pressed(until - time.monotonic())
            if what in ("q", "\x1b"):
                return
            if what in ORDERS:
                key, reverse = what, False
            elif what == "r":
                reverse = not reverse
            if time.monotonic() >= until:
                now = look(client)
                rows, uplinks, total = rates(before, now), uplink_rates(before, now), totals(before, now)
                before = now
                until = time.monotonic() + interval
            title = heading(client, rows, total, key, reverse)
            live.update(screen(ordered(rows, key, reverse), uplinks, title, KEYS), refresh=True)


def print_looks(client: ControlClient, key: str, reverse: bool, interval: float, count: int, as_json: bool) -> None:
    """One table (or JSON object, a line each) after another."""
    from rich.console import Console

    before = look(client)
    printed = 0
    while True:
        time.sleep(interval)
        now = look(client)
        rows, total = ordered(rates(before, now), key, reverse), totals(before, now)
        uplinks = uplink_rates(before, now)
        if as_json:
            click.echo(json.dumps({"router": client.name, **total, "stacks": rows, "uplinks": uplinks}))
        else:
            Console().print(screen(rows, uplinks, heading(client, rows, total, key, reverse)))
        sys.stdout.flush()
        before = now
        printed += 1
        if printed == count:
            return


@click.command()
@click.option("--name", default=None, help="The router (default: $NETSTACK_ROUTER, or 'default').")
@click.option("--interval", type=click.FloatRange(0.05, 3600), default=1.0, show_default=True, metavar="SECONDS",
              help="Between two looks; rates are over that time.")
@click.option("--sort", type=click.Choice(list(BY_NAME)), default="both", show_default=True, help="Order of the rows.")
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option("--once", is_flag=True, help="Print one table and end; for pipes.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="Print N tables, one after another.")
@click.option("--json", "as_json", is_flag=True, help="Print objects, one a line, instead of tables.")
def command(name, interval, sort, reverse, once, count, as_json):
    """Show what the stacks of a router send, receive and lose, and what waits for them, live.

    Keys sort: f what they send, t what they receive, b both, d drops, w packets that wait in the router for them,
    u time attached, p process, c command; r turns the order round, q ends. Without a terminal tables follow one
    another.
    """
    from netstack.router.client import ControlClient

    try:
        with ControlClient(name) as client:
            if once or count or as_json or not sys.stdout.isatty():
                print_looks(client, BY_NAME[sort], reverse, interval, 1 if once else count or 0, as_json)
            else:
                watch(client, BY_NAME[sort], reverse, interval)
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        raise                      # nobody reads: click ends the program quietly
    except (NetstackError, OSError) as error:
        raise click.ClickException(getattr(error, "strerror", None) or str(error)) from error
