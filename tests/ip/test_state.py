"""An interface saved and restored at any moment, under another clock, goes on as if nothing had happened."""

import random

import pytest

from netstack.testing.probe import InterfaceProbe
from netstack.wire import arp, ethernet, ipv4
from tests.support import scale

S = 1_000_000_000
OURS = dict(addresses=("10.0.0.1/16",), media="ethernet", mac="02:00:00:00:00:01")


def play(seed: int, moments: set[int]) -> list:
    """A random hour of an interface; at each moment it is replaced by what was restored from its bytes."""
    rng = random.Random(seed)
    probe = InterfaceProbe(**OURS)
    log, shift, now = [], 0, 0
    for step in range(300):
        if step in moments:
            shift_before, shift = shift, rng.randrange(-(10**15), 10**15)
            state = probe.save(now + shift_before)
            log += probe.unreachable
            probe = InterfaceProbe(**OURS)
            probe.restore(state, now + shift)
        else:
            rng.randrange(-(10**15), 10**15)  # the same chance in both plays
        now += rng.choice((1, 1000, S // 3, S, 31 * S))
        deadline = probe.next_deadline()
        while deadline is not None and deadline - shift <= now:
            probe.advance(deadline)
            log.append(("deadline", deadline - shift))
            deadline = probe.next_deadline()
        host = rng.randrange(2, 12)
        data = ipv4.build("10.0.0.1", f"10.0.0.{host}", 17, step.to_bytes(4, "big"))
        log.append(probe.send(f"10.0.0.{host}", data, now + shift))
        if rng.random() < 0.5:
            target = rng.randrange(2, 12)
            mac = f"02:00:00:00:{rng.choice((1, 1, 2)):02x}:{target:02x}"
            answer = arp.build(arp.REPLY, mac, f"10.0.0.{target}", OURS["mac"], "10.0.0.1")
            log.append(probe.input(ethernet.build(OURS["mac"], mac, 0x806, answer), now + shift)[0])
        for _ in range(rng.randrange(8)):
            probe.send_unreachable(ipv4.build("10.0.9.9", "10.0.0.1", 17, bytes(20)), 3, now + shift)
        if rng.random() < 0.1:
            claim = arp.build(arp.REQUEST, "02:00:00:00:00:66", "10.0.0.1", bytes(6), "10.0.0.1")
            probe.input(ethernet.build("ff:ff:ff:ff:ff:ff", "02:00:00:00:00:66", 0x806, claim), now + shift)
        log += [(frame, when - shift) for frame, when in probe.sent()]
        log.append((probe.neighbors, probe.waiting_bytes))
    return log + probe.unreachable


@pytest.mark.parametrize("seed", range(scale(100)))
def test_a_restored_interface_sends_the_same_frames_at_the_same_times(seed):
    rng = random.Random(-seed)
    once = {rng.randrange(300)}
    often = {rng.randrange(300) for _ in range(40)}
    undisturbed = play(seed, set())
    frames = [item for item in undisturbed if not isinstance(item, bytes)]
    for moments in (once, often):
        assert [item for item in play(seed, moments) if not isinstance(item, bytes)] == frames


def busy() -> bytes:
    probe = InterfaceProbe(**OURS)
    for number in range(5):
        probe.send("10.0.0.2", bytes(40 + number), number)
        probe.send(f"10.0.0.{number + 3}", bytes(60), number)
    return probe.save(100)


def test_every_truncation_of_a_state_is_refused():
    state = busy()
    for length in range(len(state)):
        with pytest.raises(ValueError):
            InterfaceProbe(**OURS).restore(state[:length], 0)
    InterfaceProbe(**OURS).restore(state, 0)


def test_mutated_states_are_restored_or_refused():
    rng = random.Random(3)
    state = busy()
    outcomes = set()
    for _ in range(scale(20_000)):
        data = bytearray(state)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        probe = InterfaceProbe(**OURS)
        try:
            probe.restore(bytes(data), 0)
        except ValueError:
            outcomes.add("refused")
            continue
        outcomes.add("restored")
        probe.advance(10 * S)
        probe.send("10.0.0.2", bytes(40), 20 * S)
    assert outcomes == {"restored", "refused"}


def test_a_used_interface_does_not_take_another_state():
    probe = InterfaceProbe(**OURS)
    probe.send("10.0.0.2", bytes(40))
    with pytest.raises(ValueError):
        probe.restore(busy(), 0)
