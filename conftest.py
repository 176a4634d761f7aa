"""Rules of a test run, for tests/ and bench/.

``root``        skipped with the reason where it cannot run; under CI a skipped one is a failure,
                since there nobody would notice that it never runs.
``packetdrill`` may skip everywhere: the tool is in no distribution.
``serial``      measures time or uses what only one can have: with pytest-xdist it runs
                while every other worker stands still. ``root`` tests are serial.
"""

import fcntl
import os
import tempfile
from contextlib import contextmanager

import pytest

from tests import support

UNDER_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


def is_serial(item) -> bool:
    return any(item.get_closest_marker(name) for name in ("serial", "root"))


def pytest_collection_modifyitems(items):
    """Serial tests last, so that the workers wait for each other once."""
    items.sort(key=is_serial)


def pytest_runtest_setup(item):
    if item.get_closest_marker("root") and support.root_missing():
        pytest.skip(support.root_missing())


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if (UNDER_CI and report.skipped and not hasattr(report, "wasxfail")
            and item.get_closest_marker("root") and not item.get_closest_marker("packetdrill")):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"a root test must run under CI, it was skipped: {reason}"


@pytest.fixture(autouse=True)
def _cores_are_given_back():
    """A test that keeps its process on fewer cores would do so to all that follow, and to what they start."""
    before = os.sched_getaffinity(0)
    yield
    after = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before)
    assert after == before, "the cores it may run on"


# ---- serial tests under pytest-xdist -----------------------------------------

@contextmanager
def room(run_id: str, alone: bool):
    """One reader-writer lock for all workers: many ordinary tests, or one serial test.

    Everybody passes the gate; a serial test holds it while the others leave the room,
    so it is not overtaken for ever.
    """
    path = os.path.join(tempfile.gettempdir(), f"netstack-tests-{os.getuid()}-{run_id}")
    with open(path + ".gate", "w") as gate, open(path + ".room", "w") as inside:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(inside, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@pytest.hookimpl(hookwrapper=True, tryfirst=True)   # outside pytest-timeout: waiting is not counted
def pytest_runtest_protocol(item):
    worker = getattr(item.config, "workerinput", None)
    if worker is None:
        yield
        return
    with room(worker["testrunuid"], is_serial(item)):
        yield


def pytest_sessionfinish(session):
    """The controller removes the lock files of its run."""
    uid = getattr(session.config, "_netstack_run_id", None)
    for end in (".gate", ".room"):
        try:
            os.unlink(os.path.join(tempfile.gettempdir(), f"netstack-tests-{os.getuid()}-{uid}{end}"))
        except OSError:
            pass


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.config._netstack_run_id = node.workerinput["testrunuid"]
