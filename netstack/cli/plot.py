"""``netstack plot``: a connection's cwnd, ssthresh, round-trip time and time-sequence graph, as PNG or SVG."""

from __future__ import annotations

import os

import click

KIB = 1024


def _lines(axes, segments, gid: str, **style):
    """Many short lines as one object: (t0, y0, t1, y1) each."""
    from matplotlib.collections import LineCollection

    lines = LineCollection([((a, b), (c, d)) for a, b, c, d in segments], **style)
    lines.set_gid(gid)
    axes.add_collection(lines)


def _curve(axes, series, gid: str, *, unit: float = 1, steps: bool = True, **style):
    line, = axes.plot(series.t, [y / unit for y in series.y], drawstyle="steps-post" if steps else "default", **style)
    line.set_gid(gid)


def draw_sequence(axes, flow) -> None:
    """Time-sequence graph as tcptrace draws it: segments between the line acknowledged and the window's end."""
    first = [s for s in flow.sent if not s.again]
    again = [s for s in flow.sent if s.again]
    _lines(axes, [(s.t, s.start / KIB, s.t, s.end / KIB) for s in first], "segments", colors="black", label="sent")
    if again:
        _lines(axes, [(s.t, s.start / KIB, s.t, s.end / KIB) for s in again], "retransmissions", colors="red",
               linewidths=2, label="sent again")
    if flow.sacks:
        _lines(axes, [(t, a / KIB, t, b / KIB) for t, a, b in flow.sacks], "sacks", colors="purple", label="SACK")
    if len(flow.acked):
        _curve(axes, flow.acked, "acknowledged", unit=KIB, color="green", linewidth=1, label="acknowledged")
        _curve(axes, flow.window, "window", unit=KIB, color="goldenrod", linewidth=1, label="window")
    top = max(max(s.end for s in flow.sent), max(flow.acked.y, default=0)) / KIB
    axes.autoscale_view()
    axes.set_ylim(-0.02 * top, 1.15 * top)               # the window may lie far above what is interesting
    axes.set_ylabel("sequence (KiB)")
    axes.legend(loc="upper left", fontsize="small")


def draw_window(axes, flow) -> None:
    """cwnd and ssthresh, where the trace has them, and what was in flight."""
    if len(flow.flight):
        _curve(axes, flow.flight, "flight", unit=KIB, color="lightsteelblue", linewidth=1, label="in flight")
    if len(flow.cwnd):
        _curve(axes, flow.cwnd, "cwnd", unit=KIB, color="tab:blue", label="cwnd")
    if len(flow.ssthresh):
        _curve(axes, flow.ssthresh, "ssthresh", unit=KIB, color="tab:orange", linestyle="--", label="ssthresh")
    axes.set_ylabel("KiB")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", fontsize="small")


def draw_rtt(axes, flow) -> None:
    """Round-trip times: samples, and the stack's smoothed one."""
    if len(flow.rtt):
        line, = axes.plot(flow.rtt.t, flow.rtt.y, ".", markersize=3, color="gray", label="samples")
        line.set_gid("rtt")
    if len(flow.srtt):
        _curve(axes, flow.srtt, "srtt", color="tab:red", label="srtt")
    axes.set_ylabel("round trip (ms)")
    axes.set_ylim(bottom=0)
    if len(flow.rtt) or len(flow.srtt):
        axes.legend(loc="upper left", fontsize="small")


PANELS = {"sequence": draw_sequence, "window": draw_window, "rtt": draw_rtt}


def draw(flow, panels=tuple(PANELS), *, title: str | None = None, size: tuple[float, float] = (10, 9)):
    """A matplotlib figure of one flow.

    Parameters
    ----------
    flow : netstack.cli.flows.Flow
        What to draw.
    panels : iterable of str
        Which graphs: ``"sequence"``, ``"window"``, ``"rtt"``.

    Raises
    ------
    ImportError
        matplotlib is not installed (``pip install netstack[plot]``).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, name in zip(axes, panels, strict=True):
        PANELS[name](axis, flow)
        axis.grid(alpha=0.3)
        axis.set_gid(f"panel-{name}")
    axes[-1].set_xlabel("time (s)")
    figure.suptitle(title or flow.name)
    return figure


def _output(file: str, output: str | None) -> str:
    out = output or os.path.splitext(os.path.basename(file))[0] + ".png"
    if os.path.splitext(out)[1].lower() not in (".png", ".svg"):
        raise click.ClickException(f"{out}: write a .png or .svg file")
    return out


@click.command("plot")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("-o", "--output", metavar="FILE",
              help="What to write, .png or .svg. Default: FILE's name with .png, here.")
@click.option("--flow", "number", type=click.IntRange(min=1), default=1, metavar="N",
              help="Which flow, as --list numbers them. Default: the one with the most bytes.")
@click.option("--list", "listing", is_flag=True, help="List the flows and draw nothing.")
@click.option("--panel", "panels", multiple=True, type=click.Choice(tuple(PANELS)),
              help="Only this graph; may be given more than once.")
def command(file, output, number, listing, panels) -> None:
    """Draw a connection of FILE: a capture (pcap, pcapng) or a trace of a stack.

    Its time-sequence graph as tcptrace's, bytes in flight and round-trip times; of a trace also cwnd, ssthresh and the
    smoothed round-trip time. Needs the extra: pip install netstack[plot].

    \b
    netstack plot transfer.trace -o transfer.svg
    netstack plot capture.pcapng --list
    """
    try:
        from netstack.cli.flows import read

        flows = read(file)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    except ImportError as error:
        raise click.ClickException(f"{error}: pip install netstack[plot]") from None
    if listing:
        for i, flow in enumerate(flows, 1):
            click.echo(f"{i:3} {flow.name:50} {flow.payload:>12,} bytes in {len(flow.sent):,} segments, "
                       f"{sum(s.again for s in flow.sent):,} sent again")
        return
    if number > len(flows):
        raise click.ClickException(f"{file}: {len(flows)} flows with data" if flows else f"{file}: no TCP data in it")
    out = _output(file, output)
    try:
        figure = draw(flows[number - 1], panels or tuple(PANELS))
    except ImportError as error:
        raise click.ClickException(f"{error}: pip install netstack[plot]") from None
    figure.savefig(out)
    click.echo(out)
