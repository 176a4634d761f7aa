"""TCP_INFO: the kernel's layout byte for byte, and values that are true of simulated transfers."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import random
import select
import socket as kernel
import struct
import subprocess

import pytest

from netstack.reports import MemInfo, SocketInfo, TcpInfo
from netstack.stack import tcp_info
from netstack.testing import Pair
from tests.tcp.tools import SOL_SOCKET, SOL_TCP, TCP_INFO, active, listen, new_peer, passive, reach

TCP_CC_INFO, SO_MEMINFO = 26, 55
NAMES = [f.name for f in dataclasses.fields(TcpInfo)]
BIT_FIELDS = {"wscale": ("snd_wscale", "rcv_wscale"), "rate_flags": ("delivery_rate_app_limited",),
              "ecn_flags": ("accecn_fail_mode", "accecn_opt_seen", "ecn_mode", "options2")}


def exchange(pair, a_to_b, b_to_a=0):
    """A connection over which that much went each way, all of it acknowledged and read, still open."""
    sockets = pair.connect()
    unsent, unread = [a_to_b, b_to_a], [b_to_a, a_to_b]

    def done():
        for k, sock in enumerate(sockets):
            with contextlib.suppress(BlockingIOError):
                while unsent[k]:
                    unsent[k] -= sock.send(bytes(min(unsent[k], 65536)))
            with contextlib.suppress(BlockingIOError):
                while unread[k]:
                    unread[k] -= len(sock.recv(65536))
        return not any(unread)

    pair.run("1h", condition=done)
    pair.run("1s")
    return sockets


# --- layout -----------------------------------------------------------------------------------------------------------

def test_the_structure_has_280_bytes_without_holes():
    at = 0
    for name, (offset, size) in tcp_info.layout().items():
        assert offset == at, name
        at += size
    assert at == 280 == len(TcpInfo.parse(b"").pack())


def test_the_typed_view_has_the_same_fields_at_the_same_places():
    layout = tcp_info.layout()
    assert list(layout) == NAMES
    for i, name in enumerate(NAMES):
        offset, size = layout[name]
        raw = bytearray(280)
        raw[offset:offset + size] = (1 + i).to_bytes(size, "little")
        assert dataclasses.asdict(TcpInfo.parse(bytes(raw))) == {**dict.fromkeys(NAMES, 0), name: 1 + i}


def test_the_kernels_header_agrees(tmp_path):
    """Every field that <linux/tcp.h> on this machine has, at its offset and of its size, as the C compiler sees it."""
    probe = tmp_path / "probe.c"
    lines = []
    for name in NAMES:
        if name not in BIT_FIELDS:
            lines.append(f'#ifdef HAS_{name}\nprintf("{name} %zu %zu\\n", offsetof(struct tcp_info, tcpi_{name}), '
                         f"sizeof(((struct tcp_info *)0)->tcpi_{name}));\n#endif")
    header = next(p for p in ("/usr/include/linux/tcp.h",) if open(p))
    body = open(header).read().split("struct tcp_info {")[1].split("};")[0]
    defines = "".join(f"#define HAS_{n}\n" for n in NAMES if f"tcpi_{n};" in body or f"tcpi_{n} " in body)
    probe.write_text(f"#include <stddef.h>\n#include <stdio.h>\n#include <linux/tcp.h>\n{defines}"
                     "int main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n")
    subprocess.run(["cc", "-o", tmp_path / "probe", probe], check=True, timeout=60)
    said = subprocess.run([tmp_path / "probe"], check=True, timeout=60, capture_output=True, text=True).stdout
    theirs = {name: (int(offset), int(size)) for name, offset, size in map(str.split, said.splitlines())}
    assert len(theirs) >= 50                             # headers of 4.18 and later have that many
    assert theirs == {name: tcp_info.layout()[name] for name in theirs}


def test_the_running_kernel_gives_the_same_to_the_same_conversation():
    """What does not depend on sizes of buffers and on time, after the same exchange over the kernel and over ours."""
    a, b = (f"127.{random.randrange(2, 255)}.{random.randrange(256)}.{n}" for n in (1, 2))
    server = kernel.create_server((a, 0))                # where the kernel has no memories of earlier connections
    client = kernel.create_connection(server.getsockname(), source_address=(b, 0))
    accepted, _ = server.accept()
    pair = Pair(seed=3, delay="1ms")
    ours = pair.connect()

    def step(which, data):
        (client, accepted)[which].sendall(data)
        left = len(data)
        while left:
            left -= len((accepted, client)[which].recv(left))
        ours[which].send(data)
        pair.run("1s", condition=lambda: ours[1 - which].poll() & 1)
        assert ours[1 - which].recv(1 << 16) == data

    def both():
        pair.run("100ms")                                # delayed acknowledgements: here and in the kernel
        for _ in range(1000):
            if not any(TcpInfo.parse(k.getsockopt(SOL_TCP, TCP_INFO, 280)).unacked for k in (client, accepted)):
                break
            select.select([], [], [], 0.01)
        return [(TcpInfo.parse(k.getsockopt(SOL_TCP, TCP_INFO, 280)), o.tcp_info())
                for k, o in zip((client, accepted), ours, strict=True)]

    same = ("state", "ca_state", "retransmits", "probes", "backoff", "unacked", "sacked", "lost", "retrans",
            "snd_ssthresh", "reordering", "total_retrans", "bytes_acked", "bytes_received", "notsent_bytes",
            "data_segs_in", "data_segs_out", "delivered", "bytes_sent", "bytes_retrans", "rcv_mss", "rcv_ooopack",
            "total_rto")

    def check():
        for theirs, mine in both():
            assert {n: getattr(mine, n) for n in same} == {n: getattr(theirs, n) for n in same}

    check()
    step(0, bytes(1000))
    check()
    step(1, bytes(10))
    step(0, bytes(600))
    check()
    for s in (client, ours[0]):
        s.shutdown(1)
    for _ in range(100):
        if TcpInfo.parse(client.getsockopt(SOL_TCP, TCP_INFO, 280)).state == 5:
            break
        accepted.recv(1)
    check()
    for s in (client, accepted, server):
        s.close()


def test_a_shorter_buffer_gets_the_first_bytes():
    s = passive()
    whole = s.sock.getsockopt(SOL_TCP, TCP_INFO, 280)
    for size in (1, 8, 104, 192, 232, 248, 279):
        assert s.sock.getsockopt(SOL_TCP, TCP_INFO, size) == whole[:size]
    assert s.sock.getsockopt(SOL_TCP, TCP_INFO, 500) == whole
    assert TcpInfo.parse(whole[:104]) == TcpInfo.parse(whole[:104] + bytes(176))


@pytest.mark.parametrize("state, number", [
    ("SYN_SENT", 2), ("ESTABLISHED", 1), ("FIN_WAIT_1", 4), ("FIN_WAIT_2", 5), ("CLOSE_WAIT", 8), ("LAST_ACK", 9),
    ("CLOSING", 11), ("TIME_WAIT", 6),
])
def test_states_have_linuxs_numbers(state, number):
    assert reach(state).sock.tcp_info().state == number


# --- values -----------------------------------------------------------------------------------------------------------

def test_a_listener_shows_its_accept_queue():
    peer = new_peer()
    server = listen(peer, backlog=7)
    for port in (1000, 1001, 1002):
        peer.flow(port).connect()
    info = server.tcp_info()
    assert (info.state, info.unacked, info.sacked) == (10, 3, 7)


def test_options_and_scales_are_what_was_agreed():
    info = passive(mss=1400, sack_permitted=True, timestamp=(5, 0), window_scale=3).sock.tcp_info()
    assert info.options & 7 == 7 and info.snd_wscale == 3 and info.rcv_wscale > 0
    assert info.snd_mss == 1388 and info.advmss == 1448 and info.pmtu == 1500
    info = passive(mss=1400).sock.tcp_info()
    assert info.options & 7 == 0 and info.wscale == 0
    assert info.snd_mss == 1400 and info.advmss == 1460


def test_round_trip_times_are_the_wires():
    pair = Pair(seed=1, delay="25ms")
    sockets = exchange(pair, 200_000)
    info = sockets[0].tcp_info()
    assert 50_000 <= info.rtt < 100_000 and info.rto >= info.rtt + 200_000
    assert info.bytes_acked == 200_001 and info.bytes_sent == 200_000 + info.bytes_retrans
    assert sockets[1].tcp_info().bytes_received == 200_000


def test_counts_of_a_transfer_are_those_of_the_wire():
    """Every segment that passed, counted from the frames."""
    pair = Pair(seed=5, delay="5ms", log=True)
    sockets = exchange(pair, 300_000, 40_000)
    pair.run("1s")
    packets = pair.a.packets()
    sent = [p for p in packets if p.direction == "out"]
    got = [p for p in packets if p.direction == "in"]
    info = sockets[0].tcp_info()
    assert info.segs_out == len(sent) and info.segs_in == len(got)
    assert info.data_segs_out == sum(1 for p in sent if p.payload)
    assert info.data_segs_in == sum(1 for p in got if p.payload)
    assert info.rcv_mss == max(len(p.payload) for p in got)
    assert info.bytes_sent == sum(len(p.payload) for p in sent)
    assert info.snd_wnd == got[-1].window << info.snd_wscale
    assert info.rcv_wnd == sent[-1].window << info.rcv_wscale


def test_retransmissions_and_timeouts_are_counted():
    s = active(mss=1000)
    s.sock.send(bytes(500))
    s.flow.receive_all()
    s.peer.advance("4s")
    again = len(s.flow.receive_all())
    info = s.sock.tcp_info()
    assert again >= 2 and info.total_retrans >= again and info.bytes_retrans == 500 * again
    assert info.retransmits == info.backoff == info.total_rto >= 1
    assert info.total_rto_recoveries == 1 and info.ca_state == 4
    lasted = info.total_rto_time
    assert 1000 < lasted <= 4000
    s.pure_ack(501)
    info = s.sock.tcp_info()
    assert info.retransmits == info.backoff == 0 and info.total_rto_time >= lasted and info.unacked == 0
    s.peer.advance("5s")
    assert s.sock.tcp_info().total_rto_time == info.total_rto_time


def test_the_scoreboard_is_told_in_segments():
    """Ten out, the fourth to the sixth selectively acknowledged: three before them are lost, and sent again."""
    s = active(mss=1000, sack_permitted=True)
    s.sock.send(bytes(10_000))
    s.flow.receive_all()
    info = s.sock.tcp_info()
    assert (info.unacked, info.sacked, info.lost, info.retrans, info.ca_state) == (10, 0, 0, 0, 0)
    for end in (4001, 5001, 6001):
        s.pure_ack(1, sack=((3001, end),))
    again = [p for p in s.flow.receive_all() if p.payload]
    info = s.sock.tcp_info()
    assert info.unacked == 10 and info.sacked == 3 and info.lost == 3 and info.ca_state == 3
    assert info.retrans == info.total_retrans == len(again) >= 1
    assert info.delivered == 4                           # the SYN and what was selectively acknowledged
    s.pure_ack(10_001)
    info = s.sock.tcp_info()
    assert (info.unacked, info.sacked, info.lost, info.retrans, info.delivered) == (0, 0, 0, 0, 11)


def test_the_scoreboard_adds_up_all_the_way():
    """At every step of a lossy transfer; and every segment is delivered once."""
    pair = Pair(seed=21, loss=0.05, reorder=0.02, delay="10ms")
    sockets = pair.connect()
    sender = sockets[0]
    sender.send(bytes(200_000))
    seen = set()

    def done():
        info = sender.tcp_info()
        assert info.sacked + info.lost <= info.unacked and info.retrans <= info.unacked
        assert info.delivered <= info.data_segs_out + 1 and info.bytes_acked <= 200_001
        seen.add(info.ca_state)
        with contextlib.suppress(BlockingIOError):
            while sockets[1].recv(1 << 16):
                pass
        return info.bytes_acked == 200_001

    pair.run("10min", condition=done)
    info = sender.tcp_info()
    assert (info.unacked, info.sacked, info.lost, info.retrans) == (0, 0, 0, 0)
    assert info.delivered == 1 + info.data_segs_out - info.total_retrans and info.total_retrans > 0
    assert info.delivery_rate > 0 and 20_000 <= info.min_rtt < 40_000 and 3 in seen


def test_the_persist_timer_counts_probes_and_not_retransmissions():
    s = active(window=0)
    s.sock.send(bytes(10))
    s.peer.advance("10s")
    info = s.sock.tcp_info()
    assert info.probes == info.backoff >= 2 and info.retransmits == 0 and info.notsent_bytes == 10


def test_idle_times_are_milliseconds_since():
    s = passive()
    s.peer.advance("100ms")
    s.sock.send(b"x")
    s.flow.receive_all()
    s.peer.advance("30ms")
    s.data(b"y", flags="A")
    s.peer.advance("7ms")
    s.flow.send("A", seq=s.seq, ack=2)
    s.peer.advance("5ms")
    info = s.sock.tcp_info()
    assert (info.last_data_sent, info.last_data_recv, info.last_ack_recv, info.last_ack_sent) == (42, 12, 5, 0)


def test_time_is_told_by_what_limits_the_sender():
    """RFC 4898's limits: the peer's window, our buffer, else the network."""
    s = active(window=2000, mss=1000)
    assert s.sock.tcp_info().busy_time == 0
    s.sock.send(bytes(2000))                             # exactly the window: busy
    s.peer.advance("10ms")
    s.sock.send(bytes(1000))                             # one more: the peer's window holds it back
    s.peer.advance("30ms")
    info = s.sock.tcp_info()
    assert (info.busy_time, info.rwnd_limited, info.sndbuf_limited) == (40_000, 30_000, 0)
    s.pure_ack(2001, window=65535)
    s.pure_ack(3001, window=65535)
    s.peer.advance("50ms")                               # nothing to send: no time passes
    assert s.sock.tcp_info().busy_time == 40_000

    s = active(mss=1000)
    s.sock.setsockopt(SOL_SOCKET, kernel.SO_SNDBUF, 2500)  # 5000 bytes
    with pytest.raises(BlockingIOError):
        while True:
            s.sock.send(bytes(1000))
    s.peer.advance("20ms")
    info = s.sock.tcp_info()
    assert info.sndbuf_limited == info.busy_time == 20_000 and info.rwnd_limited == 0


def test_out_of_order_segments_are_counted():
    s = passive(sack_permitted=True)
    for seq in (101, 201, 301):
        s.flow.send("A", seq=seq, ack=1, payload=bytes(50))
    assert s.sock.tcp_info().rcv_ooopack == 3


def test_a_new_attempt_on_the_same_socket_counts_from_nought():
    peer = new_peer(syn_retries=1)
    sock = peer.stack.socket()
    sock.connect_ex(("10.0.0.2", 81))
    peer.advance("100s")
    assert sock.tcp_info().total_rto >= 1 and sock.getsockopt(SOL_SOCKET, 4) == errno.ETIMEDOUT
    sock.connect_ex(("10.0.0.2", 81))
    info = sock.tcp_info()
    assert (info.total_rto, info.segs_out, info.total_retrans, info.total_rto_time) == (0, 1, 0, 0)


def test_counts_survive_a_snapshot():
    pair = Pair(seed=9, loss=0.05, delay="10ms")
    sockets = exchange(pair, 100_000)
    before = sockets[0].tcp_info()
    id = sockets[0].id
    pair.restore(pair.a)
    assert pair.a.stack.socket_by_id(id).tcp_info() == before
    assert before.total_retrans > 0


def test_cc_info_is_empty_for_an_algorithm_without():
    s = passive()
    s.sock.setsockopt(SOL_TCP, 13, b"reno")
    assert s.sock.getsockopt(SOL_TCP, TCP_CC_INFO, 64) == b""


def test_meminfo_says_what_is_queued():
    s = passive(window=100)
    s.data(bytes(700))
    s.sock.send(bytes(3000))
    raw = s.sock.getsockopt(SOL_SOCKET, SO_MEMINFO, 64)
    memory = MemInfo(*struct.unpack("=9I", raw))
    assert len(raw) == 36
    assert (memory.rmem_alloc, memory.wmem_queued, memory.drops) == (700, 3000, 0)
    assert memory.rcvbuf == s.sock.getsockopt(SOL_SOCKET, kernel.SO_RCVBUF)
    assert memory.sndbuf == s.sock.getsockopt(SOL_SOCKET, kernel.SO_SNDBUF)
    udp = s.peer.stack.socket("dgram")
    assert struct.unpack("=9I", udp.getsockopt(SOL_SOCKET, SO_MEMINFO, 64))[1] == udp.getsockopt(SOL_SOCKET, 8)


# --- sockets ----------------------------------------------------------------------------------------------------------

def test_the_list_of_sockets_names_each_with_its_counters():
    s = passive(window=100)
    s.data(b"abc")
    s.sock.send(bytes(300))
    udp = s.peer.stack.socket("dgram")
    udp.bind(("10.0.0.1", 53))
    by_state = {i.state: i for i in s.peer.stack.sockets()}
    assert set(by_state) == {"LISTEN", "ESTABLISHED", "UDP"}
    connection = by_state["ESTABLISHED"]
    assert connection.names == ("10.0.0.1", 80, "10.0.0.2", 40000) and connection.kind == "tcp"
    assert (connection.recv_queue, connection.send_queue) == (3, 300)
    assert connection.timer in ("on", "persist") and 0 < connection.timer_ms <= 1000
    assert connection.tcp == s.sock.tcp_info() and connection.congestion == s.sock.info()["congestion"]
    assert connection.id == s.sock.id and not connection.orphan
    listener = by_state["LISTEN"]
    assert (listener.recv_queue, listener.send_queue, listener.lport) == (0, 128, 80)
    assert by_state["UDP"].names == ("10.0.0.1", 53, "0.0.0.0", 0) and by_state["UDP"].tcp is None


def test_a_closed_connection_is_an_orphan_and_then_a_record():
    s = passive()
    s.sock.close()
    assert [(i.state, i.orphan) for i in s.peer.stack.sockets() if i.state != "LISTEN"] == [("FIN_WAIT_1", True)]
    s.pure_ack(2)
    s.fin()
    record, = (i for i in s.peer.stack.sockets() if i.state != "LISTEN")
    assert (record.state, record.timer, record.id) == ("TIME_WAIT", "timewait", 0)
    assert 59_000 < record.timer_ms <= 60_000


@pytest.mark.parametrize("record", [b"", bytes(415), bytes(416), b"\xff" * 416, b"\xff" * 4096])
def test_a_report_that_means_nothing_is_refused(record):
    with pytest.raises(ValueError):
        SocketInfo.parse(record)


def test_nanosecond_round_trips_are_not_nought():
    s = active()
    assert s.sock.tcp_info().rtt >= 0
    s.sock.send(b"x")
    s.flow.receive_all()
    s.pure_ack(2)
    assert s.sock.tcp_info().rtt >= 1
