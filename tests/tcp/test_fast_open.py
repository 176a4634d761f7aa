"""TCP Fast Open (RFC 7413), both ends, as Linux has it: cookies, data on the SYN, and what becomes of it on bad paths.

The peer's packets are written by hand here, options included, so that both sides of the wire are looked at.
"""

import errno

import pytest

from netstack.stack import Stack
from netstack.testing import is_tcp, parse_packet

from .tools import SO_ERROR, SOL_SOCKET, SOL_TCP, A, B, S, Wire, listen, new_peer, states

pytestmark = pytest.mark.unwatched       # the state checker knows no data on a SYN
MSG_FASTOPEN = 0x20000000
TCP_FASTOPEN, TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_KEY, TCP_FASTOPEN_NO_COOKIE = 23, 30, 33, 34
CLIENT, SERVER, NO_COOKIE_CLIENT, NO_COOKIE_SERVER, ALL_LISTENERS = 1, 2, 4, 0x200, 0x400
SYN_DATA, CHILD = 32, 128                # tcpi_options
KEY = bytes.fromhex("f763bfa0813d80ed301d64cd904abcce")
ASK, ASK_OLD = b"\x22\x02", b"\xfe\x04\xf9\x89"


def option(cookie, old=False):
    """The Fast Open option with a cookie; old: as the experimental kind 254."""
    return bytes((254, 4 + len(cookie), 0xF9, 0x89)) + cookie if old else bytes((34, 2 + len(cookie))) + cookie


def cookie_in(packet):
    """(cookie, experimental) of a packet's options, or None."""
    at, raw = 0, packet.options
    while at < len(raw):
        if raw[at] == 1:
            at += 1
            continue
        if raw[at] == 34:
            return raw[at + 2:at + raw[at + 1]], False
        if raw[at] == 254 and raw[at + 2:at + 4] == b"\xf9\x89":
            return raw[at + 4:at + raw[at + 1]], True
        at += raw[at + 1]
    return None


def fast_server(queue=16, **sysctl):
    peer = new_peer(**{"fastopen": SERVER, **sysctl})
    server = listen(peer)
    if queue is not None:
        server.setsockopt(SOL_TCP, TCP_FASTOPEN, queue)
    return peer, server


def a_cookie(peer, old=False):
    """What the stack gives the peer."""
    flow = peer.flow(9)
    flow.send("S", seq=0, mss=1460, options=ASK_OLD if old else ASK)
    cookie, experimental = cookie_in(flow.expect(is_tcp(flags="SA", ack=1)))
    assert len(cookie) == 8 and experimental == old
    flow.send("R", seq=1)
    return cookie


def knock(peer, cookie, data=b"0123456789", port=40000, old=False, **fields):
    flow = peer.flow(port)
    flow.send("S", seq=0, mss=1012, options=option(cookie, old), payload=data, **fields)
    return flow


# --- server: cookies --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("old", [False, True])
def test_a_client_asks_for_a_cookie_and_its_data_is_taken_from_the_next_syn(old):
    peer, server = fast_server()
    cookie = a_cookie(peer, old)
    flow = knock(peer, cookie, old=old)
    answer = flow.expect(is_tcp(flags="SA", seq=0, ack=11, payload_length=0, mss=1460))
    assert cookie_in(answer) is None
    assert server.poll() == 1
    sock, address = server.accept()
    assert address == (B, 40000) and sock.state == "SYN_RCVD" and sock.poll() & 1
    assert sock.recv(100) == b"0123456789" and sock.tcp_info().options & (SYN_DATA | CHILD) == SYN_DATA | CHILD
    assert sock.send(b"answer") == 6
    flow.expect(is_tcp(seq=1, ack=11, payload=b"answer"))
    flow.send("A", seq=11, ack=7)
    assert sock.state == "ESTABLISHED" and sock.ioctl(0x5411) == 0
    flow.send("PA", seq=11, ack=7, payload=b"more")
    assert sock.recv(100) == b"more"
    counters = peer.stack.counters()
    assert counters["tcp_fast_open_passive"] == 1 and counters["tcp_fast_open_cookies_asked"] == 1


