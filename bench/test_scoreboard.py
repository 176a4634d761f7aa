"""What the scoreboard makes of figures; the figures themselves are measured by ``python -m bench.scoreboard``."""

import json

import pytest

from bench import scoreboard
from bench.measure import Absent, Contestant, Row, Settings, judge, measure
from bench.rows import all_rows

KEYS = {"row", "ours", "unit", "peer", "peer_name", "ratio", "ratio_min", "ratio_max", "peers", "gate", "goal",
        "gate_met", "goal_met"}


def always(value):
    return lambda settings: value


def row(ours, *peers, **options):
    return Row("a row", "M/s", Contestant("ours", ours), peers, **options)


def test_a_ratio_above_one_means_that_ours_is_better():
    faster = row(always(3.0), Contestant("peer", always(2.0)))
    shorter = row(always(2.0), Contestant("peer", always(3.0)), less_is_better=True)
    for one in (faster, shorter):
        assert measure(one, Settings(rounds=3))["ratio"] == 1.5


def test_the_best_judging_peer_is_the_one_that_counts():
    result = measure(row(always(3.0), Contestant("slow", always(1.0)), Contestant("fast", always(2.0)),
                         Contestant("shown", always(9.0), judges=False), gate="1x", needs=1.0), Settings(rounds=3))
    assert (result["peer_name"], result["ratio"], result["gate_met"]) == ("fast", 1.5, True)
    assert {name: one["ratio"] for name, one in result["peers"].items()} == {"slow": 3, "fast": 1.5, "shown": 3 / 9}


def test_an_absent_peer_leaves_the_gate_open():
    def missing(settings):
        raise Absent("not installed")

    result = measure(row(always(1.0), Contestant("peer", missing), gate="2x", needs=2.0), Settings(rounds=3))
    assert set(result) == KEYS
    assert result["ours"] == 1.0
    assert [result[k] for k in ("peer", "peer_name", "ratio", "ratio_min", "ratio_max", "gate_met")] == [None] * 6


def test_rounds_in_which_one_failed_are_left_out_of_the_ratio():
    result = judge(row(always(0), Contestant("peer", always(0))), {"ours": [2.0, None, 6.0], "peer": [1.0, 1.0, 2.0]})
    assert (result["ours"], result["ratio_min"], result["ratio_max"]) == (4.0, 2.0, 3.0)


def test_a_limit_on_the_figure_itself():
    result = judge(row(always(0), gate="<= 5", goal="<= 2", needs=5, wants=2, by_value=True, less_is_better=True),
                   {"ours": [3.0, 4.0, 5.0]})
    assert (result["gate_met"], result["goal_met"]) == (True, False)


def test_every_row_has_a_name_of_its_own_and_routed_ones_no_gate():
    rows = all_rows()
    assert len({r.name for r in rows}) == len(rows)
    assert all(r.gate is None for r in rows if r.name.startswith("through the router: "))


@pytest.mark.parametrize("name", ["checksum-and-copy", "memory per idle connection"])
def test_the_command_measures_and_writes(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scoreboard, "hurry", lambda: "as it is")
    out = tmp_path / "figures.json"
    assert scoreboard.main(["--quick", "--rounds", "1", "--json", str(out), name]) == 0
    results = json.loads(out.read_text())
    assert results and all(set(r) == KEYS and r["row"].startswith(name) and r["ours"] > 0 for r in results)
    assert results[0]["row"] in capsys.readouterr().out
