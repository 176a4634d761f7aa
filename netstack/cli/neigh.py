"""``netstack neigh``: the neighbour tables of running stacks, as ``ip neigh`` shows the kernel's."""

from __future__ import annotations

import json

import click

SILENT = ("INCOMPLETE", "FAILED")


def line(stack, neighbor, statistics: bool) -> str:
    """One entry in the words of ip-neighbour(8). Interfaces have numbers in a stack: ``if1`` is its first."""
    words = [neighbor.address, f"dev if{neighbor.interface}"]
    if neighbor.mac and neighbor.state not in SILENT:
        words.append(f"lladdr {neighbor.mac}")
    if statistics:
        used, confirmed = ("never" if ms is None else f"{ms / 1000:.0f}" for ms in
                           (neighbor.used_ms, neighbor.confirmed_ms))
        words.append(f"used {used}/{confirmed} probes {neighbor.probes} queued {neighbor.queued}")
    return " ".join([*words, neighbor.state, f'users:(("{stack.command}",pid={stack.pid}))'])


@click.command("neigh")
@click.argument("address", required=False)
@click.option("-4", "four", is_flag=True, help="IPv4 only.")
@click.option("-6", "six", is_flag=True, help="IPv6 only.")
@click.option("-s", "--statistics", is_flag=True, help="Seconds since use and since the last answer, and questions.")
@click.option("--nud", metavar="STATE", help="Only entries in this state, reachable for example.")
@click.option("--pid", type=int, metavar="N", help="Only the stacks of one process.")
@click.option("--json", "json_output", is_flag=True, help="Print a list of objects, a stack each.")
def command(address, four, six, statistics, nud, pid, json_output) -> None:
    """Show whom the stacks of your processes know on their links; with ADDRESS, that neighbour.

    Only stacks on Ethernet have neighbours: behind a router of `netstack router` there are none.
    """
    from dataclasses import asdict

    from netstack.cli.attaching import plain_target
    from netstack.errors import NetstackError
    from netstack.reports import NEIGHBOR_STATES
    from netstack.stacks import stacks

    if nud is not None and nud.upper() not in NEIGHBOR_STATES.values():
        raise click.BadParameter(f"one of {', '.join(NEIGHBOR_STATES.values())}", param_hint="--nud")
    try:
        running = [s for s in stacks() if pid in (None, s.pid)]
    except NetstackError as error:
        raise click.ClickException(str(error)) from None

    def wanted(neighbor) -> bool:
        if four != six and (":" in neighbor.address) != six:
            return False
        if address is not None and neighbor.address != plain_target(address).partition("%")[0]:
            return False
        return nud is None or neighbor.state == nud.upper()

    if json_output:
        found = [{"pid": s.pid, "command": s.command, "neighbors": [asdict(n) for n in s.neighbors if wanted(n)]}
                 for s in running]
        click.echo(json.dumps(found, indent=2))
        return
    for stack in running:
        for neighbor in filter(wanted, stack.neighbors):
            click.echo(line(stack, neighbor, statistics))
