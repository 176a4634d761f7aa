"""TCP on a bad network in real time: goodput under loss, and a bottleneck shared with a flow of the kernel."""

from __future__ import annotations

from bench import lossy
from bench.measure import Contestant, Row, Settings, python_program

GOODPUT = "goodput at 0.1 / 1 / 3 % loss, 20 ms RTT"
SHARE = "share against a kernel CUBIC flow on one bottleneck"
LOSSES = (0.001, 0.01, 0.03)


def goodput(sender, receiver, congestion, loss):
    """A contestant: eight flows from one stack to the other; the same losses for all contestants of a round."""
    def run(settings: Settings):
        return python_program("bench.lossy", "run", function="goodput", sender=sender, receiver=receiver,
                              congestion=congestion, loss=loss, seed=settings.turn, seconds=7.5 * settings.seconds)
    return run


def share(first, second):
    """A contestant: Jain's index of two flows through one bottleneck."""
    def run(settings: Settings):
        return python_program("bench.lossy", "run", function="share", first=first, second=second,
                              seed=settings.turn, seconds=25 * settings.seconds)["jain"]
    return run


def default():
    try:
        return lossy.algorithm()
    except ImportError:                                # not built: every contestant will say so
        return lossy.ALGORITHMS[0]


def rows():
    name = default()

    def kernel(loss, congestion=name):
        return (Contestant(f"kernel to kernel, {congestion}", goodput("kernel", "kernel", congestion, loss)),)

    def between(first, second):
        return Contestant(" and ".join(f"{who} {cc}" for who, cc in (first, second)), share(first, second))

    def shared(suffix, mine, theirs, **gates):
        return Row(SHARE + suffix, "Jain", between(("kernel", theirs), ("ours", mine)),
                   (between(("kernel", theirs), ("kernel", mine)),),
                   note=f"our {mine} and the kernel's {theirs}, 40 Mbit/s, 20 ms, a queue of 67 packets", **gates)

    one_percent = LOSSES[1]
    return [
        *(Row(f"{GOODPUT} #{part}", "Mbit/s", Contestant(f"ours to ours, {name}", goodput("ours", "ours", name, loss)),
              kernel(loss), ">= 0.9x", ">= 1x", 0.9, 1.0, note=f"{name}, {loss:.1%} of data lost, eight flows together")
          for part, loss in enumerate(LOSSES, 1)),
        Row(f"{GOODPUT} #2, our sender to the kernel", "Mbit/s",
            Contestant("ours to kernel", goodput("ours", "kernel", name, one_percent)), kernel(one_percent), note=name),
        Row(f"{GOODPUT} #2, the kernel to our receiver", "Mbit/s",
            Contestant("kernel to ours", goodput("kernel", "ours", name, one_percent)), kernel(one_percent), note=name),
        *(Row(f"{GOODPUT} #2, {other}", "Mbit/s",
              Contestant(f"ours to ours, {other}", goodput("ours", "ours", other, one_percent)),
              kernel(one_percent, other), note=f"{other} at both")
          for other in ("reno", "bbr") if other != name),
        shared("", name, "cubic", gate=">= 0.9", goal=">= 0.97", needs=0.9, wants=0.97, by_value=True),
        shared(", our BBR", "bbr", "cubic"),
        shared(", a kernel BBR flow instead", name, "bbr"),
        shared(", BBR both", "bbr", "bbr"),
    ]
