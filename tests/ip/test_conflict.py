"""Addresses are tried before they are used, when asked for (RFC 5227): probes, a conflict, announcements."""

import pytest
from scapy.layers.l2 import ARP, Ether

from netstack.stack import Stack
from tests.ip.fragments import S

US, OURS, THEIRS = "10.0.0.1", "02:00:00:00:00:01", "02:00:00:00:00:99"


def trying(**options):
    stack = Stack(addresses=US + "/24", media="ethernet", mac=OURS, acd=True, seed=7, **options)
    stack.advance(S)
    return stack


def arps(stack):
    """(time, sender, target) of the ARP requests sent."""
    out = []
    while (item := stack.pop_output()) is not None:
        frame = Ether(item[0])
        assert frame.dst == "ff:ff:ff:ff:ff:ff" and frame[ARP].op == 1 and frame[ARP].hwsrc == OURS
        out.append((item[1], frame[ARP].psrc, frame[ARP].pdst))
    return out


def run(stack, until):
    while (t := stack.next_deadline()) is not None and t <= until:
        stack.advance(t)


def test_three_probes_and_two_announcements_at_the_distances_of_the_rfc():
    stack = trying()
    assert stack.addresses == [] and stack.address_trials() == {US: ("probing", None)}
    run(stack, 60 * S)
    said = arps(stack)
    assert [(a, b) for _, a, b in said] == [("0.0.0.0", US)] * 3 + [(US, US)] * 2
    times = [t for t, _, _ in said]
    assert 0 < times[0] <= S
    assert all(S <= b - a <= 2 * S for a, b in zip(times[:2], times[1:3], strict=True))
    assert [b - a for a, b in zip(times[2:], times[3:], strict=False)] == [2 * S, 2 * S]
    assert stack.addresses == [US] and stack.address_trials() == {US: ("ready", None)}
    assert stack.next_deadline() is None


def test_the_waits_are_random():
    first = set()
    for seed in range(10):
        stack = Stack(addresses=US + "/24", media="ethernet", mac=OURS, acd=True, seed=seed)
        stack.advance(S)
        run(stack, 10 * S)
        first.add(arps(stack)[0][0])
    assert len(first) > 5


@pytest.mark.parametrize("sign", ["it answers", "it speaks", "it probes too", "it announces"])
@pytest.mark.parametrize("when", [1, 2, 3])
def test_an_address_that_somebody_has_is_never_used(sign, when):
    stack = trying()
    while len(arps(stack)) < 1 or (when := when - 1):
        stack.advance(stack.next_deadline())
    frame = {"it answers": ARP(op=2, hwsrc=THEIRS, psrc=US, hwdst=OURS, pdst="0.0.0.0"),
             "it speaks": ARP(op=1, hwsrc=THEIRS, psrc=US, pdst="10.0.0.9"),
             "it probes too": ARP(op=1, hwsrc=THEIRS, psrc="0.0.0.0", pdst=US),
             "it announces": ARP(op=1, hwsrc=THEIRS, psrc=US, pdst=US)}[sign]
    stack.input(bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src=THEIRS) / frame), stack.now_ns)
    assert stack.address_trials() == {US: ("conflict", THEIRS)} and stack.counters()["address_conflicts"] == 1
    run(stack, 100 * S)
    assert arps(stack) == [] and stack.addresses == [] and stack.next_deadline() is None


def test_what_others_say_of_other_addresses_is_no_conflict():
    stack = trying()
    for frame in (ARP(op=1, hwsrc=THEIRS, psrc="10.0.0.9", pdst=US),
                  ARP(op=1, hwsrc=THEIRS, psrc="0.0.0.0", pdst="10.0.0.8"),
                  ARP(op=1, hwsrc=OURS, psrc="0.0.0.0", pdst=US)):
        stack.input(bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src=THEIRS) / frame), stack.now_ns)
    run(stack, 60 * S)
    assert stack.addresses == [US]


def test_h3_an_address_in_use_is_defended_once_in_ten_seconds():
    stack = trying()
    run(stack, 60 * S)
    arps(stack)
    claim = bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src=THEIRS) / ARP(op=1, hwsrc=THEIRS, psrc=US, pdst=US))
    for k in range(30):
        stack.input(claim, 60 * S + k * S)
    assert [t - 60 * S for t, _, _ in arps(stack)] == [0, 10 * S, 20 * S]
    assert stack.counters()["address_conflicts"] == 30 and stack.addresses == [US]


def test_nothing_is_taken_or_sent_before_the_trial_is_over():
    stack = trying()
    arps(stack)
    sock = stack.socket("dgram")
    with pytest.raises(OSError):
        sock.bind((US, 9))
    question = ARP(op=1, hwsrc=THEIRS, psrc="10.0.0.9", pdst=US)
    stack.input(bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src=THEIRS) / question), S)
    assert arps(stack) == []


def test_a_snapshot_goes_on_with_the_trial():
    stack = trying()
    stack.advance(3 * S)
    arps(stack)
    copy = Stack.restore(stack.snapshot(), 103 * S)
    run(stack, 60 * S)
    run(copy, 160 * S)
    assert [(t - 100 * S, a, b) for t, a, b in arps(copy)] == arps(stack)
    assert copy.addresses == [US]


def test_on_ip_media_nobody_needs_to_be_asked():
    stack = Stack(addresses=US + "/24", acd=True, seed=1)
    assert stack.addresses == [US] and stack.next_deadline() is None


def test_addresses_come_and_go_with_their_routes():
    stack = Stack(addresses=US + "/24", media="ethernet", mac=OURS, seed=1)
    stack.advance(S)
    stack.add_address("10.7.0.5/24", "10.7.0.1")
    assert arps(stack) == [(S, "10.7.0.5", "10.7.0.5")]
    sock = stack.socket("dgram")
    sock.connect(("192.0.2.1", 9))
    assert sock.getsockname()[0] == US                   # the first address of the interface
    sock.close()
    stack.remove_address("10.7.0.5")
    with pytest.raises(OSError):
        stack.socket("dgram").connect(("192.0.2.1", 9))
    with pytest.raises(OSError):
        stack.remove_address("10.7.0.5")
    with pytest.raises(OSError):
        stack.add_address(US + "/24")
