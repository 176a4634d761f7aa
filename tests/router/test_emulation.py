"""Bad links between stacks and the router, on virtual time: what arrives when, what is lost, what is counted."""

import json
import subprocess
import sys

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

import netstack
from netstack.errors import ConfigError
from netstack.link.emulation import Emulation
from netstack.router.uplinks import UplinkConfig
from tests.router.lan import Timed
from tests.support import ROOT, run

A, B = "10.77.0.2", "10.77.0.3"
MS = 1_000_000


@pytest.fixture
def lan():
    return Timed()


def udp(n=0, size=100, src=A, dst=B):
    return IP(src=src, dst=dst) / UDP(sport=1, dport=2) / Raw(n.to_bytes(4, "big") + bytes(size - 4 - 28))


def numbers(stack):
    return [int.from_bytes(bytes(p[UDP].payload)[:4], "big") for p in stack.received()]


def test_a_packet_is_under_way_for_the_delay_in_both_directions(lan):
    a, b = lan.stack(A), lan.stack(B)
    lan.forwarder.emulate(a.port, delay="5ms")
    a.send(udp(1))
    b.send(udp(2, src=B, dst=A))
    lan.at(0)
    assert not a.received() and not b.received()
    lan.at(4.999999)
    assert not a.received() and not b.received()
    lan.at(5)
    assert numbers(a) == [2] and numbers(b) == [1]


def test_each_direction_can_have_its_own(lan):
    a, b = lan.stack(A), lan.stack(B)
    lan.forwarder.emulate(a.port, output={"delay": "7ms"}, input={"delay": "2ms"})
    a.send(udp(1))
    b.send(udp(2, src=B, dst=A))
    lan.at(0)
    lan.at(2)
    assert numbers(b) == [1] and not a.received()
    lan.at(7)
    assert numbers(a) == [2]


def test_two_bad_links_add_up(lan):
    a, b = lan.stack(A), lan.stack(B)
    for stack in (a, b):
        lan.forwarder.emulate(stack.port, delay="3ms")
    a.send(udp(1))
    lan.at(0)
    lan.at(3)
    assert not b.received()
    lan.at(5.9)
    assert not b.received()
    lan.at(6)
    assert numbers(b) == [1]


def test_packets_leave_one_after_the_other_at_the_rate(lan):
    a, b = lan.stack(A), lan.stack(B)
    lan.forwarder.emulate(b.port, rate="10mbit")
    a.send(*[udp(n, 1250) for n in range(5)])            # a millisecond each
    lan.at(0)
    for ms in range(1, 6):
        lan.at(ms - 0.001)
        assert numbers(b) == []
        lan.at(ms)
        assert numbers(b) == [ms - 1]


def test_what_the_queue_has_no_room_for_is_lost_and_counted(lan):
    a, b = lan.stack(A), lan.stack(B)
    lan.forwarder.emulate(b.port, rate="10mbit", queue=3)
    a.send(*[udp(n, 1250) for n in range(10)])
    lan.at(0)
    assert b.counters["drop_out_emulated"] == 7 and b.counters["queued"] == 3
    lan.at(100)
    assert numbers(b) == [0, 1, 2] and "queued" not in b.counters
    assert lan.forwarder.emulated(b.port)["output"]["queue_dropped"] == 7


def lost(seed, direction):
    lan = Timed()
    a, b = lan.stack(A), lan.stack(B)
    lan.forwarder.emulate((b if direction == "to" else a).port, loss=0.2, seed=seed)
    got = []
    for n in range(500):
        a.send(udp(n))
        lan.at(n)
        got += numbers(b)
    where = b.counters["drop_out_emulated"] if direction == "to" else a.counters["drop_in_emulated"]
    assert where == 500 - len(got)
    return set(range(500)) - set(got)


@pytest.mark.parametrize("direction", ["to", "from"])
def test_the_same_seed_loses_the_same_packets(direction):
    first = lost(7, direction)
    assert first == lost(7, direction) and first != lost(8, direction)
    assert 60 < len(first) < 140                         # 100 expected, four deviations either way
    assert lost(7, "to") != lost(7, "from"), "each direction has its own dice"


