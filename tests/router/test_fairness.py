"""Stacks that share a slow link, on virtual time: what the greedy get, what the others keep, and what is counted."""

import subprocess
import sys

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

import netstack
from bench import fairness
from tests.router.lan import Timed
from tests.support import ROOT

A, B, C, D = "10.77.0.2", "10.77.0.3", "10.77.0.4", "10.77.0.5"
MS = 1_000_000


def shared(rate="10mbit", queue=1000, senders=(A, B), **options):
    """A data path, stacks that send, and the one behind the slow link (D)."""
    lan = Timed(**options)
    stacks = [lan.stack(a, mtu=1500, capacity=1 << 20) for a in senders]
    last = lan.stack(D, mtu=1500)
    lan.forwarder.emulate(last.port, rate=rate, queue=queue)
    return lan, *stacks, last


def udp(src, n=0, size=1250, tos=0):
    return IP(src=src, dst=D, tos=tos) / UDP(sport=1, dport=2) / Raw(n.to_bytes(4, "big") + bytes(size - 32))


def sources(stack):
    return [p.src for p in stack.received()]


# --- row I2 ---


@pytest.mark.parametrize("codel", [False, True], ids=["", "codel"])
@pytest.mark.parametrize("kind", fairness.GREEDY)
def test_i2_a_greedy_stack_gets_its_part_and_no_more(kind, codel):
    parts = fairness.measure(kind, 3, codel=codel)
    assert parts["jain"] >= 0.98 and parts["least honest"] >= 0.95, parts
    assert parts["least data"] >= 0.95 and parts["used"] >= 0.99, parts


@pytest.mark.parametrize("kind", [k for k in fairness.GREEDY if k != "honest"])
def test_i2_without_fair_queues_the_same_stack_takes_what_it_likes(kind):
    parts = fairness.measure(kind, 3, fair=False)
    assert parts["jain"] < 0.8 and parts["greedy"] > 1.9 and parts["least honest"] < 0.7, parts


# --- the queues themselves ---


def test_turns_go_by_bytes_not_by_packets():
    lan, a, b, last = shared()
    a.send(*[udp(A, n, 1250) for n in range(50)])
    b.send(*[udp(B, n, 125) for n in range(500)])
    lan.at(0)
    got = {A: 0, B: 0}
    for ms in range(1, 61):
        lan.at(ms)
        for p in last.received():
            got[p.src] += p.len
    assert got[A] + got[B] >= 60 * 1250 - 1500, "the link is never idle"
    assert abs(got[A] - got[B]) <= 2 * 1500, "less than a turn of each apart"


def test_who_sends_little_waits_for_one_turn_of_the_others():
    lan, a, b, last = shared()
    a.send(*[udp(A, n) for n in range(100)])
    lan.at(0)
    lan.at(10)
    last.received()
    b.send(udp(B))
    lan.at(10)
    lan.at(13)
    assert B in sources(last)


def test_packets_of_one_source_keep_their_order():
    lan, a, b, last = shared()
    for stack, address in ((a, A), (b, B)):
        stack.send(*[udp(address, n) for n in range(50)])
    lan.at(0)
    got = []
    for ms in range(101):
        lan.at(ms)
        got += last.received()
    for address in (A, B):
        order = [int.from_bytes(bytes(p[UDP].payload)[:4], "big") for p in got if p.src == address]
        assert order == list(range(50))


def test_a_full_queue_drops_of_who_has_most():
    lan, a, b, last = shared(queue=10)
    a.send(*[udp(A, n) for n in range(30)])
    lan.at(0)
    assert last.counters["drop_out_emulated"] == 20
    b.send(*[udp(B, n) for n in range(4)])
    lan.at(0)
    stats = lan.forwarder.emulated(last.port)["output"]
    assert stats["crowded_out"] == 4 and stats["queue_dropped"] == 24 and stats["held"] == 10
    got = []
    for ms in range(20):
        lan.at(ms)
        got += sources(last)
    assert sorted(got) == [A] * 6 + [B] * 4
    stats = lan.forwarder.emulated(last.port)["output"]
    assert stats["pushed"] == 34 == stats["delivered"] + stats["queue_dropped"]


def test_the_room_is_shared_in_parts_whoever_comes_first():
    lan, a, b, c, last = shared(queue=31, senders=(A, B, C))
    for stack, address in ((a, A), (b, B), (c, C)):
        stack.send(*[udp(address, n) for n in range(100)])
        lan.at(0)
    got = []
    for ms in range(40):
        lan.at(ms)
        got += sources(last)
    assert len(got) == 31 and all(got.count(address) >= 9 for address in (A, B, C))


def test_late_rounds_cost_no_capacity():
    lan, a, b, last = shared()
    a.send(*[udp(A, n) for n in range(40)])
    lan.at(0)
    lan.at(39.9)                                         # nobody looked for long
    assert len(last.received()) == 39
    lan.at(40)
    assert len(last.received()) == 1


def test_one_queue_for_all_when_told_so():
    lan, a, b, last = shared(queue=10, fair=False)
    a.send(*[udp(A, n) for n in range(30)])
    lan.at(0)
    b.send(*[udp(B, n) for n in range(4)])
    lan.at(0)
    for ms in range(20):
        lan.at(ms)
    assert sources(last) == [A] * 10


def test_waiting_packets_are_dropped_and_counted_when_the_stack_leaves():
    lan, a, b, last = shared()
    a.send(*[udp(A, n) for n in range(10)])
    lan.at(0)
    assert last.counters["queued"] == 10
    lan.forwarder.advance_epoch(last.port)
    lan.check()
    assert last.counters["drop_out_old_epoch"] == 10
    a.send(*[udp(A, n) for n in range(10)])
    lan.at(1)
    assert lan.forwarder.remove(last.port)["drop_out_detached"] == 10
    lan.check()


