"""Addresses on trial, made from prefixes, and outlived; listener reports (RFC 4862, 7217, 7527, 3810)."""

import ipaddress

import pytest
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLDone,
    ICMPv6MLQuery,
    ICMPv6MLQuery2,
    ICMPv6MLReport,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)

from tests.ip.nd_rig import EVIL_MAC, ROUTER_MAC, US, Link, S, advertisement, solicitation, solicited_node
from tests.ip.test_ndp import advertisement_of_router, prefix


def probes(frames, target=US):
    return [f for f in frames if ICMPv6ND_NS in f and f[ICMPv6ND_NS].tgt == target]


def nonce(frame):
    data = bytes(frame[ICMPv6ND_NS])
    assert data[24:26] == b"\x0e\x01"
    return data[26:32]


# ---- duplicate address detection -----------------------------------------------------------------------


def test_an_address_is_asked_for_by_nobody_before_it_is_ours_and_announced_then():
    link = Link(settle=False)
    assert US in link.stack.tentative and link.stack.addresses == []
    link.run(4)
    sent = link.take()
    asked, = probes(sent)
    assert (asked[IPv6].src, asked[IPv6].dst, asked[IPv6].hlim) == ("::", solicited_node(US), 255)
    assert len(nonce(asked)) == 6
    na, = [f for f in sent if ICMPv6ND_NA in f and f[ICMPv6ND_NA].tgt == US]
    assert (na[IPv6].dst, na[ICMPv6ND_NA].S, na[ICMPv6ND_NA].O) == ("ff02::1", 0, 1)
    times = dict(zip((id(f) for f in sent), link.times, strict=True))
    assert times[id(na)] - times[id(asked)] == S         # RETRANS_TIMER
    assert link.stack.tentative == [] and US in link.stack.addresses


def test_an_address_on_trial_hears_nothing_and_says_nothing():
    link = Link(settle=False)
    link.run(0.01)
    link.take()
    s = link.stack.socket("dgram", family=10)
    with pytest.raises(OSError, match="assign"):
        s.bind((US, 9))
    assert link.give(IPv6(src="fd00::2", dst=US) / ICMPv6EchoRequest()) == []
    assert link.give(solicitation()) == []
    with pytest.raises(OSError, match="[Aa]ssign|unreachable"):
        s.sendto(b"x", ("fd00::2", 9))


@pytest.mark.parametrize("claim", ["advertisement", "solicitation"])
def test_an_address_that_another_station_has_or_tries_is_given_up(claim):
    link = Link(settle=False)
    while not probes(link.take()):
        link.run(0.1)
    if claim == "advertisement":
        link.give(advertisement(US, EVIL_MAC, dst="ff02::1", S=0), src=EVIL_MAC)
    else:
        link.give(solicitation(US, src="::", mac=None), src=EVIL_MAC)
    link.run(100)
    assert US not in link.stack.addresses and US not in link.stack.tentative
    assert link.stack.counters()["nd_conflicts"] == 1
    assert any(a.startswith("fe80") for a in link.stack.addresses)


def test_our_own_probe_that_comes_back_is_no_duplicate():
    link = Link(settle=False)
    link.run(1.1)
    for frame in link.take():
        link.stack.input(bytes(frame), link.now)         # a link that loops groups back
    link.run(4)
    assert US in link.stack.addresses and link.stack.counters()["nd_conflicts"] == 0


def test_h3_a_taken_link_local_address_is_followed_by_two_others_at_most_one_a_second():
    link = Link((), settle=False, accept_ra=1)
    seen = []
    for _ in range(200):
        link.run(0.1)
        for frame in link.take():
            if ICMPv6ND_NS in frame and frame[IPv6].src == "::":
                target = frame[ICMPv6ND_NS].tgt
                seen.append((target, link.now))
                link.give(advertisement(target, EVIL_MAC, dst="ff02::1", S=0), src=EVIL_MAC)
    assert len(seen) == len({target for target, _ in seen}) == 3
    assert all(b - a >= S for (_, a), (_, b) in zip(seen, seen[1:], strict=False))
    assert link.stack.addresses == [] and link.stack.counters()["nd_conflicts"] == 3


def test_more_probes_or_none_as_the_settings_say():
    link = Link(settle=False, dad_transmits=3)
    link.run(6)
    assert len(probes(link.take())) == 3
    for setting in ({"dad_transmits": 0}, {"accept_dad": 0}):
        link = Link(settle=False, **setting)
        link.run(0.01)
        assert probes(link.take()) == [] and US in link.stack.addresses


