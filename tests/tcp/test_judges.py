"""Somebody else reads what the stack writes: scapy dissects and recomputes checksums; TCP_INFO against linux/tcp.h."""

import ctypes
import errno

import pytest

from netstack.stack import Stack
from netstack.testing import ScriptedPeer

from .tools import (
    MS,
    SO_ERROR,
    SO_LINGER,
    SO_RCVBUF,
    SO_SNDBUF,
    SOL_SOCKET,
    SOL_TCP,
    TCP_INFO,
    TCP_MAXSEG,
    A,
    B,
    Wire,
    linger,
    new_peer,
    passive,
    reach,
)

scapy = pytest.importorskip("scapy.all", reason="scapy is not installed")


def session(seed, **faults):
    """Every packet of a transfer with loss and close, both ways."""
    wire = Wire(seed, **faults)
    packets = []
    launch = wire._launch

    def tap(to, packet, at_ns):
        packets.append(packet)
        launch(to, packet, at_ns)

    wire._launch = tap
    a, b = wire.connect()
    data = bytes(range(251)) * 120
    sent, got = 0, bytearray()
    b.send(b"a few bytes the other way")
    while len(got) < len(data):
        if sent < len(data):
            try:
                sent += a.send(data[sent:sent + 7001])
            except BlockingIOError:
                pass
        try:
            got += b.recv(4096)
        except BlockingIOError:
            assert wire.step()
    assert a.recv(100) == b"a few bytes the other way"
    a.close()
    wire.run(5)
    b.setsockopt(SOL_SOCKET, SO_LINGER, linger(0))
    b.close()
    wire.run(5)
    return packets


@pytest.mark.parametrize("seed, faults", [
    (1, {}), (2, {"loss": .05, "reorder": .2}), (3, {"mtu": 576}), (4, {"mtu": 9000}),
])
def test_scapy_finds_nothing_wrong_with_any_segment(seed, faults):
    packets = session(seed, **faults)
    assert len(packets) > 10
    kinds = set()
    for raw in packets:
        packet = scapy.IP(raw)
        tcp = packet[scapy.TCP]
        assert packet.version == 4 and packet.len == len(raw) <= faults.get("mtu", 1500)
        assert packet.flags == "DF" and packet.ttl == 64 and packet.id == 0
        sums = packet.chksum, tcp.chksum
        del packet.chksum, tcp.chksum
        again = scapy.IP(bytes(packet))
        assert (again.chksum, again[scapy.TCP].chksum) == sums
        assert bytes(again) == raw, "scapy writes the same bytes"
        assert tcp.dataofs * 4 == len(raw) - 20 - len(tcp.payload) and tcp.reserved == 0 and tcp.urgptr == 0
        kinds |= {name if isinstance(name, str) else str(name) for name, _ in tcp.options}
        kinds.add(str(tcp.flags))
    assert {"MSS", "SAckOK", "Timestamp", "WScale", "NOP", "S", "SA", "A", "PA"} <= kinds
    if faults.get("loss"):
        assert "SAck" in kinds


def test_scapy_reads_the_options_as_we_meant_them():
    peer = ScriptedPeer(Stack(addresses=A, seed=9, mtu=1500), B, A)
    sock = peer.stack.socket()
    sock.connect_ex((B, 80))
    raw, _ = peer.stack.pop_output()
    options = scapy.IP(raw)[scapy.TCP].options
    assert [name for name, _ in options] == ["MSS", "SAckOK", "Timestamp", "NOP", "WScale"]
    assert dict(options)["MSS"] == 1460 and dict(options)["WScale"] == 7 and dict(options)["Timestamp"][1] == 0


def test_segments_that_scapy_makes_are_understood():
    peer = new_peer()
    server = peer.stack.socket()
    server.bind((A, 80))
    server.listen()
    syn = scapy.IP(src=B, dst=A) / scapy.TCP(
        sport=4000, dport=80, flags="S", seq=77,
        options=[("MSS", 1200), ("SAckOK", b""), ("Timestamp", (5, 0)), ("WScale", 3)])
    peer.inject(bytes(syn))
    answer = scapy.IP(peer.take().raw)[scapy.TCP]
    assert answer.flags == "SA" and answer.ack == 78
    stamp = dict(answer.options)["Timestamp"]
    assert stamp[1] == 5
    data = scapy.IP(src=B, dst=A) / scapy.TCP(
        sport=4000, dport=80, flags="PA", seq=78, ack=answer.seq + 1,
        options=[("NOP", None), ("NOP", None), ("Timestamp", (6, stamp[0]))]
    ) / b"from scapy"
    peer.inject(bytes(data))
    assert server.accept()[0].recv(100) == b"from scapy"


# --- options of sockets -----------------------------------------------------------------------------------------------

class TcpInfo(ctypes.Structure):
    """The first 160 bytes of struct tcp_info, typed in from include/uapi/linux/tcp.h's field list."""

    _fields_ = [
        *((name, ctypes.c_uint8) for name in ("state", "ca_state", "retransmits", "probes", "backoff", "options")),
        ("snd_wscale", ctypes.c_uint8, 4), ("rcv_wscale", ctypes.c_uint8, 4), ("app_limited", ctypes.c_uint8),
        *((name, ctypes.c_uint32) for name in (
            "rto", "ato", "snd_mss", "rcv_mss", "unacked", "sacked", "lost", "retrans", "fackets", "last_data_sent",
            "last_ack_sent", "last_data_recv", "last_ack_recv", "pmtu", "rcv_ssthresh", "rtt", "rttvar", "snd_ssthresh",
            "snd_cwnd", "advmss", "reordering", "rcv_rtt", "rcv_space", "total_retrans")),
        *((name, ctypes.c_uint64) for name in ("pacing_rate", "max_pacing_rate", "bytes_acked", "bytes_received")),
        *((name, ctypes.c_uint32) for name in ("segs_out", "segs_in", "notsent_bytes", "min_rtt")),
    ]