def test_a_source_that_leaves_takes_nothing_back():
    lan, a, b, last = shared()
    a.send(*[udp(A, n) for n in range(10)])
    lan.at(0)
    lan.forwarder.remove(a.port)
    b.send(udp(B))
    for ms in range(12):
        lan.at(ms)
    assert sorted(sources(last)) == [A] * 10 + [B]


def test_without_a_rate_any_more_all_go_at_once():
    lan, a, b, last = shared()
    a.send(*[udp(A, n) for n in range(10)])
    lan.at(0)
    lan.forwarder.emulate(last.port, delay="1ms", rate=None)
    lan.at(1)
    lan.at(2)
    assert len(sources(last)) == 10


def test_memory_of_waiting_packets_is_bounded():
    lan = Timed()
    a, last = lan.stack(A, capacity=1 << 20), lan.stack(D)
    lan.forwarder.emulate(last.port, rate="1kbit")
    sent = 0
    while "drop_out_emulated" not in last.counters:
        a.send(udp(A, size=60_000))
        lan.at(0)
        sent += 1
        assert sent < 1000
    assert last.counters["queued"] * 60_000 <= 16 << 20


# --- what waits for a stack that reads slowly ---


def stalled(mtu=1500, **options):
    """A stack (D) whose ring is full, and two that send to it."""
    lan = Timed(queue_limit=200_000, **options)
    a, b, last = lan.stack(A, capacity=1 << 20), lan.stack(B), lan.stack(D, mtu=mtu)
    while "queued" not in last.counters:
        a.send(*[udp(A) for _ in range(50)])
        lan.at(0)
    return lan, a, b, last


def test_i2_a_flood_towards_a_slow_reader_leaves_room_for_others():
    lan, a, b, last = stalled()
    for _ in range(10):
        a.send(*[udp(A) for _ in range(50)])
        lan.at(0)
    assert last.counters["drop_out_queue_full"] > 100 and lan.forwarder.queue_bytes(last.port) <= 200_000
    b.send(*[udp(B, n) for n in range(40)])
    lan.at(0)
    before = len(sources(last))                          # what lay in the ring
    lan.at(1)
    behind = sources(last)
    assert before > 100 and behind.count(B) == 40
    assert behind[:80].count(B) >= 39, "in turn, not behind the flood"
    assert lan.forwarder.queue_bytes(last.port) == 0 and lan.forwarder.counters(last.port)["queued"] == 0


def test_without_fair_queues_the_flood_is_all_there_is():
    lan, a, b, last = stalled(fair=False)
    for _ in range(10):
        a.send(*[udp(A) for _ in range(50)])
        lan.at(0)
    b.send(*[udp(B, n) for n in range(40)])
    lan.at(0)
    sources(last)
    lan.at(1)
    assert B not in sources(last)


def test_a_large_packet_makes_as_many_small_ones_go_as_it_needs():
    lan, a, b, last = stalled(mtu=65535)
    for _ in range(10):
        a.send(*[udp(A, size=60) for _ in range(200)])
        lan.at(0)
    b.send(udp(B, size=60_000))
    lan.at(0)
    assert lan.forwarder.queue_bytes(last.port) <= 200_000
    last.received()
    lan.at(1)
    assert B in sources(last)


# --- CoDel (RFC 8289) ---


def standing_queue(tos, **options):
    """Half as much again as the link carries for two seconds; returns what became of it."""
    lan, a, b, last = shared(queue=10_000, senders=(A, B), **options)
    got = []
    for ms in range(0, 2000, 2):
        a.send(*[udp(A, ms, tos=tos) for _ in range(3)])             # three in the time of two
        lan.at(ms)
        got += last.received()
    return lan.forwarder.emulated(last.port)["output"], got


def test_codel_drops_more_and_more_of_a_queue_that_stands():
    stats, got = standing_queue(0, codel=True)
    assert 20 < stats["codel_dropped"] < 400 and stats["codel_marked"] == 0
    assert stats["queue_dropped"] == stats["codel_dropped"]
    plain, _ = standing_queue(0)
    assert plain["codel_dropped"] == plain["queue_dropped"] == 0


def test_codel_marks_instead_where_the_transport_knows_ecn():
    stats, got = standing_queue(2, codel=True)
    assert stats["codel_dropped"] == stats["queue_dropped"] == 0
    marked = [p for p in got if p.tos & 3 == 3]
    assert stats["codel_marked"] >= len(marked) > 5
    for p in marked:
        again = p.copy()
        del again[IP].chksum
        assert bytes(again) == bytes(p), "the header's checksum moves with the mark"


def test_codel_leaves_a_queue_alone_that_drains():
    lan, a, b, last = shared(codel=True)
    for ms in range(0, 2000, 50):
        a.send(*[udp(A, n) for n in range(30)])          # 30 ms of every 50
        lan.at(ms)
        for later in range(1, 50):
            lan.at(ms + later)
        last.received()
    assert lan.forwarder.emulated(last.port)["output"]["queue_dropped"] == 0


# --- how it is said ---


def test_a_router_has_fair_queues_unless_told_otherwise(runtime):
    for options, there in (({}, True), ({"fair": False}, False)):
        with netstack.Router(emulation={"rate": "10mbit"}, **options) as router, router.attach() as a:
            assert ("crowded_out" in router._forwarder.emulated(a.id)["output"]) is there


@pytest.mark.parametrize("option", ["--no-fair", "--codel"])
def test_the_command_knows_them(option):
    command = [sys.executable, "-m", "netstack", "router", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert option in done.stdout
