"""Explicit Congestion Notification, classic (RFC 3168): the handshake, who says ECT, ECE and CWR, and what they do."""

import pytest

from netstack.testing import Pair, is_tcp
from tests.tcp.tools import Session, dial, listen, new_peer, passive

NOT_ECT, ECT_1, ECT_0, CE = range(4)
SOL_IP, IP_TOS, TCP_CONGESTION = 0, 1, 13
MSS = 1460


def info(s):
    sock = s.sock if isinstance(s, Session) else s
    return sock.tcp_info()


def speaking(**sysctl):
    """ESTABLISHED with classic ECN, the peer having asked."""
    s = passive_asking("SEC", new_peer(**{"ecn": 2, **sysctl}))
    assert info(s).ecn_mode == 1
    return s


def passive_asking(flags, peer, answer="A", **options):
    server = listen(peer)
    flow = peer.flow()
    tos = options.pop("tos", 0)
    flow.send(flags, seq=0, mss=MSS, tos=tos, **options)
    s = Session(peer, flow, None, server)
    s.answer = flow.receive()
    flow.send(answer, seq=1, ack=1)
    s.sock, _ = server.accept()
    return s


def asking(answer, peer):
    """ESTABLISHED by our connect; the flags of our SYN, and the peer's answer."""
    s = dial(peer)
    syn = s.flow.receive()
    s.flow.send(answer, seq=0, ack=1, mss=MSS)
    s.flow.expect(is_tcp(flags="A", ack=1))
    return s, syn


def sent(s, size=MSS):
    s.sock.send(bytes(size))
    packets = s.flow.receive_all()
    s.ack += size
    return packets


# --- the handshake ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("setting, flags", [(0, "S"), (1, "SEC"), (2, "S"), (4, "SEC"), (5, "S")])
def test_the_setting_says_whether_a_syn_asks(setting, flags):
    s = dial(new_peer(ecn=setting))
    syn = s.flow.receive()
    assert syn.flags == flags and syn.tos == NOT_ECT


@pytest.mark.parametrize("setting, answer", [(0, "SA"), (1, "SAE"), (2, "SAE"), (3, "SAE"), (4, "SAE"), (5, "SAE")])
def test_the_setting_says_whether_a_syn_is_answered(setting, answer):
    s = passive_asking("SEC", new_peer(ecn=setting))
    assert s.answer.flags == answer and s.answer.tos == NOT_ECT
    assert info(s).ecn_mode == (1 if "E" in answer else 0)


@pytest.mark.parametrize("flags", ["S", "SE", "SC"])
def test_half_a_request_is_none(flags):
    """RFC 3168 section 6.1.1: an ECN-setup SYN has both."""
    s = passive_asking(flags, new_peer(ecn=1))
    assert s.answer.flags == "SA" and info(s).ecn_mode == 0


@pytest.mark.parametrize("answer, mode", [("SA", 0), ("SAE", 1), ("SAC", 0), ("SAEC", 0)])
def test_only_ece_without_cwr_answers_a_request(answer, mode):
    """Section 6.1.1: a SYN,ACK that reflects both flags comes from a broken host."""
    s, syn = asking(answer, new_peer(ecn=1))
    assert syn.flags == "SEC" and info(s).ecn_mode == mode
    assert {p.tos for p in sent(s)} == {ECT_0 if mode else NOT_ECT}


@pytest.mark.parametrize("codepoint", [ECT_1, ECT_0, CE])
def test_a_classic_syn_that_says_ect_gets_no_ecn(codepoint):
    """Section 6.1.1 forbids it; as Linux, that is somebody's mistake, and the connection goes on without."""
    s = passive_asking("SEC", new_peer(ecn=1), tos=codepoint)
    assert s.answer.flags == "SA" and info(s).ecn_mode == 0


def test_nobody_speaks_of_ecn_who_did_not_agree():
    s = passive(new_peer(ecn=0))
    s.data(bytes(100), tos=CE, flags="PAC")
    s.pure_ack()
    s.flow.send("AE", seq=s.seq, ack=1, tos=CE)
    for p in sent(s, 3 * MSS):
        assert p.tos == NOT_ECT and not set(p.flags) & set("ECN")
    s.flow.send("AE", seq=s.seq, ack=s.ack)
    assert info(s).snd_cwnd >= 10


@pytest.mark.parametrize("fallback, flags", [(1, "S"), (0, "SEC")])
def test_a_syn_without_answer_goes_again_without_asking(fallback, flags):
    """Section 6.1.1.1: there are middleboxes that drop what they do not know."""
    peer = new_peer(ecn=1, ecn_fallback=fallback)
    s = dial(peer)
    assert s.flow.receive().flags == "SEC"
    peer.advance("1100ms")
    assert s.flow.receive().flags == flags
    s.flow.send("SAE", seq=0, ack=1, mss=MSS)       # the answer to the first, late
    assert s.state == "ESTABLISHED" and info(s).ecn_mode == 1


