"""Accurate ECN (RFC 9768): the handshake's table over all flags, what is counted and told, what a bad network gets."""

import itertools

import pytest

from netstack.testing import Pair
from tests.tcp.test_ecn import CE, ECT_0, ECT_1, MSS, NOT_ECT, info, passive_asking, sent
from tests.tcp.tools import Session, Wire, dial, listen, new_peer

FLAGS = ["".join(f) for n in range(4) for f in itertools.combinations("ECN", n)]      # of AE, CWR, ECE
OFF, CLASSIC, ACCURATE, ASKED = range(4)
REFLECTS = {NOT_ECT: 2, ECT_1: 3, ECT_0: 4, CE: 6}       # tables 2 and 3: how a codepoint is told in a handshake
BEGIN = (1, 0, 1)                                         # counters that have counted nothing yet, either order
ACE_FAIL_RECEIVE, OPTION_FAIL_SEND, OPTION_FAIL_RECEIVE = 2, 4, 8


def ace(packet):
    """AE, CWR, ECE as a number."""
    return ("N" in packet.flags) * 4 + ("C" in packet.flags) * 2 + ("E" in packet.flags)


def say(number):
    """A number as flags."""
    return "N" * (number >> 2 & 1) + "C" * (number >> 1 & 1) + "E" * (number & 1)


def modes(s):
    return info(s).ecn_mode


def fails(s):
    return info(s).accecn_fail_mode


def passive_accurate(peer=None, *, reflect=2, tos=ECT_0, option=BEGIN, **syn):
    """ESTABLISHED with AccECN; the peer has asked."""
    peer = peer or new_peer(ecn=3)
    server = listen(peer)
    flow = peer.flow()
    flow.send("SECN", seq=0, mss=MSS, **syn)
    s = Session(peer, flow, None, server)
    s.answer = flow.receive()
    more = {"timestamp": (2, s.answer.timestamp[0])} if s.answer.timestamp else {}
    flow.send("A" + say(reflect), seq=1, ack=1, tos=tos, accecn=option, **more)
    s.sock, _ = server.accept()
    return s


def active_accurate(peer=None, *, answer=2, tos=NOT_ECT, option=BEGIN, **syn):
    s = dial(peer or new_peer(ecn=3))
    s.syn = s.flow.receive()
    s.flow.send("SA" + say(answer), seq=0, ack=1, mss=MSS, tos=tos, accecn=option, **syn)
    s.third = s.flow.receive()
    return s


def heard(s, size=1000, tos=ECT_0, number=5, **fields):
    """Data comes, the acknowledgement of it is returned."""
    s.data(bytes(size), flags="PA" + say(number), tos=tos, **fields)
    packets = s.flow.receive_all()
    if not packets:                                  # delayed
        s.peer.advance("50ms")
        packets = s.flow.receive_all()
    assert len(packets) == 1
    return packets[0]


# --- the handshake: section 3.1 ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("setting", [3, 4, 5])
@pytest.mark.parametrize("codepoint", range(4))
@pytest.mark.parametrize("flags", FLAGS)
def test_every_syn_gets_the_answer_of_the_table(flags, codepoint, setting):
    """Table 2 and section 3.1.2: flags other than 000 and 011 are a request, also ones nobody sends yet; the answer
    tells how the SYN came."""
    s = passive_asking("S" + flags, new_peer(ecn=setting), answer="A", tos=codepoint)
    if flags == "":
        assert (s.answer.flags, modes(s)) == ("SA", OFF)
    elif flags == "EC":
        assert (s.answer.flags, modes(s)) == (("SAE", CLASSIC) if codepoint == NOT_ECT else ("SA", OFF))
    else:
        assert ace(s.answer) == REFLECTS[codepoint] and modes(s) == ACCURATE
    assert s.answer.tos == NOT_ECT


@pytest.mark.parametrize("setting", [1, 2])
@pytest.mark.parametrize("flags", FLAGS)
def test_a_server_without_accecn_answers_as_rfc_3168_says(flags, setting):
    s = passive_asking("S" + flags, new_peer(ecn=setting))
    classic = "E" in flags and "C" in flags
    assert (s.answer.flags, modes(s)) == (("SAE", CLASSIC) if classic else ("SA", OFF))


