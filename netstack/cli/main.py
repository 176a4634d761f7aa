"""The command group: each command is a module of its own, imported when it is called.

``netstack ping`` imports `netstack.cli.ping` and runs its function ``command``; the help of the group needs
none of them, so a broken or heavy command costs the others nothing.
"""

from __future__ import annotations

import importlib

import click

import netstack

COMMANDS = {
    "capture": "Capture the packets of an attachment of a router.",
    "daemon": "Run a stack for other programs in the foreground.",
    "demo": "Transfer a file between two programs with a stack each.",
    "doctor": "Show what this machine offers, and what to do about what is missing.",
    "greedy": "Show and change what a router does about TCPs that misbehave.",
    "limit": "Show and change what a stack may send through a router.",
    "lookup": "Ask name servers from a stack of its own.",
    "neigh": "Show the neighbours of running stacks.",
    "ping": "Send echo requests from a stack of its own.",
    "plot": "Draw a connection of a trace or a capture.",
    "proxy": "Let other programs use a stack through SOCKS5.",
    "ps": "Show who is attached to a router.",
    "route": "Show and change the routes of a router.",
    "router": "Run a router in the foreground.",
    "run": "Run an unmodified Python program on a stack of its own.",
    "ss": "Show the sockets of running stacks.",
    "top": "Show what the stacks of a router are doing, live.",
    "traceroute": "Show the way to a host from a stack of its own.",
}


class Commands(click.Group):
    """Commands by name, loaded from ``netstack.cli.NAME`` when needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"netstack.cli.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]):
        try:
            return super().resolve_command(ctx, args)
        except ImportError as error:
            raise click.ClickException(f"netstack {args[0]} cannot start: {error}") from error


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(netstack.__version__, prog_name="netstack")
def main() -> None:
    """A TCP/IP stack that lives in the process that uses it."""


if __name__ == "__main__":
    main(prog_name="netstack")
