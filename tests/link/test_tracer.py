"""Trace records: fields, wrap-around, switching off, Ethernet."""

import os
import socket
import struct

import pytest

from netstack.link import Tracer, Wire
from netstack.testing import LinkDriver

RECORD = struct.Struct("=qIBBBBHHIIHH16s16s")


def records(tracer):
    """The records as dictionaries, read without numpy."""
    from netstack.link.tracer import FIELDS

    names = [field[0] for field in FIELDS]
    return [dict(zip(names, values, strict=True)) for values in RECORD.iter_unpack(tracer.raw())]


def tcp_packet(**fields):
    scapy = pytest.importorskip("scapy.all")
    payload = fields.pop("payload", b"")
    return bytes(scapy.IP(src="10.0.0.1", dst="10.0.0.2") / scapy.TCP(**fields) / payload)


def test_records_hold_the_fields_of_tcp_both_ways():
    a, b = Wire()
    tracer = Tracer(a)
    link, peer = LinkDriver(tracer), LinkDriver(b)
    out = tcp_packet(sport=1000, dport=80, seq=5, ack=6, flags="PA", window=777, payload=b"hello")
    link.send(out, now_ns=42, head=40)
    peer.send(tcp_packet(sport=80, dport=1000, seq=0xFFFFFFFF, flags="S", options=[("MSS", 1460)]))
    link.advance(50)
    link.receive()
    first, second = records(tracer)
    assert (first["t_ns"], first["direction"], first["length"], first["payload"]) == (42, 2, 45, 5)
    assert (first["sport"], first["dport"], first["seq"], first["ack"]) == (1000, 80, 5, 6)
    assert (first["flags"], first["window"], first["version"], first["protocol"]) == (0x18, 777, 4, 6)
    assert bytes(first["src"]) == bytes(10) + b"\xff\xff" + socket.inet_aton("10.0.0.1")
    assert (second["t_ns"], second["direction"], second["seq"], second["flags"]) == (50, 1, 0xFFFFFFFF, 2)
    assert second["payload"] == 0


def test_the_buffer_keeps_the_last_records():
    a, _ = Wire()
    tracer = Tracer(a, records=8)
    link = LinkDriver(tracer)
    for i in range(20):
        link.send(b"x" * (20 + i), now_ns=i)
    assert tracer.count == 20
    assert [r["t_ns"] for r in records(tracer)] == list(range(12, 20))
    tracer.clear()
    assert tracer.count == 0 and tracer.raw() == b""


@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="numpy itself leaks at its import")
def test_numpy_sees_the_same_records():
    pytest.importorskip("numpy")
    a, _ = Wire()
    tracer = Tracer(a, records=8)
    link = LinkDriver(tracer)
    for i in range(20):
        link.send(tcp_packet(sport=i, dport=80, seq=i), now_ns=i)
    array = tracer.records()
    assert array.dtype.itemsize == 64
    for name in ("t_ns", "length", "direction", "sport", "seq", "flags", "payload"):
        assert list(array[name]) == [r[name] for r in records(tracer)]


def test_off_means_off():
    a, b = Wire()
    tracer = Tracer(a, on=False)
    link, peer = LinkDriver(tracer), LinkDriver(b)
    link.send(b"unseen")
    assert tracer.count == 0
    tracer.on = True
    link.send(b"seen")
    tracer.on = False
    link.send(b"unseen again")
    assert tracer.count == 1 and len(peer.receive()) == 3


def test_ethernet_udp_icmp_and_ipv6_are_read():
    scapy = pytest.importorskip("scapy.all")
    a, _ = Wire(media="ethernet")
    tracer = Tracer(a)
    link = LinkDriver(tracer)
    for packet in (
        scapy.Ether() / scapy.IP() / scapy.UDP(sport=5, dport=6) / b"12",
        scapy.Ether() / scapy.IPv6(src="2001:db8::1") / scapy.TCP(sport=7, dport=8) / b"123",
        scapy.Ether() / scapy.ARP(),
        scapy.Ether() / scapy.IP(frag=3) / b"later fragment",
    ):
        link.send(bytes(packet))
    udp, v6, arp, fragment = records(tracer)
    assert (udp["protocol"], udp["sport"], udp["dport"], udp["payload"]) == (17, 5, 6, 2)
    assert (v6["version"], v6["sport"], v6["payload"]) == (6, 7, 3)
    assert bytes(v6["src"]) == socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    assert arp["version"] == 0 and arp["length"] >= 42
    assert fragment["version"] == 4 and fragment["sport"] == 0


def test_any_bytes_are_survived():
    a, _ = Wire(mtu=65535)
    tracer = Tracer(a)
    link = LinkDriver(tracer)
    for first in range(256):
        for length in (1, 4, 19, 20, 21, 39, 40, 41, 60, 200):
            link.send(bytes([first]) * length)
    assert tracer.count == 2560 and len(tracer.raw()) == 2560 * 64
