"""Rows I3, I4 and I6 of the security checklist: attachments of one router, one of which means ill."""

import threading

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Raw

from netstack.router import Router
from tests.router.conftest import backend, runtime  # noqa: F401
from tests.router.lan import Lan, put, take, wait_until
from tests.router.test_hostile import Bystanders
from tests.support import scale

A, B, C = "10.77.0.2", "10.77.0.3", "10.77.0.4"
VISIT = 64                       # packets taken of one port before the next has its turn


def udp(src, dst, payload=b""):
    return IP(src=src, dst=dst) / UDP(sport=1, dport=2) / Raw(payload)


@pytest.mark.parametrize("others", [1, 5])
def test_i3_a_flood_of_small_packets_has_a_bounded_turn(others):
    """However much waits in one ring, a round takes a batch of it, and the packet of another goes in the same round."""
    lan = Lan()
    flooder, sink = lan.stack(A), lan.stack(B)
    quiet = [lan.stack(f"10.77.1.{n}") for n in range(others)]
    small = bytes(udp(A, B, bytes(36)))
    for turn in range(40):
        while put(flooder.channel, small):
            pass
        flooder.channel.flush()
        for stack in quiet:
            stack.send(udp(stack.address, C if turn % 2 else B, turn.to_bytes(2, "big")))
        taken = lan.forwarder.run_once()
        assert taken <= VISIT + others
        assert [stack.counters["in_packets"] for stack in quiet] == [turn + 1] * others
        sink.received()
    assert flooder.counters["in_packets"] <= 40 * VISIT


def test_i3_a_flood_with_doorbells_loses_nothing_of_others(runtime, backend):  # noqa: F811
    with Router(backend=backend, ring_capacity=1 << 18) as router, Bystanders(router) as others:
        with router.attach() as storm:
            channel = storm.link.channel
            packet, bell = bytes(udp(storm.address, "10.77.0.1", bytes(36))), channel.peer_doorbells[1]
            stop = threading.Event()

            def flood():
                while not stop.is_set():
                    while put(channel, packet):
                        pass
                    channel.flush()
                    bell.kick()
                    while take(channel) is not None:
                        pass

            thread = threading.Thread(target=flood)
            thread.start()
            seen = others.count
            try:
                wait_until(lambda: others.count > seen + scale(2000), 60)
            finally:
                stop.set()
                thread.join()
            assert router.counters(storm.id)["in_packets"] > 1000


@pytest.mark.parametrize("free_slots", [0, 1, 2])
def test_i4_a_stalled_consumer_with_a_few_free_slots(free_slots):
    """XSA-392: a consumer that leaves a slot free is as stalled as one that leaves none."""
    lan = Lan(queue_limit=50_000)
    sender, stalled, other = lan.stack(A), lan.stack(B), lan.stack(C)
    large = udp(A, B, bytes(8000))
    sent = 0
    while not stalled.counters.get("drop_out_queue_full"):
        sender.send(large)
        lan.run()
        sent += 1
        assert sent < 1000, "what waits has no bound"
    for _ in range(free_slots):
        take(stalled.channel)
    for _ in range(50):
        sender.send(large, udp(A, C))
        lan.run()
        assert lan.forwarder.queue_bytes(stalled.port) <= 50_000
    assert len(other.received()) == 50 and not other.drops() and not sender.drops()


CANARY = b"canary of A 0123456789 do not read"


def test_i6_nothing_of_one_stack_is_ever_seen_by_another(runtime, backend):  # noqa: F811
    """Neither in rings that live beside each other nor in those that come after: every page is new or zeroed."""
    def memory(attachment):
        return [bytes(region.buf) for region in attachment.link.channel._regions]

    with Router(backend=backend, ring_capacity=1 << 18) as router:
        neighbour = router.attach()
        for _ in range(scale(100, 5)):
            with router.attach() as first:
                channel = first.link.channel
                for destination in ("10.77.0.1", "10.77.9.9", "192.0.2.1"):
                    for _ in range(20):
                        put(channel, udp(first.address, destination, CANARY * 20))
                        put(channel, IP(src=first.address, dst=destination) / ICMP() / Raw(CANARY * 20))
                    channel.flush()
                wait_until(lambda: router.counters(first.id)["in_packets"] >= 120)  # noqa: B023
                assert any(CANARY in part for part in memory(first)), "the search finds what is there"
                assert not any(CANARY in part for part in memory(neighbour))
            with router.attach() as second:
                assert not any(CANARY in part for part in memory(second))
        neighbour.close()
