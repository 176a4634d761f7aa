"""Words for what `netstack.router.policing` finds: misdeeds, policies, findings."""

from __future__ import annotations

from dataclasses import dataclass

from netstack.errors import ConfigError

MISDEEDS = ("no_back_off", "ack_division", "optimistic_ack", "window_overrun")        # by `policing.Misdeed`
POLICIES = ("off", "count", "mark", "clamp", "penalty", "detach")                     # by `policing.Policy`

_WHAT = {
    "no_back_off": "does not back off: {:,} bytes in 32 round trips with losses, a quarter and more of them dropped",
    "ack_division": "acknowledged {:,} times more than it got segments",
    "optimistic_ack": "acknowledged data that it has not got, {:,} bytes ahead at last",
    "window_overrun": "sends beyond the window it is offered, by {:,} bytes at last",
}


@dataclass(frozen=True)
class Finding:
    """A TCP that misbehaved, in one connection.

    Attributes
    ----------
    misdeed : str
        One of `MISDEEDS`.
    attachment : int
        The attachment or uplink that it came from.
    culprit, other : tuple of str and int
        The ends of the connection, address and port.
    amount : int
        Bytes, or acknowledgements (``ack_division``), when it was found.
    when_ns : int
        A time of the data path's clock.
    """

    misdeed: str
    attachment: int
    culprit: tuple[str, int]
    other: tuple[str, int]
    amount: int
    when_ns: int

    def __str__(self) -> str:
        ends = " ".join(f"{address}.{port}" for address, port in (self.culprit, self.other))
        return f"{ends}: {_WHAT[self.misdeed].format(self.amount)}"


def policy_number(name: str) -> int:
    """`policing.Policy` of a name. Raises `ConfigError`."""
    if name not in POLICIES:
        raise ConfigError(f"greedy {name!r}: say one of {', '.join(POLICIES)}")
    return POLICIES.index(name)
