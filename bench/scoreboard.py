"""``python -m bench.scoreboard [--quick] [--json FILE] [ROW ...]``: the figures of targets.md that exist so far.

Ours and the peers are measured in turn, round by round, in one run; a ratio above 1 means that ours is better. ROW
picks the rows that contain one of the texts. See ``bench/README.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import time

from bench import build, measure
from bench.rows import all_rows
from bench.rows.rings import line_round_trip


def number(x):
    if x is None:
        return "-"
    if abs(x) >= 1000:
        return f"{x:,.0f}"
    return f"{x:.3g}" if abs(x) < 100 else f"{x:.0f}"


def verdict(result):
    words = []
    for what in ("gate", "goal"):
        if result[what] is None:
            continue
        met = result[f"{what}_met"]
        words.append(f"{what} {result[what]}: {'?' if met is None else 'met' if met else 'MISSED'}")
    return "; ".join(words)


def say_row(row, result, where, stream):
    ratio = "" if result["ratio"] is None else (
        f"   ratio {number(result['ratio'])} [{number(result['ratio_min'])}-{number(result['ratio_max'])}]")
    peer = "" if result["peer"] is None else f"   {result['peer_name']}: {number(result['peer'])}"
    place = "" if where is None else f"   line {where[0]:.0f} ns, {where[1]}"
    print(f"{row.name}\n    {number(result['ours'])} {row.unit}{peer}{ratio}{place}", file=stream)
    for name, one in result["peers"].items():
        if name != result["peer_name"]:
            print(f"    beside {name}: {number(one['figure'])}, ratio {number(one['ratio'])}", file=stream)
    if row.note:
        print(f"    ({row.note})", file=stream)
    if said := verdict(result):
        print(f"    {said}", file=stream)
    stream.flush()


def hurry():
    """Be scheduled before other work of this machine, for all contestants alike, where that is allowed."""
    said = []
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        said.append("nice -20")
        with contextlib.suppress(OSError):
            os.setsid()                                # an autogroup of its own, or nice counts only inside
        with open("/proc/self/autogroup", "w") as f:
            f.write("-20")
    return ", ".join(said) or "ordinary priority"


def main(argv=None):
    """Measure, print, write; the exit status is 0 whenever the run came to its end."""
    parser = argparse.ArgumentParser(prog="python -m bench.scoreboard", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="only rows whose name contains this")
    parser.add_argument("--quick", action="store_true", help="shorter measurements, as many rounds")
    parser.add_argument("--json", metavar="FILE", help="write the results there ('-': standard output)")
    parser.add_argument("--rounds", type=int, default=measure.ROUNDS, help="rounds of every row (%(default)s)")
    parser.add_argument("--list", action="store_true", help="names of the rows")
    arguments = parser.parse_args(argv)
    stream = sys.stderr if arguments.json == "-" else sys.stdout
    wanted = [r for r in all_rows() if not arguments.rows
              or any(text.lower() in r.name.lower() for text in arguments.rows)]
    if arguments.list:
        print("\n".join(r.name for r in wanted))
        return 0
    if not wanted:
        parser.error("no row has such a name; --list shows them")
    settings = measure.Settings(seconds=0.1 if arguments.quick else 0.4, rounds=max(1, arguments.rounds))
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python "
          f"{platform.python_version()}, {settings.rounds} rounds, {hurry()}, load {os.getloadavg()[0]:.1f}",
          file=stream)
    results = []
    began = time.monotonic()
    for row in wanted:
        where = line_round_trip()
        result = measure.measure(row, settings, lambda text: print(text, file=stream))
        results.append(result)
        say_row(row, result, where, stream)
    print(f"{len(results)} rows in {time.monotonic() - began:.0f} s; programs in {build.OUT}", file=stream)
    if arguments.json:
        text = json.dumps(results, indent=1)
        if arguments.json == "-":
            print(text)
        else:
            with open(arguments.json, "w") as f:
                f.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