@pytest.mark.parametrize("flags", FLAGS)
def test_every_answer_gets_the_mode_of_the_table(flags):
    """Table 2; 101 is reserved and means AccECN (section 3.1.3)."""
    s, syn = asking_any("SA" + flags, new_peer(ecn=3))
    assert syn.flags == "SECN" or set(syn.flags) == set("SECN")
    number = flags.count("N") * 4 + flags.count("C") * 2 + flags.count("E")
    assert modes(s) == {0: OFF, 7: OFF, 1: CLASSIC}.get(number, ACCURATE)


def asking_any(answer, peer):
    s = dial(peer)
    syn = s.flow.receive()
    s.flow.send(answer, seq=0, ack=1, mss=MSS)
    assert s.state == "ESTABLISHED"
    s.flow.receive_all()
    return s, syn


@pytest.mark.parametrize("codepoint", range(4))
def test_the_client_tells_how_the_syn_ack_came(codepoint):
    """Table 3; CE on it is the first that is counted."""
    s = active_accurate(tos=codepoint)
    assert ace(s.third) == REFLECTS[codepoint]
    assert info(s).received_ce == (codepoint == CE)
    assert ace(sent(s, 100)[0]) == (6 if codepoint == CE else 5)


@pytest.mark.parametrize("number", range(8))
def test_the_server_believes_only_what_a_network_may_do(number):
    """Table 4 and section 3.2.2.3: our SYN,ACK was not ECT, and no router makes it so. Zero is somebody who zeroes."""
    s = passive_accurate(reflect=number)
    broken = number in (0, 3, 4, 6)
    assert bool(fails(s) & ACE_FAIL_RECEIVE) == broken
    assert {p.tos for p in sent(s, 100)} == {NOT_ECT if broken else ECT_0}
    assert modes(s) == ACCURATE


def test_without_fallback_a_ce_on_our_syn_ack_is_counted():
    s = passive_accurate(new_peer(ecn=3, ecn_fallback=0), reflect=6)
    assert info(s).delivered_ce == 1 and not fails(s)


@pytest.mark.parametrize("theirs, answer, mode", [("SECN", 2, ACCURATE), ("SEC", 1, CLASSIC), ("S", 0, OFF)])
def test_crossing_syns(theirs, answer, mode):
    s = dial(new_peer(ecn=3))
    s.flow.receive()
    s.flow.send(theirs, seq=0, mss=MSS)
    assert ace(s.flow.receive()) == answer
    s.flow.send("SA" + say(answer), seq=0, ack=1, mss=MSS)
    assert s.state == "ESTABLISHED" and modes(s) == mode


def test_syns_that_nobody_answers():
    """Section 3.1.4.1: once more as it was, then without the flags; an answer to the first still counts."""
    peer = new_peer(ecn=3)
    s = dial(peer)
    peer.advance("8s")
    assert [ace(p) for p in s.flow.receive_all()] == [7, 7, 0, 0]
    s.flow.send("SAC", seq=0, ack=1, mss=MSS)
    assert modes(s) == ACCURATE


def test_syn_acks_that_nobody_answers():
    """Section 3.1.4.2: first without the option, then without the flags; a client that heard only those has no ECN."""
    for last, mode in (("A", OFF), ("AC", ACCURATE)):
        peer = new_peer(ecn=3)
        server = listen(peer)
        flow = peer.flow()
        flow.send("SECN", seq=0, mss=MSS)
        peer.advance("8s")
        packets = flow.receive_all()
        assert [(ace(p), p.accecn is not None) for p in packets] == [(2, True), (2, False), (0, False), (0, False)]
        flow.send(last, seq=1, ack=1)
        s = Session(peer, flow, server.accept()[0], server)
        assert modes(s) == mode
        assert {p.tos for p in sent(s, 100)} == {ECT_0 if mode else NOT_ECT}


