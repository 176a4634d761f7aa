"""What a stack may send at most: token buckets to the byte, on virtual time, and on a router that runs."""

import io
import json
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import netstack
from bench.forwarding import packet
from netstack.cli import ps, top
from netstack.errors import ConfigError, NoRouterError, RouterError
from netstack.router import metrics, protocol
from netstack.router.client import ControlClient, attach
from netstack.router.limiting import limit, limit_of
from netstack.router.limits import Limit
from netstack.router.pool import pack_address
from tests.router.lan import Lan, put, take, wait_until
from tests.support import ROOT, run

A, B, C = "10.77.0.2", "10.77.0.3", "10.77.0.4"
MS = 1_000_000
SECOND = 1_000 * MS


class Timed(Lan):
    """A data path whose clock is the test's."""

    now = SECOND

    def at(self, ns):
        """Rounds so many nanoseconds after the beginning, until nobody has anything; how many packets there were."""
        self.now, total = Timed.now + ns, 0
        while n := self.forwarder.run_once(self.now):
            total += n
        self.check()
        return total

    def next(self):
        """The same when the next packet may go."""
        deadline = self.forwarder.next_deadline()
        assert deadline is not None and deadline > self.now
        return self.at(deadline - Timed.now)


def sizes(stack):
    out = []
    while (raw := take(stack.channel)) is not None:
        out.append(len(raw))
    return out


def limited(*, mtu=1500, **values):
    """A data path, a stack that is limited, and one that receives."""
    lan = Timed()
    a, b = lan.stack(A, mtu=mtu, capacity=1 << 20), lan.stack(B, capacity=1 << 20)
    lan.forwarder.run_once(lan.now)          # tells it the time
    limit(lan.forwarder, a.port, **values)
    return lan, a, b


# --- the bucket ---


def test_what_was_saved_up_goes_at_once_and_the_rest_at_the_rate():
    lan, a, b = limited(bytes=100_000, depth_bytes=2_000)
    a.send(*[packet(A, B, 500)] * 10)
    lan.at(0)
    assert sizes(b) == [500] * 4
    for _ in range(6):
        lan.next()
    assert sizes(b) == [500] * 6
    assert lan.now == Timed.now + 6 * 5 * MS, "500 bytes each 5 ms, not a nanosecond more or less"
    assert a.counters["limited"] == 6 and a.drops() == b.drops() == {}


def test_packets_are_counted_beside_bytes():
    lan, a, b = limited(packets=1_000, depth_packets=3)
    a.send(*[packet(A, B, 1500)] * 3, *[packet(A, B, 64)] * 4)
    lan.at(0)
    assert sizes(b) == [1500] * 3
    lan.at(1 * MS - 1)
    assert sizes(b) == []
    lan.at(1 * MS)
    assert sizes(b) == [64]
    lan.at(4 * MS)
    assert sizes(b) == [64] * 3


def test_i3_no_more_is_saved_up_than_the_bucket_holds():
    lan, a, b = limited(bytes=100_000, depth_bytes=2_000)
    a.send(*[packet(A, B, 1000)] * 10)
    lan.at(0)
    lan.at(3600 * SECOND)
    assert sizes(b) == [1000] * 4
    lan.at(3600 * SECOND + 10 * MS)
    assert sizes(b) == [1000]


def test_a_packet_larger_than_the_bucket_waits_until_that_is_full_and_the_rate_holds_all_the_same():
    lan, a, b = limited(mtu=576, bytes=100_000, depth_bytes=1_000)
    a.send(*[packet(A, B, 3000)] * 3)
    lan.at(0)
    assert sizes(b) == [3000]
    for n in (1, 2):
        lan.next()
        assert sizes(b) == [3000] and lan.now == Timed.now + n * 30 * MS


STEPS = st.lists(st.tuples(st.integers(0, 20 * MS), st.lists(st.integers(28, 1500), max_size=8)), min_size=1,
                 max_size=25)


@settings(deadline=None, max_examples=60)
@given(steps=STEPS, bytes_s=st.integers(1, 3_000_000), packets_s=st.integers(0, 3_000), depth=st.integers(1500, 20_000),
       most=st.integers(1, 30), punctual=st.booleans())
