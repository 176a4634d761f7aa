"""How a bad link is written, on command lines and for uplinks: the settings that every link and port understands."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netstack.errors import ConfigError
from netstack.units import duration_ns, rate_bits

NAMES = ("delay", "jitter", "rate", "loss", "queue")


@dataclass(frozen=True, kw_only=True)
class Emulation:
    """A bad link, the same in both directions, each with its own dice.

    Parameters
    ----------
    delay, jitter : int or str
        Nanoseconds, or text (``"5ms"``): each way, and at most so much more.
    rate : int or str, optional
        bit/s, or text (``"10mbit"``). Without one there is no limit.
    loss : float or str
        Probability of a packet, 0 to 1, or text (``"1%"``).
    queue : int, optional
        Packets that may wait for the rate; more are lost. Without one, 1000 (as an Ethernet of Linux).
    seed : int, optional
        Same seed, same packets at the same times: same fate. A random one without it.

    Raises
    ------
    ConfigError
        A value that cannot be.
    """

    delay: int | str = 0
    jitter: int | str = 0
    rate: int | str | None = None
    loss: float | str = 0.0
    queue: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        try:
            values: dict[str, Any] = {
                "delay": duration_ns(self.delay),
                "jitter": duration_ns(self.jitter),
                "rate": None if self.rate is None else rate_bits(self.rate),
                "loss": _probability(self.loss),
                "queue": None if self.queue is None else int(self.queue),
                "seed": secrets.randbits(32) if self.seed is None else int(self.seed),
            }
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error)) from None
        if values["rate"] == 0:
            raise ConfigError(f"rate {self.rate!r}: more than 0")
        if values["queue"] is not None and values["queue"] < 1:
            raise ConfigError(f"queue {self.queue!r}: at least 1 packet")
        if values["queue"] is not None and values["rate"] is None:
            raise ConfigError("a queue forms where there is a rate: give that too")
        if not 0 <= values["seed"] < 1 << 62:
            raise ConfigError(f"seed {self.seed!r}: 0 to 2^62 - 1")
        if values["rate"] is not None and values["queue"] is None:
            values["queue"] = 1000
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, given: Mapping[str, Any] | Emulation | None) -> Emulation | None:
        """The bad link of some settings, or None: all are None, so the link is as it is."""
        if given is None or isinstance(given, Emulation):
            return given
        said = {name: value for name, value in given.items() if value is not None}
        if not said:
            return None
        unknown = said.keys() - {*NAMES, "seed"}
        if unknown:
            raise ConfigError(f"no setting {', '.join(sorted(unknown))} of a link: there are {', '.join(NAMES)}, seed")
        if said.keys() == {"seed"}:
            raise ConfigError(f"a seed alone makes no bad link: give one of {', '.join(NAMES)} too")
        return cls(**said)

    @property
    def settings(self) -> dict[str, Any]:
        """Those that are not as of a good link, for `netstack.link.FaultInjector` and a router's port."""
        return {name: value for name in NAMES if (value := getattr(self, name))}

    def around(self, link):
        """The link behind this bad one."""
        from netstack.link.fault_injector import FaultInjector

        return FaultInjector(link, seed=self.seed or 0, **self.settings)


def _probability(value: float | str) -> float:
    if isinstance(value, str):
        number = float(value[:-1]) / 100 if value.endswith("%") else float(value)
    else:
        number = float(value)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"loss {value!r}: a probability lies between 0 and 1, or 0% and 100%")
    return number
