"""What every row of the scoreboard goes through: contestants in turn, round by round, and the ratios of each round."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable

from bench import build

ROUNDS = 7


class Absent(Exception):
    """A contestant that is not on this machine, or not possible here; says why."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long one measurement of one contestant takes, how often each is measured, and which round this is."""

    seconds: float = 0.4
    rounds: int = ROUNDS
    turn: int = 0                # contestants of one round get the same dice from it

    @property
    def quick(self) -> bool:
        return self.seconds < 0.2


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A name, and a function that measures it once."""

    name: str
    run: Callable[[Settings], float]
    judges: bool = True          # False: shown when it wins, but no gate counts against it


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of ``targets.md`` (or a part of one).

    `gate` and `goal` are its words. `needs` and `wants` are the same as numbers: of the ratio to the best judging
    peer (above 1: ours is better), or of our own figure when `by_value`.
    """

    name: str
    unit: str
    ours: Contestant
    peers: tuple[Contestant, ...] = ()
    gate: str | None = None
    goal: str | None = None
    needs: float | None = None
    wants: float | None = None
    by_value: bool = False
    less_is_better: bool = False
    note: str = ""


def python_program(module: str, function: str, /, timeout: float = 60, **arguments):
    """Call ``module.function(**arguments)`` in a process of its own; what it returns."""
    code = ("import importlib, json, sys; a = json.loads(sys.argv[1]); "
            "m = importlib.import_module(a['module']); "
            "print(json.dumps(getattr(m, a['function'])(**a['arguments'])))")
    said = json.dumps({"module": module, "function": function, "arguments": arguments})
    return json.loads(program([sys.executable, "-c", code, said], timeout=timeout).splitlines()[-1])


def ours(function: str, **arguments):
    """A function of ``bench/_programs/stacks.pyx`` in a process of its own."""
    return python_program("bench.ours", "call", name=function, arguments=arguments)


def program(command, timeout: float = 60) -> str:
    """Run a contestant; exit status 3 means that it is not possible here."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(build.ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout, env=env)
    if done.returncode == 3:
        raise Absent(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "not possible here")
    if done.returncode:
        raise RuntimeError(f"{command[0]}: exit {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


def measure(row: Row, settings: Settings, say=lambda text: None) -> dict:
    """Ours and the peers one after the other in every round, each round beginning with another one.

    The peer of the result is the judging one with the best median; ratios are of figures of the same round.
    """
    contestants = [row.ours, *row.peers]
    figures: dict[str, list[float | None]] = {c.name: [None] * settings.rounds for c in contestants}
    away: dict[str, str] = {}
    for turn in range(settings.rounds):
        order = contestants[turn % len(contestants):] + contestants[:turn % len(contestants)]
        for one in order:
            if one.name in away:
                continue
            try:
                figures[one.name][turn] = float(one.run(dataclasses.replace(settings, turn=turn)))
            except (Absent, build.BuildError) as reason:
                away[one.name] = str(reason).splitlines()[0]
            except (RuntimeError, OSError, subprocess.TimeoutExpired, ValueError) as error:
                say(f"  {one.name}: {str(error)[:300]}")
                if turn == 1 and not any(figures[one.name]):
                    away[one.name] = "it failed twice"
    for name, why in away.items():
        say(f"  without {name}: {why}")
    return judge(row, figures)


def better(row: Row, a: float, b: float) -> float:
    """How many times better a is than b."""
    if not a or not b:
        return 0.0
    return b / a if row.less_is_better else a / b


def ratios_of(row: Row, figures: dict[str, list[float | None]], peer: str) -> list[float]:
    """How much better ours is than a peer, of each round that has both, in order of size."""
    rounds = zip(figures[row.ours.name], figures[peer], strict=False)
    return sorted(better(row, a, b) for a, b in rounds if a and b)


def judge(row: Row, figures: dict[str, list[float | None]]) -> dict:
    """The figures of all rounds as one line of the result."""
    medians = {name: statistics.median([v for v in values if v is not None])
               for name, values in figures.items() if any(values)}
    own = medians.get(row.ours.name)
    present = [p.name for p in row.peers if p.name in medians]
    judges = [p.name for p in row.peers if p.name in medians and p.judges] or present
    best = max(judges, key=lambda name: better(row, medians[name], 1.0), default=None)
    against = {name: ratios_of(row, figures, name) for name in present}
    ratios = against.get(best, [])
    ratio = statistics.median(ratios) if ratios else None
    decided = own if row.by_value else ratio

    def met(limit):
        if limit is None or decided is None:
            return None
        return decided <= limit if row.by_value and row.less_is_better else decided >= limit

    return {
        "row": row.name, "ours": own, "unit": row.unit, "peer": medians.get(best), "peer_name": best,
        "ratio": ratio, "ratio_min": ratios[0] if ratios else None, "ratio_max": ratios[-1] if ratios else None,
        "peers": {name: {"figure": medians[name], "ratio": statistics.median(of) if of else None}
                  for name, of in against.items()},
        "gate": row.gate, "goal": row.goal,
        "gate_met": met(row.needs) if row.gate else None, "goal_met": met(row.wants) if row.goal else None,
    }
