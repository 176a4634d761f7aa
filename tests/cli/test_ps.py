"""What `netstack ps` shows of processes that chose their own command lines."""

import io

from rich.console import Console

from netstack.cli.ps import table


def test_a_command_line_is_shown_as_it_is():
    row = {"pid": 7, "addresses": ["10.77.0.2"], "blocks": ["10.77.4.0/26"], "packets_from": 1, "packets_to": 2,
           "drops_from": 0, "drops_to": 0, "uptime_s": 3, "greedy": {}, "command": "[red]prog[/red] [/] \\[x]"}
    console = Console(file=io.StringIO(), width=200)
    console.print(table([row], "router"))
    assert row["command"] in console.file.getvalue() and "10.77.4.0/26" in console.file.getvalue()
