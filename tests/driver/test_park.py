"""park.h: the lock excludes, no wake-up is lost; under the thread sanitizer too."""

import pytest

from tests.support import compile_c, run, scale


@pytest.mark.parametrize("flags, rounds", [((), 50_000), (("-fsanitize=thread", "-O1", "-Wno-tsan"), 10_000)],
                         ids=["plain", "tsan"])
def test_lock_and_word_under_threads(tmp_path, flags, rounds):
    program = compile_c("tests/c/test_park.c", tmp_path, *flags)
    assert "hand-overs" in run([program, scale(rounds)], timeout=280).stdout