def test_a_large_packet_in_head_and_body_arrives_unchanged(lan):
    a, b = lan.stack(A), lan.stack(B)
    for stack in (a, b):
        lan.forwarder.emulate(stack.port, delay="1ms")
    data = bytes(i * 7 & 0xFF for i in range(60_000))
    for split in (None, 28, 200):
        a.send(IP(src=A, dst=B, ttl=9) / UDP(sport=1, dport=2) / Raw(data), split=split)
    lan.at(0)
    lan.at(1)
    lan.at(2)
    got = b.received()
    assert [bytes(p[UDP].payload) for p in got] == [data] * 3 and {p.ttl for p in got} == {8}


def test_nothing_is_lost_count_of_when_a_stack_leaves(lan):
    a, b = lan.stack(A), lan.stack(B)
    for stack in (a, b):
        lan.forwarder.emulate(stack.port, delay="5ms")
    a.send(udp(1))
    lan.at(0)
    lan.at(5)                                            # out of a's link, into b's
    a.send(udp(2))
    lan.at(6)                                            # in a's link
    values = lan.forwarder.remove(b.port)
    assert values["drop_out_detached"] == 1
    lan.check()
    lan.at(11)
    assert a.counters["drop_in_dead_address"] == 1
    lan.forwarder.remove(a.port)
    lan.check()


def test_what_was_under_way_to_an_address_that_moved_is_dropped(lan):
    a, b = lan.stack(A), lan.stack(B)
    lan.forwarder.emulate(b.port, delay="5ms")
    a.send(udp(1))
    lan.at(0)
    lan.forwarder.advance_epoch(b.port)
    lan.at(5)
    assert not b.received() and b.counters["drop_out_old_epoch"] == 1


def test_spoofed_and_malformed_packets_are_judged_as_without(lan):
    a, b = lan.stack(A), lan.stack(B)
    lan.forwarder.emulate(a.port, delay="5ms")
    a.send(udp(src="10.77.0.9"), b"\xff" * 40, b"\x45" * 3)
    lan.at(0)
    lan.at(5)
    assert a.drops() == {"in_spoofed": 1, "in_malformed": 2} and not b.received()


def test_memory_for_packets_under_way_is_bounded(lan):
    a, b = lan.stack(A), lan.stack(B)
    lan.forwarder.emulate(b.port, delay="1h")
    sent = 0
    while "drop_out_emulated" not in b.counters:
        a.send(udp(size=60_000))
        lan.at(0)
        sent += 1
        assert sent < 1000
    assert lan.forwarder.emulated(b.port)["output"]["held"] * 60_000 <= 16 << 20


def test_settings_change_while_packets_are_under_way(lan):
    a, b = lan.stack(A), lan.stack(B)
    lan.forwarder.emulate(b.port, delay="5ms")
    a.send(udp(1))
    lan.at(0)
    lan.forwarder.emulate(b.port, delay="20ms")
    a.send(udp(2))
    lan.at(1)
    lan.at(5)
    assert numbers(b) == [1]
    lan.at(21)
    assert numbers(b) == [2]
    with pytest.raises(ValueError):
        lan.forwarder.emulate(b.port, delay="20ms", loss=2)
    with pytest.raises(TypeError):
        lan.forwarder.emulate(b.port, duplicate=0.5)


# --- how it is said ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given, settings", [
    ({"delay": "5ms"}, {"delay": 5 * MS}),
    ({"loss": "1%", "jitter": "1ms"}, {"loss": 0.01, "jitter": MS}),
    ({"rate": "10mbit"}, {"rate": 10_000_000, "queue": 1000}),
    ({"rate": 8000, "queue": 5, "loss": 0.5}, {"rate": 8000, "queue": 5, "loss": 0.5}),
])
def test_settings_are_read(given, settings):
    assert Emulation.of(given).settings == settings


