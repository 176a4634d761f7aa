"""The ring's protocol, model-checked with spin: right under every fault, and each defect found.

The sizes grow with ``NETSTACK_TEST_SCALE`` (default 0.1; 1 is the full size).
"""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

MODEL = pathlib.Path(__file__).resolve().parents[1] / "models" / "ring.pml"
FULL = float(os.environ.get("NETSTACK_TEST_SCALE", "0.1")) >= 1
SMALL_RING = ["-DN=2", "-DM=8", "-DITEMS=5" if FULL else "-DITEMS=4"]
WIDE_RING = ["-DN=4", "-DM=16", "-DWIDE", "-DITEMS=6" if FULL else "-DITEMS=5"]

RIGHT = {
    "x86": [],
    "batches": ["-DBATCH"],
    "late release": ["-DLAZY"],
    "partial store order with release": ["-DPSO", "-DREL"],
    "early loads with acquire": ["-DSPEC", "-DACQ"],
    "producer killed": ["-DKILLP"],
    "consumer killed": ["-DKILLC"],
    "both killed, batches, late release": ["-DKILLP", "-DKILLC", "-DBATCH", "-DLAZY"],
    "both killed, partial store order": ["-DKILLP", "-DKILLC", "-DPSO", "-DREL"],
    "hostile tail, checked": ["-DEVIL"],
    "hostile length, fetched once": ["-DFLIP"],
}
WRONG = {
    "no fence before the look at the sleep word": (["-DNOFENCE_P"], "invalid end state"),
    "no fence after writing the sleep word": (["-DNOFENCE_C"], "invalid end state"),
    "no second look before sleeping": (["-DNORECHECK"], "invalid end state"),
    "no sequence in the sleep word": (["-DNOSEQ"], "invalid end state"),
    "no release": (["-DPSO"], "assertion violated"),
    "no acquire": (["-DSPEC"], "assertion violated"),
    "hostile tail, trusted": (["-DEVIL", "-DNOCHECK"], "assertion violated"),
    "hostile length, fetched twice": (["-DFLIP", "-DTWICE"], "assertion violated"),
}


def check(folder, flags):
    """(number of errors, what spin said)."""
    for tool in ("spin", "gcc"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} (package {tool})")
    for command in (
        ["spin", "-a", *flags, str(MODEL)],
        ["gcc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-DVECTORSZ=1024", "pan.c", "-o", "pan"],
        ["./pan", "-m2000000"],
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "max search depth too small" not in done.stdout
    assert "out of memory" not in done.stdout
    return int(re.search(r"errors: (\d+)", done.stdout)[1]), done.stdout


@pytest.mark.timeout(900)
@pytest.mark.parametrize("flags", RIGHT.values(), ids=RIGHT)
def test_the_protocol_is_right(tmp_path, flags):
    errors, said = check(tmp_path, SMALL_RING + flags)
    assert errors == 0, said


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("flags", "finding"), WRONG.values(), ids=WRONG)
def test_each_defect_is_found(tmp_path, flags, finding):
    errors, said = check(tmp_path, SMALL_RING + flags)
    assert errors > 0 and finding in said


@pytest.mark.timeout(900)
@pytest.mark.parametrize("flags", [[], ["-DLAZY"]], ids=["at once", "late release"])
def test_the_look_at_the_producer_may_be_skipped_while_half_is_free(tmp_path, flags):
    errors, said = check(tmp_path, WIDE_RING + flags)
    assert errors == 0, said


@pytest.mark.timeout(900)
def test_skipping_that_look_any_longer_loses_a_wake_up(tmp_path):
    errors, said = check(tmp_path, [*WIDE_RING, "-DLOOKLATE"])
    assert errors > 0 and "invalid end state" in said
