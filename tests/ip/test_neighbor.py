"""ARP on virtual time: asking, queueing, answering, expiry, and who is believed (security rows H1, H4)."""

import random

import pytest
from scapy.layers.l2 import ARP, Ether

from netstack.counters import DropReason as R
from netstack.testing.probe import InterfaceProbe
from netstack.wire import arp, ethernet, ipv4
from tests.support import scale

S = 1_000_000_000
US, PEER, OTHER = "10.0.0.1", "10.0.0.2", "10.0.0.3"
OUR_MAC, PEER_MAC, EVIL_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:66"
EVERYBODY = "ff:ff:ff:ff:ff:ff"
CLAIM_OK, CLAIM_FULL, CLAIM_UNREACHABLE, CLAIM_DROPPED = 0, -1, -2, -3


@pytest.fixture
def probe():
    return InterfaceProbe((f"{US}/24",), media="ethernet", mac=OUR_MAC, gateway="10.0.0.254")


def packet(number=0, dst=PEER, size=10) -> bytes:
    return ipv4.build(US, dst, 17, number.to_bytes(2, "big") + bytes(size))


def says(operation, sender_mac, sender, target_mac, target, to=OUR_MAC) -> bytes:
    return ethernet.build(to, sender_mac, 0x806, arp.build(operation, sender_mac, sender, target_mac, target))


def reply(mac=PEER_MAC, address=PEER) -> bytes:
    return says(arp.REPLY, mac, address, OUR_MAC, US)


def question(target_mac_on_wire, target=PEER) -> bytes:
    return says(arp.REQUEST, OUR_MAC, US, "00:00:00:00:00:00", target, to=target_mac_on_wire)


def sent(probe) -> list[bytes]:
    return [data for data, _ in probe.sent()]


def known(probe, now=0, address=PEER, mac=PEER_MAC):
    """Resolve a neighbour and forget what was sent for it."""
    assert probe.send(address, packet(dst=address), now) == CLAIM_OK
    assert probe.input(reply(mac, address), now)[0] == R.DROP_NONE
    assert probe.neighbors[address][0] == "reachable"
    probe.sent()


# ---- resolving ---------------------------------------------------------------------


def test_the_first_packet_asks_and_waits_and_leaves_with_the_answer(probe):
    assert probe.send(PEER, packet(), 100) == CLAIM_OK
    assert probe.sent() == [(question(EVERYBODY), 100)]
    assert probe.neighbors == {PEER: ("incomplete", "00:00:00:00:00:00", 1)}
    reason, got = probe.input(reply(), 250)
    assert (reason, got.protocol) == (R.DROP_NONE, 255)
    assert probe.sent() == [(ethernet.build(PEER_MAC, OUR_MAC, 0x800, packet()), 250)]
    assert probe.neighbors == {PEER: ("reachable", PEER_MAC, 0)}
    assert probe.waiting_bytes == 0


def test_scapy_understands_the_question_and_we_its_answer(probe):
    probe.send(PEER, packet())
    asked = Ether(sent(probe)[0])
    assert (asked.dst, asked.src) == (EVERYBODY, OUR_MAC)
    assert (asked[ARP].op, asked[ARP].hwsrc, asked[ARP].psrc, asked[ARP].pdst) == (1, OUR_MAC, US, PEER)
    answer = Ether(dst=OUR_MAC, src=PEER_MAC) / ARP(op=2, hwsrc=PEER_MAC, psrc=PEER, hwdst=OUR_MAC, pdst=US)
    assert probe.input(bytes(answer).ljust(60, b"\0"))[0] == R.DROP_NONE
    assert len(sent(probe)) == 1


def test_packets_that_waited_leave_in_order_and_later_ones_behind_them(probe):
    for number in range(16):
        assert probe.send(PEER, packet(number), number) == CLAIM_OK
    probe.sent()
    probe.input(reply(), 50)
    probe.send(PEER, packet(99), 51)
    assert [data[34:36] for data in sent(probe)] == [n.to_bytes(2, "big") for n in [*range(16), 99]]


