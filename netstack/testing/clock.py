"""Virtual time: an integer of nanoseconds that only moves when told."""

from __future__ import annotations

from netstack.units import duration_ns


class VirtualClock:
    """A clock that tests and simulations move by hand.

    Parameters
    ----------
    now_ns : int
        Where it starts: at one second, since zero would hide mistakes that take "no time yet" for a time.

    Examples
    --------
    >>> clock = VirtualClock()
    >>> clock.advance("5ms")
    1005000000
    """

    __slots__ = ("now_ns",)

    def __init__(self, now_ns: int = 1_000_000_000) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns

    def advance(self, by: int | str) -> int:
        """Move on by a duration (ns, or text such as ``"5ms"``); returns the new time in ns."""
        self.now_ns += duration_ns(by)
        return self.now_ns

    def advance_to(self, now_ns: int) -> int:
        """Move on to a time; a time that has passed already is an error.

        Raises
        ------
        ValueError
            ``now_ns`` lies before the present.
        """
        if now_ns < self.now_ns:
            raise ValueError(f"time does not run backwards: {now_ns} ns lies before {self.now_ns} ns")
        self.now_ns = now_ns
        return self.now_ns
