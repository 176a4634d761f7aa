"""The mutants of `ci/mutants` fit the tree: what they replace is there, and each row that has tests has some."""

from collections import Counter

import pytest

from tests.security.mutants import ROOT, mutants, rows

# Rows whose mutants are still to be written. A row that gets its first mutant leaves the list.
LATER = set("F1 F2 F3 F4 F5 F13 F14 F15 F16 F17".split())

MUTANTS = mutants()
KNOWN = rows()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.row}-{m.what}")
def test_a_mutants_text_stands_in_the_source_exactly_once(mutant):
    text = (ROOT / mutant.path).read_text()
    assert text.count(mutant.text) == 1
    assert mutant.text != mutant.instead and not (ROOT / mutant.path).is_relative_to(ROOT / "tests")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.row}-{m.what}")
def test_a_mutants_tests_are_its_rows(mutant):
    assert mutant.row in KNOWN, f"no test_{mutant.row.lower()}_..."
    for name in mutant.tests:
        assert name.partition("[")[0] in KNOWN[mutant.row]


def test_every_row_with_tests_has_a_mutant():
    covered = {m.row for m in MUTANTS}
    assert set(KNOWN) - covered - LATER == set()
    assert covered & LATER == set()


@pytest.mark.parametrize("side", ["router", "daemon"])
@pytest.mark.parametrize("rule", range(1, 21))
def test_every_rule_has_tests_and_mutants_for_router_and_daemon(rule, side):
    assert any(side in name for name in KNOWN[f"R{rule}"])
    assert any(side in name for m in MUTANTS if m.row == f"R{rule}" for name in m.tests)


def test_no_mutant_is_there_twice():
    twice = [key for key, n in Counter((m.row, m.path, m.text, m.instead) for m in MUTANTS).items() if n > 1]
    assert twice == []
