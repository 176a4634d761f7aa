"""Warnings that strangers can cause, so many a second and no more (security R13): a log is no place to be filled."""

from __future__ import annotations

import logging
import time

BURST = 10                       # of one kind, at once
PER_SECOND = 1.0                 # and later


class LogLimit(logging.Filter):
    """Lets few warnings of one kind pass, and tells with the next one how many were left out.

    A kind is a message before its arguments are put in: there are as many as the code has. What is below a warning
    passes.

    Parameters
    ----------
    clock : callable
        Seconds, monotonic.
    """

    def __init__(self, clock=time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[str, tuple[float, float, int]] = {}   # what may pass, when that was so, how many did not

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it passes."""
        if record.levelno < logging.WARNING:
            return True
        now = self._clock()
        kind = str(record.msg)
        credit, before, left_out = self._kinds.get(kind, (float(BURST), now, 0))
        credit = min(float(BURST), credit + (now - before) * PER_SECOND)
        if credit < 1:
            self._kinds[kind] = credit, now, left_out + 1
            return False
        self._kinds[kind] = credit - 1, now, 0
        if left_out:
            record.msg = f"{record.msg} (and {left_out} more of the kind)"
        return True


def limited(name: str) -> logging.Logger:
    """The logger of a name, with a limit on its warnings."""
    logger = logging.getLogger(name)
    if not any(isinstance(f, LogLimit) for f in logger.filters):
        logger.addFilter(LogLimit())
    return logger
