"""The comparison of preloaded programs runs to its end and says what it should."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.support import ROOT, SANITIZED


@pytest.mark.skipif(SANITIZED, reason="a sanitizer's runtime is preloaded already")
def test_the_comparison_comes_to_its_end(tmp_path):
    path = tmp_path / "out.json"
    done = subprocess.run([sys.executable, "-m", "bench.programs", "--quick", "--json", path], check=True, cwd=ROOT,
                          timeout=200, capture_output=True, text=True)
    rows = json.loads(path.read_text())["rows"]
    if not all(shutil.which(name) for name in ("redis-server", "iperf3", "wrk", "nginx")):
        assert "needs" in done.stdout
    else:
        assert {row["name"] for row in rows} >= {"redis", "iperf3", "wrk"}
    for row in rows:
        assert row["stacks"] > 0 and row["kernel"] > 0 and row["ratio"][1] <= row["ratio"][0] <= row["ratio"][2]
