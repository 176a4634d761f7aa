"""A data path whose stacks share an address, without stacks: raw packets, and a clock of the test's."""

from __future__ import annotations

from netstack.router.pool import pack_address
from netstack.router.sharing import SharedAddresses
from rings.channel import channel_pair
from tests.router.lan import Lan, Stack

SHARED, SHARED6, OTHER, OTHER6, ROUTER = "10.77.0.2", "fd77::2", "10.77.0.9", "fd77::9", "10.77.0.1"
SECOND_NS = 1_000_000_000


class Sharer(Stack):
    """An attachment of the shared address."""

    def __init__(self, lan: SharedLan, uid: int = 1000):
        self.lan = lan
        self.address = SHARED
        self.here, self.channel = channel_pair(1 << 20)
        self.port = lan.forwarder.add_stack(self.here.tx, self.here.rx, self.here.fileno(), self.here.peer_fds)
        lan.shared.join(self.port, uid)

    def claim(self, number: int, kind: int = 0, flags: int = 0) -> None:
        self.lan.shared.claim(self.port, kind, number, flags)

    def release(self, number: int, kind: int = 0) -> None:
        self.lan.shared.release(self.port, kind, number)

    def lease(self, kind: int = 0) -> list[int]:
        return self.lan.shared.lease(self.port, kind)

    def leave(self) -> None:
        self.lan.forwarder.remove(self.port)


class SharedLan(Lan):
    """One shared address of each version; `OTHER` is a stack with an address of its own."""

    def __init__(self):
        super().__init__("10.77.0.0/16", "fd77::/64", router=ROUTER)
        self.shared = SharedAddresses(self.forwarder, [pack_address(SHARED), pack_address(SHARED6)])
        self.now = 1_000 * SECOND_NS
        self.other = self.stack(OTHER, OTHER6)
        self.run()

    def sharer(self, uid: int = 1000) -> Sharer:
        return Sharer(self, uid)

    def sleep(self, seconds: float) -> None:
        self.now += int(seconds * SECOND_NS)
        self.run()

    def run(self) -> int:
        """Rounds until nobody has anything; conservation holds afterwards."""
        total = 0
        while n := self.forwarder.run_once(self.now):
            total += n
        self.check()
        return total
