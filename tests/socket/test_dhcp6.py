"""DHCPv6 without addresses: what is asked when and what is believed, on virtual time (RFC 8415)."""

import ipaddress
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp6 import DHCP6_InfoRequest, DHCP6OptClientId, DHCP6OptElapsedTime, DHCP6OptOptReq
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6NDOptDNSSL,
    ICMPv6NDOptRDNSS,
    IPv6,
)
from scapy.packet import Raw

from netstack.dhcp6 import (
    ALL_SERVERS,
    CLIENT,
    CLIENT_ID,
    DNS_SERVERS,
    DOMAINS,
    ELAPSED,
    INFORMATION_REQUEST,
    REPLY,
    SERVER,
    SERVER_ID,
    STATUS,
    Inquiry,
    Message,
)
from netstack.wire.domain_names import read_names, write_name
from tests.ip.nd_rig import ROUTER, ROUTER_MAC, Link

MAC = bytes.fromhex("020000000001")
SERVER_DUID = b"\0\3\0\1\2\0\0\0\0\x99"


def packed(*addresses):
    return b"".join(ipaddress.IPv6Address(a).packed for a in addresses)


def reply(request, **changes):
    """The answer of a server that knows two name servers and a domain; options by number, None takes one away."""
    asked = Message.parse(request)
    options = {CLIENT_ID: asked.options[CLIENT_ID], SERVER_ID: SERVER_DUID,
               DNS_SERVERS: packed("2001:db8::53", "2001:db8::54"), DOMAINS: write_name("lan.example")}
    options.update({int(k[1:]): v for k, v in changes.items() if k.startswith("_")})
    return Message(changes.get("kind", REPLY), changes.get("xid", asked.xid),
                   {k: v for k, v in options.items() if v is not None}).build()


def asking(seed=1, now=100.0):
    """An inquiry whose first request went out, that request, and when."""
    inquiry = Inquiry(MAC, seed)
    assert inquiry.next_request(now) is None and inquiry.look(now, False) == float("inf")
    now = inquiry.look(now, True)
    request = inquiry.next_request(now)
    assert request is not None
    return inquiry, request, now


# ---- messages ---------------------------------------------------------------------------------


@given(st.integers(0, 255), st.integers(0, (1 << 24) - 1),
       st.dictionaries(st.integers(0, 65535), st.binary(max_size=40)))
def test_what_is_built_is_read_back(kind, xid, options):
    m = Message(kind, xid, options)
    assert Message.parse(m.build()) == m


def test_scapy_reads_our_request():
    _, request, _ = asking()
    m = DHCP6_InfoRequest(request)
    assert m.msgtype == INFORMATION_REQUEST and m[DHCP6OptElapsedTime].elapsedtime == 0
    assert m[DHCP6OptClientId].duid.lladdr == "02:00:00:00:00:01"
    assert m[DHCP6OptOptReq].reqopts == [23, 24, 32, 83]


@pytest.mark.parametrize("raw", [b"", b"\7\0\0", b"\7\0\0\1\0", b"\7\0\0\1\0\x17\0\x11" + bytes(16)])
def test_what_is_cut_short_is_no_message(raw):
    with pytest.raises(ValueError):
        Message.parse(raw)


