"""The in-process wire: order, split, capacity, closing."""

import pytest

from netstack.link import Wire
from netstack.testing import LinkDriver


def pair(**kw):
    a, b = Wire(**kw)
    return LinkDriver(a), LinkDriver(b)


def test_frames_arrive_in_order_both_ways():
    a, b = pair()
    for i in range(200):
        assert a.send(b"to b %d" % i) and b.send(b"to a %d" % i)
    assert b.receive(1000) == [b"to b %d" % i for i in range(200)]
    assert a.receive(1000) == [b"to a %d" % i for i in range(200)]
    assert a.receive() == b.receive() == []


def test_unflushed_frames_stay_invisible():
    a, b = pair()
    a.write(b"one")
    assert not b.has_input() and b.receive() == []
    a.flush()
    a.write(b"two")
    assert b.has_input() and b.arm()
    assert b.receive() == [b"one"]
    assert not b.arm()
    a.flush()
    assert b.receive() == [b"two"]


def test_head_and_body_keep_their_split():
    a, b = pair(mtu=9000)
    a.send(b"h" * 40 + b"b" * 8960, head=40)
    a.send(b"h" * 40, head=40)
    assert b.receive_split() == [(b"h" * 40, b"b" * 8960), (b"h" * 40, b"")]


def test_a_full_wire_refuses_and_takes_again():
    a, b = pair(capacity=3000)
    assert a.send(bytes(1500)) and a.send(bytes(1500))
    assert not a.send(b"x") and a.link.refused == 1
    assert len(b.receive(1)) == 1
    assert a.send(bytes(1500)) and not a.send(b"x")
    c, d = pair(frames=2)
    assert c.send(b"1") and c.send(b"2") and not c.send(b"3")
    assert d.receive() == [b"1", b"2"]


def test_a_claim_that_is_not_committed_leaves_nothing():
    a, b = pair()
    assert a.claim(100) and a.claim(40, 60)
    a.flush()
    assert b.receive() == []
    assert a.send(b"after")
    assert b.receive() == [b"after"]


def test_closing_one_end_kills_both_and_keeps_what_is_under_way():
    a, b = pair()
    a.send(b"last words")
    a.link.close()
    assert a.dead and b.dead
    assert b.receive() == [b"last words"]
    assert not b.send(b"too late")


def test_an_end_may_outlive_its_peer():
    a, b = pair()
    a.send(b"x" * 100)
    del a
    assert b.receive() == [b"x" * 100]


def test_impossible_settings_say_why():
    with pytest.raises(ValueError, match="68 to 65535"):
        Wire(mtu=67)
    with pytest.raises(ValueError, match="'ip' or 'ethernet'"):
        Wire(media="token ring")