# ---- addresses from prefixes -----------------------------------------------------------------------------


def made(link, text="2001:db8::/64"):
    return [a for a in link.stack.addresses if "%" not in a and ipaddress.IPv6Address(a) in ipaddress.IPv6Network(text)]


def heard(link, *options):
    packet = advertisement_of_router()
    for option in options:
        packet = packet / option
    link.give(packet, src=ROUTER_MAC)
    link.run(3)
    link.take()
    return link


def test_an_address_is_made_from_a_prefix_and_is_the_same_each_time():
    one, again, other = (heard(Link(accept_ra=1, seed=seed), prefix(A=1)) for seed in (1, 1, 2))
    assert len(made(one)) == 1 and made(one) == made(again) != made(other)
    host = ipaddress.IPv6Address(made(one)[0]).packed[8:]
    assert host[3:5] != b"\xff\xfe", "not made of the MAC (RFC 7217)"
    second = heard(one, prefix("2001:db8:1::", A=1))
    assert ipaddress.IPv6Address(made(second, "2001:db8:1::/64")[0]).packed[8:] != host, "another id in each prefix"


def test_a_secret_of_its_own_makes_addresses_that_outlive_the_stack():
    one, two = (heard(Link(accept_ra=1, seed=seed, stable_secret="2001:db8::5ec"), prefix(A=1)) for seed in (1, 2))
    assert made(one) == made(two)


@pytest.mark.parametrize("option", [
    prefix(A=0), prefix(A=1, length=63), prefix(A=1, length=65), prefix(A=1, valid=0), prefix("fe80::", A=1),
    prefix("ff02::", A=1), prefix(A=1, valid=100, preferred=101),
])
def test_no_address_is_made_from_such_a_prefix(option):
    link = heard(Link(accept_ra=1), option)
    assert [a for a in link.stack.addresses if "%" not in a] == [US]


def test_no_address_is_made_where_autoconf_is_off():
    assert made(heard(Link(accept_ra=1, autoconf=0), prefix(A=1))) == []


def test_an_address_is_deprecated_and_then_gone():
    link = heard(Link(accept_ra=1), prefix(A=1, valid=100, preferred=50),
                 prefix("2001:db8:1::", A=1, valid=9000, preferred=9000))
    old, new = made(link)[0], made(link, "2001:db8:1::/64")[0]
    assert link.stack.source_address("2001:db8::7") == old
    link.run(60)
    assert link.stack.source_address("2001:db8::7") == new
    assert old in link.stack.addresses
    link.run(50)
    assert old not in link.stack.addresses


def test_a_forged_advertisement_takes_an_address_away_in_two_hours_at_the_earliest():
    link = heard(Link(accept_ra=1), prefix(A=1, valid=100000, preferred=100000))
    heard(link, prefix(A=1, valid=1, preferred=1))
    link.run(7190)
    assert len(made(link)) == 1
    link.run(20)
    assert made(link) == []
    link = heard(Link(accept_ra=1), prefix(A=1, valid=600, preferred=600))
    heard(link, prefix(A=1, valid=1, preferred=1))       # less than two hours were left: they stay
    link.run(500)
    assert len(made(link)) == 1
    link.run(100)
    assert made(link) == []


def test_an_address_made_from_a_prefix_that_is_taken_is_made_anew():
    link = Link(accept_ra=1)
    link.give(advertisement_of_router() / prefix(A=1), src=ROUTER_MAC)
    asked: list = []
    while not asked:
        link.run(0.1)
        asked = [f for f in link.take() if ICMPv6ND_NS in f]
    first = asked[0][ICMPv6ND_NS].tgt
    link.give(advertisement(first, EVIL_MAC, dst="ff02::1", S=0), src=EVIL_MAC)
    link.run(4)
    assert len(made(link)) == 1 and made(link) != [first]


# ---- listeners ----------------------------------------------------------------------------------------


def records(frames):
    """(type, group) of every record of every report."""
    out = []
    for frame in frames:
        if ICMPv6MLReport2 in frame:
            assert frame[IPv6].hlim == 1 and frame[IPv6].dst == "ff02::16"
            assert any(isinstance(o, RouterAlert) for o in frame[IPv6ExtHdrHopByHop].options)
            data = bytes(frame[ICMPv6MLReport2])
            for i in range(int.from_bytes(data[6:8], "big")):       # 20 bytes each: scapy nests all but the first
                record = data[8 + 20 * i:28 + 20 * i]
                out.append((record[0], str(ipaddress.IPv6Address(record[4:20]))))
    return out


