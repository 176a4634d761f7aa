"""Answers that are still true: each as long as its TTL says, the longest unused goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

TTL_MOST_S = 86400               # a day, whatever the answer says (RFC 8767 section 4: a week at most)

T = TypeVar("T")


class Cache(Generic[T]):
    """At most ``size`` values, each for some seconds.

    Parameters
    ----------
    size : int
        0 keeps nothing.
    clock : callable
        Seconds that never go back.
    """

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, tuple[float, T]] = OrderedDict()

    def get(self, key: Hashable) -> T | None:
        """What is known and still true."""
        with self._lock:
            until, value = self._values.get(key, (0.0, None))
            if value is None:
                return None
            if self._clock() >= until:
                del self._values[key]
                return None
            self._values.move_to_end(key)
            return value

    def put(self, key: Hashable, value: T, ttl_s: float) -> None:
        """Remember for ``ttl_s`` seconds."""
        if ttl_s <= 0 or self._size == 0:
            return
        with self._lock:
            self._values[key] = self._clock() + min(ttl_s, TTL_MOST_S), value
            self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._values.clear()

    def __len__(self) -> int:
        return len(self._values)
