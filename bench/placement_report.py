"""What ``bench.placements`` found, as a table on the terminal, and as a table and a plot in the documents."""

from __future__ import annotations

import pathlib
import platform
from collections.abc import Sequence

HEADS = ("placement", "Gbit/s", "ratio", "CPU ns/KiB", "ratio", "switches/MiB", "64 B round trip, us", "ratio",
         "switches", "connections/s", "ratio")
BEGIN, END = "<!-- table: python -m bench.placements --docs docs -->", "<!-- end of the table -->"


def cells(record: dict) -> list[str]:
    """The cells of one line, in the order of `HEADS`."""
    def number(value, digits=3) -> str:
        if value is None:
            return "-"
        return f"{value:,.0f}" if value >= 1000 else f"{value:.{digits}g}"

    def ratio(one, name="ratio") -> str:
        found = one.get(name)
        return f"{found[0]:.2f} [{found[1]:.2f}-{found[2]:.2f}]" if found else "-"

    bulk, trip, connect = (record.get(test) or {} for test in ("bulk", "pingpong", "connect"))
    switches = bulk.get("switches")
    return [record["placement"], number(bulk.get("figure")), ratio(bulk), number(bulk.get("busy_ns")),
            ratio(bulk, "cost_ratio"), number(None if switches is None else switches * 1024),
            number(trip.get("figure")), ratio(trip), number(trip.get("switches")), number(connect.get("figure")),
            ratio(connect)]


def show(records: Sequence[dict]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*HEADS)
    for record in records:
        table.add_row(*cells(record))
    Console(width=max(Console().width, 200)).print(table)


def markdown(records: Sequence[dict]) -> str:
    lines = ["| " + " | ".join(HEADS) + " |", "|" + " --- |" * len(HEADS)]
    lines += ["| " + " | ".join(cells(record)) + " |" for record in records]
    return "\n".join(lines)


def publish(records: Sequence[dict], folder: pathlib.Path) -> None:
    """Put the table into ``placements.md``, between its marks, and the plot into ``placements.svg``.

    Raises
    ------
    ValueError
        The document has lost its marks.
    """
    document = folder / "placements.md"
    text = document.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document}: the marks of the table are missing ({BEGIN} ... {END})")
    machine = f"Linux {platform.release().partition('-')[0]}, {platform.machine()}; medians of all rounds."
    document.write_text(f"{before}{begin}\n{markdown(records)}\n\n{machine}\n{end}{after}")
    draw(records, folder / "placements.svg")


def draw(records: Sequence[dict], path: pathlib.Path) -> None:
    """Bars: how much better than the kernel's loopback, on a logarithmic scale."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    panels = (("bulk", "ratio", "throughput"), ("bulk", "cost_ratio", "CPU time per byte, both cores"),
              ("pingpong", "ratio", "64 B round trip"), ("connect", "ratio", "connections per second"))
    names = [r["placement"] for r in records]
    with pyplot.rc_context({"svg.hashsalt": "placements", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(1, len(panels), figsize=(15, 0.45 * len(names) + 1.2), sharey=True)
        for axis, (test, key, title) in zip(axes, panels, strict=True):
            for at, record in enumerate(records):
                found = (record.get(test) or {}).get(key)
                if not found:
                    continue
                middle, least, most = (1 / v for v in found) if key == "cost_ratio" else found
                least, most = min(least, most), max(least, most)
                axis.barh(at, middle - 1, left=1, color="tab:blue" if middle >= 1 else "tab:red")
                axis.plot([least, most], [at, at], color="black", linewidth=1)
            axis.axvline(1, color="black", linewidth=0.8)
            axis.set_xscale("log")
            axis.set_title(f"{title}\n(above 1: better than the kernel)", fontsize=9)
            axis.grid(axis="x", which="both", alpha=0.3)
        axes[0].set_yticks(range(len(names)), names, fontsize=8)
        axes[0].invert_yaxis()
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
