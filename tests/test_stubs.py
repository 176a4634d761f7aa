"""The ``.pyi`` beside each compiled module says what the module has (mypy's stubtest)."""

import sys

import pytest

from tests.support import ROOT, run

pytest.importorskip("mypy")

# What Cython keeps from Python's eyes: __cinit__ takes the parameters of __init__, and buffers show as
# __buffer__ only from Python 3.12 on. Names without a stub are private ones.
BY_CYTHON = r"""
.*\.__init__
.*\.__buffer__
"""


def test_stubs_agree_with_the_compiled_modules(tmp_path):
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts)
               for package in ("netstack", "rings") for p in sorted((ROOT / package).rglob("*.pyi"))
               if p.with_suffix(".pyx").exists()]
    allowed = tmp_path / "allowed"
    allowed.write_text(BY_CYTHON)
    config = tmp_path / "mypy.ini"   # the stubs alone: errors elsewhere are mypy's own run to tell
    config.write_text("[mypy]\npython_version = 3.10\n"
                      "follow_imports = silent\nignore_missing_imports = True\n")
    done = run([sys.executable, "-m", "mypy.stubtest", "--concise", "--ignore-disjoint-bases",
                "--ignore-missing-stub", "--ignore-unused-allowlist", "--allowlist", allowed,
                "--mypy-config-file", config, *modules], check=False, cwd=ROOT)
    assert modules and done.returncode == 0, done.stdout + done.stderr