def info(sock):
    raw = sock.getsockopt(SOL_TCP, TCP_INFO, 280)
    assert len(raw) == 280
    return TcpInfo.from_buffer_copy(raw)


def test_tcp_info_has_linuxs_layout():
    s = passive(mss=1000, window=65535, timestamp=(1, 0), window_scale=6, sack_permitted=True)
    s.sock.send(bytes(988 * 4))
    s.flow.receive_all()
    s.pure_ack(989, timestamp=(2, 0))
    s.data(b"12345", timestamp=(3, 0))
    i = info(s.sock)
    assert (i.state, i.ca_state, i.options, i.snd_wscale, i.rcv_wscale) == (1, 0, 7, 6, 7)
    assert i.snd_mss == 988 and i.unacked == 3 and i.snd_cwnd >= 10 and i.snd_ssthresh == 0x7FFFFFFF
    assert i.bytes_acked == 988 and i.bytes_received == 5 and i.rto >= 200_000 and i.ato == 40_000
    assert i.advmss == 1460 or i.advmss == 1448
    assert i.pmtu == 1500 and i.reordering == 3 and i.notsent_bytes == 0
    s.peer.advance("700ms")
    i = info(s.sock)
    assert i.ca_state == 4 and i.backoff == 2 and i.total_retrans == 3      # a tail loss probe and two timeouts


@pytest.mark.parametrize("state, number", [
    ("ESTABLISHED", 1), ("SYN_SENT", 2), ("FIN_WAIT_1", 4), ("FIN_WAIT_2", 5), ("TIME_WAIT", 6), ("CLOSE_WAIT", 8),
    ("LAST_ACK", 9), ("CLOSING", 11),
])
def test_tcp_info_numbers_states_as_linux(state, number):
    assert info(reach(state).sock).state == number


def test_tcp_info_of_other_sockets():
    peer = new_peer()
    sock = peer.stack.socket()
    assert info(sock).state == 7
    sock.bind((A, 80))
    sock.listen(5)
    assert info(sock).state == 10 and info(sock).lost == 0
    raw = sock.getsockopt(SOL_TCP, TCP_INFO, 280)
    assert int.from_bytes(raw[28:32], "little") == 5
    for size in (1, 4, 104, 280, 500):
        assert len(sock.getsockopt(SOL_TCP, TCP_INFO, size)) == min(size, 280)


def test_buffers_read_back_doubled():
    sock = new_peer().stack.socket()
    for option in (SO_SNDBUF, SO_RCVBUF):
        sock.setsockopt(SOL_SOCKET, option, 50_000)
        assert sock.getsockopt(SOL_SOCKET, option) == 100_000
        sock.setsockopt(SOL_SOCKET, option, 1)
        assert sock.getsockopt(SOL_SOCKET, option) == 4096


def test_so_sndbuf_bounds_what_a_write_takes():
    s = passive(window=0)
    s.sock.setsockopt(SOL_SOCKET, SO_SNDBUF, 5000)
    assert s.sock.send(bytes(100_000)) == 10_000
    with pytest.raises(BlockingIOError):
        s.sock.send(b"x")
    assert not s.sock.poll() & 4


def test_writable_again_when_a_third_is_free():
    s = passive(window=65535)
    s.sock.setsockopt(SOL_SOCKET, SO_SNDBUF, 6000)
    s.sock.send(bytes(12_000))
    assert not s.sock.poll() & 4
    s.flow.receive_all()
    s.pure_ack(1 + 3000)
    assert not s.sock.poll() & 4
    s.pure_ack(1 + 4000)
    assert s.sock.poll() & 4


def test_an_error_is_told_once():
    s = reach("ESTABLISHED")
    s.flow.send("R", seq=1)
    assert s.sock.poll() & 0x18 == 0x18
    assert s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == errno.ECONNRESET
    assert s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == 0
    assert s.sock.poll() & 0x1D == 0x15          # readable, writable, hung up; no error left


@pytest.mark.parametrize("level, option, value, number", [
    (SOL_TCP, TCP_MAXSEG, 10, errno.EINVAL), (SOL_TCP, TCP_MAXSEG, 40_000, errno.EINVAL), (SOL_TCP, 4, 0, errno.EINVAL),
    (SOL_TCP, 4, 40_000, errno.EINVAL), (SOL_TCP, 6, 200, errno.EINVAL), (SOL_TCP, 9999, 1, errno.ENOPROTOOPT),
    (SOL_SOCKET, 9999, 1, errno.ENOPROTOOPT), (77, 1, 1, errno.ENOPROTOOPT), (SOL_TCP, 13, b"nonsense", errno.ENOENT),
    (SOL_TCP, 1, b"x", errno.EINVAL), (0, 2, 0, errno.EINVAL), (0, 2, 256, errno.EINVAL),
])
def test_what_is_wrong_with_an_option_is_said_by_number(level, option, value, number):
    with pytest.raises(OSError) as error:
        new_peer().stack.socket().setsockopt(level, option, value)
    assert error.value.errno == number


def test_ttl_and_tos_go_into_the_packets():
    s = passive()
    s.sock.setsockopt(0, 2, 33)
    s.sock.setsockopt(0, 1, 0xB8 | 3)
    s.sock.send(b"x")
    packet = s.flow.receive()
    assert packet.ttl == 33 and packet.tos == 0xB8 and packet.dont_fragment
    assert s.peer.clock.now_ns % MS == 0