@pytest.mark.parametrize("theirs, mode", [("SEC", 1), ("S", 0)])
def test_crossing_syns_agree_too(theirs, mode):
    s = dial(new_peer(ecn=1))
    assert s.flow.receive().flags == "SEC"
    s.flow.send(theirs, seq=0, mss=MSS)
    assert s.flow.receive().flags == ("SAE" if mode else "SA")
    s.flow.send("SAE" if mode else "SA", seq=0, ack=1, mss=MSS)
    assert s.state == "ESTABLISHED" and info(s).ecn_mode == mode


# --- who says ECT -----------------------------------------------------------------------------------------------------

def test_new_data_is_ect_and_nothing_else():
    """Sections 6.1.4 to 6.1.6: not acknowledgements, nor what is sent again, nor probes, nor a bare FIN."""
    s = speaking()
    assert {p.tos for p in sent(s, 2 * MSS)} == {ECT_0}
    s.pure_ack()
    s.data(b"x" * 100)
    s.peer.advance("50ms")
    assert [(p.flags, p.tos) for p in s.flow.receive_all()] == [("A", NOT_ECT)]
    s.sock.send(bytes(100))
    assert s.flow.receive().tos == ECT_0
    s.peer.advance("3s")
    again = s.flow.receive_all()
    assert again and {p.tos for p in again} == {NOT_ECT}
    s.ack += 100
    s.pure_ack(window=0)
    s.sock.send(b"y")
    s.peer.advance("10s")
    probes = s.flow.receive_all()
    assert probes and {p.tos for p in probes} == {NOT_ECT} and not any(p.payload for p in probes)
    s.pure_ack(window=65535)
    assert [p.tos for p in s.flow.receive_all()] == [ECT_0]
    s.ack += 1
    s.pure_ack()
    s.sock.shutdown(1)
    assert [(p.flags, p.tos) for p in s.flow.receive_all()] == [("FA", NOT_ECT)]


def test_a_reset_is_not_ect():
    s = speaking()
    sent(s)
    s.sock.setsockopt(1, 13, (1).to_bytes(4, "little") + bytes(4))
    s.sock.close()
    assert [(p.flags, p.tos) for p in s.flow.receive_all()] == [("RA", NOT_ECT)]


@pytest.mark.parametrize("tos", [0xB8, 0xBB, 3])
def test_the_application_chooses_the_other_six_bits(tos):
    """IP_TOS: the two bits are TCP's own, as Linux has it."""
    s = speaking()
    s.sock.setsockopt(SOL_IP, IP_TOS, tos)
    assert s.sock.getsockopt(SOL_IP, IP_TOS) == tos & ~3
    assert {p.tos for p in sent(s)} == {tos & ~3 | ECT_0}
    plain = passive(new_peer(ecn=0))
    plain.sock.setsockopt(SOL_IP, IP_TOS, tos)
    assert {p.tos for p in sent(plain)} == {tos & ~3}


# --- the receiver -----------------------------------------------------------------------------------------------------

def test_ce_is_echoed_until_cwr_comes():
    """Section 6.1.3: one lost acknowledgement must not lose the news."""
    s = speaking()
    s.data(bytes(1000), tos=ECT_0)
    assert s.flow.receive().flags == "A"
    s.data(bytes(1000), tos=CE)
    assert s.flow.receive().flags == "AE"
    for _ in range(3):
        s.data(bytes(1000), tos=ECT_0)
        s.peer.advance("50ms")
        assert {p.flags for p in s.flow.receive_all()} == {"AE"}
    assert {p.flags for p in sent(s)} == {"PAE"}
    s.data(bytes(1000), flags="PAC", tos=ECT_0)
    s.peer.advance("50ms")
    assert {p.flags for p in s.flow.receive_all()} == {"A"}
    assert info(s).received_ce == 1 and info(s).options & 24 == 24


def test_cwr_on_a_packet_with_ce_begins_a_new_echo():
    s = speaking()
    s.data(bytes(1000), tos=CE)
    s.data(bytes(1000), flags="PAC", tos=CE)
    s.quiet()
    s.data(bytes(1000), tos=ECT_0)
    s.peer.advance("50ms")
    assert s.flow.receive_all()[-1].flags == "AE"


def test_ce_on_what_is_no_acceptable_data_is_ignored():
    """A pure acknowledgement, data beyond the window, data with an impossible acknowledgement."""
    s = speaking()
    s.flow.send("A", seq=1, ack=1, tos=CE)
    s.flow.send("PA", seq=1 << 28, ack=1, payload=b"x", tos=CE)
    s.flow.send("PA", seq=1, ack=1 << 20, payload=b"x", tos=CE)
    s.quiet()
    s.data(b"x", tos=ECT_0)
    s.peer.advance("50ms")
    assert {p.flags for p in s.flow.receive_all()} == {"A"}
    assert info(s).received_ce == 0