def test_a_syn_sent_again_without_flags_ends_ect():
    """Section 3.1.4.2: the mode stays, what it says of the path does not."""
    peer = new_peer(ecn=3)
    server = listen(peer)
    flow = peer.flow()
    flow.send("SECN", seq=0, mss=MSS, tos=ECT_0)
    assert ace(flow.receive()) == 4
    flow.send("S", seq=0, mss=MSS)
    again = flow.receive()
    assert ace(again) == 2 and again.accecn is None
    flow.send("AC", seq=1, ack=1)
    s = Session(peer, flow, server.accept()[0], server)
    assert modes(s) == ACCURATE and {p.tos for p in sent(s, 100)} == {NOT_ECT}


def test_a_syn_ack_that_comes_again_is_told_of_again():
    s = active_accurate()
    s.flow.send("SAC", seq=0, ack=1, mss=MSS, tos=ECT_0)
    assert [ace(p) for p in s.flow.receive_all()] == [4]
    s.flow.send("SAC", seq=77, ack=1, mss=MSS, tos=CE)       # another connection's: challenged, and nothing more
    assert [ace(p) for p in s.flow.receive_all()] == [5]


# --- what is told: sections 3.2.1 to 3.2.3 ----------------------------------------------------------------------------

def test_the_counters_begin_where_the_standard_says():
    s = passive_accurate()
    assert ace(s.answer) == 2 and s.answer.accecn == (1, (1, 0, 1))
    packet = sent(s, 100)[0]
    assert ace(packet) == 5 and packet.accecn == (1, (1, 0, 1)) and packet.tos == ECT_0


def test_every_packet_with_ce_is_counted_and_every_byte():
    """r.cep goes round after three; the option has ECT(1), CE, ECT(0), in this order."""
    s = passive_accurate()
    counts = {ECT_1: 1, CE: 0, ECT_0: 1}
    marks = 0
    for k, codepoint in enumerate([CE, ECT_0, CE, ECT_1, CE, NOT_ECT, CE, CE, CE, CE, CE, CE, ECT_0] * 2):
        packet = heard(s, 100 + k, codepoint)
        marks += codepoint == CE
        if codepoint:
            counts[codepoint] += 100 + k
        assert ace(packet) == (5 + marks) % 8
        assert packet.accecn == (1, (counts[ECT_1], counts[CE], counts[ECT_0]))
    assert info(s).received_ce == marks and info(s).received_ce_bytes == counts[CE]
    assert info(s).received_e0_bytes == counts[ECT_0] - 1 and info(s).received_e1_bytes == counts[ECT_1] - 1


def test_ce_on_pure_acknowledgements_counts_as_packets_only():
    s = passive_accurate()
    for _ in range(3):
        s.flow.send("A" + say(5), seq=1, ack=1, tos=CE)
    packet = sent(s, 100)[0]
    assert ace(packet) == 0 and packet.accecn == (1, (1, 0, 1))


def test_ce_on_what_is_not_acceptable_is_not_counted():
    s = passive_accurate()
    s.flow.send("PA" + say(5), seq=1 << 28, ack=1, payload=b"x", tos=CE)
    s.flow.send("PA" + say(5), seq=1, ack=1 << 20, payload=b"x", tos=CE)
    assert info(s).received_ce == 0


def test_a_change_of_the_codepoint_is_told_at_once():
    """Section 3.2.2.5.1, although acknowledgements are delayed."""
    s = passive_accurate()
    s.sock.setsockopt(6, 12, 0)                     # TCP_QUICKACK off
    s.data(bytes(100), flags="PA" + say(5), tos=ECT_0)
    assert s.flow.receive_all() == []
    s.data(bytes(100), flags="PA" + say(5), tos=CE)
    assert [(ace(p), p.ack) for p in s.flow.receive_all()] == [(6, 201)]
    s.data(bytes(100), flags="PA" + say(5), tos=ECT_0)
    assert [(ace(p), p.ack) for p in s.flow.receive_all()] == [(6, 301)]