@given(st.lists(st.from_regex(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,20}){0,4}", fullmatch=True), max_size=4))
def test_names_are_read_as_they_are_written(names):
    assert read_names(b"".join(map(write_name, names))) == names


@pytest.mark.parametrize("wire", [b"\3lan", b"\x40" + bytes(64), b"\xc0\0", b"\1a" * 127 + b"\1a\0", b"\4lan\0"])
def test_names_that_do_not_end_are_refused(wire):
    with pytest.raises(ValueError):
        read_names(wire)
    inquiry, request, now = asking()
    assert inquiry.heard(reply(request, _24=wire), now)
    assert inquiry.information.search == () and len(inquiry.information.servers) == 2


def test_names_no_host_can_have_are_passed_over():
    assert read_names(b"\3a b\0" + write_name("lan.example") + b"\3a.b\0\0\0") == ["lan.example"]


# ---- what is asked when -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_requests_come_with_a_first_delay_and_pauses_that_double(seed):
    """RFC 8415 sections 15 and 18.2.6: at most a second, then 1 s, 2 s, ... an hour, ten percent to and fro."""
    inquiry, first, now = asking(seed)
    assert 100 <= now <= 101
    began, pause = now, 0.0
    for count in range(16):
        assert inquiry.next_request(inquiry.due - 0.001) is None
        wait = inquiry.due - now
        expected = 2 * pause if pause else 1.0
        if expected * 1.1 < 3600:
            assert expected * 0.9 - 0.1 * pause <= wait <= expected * 1.1 + 0.1 * pause
        assert wait <= 3960
        now, pause = inquiry.due, wait
        request = inquiry.next_request(now)
        m = Message.parse(request)
        assert m.xid == Message.parse(first).xid
        assert m.options[ELAPSED] == struct.pack("!H", min(int((now - began) * 100), 0xFFFF)), count
    assert 3240 <= pause <= 3960


def test_an_answer_ends_the_questions_until_it_grows_old():
    inquiry, request, now = asking()
    assert inquiry.heard(reply(request, _32=struct.pack("!I", 1200)), now)
    assert inquiry.information.servers == ("2001:db8::53", "2001:db8::54")
    assert inquiry.information.search == ("lan.example",) and inquiry.information.server == SERVER_DUID
    assert inquiry.next_request(now + 1000) is None
    assert inquiry.look(now + 1000, True) == now + 1200
    assert inquiry.look(now + 1300, False) == float("inf")   # no router says so any more: what is known stays
    due = inquiry.look(now + 1300, True)
    assert now + 1300 <= due <= now + 1301
    again = Message.parse(inquiry.next_request(due))
    assert again.xid != Message.parse(request).xid and inquiry.information.servers


@pytest.mark.parametrize("option, lasting", [(None, 86400), (b"\0\0\0\1", 600), (b"\0\0\x10\0", 4096),
                                             (b"\xff" * 4, float("inf")), (b"\1", 86400)])
def test_how_long_an_answer_lasts(option, lasting):
    """RFC 8415 section 21.23: a day unless it says, ten minutes at least."""
    inquiry, request, now = asking()
    assert inquiry.heard(reply(request, _32=option), now)
    assert inquiry.information.refresh_at == now + lasting


def test_a_server_may_bound_the_pauses():
    """RFC 8415 section 21.25, from 60 to 86,400 s."""
    inquiry, request, now = asking()
    refused = {f"_{STATUS}": b"\0\1"}
    assert not inquiry.heard(reply(request, **refused, _83=struct.pack("!I", 60)), now)
    assert not inquiry.heard(reply(request, **refused, _83=struct.pack("!I", 59)), now)
    for _ in range(12):
        now = inquiry.due
        inquiry.next_request(now)
    assert 54 <= inquiry.due - now <= 66


# ---- what is believed -------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [
    {"kind": 2}, {"kind": INFORMATION_REQUEST}, {"xid": 1}, {"_1": None}, {"_1": b"\0\3\0\1\2\0\0\0\0\2"}, {"_2": None},
    {"_2": b""}, {"_13": b"\0\1no"}])
def test_an_answer_that_fails_a_check_is_not_believed(changes):
    """RFC 8415 section 16.10."""
    inquiry, request, now = asking()
    assert not inquiry.heard(reply(request, **changes), now) and inquiry.information is None
    assert inquiry.heard(reply(request), now)


def test_nobody_is_believed_who_was_not_asked():
    inquiry, request, now = asking()
    answer = reply(request)
    assert inquiry.heard(answer, now) and not inquiry.heard(answer, now)
    fresh = Inquiry(MAC, 1)
    fresh.begin(0.0)
    assert not fresh.heard(answer, 0.0)


def test_servers_that_can_be_none_are_left_out():
    inquiry, request, now = asking()
    assert inquiry.heard(reply(request, _23=packed("ff02::1", "::", "fe80::53")), now)
    assert inquiry.information.servers == ("fe80::53",)
    inquiry, request, now = asking()
    assert inquiry.heard(reply(request, _23=bytes(17)), now) and inquiry.information.servers == ()


# ---- on a stack in virtual time ---------------------------------------------------------------