@pytest.mark.parametrize("given, why", [
    ({"loss": "101%"}, "probability"), ({"loss": "x"}, "x"), ({"delay": "5"}, "5"), ({"delay": "-1ms"}, "-1ms"),
    ({"rate": "0mbit"}, "more than 0"), ({"queue": 3}, "rate"), ({"rate": "1mbit", "queue": 0}, "queue"),
    ({"seed": 3}, "seed"), ({"duplicate": 1}, "duplicate"), ({"delay": "1ms", "seed": -1}, "seed"),
])
def test_what_cannot_be_says_so(given, why):
    with pytest.raises(ConfigError, match=why):
        Emulation.of(given)


def test_an_uplink_can_be_bad():
    uplink = UplinkConfig.parse("tap:t0,address=192.0.2.2/24,delay=5ms,loss=1%,seed=7")
    assert uplink.emulation.settings == {"delay": 5 * MS, "loss": 0.01} and uplink.emulation.seed == 7
    assert UplinkConfig.parse("tap:t0").emulation is None
    with pytest.raises(ConfigError, match="probability"):
        UplinkConfig.parse("tap:t0,loss=2")


@pytest.mark.parametrize("command", [["router"], ["run", "--"]])
def test_the_commands_say_what_is_wrong(command):
    head, *tail = command
    done = run([sys.executable, "-m", "netstack", head, "--loss", "200%", *tail, *(["x.py"] if tail else [])], cwd=ROOT,
               check=False)
    assert done.returncode == 2 and "probability" in done.stderr and "Traceback" not in done.stderr


# --- in real time: never earlier than said ---


def test_connections_live_behind_bad_links():
    with netstack.Router(emulation={"delay": "10ms", "loss": 0.02, "seed": 3}) as router:
        server, client = netstack.attach(router.name), netstack.attach(router.name)
        with server, client, server.create_server((server.addresses[0].split("/")[0], 7)) as listener:
            listener.settimeout(60)
            with client.create_connection(listener.getsockname(), 60) as s:
                t, _ = listener.accept()
                with t:
                    t.settimeout(60)
                    s.sendall(b"x" * 100_000)
                    got = 0
                    while got < 100_000:
                        got += len(t.recv(1 << 16))
                info = s.getsockopt(6, 11, 280)          # TCP_INFO
                assert int.from_bytes(info[68:72], sys.byteorder) >= 40_000, "the round trip, microseconds: four links"
        assert router.check_conservation() == []


PROGRAM = """
import socket, sys, time
began = time.monotonic()
s = socket.socket()
s.settimeout(60)
error = s.connect_ex(("10.77.0.1", 9))
print(error, time.monotonic() - began >= 0.06)
"""


def test_a_program_runs_behind_a_bad_link(tmp_path, runtime):
    done = subprocess.run([sys.executable, "-m", "netstack", "run", "--delay", "30ms", "--seed", "1", "--stats",
                           tmp_path / "stats", "--", "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    error, late = done.stdout.split()
    assert int(error) == 111 and late == "True"          # the router refused it, after there and back
    assert json.loads((tmp_path / "stats").read_text())["tcp_segments_in"] == 1


def test_an_uplink_port_takes_a_bad_link_too():
    """A TAP's port as the data path sees it, without a TAP: a pipe of datagrams stands for the device."""
    import socket

    from netstack.router.devices.device import FileDevice

    ours, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lan = Timed()
    a = lan.stack(A)
    mac, peer = b"\x02\x00\x00\x00\x00\x01", b"\x02\x00\x00\x00\x00\x02"
    with ours, device:
        ours.setblocking(False)
        device.setblocking(False)
        uplink = FileDevice(ours.detach())
        port = lan.forwarder.add_uplink(uplink, mac=mac, own=["192.0.2.1/24"], gateways=["192.0.2.2"])
        lan.forwarder.emulate(port, delay="5ms")
        device.send(mac + peer + b"\x08\x00" + bytes(udp(1, src="198.51.100.9", dst=A)))
        lan.at(0)
        assert not a.received()
        lan.at(5)
        assert numbers(a) == [1]
        a.send(udp(2, dst="198.51.100.9"))
        lan.at(6)
        with pytest.raises(BlockingIOError):
            device.recv(2000)
        lan.at(11)
        assert device.recv(2000)[12:14] == b"\x08\x06"   # it has come through, and asks for the gateway
        lan.forwarder.remove(port)
        uplink.close()
        lan.check()
