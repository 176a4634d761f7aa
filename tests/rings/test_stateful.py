"""The ring is a deque: any sequence of calls on both, compared at every step."""

import collections

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import rings

CAPACITY = 2048
messages = st.one_of(
    st.binary(max_size=80),
    st.integers(0, 1200).map(lambda n: bytes((n + i) & 0xFF for i in range(n))),
)


class RingMachine(RuleBasedStateMachine):
    backend = "posix"

    @initialize()
    def make(self):
        self.producer, self.consumer = rings.ring(CAPACITY, self.backend)
        self.sent = collections.deque()
        self.peeked = []  # (view, message) taken from the ring's end of the deque, not released
        self.closed = False

    def teardown(self):
        if hasattr(self, "producer"):
            self.producer.close()
            self.consumer.close()

    def put_one(self, message, put):
        if self.closed:
            return
        try:
            put(message)
        except rings.RingSizeError:
            assert len(message) > self.producer.max_message
        except rings.RingFull:
            assert len(message) <= self.producer.max_message
            assert self.sent or self.peeked
        else:
            self.sent.append(message)

    @rule(message=messages)
    def put(self, message):
        self.put_one(message, self.producer.put_nowait)

    @rule(message=messages, cut=st.integers(0, 1200))
    def claim_and_publish(self, message, cut):
        def put(message):
            window = self.producer.claim(len(message), timeout=0)
            window[:] = message
            self.producer.publish()

        self.put_one(message, put)

    @rule(message=messages, cut=st.integers(0, 300))
    def claim_more_than_is_published(self, message, cut):
        def put(message):
            window = self.producer.claim(len(message) + cut, timeout=0)
            window[: len(message)] = message
            self.producer.publish(len(message))

        if len(message) + cut <= self.producer.max_message if not self.closed else False:
            self.put_one(message, put)

    @rule(length=st.integers(0, 900))
    def drop_a_claim(self, length):
        if not self.closed:
            try:
                self.producer.claim(length, timeout=0)[:] = b"x" * length
            except rings.RingFull:
                assert self.sent or self.peeked

    @rule(batch=st.lists(st.binary(max_size=200), max_size=40))
    def put_many(self, batch):
        if self.closed:
            return
        count = self.producer.put_many(batch, timeout=0)
        assert 0 <= count <= len(batch)
        self.sent.extend(batch[:count])

    def expect_nothing(self, call):
        with pytest.raises(rings.RingClosed if self.closed else rings.RingEmpty):
            call()

    @rule()
    def get(self):
        if not self.sent:
            return self.expect_nothing(self.consumer.get_nowait)
        self.peeked.clear()
        assert self.consumer.get_nowait() == self.sent.popleft()

    @rule(most=st.integers(1, 50))
    def get_many(self, most):
        if not self.sent:
            return self.expect_nothing(lambda: self.consumer.get_many(most, timeout=0))
        self.peeked.clear()
        got = self.consumer.get_many(most, timeout=0)
        assert 1 <= len(got) <= most
        assert len(got) == min(most, len(self.sent))
        assert got == [self.sent.popleft() for _ in got]

    @rule(size=st.integers(0, 400))
    def get_into(self, size):
        if not self.sent:
            return self.expect_nothing(lambda: self.consumer.get_into(bytearray(size), timeout=0))
        buffer = bytearray(size)
        if len(self.sent[0]) > size:
            with pytest.raises(rings.RingSizeError):
                self.consumer.get_into(buffer, timeout=0)
        else:
            self.peeked.clear()
            n = self.consumer.get_into(buffer, timeout=0)
            assert buffer[:n] == self.sent.popleft()

    @rule()
    def peek(self):
        if not self.sent:
            return self.expect_nothing(lambda: self.consumer.peek(timeout=0))
        self.peeked.append((self.consumer.peek(timeout=0), self.sent.popleft()))

    @rule()
    def release(self):
        views = [view for view, _ in self.peeked]
        self.peeked.clear()
        self.consumer.release()
        for view in views:
            with pytest.raises(ValueError):
                view[:1]

    @precondition(lambda self: not self.closed)
    @rule()
    def empty_ring_takes_the_longest_message(self):
        if self.peeked:
            self.release()
        while self.sent:
            self.get()
        self.expect_nothing(self.consumer.get_nowait)
        self.put(bytes(self.producer.max_message))
        assert self.sent

    @precondition(lambda self: not self.closed)
    @rule(chance=st.integers(0, 9))
    def close(self, chance):
        if chance == 0:
            self.producer.close()
            self.closed = True

    @invariant()
    def what_is_peeked_stays(self):
        for view, message in getattr(self, "peeked", ()):
            assert view == message


@pytest.mark.parametrize("backend", ["posix", "memfd"])
def test_any_sequence_of_calls_behaves_as_a_deque(backend):
    class Machine(RingMachine):
        pass

    Machine.backend = backend
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=60, stateful_step_count=60, deadline=None, derandomize=True)
    )
