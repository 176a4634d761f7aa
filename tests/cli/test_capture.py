"""``netstack capture``: an attachment's packets in a file that others read: scapy and dpkt, and tshark where it is."""

import contextlib
import errno
import io
import os
import shutil
import signal
import socket
import subprocess
import types

import dpkt
import pytest
from scapy.layers.inet import IP, TCP
from scapy.utils import RawPcapNgReader

import netstack
from netstack.cli.capture import Output
from netstack.errors import RouterError
from netstack.link import pcapng
from netstack.router import attach
from netstack.router.capture import Capture, Packet
from netstack.router.client import ControlClient
from rings.spsc_ring import producer_region_bytes
from tests.cli.conftest import NETSTACK, netstack_command
from tests.router.lan import put, take, wait_until
from tests.support import ROOT

DATA = bytes(range(256)) * 400


@pytest.fixture
def router(runtime):
    with netstack.Router("10.88.0.0/16", "default", ring_capacity=1 << 18) as router:
        yield router
        assert router.check_conservation() == []


def address(host):
    return host.addresses[0].split("/")[0]


@contextlib.contextmanager
def hosts(router):
    with netstack.attach(router.name, drain=1) as a, netstack.attach(router.name, drain=1) as b:
        yield a, b


def transfer(a, b, data=DATA):
    """Over TCP from a to b, closed in order: both ends have arrived."""
    with b.create_server((address(b), 7)) as listener, a.create_connection((address(b), 7), timeout=20) as c:
        peer, _ = listener.accept()
        got = bytearray()
        with peer:
            c.sendall(data)
            c.shutdown(socket.SHUT_WR)
            while chunk := peer.recv(65536):
                got += chunk
        assert c.recv(1) == b"" and bytes(got) == data


