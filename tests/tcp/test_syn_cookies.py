"""SYN cookies (RFC 4987 section 3.6, tcp(7) `tcp_syncookies`): a handshake that the peer remembers."""

import random

import pytest

from netstack.stack import Stack
from netstack.testing import is_tcp

from .tools import SO_RCVBUF, SOL_SOCKET, A, B, listen, new_peer, states

ALWAYS = {"syncookies": 2}


def syn(peer, port=40000, **options):
    flow = peer.flow(port)
    flow.send("S", seq=0, **{"mss": 1460, **options})
    return flow


def fill(peer, count, first=20000):
    """Half-open connections of nobody."""
    for i in range(count):
        syn(peer, first + i)
    peer.received.clear()


@pytest.mark.parametrize("mss, kept", [(None, 536), (1, 536), (536, 536), (1299, 536), (1300, 1300), (1439, 1300),
                                       (1440, 1440), (1460, 1460), (8960, 1460), (65535, 1460)])
def test_a_cookie_keeps_one_of_four_segment_sizes(mss, kept):
    peer = new_peer(mtu=9000, **ALWAYS)
    server = listen(peer)
    flow = peer.flow()
    flow.send("S", seq=0, **({"mss": mss} if mss else {}))
    flow.expect(is_tcp(flags="SA", ack=1, mss=8960, payload_length=0))
    assert states(peer.stack) == ["LISTEN"] and peer.stack.memory()["half_open"] == 0
    flow.send("A", seq=1, ack=1)
    sock, _ = server.accept()
    assert sock.info()["mss"] == kept


@pytest.mark.parametrize("shift", [None, 0, 1, 7, 14])
@pytest.mark.parametrize("sack", [False, True])
def test_the_timestamp_keeps_window_scale_and_sack(shift, sack):
    peer = new_peer(**ALWAYS)
    server = listen(peer)
    flow = peer.flow()
    peer.advance("1234567ms")
    options = {"timestamp": (500, 0), "sack_permitted": sack}
    if shift is not None:
        options["window_scale"] = shift
    flow.send("S", seq=0, mss=1460, **options)
    answer = flow.expect(is_tcp(flags="SA", ack=1))
    assert answer.sack_permitted == sack and (answer.window_scale is None) == (shift is None)
    assert answer.timestamp[1] == 500
    peer.advance("3s")
    flow.send("A", seq=1, ack=1, window=1000, timestamp=(600, answer.timestamp[0]))
    sock, _ = server.accept()
    info = sock.tcp_info()
    assert info.options & 1 and bool(info.options & 2) == sack and bool(info.options & 4) == (shift is not None)
    assert sock.info()["snd_wnd"] == 1000 << (shift or 0)
    sock.send(b"hello")
    sent = flow.expect(is_tcp(payload=b"hello"))
    assert 0 <= sent.timestamp[0] - answer.timestamp[0] <= 3000 + 127 and sent.timestamp[1] == 600


def test_a_syn_without_timestamps_keeps_no_option_but_the_size():
    peer = new_peer(**ALWAYS)
    server = listen(peer)
    flow = syn(peer, sack_permitted=True, window_scale=7)
    answer = flow.expect(is_tcp(flags="SA"))
    assert not answer.sack_permitted and answer.window_scale is None and answer.timestamp is None
    flow.send("A", seq=1, ack=1, window=5000)
    assert server.accept()[0].info()["snd_wnd"] == 5000


@pytest.mark.parametrize("setting", [0, 1])
def test_a_full_queue_gives_cookies_unless_they_are_off(setting):
    peer = new_peer(syncookies=setting)
    server = listen(peer, backlog=16)
    fill(peer, 16)
    flow = syn(peer)
    if setting == 0:
        flow.expect_nothing()
        assert peer.stack.counters()["drop_tcp_backlog"] == 1
        return
    flow.expect(is_tcp(flags="SA", ack=1))
    assert states(peer.stack).count("SYN_RCVD") == 16 and peer.stack.counters()["tcp_syncookies_sent"] == 1
    flow.send("PA", seq=1, ack=1, payload=b"data at once")
    sock, address = server.accept()
    assert address == (B, 40000) and sock.getsockname() == (A, 80) and sock.recv(100) == b"data at once"
    assert sock.state == "ESTABLISHED" and peer.stack.counters()["tcp_syncookies_received"] == 1
    flow.expect(is_tcp(flags="A", seq=1, ack=13))
    sock.send(b"answer")
    flow.expect(is_tcp(seq=1, ack=13, payload=b"answer"))


