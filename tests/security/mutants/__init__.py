"""The checks of the security and fault rows, taken out one by one: each mutant must be noticed by its row's tests.

A mutant is a piece of the source as it stands, exactly once in its file, and what replaces it. To add some for a row,
put them into the list MUTANTS of a module of this folder; the module's name means nothing, all are read. ``ci/mutants``
runs them (`tests.security.mutants.run`); ``tests/security/test_mutants.py``, part of every test run, holds the lists to
the tree: a text that is not found any more, and a row that has tests and no mutant, are failures.
"""

from __future__ import annotations

import importlib
import pathlib
import pkgutil
import re
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[3]
TEST = re.compile(r"^(?:async )?def (test_([a-ir]\d+)_\w+)", re.M)


class Mutant(NamedTuple):
    """One check taken out.

    Attributes
    ----------
    row : str
        The row of the checklist: ``"C1"``.
    what : str
        What the stack then does, in words.
    path, text, instead : str
        The file, a text that stands in it exactly once, and what is put in its place.
    tests : tuple of str
        Functions of the row's tests of which one must fail; all of the row if there are none. ``name[id]`` is one case.
    """

    row: str
    what: str
    path: str
    text: str
    instead: str
    tests: tuple[str, ...] = ()


def mutants() -> list[Mutant]:
    """All of them, by row."""
    found: list[Mutant] = []
    for module in pkgutil.iter_modules(__path__):
        if module.name != "run":
            found += importlib.import_module(f"{__name__}.{module.name}").MUTANTS
    return sorted(found, key=lambda m: (m.row[0], int(m.row[1:])))


def rows() -> dict[str, dict[str, str]]:
    """The rows that have tests: ``{"C1": {test function: file}}``."""
    found: dict[str, dict[str, str]] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, row in TEST.findall(file.read_text()):
            found.setdefault(row.upper(), {})[name] = str(file.relative_to(ROOT))
    return found


def chosen(mutant: Mutant, known: dict[str, dict[str, str]]) -> list[str]:
    """The pytest arguments that run a mutant's tests."""
    tests = known[mutant.row]
    return [f"{tests[name.partition('[')[0]]}::{name}" for name in mutant.tests or tests]
