"""The driver's protocol under the model checker, and each of its defects found."""

import os
import re
import shutil

import pytest

from tests.support import ROOT, run

MODEL = ROOT / "tests/models/driver.pml"
# The defects, each with the variant of the model that has it, if not all have.
MUTANTS = dict(re.findall(r"^ \*   -D(\w+)(?: +\((\w+)\))?", MODEL.read_text(), flags=re.M))
VARIANTS = {"LOOP", "LOOSE"}     # a thread and an event loop instead of two threads; a loop that may never come back
# Thorough: four items wrap the bells several times (29 million states); two find all that four find.
ITEMS = 4 if float(os.environ.get("NETSTACK_TEST_SCALE", "0.1")) >= 1 else 2

pytestmark = pytest.mark.skipif(shutil.which("spin") is None, reason="spin is not installed")


def check(tmp_path, *defines: str) -> int:
    """How many errors the checker found; the search was complete when there are none."""
    items = 2 if VARIANTS & {*defines} else ITEMS          # with four they have too many states
    flags = [f"-D{d}" for d in (f"ITEMS={items}", *defines)]
    run(["spin", "-a", *flags, MODEL], cwd=tmp_path)
    run(["cc", "-O2", "-DSAFETY", "-DCOLLAPSE", "-w", "-o", "pan", "pan.c"], cwd=tmp_path)
    out = run(["./pan", "-m200000"], cwd=tmp_path, check=False, timeout=280).stdout
    assert "max search depth too small" not in out
    assert "Search not completed" not in out or "errors: 1" in out
    return int(re.search(r"errors: (\d+)", out).group(1))


@pytest.mark.parametrize("variant", ["", *sorted(VARIANTS)])
def test_nobody_sleeps_for_ever(variant, tmp_path):
    assert check(tmp_path, *filter(None, [variant])) == 0


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_checker_finds(mutant, tmp_path):
    assert check(tmp_path, mutant, *filter(None, [MUTANTS[mutant]])) == 1


def test_all_mutants_of_the_model_are_listed():
    used = set(re.findall(r"^#(?:if|ifdef|ifndef|elif) .*$", MODEL.read_text(), flags=re.M))
    names = {name for line in used for name in re.findall(r"[A-Z_]{3,}", line)}
    assert names - {"ITEMS"} - VARIANTS == set(MUTANTS)
    assert set(MUTANTS.values()) - {""} == VARIANTS
