"""The queue link: two bounded queues, or one that loops."""

import collections

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from netstack.link.queue import QueueLink
from netstack.testing.link_driver import LinkDriver
from netstack.testing.probe import InterfaceProbe
from tests.support import scale


def test_what_is_sent_waits_to_be_popped_in_order_with_its_time():
    probe = InterfaceProbe()
    packets = [(bytes([n]) * (30 + n), n * 7) for n in range(200)]
    for data, when in packets:
        assert probe.send("10.0.0.2", data, when) == 0
    assert probe.sent() == packets


@pytest.mark.parametrize("size", [0, 65554])
def test_a_packet_no_frame_can_be_is_refused(size):
    with pytest.raises(ValueError, match=str(size)):
        QueueLink().push(bytes(size))


def test_a_full_input_says_so_and_takes_no_more():
    link = QueueLink(limit=10_000)
    with pytest.raises(BlockingIOError):
        for _ in range(100):
            link.push(bytes(1000))
    assert link.waiting == (0, 9)


@pytest.mark.parametrize("bad", [{"mtu": 67}, {"mtu": 65536}, {"media": "token ring"}, {"limit": 0}, {"limit": -1}])
def test_settings_that_cannot_be_raise(bad):
    with pytest.raises(ValueError):
        QueueLink(**bad)


def test_a_loop_shows_nothing_to_pop():
    link = QueueLink(loop=True)
    link.push(b"x")
    assert link.pop() is None
    assert link.waiting == (1, 1)


class QueueIsADeque(RuleBasedStateMachine):
    """Pushes, claims, pops and passes of a reader in any order, beside two deques."""

    @initialize(loop=st.booleans(), limit=st.sampled_from([5000, 100_000, 10_000_000]))
    def start(self, loop, limit):
        self.link = QueueLink(65535, loop=loop, limit=limit)
        self.driver = LinkDriver(self.link)
        self.loop = loop
        self.rx = collections.deque()
        self.tx = self.rx if loop else collections.deque()
        self.number = 0

    def packet(self, size):
        self.number += 1
        return (self.number.to_bytes(4, "big") * (size // 4 + 1))[:size]

    @rule(size=st.one_of(st.integers(1, 200), st.integers(1, 65535)))
    def push(self, size):
        data = self.packet(size)
        try:
            self.link.push(data)
        except BlockingIOError:
            return
        self.rx.append(data)

    @rule(size=st.one_of(st.integers(1, 200), st.integers(1, 65535)), when=st.integers(0, 1 << 60))
    def send(self, size, when):
        data = self.packet(size)
        if self.driver.send(data, now_ns=when):
            self.tx.append(data if self.loop else (data, when))

    @rule()
    def pop(self):
        wanted = None if self.loop or not self.tx else self.tx.popleft()
        assert self.link.pop() == wanted

    @rule(n=st.integers(1, 20))
    def receive(self, n):
        wanted = [self.rx.popleft() for _ in range(min(n, len(self.rx)))]
        assert self.driver.receive(n) == wanted

    @invariant()
    def counts(self):
        if hasattr(self, "link"):
            assert self.link.waiting == (len(self.tx), len(self.rx))


QueueIsADeque.TestCase.settings = settings(max_examples=scale(300), stateful_step_count=60, deadline=None)
TestQueueIsADeque = QueueIsADeque.TestCase


def test_a_claim_given_up_for_a_larger_one_leaves_no_gap():
    """The smaller claim opened a block that stays empty between two that are not."""
    link = QueueLink(65535)
    driver = LinkDriver(link)
    for count in (20, 16):  # 16 such packets fill a block; emptying the queue leaves a spare one
        for number in range(count):
            assert driver.send(bytes([number]) * 1000)
        if count == 20:
            assert [link.pop()[0][0] for _ in range(20)] == list(range(20))
    assert driver.claim(1000)
    assert driver.send(bytes([99]) * 65000)
    assert [link.pop()[0][0] for _ in range(17)] == [*range(16), 99]
    assert link.pop() is None