def test_without_cookies_the_last_quarter_of_tcp_max_syn_backlog_stays_free():
    peer = new_peer(syncookies=0, max_syn_backlog=40)
    listen(peer, backlog=1000)
    for i in range(100):
        syn(peer, 20000 + i)
    assert states(peer.stack).count("SYN_RCVD") == 30 and peer.stack.counters()["drop_tcp_backlog"] == 70


def test_what_the_listener_was_told_holds_for_a_cookies_connection():
    peer = new_peer(**ALWAYS)
    server = listen(peer)
    server.setsockopt(SOL_SOCKET, SO_RCVBUF, 20000)
    server.setsockopt(6, 1, 1)
    server.setsockopt(0, 2, 33)                                  # IP_TTL
    server.setsockopt(0, 1, 0x10)                                # IP_TOS
    server.setsockopt(6, 2, 1000)                                # TCP_MAXSEG
    flow = syn(peer, timestamp=(1, 0), window_scale=3)
    answer = flow.expect(is_tcp(flags="SA", mss=1000))
    assert (answer.ttl, answer.tos) == (33, 0x10)
    flow.send("A", seq=1, ack=1, timestamp=(2, answer.timestamp[0]))
    sock, _ = server.accept()
    assert sock.getsockopt(SOL_SOCKET, SO_RCVBUF) == 40000 and sock.getsockopt(6, 1) == 1
    sock.send(bytes(2000))
    assert [(len(p.payload), p.ttl, p.tos) for p in flow.receive_all()] == [(988, 33, 0x10)] * 2 + [(24, 33, 0x10)]


@pytest.mark.parametrize("wait, good", [("1s", True), ("59s", True), ("121s", False), ("1h", False)])
def test_a_cookie_is_good_for_one_to_two_minutes(wait, good):
    peer = new_peer(**ALWAYS)
    server = listen(peer)
    flow = syn(peer)
    flow.expect(is_tcp(flags="SA"))
    peer.advance(wait)
    syn(peer, 50000)                                             # cookies are still given: only its age counts
    peer.received.clear()
    flow.send("A", seq=1, ack=1)
    if good:
        assert server.accept()[1] == (B, 40000)
        flow.expect_nothing()
    else:
        flow.expect(is_tcp(flags="R", seq=1))
        assert server.poll() == 0


def test_cookies_are_taken_for_two_minutes_after_the_last_was_given():
    peer = new_peer(syncookies=1)
    server = listen(peer, backlog=8)
    fill(peer, 8)
    flow = syn(peer)
    flow.expect(is_tcp(flags="SA"))
    other = peer.flow(1111)
    other.send("A", seq=1, ack=12345)
    other.expect(is_tcp(flags="R", seq=12345))
    assert peer.stack.counters()["tcp_syncookies_failed"] == 1
    peer.advance("120s")
    other.send("A", seq=1, ack=12345)
    other.expect(is_tcp(flags="R", seq=12345))
    assert peer.stack.counters()["tcp_syncookies_failed"] == 1   # not even looked at
    assert server.poll() == 0


@pytest.mark.parametrize("change", [dict(seq=2), dict(seq=0), dict(ack=2), dict(ack=1 + 4), dict(ack=1 + (1 << 24)),
                                    dict(port=40001)])
def test_a_cookie_is_of_one_connection_and_one_isn(change):
    peer = new_peer(**ALWAYS)
    server = listen(peer)
    flow = syn(peer)
    answer = flow.expect(is_tcp(flags="SA"))
    thief = peer.flow(change.get("port", 40000))
    thief.irs = flow.irs
    thief.send("A", seq=change.get("seq", 1), ack=change.get("ack", 1))
    thief.expect(is_tcp(flags="R"))
    assert server.poll() == 0 and peer.stack.counters()["tcp_syncookies_failed"] == 1
    assert answer.seq == 0
    flow.send("A", seq=1, ack=1)
    assert server.poll() == 1


