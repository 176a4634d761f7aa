"""Algorithms written in Python: reports, guard rails, failures, names."""

import errno
import logging

import pytest

import netstack
from netstack import congestion
from netstack.link import channel_pair
from netstack.stack import Stack
from netstack.testing import Pair

PATH = {"delay": "20ms", "rate": 20_000_000, "queue": 100}
NAME = "net.ipv4.tcp_congestion_control"


def registered(name, on_report, **attributes):
    return congestion.register(name, type(name, (), {"__init__": lambda self, c: setattr(self, "connection", c),
                                                     "on_report": on_report, **attributes}))


def transfer(name, n=1 << 20, **faults):
    pair = Pair(seed=3, sysctl={NAME: name}, **{**PATH, **faults})
    pair.transfer(n)
    return pair


def test_a_class_steers_a_connection_once_a_round_trip():
    reports = []

    def on_report(self, report):
        arrived = report.acked + report.sacked
        reports.append((report.now_ns, arrived, report.rtt_ns, report.cwnd, self.connection.remote))
        return report.cwnd + (report.acked if report.cwnd < report.ssthresh else report.mss)

    registered("test-steers", on_report)
    pair = transfer("test-steers")
    assert reports[0][4] == ("10.0.0.2", 80)
    assert sum(r[1] for r in reports) >= (1 << 20) // 2
    assert max(r[3] for r in reports) > 40_000                   # it grew
    assert len(reports) <= (pair.now_ns - 10**9) / 39e6 + 2      # a round trip has 40 ms at least
    assert pair.a.stack.counters()["congestion_fallbacks"] == 0


@pytest.mark.parametrize("answer", [0, -1, 10**30, float("nan"), float("inf"), -float("inf"), 2**32, 0.5,
                                    congestion.Decision(cwnd=-3, ssthresh=0, pacing_rate=float("nan"))])
def test_nonsense_is_clamped_and_counted(answer):
    registered("test-nonsense", lambda self, report: answer)
    counters = transfer("test-nonsense", 1 << 17).a.stack.counters()
    assert counters["congestion_clamped"] > 0 and counters["congestion_fallbacks"] == 0


def test_an_exception_is_logged_once_and_the_default_goes_on(caplog):
    def on_report(self, report):
        raise RuntimeError("lost my mind")

    registered("test-raises", on_report)
    with caplog.at_level(logging.ERROR, logger="netstack.congestion"):
        counters = transfer("test-raises", loss=0.01).a.stack.counters()
    [record] = [r for r in caplog.records if "test-raises" in r.getMessage() and "10.0.0.1" in r.getMessage()][:1]
    assert "-> 10.0.0.2:80" in record.getMessage() and "cubic" in record.getMessage()
    assert counters["congestion_fallbacks"] == 1


@pytest.mark.parametrize("broken", ["a string", (1,), object()])
def test_an_answer_that_is_no_number_is_a_failure_too(broken):
    registered("test-broken", lambda self, report: broken)
    assert transfer("test-broken", 1 << 17).a.stack.counters()["congestion_fallbacks"] >= 1


def test_who_says_nothing_keeps_the_window():
    windows = []
    registered("test-beta", lambda self, report: windows.append((report.losses, report.cwnd)), beta=0.75)
    pair = Pair(seed=5, delay="20ms", sysctl={NAME: "test-beta"})
    pair.transfer(1 << 17)
    assert {w[1] for w in windows} == {windows[0][1]}            # nobody said anything: it stays
    assert congestion.find("test-beta") and not congestion.find("test-nobody")


def test_a_pacing_rate_is_kept():
    registered("test-paced", lambda self, report: congestion.Decision(cwnd=1 << 20, pacing_rate=250_000))
    pair = Pair(seed=1, delay="5ms", sysctl={NAME: "test-paced"})
    pair.transfer(500_000)
    assert (pair.now_ns - 10**9) / 1e9 > 1.6                     # two seconds at that rate, less the first window


def test_names_are_checked():
    with pytest.raises(ValueError, match="1 to 15"):
        registered("a-name-that-is-far-too-long", lambda self, report: None)
    with pytest.raises(ValueError, match="registered already"):
        registered("cubic", lambda self, report: None)
    with pytest.raises(ValueError, match="beta"):
        registered("test-of-beta", lambda self, report: None, beta=1.5)
    with pytest.raises(TypeError, match="on_report"):
        congestion.register("test-none", object)


