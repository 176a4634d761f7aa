"""Rows C1 to C4, C9 to C11, C13: segments and reports of somebody who sees nothing and guesses."""

import errno

import pytest

from netstack.testing import build_icmp, is_tcp
from tests.security.rig import accept, difference, established, nothing_left
from tests.tcp.tools import SO_ERROR, SOL_SOCKET, SOL_TCP, SYNCHRONIZED, A, B, dial, new_peer, reach

TCP_MAXSEG = 2
RECEIVING = ("ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2")


def window_of(s):
    info = s.sock.info()
    return info["rcv_adv"] - info["rcv_nxt"] & 0xFFFFFFFF


@pytest.mark.parametrize("state", SYNCHRONIZED)
@pytest.mark.parametrize("offset, outcome", [
    ("0", "reset"), ("1", "challenge"), ("window - 1", "challenge"), ("window", "nothing"), ("-1", "nothing"),
])
def test_c1_a_reset_counts_at_rcv_nxt_only(state, offset, outcome):
    """RFC 5961 section 3.2."""
    s = reach(state)
    at = eval(offset, {"window": window_of(s)})
    before = s.peer.stack.counters()
    s.flow.send("R", seq=s.seq + at)
    answers = s.flow.receive_all()
    changed = difference(s.peer.stack, before)
    if outcome == "reset":
        assert s.state == "CLOSED" and not answers and changed["tcp_resets_in"] == 1
    else:
        assert s.state == state and "tcp_resets_in" not in changed
        assert [(p.flags, p.ack) for p in answers] == ([("A", s.seq)] if outcome == "challenge" else [])
        assert changed.get("tcp_challenge_acks", 0) == (outcome == "challenge")


@pytest.mark.parametrize("state", SYNCHRONIZED)
@pytest.mark.parametrize("flags", ["S", "SA", "SF"])
@pytest.mark.parametrize("offset", [0, 1, 60_000, 70_000, -1, -70_000, 1 << 31])
def test_c2_a_syn_is_challenged_wherever_it_lies(state, flags, offset):
    """RFC 5961 section 4.2."""
    s = reach(state)
    s.flow.send(flags, seq=s.seq + offset, ack=s.ack if "A" in flags else None)
    assert [(p.flags, p.ack) for p in s.flow.receive_all()] == [("A", s.seq)] and s.state == state
    assert s.peer.stack.counters()["tcp_challenge_acks"] == 1


@pytest.mark.parametrize("state", RECEIVING)
@pytest.mark.parametrize("edge, accepted", [
    ("snd_nxt", True), ("snd_nxt + 1", False), ("snd_una - max_wnd", True), ("snd_una - max_wnd - 1", False),
    ("snd_nxt + 0x7FFFFFFF", False), ("snd_una - 0x7FFFFFFF", False),
])
def test_c3_data_counts_with_an_ack_between_both_edges_only(state, edge, accepted):
    """RFC 5961 section 5.2: SND.UNA - MAX.SND.WND <= SEG.ACK <= SND.NXT."""
    s = reach(state)
    info = s.sock.info()
    base = s.flow.irs
    at = eval(edge, {"snd_nxt": info["snd_nxt"], "snd_una": info["snd_una"], "max_wnd": 65535})
    s.flow.send("PA", seq=s.seq, ack=at - base, payload=b"injected")
    if accepted:
        assert s.sock.recv(100) == b"injected"
    else:
        assert [(p.flags, p.ack) for p in s.flow.receive_all()] == [("A", s.seq)]
        with pytest.raises(BlockingIOError):
            s.sock.recv(100)
        assert s.peer.stack.counters()["tcp_challenge_acks"] == 1 and s.peer.stack.counters()["drop_tcp_ack"] == 1


def test_c4_challenges_of_one_connection_tell_nothing_about_another():
    """CVE-2016-5696: the limit is per connection and no global counter can be watched."""
    with nothing_left() as peer:
        attacker = established(peer)
        victim = accept(peer, 50000)
        peer.opened.append(victim.sock)
        limit = 10
        for rounds in range(3):
            for _ in range(100):
                attacker.flow.send("S", seq=5)
            assert len(attacker.flow.receive_all()) == limit
            for _ in range(limit):
                victim.flow.send("S", seq=5)
            assert len(victim.flow.receive_all()) == limit, rounds
            attacker.flow.send("S", seq=5)
            attacker.flow.expect_nothing()              # spent, whatever the victim did
            peer.advance("1s")


