"""Our TCP against the kernel's, both directions: data, half close, reset, refusal, a closed window, loss."""

import errno
import hashlib
import http.server
import random
import socket
import struct
import sys
import threading
import urllib.request

import pytest

from tests.kernel.conftest import KERNEL, OURS
from tests.support import scale

pytestmark = pytest.mark.root
BOTH = pytest.mark.parametrize("who_connects", ["kernel", "us"])
SIZES = [1, 100, 1459, 1460, 1461, 65536, 1_000_000, 100_000_000]


def payload(n, seed=1):
    return random.Random(seed).randbytes(n)


def sha(data):
    return hashlib.sha256(data).hexdigest()


def receive_all(s):
    parts = []
    while data := s.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


class Sender(threading.Thread):
    """Sends and closes the sending side; `join` raises what went wrong."""

    def __init__(self, s, data, shutdown=True):
        super().__init__(daemon=True)
        self.s, self.data, self.shutdown, self.error = s, data, shutdown, None
        self.start()

    def run(self):
        try:
            self.s.sendall(self.data)
            if self.shutdown:
                self.s.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.error = error

    def join(self, timeout=120):
        super().join(timeout)
        assert not self.is_alive()
        if self.error:
            raise self.error


def size_here(n):
    """100 MB in full runs, less in quick ones; small sizes always."""
    return n if n <= 1_000_000 else scale(n)


@pytest.mark.parametrize("size", SIZES)
def test_curl_fetches_from_our_server(pair, tmp_path, size):
    data = payload(size_here(size))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    with pair.host.patch():
        server = http.server.ThreadingHTTPServer((OURS, 8080), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        out = tmp_path / "out"
        pair.netns.run("curl", "-sS", "--fail", "--max-time", "120", "-o", out, f"http://{OURS}:8080/")
        assert sha(out.read_bytes()) == sha(data)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("size", SIZES)
def test_urllib_on_our_stack_fetches_from_a_kernel_server(pair, tmp_path, size):
    data = payload(size_here(size))
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file").write_bytes(data)
    server = pair.netns.popen(sys.executable, "-m", "http.server", "--bind", KERNEL, "--directory", tmp_path / "www",
                              "8081", stdout=-3, stderr=-3)
    try:
        starting = threading.Event()
        for _ in range(400):
            with pair.kernel_socket() as probe:
                if probe.connect_ex((KERNEL, 8081)) == 0:
                    break
            starting.wait(0.05)
        with pair.host.patch():
            with urllib.request.urlopen(f"http://{KERNEL}:8081/file", timeout=120) as response:
                got = response.read()
        assert sha(got) == sha(data)
    finally:
        server.kill()
        server.wait()


@BOTH
def test_data_both_ways_and_half_close(pair, who_connects):
    kernel, ours = pair.connected(who_connects)
    there, back = payload(300_000, 2), payload(400_000, 3)
    with kernel, ours:
        sender = Sender(ours, there)
        assert sha(receive_all(kernel)) == sha(there)           # our side is closed now, theirs still sends
        sender.join()
        sender = Sender(kernel, back)
        assert sha(receive_all(ours)) == sha(back)
        sender.join()


@BOTH
def test_a_reset_from_the_kernel_is_an_error_here(pair, who_connects):
    kernel, ours = pair.connected(who_connects)
    with ours:
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        kernel.close()
        with pytest.raises(ConnectionResetError):
            while ours.recv(100):
                pass


@BOTH
def test_a_reset_from_us_is_an_error_there(pair, who_connects):
    kernel, ours = pair.connected(who_connects)
    with kernel:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ours.close()
        with pytest.raises(ConnectionResetError):
            while kernel.recv(100):
                pass


def test_closed_ports_refuse_in_both_directions(pair):
    with pair.kernel_socket() as s:
        assert s.connect_ex((OURS, 9)) == errno.ECONNREFUSED
    with pair.host.socket() as s, pytest.raises(ConnectionRefusedError):
        s.settimeout(30)
        s.connect((KERNEL, 9))


@BOTH
@pytest.mark.parametrize("sender", ["kernel", "us"])
def test_a_closed_window_opens_again(pair, who_connects, sender):
    kernel, ours = pair.connected(who_connects)
    data = payload(12_000_000, 4)                               # more than both buffers hold
    source, sink = (kernel, ours) if sender == "kernel" else (ours, kernel)
    with kernel, ours:
        sending = Sender(source, data)
        sending_stopped = threading.Event()
        sending_stopped.wait(0.6)                               # long enough for zero windows and a probe
        assert sending.is_alive()
        assert sha(receive_all(sink)) == sha(data)
        sending.join()


def test_the_kernel_pings_us_and_we_ping_the_kernel(pair):
    done = pair.netns.run("ping", "-c", "3", "-i", "0.2", "-s", "1400", OURS)
    assert " 0% packet loss" in done.stdout
    with pair.host.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as s:
        s.settimeout(10)
        s.sendto(struct.pack("!BBHHH", 8, 0, 0, 0, 7) + b"abc", (KERNEL, 0))
        answer, whence = s.recvfrom(100)
        assert whence[0] == KERNEL and answer[0] == 0 and answer[8:] == b"abc"


def test_datagrams_both_ways_and_port_unreachable(pair):
    with pair.kernel_socket(socket.SOCK_DGRAM) as kernel, pair.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        kernel.bind((KERNEL, 0))
        ours.bind((OURS, 0))
        ours.settimeout(10)
        for n in (0, 1, 1472):
            ours.sendto(payload(n), kernel.getsockname())
            data, whence = kernel.recvfrom(2000)
            assert data == payload(n) and whence == ours.getsockname()
            kernel.sendto(data, whence)
            assert ours.recvfrom(2000) == (data, kernel.getsockname())
        ours.connect((KERNEL, 9))
        ours.send(b"nobody")
        with pytest.raises(ConnectionRefusedError):
            ours.recv(10)


@pytest.mark.parametrize("sender", ["kernel", "us"])
def test_two_percent_loss_each_way(netns, tmp_path, sender):
    import netstack
    from netstack.link import FaultInjector, Tap
    from tests.kernel.conftest import Pair

    with netns.enter():
        tap = Tap("tap0")
    netns.run("ip", "addr", "add", f"{KERNEL}/24", "dev", "tap0")
    netns.run("ip", "link", "set", "tap0", "up")
    lossy = FaultInjector(tap, seed=5, loss=0.02)
    with netstack.Host(link=lossy, address=f"{OURS}/24", drain=5) as host:
        pair = Pair(netns, host)
        kernel, ours = pair.connected("us")
        data = payload(scale(20_000_000, 1_000_000), 6)
        source, sink = (kernel, ours) if sender == "kernel" else (ours, kernel)
        with kernel, ours:
            sending = Sender(source, data)
            assert sha(receive_all(sink)) == sha(data)
            sending.join()
        assert host.counters()["tcp_segments_in"] > 100