def test_never_more_than_six_marks_wait_to_be_told():
    """Section 3.2.2.5.1: so that the field of three bits cannot go round unseen, whatever comes in one batch."""
    wire = Wire(1, sysctl={"net.ipv4.tcp_ecn": 3})
    client, server = wire.connect()
    stack = wire.stacks[1]
    client.send(bytes(60_000))
    wire.collect()
    batch = []
    for _, _, to, data in sorted(wire.flying):
        if to == 1:
            marked = bytearray(data)
            marked[1] |= CE
            batch.append(repair_ip(marked))
    assert len(batch) >= 10
    for data in batch:
        stack.input(data, wire.now_ns)
    told, numbers = 5, []
    while (out := stack.pop_output()) is not None:
        raw = bytes(out[0])
        numbers.append((raw[32] & 1) << 2 | raw[33] >> 6)
    for number in numbers:
        assert (number - told) % 8 <= 6
        told = number
    assert told == (5 + len(batch)) % 8


def repair_ip(packet):
    from netstack.testing import repair
    return repair(bytes(packet))


@pytest.mark.parametrize("option", [0, 1, 2])
def test_how_often_the_option_is_sent(option):
    """tcp_ecn_option: never, when there is something to tell, always."""
    s = passive_accurate(new_peer(ecn=3, ecn_option=option, ecn_option_beacon=0))
    assert (s.answer.accecn is not None) == (option > 0)
    heard(s, tos=ECT_0)
    heard(s, tos=ECT_0)                             # the change is told twice
    quiet = [heard(s, tos=ECT_0) for _ in range(4)]
    assert [p.accecn is not None for p in quiet] == {0: [False] * 4, 1: [False] * 4, 2: [True] * 4}[option]
    changed = [heard(s, tos=CE), heard(s, tos=ECT_0), heard(s, tos=ECT_0), heard(s, tos=ECT_0)]
    assert [p.accecn is not None for p in changed] == {0: [False] * 4, 1: [True] * 3 + [False], 2: [True] * 4}[option]


def test_the_beacon_sends_the_option_some_times_a_round_trip():
    s = passive_accurate(new_peer(ecn=3, ecn_option=1, ecn_option_beacon=3))
    for _ in range(3):
        heard(s, tos=ECT_0)
    s.peer.advance("1s")
    assert heard(s, tos=ECT_0).accecn is not None


def test_a_counter_that_passes_a_multiple_of_four_mebibytes_is_told():
    """Section 3.2.3.3."""
    s = passive_accurate(new_peer(ecn=3, ecn_option=1, ecn_option_beacon=0))
    while info(s).received_e0_bytes < (1 << 22) - 1000:
        s.data(bytes(1000), flags="PA" + say(5), tos=ECT_0)
        s.sock.recv(1 << 20)
    s.quiet()
    assert heard(s, tos=ECT_0).accecn is not None


@pytest.mark.parametrize("timestamps", [False, True])
def test_the_option_fits_beside_sack_and_timestamps(timestamps):
    """40 bytes for all. What has changed is told, else a block gives way or, of the two, the option (as in Linux)."""
    more = {"timestamp": (1, 0)} if timestamps else {}
    s = passive_accurate(sack_permitted=True, **more)
    for k, codepoint in enumerate([ECT_1, ECT_1, CE, ECT_1, CE, ECT_1, NOT_ECT, ECT_0]):
        fields = {"timestamp": (3 + k, 0)} if timestamps else {}
        s.flow.send("PA" + say(5), seq=2001 + 2000 * k, ack=1, payload=bytes(1000), tos=codepoint, **fields)
        packet, = s.flow.receive_all()
        assert len(packet.options) <= 40 and len(packet.options) % 4 == 0
        assert packet.sack and packet.sack[0] == (2001 + 2000 * k, 3001 + 2000 * k)
        if codepoint in (ECT_1, CE):
            assert packet.accecn is not None and len(packet.accecn[1]) >= codepoint - codepoint // 2
            assert len(packet.sack) >= min(k + 1, 2)
        assert len(packet.sack) + (0 if packet.accecn is None else 1) >= min(k + 1, 3)


