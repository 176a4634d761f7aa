"""What needs no server: the answers and errors of glibc, which is asked the same questions without a network."""

import itertools
import socket

import pytest

import netstack
from netstack.config import ResolverConfig
from netstack.resolver.hosts_file import HostsFile, parse_hosts
from netstack.resolver.literals import Found
from netstack.resolver.resolv_conf import SettingsSource, parse_resolv_conf
from netstack.resolver.sorting import interleaved, sort_destinations

AI = socket
HOSTS = """
# a comment
10.5.0.7   printer.example  printer   # and its alias
2001:db8::7 printer.example printer
10.5.0.8   Mixed.Example
300.1.1.1  wrong
10.5.0.9
"""


@pytest.fixture(scope="module")
def host():
    with netstack.Host(address="10.5.0.1/24", drain=5, resolver=ResolverConfig(servers=(), hosts=HOSTS)) as host:
        yield host


def outcome(call, *args):
    """What it returns or raises, comparable."""
    try:
        return call(*args)
    except OSError as error:
        return type(error), error.errno
    except Exception as error:  # noqa: BLE001
        return type(error)


NAMES = [
    "10.1.2.3", "10.1", "0x7f.1", "017.0.0.1", "1", "10.1.2.3.4", "10.256.0.1", "10.1.2.3 ", " 10.1.2.3", "1.2.3.4 x",
    "::1", "2001:DB8::1", "::ffff:10.1.2.3", "2001:db8::1%3", "fe80::1%7", "fe80::1%nosuchinterface", "2001:db8::1%x",
    "fe80::1%", "10.1.2.3%1", ":", "::1::", "not-a-number", "", "a..b", "." * 3, "x" * 64 + ".example", b"10.1.2.3",
    b"\xff", "é" * 70]
PORTS = [
    80, "80", b"80", None, "", "http", "no-such-service", "domain", "tftp", 70000, -1, " 80", "+80", "80x", 1 << 70,
    2.5, "9" * 5000]