def advertisement(options=None, **flags):
    packet = IPv6(src=ROUTER, dst="ff02::1", hlim=255) / ICMPv6ND_RA(routerlifetime=1800, **flags)
    return packet / options if options else packet


def test_a_router_says_whether_there_is_more_to_ask():
    link = Link(accept_ra=1)
    assert not link.stack.other_configuration
    for flags, said in (({"O": 1}, True), ({"O": 0}, False), ({"M": 1}, True), ({}, False)):
        link.give(advertisement(**flags), src=ROUTER_MAC)
        assert link.stack.other_configuration is said
    deaf = Link(accept_ra=0)
    deaf.give(advertisement(O=1), src=ROUTER_MAC)
    assert not deaf.stack.other_configuration


def test_a_request_and_its_answer_cross_the_link():
    link = Link(accept_ra=1)
    link.give(advertisement(O=1), src=ROUTER_MAC)
    inquiry = Inquiry(MAC, 1)
    s = link.stack.socket("dgram", family=10)
    s.bind(("::", CLIENT))
    now = inquiry.look(link.now / 1e9, link.stack.other_configuration)
    link.run(now - link.now / 1e9 + 0.001)
    request = inquiry.next_request(link.now / 1e9)
    link.take()
    s.sendto(request, (ALL_SERVERS, SERVER, 0, 1))
    frame, = link.take()
    assert frame.dst == "33:33:00:01:00:02" and frame[IPv6].src.startswith("fe80:") and frame[UDP].sport == CLIENT
    answer = IPv6(src=ROUTER, dst=frame[IPv6].src) / UDP(sport=SERVER, dport=CLIENT) / Raw(reply(request))
    link.give(answer, src=ROUTER_MAC)
    assert inquiry.heard(s.recv(2048), link.now / 1e9)
    assert inquiry.information.servers == ("2001:db8::53", "2001:db8::54")


def test_domains_and_servers_of_advertisements_come_and_go():
    """RFC 8106 sections 5.1 and 5.2."""
    link = Link(accept_ra=1)
    domains = ICMPv6NDOptDNSSL(searchlist=["lan.example.", "x.test."], lifetime=100)
    servers = ICMPv6NDOptRDNSS(dns=["2001:db8::53"], lifetime=50)
    link.give(advertisement(domains / servers), src=ROUTER_MAC)
    assert link.stack.search_domains == ["lan.example", "x.test"] and link.stack.name_servers == ["2001:db8::53"]
    link.run(60)
    assert link.stack.search_domains == ["lan.example", "x.test"] and link.stack.name_servers == []
    link.give(advertisement(ICMPv6NDOptDNSSL(searchlist=["x.test."], lifetime=0)), src=ROUTER_MAC)
    assert link.stack.search_domains == ["lan.example"]
    restored = type(link.stack).restore(link.stack.snapshot(), link.now)
    assert restored.search_domains == ["lan.example"] and restored.snapshot() == link.stack.snapshot()
    link.run(60)
    assert link.stack.search_domains == []


@pytest.mark.parametrize("names", [b"\3lan", b"\x41" + bytes(71), b"\xc0\x0c", bytes(8), b"\7example\6tested"])
def test_a_domain_option_that_is_none_says_nothing(names):
    names += bytes(-len(names) % 8) if names[-1:] == b"\0" else b"\x3f" * (-len(names) % 8)
    link = Link(accept_ra=1)
    option = bytes([31, 1 + len(names) // 8, 0, 0, 0, 0, 0, 100]) + names
    link.give(advertisement(Raw(option)), src=ROUTER_MAC)
    assert link.stack.search_domains == []


@pytest.mark.parametrize("seed", range(4))
def test_more_domains_than_are_kept_change_nothing(seed):
    rng = random.Random(seed)
    link = Link(accept_ra=1)
    names = [f"{rng.getrandbits(32):x}.example" for _ in range(9)]
    wire = b"".join(map(write_name, names))
    wire += bytes(-len(wire) % 8)
    link.give(advertisement(Raw(bytes([31, 1 + len(wire) // 8, 0, 0, 0, 0, 0, 100]) + wire)), src=ROUTER_MAC)
    assert link.stack.search_domains == names[:6]


