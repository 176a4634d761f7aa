"""Every placement carries the same programs; the figures are measured by ``python -m bench.placements``."""

import os

import pytest

from bench import placement_report, placements
from bench.measure import Absent


@pytest.mark.parametrize("placement", placements.PLACEMENTS, ids=lambda p: p.name)
def test_the_programs_run_there(placement):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two cores are needed: one for each program")
    try:
        found = placements.measure(placement, placement.tests[-1], 0.05)
    except Absent as reason:
        pytest.skip(str(reason))
    assert found["figure"] > 0 and found["busy_ns"] >= 0 and found["switches"] > 0


def some(figure, ratio):
    return {"figure": figure, "busy_ns": 1500.0, "switches": 0.25, "ratio": [ratio, ratio / 2, ratio * 2],
            "cost_ratio": [1 / ratio, 0.5 / ratio, 2 / ratio]}


RECORDS = [{"placement": "kernel, loopback", "bulk": some(10.0, 1.0), "pingpong": some(20.0, 1.0),
            "connect": some(3000.0, 1.0)},
           {"placement": "library, a channel", "bulk": some(40.0, 4.0)}]


def test_the_table_says_what_was_measured():
    table = placement_report.markdown(RECORDS).splitlines()
    assert len(table) == 4
    assert table[3] == ("| library, a channel | 40 | 4.00 [2.00-8.00] | 1,500 | 0.25 [0.12-0.50] | 256 | - | - | - | - "
                        "| - |")


def test_the_document_keeps_its_words_and_gets_table_and_plot(tmp_path):
    document = tmp_path / "placements.md"
    document.write_text(f"before\n{placement_report.BEGIN}\nold\n{placement_report.END}\nafter\n")
    placement_report.publish(RECORDS, tmp_path)
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| library, a channel | 40 |" in text
    plot = (tmp_path / "placements.svg").read_text()
    assert "library, a channel" in plot
    placement_report.publish(RECORDS, tmp_path)
    assert (document.read_text(), (tmp_path / "placements.svg").read_text()) == (text, plot)


def test_a_document_without_its_marks_is_left_alone(tmp_path):
    (tmp_path / "placements.md").write_text("nothing here\n")
    with pytest.raises(ValueError, match="marks"):
        placement_report.publish(RECORDS, tmp_path)
    assert (tmp_path / "placements.md").read_text() == "nothing here\n"


def test_a_failed_round_leaves_no_ratio(monkeypatch):
    figures = iter([1.0, 2.0, None, 4.0])

    def measure(placement, test, seconds):
        figure = next(figures)
        if figure is None:
            raise RuntimeError("no")
        return {"figure": figure, "busy_ns": 1.0, "switches": 1.0}

    monkeypatch.setattr(placements, "measure", measure)
    monkeypatch.setattr(placements, "TESTS", ("bulk",))
    chosen = [p for p in placements.PLACEMENTS if p.name in (placements.KERNEL, "daemon")]
    kernel, daemon = placements.compare(chosen, 0.1, 2, lambda text: None)
    # round 1: kernel 1, daemon 2; round 2 begins with the daemon, which fails
    assert daemon["bulk"]["ratio"] == [2.0, 2.0, 2.0] and daemon["bulk"]["figure"] == 2.0
    assert kernel["bulk"]["figure"] == 2.5
