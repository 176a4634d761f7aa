"""SYN cookies and Fast Open with the kernel at the other end."""

import socket

import pytest

from tests.kernel.wires import meeting

pytestmark = pytest.mark.root
MSG_FASTOPEN, TCP_FASTOPEN, TCP_FASTOPEN_CONNECT = 0x20000000, 23, 30
TCPI_OPT_SYN_DATA = 32


def info_options(s):
    return s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 280)[5]


def exchange(a, b):
    """Bytes each way, then the end of both."""
    for out, into in ((a, b), (b, a)):
        out.sendall(b"x" * 100_000)
        got = 0
        while got < 100_000:
            got += len(into.recv(65536))
    a.close()
    assert b.recv(1) == b""
    b.close()


@pytest.mark.parametrize("timestamps", [0, 1])
def test_the_kernel_connects_through_our_cookies(tmp_path, timestamps):
    """With timestamps window scale and SACK come through too."""
    with meeting(tmp_path, ours={"net.ipv4.tcp_syncookies": 2}, kernel={"tcp_timestamps": timestamps}) as m:
        for _ in range(5):
            kernel, ours = m.connected("kernel")
            options = info_options(ours)
            assert options & 7 == (7 if timestamps else 0) and info_options(kernel) & 7 == options & 7
            exchange(kernel, ours)
        assert m.ours.host.counters()["tcp_syncookies_received"] == 5


def test_we_connect_through_the_kernels_cookies(tmp_path):
    with meeting(tmp_path, kernel={"tcp_syncookies": 2}) as m:
        for _ in range(5):
            kernel, ours = m.connected("us")
            assert info_options(ours) & 7 == 7
            exchange(ours, kernel)
        assert m.kernel_counters()["SyncookiesRecv"] == 5


def fast_listener(m, who):
    listener = m.listener(who)
    listener.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN, 16)
    return listener


def open_fast(m, who, address, data):
    s = m.end(who).socket()
    s.settimeout(None)
    sent = s.sendto(data, MSG_FASTOPEN, address)
    if sent < len(data):
        s.sendall(data[sent:])
    s.settimeout(60)
    return s


@pytest.mark.parametrize("client, server", [("kernel", "ours"), ("ours", "kernel")])
def test_fast_open_with_the_kernel(tmp_path, client, server):
    """The first connection brings the cookie; from the second on the data is on the SYN, and delivered once."""
    with meeting(tmp_path, ours={"net.ipv4.tcp_fastopen": 3}, kernel={"tcp_fastopen": 3}) as m:
        with fast_listener(m, server) as listener:
            for i in range(4):
                data = b"%d" % i * 700
                s = open_fast(m, client, listener.getsockname(), data)
                t, _ = listener.accept()
                t.settimeout(60)
                got = b""
                while len(got) < len(data):
                    got += t.recv(4096)
                assert got == data
                t.sendall(b"answer")
                assert s.recv(100) == b"answer"
                assert bool(info_options(s) & TCPI_OPT_SYN_DATA) == (i > 0)
                s.close()
                assert t.recv(1) == b""
                t.close()
        ours, kernel = m.ours.host.counters(), m.kernel_counters()
        if client == "kernel":
            assert kernel["TCPFastOpenActive"] == 3 and ours["tcp_fast_open_passive"] == 3
        else:
            assert kernel["TCPFastOpenPassive"] == 3 and ours["tcp_fast_open_active"] == 3


def test_fast_open_with_our_connect_and_the_kernels_server(tmp_path):
    """TCP_FASTOPEN_CONNECT: connect() returns, the first send() goes on the SYN."""
    with meeting(tmp_path, ours={"net.ipv4.tcp_fastopen": 1}, kernel={"tcp_fastopen": 3}) as m:
        with fast_listener(m, "kernel") as listener:
            for i in range(3):
                s = m.ours.socket()
                s.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
                s.connect(listener.getsockname())
                s.sendall(b"question" * (1 + 9999 * i))
                t, _ = listener.accept()
                t.settimeout(60)
                got = 0
                while got < 8 * (1 + 9999 * i):
                    got += len(t.recv(65536))
                t.close()
                s.close()
        assert m.kernel_counters()["TCPFastOpenPassive"] == 2
