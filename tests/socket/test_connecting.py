"""`Host.create_connection`: whichever address of a name answers first (RFC 8305)."""

import socket
import sys
import threading

import pytest

import netstack
from netstack.connecting import Known, Lookup, Race
from tests.socket.name_server import world

LIMIT = 30.0
DEAD = "10.9.0.200"                      # on the link, and nobody is there


def entry(address: str, port: int = 80):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.SOCK_STREAM, 6, "", (address, port) if family == socket.AF_INET else (address, port, 0, 0)


@pytest.fixture(params=[False, True], ids=["library", "daemon"])
def net(request):
    hosts = f"{DEAD} dead\n{DEAD} both\n10.9.0.80 both\n10.9.0.54 refuse\n10.9.0.54 one\n10.9.0.80 one\n" \
            "10.9.0.53 refuse\n10.9.0.80 alive\n"
    with world(hosts=hosts, daemon=request.param) as made:
        with made.serving.create_server(("10.9.0.80", 80)) as made.listener:
            made.listener.settimeout(LIMIT)
            yield made


@pytest.mark.parametrize("name", ["alive", "one", "both", "10.9.0.80"])
def test_the_address_that_answers_is_connected(net, name):
    with net.host.create_connection((name, 80), timeout=LIMIT) as s:
        assert s.getpeername() == ("10.9.0.80", 80) and s.gettimeout() == LIMIT
        server, peer = net.listener.accept()
        with server:
            assert peer == s.getsockname()
            server.sendall(b"hello")
            assert s.recv(100) == b"hello"
    assert [info.state for info in net.stack.sockets() if info.state == "SYN_SENT"] == [], "the loser is closed"


def test_a_blocking_socket_comes_out_as_it_went_in(net):
    for name in ("both", "alive"):
        with net.host.create_connection((name, 80)) as s:
            assert s.gettimeout() is None
        socket.setdefaulttimeout(17.0)
        try:
            with net.host.create_connection((name, 80)) as s:
                assert s.gettimeout() == 17.0
        finally:
            socket.setdefaulttimeout(None)


def test_every_attempt_is_bound_where_asked(net):
    with net.host.create_connection(("both", 80), LIMIT, ("10.9.0.1", 0)) as s:
        assert s.getpeername() == ("10.9.0.80", 80)
    with net.host.create_connection(("one", 80), LIMIT, ("10.9.0.1", 4567)) as s:    # one after the other
        assert s.getsockname() == ("10.9.0.1", 4567)


def test_errors_name_every_attempt(net):
    with pytest.raises(ConnectionRefusedError, match=r"10\.9\.0\.53") as error:
        net.host.create_connection(("refuse", 80), timeout=LIMIT)
    if sys.version_info >= (3, 11):
        assert len(error.value.__notes__) == 1 and "10.9.0.54" in error.value.__notes__[0]
        with pytest.raises(ExceptionGroup) as group:  # noqa: F821
            net.host.create_connection(("refuse", 80), timeout=LIMIT, all_errors=True)
        assert [type(each) for each in group.value.exceptions] == [ConnectionRefusedError] * 2
        assert ["10.9.0.5" in str(each) for each in group.value.exceptions] == [True, True]
    assert net.stack.sockets() == []


def test_silence_ends_with_the_timeout(net):
    for name in ("dead", DEAD):
        with pytest.raises(TimeoutError):
            net.host.create_connection((name, 80), timeout=0.3)
    with pytest.raises(TimeoutError):
        net.host.create_connection(("both", 81), timeout=0.6)      # silent, then refused: silence ends last
    assert net.stack.sockets() == []


def test_without_a_standby_thread_addresses_are_tried_in_turn():
    hosts = "10.9.0.54 one\n10.9.0.80 one\n"
    a, b = netstack.link.channel_pair()
    config = netstack.ResolverConfig(servers=(), hosts=hosts)
    with netstack.Host(link=b, address=("10.9.0.54/24", "10.9.0.80/24")) as there, \
            netstack.Host(link=a, address="10.9.0.1/24", service=False, resolver=config, drain=1) as here:
        with there.create_server(("10.9.0.80", 80)), here.create_connection(("one", 80), LIMIT) as s:
            assert s.getpeername() == ("10.9.0.80", 80)