def test_data_leaves_room_for_the_option():
    """RFC 6691: the segment is no longer than the peer's MSS allows."""
    s = passive_accurate()
    s.sock.send(bytes(5 * MSS))
    packets = s.flow.receive_all()
    assert {len(p.payload) + len(p.options) for p in packets[:-1]} == {MSS}
    assert all(p.accecn for p in packets)


def test_a_full_segment_with_the_option_is_no_small_one():
    """Nagle waits for small segments only."""
    s = passive_accurate()
    s.sock.send(bytes(2 * (MSS - 12)))
    s.sock.send(b"x")
    assert [len(p.payload) for p in s.flow.receive_all()] == [MSS - 12, MSS - 12, 1]


# --- what is believed: sections 3.2.2.5 and appendix A ----------------------------------------------------------------

def feedback(s, ack, number, **fields):
    s.flow.send("A" + say(number % 8), seq=1, ack=ack, **fields)


def flight(option=2, segments=10, **options):
    """Ten full segments in flight, the field alone or with the option."""
    s = passive_accurate(new_peer(ecn=3, ecn_option=option, congestion_control="reno"), **options)
    size = MSS - (12 if option == 2 else 0) - (12 if "timestamp" in options else 0)
    packets = sent(s, segments * size)
    assert len(packets) == segments
    s.size = size
    return s


def test_marks_are_believed_and_the_window_reduced_once():
    s = flight()
    s.sock.send(bytes(60 * MSS))
    feedback(s, 1 + s.size, 6, accecn=(1, s.size, 1))
    assert info(s).delivered_ce == 1 and info(s).delivered_ce_bytes == s.size
    assert info(s).ca_state == 2 and info(s).snd_ssthresh == 5
    feedback(s, 1 + 2 * s.size, 7, accecn=(1, 2 * s.size, 1))
    assert info(s).delivered_ce == 2 and info(s).snd_ssthresh == 5
    assert not any("C" in p.flags and ace(p) not in (5, 6, 7) for p in s.flow.receive_all())    # no CWR: a count


def test_an_acknowledgement_that_is_not_new_is_not_believed():
    """It may be old: only one that moves something, or whose timestamp is newer, has news."""
    s = flight()
    feedback(s, 1, 6)
    assert info(s).delivered_ce == 0
    t = flight(timestamp=(1, 0))
    feedback(t, 1, 6, timestamp=(2, 0))
    assert info(t).delivered_ce == 0
    feedback(t, 1, 6, timestamp=(3, 0))
    assert info(t).delivered_ce == 1


@pytest.mark.parametrize("moved", range(8))
@pytest.mark.parametrize("segments", range(1, 10))
def test_the_field_is_taken_as_far_as_it_can_have_gone_round(segments, moved):
    """Appendix A.2: after a first small acknowledgement a large one may hide lost ones; the most is assumed."""
    s = flight(option=0)
    feedback(s, 1 + s.size, 5)
    feedback(s, 1 + (1 + segments) * s.size, 5 + moved)
    most = max([n for n in range(segments + 1) if n % 8 == moved] or [moved])
    assert info(s).delivered_ce == (most if segments > 7 else moved)


@pytest.mark.parametrize("moved", range(8))
def test_a_peer_that_acknowledges_rarely_by_intent_is_taken_by_its_word(moved):
    s = flight(option=0)
    feedback(s, 1 + 10 * s.size, 5 + moved)
    assert info(s).delivered_ce == moved


@pytest.mark.parametrize("marked", range(10))
def test_the_option_decides_how_often_the_field_went_round(marked):
    s = flight()
    feedback(s, 1 + s.size, 5, accecn=(1 + s.size, 0, 1), accecn_order=0)
    clean = 9 - marked
    counters = (1 + (1 + clean) * s.size, marked * s.size, 1)
    feedback(s, 1 + 10 * s.size, 5 + marked, accecn=counters, accecn_order=0)
    i = info(s)
    assert i.delivered_ce == marked
    counted = i.delivered_e0_bytes, i.delivered_ce_bytes, i.delivered_e1_bytes
    assert counted == ((1 + clean) * s.size, marked * s.size, 0)


