"""Every trace of every simulated network through the state checker: ``with watched(): ...``.

The tests run under it as a whole (``tests/conftest.py``), so a segment that a stack must not send fails the test in
which it was sent, whatever that test is about.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from netstack.testing.packets import Packet, parse_packet
from netstack.testing.state_checker import StateChecker, segment_of

if TYPE_CHECKING:
    from netstack.testing.recorder import Recorder


class ProtocolViolation(AssertionError):
    """A stack said what RFC 9293 does not let it say. The message shows the segments."""


class Watch:
    """The traces of the networks that were made while it was the current one.

    Attributes
    ----------
    segments : int
        How many were judged.
    complaints : list of str
        One for each end that said something wrong.
    """

    def __init__(self) -> None:
        self.segments = 0
        self.complaints: list[str] = []
        self._ends: list[tuple[Any, str, Recorder]] = []
        self._judges: list[tuple[str, StateChecker]] = []

    def record(self, simulation: Any, name: str, recorder: Recorder) -> None:
        """An end of a network whose frames are kept; judged when the network is gone, or by `finish`."""
        for end in [end for end in self._ends if end[0]() is None]:
            self._ends.remove(end)
            self._judge_log(end[1], end[2])
        self._ends.append((weakref.ref(simulation), name, recorder))

    def judge(self, name: str) -> StateChecker:
        """A judge to be told each segment as it passes; its complaints are collected by `finish`."""
        judge = StateChecker()
        self._judges.append((name, judge))
        return judge

    def _judge_log(self, name: str, recorder: Recorder) -> None:
        judge = StateChecker()
        judge.read(recorder.segments())
        self._note(name, judge)

    def _note(self, name: str, judge: StateChecker) -> None:
        self.segments += judge.segments
        if judge.violations:
            self.complaints.append(f"{name}:\n{judge.report()}")

    def finish(self) -> None:
        """Judge what is left.

        Raises
        ------
        ProtocolViolation
            Somebody said something wrong.
        """
        for _, name, recorder in self._ends:
            self._judge_log(name, recorder)
        for name, judge in self._judges:
            self._note(name, judge)
        self._ends, self._judges = [], []
        if self.complaints:
            raise ProtocolViolation("\n".join(self.complaints))


_watches: list[Watch] = []


def current() -> Watch | None:
    """The watch that is on, if any."""
    return _watches[-1] if _watches else None


@contextmanager
def watched() -> Iterator[Watch]:
    """Judge every network, pair and scripted peer that is made inside.

    Raises
    ------
    ProtocolViolation
        At the end: a stack said what it must not say.

    Examples
    --------
    >>> with watched():
    ...     Pair(seed=1, loss=0.1).transfer(100_000)
    """
    watch = Watch()
    _watches.append(watch)
    try:
        yield watch
    finally:
        _watches.remove(watch)
    watch.finish()


def tell(judge: StateChecker | None, data: bytes | Packet, t_ns: int, direction: str) -> None:
    """Show a judge one raw packet, or nobody; what is no packet is not shown."""
    if judge is None:
        return
    if not isinstance(data, Packet):
        try:
            data = parse_packet(bytes(data), t_ns, direction)
        except ValueError:
            return
    segment = segment_of(data)
    if segment is not None:
        judge.read((segment,))
