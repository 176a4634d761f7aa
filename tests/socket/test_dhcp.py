"""DHCP: messages that lie are refused, leases are read as RFC 2131 has them."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP

from netstack.dhcp import ACK, DISCOVER, KIND, LEASE, MASK, OFFER, REQUEST, ROUTER, SERVER_ID, T1, T2, Lease, Message

MAC = bytes.fromhex("020000000001")


def ack(**options):
    base = {KIND: bytes([ACK]), SERVER_ID: bytes([10, 0, 0, 1]), LEASE: struct.pack("!I", 1000),
            MASK: bytes([255, 255, 255, 0])}
    base.update({int(k[1:]): v for k, v in options.items()})
    return Message(2, 1, MAC, yiaddr="10.0.0.5", options=base)


@given(st.integers(0, 2**32 - 1), st.lists(st.tuples(st.integers(60, 254), st.integers(0, 600)), max_size=5))
def test_what_is_built_is_read_back(xid, sizes):
    options = {number: bytes(k % 251 for k in range(size)) for number, size in sizes}
    m = Message(1, xid, MAC, secs=3, ciaddr="10.0.0.9", options=options)
    back = Message.parse(m.build())
    assert (back.xid, back.mac, back.secs, back.ciaddr) == (xid, MAC, 3, "10.0.0.9")
    assert back.options == options


def test_scapy_reads_our_messages():
    raw = Message(1, 0x01020304, MAC, flags=0x8000, options={KIND: bytes([DISCOVER])}).build()
    b = BOOTP(raw)
    assert (b.op, b.xid, b.flags.B, b.chaddr[:6]) == (1, 0x01020304, True, MAC)
    assert ("message-type", 1) in b[DHCP].options and len(raw) >= 300


@pytest.mark.parametrize("seed", range(200))
def test_bytes_that_are_no_message_are_refused_and_never_read_beyond(seed):
    rng = random.Random(seed)
    raw = bytearray(ack().build())
    for _ in range(rng.randrange(1, 20)):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    raw = raw[:rng.randrange(len(raw) + 1)]
    try:
        m = Message.parse(bytes(raw))
    except ValueError:
        return
    assert m.op in (1, 2)
    try:
        Lease.of(m, 0.0)
    except ValueError:
        return


def test_options_may_stand_in_the_fields_for_names():
    raw = bytearray(ack().build())
    options = bytes([52, 1, 3, 255])
    raw[240:] = options
    raw[108:108 + 7] = bytes([53, 1, 2, 1, 1, 7, 255])       # file
    raw[44:44 + 5] = bytes([54, 1, 9, 255, 0])               # sname
    m = Message.parse(bytes(raw))
    assert (m.kind, m.options[1], m.options[54]) == (OFFER, b"\7", b"\x09")


def test_a_lease_is_counted_from_when_it_was_asked_for():
    lease = Lease.of(ack(), 100.0)
    assert (lease.address, lease.prefix_length, lease.server) == ("10.0.0.5", 24, "10.0.0.1")
    assert (lease.renew_at, lease.rebind_at, lease.until) == (600.0, 975.0, 1100.0)
    assert Lease.of(ack(_58=struct.pack("!I", 10), _59=struct.pack("!I", 20)), 0.0).rebind_at == 20.0
    assert Lease.of(ack(_58=struct.pack("!I", 30), _59=struct.pack("!I", 20)), 0.0).renew_at == 500.0
    assert Lease.of(ack(_51=b"\xff" * 4), 0.0).until == float("inf")


@pytest.mark.parametrize("address", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "127.0.0.1"])
def test_an_address_no_host_can_have_is_no_lease(address):
    m = ack()
    m.yiaddr = address
    with pytest.raises(ValueError):
        Lease.of(m, 0.0)


def test_a_lease_without_a_server_or_with_a_mask_that_is_none_is_refused():
    m = ack()
    del m.options[SERVER_ID]
    with pytest.raises(ValueError):
        Lease.of(m, 0.0)
    with pytest.raises(ValueError):
        Lease.of(ack(_1=bytes([255, 0, 255, 0])), 0.0)
    assert {ROUTER, T1, T2, REQUEST}                     # numbers a server may leave out
    assert Lease.of(ack(), 0.0).gateway is None