def test_counters_of_24_bits_go_round():
    s = passive_accurate(new_peer(ecn=3, wmem="4096 8000000 16000000"), window_scale=10)
    total = 0
    while total < (1 << 24) + 500_000:
        try:
            s.sock.send(bytes(100_000))
        except BlockingIOError:
            pass
        packets = s.flow.receive_all()
        total += sum(len(p.payload) for p in packets)
        feedback(s, 1 + total, 5, accecn=((1 + total) & 0xFFFFFF, 0, 1), accecn_order=0)
    assert info(s).delivered_e0_bytes == total and info(s).delivered_ce == 0


def test_acknowledgements_without_the_option_are_counted_as_the_last_with_it():
    s = flight()
    feedback(s, 1 + s.size, 5, accecn=(1 + s.size, 0, 1), accecn_order=0)
    feedback(s, 1 + 3 * s.size, 5)
    assert info(s).delivered_e0_bytes == 3 * s.size


# --- what a bad network gets: sections 3.2.2.3, 3.2.2.4, 3.2.3.2 ------------------------------------------------------

def test_a_field_that_is_zero_at_first_is_somebody_who_zeroes_it():
    """Section 3.2.2.4, at the client: three marks before the first feedback cannot be."""
    s = active_accurate()
    assert sent(s, 100)[0].tos == ECT_0
    s.flow.send("A", seq=1, ack=101, tos=ECT_0)
    assert fails(s) & ACE_FAIL_RECEIVE and info(s).delivered_ce == 0
    assert sent(s, 100)[0].tos == NOT_ECT


def test_crossing_syns_whose_last_acknowledgement_is_zeroed():
    """The same where nothing of ours was acknowledged yet."""
    s = dial(new_peer(ecn=3))
    s.flow.receive()
    s.flow.send("SECN", seq=0, mss=MSS)
    s.flow.send("SAC", seq=0, ack=1, mss=MSS)
    assert modes(s) == ACCURATE and not fails(s)
    s.flow.receive_all()
    s.flow.send("A", seq=1, ack=1)
    assert fails(s) & ACE_FAIL_RECEIVE and sent(s, 100)[0].tos == NOT_ECT


@pytest.mark.parametrize("counters", [(0, 0, 1), (1, 0, 0), (0, 0, 0), (0,)])
def test_an_option_that_is_zeroed_is_not_believed(counters):
    """Section 3.2.3.2.4; ours goes on."""
    s = passive_accurate(option=counters)
    assert fails(s) & OPTION_FAIL_RECEIVE and info(s).accecn_opt_seen == 3
    packet = sent(s, 100)[0]
    assert packet.accecn is not None and packet.tos == ECT_0
    feedback(s, 101, 5, accecn=(1, 1 << 20, 1))
    assert info(s).delivered_ce_bytes == 0


def test_an_option_that_never_came_is_not_sent():
    s = passive_accurate(option=None)
    assert sent(s, 100)[0].accecn is None and info(s).accecn_opt_seen == 0
    feedback(s, 101, 5, accecn=(1, 0, 101))
    s.ack = 101
    assert sent(s, 100)[0].accecn is not None and info(s).accecn_opt_seen == 2


@pytest.mark.parametrize("kind", [172, 174])
@pytest.mark.parametrize("size", range(0, 16))
def test_an_option_of_any_length_is_read_or_left(kind, size):
    """Whole counters, at most three; anything else is nobody's option, and no byte is read beyond it."""
    s = passive_accurate(option=None)
    s.sock.send(bytes(100))
    s.flow.receive_all()
    raw = bytes((kind, size)) + bytes(range(1, 15))[:max(0, size - 2)]
    s.flow.send("A" + say(5), seq=1, ack=101, options=raw)
    seen = {2: 1, 5: 2, 8: 2, 11: 2}.get(size, 0)
    assert info(s).accecn_opt_seen == seen and s.state == "ESTABLISHED"