def test_an_unknown_name_is_enoent_and_the_old_algorithm_stays():
    sock = Stack(addresses="10.0.0.1").socket()
    with pytest.raises(OSError) as e:
        sock.setsockopt(6, 13, b"no-such-thing")
    assert e.value.errno == errno.ENOENT
    assert sock.getsockopt(6, 13, 16).rstrip(b"\0") == b"cubic"
    with pytest.raises(OSError) as e:
        sock.setsockopt(6, 13, b"")
    assert e.value.errno == errno.EINVAL


def test_the_setting_names_what_there_is():
    stack = Stack(addresses="10.0.0.1")
    names = stack.get("net.ipv4.tcp_available_congestion_control").split()
    assert {"reno", "cubic", "vegas", "bbr", "dctcp", "ledbat"} <= set(names)
    assert stack.get(NAME) == "cubic"
    with pytest.raises(ValueError, match="no congestion control"):
        stack.set(NAME, "no-such-thing")


def test_an_instance_ends_with_its_connection_and_its_stack():
    import gc
    import weakref

    made = []

    class Mine:
        def __init__(self, connection):
            made.append(weakref.ref(self))

        def on_report(self, report):
            return None

    congestion.register("test-life", Mine)
    pair = transfer("test-life", 1 << 17)
    assert made
    pair.run("5s")
    del pair
    gc.collect()
    assert all(ref() is None for ref in made)


def test_a_connection_served_by_threads_has_its_algorithm_too():
    seen = []

    def on_report(self, report):
        seen.append(report.acked)
        return report.cwnd + report.acked

    registered("test-threads", on_report)
    a, b = channel_pair()
    with netstack.Host(link=a, address="10.0.0.1/24", sysctl={NAME: "test-threads"}) as one, \
            netstack.Host(link=b, address="10.0.0.2/24") as two:
        import threading

        listener = two.create_server(("10.0.0.2", 80))
        done = []

        def take():
            s, _ = listener.accept()
            while data := s.recv(1 << 16):
                done.append(len(data))

        thread = threading.Thread(target=take)
        thread.start()
        with one.create_connection(("10.0.0.2", 80)) as s:
            s.sendall(bytes(8 << 20))
        thread.join(60)
        assert sum(done) == 8 << 20
    assert seen


@pytest.mark.parametrize("name", ["reno", "cubic", "vegas", "bbr", "dctcp", "ledbat", "test-moved"])
def test_a_transfer_goes_on_in_a_restored_stack(name):
    """A snapshot carries the algorithm and its state, or, of one in Python, its name."""
    registered("test-moved", lambda self, report: report.cwnd + report.mss)
    pair = Pair(seed=2, loss=0.01, sysctl={NAME: name}, **PATH)
    client, server = pair.connect()
    client.send(bytes(200_000))
    pair.run("30ms")
    cwnd = client.info()["cwnd"]
    pair.restore(pair.a)
    client = pair.a.stack.socket_by_id(client.id)
    info = client.info()
    assert info["congestion"] == name and info["cwnd"] >= min(cwnd, 1000)
    got = 0

    def all_of_it():
        nonlocal got
        try:
            while True:
                got += len(server.recv(65536))
        except BlockingIOError:
            return got == 200_000

    pair.run("2min", condition=all_of_it)
    assert pair.a.stack.counters()["congestion_fallbacks"] == 0


def test_a_live_connection_changes_its_algorithm():
    pair = Pair(seed=2, **PATH)
    client, server = pair.connect()
    client.send(bytes(100_000))
    pair.run("100ms")
    before = client.info()
    for name in (b"bbr", b"vegas", b"cubic"):
        client.setsockopt(6, 13, name)
        after = client.info()
        assert after["congestion"].encode() == name and after["cwnd"] == before["cwnd"]


def test_connections_inherit_what_was_chosen_for_their_listener():
    pair = Pair(seed=2, **PATH)
    listener = pair.b.stack.socket()
    listener.bind((pair.B, 80))
    listener.listen()
    listener.setsockopt(6, 13, b"vegas")
    client = pair.a.stack.socket()
    client.connect_ex((pair.B, 80))
    pair.run("1s")
    child, _ = listener.accept()
    assert child.info()["congestion"] == "vegas" and client.info()["congestion"] == "cubic"


def test_so_max_pacing_rate_holds():
    pair = Pair(seed=2, delay="5ms")
    client, server = pair.connect()
    client.setsockopt(1, 47, 500_000)
    assert client.getsockopt(1, 47) == 500_000
    start, got = pair.now_ns, 0
    client.send(bytes(500_000))

    def all_of_it():
        nonlocal got
        try:
            while True:
                got += len(server.recv(65536))
        except BlockingIOError:
            return got == 500_000

    pair.run("1min", condition=all_of_it)
    assert 0.9 < (pair.now_ns - start) / 1e9 < 1.3
