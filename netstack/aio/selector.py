"""The selector of an event loop: it sleeps for the loop's hosts as well."""

from __future__ import annotations

import selectors

from netstack.aio.poller import Poller


class Selector(selectors.DefaultSelector):
    """As the default selector; its sleeps drive the hosts whose pollers were added, and end when they need the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.pollers: list[Poller] = []

    def add(self, poller: Poller) -> None:
        self.pollers.append(poller)
        for fd in poller.fds:
            self.register(fd, selectors.EVENT_READ, poller)

    def remove(self, poller: Poller) -> None:
        self.pollers.remove(poller)
        for fd in poller.fds:
            self.unregister(fd)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Registered files that are ready; which sockets of the hosts are, say the pollers."""
        pollers = self.pollers
        if not pollers:
            return super().select(timeout)
        rang: dict[Poller, list[int]] = {}
        try:
            for poller in pollers:
                timeout = poller.sleeps(timeout)
            events = super().select(timeout)
            for key, _ in events:
                if type(key.data) is Poller:
                    rang.setdefault(key.data, []).append(key.fd)
        finally:
            for poller in pollers:
                poller.woke(rang.get(poller, ()))
        if rang:
            return [event for event in events if type(event[0].data) is not Poller]
        return events