@pytest.mark.parametrize("hazard", ["reset", "old data", "old syn", "old ack"])
def test_c9_time_wait_is_not_assassinated(hazard):
    """RFC 1337 section 3: old duplicates make a peer say RST to the answer; TIME-WAIT must outlive all of it."""
    s = reach("TIME_WAIT")
    begin = s.peer.clock.now_ns
    s.peer.advance("1s")
    if hazard == "old data":
        s.flow.send("PA", seq=1, ack=1, payload=b"old")
        s.flow.expect(is_tcp(flags="A", seq=2, ack=2))
    elif hazard == "old syn":
        s.flow.send("S", seq=-1000)
        s.flow.expect(is_tcp(flags="A", seq=2, ack=2))
    elif hazard == "old ack":
        s.flow.send("A", seq=1, ack=1)
        s.flow.receive_all()
    for seq in (0, 1, 2, 3, 65536):
        s.flow.send("R", seq=seq)                       # what a desynchronized peer says to that answer
        s.flow.send("RA", seq=seq, ack=2)
    s.flow.expect_nothing()
    s.sock.close()
    s.server.close()
    while s.peer.stack.sockets():
        s.peer.advance("100ms")
    assert abs(s.peer.clock.now_ns - begin - 60 * 10**9) <= 2 * 10**8


@pytest.mark.parametrize("newer", [True, False])
def test_c9_only_a_newer_syn_takes_the_names_over(newer):
    """RFC 6191 section 2."""
    peer = new_peer()
    s = reach("TIME_WAIT", peer, timestamp=(1000, 0))
    s.flow.send("S", seq=100_000, mss=1460, timestamp=(1000 + (5000 if newer else -5), 0))
    answer = s.flow.receive()
    assert answer.flags == ("SA" if newer else "A")


def quoted(s, seq, change=None):
    """The head of a segment of the stack, as a router would quote it."""
    head = s.flow.build("A")                            # addresses and ports the other way round
    out = bytearray(head[:28])
    out[12:16], out[16:20] = head[16:20], head[12:16]
    out[20:22], out[22:24] = head[22:24], head[20:22]
    out[24:28] = (s.flow.irs + seq & 0xFFFFFFFF).to_bytes(4, "big")
    if change is not None:
        out[change] ^= 1
    return bytes(out)


@pytest.mark.parametrize("code", [2, 3])
@pytest.mark.parametrize("seq", [-1, 0, 1, 5, 6, 100_000])
@pytest.mark.parametrize("state", ["ESTABLISHED", "CLOSE_WAIT"])
def test_c10_hard_icmp_errors_are_soft_once_the_connection_stands(code, seq, state):
    """RFC 5927 section 5.2: the sequence number must be outstanding, and even then it is advice."""
    s = reach(state)
    s.sock.send(b"hello")
    s.flow.receive_all()
    s.peer.inject(build_icmp(B, A, 3, code, payload=quoted(s, seq)))
    assert s.state == state and not s.sock.poll() & 8             # as Linux, SO_ERROR may tell the advice to who asks
    s.pure_ack(6)
    s.sock.send(b"more")
    s.flow.expect(is_tcp(payload=b"more"))


@pytest.mark.parametrize("seq, ends", [(0, True), (1, False), (-1, False), (1 << 31, False)])
def test_c10_an_attempt_ends_by_a_report_about_its_syn_only(seq, ends):
    s = dial(new_peer())
    s.flow.receive()
    s.peer.inject(build_icmp(B, A, 3, 3, payload=quoted(s, seq)))
    assert s.state == ("CLOSED" if ends else "SYN_SENT")
    assert s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == (errno.ECONNREFUSED if ends else 0)


@pytest.mark.parametrize("mtu", [68, 296, 551, 1500, 9000])
def test_c11_a_path_mtu_no_path_may_have_is_ignored(mtu):
    s = reach("ESTABLISHED")
    s.sock.send(bytes(14600))
    s.flow.receive_all()
    s.peer.inject(build_icmp(B, A, 3, 4, rest=mtu.to_bytes(4, "big"), payload=quoted(s, 1)))
    s.flow.expect_nothing()
    assert s.sock.getsockopt(SOL_TCP, TCP_MAXSEG) == 1460
    assert s.peer.stack.counters()["tcp_pmtu_lowered"] == 0