def test_i3_in_any_time_no_more_leaves_than_rate_and_burst(steps, bytes_s, packets_s, depth, most, punctual):
    lan, a, b = limited(bytes=bytes_s, packets=packets_s, depth_bytes=depth, depth_packets=most)
    now, sent, seen = 0, [], []

    def look():
        lan.at(now)
        seen.extend((now, size) for size in sizes(b))

    for gap, wanted in steps:
        until = now + gap
        while punctual and (due := lan.forwarder.next_deadline()) is not None and due - Timed.now < until:
            now = due - Timed.now
            look()
        now = until
        a.send(*[packet(A, B, size) for size in wanted])
        sent += wanted
        look()
    for first in range(len(seen)):
        total = 0
        for n, (when, size) in enumerate(seen[first:], 1):
            total += size
            took = when - seen[first][0]
            assert total * SECOND <= bytes_s * took + depth * SECOND
            assert packets_s == 0 or n * SECOND <= packets_s * took + most * SECOND
    while len(seen) < len(sent):
        now = lan.forwarder.next_deadline() - Timed.now
        look()
    assert [size for _, size in seen] == sent, "nothing is lost, and the order stays"
    assert a.drops() == b.drops() == {}


@settings(deadline=None, max_examples=25)
@given(bytes_s=st.integers(10_000, 3_000_000), size=st.integers(64, 1500))
def test_who_always_has_packets_gets_all_of_the_rate(bytes_s, size):
    lan, a, b = limited(bytes=bytes_s, depth_bytes=3_000)
    a.send(*[packet(A, B, size)] * 300)
    lan.at(0)
    while lan.forwarder.next_deadline() is not None and a.counters["forwarded"] < 250:
        lan.next()
        got = sum(sizes(b))
        lan.total = getattr(lan, "total", 0) + got
    took = lan.now - Timed.now
    assert (lan.total + 2 * size) * SECOND >= bytes_s * took, "never more than a packet behind"


# --- who waits, and who does not ---


def test_nobody_else_waits():
    lan, a, b = limited(bytes=1, packets=1)
    c = lan.stack(C)
    a.send(*[packet(A, B, 1000)] * 3)
    c.send(*[packet(C, B, 700)] * 50)
    b.send(*[packet(B, A, 600)] * 50)
    lan.at(0)
    assert sorted(sizes(b)) == [700] * 50 + [1000] and sizes(a) == [600] * 50


def test_a_round_takes_nothing_and_counts_nothing_while_a_packet_waits():
    lan, a, b = limited(packets=1)
    a.send(*[packet(A, B, 100)] * 5)
    lan.at(0)
    before = a.counters
    for n in range(1000):
        assert lan.at(n) == 0
    assert a.counters == before and a.counters["limited"] == 1


def test_a_limit_that_changes_counts_from_then_on():
    lan, a, b = limited(packets=1)
    a.send(*[packet(A, B, 100)] * 5)
    lan.at(0)
    assert sizes(b) == [100]
    limit(lan.forwarder, a.port, packets=1_000)
    lan.at(1 * MS)
    assert sizes(b) == [100]
    limit(lan.forwarder, a.port)
    assert lan.forwarder.next_deadline() is None and limit_of(lan.forwarder, a.port) == (0, 0, 0, 0)
    lan.at(1 * MS)
    assert sizes(b) == [100] * 3


def test_i3_changing_a_limit_again_and_again_gives_no_second_burst():
    lan, a, b = limited(packets=10, depth_packets=5)
    a.send(*[packet(A, B, 100)] * 50)
    for _ in range(10):
        limit(lan.forwarder, a.port, packets=10, depth_packets=5)
        lan.at(0)
    assert sizes(b) == [100] * 5


def test_a_stack_that_leaves_takes_its_limit_along():
    lan, a, b = limited(packets=1)
    a.send(*[packet(A, B, 100)] * 5)
    lan.at(0)
    lan.forwarder.remove(a.port)
    assert lan.forwarder.next_deadline() is None
    lan.check()


@pytest.mark.parametrize("bad", [{"bytes": -1}, {"packets": 1 << 33}, {"bytes": 1, "depth_bytes": -5}])
def test_numbers_that_cannot_be_are_refused(bad):
    lan, a, _ = limited(packets=7)
    with pytest.raises(ConfigError):
        limit(lan.forwarder, a.port, **bad)
    assert limit_of(lan.forwarder, a.port)[1] == 7
    with pytest.raises(KeyError):
        limit(lan.forwarder, 12345, packets=1)