def test_names_come_from_the_hosts_own_server():
    with world() as net:
        net.serve("web.example. 60 A 10.9.0.80\n")
        with net.serving.create_server(("10.9.0.80", 80)), net.host.create_connection(("web.example", 80), LIMIT) as s:
            assert s.getpeername() == ("10.9.0.80", 80)
        assert [rdtype for _, rdtype, _ in net.servers[0].asked] == ["A"], "the host has no IPv6"
        with pytest.raises(socket.gaierror):
            net.host.create_connection(("none.example", 80), LIMIT)


# --- addresses as they arrive -----------------------------------------------------------------------------------------

class Slow:
    """A resolver that gives parts when told to."""

    def __init__(self):
        self.parts = []
        self.go = threading.Semaphore(0)
        self.done = threading.Event()

    def getaddrinfo_in_parts(self, name, port, family, kind, proto, flags, on_part):
        found = []
        while True:
            self.go.acquire()
            part = self.parts.pop(0)
            if part is None:
                self.done.set()
                if not found:
                    raise socket.gaierror(socket.EAI_AGAIN, "nobody answers")
                return found
            found += part
            on_part(list(found))

    def give(self, *parts):
        self.parts += parts
        for _ in parts:
            self.go.release()


@pytest.fixture
def slow():
    resolver = Slow()
    lookup = Lookup(resolver, "x", 80)
    yield resolver, lookup
    resolver.give(None)
    resolver.done.wait(LIMIT)
    lookup.close()


def test_ipv6_addresses_are_used_at_once(slow):
    resolver, lookup = slow
    resolver.give([entry("2001:db8::1")])
    assert lookup.first() == [entry("2001:db8::1")] and not lookup.finished


def test_ipv4_addresses_wait_for_ipv6_only_so_long(slow):
    resolver, lookup = slow
    resolver.give([entry("10.0.0.1")])
    assert lookup.first() == [entry("10.0.0.1")] and not lookup.finished
    resolver.give([entry("2001:db8::1")], None)
    assert resolver.done.wait(LIMIT)
    while not lookup.finished:
        entries = lookup.take()
    assert entries == [entry("10.0.0.1"), entry("2001:db8::1")]


def test_no_address_at_all_is_the_resolvers_error(slow):
    resolver, lookup = slow
    resolver.give(None)
    assert lookup.first() == [] and lookup.finished and lookup.error.errno == socket.EAI_AGAIN


class Recorder:
    """Stands for a host: attempts are recorded and fail at once."""

    serves = True

    def __init__(self):
        self.tried = []

    def socket(self, family, kind, proto):
        recorder = self

        class Failing:
            def gettimeout(self):
                return None

            def settimeout(self, value):
                pass

            def connect(self, address):
                recorder.tried.append(address[0])
                raise ConnectionRefusedError(111, address[0])

            def close(self):
                pass

        return Failing()


def test_the_families_take_turns_beginning_with_the_best():
    entries = [entry(a) for a in ("2001:db8::1", "2001:db8::2", "2001:db8::3", "10.0.0.1", "10.0.0.2")]
    host = Recorder()
    race = Race(host, (), None)
    assert race.run(Known(entries)) is None
    assert host.tried == ["2001:db8::1", "10.0.0.1", "2001:db8::2", "10.0.0.2", "2001:db8::3"]
    assert [error.strerror for error in race.errors] == host.tried


def test_addresses_that_come_later_take_their_turn(slow):
    resolver, lookup = slow
    host = Recorder()
    resolver.give([entry("2001:db8::1"), entry("2001:db8::2")], [entry("10.0.0.1")], None)
    assert Race(host, (), None).run(lookup) is None
    assert sorted(host.tried) == ["10.0.0.1", "2001:db8::1", "2001:db8::2"] and host.tried[0] == "2001:db8::1"
