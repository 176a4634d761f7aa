"""F10: a SYN flood from spoofed addresses. Every honest connect succeeds; rates: bench/rows/handshake."""

import itertools
import random
import socket
import struct
import threading
import time

import pytest

from netstack.testing import build_tcp
from tests.support import scale
from tests.tcp.tools import B, S, Wire

MIB = 1 << 20


def spoofed(rng, to, port):
    source = f"{rng.randrange(11, 127)}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"
    return build_tcp(source, to, rng.randrange(1024, 65536), port, "S", seq=rng.getrandbits(32), mss=1460,
                     sack_permitted=True, timestamp=(rng.getrandbits(31), 0), window_scale=7)


@pytest.mark.unwatched
@pytest.mark.parametrize("loss", [0, 0.05])
def test_f10_on_virtual_time_every_client_gets_in_within_a_second_of_its_syns(loss):
    """100,000 SYNs a second. On a clean wire a connect takes a round trip; on a lossy one what was lost comes again."""
    rng = random.Random(10)
    clients, rate = (scale(1000, 40), 100_000) if not loss else (scale(200, 20), 10_000)
    flood = itertools.cycle([spoofed(rng, B, 80) for _ in range(20_000)])
    burst = 20                                               # SYNs at once, every burst/rate seconds
    wire = Wire(10, loss=loss, delay_ns=200_000)
    client_stack, server_stack = wire.stacks
    server = server_stack.socket()
    server.bind((B, 80))
    server.listen(128)
    base = server_stack.memory()["demux"]
    worst, most = 0, 0
    for i in range(clients):
        sock = client_stack.socket()
        sock.connect_ex((B, 80))
        began, sent, accepted = wire.now_ns, False, None
        while accepted is None or not sent:
            for _ in range(burst):
                server_stack.input(next(flood), wire.now_ns)
            memory = server_stack.memory()
            most = max(most, memory["half_open"] + memory["demux"] - base)
            wire.run(burst / rate)
            if sock.state == "ESTABLISHED" and not sent:
                sent = sock.send(b"%d" % i) > 0
                worst = max(worst, wire.now_ns - began)
            if server.poll():
                accepted, _ = server.accept()
            assert wire.now_ns - began < (S if not loss else 60 * S), (i, sock.state)
        while True:
            try:
                assert accepted.recv(10) == b"%d" % i
                break
            except BlockingIOError:
                assert wire.step(wire.now_ns + 60 * S)
        sock.setsockopt(1, 13, (1).to_bytes(8, "little"))
        sock.close()
        accepted.close()
    assert most < MIB
    if not loss:
        assert worst < 50_000_000


class Flood(threading.Thread):
    """Raw SYNs with spoofed sources from the kernel's side of the wire."""

    def __init__(self, end, to, port):
        super().__init__(daemon=True)
        with end.entered():
            self.raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        rng = random.Random(11)
        self.packets = [spoofed(rng, to, port) for _ in range(2000)]
        self.to, self.sent, self.over = to, 0, False

    def run(self):
        while not self.over:
            for packet in self.packets:
                source = struct.pack("!I", 0x0B000000 + (self.sent * 2654435761 & 0x7FFFFF))
                sport = struct.pack("!H", 1024 + self.sent % 64000)
                fresh = packet[:12] + source + packet[16:20] + sport + packet[22:]
                try:
                    self.raw.sendto(resummed(fresh), (self.to, 0))
                    self.sent += 1
                except OSError:
                    time.sleep(0.001)                        # the wire is full
                if self.over:
                    return

    def stop(self):
        self.over = True
        self.join(30)
        self.raw.close()


def resummed(packet):
    from netstack.testing.packets import repair
    return repair(packet)


@pytest.mark.root
@pytest.mark.serial
def test_f10_in_real_time_kernel_clients_connect_while_the_kernel_floods(tmp_path):
    """Over a TUN in a namespace. The kernel is client and flooder; every connect succeeds and brings its bytes."""
    from tests.kernel.wires import meeting
    clients = scale(1000, 50)
    with meeting(tmp_path, ours={"net.ipv4.tcp_syncookies": 1}) as m:
        with m.listener("ours") as listener:
            listener.listen(64)
            listener.settimeout(60)
            address = listener.getsockname()
            echoed = []

            def serve():
                for _ in range(clients):
                    s, _ = listener.accept()
                    s.settimeout(60)
                    echoed.append(s.recv(16))
                    s.sendall(echoed[-1])
                    s.close()

            server = threading.Thread(target=serve, daemon=True)
            server.start()
            flood = Flood(m.kernel, *address)
            flood.start()
            try:
                for i in range(clients):
                    with m.kernel.socket() as s:
                        s.settimeout(60)
                        s.connect(address)
                        s.sendall(b"%d" % i)
                        assert s.recv(16) == b"%d" % i
            finally:
                flood.stop()
            server.join(60)
            assert echoed == [b"%d" % i for i in range(clients)]
            counters = m.ours.host.counters() if hasattr(m.ours, "host") else {}
            assert flood.sent > clients and (not counters or counters.get("tcp_syncookies_sent", 1) > 0)
