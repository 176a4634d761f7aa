"""``netstack doctor``: what this machine offers to stacks."""

from __future__ import annotations

import json

import click

STYLES = {"ok": "green", "limited": "yellow", "missing": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
def command(as_json):
    """Show which links, privileges and CPU features this machine offers, and what to do about each that is missing.

    Nothing is changed. The exit code is 0 whatever is missing: no program needs everything.
    """
    from dataclasses import asdict

    from netstack.cli.machine import examine

    checks = examine()
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=2))
        return
    group = None
    for check in checks:
        if check.group != group:
            group = check.group
            click.echo(click.style(group, bold=True))
        mark = click.style(f"{check.state:8}", fg=STYLES[check.state])
        click.echo(f"  {mark} {check.name:22} {check.found}")
        if check.advice:
            click.echo(f"  {'':8} {'':22} > {check.advice}")