def test_the_cookie_is_siphash_2_4_of_both_addresses_as_linux_makes_it():
    """Google's packetdrill script tcp/fastopen/server/simple1.pkt has this key, these addresses and this cookie."""
    from netstack.testing import ScriptedPeer
    stack = Stack(addresses="192.168.0.2", seed=1, sysctl={
        "net.ipv4.tcp_fastopen": 0x602, "net.ipv4.tcp_fastopen_key": "a0bf63f7-ed803d81-cd641d30-cebc4a90"})
    peer = ScriptedPeer(stack, "10.248.0.2", "192.168.0.2")
    server = stack.socket()
    server.bind(("", 80))
    server.listen()
    assert a_cookie_of(peer) == bytes.fromhex("00abaaabe8e954c2")
    assert stack.get("net.ipv4.tcp_fastopen_key") == "a0bf63f7-ed803d81-cd641d30-cebc4a90"


def a_cookie_of(peer):
    peer.stack.set("net.ipv4.tcp_fastopen", 0x402)
    server = peer.stack.socket()
    server.bind(("", 81))
    server.listen()
    flow = peer.flow(9, 81)
    flow.send("S", seq=0, mss=1460, options=ASK)
    return cookie_in(flow.expect(is_tcp(flags="SA")))[0]


def test_a_listener_may_have_a_key_of_its_own_and_a_backup():
    peer, server = fast_server()
    general = a_cookie(peer)
    server.setsockopt(SOL_TCP, TCP_FASTOPEN_KEY, KEY)
    mine = a_cookie(peer)
    assert mine != general and server.getsockopt(SOL_TCP, TCP_FASTOPEN_KEY, 32) == KEY
    server.setsockopt(SOL_TCP, TCP_FASTOPEN_KEY, bytes(16) + KEY)
    newest = a_cookie(peer)
    assert server.getsockopt(SOL_TCP, TCP_FASTOPEN_KEY, 32) == bytes(16) + KEY
    flow = knock(peer, mine)
    answer = flow.expect(is_tcp(flags="SA", ack=11))
    assert cookie_in(answer) == (newest, False)              # the old one is still good, and here is the new one
    flow = knock(peer, newest, port=40001)
    assert cookie_in(flow.expect(is_tcp(flags="SA", ack=11))) is None
    for bad in (b"", b"abc", bytes(8), bytes(24), bytes(48)):
        with pytest.raises(OSError) as error:
            server.setsockopt(SOL_TCP, TCP_FASTOPEN_KEY, bad)
        assert error.value.errno == errno.EINVAL


@pytest.mark.parametrize("cookie", [b"12345678", bytes(4), bytes(16)])
def test_a_wrong_cookie_gets_an_ordinary_handshake_and_the_right_one(cookie):
    peer, server = fast_server()
    right = a_cookie(peer)
    flow = knock(peer, cookie)
    assert cookie_in(flow.expect(is_tcp(flags="SA", ack=1))) == (right, False)
    assert server.poll() == 0 and peer.stack.counters()["tcp_fast_open_passive_fail"] == 1
    flow.send("PA", seq=1, ack=1, payload=b"0123456789")
    assert server.accept()[0].recv(100) == b"0123456789"


@pytest.mark.parametrize("raw", [b"\x22\x03\x00", b"\x22\x05abc", b"\x22\x04ab", b"\x22\x13" + bytes(17),
                                 b"\x22\x14" + bytes(18),
                                 b"\xfe\x05\xf9\x89\x00", b"\xfe\x04\xf9\x88", b"\xfe\x02"])
def test_an_option_of_a_wrong_size_is_none(raw):
    peer, server = fast_server()
    flow = peer.flow()
    flow.send("S", seq=0, mss=1460, options=raw, payload=b"data")
    assert cookie_in(flow.expect(is_tcp(flags="SA", ack=1))) is None
    assert server.poll() == 0