@contextlib.contextmanager
def capturing(target, path, *options):
    """The command as a process that captures already; ended, if it has not, by Ctrl-C."""
    process = subprocess.Popen([*NETSTACK, "capture", str(target), "-w", str(path), *options], cwd=ROOT,
                               stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline()
        assert line.startswith("capturing at "), line + process.stderr.read()
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.rest = process.stderr.read()
        assert process.wait(20) == 0, process.rest
    finally:
        process.kill()
        process.wait(20)
        process.stderr.close()


def packets_in(path):
    """``(packet, direction)`` of each, by scapy's reader, which knows the block's options; dpkt counts them too."""
    with RawPcapNgReader(str(path)) as reader:
        found = [(IP(data), meta.direction if hasattr(meta, "direction") else None) for data, meta in reader]
    with open(path, "rb") as file:
        assert len(list(dpkt.pcapng.Reader(file))) == len(found)
    return found


def test_a_whole_connection_is_in_the_file(router, tmp_path):
    path = tmp_path / "c.pcapng"
    with hosts(router) as (a, b):
        with capturing(address(a), path) as process:
            transfer(a, b)
        assert process.rest.endswith(" 0 missed\n")
    stream, ends, first = {}, set(), None
    for packet, _ in packets_in(path):
        assert {packet.src, packet.dst} == {address(a), address(b)}
        checked = IP(bytes(packet))
        del checked.chksum
        assert IP(bytes(checked)).chksum == packet.chksum
        if packet.src == address(a):
            first = packet[TCP].seq + 1 if packet[TCP].flags.S else first
            stream[(packet[TCP].seq - first) % 2**32] = bytes(packet[TCP].payload)
        if packet[TCP].flags.F:
            ends.add(packet.src)
    assert b"".join(stream[seq] for seq in sorted(stream)) == DATA
    assert ends == {address(a), address(b)}
    if shutil.which("tshark"):
        fields = ("-T", "fields", "-e", "tcp.analysis.lost_segment", "-e", "_ws.malformed")
        shown = subprocess.run(["tshark", "-r", path, *fields], capture_output=True, text=True)
        assert shown.returncode == 0 and len(shown.stdout.splitlines()) == len(packets_in(path)), shown.stderr
        assert not shown.stdout.strip()


def test_count_ends_it_and_the_process_names_the_attachment(router, tmp_path):
    path = tmp_path / "c.pcapng"
    with attach("default") as one, attach("default") as other:
        ambiguous = netstack_command("capture", str(one_pid()), "-w", str(path))
        assert ambiguous.returncode == 1 and one.address in ambiguous.stderr and other.address in ambiguous.stderr
        with capturing(one.id, path, "--count", "3", "--snap", "20") as process:
            for _ in range(5):
                send(other, one)
            assert process.wait(20) == 0
        assert process.rest == "3 packets captured, 0 missed\n"
    found = packets_in(path)
    assert len(found) == 3 and all(len(packet) == 20 and packet.len == 1000 for packet, _ in found)


def one_pid():
    return os.getpid()


def send(source, target, length=1000):
    """One raw UDP datagram through the rings, without a stack."""
    from scapy.layers.inet import UDP

    packet = bytes(IP(src=source.address, dst=target.address, ttl=9) / UDP(sport=1, dport=2) / bytes(length - 28))
    channel = source.link.channel
    sent = put(channel, packet)
    channel.flush()
    return sent


def drain(capture, wanted):
    """Read until so many packets came."""
    found = []
    wait_until(lambda: found.extend(capture.read()) or len(found) >= wanted)
    return found


def test_both_directions_as_the_stack_sees_them(router):
    with attach("default") as one, attach("default") as other, ControlClient() as client, \
            Capture(client, one.id) as capture:
        send(one, other)
        send(other, one, 500)
        found = drain(capture, 2)
        assert sorted((p.direction, p.length, p.missed) for p in found) == \
            [(pcapng.INBOUND, 500, 0), (pcapng.OUTBOUND, 1000, 0)]
        ttl = {p.direction: IP(p.data).ttl for p in found}
        assert ttl == {pcapng.OUTBOUND: 9, pcapng.INBOUND: 8}          # the router is a hop


def test_what_waited_for_the_stack_is_captured_when_it_gets_it(router):
    with attach("default") as lazy, attach("default") as eager, ControlClient() as client, \
            Capture(client, lazy.id, snap_length=64) as capture:
        while not client.queued(lazy.id):
            send(eager, lazy)
        seen = len(drain(capture, router.counters(lazy.id)["out_packets"]))
        taken = 0

        def finished():
            nonlocal taken, seen
            while take(lazy.link.channel) is not None:
                taken += 1
            seen += len(capture.read())
            return client.queued(lazy.id) == 0 and taken == seen == router.counters(lazy.id)["out_packets"]

        wait_until(finished)
        assert capture.missed == 0


def test_a_reader_that_does_not_read_costs_nobody_a_packet(router):
    with attach("default") as one, attach("default") as other, ControlClient() as client, \
            Capture(client, one.id, ring_capacity=1 << 18) as capture:
        sent = 0
        while sent < 1000:
            sent += send(one, other)
            while take(other.link.channel) is not None:
                pass
        wait_until(lambda: router.counters(one.id)["in_packets"] == sent)
        assert router.counters(one.id)["forwarded"] == sent
        capture.stop()
        found = []
        wait_until(lambda: found.extend(capture.read()) or capture.ended)
        assert 0 < len(found) < sent and len(found) + capture.missed == sent


def test_a_reader_that_breaks_its_ring_breaks_nothing_else(router):
    with attach("default") as one, attach("default") as other, ControlClient() as client:
        capture = Capture(client, one.id)
        memory = memoryview(capture._channel._regions[1].mapping)
        at = producer_region_bytes(capture._channel.capacity)
        memory[at:at + 256] = b"\xff" * 256
        memory.release()
        for n in range(1, 50):
            send(one, other)
            wait_until(lambda: take(other.link.channel) is not None)
            assert router.counters(one.id)["forwarded"] == n
        capture.close()
        again = Capture(ControlClient(), one.id)
        send(one, other)
        assert len(drain(again, 1)) == 1
        again.close()
        again._client.close()


@pytest.mark.parametrize("end", ["attachment", "router"])
def test_it_ends_with_the_attachment_and_with_the_router(router, tmp_path, end):
    path = tmp_path / "c.pcapng"
    with attach("default") as one, attach("default") as other:
        with capturing(one.address, path) as process:
            send(one, other)
            wait_until(lambda: router.counters(one.id)["in_packets"] == 1)
            one.close() if end == "attachment" else router.close()
            assert process.wait(20) == 0
        assert process.rest == "1 packets captured, 0 missed\n"
        assert len(packets_in(path)) == 1


def test_who_goes_without_a_word_leaves_no_capture_behind(router):
    with attach("default") as one:
        with ControlClient() as client:
            Capture(client, one.id)
            with ControlClient() as second, pytest.raises(RouterError, match="already") as busy:
                Capture(second, one.id)
            assert busy.value.errno == errno.EBUSY
            with pytest.raises(RouterError, match="one connection each"):
                Capture(client, one.id)

        def free():
            with ControlClient() as third, contextlib.suppress(RouterError), Capture(third, one.id):
                return True

        wait_until(free)


def test_only_the_owner_may(router):
    with attach("default") as one:
        stranger = types.SimpleNamespace(uid=4711, pid=1, capture=None, is_owner=False)
        with pytest.raises(RouterError, match="owner") as refused:
            router.captures.start(stranger, one.id, 1 << 20, 0)
        assert refused.value.errno == errno.EPERM and stranger.capture is None


@pytest.mark.parametrize("ident, capacity", [(12345, 1 << 20), (1, 1 << 10), (1, (1 << 20) + 1), (1, 1 << 30)])
def test_what_cannot_be_captured(router, ident, capacity):
    with attach("default") as one, ControlClient() as client, pytest.raises(RouterError):
        Capture(client, one.id if ident == 1 else ident, ring_capacity=capacity)


def test_last_keeps_the_newest_and_limit_ends(router, tmp_path):
    def packet(n):
        return Packet(n, pcapng.INBOUND, 40, 0, n.to_bytes(4, "big") * 10)

    file = io.BytesIO()
    header = pcapng.file_header(pcapng.LINKTYPE_RAW, 100, "x")
    output = Output(file, header, 1000)
    for n in range(100):
        output.add(packet(n))
    assert file.getvalue() == header
    output.finish(100, 0)
    found = [data for _, data in dpkt.pcapng.Reader(io.BytesIO(file.getvalue()))]
    assert output.packets == len(found) == 1000 // len(pcapng.packet(0, 1, 40, bytes(40)))
    assert found[-1] == packet(99).data and found == sorted(found)
    with attach("default") as one, attach("default") as other:
        path = tmp_path / "l"
        with capturing(one.address, path, "--limit", "4KiB") as process:
            while process.poll() is None:
                send(one, other)
                while take(other.link.channel) is not None:
                    pass
        assert 4096 <= path.stat().st_size < 4096 + 1500 and packets_in(path)


def test_into_a_pipe(router):
    with attach("default") as one, attach("default") as other:
        process = subprocess.Popen([*NETSTACK, "capture", one.address, "-w", "-", "--count", "2"], cwd=ROOT,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stderr.readline()
        send(one, other)
        send(one, other)
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 0 and len(list(dpkt.pcapng.Reader(io.BytesIO(out)))) == 2


def test_wrong_words(runtime, tmp_path):
    none = netstack_command("capture", "10.88.0.2", "-w", str(tmp_path / "x"))
    assert none.returncode == 1 and "netstack router" in none.stderr
    with netstack.Router("10.88.0.0/16", "default") as router:
        nobody = netstack_command("capture", "10.88.0.2", "-w", str(tmp_path / "x"))
        assert nobody.returncode == 1 and "netstack ps" in nobody.stderr and not (tmp_path / "x").exists()
        with router.attach() as one:
            folder = netstack_command("capture", one.address, "-w", str(tmp_path))
            assert folder.returncode == 1 and "directory" in folder.stderr and "Traceback" not in folder.stderr
            both = netstack_command("capture", one.address, "-w", "x", "--last", "1MiB", "--limit", "1MiB")
            assert both.returncode == 2
