"""Row E3: data on a SYN. Fast Open is off unless it is switched on; until a handshake is over nothing is delivered."""

import pytest

from netstack.testing import is_tcp
from tests.security.rig import listening, nothing_left

FAST_OPEN_OPTIONS = {"none": b"", "a cookie asked for": b"\x22\x02", "a cookie": b"\x22\x0a12345678",
                     "the experimental option": b"\xfe\x0c\xf9\x8912345678"}


@pytest.mark.parametrize("option", FAST_OPEN_OPTIONS)
@pytest.mark.parametrize("cookies", [0, 1, 2])
@pytest.mark.parametrize("setting, queue", [(0, 0), (0, 16), (1, 16), (2, 0)])
def test_e3_data_on_a_syn_is_delivered_only_after_the_handshake_and_once(option, cookies, setting, queue):
    data = bytes(i % 251 for i in range(1000))
    with nothing_left(syncookies=cookies, fastopen=setting) as peer:
        server = listening(peer)
        server.setsockopt(6, 23, queue)
        flow = peer.flow()
        flow.send("S", seq=0, mss=1460, payload=data, options=FAST_OPEN_OPTIONS[option])
        answer = flow.expect(is_tcp(flags="SA", ack=1))           # the SYN alone is acknowledged
        assert b"\x22" not in answer.options and b"\xf9\x89" not in answer.options
        assert server.poll() == 0 and peer.stack.counters()["tcp_payload_in"] == 0
        assert peer.stack.memory()["buffers"] == 0
        with pytest.raises(BlockingIOError):
            server.accept()
        peer.advance("500ms")
        flow.send("S", seq=0, mss=1460, payload=data)             # the SYN again changes nothing
        assert server.poll() == 0
        flow.receive_all()
        flow.send("A", seq=1, ack=1)
        sock, _ = server.accept()
        peer.opened.append(sock)
        with pytest.raises(BlockingIOError):
            sock.recv(10)
        flow.send("PA", seq=1, ack=1, payload=data)
        flow.send("PA", seq=1, ack=1, payload=data)
        assert sock.recv(5000) == data
        with pytest.raises(BlockingIOError):
            sock.recv(10)
        assert peer.stack.counters()["tcp_payload_in"] == 1000
        flow.receive_all()
        flow.send("RA", seq=1001, ack=1)


def test_e3_it_is_off_by_default():
    with nothing_left() as peer:
        assert peer.stack.get("net.ipv4.tcp_fastopen") == 0
