"""What one attachment may cost the router: stacks that send what is dear to forward, beside one that does not."""

import pytest

from bench.forwarding import packet
from bench.work import tcp
from netstack.router.devices.device import FileDevice
from tests.router.lan import Lan, put, take

A, B, C = "10.77.0.2", "10.77.0.3", "10.77.0.4"
QUANTUM = 64 * 1024          # budget.pxd
PACKET, KICK = 1000, 12000
NOW = 10**9


class Busy(Lan):
    """An attacker at A, a bystander at B who sends to C."""

    def __init__(self, **options):
        super().__init__(**options)
        self.attacker = self.stack(A, capacity=4 << 20)
        self.bystander, self.far = self.stack(B), self.stack(C)
        self.before = lambda: None           # of each round of an attack

    def round(self):
        self.forwarder.run_once(NOW)
        self.check()

    def fill(self, stack, raw, most):
        """As many as the ring takes, at most so many: how many."""
        packets, n = raw if isinstance(raw, list) else [raw], 0
        while n < most and put(stack.channel, packets[n % len(packets)]):
            n += 1
        stack.channel.flush()
        return n

    def spent(self):
        return self.forwarder.counters()["work"]


def doorbells(lan):
    """Each to another stack, all of them asleep."""
    sleepers = [lan.stack(f"10.77.1.{n}").channel for n in range(1, 65)]

    def asleep():
        for channel in sleepers:
            while take(channel) is not None:
                pass
            channel.rx.arm()

    lan.before = asleep
    return [packet(A, f"10.77.1.{n}", 100) for n in range(1, 65)]


def full_ring(lan):
    lan.stack("10.77.0.5")
    return packet(A, "10.77.0.5", 60_000)


def device(lan):
    import socket

    near, lan.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    lan.forwarder.add_uplink(FileDevice(near.detach(), ethernet=False))
    return packet(A, "198.51.100.1", 100)


def pieces(lan):
    device(lan)
    return tcp(packet(A, "198.51.100.1", 60_000))


ATTACKS = {"doorbells": doorbells, "a full ring": full_ring, "a device": device, "pieces": pieces}
COLLAPSE = {"doorbells": 6, "a full ring": 4, "a device": 9, "pieces": 50}
OWN = PACKET + 100


def attacked(attack, **options):
    """Rounds in which both always have packets: those of the attacker for each of the bystander, and the data path."""
    lan = Busy(**options)
    raw = ATTACKS[attack](lan)
    for _ in range(100):
        lan.before()
        lan.fill(lan.attacker, raw, 64)
        lan.fill(lan.bystander, packet(B, C, 100), 80)
        lan.round()
        while take(lan.far.channel) is not None:
            pass
    return lan.attacker.counters["in_packets"] / lan.bystander.counters["in_packets"], lan


@pytest.mark.parametrize("attack", ATTACKS)
def test_i3_a_stack_that_costs_much_gets_as_much_work_as_one_that_does_not(attack):
    with_budget, lan = attacked(attack)
    attacker, bystander = lan.attacker.counters, lan.bystander.counters
    each = attacker["work"] / attacker["in_packets"]
    assert 1 + with_budget * each / OWN <= 2.2, "the router's work for each packet of the bystander, times its own"
    assert "deferred" not in bystander and bystander["in_packets"] >= 100 * 59
    without, _ = attacked(attack, budget=False)
    assert 1 + without * each / OWN > COLLAPSE[attack], "when packets are counted and not work"


def test_i3_a_bystander_with_a_packet_now_and_then_waits_for_one_turn_of_the_attacker():
    lan = Busy()
    raw = pieces(lan)
    lan.fill(lan.attacker, raw, 60)
    lan.round()
    dearest = lan.attacker.counters["work"] / lan.attacker.counters["in_packets"]
    for _ in range(50):
        before = lan.spent()
        lan.bystander.send(packet(B, C, 100))
        lan.round()
        assert take(lan.far.channel) is not None
        assert lan.spent() - before <= QUANTUM + dearest + KICK + PACKET + 100, "a turn, and one packet more at most"


def test_i3_nobody_waits_while_others_have_nothing():
    lan = Busy()
    lan.fill(lan.attacker, pieces(lan), 40)
    rounds = 0
    while lan.attacker.counters.get("in_packets", 0) < 40:
        lan.round()
        rounds += 1
    assert rounds <= 40 and lan.forwarder.rounds == rounds


def test_i3_a_debt_is_paid_by_rounds_in_which_others_have_work():
    lan = Busy()
    lan.fill(lan.attacker, pieces(lan), 40)
    lan.round()
    taken, cost = lan.attacker.counters["in_packets"], lan.attacker.counters["work"]
    assert taken == 1 and cost > 2 * QUANTUM
    waited = 0
    while lan.attacker.counters["in_packets"] == taken:
        lan.bystander.send(packet(B, C, 100))
        lan.round()
        waited += 1
    assert waited == 1 + (cost - QUANTUM) // QUANTUM and lan.attacker.counters["deferred"] == waited - 1


def test_packets_that_a_limit_or_a_debt_holds_back_are_all_forwarded_in_the_end():
    lan = Busy()
    raw, n = full_ring(lan), 0
    for _ in range(50):
        n += lan.fill(lan.attacker, raw, 4)
        lan.bystander.send(packet(B, C, 100))
        lan.round()
        take(lan.far.channel)
    lan.run()
    assert n > 100 and lan.attacker.counters["in_packets"] == n


def test_work_is_counted_for_who_caused_it():
    lan = Busy()
    lan.bystander.send(*[packet(B, C, 100)] * 10)
    lan.run()
    assert lan.bystander.counters["work"] == 10 * (PACKET + 100) + KICK * lan.far.counters.get("kicks", 0)
    assert "work" not in lan.far.counters and "work" not in lan.attacker.counters
