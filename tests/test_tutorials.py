"""The tutorials of docs/ run as they are printed."""

import re

import pytest

from tests.support import ROOT


@pytest.mark.parametrize("name", ["congestion_control.md"])
def test_every_program_of_a_tutorial_runs(name, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(tmp_path)
    programs = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / name).read_text(), flags=re.M | re.S)
    space = {"__name__": "tutorial"}
    for program in programs:
        exec(compile(program, name, "exec"), space)
    algorithm = next(p for p in programs if "congestion.register" in p)
    assert len([line for line in algorithm.splitlines() if line.strip()]) < 30
    assert (tmp_path / "mine.svg").stat().st_size > 10_000
