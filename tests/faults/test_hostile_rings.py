"""F5: a stack that writes random words over its ring memory, while the router reads it, hurts nobody but itself."""

import gc
import os
import pathlib
import subprocess
import sys

import pytest

from netstack.router import Router
from tests.router.conftest import backend, runtime  # noqa: F401
from tests.router.lan import wait_until
from tests.router.test_hostile import Bystanders
from tests.support import ROOT, compile_c, descriptors, scale

MUTATIONS = 100_000_000


def resident() -> int:
    """Bytes of this process, which holds the router."""
    gc.collect()
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.fixture(scope="module")
def scribbler(tmp_path_factory):
    return compile_c("tests/faults/scribbler.c", tmp_path_factory.mktemp("scribbler"), "-shared", "-fPIC",
                     name="scribbler.so")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("fatal", [0, 2, 200], ids=["records", "now and then an index", "indices often"])
def test_f5_a_hundred_million_random_words_in_a_ring(runtime, backend, scribbler, fatal, record_property):  # noqa: F811
    """The more often an index is hit, the shorter an attachment lives: most words are spent on those that stay."""
    count = scale(MUTATIONS * (18 if fatal == 0 else 6 if fatal == 2 else 1) // 50)
    with Router(backend=backend, ring_capacity=1 << 18) as router:
        with Bystanders(router) as others:
            wait_until(lambda: others.count > 100)
            before, opened = resident(), len(descriptors())
            done = subprocess.run([sys.executable, "-m", "tests.faults.hostile_stack", scribbler, str(count), "5",
                                   str(fatal)], cwd=ROOT, env={**os.environ, **router.environment()},
                                  capture_output=True, text=True, timeout=1000)
            assert done.returncode == 0, done.stderr[-2000:]
            changed, attachments = map(int, done.stdout.split())
            assert changed == count
            wait_until(lambda: len(router.attachments()) == 2)
            seen = others.count
            wait_until(lambda: others.count > seen + 100)
            wait_until(lambda: len(descriptors()) <= opened)        # closed behind the attachment's end
            assert resident() < before + (32 << 20)
        ended = router.endings()
        record_property("attachments", attachments)
        record_property("endings", str(ended))
        assert sum(ended.values()) == attachments + 2
        counters = router.counters()
        record_property("header_errors", counters["header_errors"])
        if fatal == 200:                     # few live until a record is read
            assert ended.get("poisoned", 0) >= attachments // 4, ended      # others look closed
        else:                                # where the router has no core, it may find an index before any record
            read = counters["header_errors"] + sum(n for name, n in counters.items() if name.startswith("drop_in_"))
            assert read > 0 or attachments > 1
        assert router.check_conservation() == []