def test_acknowledgements_that_get_lost_because_of_the_option_lose_it():
    """Section 3.2.3.2.2: the same data a third time, although the second was reported."""
    s = passive_accurate(sack_permitted=True)
    for option in (True, True, False):
        s.seq = 1
        packet = heard(s)
        assert (packet.accecn is not None) == option
    assert fails(s) == OPTION_FAIL_SEND
    assert heard(s).accecn is None


def test_a_copy_of_the_handshakes_last_acknowledgement_is_no_count():
    """Of a SYN,ACK that was sent again the answer comes twice; 010 there is not three marks."""
    peer = new_peer(ecn=3)
    server = listen(peer)
    flow = peer.flow()
    flow.send("SECN", seq=0, mss=MSS, timestamp=(1, 0))
    peer.advance("1100ms")
    stamp = flow.receive_all()[-1].timestamp[0]
    flow.send("AC", seq=1, ack=1, timestamp=(2, stamp), accecn=BEGIN)
    s = Session(peer, flow, server.accept()[0], server)
    s.sock.send(bytes(100))
    flow.send("AC", seq=1, ack=1, timestamp=(3, stamp), accecn=BEGIN)
    assert info(s).delivered_ce == 0


# --- whole streams ----------------------------------------------------------------------------------------------------

def test_both_ends_count_the_same():
    pair = Pair(seed=8, sysctl={"net.ipv4.tcp_ecn": 3}, delay="5ms", a_to_b={"rate": "20mbit", "mark": 10})
    client, server = pair.connect()
    left = 2_000_000
    got = 0
    while got < 2_000_000:
        try:
            left -= client.send(bytes(min(left, 100_000))) if left else 0
        except BlockingIOError:
            pass
        if not pair.step():
            break
        try:
            got += len(server.recv(1 << 20))
        except BlockingIOError:
            pass
    pair.run("1s")
    marked = pair.faults.stats()["output"]["marked"]
    assert marked > 10
    ours, theirs = client.tcp_info(), server.tcp_info()
    assert theirs.received_ce == marked == ours.delivered_ce
    assert theirs.received_ce_bytes == ours.delivered_ce_bytes > 0
    assert theirs.received_e0_bytes == ours.delivered_e0_bytes > 0
    assert ours.total_retrans == 0


@pytest.mark.parametrize("seed", range(6))
def test_marks_are_counted_right_although_acknowledgements_get_lost(seed):
    """The count that the sender keeps never lies below what the receiver saw by more than it has not told yet."""
    pair = Pair(seed=seed, sysctl={"net.ipv4.tcp_ecn": 3}, delay="5ms", a_to_b={"rate": "20mbit", "mark": 10},
                b_to_a={"loss": 0.3})
    client, server = pair.connect()
    left, got = 1_000_000, 0
    while got < 1_000_000:
        try:
            left -= client.send(bytes(min(left, 100_000))) if left else 0
        except BlockingIOError:
            pass
        if not pair.step():
            break
        try:
            got += len(server.recv(1 << 20))
        except BlockingIOError:
            pass
    pair.run("5s")
    ours, theirs = client.tcp_info(), server.tcp_info()
    assert theirs.received_ce > 0
    assert (ours.delivered_ce - theirs.received_ce) % 8 == 0 and ours.delivered_ce >= theirs.received_ce - 8


# --- the bytes --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("fields", range(4))
@pytest.mark.parametrize("blocks", range(3))
def test_the_option_reads_back(order, fields, blocks):
    """Kinds 172 and 174 (section 3.2.3), beside others, by the stack's parser."""
    from netstack.testing import build_tcp
    from netstack.wire.tcp import parse

    counters = (0xFFFFFF, 1, 0x123456)[:fields]
    sack = ((1, 2), (3, 4))[:blocks]
    header = parse(build_tcp("10.0.0.1", "10.0.0.2", 1, 2, "SAECN", timestamp=(5, 6), sack=sack, accecn=counters,
                             accecn_order=order)[20:])
    assert header.accecn == (order, counters) and header.sack == sack and header.timestamps == (5, 6)
    assert header.flags == 0x1D2
