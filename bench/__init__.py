"""Measurements: pytest-benchmark suites (``pytest bench``), the scoreboard (``python -m bench.scoreboard``) and
instruction counts (``python -m bench.instructions``). How to read them: ``bench/README.md``."""