# --- the sender -------------------------------------------------------------------------------------------------------

def congested(algorithm="reno", **sysctl):
    """A full window of ten segments in flight."""
    s = speaking(congestion_control=algorithm, **sysctl)
    assert len(sent(s, 10 * MSS)) == 10
    return s


def test_ece_halves_the_window_once_and_cwr_says_so_once():
    """Section 6.1.2: as for a loss, nothing is sent again, and further ECE of the same window changes nothing."""
    s = congested()
    s.sock.send(bytes(40 * MSS))
    assert s.flow.receive_all() == []
    packets = []
    for k in range(1, 11):
        s.flow.send("AE", seq=1, ack=1 + k * MSS)
        packets += s.flow.receive_all()
    assert info(s).ca_state == 2 and info(s).snd_ssthresh == 5
    assert [p.flags for p in packets].count("AC") == 1 and "C" in packets[0].flags
    assert all(p.tos == ECT_0 and p.seq > 10 * MSS for p in packets)
    assert 4 <= len(packets) <= 5
    assert info(s).delivered_ce == 10
    s.flow.send("A", seq=1, ack=1 + 11 * MSS)
    assert info(s).ca_state == 0 and info(s).snd_cwnd == 5


def test_the_next_window_is_reduced_again():
    s = congested()
    s.sock.send(bytes(60 * MSS))
    s.flow.send("AE", seq=1, ack=1 + MSS)
    for k in range(2, 12):
        s.flow.send("A", seq=1, ack=1 + k * MSS)
    assert info(s).ca_state == 0
    window = info(s).snd_cwnd
    s.flow.receive_all()
    s.flow.send("AE", seq=1, ack=1 + 12 * MSS)
    assert info(s).ca_state == 2 and info(s).snd_ssthresh <= max(2, window // 2 + 1)


def test_a_loss_says_cwr_too():
    """Section 6.1.2: the receiver learns that the window was reduced, whatever for."""
    s = congested()
    s.sock.send(bytes(40 * MSS))
    for _ in range(3):
        s.flow.send("A", seq=1, ack=1)
    packets = s.flow.receive_all()
    again = [p for p in packets if p.seq == 1]
    assert len(again) == 1 and again[0].tos == NOT_ECT and "C" not in again[0].flags
    s.flow.send("A", seq=1, ack=1 + 10 * MSS)
    fresh = [p for p in s.flow.receive_all() if p.tos == ECT_0]
    assert "C" in fresh[0].flags and not any("C" in p.flags for p in fresh[1:])


def test_ece_with_nothing_in_flight_changes_nothing():
    s = congested()
    s.flow.send("A", seq=1, ack=s.ack)
    window = info(s).snd_cwnd
    s.flow.send("AE", seq=1, ack=s.ack)
    assert info(s).snd_cwnd == window and info(s).ca_state == 0


# --- DCTCP ------------------------------------------------------------------------------------------------------------

def dctcp():
    peer = new_peer(congestion_control="dctcp", ecn=0)
    return passive_asking("SEC", peer, tos=ECT_0)


def test_dctcp_asks_and_answers_whatever_the_setting():
    """RFC 8257 sections 3.5 and 4: it cannot do without; SYN and acknowledgements are ECT too."""
    s = dial(new_peer(congestion_control="dctcp", ecn=0))
    syn = s.flow.receive()
    assert (syn.flags, syn.tos) == ("SEC", ECT_0)
    s = dctcp()
    assert (s.answer.flags, s.answer.tos) == ("SAE", ECT_0)
    s.data(b"x")
    s.peer.advance("50ms")
    assert [p.tos for p in s.flow.receive_all()] == [ECT_0]


def test_dctcp_tells_which_bytes_met_congestion_although_it_delays_acknowledgements():
    """RFC 8257 section 3.2, figure 1: a change of CE acknowledges at once what came before it, in the old state."""
    s = dctcp()
    s.sock.setsockopt(6, 12, 0)                     # TCP_QUICKACK off
    s.data(bytes(1000), tos=ECT_0)
    assert s.flow.receive_all() == []
    s.data(bytes(1000), tos=CE)
    assert [(p.flags, p.ack) for p in s.flow.receive_all()] == [("A", 1001), ("AE", 2001)]
    s.data(bytes(1000), tos=CE)
    assert s.flow.receive_all() == []
    s.data(bytes(1000), tos=ECT_0)
    assert [(p.flags, p.ack) for p in s.flow.receive_all()] == [("AE", 3001), ("A", 4001)]
    s.data(bytes(1000), tos=CE)
    assert [(p.flags, p.ack) for p in s.flow.receive_all()] == [("AE", 5001)]      # nothing was waiting
    s.data(bytes(1000), flags="PAC", tos=CE)        # no CWR ends it, CE does
    s.data(bytes(1000), flags="PAC", tos=CE)
    assert {p.flags for p in s.flow.receive_all()} == {"AE"}


def test_dctcp_reduces_by_the_share_that_was_marked():
    s = passive_asking("SEC", new_peer(congestion_control="dctcp"), tos=ECT_0)
    total = 0
    for _ in range(60):                             # alpha fades from 1 while nothing is marked
        sent(s, 5 * MSS)
        total += 5
        s.flow.send("A", seq=1, ack=1 + total * MSS)
    window = info(s).snd_cwnd
    sent(s, window * MSS)
    s.flow.send("AE", seq=1, ack=1 + (total + 1) * MSS)
    assert window * 0.85 <= info(s).snd_ssthresh < window


@pytest.mark.parametrize("sysctl", [{"ecn": 1}, {"ecn": 3}, {"ecn": 3, "ecn_option": 0}],
                         ids=["classic", "accurate", "ace"])
def test_dctcp_keeps_a_marking_queue_at_its_threshold_and_loses_nothing(sysctl):
    """A bottleneck of 100 Mbit/s and 1 ms that marks from K = 20 packets on, with room for 200."""
    settings = {f"net.ipv4.tcp_{k}": v for k, v in {"congestion_control": "dctcp", **sysctl}.items()}
    pair = Pair(seed=3, sysctl=settings, delay="500us", a_to_b={"rate": "100mbit", "queue": 200, "mark": 20})
    took = pair.transfer(6_000_000)
    stats = pair.faults.stats()["output"]
    assert stats["queue_dropped"] == 0 and stats["marked"] > 100
    assert stats["marked"] < stats["pushed"] // 2
    assert pair.a.stack.counters()["tcp_retransmits"] == 0
    assert 6_000_000 * 8e9 / took.elapsed_ns > 85e6


def test_a_queue_that_marks_drops_what_is_not_ect():
    pair = Pair(seed=4, sysctl={"net.ipv4.tcp_ecn": 0}, delay="5ms", a_to_b={"rate": "10mbit", "mark": 10})
    pair.transfer(500_000)
    stats = pair.faults.stats()["output"]
    assert stats["queue_dropped"] > 0 and stats["marked"] == 0


@pytest.mark.parametrize("algorithm", ["reno", "cubic", "vegas", "bbr", "ledbat", "dctcp"])
def test_every_algorithm_hears_of_marks(algorithm):
    settings = {"net.ipv4.tcp_congestion_control": algorithm, "net.ipv4.tcp_ecn": 1}
    pair = Pair(seed=5, sysctl=settings, delay="10ms", a_to_b={"rate": "20mbit", "queue": 400, "mark": 25})
    pair.transfer(2_000_000)
    stats = pair.faults.stats()["output"]
    assert stats["queue_dropped"] == 0
    assert pair.a.stack.counters()["tcp_retransmits"] == 0


# --- whole streams ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("ecn", [1, 3])
def test_a_stream_is_the_same_over_a_lossy_marking_wire(ecn):
    for seed in range(4):
        pair = Pair(seed=seed, sysctl={"net.ipv4.tcp_ecn": ecn}, loss=0.02, reorder=0.02, duplicate=0.01, delay="5ms",
                    a_to_b={"rate": "20mbit", "mark": 15}, b_to_a={"rate": "20mbit", "mark": 15})
        pair.transfer(300_000, 200_000)                # raises when a stream differs
        assert sum(way["marked"] for way in pair.faults.stats().values()) > 0, seed


@pytest.mark.parametrize("settings", [
    {"ecn": 1}, {"ecn": 3}, {"ecn": 3, "ecn_option": 1}, {"congestion_control": "dctcp"},
], ids=["classic", "accurate", "sparse option", "dctcp"])
def test_a_restored_stack_says_the_same(settings):
    """Snapshots of both ends, again and again in the middle of marked transfers: the same bytes leave."""
    def run(every):
        pair = Pair(seed=11, log=True, sysctl={f"net.ipv4.tcp_{k}": v for k, v in settings.items()}, loss=0.01,
                    delay="3ms", a_to_b={"rate": "20mbit", "mark": 8}, b_to_a={"rate": "20mbit", "mark": 8})
        steps = 0

        def on_step():
            nonlocal steps
            steps += 1
            if every and steps % every == 0:
                pair.restore(pair.a)
                pair.restore(pair.b)

        pair.transfer(200_000, 150_000, on_step=on_step)
        assert pair.faults.stats()["output"]["marked"] > 0
        return pair.a.log.raw(), pair.b.log.raw()

    assert run(0) == run(23)