# --- with the data thread ---


@pytest.fixture
def running():
    """A data path with its thread, which never spins; a stack with a limit that one packet uses up for an hour."""
    lan = Lan(spin_us=0)
    a, b = lan.stack(A), lan.stack(B)
    lan.forwarder.start()
    limit(lan.forwarder, a.port, bytes=1)
    put(a.channel, packet(A, B, 64_000))
    for _ in range(20):
        put(a.channel, packet(A, B, 3_600))
    a.channel.flush()
    wait_until(lambda: a.counters.get("limited"))
    yield lan, a, b
    lan.forwarder.close()
    lan.check()


def served(a, b):
    """The thread has seen to all that was there before."""
    b.send(packet(B, A, 100))
    wait_until(lambda: sizes(a) == [100])


def test_the_thread_sleeps_while_packets_wait(running):
    lan, a, b = running
    served(a, b)
    rounds, sleeps = lan.forwarder.rounds, lan.forwarder.sleeps
    threading.Event().wait(0.3)
    assert lan.forwarder.rounds - rounds <= 20 and lan.forwarder.sleeps - sleeps <= 20


def test_a_stack_that_waits_is_not_asked_to_ring_and_does_not(running):
    lan, a, b = running
    served(a, b)
    wakes = a.counters.get("wakes", 0)
    for _ in range(20):
        put(a.channel, packet(A, B, 100))
        a.channel.flush()
    served(a, b)
    assert a.counters.get("wakes", 0) == wakes


def test_r11_packets_that_wait_for_a_limit_of_the_router_are_no_cover_for_a_storm(running):
    """Who rings all the same is not listened to."""
    lan, a, b = running
    bell = a.channel.peer_doorbells[1]
    while a.counters.get("spurious", 0) < 64:
        bell.kick()
        assert a.counters.get("wakes", 0) < 1000, "each of these rings is in vain"
    served(a, b)


def test_others_are_served_while_it_waits(running):
    lan, a, b = running
    for _ in range(100):
        served(a, b)
    assert len(sizes(b)) == 1


# --- stacks and programs ---


def own(host):
    return host.addresses[0].split("/")[0]


def transferred(client, server, n):
    """Bytes through a TCP connection: what came out."""
    data, got = bytes(i * 7 & 0xFF for i in range(n)), bytearray()
    with server.create_server((own(server), 80)) as listener:
        def serve():
            connection, _ = listener.accept()
            with connection:
                while chunk := connection.recv(65536):
                    got.extend(chunk)

        thread = threading.Thread(target=serve)
        thread.start()
        with client.create_connection((own(server), 80)) as sock:
            sock.sendall(data)
        thread.join(60)
    return data, bytes(got)


def test_a_connection_feels_a_full_ring_and_loses_nothing(runtime):
    with netstack.Router(limit={"rate": "80mbit", "packets": 100_000, "burst": "5ms"}, ring_capacity=1 << 18) as router:
        with netstack.attach(router.name) as client, netstack.attach(router.name) as server:
            data, got = transferred(client, server, 1_500_000)
            assert got == data
            one = next(info for info in router.attachments() if info.addresses[0] == pack_address(own(client)))
            counters = router.counters(one.id)
            assert counters["limited"] > 10 and not any(v for k, v in counters.items() if k.startswith("drop_"))
            assert router.limits.of(one.id) == (10_000_000, 100_000, 65535, 500)
            assert router.check_conservation() == []


def test_limits_are_the_owners_to_change_and_everybodys_to_see(runtime, monkeypatch):
    from netstack.router.control import Connection

    with netstack.Router(limit={"packets": 500}) as router, router.attach() as one:
        with ControlClient(router.name) as client:
            assert client.limit(one.id) == (0, 500, 0, 5)
            assert client.set_limit(one.id, Limit(rate="1mbit")) == (125_000, 0, 65535, 0)
            info = client.attachments()[0]
            assert (info.limit_bytes_s, info.limit_packets_s) == (125_000, 0)
            with pytest.raises(RouterError, match="no attachment"):
                client.limit(one.id + 1)
            monkeypatch.setattr(Connection, "is_owner", False)
            with pytest.raises(RouterError, match="owner"):
                client.set_limit(one.id, None)
            assert client.limit(one.id)[0] == 125_000
            monkeypatch.undo()
        router.limit(one.id, None)
        assert router.limits.of(one.id) == (0, 0, 0, 0)
        with pytest.raises(RouterError, match="no attachment"):
            router.limit(one.id + 1, {"packets": 1})


