"""The comparison of the daemon stack runs to its end and says what it should."""

import json
import subprocess
import sys

from tests.support import ROOT


def test_the_comparison_comes_to_its_end(tmp_path):
    path = tmp_path / "out.json"
    subprocess.run([sys.executable, "-m", "bench.daemon", "--quick", "--json", path], check=True, cwd=ROOT, timeout=120)
    rows = json.loads(path.read_text())["rows"]
    assert [row["unit"] for row in rows] == ["us", "Gbit/s"]
    for row in rows:
        assert all(row[kind] > 0 for kind in ("daemon", "hosts", "kernel"))
        assert row["ratio_hosts"][1] <= row["ratio_hosts"][0] <= row["ratio_hosts"][2]