@pytest.mark.parametrize("name", NAMES, ids=repr)
@pytest.mark.parametrize("family", [0, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_getaddrinfo_of_literals_is_glibcs(host, name, family):
    for flags in (0, AI.AI_CANONNAME, AI.AI_V4MAPPED, AI.AI_PASSIVE | AI.AI_NUMERICSERV, 1 << 20):
        question = name, 80, family, socket.SOCK_STREAM, 0, flags | AI.AI_NUMERICHOST
        assert outcome(host.getaddrinfo, *question) == outcome(socket.getaddrinfo, *question), flags


@pytest.mark.parametrize("port", PORTS, ids=lambda port: repr(port)[:20])
@pytest.mark.parametrize("name", ["10.1.2.3", None])
def test_services_types_and_protocols_are_glibcs(host, name, port):
    kinds = itertools.product((0, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, 77), (0, 6, 17, 1, 99))
    for (kind, proto), flags in itertools.product(kinds, (0, AI.AI_NUMERICSERV, AI.AI_PASSIVE, AI.AI_CANONNAME)):
        question = name, port, socket.AF_INET, kind, proto, flags
        assert outcome(host.getaddrinfo, *question) == outcome(socket.getaddrinfo, *question), (kind, proto, flags)


@pytest.mark.parametrize("name", ["10.1.2.3", "10.1", "", "<broadcast>", "255.255.255.255", "::1", "10.1.2.300"])
def test_gethostbyname_is_glibcs(host, name):
    assert outcome(host.resolver.gethostbyname, name) == outcome(socket.gethostbyname, name) or name.endswith("300")
    if name not in ("", "<broadcast>", "10.1.2.300"):
        assert outcome(host.resolver.gethostbyname_ex, name) == outcome(socket.gethostbyname_ex, name)


@pytest.mark.parametrize("flags", [socket.NI_NUMERICHOST, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV,
                                   socket.NI_NUMERICHOST | socket.NI_DGRAM, socket.NI_NUMERICHOST | socket.NI_NAMEREQD])
@pytest.mark.parametrize("address", [
    ("10.1.2.3", 80), ("10.1.2.3", 514), ("10.1.2.3", 65001), ("::1", 53), ("::1", 80, 0, 0),
    ("fe80::1", 80, 0, 1 << 20), ("2001:db8::1", 80, 1 << 20), ("10.1.2.3", 80, 0), ("no-number", 80), ("10.1.2.3",),
    ["10.1.2.3", 80],
    ("10.1.2.3", "80"), (b"10.1.2.3", 80), ("10.1.2.3", 70000)], ids=repr)
def test_getnameinfo_is_glibcs(host, address, flags):
    assert outcome(host.resolver.getnameinfo, address, flags) == outcome(socket.getnameinfo, address, flags)


def test_the_hosts_file_answers_first_in_both_families(host):
    found = [(f, a[0]) for f, _, _, name, a in host.getaddrinfo("printer", 80, type=socket.SOCK_STREAM)]
    assert sorted(found) == [(socket.AF_INET, "10.5.0.7"), (socket.AF_INET6, "2001:db8::7")]
    entry, = host.getaddrinfo("PRINTER.example.", 80, socket.AF_INET, socket.SOCK_STREAM, 0, socket.AI_CANONNAME)
    assert entry[3] == "printer.example" and entry[4] == ("10.5.0.7", 80)
    assert host.resolver.gethostbyname("mixed.example") == "10.5.0.8"
    assert host.resolver.gethostbyname_ex("printer") == ("printer.example", ["printer"], ["10.5.0.7"])
    assert host.resolver.gethostbyaddr("10.5.0.7") == ("printer.example", ["printer"], ["10.5.0.7"])
    assert host.resolver.getfqdn("printer") == "printer.example"
    assert host.resolver.getnameinfo(("10.5.0.7", 80), 0) == ("printer.example", "http")
    assert outcome(host.getaddrinfo, "wrong", 80) == (socket.gaierror, socket.EAI_NONAME)
    assert outcome(host.getaddrinfo, "mixed.example", 80, socket.AF_INET6) == (socket.gaierror, socket.EAI_NONAME)


def test_v4_answers_stand_in_for_v6_when_asked_to(host):
    def ask(name, flags):
        return [a[0] for _, _, _, _, a in host.getaddrinfo(name, 1, socket.AF_INET6, socket.SOCK_STREAM, 0, flags)]

    assert ask("mixed.example", socket.AI_V4MAPPED) == ["::ffff:10.5.0.8"]
    assert ask("printer", socket.AI_V4MAPPED) == ["2001:db8::7"]
    assert sorted(ask("printer", socket.AI_V4MAPPED | socket.AI_ALL)) == ["2001:db8::7", "::ffff:10.5.0.7"]


def test_addrconfig_asks_only_for_what_the_host_can_use(host):
    found = host.getaddrinfo("printer", 80, 0, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
    assert [a[0] for _, _, _, _, a in found] == ["10.5.0.7"]
    assert outcome(host.getaddrinfo, "printer", 80, socket.AF_INET6, 0, 0, socket.AI_ADDRCONFIG) == (
        socket.gaierror, socket.EAI_NONAME)


def test_names_that_never_leave_the_host(host):
    assert host.resolver.gethostbyname("a.b.localhost") == "127.0.0.1"
    assert host.resolver.gethostbyname(socket.gethostname()) == "10.5.0.1"
    assert host.resolver.gethostbyaddr("127.0.0.1")[0] == "localhost"
    for name in ("x.invalid", "x.onion.", "nowhere.example"):
        assert outcome(host.getaddrinfo, name, 80) == (socket.gaierror, socket.EAI_NONAME)
    with pytest.raises(socket.herror, match="Unknown host"):
        host.resolver.gethostbyaddr("10.5.0.99")


def test_a_hosts_file_is_read_again_when_it_changed(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("10.0.0.1 one\n")
    with netstack.Host(address="10.0.0.9/24", resolver=ResolverConfig(servers=(), hosts=path)) as host:
        assert host.resolver.gethostbyname("one") == "10.0.0.1"
        path.write_text("10.0.0.2 one other\n")
        assert host.resolver.gethostbyname("other") == "10.0.0.2"
        path.unlink()
        assert outcome(host.resolver.gethostbyname, "one")[0] is socket.gaierror


def test_lines_of_a_hosts_file():
    assert [(line.found.address, line.name, line.aliases) for line in parse_hosts(HOSTS)] == [
        ("10.5.0.7", "printer.example", ("printer",)), ("2001:db8::7", "printer.example", ("printer",)),
        ("10.5.0.8", "Mixed.Example", ())]
    assert HostsFile("").lines("localhost") == [] and HostsFile("/no/such/file").lines("x") == []


# --- resolv.conf ------------------------------------------------------------------------------------------------------

def test_resolv_conf_as_its_manual_says():
    text = """
; comment
# comment
domain first.example
search a.example b.example.
nameserver 192.0.2.1
nameserver 127.0.0.53
nameserver nonsense
nameserver 2001:db8::53
nameserver 192.0.2.3
nameserver 192.0.2.4
options ndots:99 timeout:60 attempts:0 rotate use-vc unknown:1
options attempts:9
unknown line
nameserver
"""
    settings = parse_resolv_conf(text, "me.own.example")
    assert settings.servers == [("192.0.2.1", 53), ("2001:db8::53", 53), ("192.0.2.3", 53)]
    assert settings.search == ["a.example", "b.example"]
    assert (settings.ndots, settings.timeout, settings.attempts) == (15, 30, 5)
    assert settings.rotate and settings.tcp
    assert parse_resolv_conf("", "me.own.example").search == ["own.example"]
    plain = parse_resolv_conf("", "me")
    assert (plain.servers, plain.search, plain.ndots, plain.timeout, plain.attempts) == ([], [], 1, 5.0, 2)


def test_what_a_config_says_comes_before_the_machines_file(tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\nsearch machine.example\noptions timeout:9\n")
    assert SettingsSource(ResolverConfig(), str(path)).current().servers == [("192.0.2.1", 53)]
    own = SettingsSource(ResolverConfig(servers="[2001:db8::1]:5353", timeout=0.5), str(path)).current()
    assert (own.servers, own.search, own.timeout) == ([("2001:db8::1", 5353)], [], 0.5)
    mixed = SettingsSource(ResolverConfig(search=("x.example.",)), str(path))
    assert (mixed.current().search, mixed.current().timeout) == (["x.example"], 9.0)
    path.write_text("nameserver 192.0.2.22\n")
    assert mixed.current().servers == [("192.0.2.22", 53)]
    path.unlink()
    assert mixed.current().servers == []


def test_what_the_network_tells_takes_the_place_of_the_machines_file(tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\nsearch machine.example\noptions ndots:3\n")
    told = [["10.0.0.1", "10.0.0.2"], ["lease.example"]]
    settings = SettingsSource(ResolverConfig(), str(path), lambda: told).current()
    assert (settings.servers, settings.search, settings.ndots) == (
        [("10.0.0.1", 53), ("10.0.0.2", 53)], ["lease.example"], 3)
    assert SettingsSource(ResolverConfig(search=()), str(path), lambda: told).current().search == []
    assert SettingsSource(ResolverConfig(), str(path), lambda: ([], [])).current().servers == [("192.0.2.1", 53)]
    named = SettingsSource(ResolverConfig(servers=("192.0.2.2",)), str(path), lambda: told).current()
    assert (named.servers, named.search) == ([("192.0.2.2", 53)], [])


@pytest.mark.parametrize("wrong", [
    {"servers": ["dns.example"]}, {"servers": ["10.0.0.1:0"]}, {"servers": ["10.0.0.1:x"]}, {"servers": ["[::1]x"]},
    {"servers": ["[::1"]}, {"timeout": 0}, {"timeout": 31}, {"attempts": 0}, {"attempts": 6}, {"ndots": 16},
    {"edns": 100}, {"cache": -1}])
def test_a_config_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError):
        ResolverConfig(**wrong)


# --- RFC 6724 and 8305 ------------------------------------------------------------------------------------------------

# RFC 6724 section 10.2: sources that the host has, destinations, and their order.
@pytest.mark.parametrize("sources, better, worse", [
    ({"2001:db8:1::1": "2001:db8:1::2", "198.51.100.121": "169.254.13.78"}, "2001:db8:1::1", "198.51.100.121"),
    ({"2001:db8:1::1": "fe80::1", "198.51.100.121": "198.51.100.117"}, "198.51.100.121", "2001:db8:1::1"),
    ({"2001:db8:1::1": "2001:db8:1::2", "10.1.2.3": "10.1.2.4"}, "2001:db8:1::1", "10.1.2.3"),
    ({"2001:db8:1::1": "2001:db8:1::2", "fe80::1": "fe80::2"}, "fe80::1", "2001:db8:1::1"),
    ({"2001:db8:1::1": "2001:db8:1::2", "2001:db8:3ffe::1": "2001:db8:3f44::2"}, "2001:db8:1::1", "2001:db8:3ffe::1"),
    ({"2002:c633:6401::1": "2002:c633:6401::2", "2001:db8:1::1": "fe80::2"}, "2002:c633:6401::1", "2001:db8:1::1"),
    ({"2002:c633:6401::1": "2002:c633:6401::2", "2001:db8:1::1": "2001:db8:1::2"},
     "2001:db8:1::1", "2002:c633:6401::1"),
    ({"2001:db8:1::1": None, "10.1.2.3": "10.1.2.4"}, "10.1.2.3", "2001:db8:1::1"),
    ({"fd00::1": "2001:db8:1::2", "10.1.2.3": "10.1.2.4"}, "10.1.2.3", "fd00::1"),
])
def test_destinations_are_ordered_by_rfc_6724(sources, better, worse):
    def found(address):
        return Found(socket.AF_INET6 if ":" in address else socket.AF_INET, address)

    for order in ((better, worse), (worse, better)):
        result = sort_destinations([found(a) for a in order], lambda each: sources[each.address])
        assert [each.address for each in result] == [better, worse]


def test_the_order_of_v4_addresses_is_the_servers():
    given = [Found(socket.AF_INET, f"10.0.{n}.1") for n in (9, 3, 7)]
    assert sort_destinations(given, lambda each: "10.0.3.2") == given


def test_families_take_turns():
    def made(text):
        return [Found(socket.AF_INET6 if c == "6" else socket.AF_INET, str(i)) for i, c in enumerate(text)]

    def shown(found):
        return "".join("6" if f.family == socket.AF_INET6 else "4" for f in found)

    assert shown(interleaved(made("6664"))) == "6466"
    assert shown(interleaved(made("4446"))) == "4644"
    assert shown(interleaved(made("666"))) == "666"
    assert interleaved([]) == []