@pytest.mark.parametrize("change", [15, 19, 21, 23])
def test_c11_a_report_with_other_names_reaches_nobody(change):
    s = reach("ESTABLISHED")
    s.sock.send(bytes(14600))
    s.flow.receive_all()
    s.peer.inject(build_icmp(B, A, 3, 4, rest=(1000).to_bytes(4, "big"), payload=quoted(s, 1, change)))
    s.flow.expect_nothing()
    assert s.sock.getsockopt(SOL_TCP, TCP_MAXSEG) == 1460


@pytest.mark.parametrize("seq", [-1, 0, 14601, 1 << 31])
def test_c11_a_report_about_data_that_is_not_outstanding_is_ignored(seq):
    s = reach("ESTABLISHED")
    s.sock.send(bytes(14600))
    s.flow.receive_all()
    s.peer.inject(build_icmp(B, A, 3, 4, rest=(1000).to_bytes(4, "big"), payload=quoted(s, seq)))
    s.flow.expect_nothing()
    assert s.sock.getsockopt(SOL_TCP, TCP_MAXSEG) == 1460


def test_c11_only_a_segment_that_large_can_have_been_too_large():
    s = reach("ESTABLISHED")
    s.sock.send(bytes(900))
    s.flow.receive_all()
    s.peer.inject(build_icmp(B, A, 3, 4, rest=(1000).to_bytes(4, "big"), payload=quoted(s, 1)))
    s.flow.expect_nothing()
    assert s.sock.getsockopt(SOL_TCP, TCP_MAXSEG) == 1460


def test_c11_what_is_believed_ages_ten_minutes():
    s = reach("ESTABLISHED")
    s.sock.send(bytes(14600))
    s.flow.receive_all()
    s.peer.inject(build_icmp(B, A, 3, 4, rest=(1000).to_bytes(4, "big"), payload=quoted(s, 1)))
    assert max(s.lengths()) == 960
    s.pure_ack(14601)
    for seconds, size in ((598, 960), (4, 1460)):
        s.peer.advance(f"{seconds}s")
        s.sock.send(bytes(3000))
        assert max(s.lengths()) == size
        s.pure_ack(s.ack + 3000)


def test_c11_source_quench_is_ignored():
    """RFC 6633."""
    s = reach("ESTABLISHED")
    s.sock.send(bytes(14600))
    s.flow.receive_all()
    before = s.sock.info()["cwnd"]
    s.peer.inject(build_icmp(B, A, 4, 0, payload=quoted(s, 1)))
    s.flow.expect_nothing()
    assert s.sock.info()["cwnd"] == before


def test_c13_crossing_syns_become_one_connection():
    """RFC 9293 section 3.5, figure 7."""
    s = dial(new_peer())
    syn = s.flow.receive()
    assert syn.flags == "S"
    s.flow.send("S", seq=0, mss=1460)
    s.flow.expect(is_tcp(flags="SA", seq=0, ack=1))
    s.flow.send("SA", seq=0, ack=1, mss=1460)
    assert s.state == "ESTABLISHED"
    s.flow.send("PA", seq=1, ack=1, payload=b"hi")
    assert s.sock.recv(10) == b"hi"


def test_c13_a_split_handshake_is_a_simultaneous_open_and_nothing_else():
    """The server answers with an ACK and a SYN apart (Beardsley and Qian): the ACK alone opens nothing."""
    s = dial(new_peer())
    s.flow.receive()
    s.flow.send("A", seq=0, ack=1)
    assert s.state == "SYN_SENT"
    s.flow.receive_all()
    s.flow.send("S", seq=0, mss=1460)
    s.flow.expect(is_tcp(flags="SA", seq=0, ack=1))
    assert s.state == "SYN_RCVD"
    s.flow.send("A", seq=1, ack=1)
    assert s.state == "ESTABLISHED"


@pytest.mark.parametrize("ack", [0, 2, -1, 1 << 31])
def test_c13_a_syn_ack_of_something_else_is_reset(ack):
    s = dial(new_peer())
    s.flow.receive()
    s.flow.send("SA", seq=0, ack=ack, mss=1460)
    answer = s.flow.receive()
    assert answer.flags == "R" and answer.seq == (ack & 0xFFFFFFFF) and s.state == "SYN_SENT"


def test_c13_a_socket_connected_to_itself_talks_to_itself():
    peer = new_peer()
    sock = peer.stack.socket()
    sock.bind((A, 5000))
    sock.connect_ex((A, 5000))
    peer.advance("1s")
    assert sock.state == "ESTABLISHED"
    sock.send(b"echo")
    peer.advance("1s")
    assert sock.recv(10) == b"echo"
