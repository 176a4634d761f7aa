"""Anything in place of a DHCP server's answer, of both versions: it is read, or refused, and never believed."""

import ipaddress
import random

import pytest

from netstack.dhcp import ACK, BROADCAST_ADDRESS, DNS, DOMAIN, KIND, LEASE, MASK, MTU, ROUTER, SERVER_ID, T1, T2, Lease
from netstack.dhcp import Message as Message4
from netstack.dhcp6 import CLIENT_ID, DNS_SERVERS, DOMAINS, MAX_RT, REFRESH, REPLY, STATUS, Inquiry
from netstack.dhcp6 import SERVER_ID as SERVER_ID6
from netstack.dhcp6 import Message as Message6
from netstack.wire.domain_names import write_name

MAC = bytes.fromhex("020000000001")
COUNT = 200_000
EDGES = (0, 1, 2, 3, 4, 6, 15, 16, 17, 51, 52, 53, 54, 63, 64, 127, 128, 192, 254, 255)


def damage(rng, raw):
    """A few bytes changed, taken out, put in or moved; often only in the options."""
    raw = bytearray(raw)
    for _ in range(rng.choice((0, 1, 1, 2, 4, 8))):
        at = rng.randrange(rng.choice((0, 236 if len(raw) > 236 else 0)), len(raw)) if raw else 0
        kind = rng.randrange(6)
        if kind == 0 and raw:
            raw[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and raw:
            raw[at] = rng.choice(EDGES)
        elif kind == 2:
            del raw[at:at + rng.randrange(1, 9)]
        elif kind == 3:
            raw[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 4:
            raw[at:at] = raw[at:at + rng.randrange(1, 40)]
        else:
            del raw[at:]
    return bytes(raw)


def acknowledgement(rng):
    options = {KIND: bytes([ACK]), SERVER_ID: bytes([10, 0, 0, 1]), LEASE: rng.randbytes(4), MASK: b"\xff\xff\xff\0",
               ROUTER: bytes([10, 0, 0, 1]), DNS: bytes([10, 0, 0, 1, 10, 0, 0, 2]), DOMAIN: b"lan.example",
               MTU: rng.randbytes(2), T1: rng.randbytes(4), T2: rng.randbytes(4), BROADCAST_ADDRESS: b"\x0a\0\0\xff"}
    chosen = {k: v for k, v in options.items() if rng.random() < 0.9}
    return Message4(2, 7, MAC, yiaddr="10.0.0.9", options=chosen)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_answers_of_dhcp_give_a_lease_or_none(seed, scale):
    rng = random.Random(f"dhcp {seed}")
    granted = 0
    for _ in range(scale(COUNT)):
        raw = damage(rng, acknowledgement(rng).build())
        try:
            message = Message4.parse(raw)
            lease = Lease.of(message, 1000.0)
        except ValueError:
            continue
        granted += 1
        address = ipaddress.IPv4Address(lease.address)
        assert not (address.is_multicast or address.is_loopback or address.is_unspecified)
        assert 0 <= lease.prefix_length <= 32 and (lease.mtu is None or 576 <= lease.mtu < 65536)
        assert 1000.0 < lease.renew_at < lease.rebind_at < lease.until or lease.until == float("inf")
        assert all(ipaddress.IPv4Address(a) for a in (*lease.servers, lease.server))
    assert granted > scale(COUNT) // 10


def reply(rng, inquiry, xid):
    names = rng.sample(("lan.example", "x", "a.b.c", "q-_9.test"), 2)
    options = {CLIENT_ID: inquiry.duid, SERVER_ID6: rng.randbytes(rng.randrange(1, 20)),
               DNS_SERVERS: rng.randbytes(16 * rng.randrange(4)), REFRESH: rng.randbytes(4), MAX_RT: rng.randbytes(4),
               DOMAINS: b"".join(map(write_name, names))}
    if rng.random() < 0.2:
        options[STATUS] = rng.randbytes(rng.randrange(6))
    return Message6(REPLY, xid, {k: v for k, v in options.items() if rng.random() < 0.95})


@pytest.mark.parametrize("seed", range(4))
def test_damaged_answers_of_dhcpv6_say_something_sound_or_nothing(seed, scale):
    rng = random.Random(f"dhcpv6 {seed}")
    believed = 0
    for _ in range(scale(COUNT)):
        inquiry = Inquiry(MAC, rng.getrandbits(32))
        inquiry.begin(0.0)
        request = inquiry.next_request(2.0)
        assert request is not None
        xid = Message6.parse(request).xid
        if not inquiry.heard(damage(rng, reply(rng, inquiry, xid).build()), 2.5):
            assert inquiry.information is None and inquiry.due is not None
            continue
        believed += 1
        said = inquiry.information
        assert said is not None and inquiry.due is None and said.server and said.refresh_at >= 602.5
        assert not any(ipaddress.IPv6Address(a).is_multicast for a in said.servers)
        assert all(name.isascii() and len(name) < 255 and " " not in name for name in said.search)
    assert believed > scale(COUNT) // 10