@pytest.mark.parametrize(("given", "word"), [
    ({"rate": "fast"}, "rate"), ({"rate": 7}, "8 bit/s"), ({"packets": 0}, "packets"), ({"burst": "1ms"}, "alone"),
    ({"rate": "1mbit", "burst": "1h"}, "burst"), ({"pace": 1}, "pace"),
])
def test_settings_that_cannot_be_say_what_to_write(given, word):
    with pytest.raises(ConfigError, match=word):
        Limit.of(given)


def answers():
    """Is the router there?"""
    try:
        with ControlClient():
            return True
    except NoRouterError:
        return False


def test_the_command_shows_and_changes(runtime):
    netstack_command = [sys.executable, "-m", "netstack"]
    options = ["--limit-rate", "10mbit", "--limit-burst", "80ms", "-q"]
    process = subprocess.Popen([*netstack_command, "router", *options], cwd=ROOT)
    try:
        wait_until(answers)
        with attach() as one:
            def said(*words):
                return run([*netstack_command, "limit", one.address, *words], cwd=ROOT).stdout.strip()

            assert said() == f"{one.address}: 10,000,000 bit/s, 100,000 bytes at once"
            assert said("--packets", "2000") == f"{one.address}: 2,000 packets/s, 20 at once"
            assert json.loads(said("--json"))["packets_s"] == 2000
            row = json.loads(run([*netstack_command, "ps", "--json"], cwd=ROOT).stdout)[0]
            assert row["limit_packets_s"] == 2000 and row["limit_bits_s"] is None and row["limited"] == 0
            assert said("--none") == f"{one.address}: no limit"
            assert "not with" in run([*netstack_command, "limit", one.address, "--none", "--rate", "1mbit"], cwd=ROOT,
                                     check=False).stderr
    finally:
        process.terminate()
        process.wait(30)


# --- looking at it ---


def drawn(table):
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_ps_and_top_show_who_is_held_back_and_nothing_more_while_nobody_is():
    def at(seconds, **values):
        return protocol.AttachmentInfo(1, 7, 0, 1, 1, seconds * SECOND, 0, 0, 0, 0, 0, 0, 1500, (pack_address(A),),
                                       "prog", **values)

    free, held = at(1), at(3, limit_bytes_s=125_000, limited=40, deferred=6)
    assert protocol.AttachmentInfo.unpack(held.pack()) == held
    looks = [top.Look(float(n), {1: (each, 0)}, {}) for n, each in enumerate((free, held))]
    assert "limit" not in drawn(ps.table([ps.describe(free)], "")) + drawn(top.table(top.rates(looks[0], looks[0]), ""))
    assert "1,000,000 bit/s" in drawn(ps.table([ps.describe(held)], ""))
    row = top.rates(*looks)[0]
    assert (row["limited_s"], row["deferred_s"]) == (20, 3)
    assert "limited/s" in (text := drawn(top.table([row], ""))) and "deferred/s" in text


def test_metrics_say_what_an_attachment_may_send_and_how_often_it_waited(runtime):
    with netstack.Router(limit={"rate": "8kbit"}) as router, router.attach() as one, router.attach() as two:
        router.limit(two.id, None)
        for _ in range(3):
            put(one.link.channel, packet(one.address, two.address, 40_000))
        one.link.channel.flush()
        wait_until(lambda: router.counters(one.id)["limited"])
        lines = metrics.render(router).splitlines()
        own = f'{{attachment="{one.id}"'
        assert [x.split()[-1] for x in lines if x.startswith("netstack_attachment_limit_bytes_per_second{")] == ["1000"]
        assert [x.split()[-1] for x in lines if x.startswith("netstack_attachment_limited_total" + own)] == ["1"]
        work = router.counters(one.id)["work"]
        assert [x.split()[-1] for x in lines if x.startswith("netstack_attachment_work_total" + own)] == [str(work)]
        assert work >= 41_000