def test_a_cookie_of_another_address_is_wrong():
    peer, server = fast_server()
    cookie = a_cookie(peer)
    peer.address = "10.0.0.3"
    knock(peer, cookie).expect(is_tcp(flags="SA", ack=1))
    assert server.poll() == 0


@pytest.mark.parametrize("setting, queue, taken", [
    (0, 16, False), (CLIENT, 16, False), (SERVER, None, False), (SERVER, 0, False), (SERVER, 16, False),
    (SERVER | NO_COOKIE_SERVER, 16, True), (SERVER | NO_COOKIE_SERVER, None, False),
    (SERVER | NO_COOKIE_SERVER | ALL_LISTENERS, None, True), (NO_COOKIE_SERVER | ALL_LISTENERS, None, False),
])
def test_data_without_a_cookie_is_taken_only_where_it_is_allowed(setting, queue, taken):
    """ip-sysctl, tcp_fastopen: 0x2 server, 0x200 no cookie needed, 0x400 every listener."""
    peer, server = fast_server(queue, fastopen=setting)
    flow = peer.flow()
    flow.send("S", seq=0, mss=1460, payload=b"early")
    flow.expect(is_tcp(flags="SA", ack=6 if taken else 1))
    assert server.poll() == taken


def test_tcp_fastopen_no_cookie_on_the_listener():
    peer, server = fast_server()
    server.setsockopt(SOL_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
    flow = peer.flow()
    flow.send("S", seq=0, mss=1460, payload=b"early")
    flow.expect(is_tcp(flags="SA", ack=6))
    assert server.accept()[0].recv(10) == b"early"


def test_a_good_cookie_without_data_lets_the_server_speak_first():
    peer, server = fast_server()
    flow = knock(peer, a_cookie(peer), b"")
    flow.expect(is_tcp(flags="SA", ack=1))
    sock, _ = server.accept()
    assert sock.send(b"banner") == 6 and not sock.tcp_info().options & SYN_DATA
    flow.expect(is_tcp(seq=1, ack=1, payload=b"banner"))


# --- server: the child before its handshake is over -------------------------------------------------------------------

def test_the_syn_ack_is_sent_again_and_the_data_behind_it_only_after_it_was_acknowledged():
    peer, server = fast_server()
    flow = knock(peer, a_cookie(peer))
    flow.expect(is_tcp(flags="SA", ack=11))
    sock, _ = server.accept()
    sock.send(bytes(3000))
    assert [len(p.payload) for p in flow.receive_all()] == [1012, 1012, 976]
    peer.advance("3500ms")
    assert [p.flags for p in flow.receive_all()] == ["SA", "SA"]
    flow.send("A", seq=11, ack=1)
    assert sock.state == "ESTABLISHED"
    peer.advance("10s")
    again = flow.receive_all()
    assert again and all(p.payload for p in again)
    flow.send("A", seq=11, ack=3001)
    assert sock.ioctl(0x5411) == 0


def test_a_child_whose_syn_ack_is_never_acknowledged_ends():
    peer, server = fast_server()
    flow = knock(peer, a_cookie(peer))
    sock, _ = server.accept()
    sock.recv(100)
    peer.advance("200s")
    assert 6 <= len([p for p in flow.receive_all() if p.flags == "SA"]) <= 7
    assert sock.state == "CLOSED" and sock.getsockopt(SOL_SOCKET, SO_ERROR) == errno.ETIMEDOUT


def test_the_queue_of_unfinished_handshakes_is_limited():
    peer, server = fast_server(queue=2)
    cookie = a_cookie(peer)
    flows = [knock(peer, cookie, port=40000 + i) for i in range(4)]
    assert [f.expect(is_tcp(flags="SA")).ack for f in flows] == [11, 11, 1, 1]
    assert peer.stack.counters()["tcp_fast_open_overflows"] == 2
    flows[0].send("A", seq=11, ack=1)
    knock(peer, cookie, port=41000).expect(is_tcp(flags="SA", ack=11))


def test_a_reset_before_accept_leaves_what_the_syn_brought_to_be_read():
    peer, server = fast_server()
    flow = knock(peer, a_cookie(peer))
    flow.expect(is_tcp(flags="SA"))
    flow.send("R", seq=11)
    sock, _ = server.accept()
    assert sock.recv(100) == b"0123456789"
    with pytest.raises(ConnectionResetError):
        sock.recv(100)
    sock.close()
    assert states(peer.stack) == ["LISTEN"]


def test_whoever_was_reset_takes_a_place_for_a_minute():
    """RFC 7413 section 5.1: a spoofer's victims answer by resets; without this each would make room for the next."""
    peer, server = fast_server(queue=2)
    cookie = a_cookie(peer)
    for i in range(2):
        flow = knock(peer, cookie, port=40000 + i)
        flow.expect(is_tcp(flags="SA", ack=11))
        flow.send("R", seq=11)
        server.accept()[0].close()
    knock(peer, cookie, port=41000).expect(is_tcp(flags="SA", ack=1))
    peer.flow(41000).send("R", seq=1)
    peer.advance("59s")
    knock(peer, cookie, port=42000).expect(is_tcp(flags="SA", ack=1))
    peer.advance("2s")
    knock(peer, cookie, port=43000).expect(is_tcp(flags="SA", ack=11))


def test_closing_with_the_syns_data_unread_resets():
    peer, server = fast_server()
    flow = knock(peer, a_cookie(peer))
    flow.expect(is_tcp(flags="SA"))
    server.accept()[0].close()
    flow.expect(is_tcp(flags="RA", seq=1))


def test_a_fin_before_the_handshake_is_over():
    peer, server = fast_server()
    flow = knock(peer, a_cookie(peer))
    flow.expect(is_tcp(flags="SA", ack=11))
    sock, _ = server.accept()
    sock.recv(100)
    sock.close()
    flow.expect(is_tcp(flags="FA", seq=1, ack=11))
    flow.send("A", seq=11, ack=2)
    flow.send("FA", seq=11, ack=2)
    flow.expect(is_tcp(flags="A", seq=2, ack=12))


def test_a_listener_that_closes_takes_its_fast_open_children_along():
    peer, server = fast_server()
    cookie = a_cookie(peer)
    waiting, reset = knock(peer, cookie, port=1), knock(peer, cookie, port=2)
    waiting.expect(is_tcp(flags="SA"))
    reset.expect(is_tcp(flags="SA"))
    reset.send("R", seq=11)
    server.close()
    waiting.expect(is_tcp(flags="RA"))
    assert peer.stack.socket_count == 0 and peer.stack.next_deadline() is None


# --- client -----------------------------------------------------------------------------------------------------------

def fast_client(setting=CLIENT, cookie=b"abcd1234", mss=1460, old=False, **sysctl):
    """A stack that has a cookie of the peer (or none)."""
    peer = new_peer(fastopen=setting, **sysctl)
    if cookie is not None:
        sock, flow, _ = send_fast(peer, b"")
        flow.expect(is_tcp(flags="S"))
        flow.send("SA", seq=0, ack=1, mss=mss, options=option(cookie, old))
        flow.expect(is_tcp(flags="A", ack=1))
        sock.setsockopt(SOL_SOCKET, 13, (1).to_bytes(8, "little"))
        sock.close()
        peer.collect().clear()
    return peer


def send_fast(peer, data, port=9000):
    """(socket, flow, what sendto said)."""
    sock = peer.stack.socket()
    try:
        said = sock.sendto(data, (B, port), MSG_FASTOPEN)
    except OSError as error:
        said = -error.errno
    return sock, peer.flow(port, sock.getsockname()[1]), said


def test_the_first_time_a_cookie_is_asked_for_and_the_data_stays_with_the_caller():
    peer = fast_client(cookie=None)
    sock, flow, said = send_fast(peer, b"x" * 100)
    assert said == -errno.EINPROGRESS
    syn = flow.expect(is_tcp(flags="S", payload_length=0))
    assert cookie_in(syn) == (b"", False)
    assert sock.getsockopt(SOL_TCP, 11, 280)[7] >> 1 & 3 == 1          # tcpi_fastopen_client_fail: no cookie yet
    flow.send("SA", seq=0, ack=1, mss=1460, options=option(b"abcd1234"))
    flow.expect(is_tcp(flags="A", ack=1))
    assert sock.send(b"x" * 100) == 100


def test_with_a_cookie_the_data_is_on_the_syn():
    peer = fast_client()
    sock, flow, said = send_fast(peer, b"y" * 1000)
    assert said == 1000
    syn = flow.expect(is_tcp(flags="S", seq=0, payload=b"y" * 1000))
    assert cookie_in(syn) == (b"abcd1234", False)
    flow.send("SA", seq=0, ack=1001, mss=1460)
    flow.expect(is_tcp(flags="A", seq=1001, ack=1))
    info = sock.tcp_info()
    assert sock.state == "ESTABLISHED" and info.options & SYN_DATA and sock.ioctl(0x5411) == 0
    assert peer.stack.counters()["tcp_fast_open_active"] == 1
    sock.send(b"z")
    flow.expect(is_tcp(seq=1001, payload=b"z"))


@pytest.mark.parametrize("mss, most", [(1460, 1420), (940, 900), (536, 496)])
def test_the_syn_carries_the_last_mss_less_forty_bytes(mss, most):
    peer = fast_client(mss=mss)
    sock, flow, said = send_fast(peer, bytes(5000))
    assert said == most and len(flow.expect(is_tcp(flags="S")).payload) == most


def test_data_that_was_not_acknowledged_goes_again_at_once():
    """RFC 7413 section 4.2.2: the server had no room, or did not like the cookie."""
    peer = fast_client()
    sock, flow, _ = send_fast(peer, b"y" * 1000)
    flow.expect(is_tcp(flags="S"))
    flow.send("SA", seq=0, ack=1, mss=1460, options=option(b"new cook"))
    flow.expect(is_tcp(seq=1, ack=1, payload=b"y" * 1000))
    assert not sock.tcp_info().options & SYN_DATA and sock.info()["cwnd"] == 10 * 1460
    assert peer.stack.counters()["tcp_fast_open_active_fail"] == 1
    flow.send("A", seq=1, ack=1001)
    assert sock.ioctl(0x5411) == 0
    assert cookie_in(send_fast(peer, b"x")[1].expect(is_tcp(flags="S", payload=b"x"))) == (b"new cook", False)


@pytest.mark.parametrize("acked", [1, 500, 999])
def test_data_acknowledged_in_part(acked):
    peer = fast_client()
    data = bytes(i % 251 for i in range(1000))
    sock, flow, _ = send_fast(peer, data)
    flow.expect(is_tcp(flags="S"))
    flow.send("SA", seq=0, ack=1 + acked, mss=1460)
    flow.expect(is_tcp(seq=1 + acked, payload=data[acked:]))
    flow.send("A", seq=1, ack=1001)
    assert sock.state == "ESTABLISHED" and sock.ioctl(0x5411) == 0


@pytest.mark.parametrize("ack", [0, 1002, -5])
def test_an_acknowledgement_of_more_than_was_sent_is_reset(ack):
    peer = fast_client()
    sock, flow, _ = send_fast(peer, b"y" * 1000)
    flow.expect(is_tcp(flags="S"))
    flow.send("SA", seq=0, ack=ack, mss=1460)
    flow.expect(is_tcp(flags="R"))
    assert sock.state == "SYN_SENT"


def test_a_syn_that_is_sent_again_is_an_ordinary_one():
    peer = fast_client()
    sock, flow, _ = send_fast(peer, b"y" * 1000)
    flow.receive_all()
    peer.advance("1s")
    syn = flow.expect(is_tcp(flags="S", seq=0, payload_length=0))
    assert cookie_in(syn) is None
    flow.send("SA", seq=0, ack=1, mss=1460)
    flow.expect(is_tcp(seq=1, payload=b"y" * 1000))
    flow.send("A", seq=1, ack=1001)
    assert sock.ioctl(0x5411) == 0 and sock.state == "ESTABLISHED"


def test_the_syn_acks_data_is_taken_too():
    peer = fast_client()
    sock, flow, _ = send_fast(peer, b"question")
    flow.expect(is_tcp(flags="S"))
    flow.send("SA", seq=0, ack=9, mss=1460, payload=b"answer")
    flow.expect(is_tcp(flags="A", seq=9, ack=7))
    assert sock.recv(100) == b"answer"


def test_the_syn_ack_may_be_the_end_of_the_stream():
    peer = fast_client()
    sock, flow, _ = send_fast(peer, b"question")
    flow.expect(is_tcp(flags="S"))
    flow.send("SFA", seq=0, ack=9, mss=1460, payload=b"all")
    flow.expect(is_tcp(flags="A", seq=9, ack=5))
    assert sock.state == "CLOSE_WAIT" and sock.recv(100) == b"all" and sock.recv(100) == b""


def test_msg_fastopen_says_nothing_once_the_connection_stands():
    peer = fast_client()
    sock, flow, _ = send_fast(peer, b"question")
    flow.expect(is_tcp(flags="S"))
    with pytest.raises(BlockingIOError) as error:
        sock.sendto(b"more", (B, 9000), MSG_FASTOPEN)
    assert error.value.errno == errno.EALREADY
    flow.send("SA", seq=0, ack=9, mss=1460)
    flow.expect(is_tcp(flags="A", seq=9))
    assert sock.sendto(b"more", (B, 9000), MSG_FASTOPEN) == 4
    flow.expect(is_tcp(seq=9, payload=b"more"))


def test_no_answer_to_the_option_makes_it_try_the_other_one_once():
    """As Linux: old servers know kind 254 alone."""
    peer = fast_client(cookie=None)
    for expected in (False, True, False):
        sock, flow, _ = send_fast(peer, b"")
        assert cookie_in(flow.expect(is_tcp(flags="S"))) == (b"", expected)
        flow.send("SA", seq=0, ack=1, mss=1460)
        sock.close()
        peer.received.clear()
        peer.advance("200s")


@pytest.mark.parametrize("how", ["sysctl", "option"])
def test_data_without_a_cookie(how):
    peer = new_peer(fastopen=CLIENT | (NO_COOKIE_CLIENT if how == "sysctl" else 0))
    sock = peer.stack.socket()
    if how == "option":
        sock.setsockopt(SOL_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
    assert sock.sendto(b"data", (B, 9000), MSG_FASTOPEN) == 4
    flow = peer.flow(9000, sock.getsockname()[1])
    syn = flow.expect(is_tcp(flags="S", payload=b"data"))
    assert cookie_in(syn) is None
    flow.send("SA", seq=0, ack=5, mss=1460)
    assert sock.state == "ESTABLISHED"


def test_tcp_fastopen_connect_waits_for_the_first_write():
    peer = fast_client()
    sock = peer.stack.socket()
    sock.setsockopt(SOL_TCP, TCP_FASTOPEN_CONNECT, 1)
    assert sock.getsockopt(SOL_TCP, TCP_FASTOPEN_CONNECT) == 1
    assert sock.connect_ex((B, 9000)) == 0
    assert peer.take() is None and sock.poll() == 4
    assert sock.connect_ex((B, 9000)) == errno.EISCONN
    assert sock.send(b"data") == 4
    flow = peer.flow(9000, sock.getsockname()[1])
    flow.expect(is_tcp(flags="S", payload=b"data"))
    flow.send("SA", seq=0, ack=5, mss=1460)
    assert sock.state == "ESTABLISHED"


def test_tcp_fastopen_connect_without_a_cookie_connects_at_once_and_asks():
    peer = fast_client(cookie=None)
    sock = peer.stack.socket()
    sock.setsockopt(SOL_TCP, TCP_FASTOPEN_CONNECT, 1)
    assert sock.connect_ex((B, 9000)) == errno.EINPROGRESS
    flow = peer.flow(9000, sock.getsockname()[1])
    assert cookie_in(flow.expect(is_tcp(flags="S", payload_length=0))) == (b"", False)


def test_a_deferred_connection_that_is_closed_says_nothing():
    peer = fast_client()
    sock = peer.stack.socket()
    sock.setsockopt(SOL_TCP, TCP_FASTOPEN_CONNECT, 1)
    sock.connect_ex((B, 9000))
    sock.close()
    assert peer.take() is None and peer.stack.next_deadline() is None and peer.stack.socket_count == 0


@pytest.mark.parametrize("name, value, state, number", [
    (TCP_FASTOPEN, -1, "CLOSED", errno.EINVAL), (TCP_FASTOPEN, 5, "SYN_SENT", errno.EINVAL),
    (TCP_FASTOPEN_CONNECT, 2, "CLOSED", errno.EINVAL), (TCP_FASTOPEN_CONNECT, 1, "SYN_SENT", errno.EINVAL),
    (TCP_FASTOPEN_NO_COOKIE, 2, "CLOSED", errno.EINVAL), (TCP_FASTOPEN_NO_COOKIE, 1, "SYN_SENT", errno.EINVAL),
])
def test_options_out_of_place(name, value, state, number):
    sock = new_peer(fastopen=CLIENT).stack.socket()
    if state == "SYN_SENT":
        sock.connect_ex((B, 9000))
    with pytest.raises(OSError) as error:
        sock.setsockopt(SOL_TCP, name, value)
    assert error.value.errno == number


def test_off_it_is_not_supported():
    """The default here: off."""
    peer = new_peer()
    assert peer.stack.get("net.ipv4.tcp_fastopen") == 0
    sock = peer.stack.socket()
    for call in (lambda: sock.sendto(b"x", (B, 9), MSG_FASTOPEN),
                 lambda: sock.setsockopt(SOL_TCP, TCP_FASTOPEN_CONNECT, 1)):
        with pytest.raises(OSError) as error:
            call()
        assert error.value.errno == errno.EOPNOTSUPP


def test_a_client_remembers_sixty_four_servers():
    peer = new_peer(fastopen=CLIENT)
    for i in range(70):
        sock = peer.stack.socket()
        host = f"10.0.1.{i + 1}"
        with pytest.raises(BlockingIOError):
            sock.sendto(b"", (host, 9), MSG_FASTOPEN)
        peer.address = host
        flow = peer.flow(9, sock.getsockname()[1])
        flow.expect(is_tcp(flags="S"))
        flow.send("SA", seq=0, ack=1, mss=1460, options=option(bytes((i,)) * 4))
        peer.received.clear()
        peer.advance("10ms")
    known = 0
    for i in range(70):
        sock = peer.stack.socket()
        try:
            known += sock.sendto(b"x", (f"10.0.1.{i + 1}", 10), MSG_FASTOPEN) == 1
        except BlockingIOError:
            assert i < 6
    assert known == 64


# --- black holes ------------------------------------------------------------------------------------------------------

def test_three_timeouts_stop_fast_open_for_a_while_and_success_ends_it():
    peer = fast_client(fastopen_blackhole_timeout_sec=10)
    sock, flow, said = send_fast(peer, b"x")
    assert said == 1
    peer.advance("8s")                                    # timeouts at 1, 3 and 7 s
    assert peer.stack.counters()["tcp_fast_open_blackholes"] == 1
    second, flow2, said = send_fast(peer, b"x", 9001)
    assert said == -errno.EINPROGRESS and cookie_in(flow2.expect(is_tcp(flags="S", payload_length=0))) is None
    peer.advance("11s")
    third, flow3, said = send_fast(peer, b"x", 9002)
    assert said == 1
    flow3.expect(is_tcp(flags="S", payload=b"x"))
    flow3.send("SA", seq=0, ack=2, mss=1460)
    flow3.send("PA", seq=1, ack=2, payload=b"data")
    third.recv(10)
    third.close()
    flow3.receive_all()
    flow3.send("FA", seq=5, ack=3)
    assert peer.stack.counters()["tcp_fast_open_blackholes"] == 1


def test_by_default_nothing_stops_it():
    peer = fast_client()
    send_fast(peer, b"x")
    peer.advance("100s")
    assert send_fast(peer, b"x", 9001)[2] == 1 and peer.stack.counters()["tcp_fast_open_blackholes"] == 0


# --- snapshots, and both ends ours ------------------------------------------------------------------------------------

def test_a_restored_stack_keeps_keys_cookies_and_children():
    peer, server = fast_server(fastopen=CLIENT | SERVER)
    cookie = a_cookie(peer)
    sock, flow, _ = send_fast(peer, b"")
    flow.expect(is_tcp(flags="S"))
    flow.send("SA", seq=0, ack=1, mss=1000, options=option(b"abcd1234"))
    child = knock(peer, cookie)
    peer.received.clear()
    peer.stack = Stack.restore(peer.stack.snapshot(), peer.clock.now_ns)
    server = peer.stack.socket_by_id(server.id)
    assert a_cookie(peer) == cookie
    accepted, _ = server.accept()
    assert accepted.recv(100) == b"0123456789"
    again, flow, said = send_fast(peer, bytes(2000), 9009)
    assert said == 960 and cookie_in(flow.expect(is_tcp(flags="S"))) == (b"abcd1234", False)
    child.irs = accepted.info()["iss"]
    child.send("A", seq=11, ack=1)
    assert accepted.state == "ESTABLISHED"


@pytest.mark.parametrize("loss", [0, 0.2])
def test_two_stacks_open_fast_and_every_byte_arrives_once(loss):
    setting = {"net.ipv4.tcp_fastopen": 0x403, "net.ipv4.tcp_timestamps": 1}
    for seed in range(6):
        wire = Wire(seed, loss=loss, sysctl=setting)
        client_stack, server_stack = wire.stacks
        server = server_stack.socket()
        server.bind((B, 80))
        server.listen()
        for round in range(4):
            data = bytes((seed * 16 + round,)) * 3000
            client = client_stack.socket()
            try:
                sent = client.sendto(data, (B, 80), MSG_FASTOPEN)
            except BlockingIOError:
                sent = 0
            assert sent == (0 if round == 0 else sent)
            got, accepted = b"", None
            while len(got) < 3000:
                assert wire.step(wire.now_ns + 300 * S), (seed, round)
                if sent < 3000 and client.state == "ESTABLISHED":
                    sent += client.send(data[sent:])
                if accepted is None and server.poll():
                    accepted, _ = server.accept()
                if accepted is not None:
                    try:
                        got += accepted.recv(5000)
                    except BlockingIOError:
                        pass
            assert got == data
            client.close()
            accepted.close()
        if not loss:
            counters = client_stack.counters()
            assert counters["tcp_fast_open_active"] == 3 and server_stack.counters()["tcp_fast_open_passive"] == 3


def test_the_wire_parser_gives_the_cookie():
    from netstack.wire.tcp import parse
    raw = parse_packet(new_syn(option(b"abcdefgh")))
    assert parse(raw.raw[20:]).fastopen == b"abcdefgh"
    assert parse(parse_packet(new_syn(ASK_OLD)).raw[20:]).fastopen == b""
    assert parse(parse_packet(new_syn(b"")).raw[20:]).fastopen is None


def new_syn(options):
    from netstack.testing import build_tcp
    return build_tcp(B, A, 1, 2, "S", mss=1460, options=options)