def test_a_known_neighbour_needs_no_question(probe):
    known(probe)
    probe.send(PEER, packet(), 29 * S)
    assert sent(probe) == [ethernet.build(PEER_MAC, OUR_MAC, 0x800, packet())]


def test_questions_are_repeated_each_second_and_then_it_is_over(probe):
    probe.send(PEER, packet(1))
    probe.send(PEER, packet(2))
    times = []
    while probe.next_deadline() is not None:
        times.append(probe.next_deadline())
        probe.advance(times[-1] - 1)
        assert probe.next_deadline() == times[-1]
        probe.advance(times[-1])
    assert times == [1 * S, 2 * S, 3 * S]
    assert probe.unreachable == [packet(1), packet(2)]
    assert probe.counters["drop_neighbor_unreachable"] == 2
    assert probe.neighbors[PEER][0] == "failed"
    assert probe.waiting_bytes == 0


def test_three_questions_go_out_and_no_more(probe):
    probe.send(PEER, packet())
    for second in range(1, 10):
        probe.advance(second * S)
    assert probe.sent() == [(question(EVERYBODY), t * S) for t in (0, 1, 2)]


def test_a_failure_is_remembered_for_a_second_and_then_asked_again(probe):
    probe.send(PEER, packet())
    for second in (1, 2, 3):
        probe.advance(second * S)
    probe.sent()
    assert probe.send(PEER, packet(), 3 * S + S // 2) == CLAIM_UNREACHABLE
    assert probe.sent() == []
    assert probe.send(PEER, packet(7), 4 * S) == CLAIM_OK
    assert probe.sent() == [(question(EVERYBODY), 4 * S)]
    probe.input(reply(), 4 * S + 1)
    assert sent(probe) == [ethernet.build(PEER_MAC, OUR_MAC, 0x800, packet(7))]


def test_a_late_answer_is_taken_while_we_still_ask(probe):
    probe.send(PEER, packet())
    probe.advance(1 * S)
    probe.advance(2 * S)
    probe.input(reply(), 3 * S - 1)
    assert probe.neighbors[PEER][0] == "reachable"
    assert probe.next_deadline() is None


# ---- caps -------------------------------------------------------------------------


def test_the_queue_of_one_neighbour_is_bounded(probe):
    results = [probe.send(PEER, packet(n)) for n in range(68)]
    assert results == [CLAIM_OK] * 64 + [CLAIM_DROPPED] * 4
    assert probe.counters["drop_neighbor_queue"] == 4
    assert probe.neighbors[PEER][2] == 64


def test_the_bytes_of_all_queues_are_bounded(probe):
    results = [probe.send(f"10.0.0.{host}", packet(size=1400), 0) for host in range(3, 83) for _ in range(16)]
    assert results.count(CLAIM_DROPPED) > 0
    assert probe.waiting_bytes <= 1 << 20
    for second in (1, 2, 3):
        probe.advance(second * S)
    assert probe.waiting_bytes == 0
    assert len(probe.unreachable) == results.count(CLAIM_OK)


def test_a_claim_for_a_waiting_packet_that_is_not_committed_is_forgotten(probe):
    assert probe.send(PEER, packet(1), commit=False) == CLAIM_OK
    assert probe.send(PEER, packet(2), commit=False) == CLAIM_OK
    assert probe.send(PEER, packet(3)) == CLAIM_OK
    probe.sent()
    probe.input(reply())
    assert [data[34:36] for data in sent(probe)] == [b"\0\3"]


def test_h4_a_scan_does_not_evict_neighbours_in_use():
    probe = InterfaceProbe((f"{US}/8",), media="ethernet", mac=OUR_MAC)
    friends = [f"10.1.0.{n}" for n in range(100)]
    for number, friend in enumerate(friends):
        known(probe, 0, friend, f"02:00:00:00:01:{number:02x}")
    for number in range(scale(100_000, minimum=2000)):
        probe.send(f"10.{2 + number // 65536}.{number // 256 % 256}.{number % 256}", packet(), number * 100_000)
        deadline = probe.next_deadline()
        if deadline is not None and deadline <= number * 100_000:
            probe.advance(number * 100_000)
    assert len(probe.neighbors) <= 512
    for number, friend in enumerate(friends):
        assert probe.neighbors[friend][1] == f"02:00:00:00:01:{number:02x}"
    assert probe.counters["drop_neighbor_queue"] > 0


def test_h2_addresses_that_do_not_answer_fill_half_of_the_table_at_most():
    probe = InterfaceProbe((f"{US}/8",), media="ethernet", mac=OUR_MAC)
    results = [probe.send(f"10.1.{n // 256}.{n % 256}", packet(), n) for n in range(400)]
    assert results == [CLAIM_OK] * 256 + [CLAIM_DROPPED] * 144
    for second in (1, 2, 3):
        probe.advance(second * S + S // 2)
    known(probe, 4 * S, "10.2.0.1")


def test_a_full_table_makes_room_by_forgetting_who_was_not_used_for_long():
    probe = InterfaceProbe((f"{US}/8",), media="ethernet", mac=OUR_MAC)
    for number in range(512):
        known(probe, number, f"10.1.{number // 256}.{number % 256}")
    assert probe.send("10.2.0.1", packet(), 30 * S) == CLAIM_DROPPED
    assert probe.send("10.1.0.0", packet(), 70 * S) == CLAIM_OK
    assert probe.send("10.2.0.1", packet(), 70 * S) == CLAIM_OK
    assert len(probe.neighbors) == 512
    assert "10.1.0.1" not in probe.neighbors and "10.1.0.0" in probe.neighbors


# ---- growing stale -----------------------------------------------------------------


def test_an_old_neighbour_is_asked_by_unicast_while_it_is_used(probe):
    known(probe)
    assert probe.send(PEER, packet(), 31 * S) == CLAIM_OK
    assert sent(probe) == [question(PEER_MAC), ethernet.build(PEER_MAC, OUR_MAC, 0x800, packet())]
    assert probe.neighbors[PEER][0] == "probe"
    probe.send(PEER, packet(), 31 * S + 5)
    assert sent(probe) == [ethernet.build(PEER_MAC, OUR_MAC, 0x800, packet())]
    probe.input(reply(), 31 * S + 9)
    assert probe.neighbors[PEER] == ("reachable", PEER_MAC, 0)
    assert probe.next_deadline() is None


def test_a_neighbour_that_left_is_asked_three_times_and_then_everybody_is(probe):
    known(probe)
    probe.send(PEER, packet(), 40 * S)
    for second in (41, 42, 43):
        probe.advance(second * S)
    assert sent(probe).count(question(PEER_MAC)) == 3
    assert probe.send(PEER, packet(), 43 * S) == CLAIM_OK
    assert sent(probe) == [question(EVERYBODY)]
    probe.input(reply(EVIL_MAC), 44 * S)  # it came back with another card
    assert probe.neighbors[PEER] == ("reachable", EVIL_MAC, 0)


def test_an_unused_neighbour_costs_no_traffic(probe):
    known(probe)
    assert probe.next_deadline() is None
    probe.advance(1000 * S)
    assert probe.sent() == []


# ---- the link has no room ---------------------------------------------------------------


def test_no_room_for_the_question_is_backpressure(probe):
    probe.fill(True)
    assert probe.send(PEER, packet()) == CLAIM_FULL
    assert probe.neighbors == {}
    probe.fill(False)
    assert probe.send(PEER, packet()) == CLAIM_OK
    assert sent(probe) == [question(EVERYBODY)]


def test_packets_that_waited_survive_a_full_link_in_order(probe):
    for number in range(3):
        probe.send(PEER, packet(number))
    probe.sent()
    probe.fill(True)
    probe.input(reply(), 10)
    assert probe.neighbors[PEER] == ("reachable", PEER_MAC, 3)
    assert probe.send(PEER, packet(8), 11) == CLAIM_FULL
    assert probe.next_deadline() is not None
    probe.fill(False)
    probe.advance(probe.next_deadline())
    assert [data[34:36] for data in sent(probe)] == [b"\0\0", b"\0\1", b"\0\2"]
    assert probe.next_deadline() is None
    assert probe.send(PEER, packet(8), 2 * S) == CLAIM_OK


def test_a_packet_that_finds_room_again_first_lets_those_before_it_go(probe):
    for number in range(3):
        probe.send(PEER, packet(number))
    probe.sent()
    probe.fill(True)
    probe.input(reply(), 10)
    probe.fill(False)
    assert probe.send(PEER, packet(8), 11) == CLAIM_OK
    assert [data[34:36] for data in sent(probe)] == [b"\0\0", b"\0\1", b"\0\2", b"\0\x08"]


# ---- answering -----------------------------------------------------------------------------


def test_a_question_for_our_address_is_answered_to_who_asked(probe):
    ask = says(arp.REQUEST, PEER_MAC, PEER, "00:00:00:00:00:00", US, to=EVERYBODY)
    assert probe.input(ask, 5)[0] == R.DROP_NONE
    assert probe.sent() == [(says(arp.REPLY, OUR_MAC, US, PEER_MAC, PEER, to=PEER_MAC), 5)]
    assert probe.neighbors == {}


def test_a_question_for_another_address_is_not_ours_to_answer(probe):
    assert probe.input(says(arp.REQUEST, PEER_MAC, PEER, "00:00:00:00:00:00", OTHER, to=EVERYBODY))[0] == R.DROP_NONE
    assert probe.sent() == []


def test_who_asks_whether_an_address_is_free_is_told(probe):
    """RFC 5227 section 2.1.1: the sender address is 0.0.0.0."""
    probe.input(says(arp.REQUEST, PEER_MAC, "0.0.0.0", "00:00:00:00:00:00", US, to=EVERYBODY))
    assert sent(probe) == [says(arp.REPLY, OUR_MAC, US, PEER_MAC, "0.0.0.0", to=PEER_MAC)]


def test_a_host_with_several_prefixes_asks_with_the_address_of_the_right_one():
    probe = InterfaceProbe(("10.0.0.1/24", "192.168.5.1/24"), media="ethernet", mac=OUR_MAC)
    probe.send("192.168.5.9", packet())
    assert arp.parse(sent(probe)[0][14:]).sender == "192.168.5.1"


def test_an_announcement_is_a_question_for_itself(probe):
    probe.announce(US, 3)
    assert probe.sent() == [(says(arp.REQUEST, OUR_MAC, US, "00:00:00:00:00:00", US, to=EVERYBODY), 3)]
    channel = InterfaceProbe()
    channel.announce(US)
    assert channel.sent() == []


@pytest.mark.parametrize("length", range(14, 42))
def test_short_arp_is_dropped(probe, length):
    assert probe.input(reply()[:length])[0] == R.DROP_ARP_MALFORMED


# ---- H1: who is believed ------------------------------------------------------------------------


def lies(address) -> dict[str, bytes]:
    """All ways to say that an address is at EVIL_MAC without having been asked."""
    return {
        "reply to us": says(arp.REPLY, EVIL_MAC, address, OUR_MAC, US),
        "reply to everybody": says(arp.REPLY, EVIL_MAC, address, EVERYBODY, US, to=EVERYBODY),
        "gratuitous reply": says(arp.REPLY, EVIL_MAC, address, EVIL_MAC, address, to=EVERYBODY),
        "gratuitous request": says(arp.REQUEST, EVIL_MAC, address, "00:00:00:00:00:00", address, to=EVERYBODY),
        "question for us": says(arp.REQUEST, EVIL_MAC, address, "00:00:00:00:00:00", US, to=EVERYBODY),
        "question for another": says(arp.REQUEST, EVIL_MAC, address, "00:00:00:00:00:00", OTHER, to=EVERYBODY),
    }


@pytest.mark.parametrize("kind", lies(PEER))
def test_h1_nothing_said_unasked_makes_an_entry(probe, kind):
    reason, _ = probe.input(lies(PEER)[kind])
    assert probe.neighbors == {}
    assert (reason == R.DROP_ARP_UNSOLICITED) == ("reply" in kind)


@pytest.mark.parametrize("kind", lies(PEER))
def test_h1_nothing_said_unasked_changes_an_entry_and_the_one_we_know_is_asked(probe, kind):
    known(probe)
    probe.input(lies(PEER)[kind], 2 * S)
    assert probe.neighbors[PEER] == ("probe", PEER_MAC, 0)
    assert probe.conflicts == (0, 1)
    assert question(PEER_MAC) in sent(probe)
    probe.input(reply(), 2 * S + 1)
    assert probe.neighbors[PEER] == ("reachable", PEER_MAC, 0)
    probe.send(PEER, packet(), 3 * S)
    assert sent(probe) == [ethernet.build(PEER_MAC, OUR_MAC, 0x800, packet())]


def test_h1_the_liars_own_answer_to_our_check_is_not_believed(probe):
    known(probe)
    probe.input(lies(PEER)["gratuitous reply"], 2 * S)
    for step in range(5):
        assert probe.input(reply(EVIL_MAC), 2 * S + step)[0] == R.DROP_ARP_UNSOLICITED
    assert probe.neighbors[PEER][1] == PEER_MAC


def test_h1_a_flood_of_lies_costs_one_question_a_second(probe):
    known(probe)
    questions = 0
    for step in range(10_000):
        now = 2 * S + step * 1_000_000  # ten seconds
        probe.input(lies(PEER)["gratuitous reply"], now)
        asked = sent(probe).count(question(PEER_MAC))
        questions += asked
        if asked:
            assert probe.input(reply(), now)[0] == R.DROP_NONE
    assert probe.neighbors[PEER] == ("reachable", PEER_MAC, 0)
    assert 9 <= questions <= 11


def test_while_we_ask_only_an_answer_to_us_counts(probe):
    probe.send(PEER, packet())
    probe.sent()
    for kind in ("gratuitous reply", "gratuitous request", "question for us", "question for another"):
        probe.input(lies(PEER)[kind])
        assert probe.neighbors[PEER][0] == "incomplete", kind
    assert not any(data[12:14] == b"\x08\0" for data in sent(probe))


def test_another_station_with_our_address_is_counted_and_told_once_in_ten_seconds(probe):
    claim = says(arp.REQUEST, EVIL_MAC, US, "00:00:00:00:00:00", US, to=EVERYBODY)
    for step in range(40):
        assert probe.input(claim, step * S)[0] == R.DROP_ARP_UNSOLICITED
    assert probe.conflicts == (40, 0)
    defence = says(arp.REQUEST, OUR_MAC, US, "00:00:00:00:00:00", US, to=EVERYBODY)
    assert probe.sent() == [(defence, t * S) for t in (0, 10, 20, 30)]


def test_our_own_frames_come_back_unheard(probe):
    assert probe.input(question(EVERYBODY))[0] == R.DROP_ARP_UNSOLICITED
    assert probe.conflicts == (0, 0)


def test_h4_a_hundred_thousand_senders_leave_no_trace(probe):
    known(probe)
    rng = random.Random(4)
    for _ in range(scale(100_000)):
        mac = "02:" + rng.randbytes(5).hex(":")
        address = f"10.0.0.{rng.randrange(3, 254)}"
        probe.input(says(arp.REQUEST, mac, address, "00:00:00:00:00:00", OTHER, to=EVERYBODY), 1)
    assert set(probe.neighbors) == {PEER}


# ---- law: whatever happens, what leaves is what was sent, in order -------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_random_traffic_is_delivered_in_order_or_counted(probe, seed):
    rng = random.Random(seed)
    hosts = [f"10.0.0.{n}" for n in range(2, 8)]
    alive = {h: rng.random() < 0.7 for h in hosts}
    accepted = {h: [] for h in hosts}
    left = {h: [] for h in hosts}
    now = number = 0
    for _ in range(scale(5000)):
        now += rng.randrange(400_000_000)
        deadline = probe.next_deadline()
        while deadline is not None and deadline <= now:
            probe.advance(deadline)
            assert probe.next_deadline() is None or probe.next_deadline() > deadline
            deadline = probe.next_deadline()
        probe.fill(rng.random() < 0.1)
        host = rng.choice(hosts)
        number += 1
        if probe.send(host, packet(number % 65536, host), now) == CLAIM_OK:
            accepted[host].append(number % 65536)
        if rng.random() < 0.1:  # no replies to us: while we ask, nothing tells a lie from an answer
            probe.input(rng.choice(list(lies(host).values())[2:]), now)
        for data in sent(probe):
            if data[12:14] == b"\x08\x06":
                asked = arp.parse(data[14:])
                if asked.operation == arp.REQUEST and alive.get(asked.target):
                    probe.input(reply(f"02:00:00:00:01:{asked.target.rsplit('.', 1)[1]:0>2}", asked.target), now)
            else:
                got = ipv4.parse(data[14:])
                assert data[:6].hex(":") == f"02:00:00:00:01:{got.dst.rsplit('.', 1)[1]:0>2}"
                left[got.dst].append(int.from_bytes(got.payload[:2], "big"))
    probe.fill(False)
    for _ in range(10):
        now += S
        probe.advance(now)
        for data in sent(probe):
            if data[12:14] == b"\x08\0":
                got = ipv4.parse(data[14:])
                left[got.dst].append(int.from_bytes(got.payload[:2], "big"))
    lost = {h: [int.from_bytes(p[20:22], "big") for p in probe.unreachable if ipv4.parse(p).dst == h] for h in hosts}
    for host in hosts:
        assert sorted(left[host] + lost[host]) == accepted[host]
        assert left[host] == sorted(left[host])
    assert probe.waiting_bytes == 0


def test_random_and_mutated_arp_never_breaks_the_table(probe):
    """Whatever arrives: entries are only those we asked for, their bytes stay bounded, answers are well formed."""
    rng = random.Random(826)
    hosts = [f"10.0.0.{n}" for n in range(2, 12)]
    seen = set()
    now = 0
    for _ in range(scale(200_000)):
        now += rng.randrange(50_000_000)
        probe.advance(now)
        if rng.random() < 0.2:
            probe.send(rng.choice(hosts), packet(), now)
        sender, target = rng.choice([*hosts, US, "0.0.0.0"]), rng.choice([US, US, PEER, "10.0.0.99"])
        mac = f"02:00:00:00:00:{rng.randrange(1, 12):02x}"
        data = bytearray(says(rng.choice((1, 2)), mac, sender, OUR_MAC, target, to=rng.choice((OUR_MAC, EVERYBODY))))
        for _ in range(rng.choice((0, 0, 1, 2))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        data = bytes(data[: rng.choice((42, 42, 42, rng.randrange(43)))]) + bytes(rng.choice((0, 18)))
        reason, got = probe.input(data, now, split=rng.choice((-1, -1, 14, 42)))
        assert (reason == R.DROP_NONE) == (got is not None)
        seen.add(reason)
        assert set(probe.neighbors) <= set(hosts)
        for frame in sent(probe):
            if frame[12:14] == b"\x08\x06":
                assert len(frame) == 42 and arp.parse(frame[14:]).sender == US
    assert seen >= {R.DROP_NONE, R.DROP_ARP_MALFORMED, R.DROP_ARP_UNSOLICITED, R.DROP_LINK_NOT_OURS}