def test_cookies_of_two_stacks_have_nothing_in_common():
    answers = []
    for seed in (1, 2):
        peer = new_peer(seed=seed, **ALWAYS)
        listen(peer)
        flow = syn(peer)
        flow.expect(is_tcp(flags="SA"))
        answers.append(flow.irs)
    assert answers[0] != answers[1]


def test_cookies_of_one_client_are_unpredictable():
    """Of neighbouring ports, and of the same one in the next minute: differences spread over the whole range."""
    peer = new_peer(**ALWAYS)
    listen(peer)
    seen = []
    for i in range(400):
        flow = syn(peer, 20000 + i)
        flow.expect(is_tcp(flags="SA"))
        seen.append(flow.irs)
    steps = [(b - a) & 0xFFFFFFFF for a, b in zip(seen, seen[1:], strict=False)]
    assert len(set(steps)) == len(steps)
    assert all(80 < sum(s >> 30 == k for s in steps) < 120 for k in range(4))


def test_cookies_end_a_full_accept_queue_no_better_than_others():
    peer = new_peer(**ALWAYS)
    server = listen(peer, backlog=1)
    flows = [syn(peer, 40000 + i) for i in range(4)]
    for flow in flows:
        flow.expect(is_tcp(flags="SA"))
        flow.send("A", seq=1, ack=1)
        flow.expect_nothing()
    assert states(peer.stack).count("ESTABLISHED") == 2
    server.accept()
    flows[3].send("PA", seq=1, ack=1, payload=b"x")               # it thinks it is connected, and sends
    server.accept()
    assert server.accept()[1] == (B, 40003)


def test_options_switched_off_since_make_a_cookie_worthless():
    peer = new_peer(**ALWAYS)
    server = listen(peer)
    flow = syn(peer, timestamp=(1, 0), sack_permitted=True)
    answer = flow.expect(is_tcp(flags="SA"))
    peer.stack.set("net.ipv4.tcp_sack", 0)
    flow.send("A", seq=1, ack=1, timestamp=(2, answer.timestamp[0]))
    flow.expect_nothing()
    assert server.poll() == 0


def test_a_restored_stack_knows_its_cookies():
    peer = new_peer(syncookies=1)
    listen(peer, backlog=8)
    fill(peer, 8)
    flow = syn(peer, timestamp=(7, 0), window_scale=5)
    answer = flow.expect(is_tcp(flags="SA"))
    first = peer.stack.snapshot()
    for shift in (0, 10**15):
        peer.stack = Stack.restore(first, peer.clock.now_ns + shift)
        assert peer.stack.snapshot()[:20] == first[:20]
        raw = flow.build("A", seq=1, ack=1, timestamp=(8, answer.timestamp[0]))
        peer.stack.input(raw, peer.clock.now_ns + shift)
        assert states(peer.stack).count("ESTABLISHED") == 1 and states(peer.stack).count("SYN_RCVD") == 8


def test_a_thousand_clients_through_cookies_all_get_their_bytes():
    rng = random.Random(7)
    peer = new_peer(**ALWAYS)
    server = listen(peer, backlog=4096)
    count = 1000
    for i in range(count):
        flow = peer.flow(10000 + i, iss=rng.getrandbits(32))
        flow.send("S", seq=0, mss=rng.randrange(536, 1461), timestamp=(rng.getrandbits(31), 0),
                  window_scale=rng.randrange(15))
        answer = flow.expect(is_tcp(flags="SA", ack=1))
        flow.send("PA", seq=1, ack=1, timestamp=(answer.timestamp[1] + 1, answer.timestamp[0]), payload=b"%d" % i)
        peer.received.clear()
        if i % 100 == 0:
            peer.advance("100ms")
    for i in range(count):
        sock, address = server.accept()
        assert address == (B, 10000 + i) and sock.recv(10) == b"%d" % i
        sock.close()
