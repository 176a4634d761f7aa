"""One test module in a process of its own: a JSON line for each event, so that a hang is charged to its test."""

from __future__ import annotations

import importlib
import json
import os
import time
import unittest


def _tests(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _tests(test)
        else:
            yield test


class Result(unittest.TestResult):
    def __init__(self, emit, provider) -> None:
        super().__init__()
        self._emit = emit
        self._provider = provider
        self._test = None

    def startTest(self, test):  # noqa: N802 - unittest's
        super().startTest(test)
        self._begin(test)

    def _begin(self, test):
        self._test = test
        self._status, self._why, self._begun = "pass", "", time.monotonic()
        self._provider.begin(test.id())
        self._emit(start=test.id())

    def _set(self, status, why=""):
        if getattr(self, "_status", "pass") == "pass" or status in ("error", "fail"):
            self._status, self._why = status, str(why)[-300:]

    def addError(self, test, err):  # noqa: N802
        self._set("error", f"{err[0].__name__}: {err[1]}")
        if not hasattr(test, "_testMethodName"):
            self._emit(fixture=str(test), why=self._why)

    def addFailure(self, test, err):  # noqa: N802
        self._set("fail", err[1])

    def addSkip(self, test, reason):  # noqa: N802
        if self._test is not test:             # CPython 3.12.1 ends skipped tests that it did not begin
            self._begin(test)
        self._set("skip", reason)

    def addExpectedFailure(self, test, err):  # noqa: N802
        self._set("xfail")

    def addSubTest(self, test, subtest, err):  # noqa: N802
        if err is not None:
            self._set("fail" if issubclass(err[0], test.failureException) else "error", f"{err[0].__name__}: {err[1]}")

    def stopTest(self, test):  # noqa: N802
        self._emit(end=test.id(), status=self._status, why=self._why,
                   seconds=round(time.monotonic() - self._begun, 3), **self._provider.end())
        super().stopTest(test)


def main(module: str, kernel: bool, skipped: str, events: int) -> None:
    """Run ``module`` but the tests named in the file ``skipped``; events go to the descriptor ``events``."""
    from tests.cpython import provider

    (provider.install_kernel if kernel else provider.install_stack)()
    out = os.fdopen(events, "w", buffering=1)

    def emit(**event):
        out.write(json.dumps(event) + "\n")

    from test import support

    support.use_resources = ["network"]
    support.verbose = 0
    try:
        loaded = importlib.import_module("test." + module)
    except unittest.SkipTest as error:
        emit(fixture=module, why=f"skip: {error}")
    else:
        with open(skipped) as file:
            skip = set(file.read().split())
        wanted = unittest.TestSuite(
            t for t in _tests(unittest.defaultTestLoader.loadTestsFromModule(loaded)) if t.id() not in skip)
        emit(collected=[t.id() for t in wanted])
        wanted.run(Result(emit, provider))
    emit(done=True)
    out.flush()
    os._exit(0)