def query(group="::", delay=1000, src="fe80::99", hlim=1, alert=True, old=False):
    message = ICMPv6MLQuery(mladdr=group, mrd=delay) if old else ICMPv6MLQuery2(mladdr=group, mrd=delay)
    dst = "ff02::1" if group == "::" else group
    if alert:
        message = IPv6ExtHdrHopByHop(options=[RouterAlert()]) / message
    return IPv6(src=src, dst=dst, hlim=hlim) / message


GROUP = "ff02::1234"


def joined(link, group=GROUP, port=7000):
    s = link.stack.socket("dgram", family=10)
    s.bind(("::", port))
    s.setsockopt(41, 20, ipaddress.IPv6Address(group).packed + (1).to_bytes(4, "little"))
    return s


def test_the_groups_of_our_addresses_are_reported_before_the_addresses_are_tried():
    link = Link(settle=False)
    link.run(4)
    sent = link.take()
    first = next(i for i, f in enumerate(sent) if ICMPv6MLReport2 in f)
    assert first < sent.index(probes(sent)[0])
    assert sent[first][IPv6].src == "::"                 # RFC 3590
    assert (4, solicited_node(US)) in [(t, str(ipaddress.IPv6Address(g))) for t, g in records(sent)]


def test_joining_and_leaving_are_reported_twice():
    link = Link()
    s = joined(link)
    link.run(3)
    assert records(link.take()) == [(4, GROUP)] * 2
    s.close()
    link.run(3)
    assert records(link.take()) == [(3, GROUP)] * 2


def test_a_group_is_heard_from_joining_to_leaving():
    from scapy.layers.inet import UDP

    link = Link()
    packet = IPv6(src="fd00::2", dst=GROUP) / UDP(sport=9, dport=7000) / b"news"
    link.dropped(packet, "ip_destination")
    s = joined(link)
    link.take()
    link.give(packet)
    assert s.recvfrom(10) == (b"news", ("fd00::2", 9, 0, 0))
    other = joined(link, "ff02::4321", 7001)
    other.close()
    link.give(packet)
    assert s.recv(10) == b"news"
    s.setsockopt(41, 21, ipaddress.IPv6Address(GROUP).packed + (1).to_bytes(4, "little"))
    link.run(3)
    link.take()
    link.dropped(packet, "ip_destination")
    for level in (20, 21):
        with pytest.raises(OSError, match="."):
            s.setsockopt(41, level, ipaddress.IPv6Address(US).packed + bytes(4))


def test_what_is_sent_to_a_group_is_heard_by_those_here_unless_the_sender_says_no():
    link = Link()
    s = joined(link)
    link.run(3)
    link.take()
    sender = link.stack.socket("dgram", family=10)
    sender.setsockopt(41, 18, 5)
    sender.sendto(b"all", (GROUP, 7000))
    frame, = link.take()
    assert frame[IPv6].hlim == 5
    assert s.recv(10) == b"all"
    sender.setsockopt(41, 19, 0)
    sender.sendto(b"others", (GROUP, 7000))
    with pytest.raises(BlockingIOError):
        s.recv(10)


def test_queries_are_answered_within_the_time_they_give():
    link = Link()
    joined(link)
    link.run(5)
    link.take()
    assert link.give(query()) == []
    link.run(1.01)
    answered = records(link.take())
    assert (2, GROUP) in answered and len(answered) == 3     # ours: the address's group and the link-local one's
    link.give(query(GROUP))
    link.run(1.01)
    assert records(link.take()) == [(2, GROUP)]
    link.give(query("ff02::9999"), dst="33:33:00:00:99:99")
    link.run(10)
    assert records(link.take()) == []


@pytest.mark.parametrize("packet", [query(src="fd00::99"), query(hlim=2), query(alert=False)])
def test_a_query_that_fails_a_check_is_dropped(packet):
    Link().dropped(packet, "mld_invalid")


def test_an_old_querier_gets_old_reports():
    link = Link()
    s = joined(link)
    link.run(5)
    link.take()
    link.give(query(old=True))
    link.run(1.01)
    sent = link.take()
    groups = {f[IPv6].dst for f in sent}
    assert {f[ICMPv6MLReport].mladdr for f in sent} == groups and GROUP in groups
    s.close()
    link.run(2)
    done, = link.take()
    assert done[ICMPv6MLDone].mladdr == GROUP and done[IPv6].dst == "ff02::2"
    link.run(261)
    joined(link)
    link.run(2)
    assert records(link.take()) == [(4, GROUP)] * 2


