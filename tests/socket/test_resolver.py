"""Names asked of a name server, over the host's own sockets."""

import asyncio
import socket
import threading
import urllib.request

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest

import netstack
from netstack.resolver.cache import Cache
from netstack.resolver.literals import Found
from netstack.resolver.messages import make_query
from netstack.resolver.stub import NoAnswer
from tests.router.lan import wait_until
from tests.socket.name_server import ADDRESS, parse_zone, world

ZONE = """
www.example. 300 A 10.9.0.80
www.example. 300 AAAA 2001:db8::80
four.example. 300 A 10.9.0.80
six.example. 300 AAAA 2001:db8::80
empty.example. 300 TXT "no address"
many.example. 300 A 10.9.0.83
many.example. 300 A 10.9.0.81
many.example. 300 A 10.9.0.82
alias.example. 300 CNAME middle.example.
middle.example. 300 CNAME www.example.
deep.corp.example. 300 A 10.9.0.90
deep.lab.example. 300 A 10.9.0.91
80.0.9.10.in-addr.arpa. 300 PTR www.example.
81.0.9.10.in-addr.arpa. 300 PTR first.example.
81.0.9.10.in-addr.arpa. 300 PTR second.example.
0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 300 PTR www.example.
82.0.9.10.in-addr.arpa. 300 CNAME 82.sub.0.9.10.in-addr.arpa.
82.sub.0.9.10.in-addr.arpa. 300 PTR delegated.example.
"""


@pytest.fixture(params=[False, True], ids=["library", "daemon"])
def net(request):
    with world(daemon=request.param) as made:
        made.server = made.serve(ZONE)
        yield made


# --- what is asked, and what comes of it ------------------------------------------------------------------------------

def test_both_families_are_asked_at_once_and_each_name_once(net):
    assert sorted(net.addresses("www.example")) == ["10.9.0.80", "2001:db8::80"]
    assert sorted(net.server.asked) == [("www.example.", "A", "UDP"), ("www.example.", "AAAA", "UDP")]
    assert net.addresses("WWW.example") and net.addresses("www.EXAMPLE.", socket.AF_INET)
    assert len(net.server.asked) == 2, "remembered"


@pytest.mark.parametrize("name, family, expected", [
    ("www.example", socket.AF_INET, ["10.9.0.80"]), ("www.example", socket.AF_INET6, ["2001:db8::80"]),
    ("four.example", 0, ["10.9.0.80"]), ("six.example", 0, ["2001:db8::80"]),
    ("many.example", 0, ["10.9.0.81", "10.9.0.82", "10.9.0.83"]),
])
def test_addresses(net, name, family, expected):
    assert sorted(net.addresses(name, family)) == expected           # the server shuffles


def test_a_host_has_the_functions_itself(net):
    host = net.host
    assert host.gethostbyname("four.example") == "10.9.0.80"
    assert host.gethostbyname_ex("alias.example")[0] == "www.example"
    assert host.gethostbyaddr("10.9.0.80")[0] == host.getfqdn("10.9.0.80") == "www.example"
    assert host.getnameinfo(("10.9.0.80", 80), 0) == ("www.example", "http")


def test_only_the_family_that_is_wanted_is_asked_for(net):
    net.addresses("www.example", socket.AF_INET)
    net.addresses("six.example", socket.AF_INET6)
    assert [rdtype for _, rdtype, _ in net.server.asked] == ["A", "AAAA"]


@pytest.mark.parametrize("name, family, number", [
    ("nothing.elsewhere", 0, socket.EAI_NONAME), ("empty.example", 0, socket.EAI_NODATA),
    ("four.example", socket.AF_INET6, socket.EAI_NODATA), ("x" * 64 + ".example", socket.AF_INET, None)])
def test_what_is_not_there(net, name, family, number):
    if number is None:
        with pytest.raises(UnicodeError):
            net.addresses(name, family)
    else:
        assert net.fails(name, family) == number


def test_a_name_of_more_than_255_bytes_is_nobodys(net):
    assert net.fails(".".join(["x" * 60] * 5)) == socket.EAI_NONAME and net.server.asked == []


def test_cnames_lead_to_the_canonical_name(net):
    entry, = net.host.getaddrinfo("alias.example", 80, socket.AF_INET, socket.SOCK_STREAM, 0, socket.AI_CANONNAME)
    assert entry[3] == "www.example" and entry[4] == ("10.9.0.80", 80)
    assert net.resolver.gethostbyname_ex("alias.example") == (
        "www.example", ["alias.example", "middle.example"], ["10.9.0.80"])
    assert net.resolver.gethostbyname("alias.example") == "10.9.0.80"


def test_aliases_that_the_server_does_not_follow_are_followed(net):
    def only_the_first_step(query, response, transport):
        response.answer, response.authority = response.answer[:1], []
        return response

    net.server.change = only_the_first_step
    assert net.resolver.gethostbyname_ex("alias.example") == (
        "www.example", ["alias.example", "middle.example"], ["10.9.0.80"])
    assert [name for name, _, _ in net.server.asked] == ["alias.example.", "middle.example.", "www.example."]


def test_names_of_addresses(net):
    assert net.resolver.gethostbyaddr("10.9.0.80") == ("www.example", [], ["10.9.0.80"])
    name, aliases, addresses = net.resolver.gethostbyaddr("10.9.0.81")
    assert {name, *aliases} == {"first.example", "second.example"} and addresses == ["10.9.0.81"]
    assert net.resolver.gethostbyaddr("10.9.0.82")[0] == "delegated.example", "RFC 2317"
    assert net.resolver.gethostbyaddr("2001:db8::80")[0] == "www.example"
    assert net.resolver.gethostbyaddr("www.example")[0] == "www.example"
    assert net.resolver.getnameinfo(("10.9.0.80", 80), 0) == ("www.example", "http")
    assert net.resolver.getfqdn("10.9.0.80") == "www.example"
    with pytest.raises(socket.herror) as error:
        net.resolver.gethostbyaddr("10.9.0.99")
    assert error.value.errno == 1
    assert net.resolver.getnameinfo(("10.9.0.99", 80), 0) == ("10.9.0.99", "http")
    with pytest.raises(socket.gaierror) as error:
        net.resolver.getnameinfo(("10.9.0.99", 80), socket.NI_NAMEREQD)
    assert error.value.errno == socket.EAI_NONAME


def test_international_names_are_asked_for_by_idna(net):
    net.server.records.update(parse_zone("xn--bcher-kva.example. 300 A 10.9.0.70"))
    assert net.addresses("bücher.example") == ["10.9.0.70"]


def test_a_socket_connects_by_name(net):
    listener = net.serving.create_server(("10.9.0.80", 7))
    with net.host.socket() as s, listener:
        s.settimeout(30)
        s.connect(("four.example", 7))
        assert s.getpeername() == ("10.9.0.80", 7)


# --- the search list --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, ndots, asked", [
    ("deep", 1, ["deep.lab.example."]), ("deep.", 1, ["deep."]),
    ("four.example", 1, ["four.example."]),
    ("four.example", 2, ["four.example.lab.example.", "four.example.corp.example.", "four.example."]),
    ("no.where", 1, ["no.where.", "no.where.lab.example.", "no.where.corp.example."]),
    ("nowhere", 0, ["nowhere.", "nowhere.lab.example.", "nowhere.corp.example."]),
])
def test_the_search_list_is_tried_as_resolv_conf_says(name, ndots, asked):
    with world(search=("lab.example", "corp.example"), ndots=ndots) as net:
        server = net.serve(ZONE)
        try:
            net.addresses(name, socket.AF_INET)
        except socket.gaierror as error:
            assert error.errno == socket.EAI_NONAME
        assert [name for name, _, _ in server.asked] == asked


def test_a_server_that_fails_does_not_make_the_next_candidate_true():
    with world(search=("lab.example", "corp.example"), attempts=1) as net:
        def fails_for_the_first(query, response, transport):
            if query.question[0].name == dns.name.from_text("deep.lab.example."):
                response.set_rcode(dns.rcode.SERVFAIL)
                response.answer = []
            return response

        net.serve(ZONE, change=fails_for_the_first)
        assert net.fails("deep", socket.AF_INET) == socket.EAI_AGAIN


# --- servers that are slow, broken or gone ----------------------------------------------------------------------------

def test_what_is_lost_is_asked_again():
    with world(timeout=0.3) as net:
        lost = []

        def lose_the_first(query, response, transport):
            if len(lost) < 2:
                lost.append(query)
                return None
            return response

        server = net.serve(ZONE, change=lose_the_first)
        assert net.addresses("four.example") == ["10.9.0.80"]
        assert len(server.asked) == 4
        assert len(set(server.ids)) == 4 and len(server.ports) == 2, "new ids and a new port"


def test_only_what_is_missing_is_asked_again():
    with world(timeout=0.3) as net:
        seen = []

        def lose_aaaa_once(query, response, transport):
            seen.append(query.question[0].rdtype)
            return None if seen[-1] == 28 and seen.count(28) == 1 else response

        net.serve(ZONE, change=lose_aaaa_once)
        assert len(net.addresses("www.example")) == 2
        assert sorted(seen) == [1, 28, 28]


def test_silence_is_a_temporary_failure_and_an_answer_for_one_family_is_one():
    with world(timeout=0.2) as net:
        server = net.serve(ZONE, change=lambda query, response, transport: None)
        assert net.fails("four.example") == socket.EAI_AGAIN
        wait_until(lambda: len(server.asked) == 4)         # 2 attempts of 2 questions
        server.change = lambda query, response, transport: response if query.question[0].rdtype == 1 else None
        assert net.addresses("four.example") == ["10.9.0.80"]
        assert net.fails("empty.example") == socket.EAI_AGAIN
        with pytest.raises(NoAnswer):
            net.resolver.stub.pointers(Found(socket.AF_INET, "10.9.0.80"))
        with pytest.raises(socket.herror) as error:
            net.resolver.gethostbyaddr("10.9.0.80")
        assert error.value.errno == 2


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.FORMERR])
def test_the_next_server_is_asked_when_one_refuses_and_then_first(rcode):
    with world(ADDRESS, "10.9.0.54") as net:
        def refuse(query, response, transport):
            response.set_rcode(rcode)
            response.answer = []
            return response

        bad, good = net.serve(ZONE, change=refuse), net.serve(ZONE, "10.9.0.54")
        assert net.addresses("four.example", socket.AF_INET) == ["10.9.0.80"]
        before = len(bad.asked)
        assert before and good.asked
        assert net.addresses("www.example", socket.AF_INET) == ["10.9.0.80"]
        assert len(bad.asked) == before, "not asked while another one answers"


def test_a_server_that_is_not_there_is_passed_over_at_once():
    with world("10.9.0.54", ADDRESS, timeout=30.0) as net:         # port unreachable: no timeout is waited for
        net.serve(ZONE)
        assert net.addresses("four.example") == ["10.9.0.80"]


def test_rotate_spreads_the_questions():
    with world(ADDRESS, "10.9.0.54", rotate=True) as net:
        one, two = net.serve(ZONE), net.serve(ZONE, "10.9.0.54")
        for name in ("www.example", "four.example", "many.example", "alias.example"):
            net.addresses(name, socket.AF_INET)
        assert len(one.asked) == len(two.asked) == 2


def test_without_servers_only_the_hosts_file_counts():
    config = netstack.ResolverConfig(servers=(), hosts="10.9.0.7 known.example\n")
    with netstack.Host(address="10.9.0.1/24", resolver=config) as host:
        assert host.resolver.gethostbyname("known.example") == "10.9.0.7"
        with pytest.raises(socket.gaierror) as error:
            host.resolver.gethostbyname("four.example")
        assert error.value.errno == socket.EAI_NONAME


def test_a_host_with_no_way_to_a_server_fails_at_once():
    config = netstack.ResolverConfig(servers=("203.0.113.53",), timeout=30.0)
    wire = netstack.link.QueueLink(media="ethernet", mtu=1500)
    with netstack.Host(link=wire, address="10.5.0.1/24", resolver=config) as host:     # no gateway
        with pytest.raises(socket.gaierror) as error:
            host.getaddrinfo("four.example", 80)
        assert error.value.errno == socket.EAI_AGAIN
    with netstack.Host(address="10.5.0.1/24") as host:             # no link: whatever resolv.conf says
        with pytest.raises(socket.gaierror) as error:
            host.getaddrinfo("four.example", 80)
        assert error.value.errno == socket.EAI_NONAME


@pytest.mark.timeout(120)
def test_a_router_that_knows_no_way_to_the_servers_ends_it_at_once():
    """Its ICMP error is heard (IP_RECVERR): ten tries of 30 seconds are not waited for."""
    config = netstack.ResolverConfig(servers=("203.0.113.53", "203.0.113.54"), timeout=30.0, attempts=5)
    with netstack.Router("10.88.0.0/16") as router, netstack.attach(router.name, resolver=config, drain=1) as host:
        with pytest.raises(socket.gaierror) as error:
            host.getaddrinfo("four.example", 80)
        assert error.value.errno == socket.EAI_AGAIN


# --- EDNS, TCP --------------------------------------------------------------------------------------------------------

def test_edns_says_how_much_we_take_and_is_left_out_for_who_does_not_know_it(net):
    net.addresses("www.example", socket.AF_INET)
    assert net.server.edns == [0]

    def knows_no_edns(query, response, transport):
        if query.edns >= 0:
            bare = dns.message.Message(id=query.id)
            bare.flags = dns.flags.QR
            bare.set_rcode(dns.rcode.FORMERR)
            return bare
        return response

    net.server.change = knows_no_edns
    assert net.addresses("four.example", socket.AF_INET) == ["10.9.0.80"]
    assert net.server.edns == [0, 0, -1]
    net.addresses("many.example", socket.AF_INET)
    assert net.server.edns == [0, 0, -1, -1], "remembered"
    query = make_query(dns.name.from_text("x.example."), 1, 1232)
    assert (query.edns, query.payload, bool(query.flags & dns.flags.RD)) == (0, 1232, True)


def test_a_truncated_answer_is_asked_for_again_over_tcp(net):
    lots = "\n".join(f"lots.example. 300 A 10.8.{n // 250}.{n % 250}" for n in range(400))
    net.server.records.update(parse_zone(lots))

    def cut(query, response, transport):
        if transport == "UDP":
            response.flags |= dns.flags.TC
            response.answer = response.answer and [dns.rrset.from_text("lots.example.", 1, "IN", "A", "6.6.6.6")]
        return response

    net.server.change = cut
    assert len(net.addresses("lots.example", socket.AF_INET)) == 400
    assert [transport for _, _, transport in net.server.asked] == ["UDP", "TCP"]


def test_tcp_alone_if_it_is_wanted():
    with world(tcp=True) as net:
        server = net.serve(ZONE)
        assert len(net.addresses("www.example")) == 2
        assert {transport for _, _, transport in server.asked} == {"TCP"}


# --- the cache --------------------------------------------------------------------------------------------------------

def test_answers_are_kept_as_long_as_they_say_and_no_longer(net):
    now = [1000.0]
    net.resolver.stub.cache = Cache(4, lambda: now[0])
    net.addresses("four.example", socket.AF_INET)
    now[0] += 299
    net.addresses("four.example", socket.AF_INET)
    assert len(net.server.asked) == 1
    now[0] += 2
    net.addresses("four.example", socket.AF_INET)
    assert len(net.server.asked) == 2


def test_a_no_is_kept_as_long_as_the_soa_says(net):
    now = [1000.0]
    net.resolver.stub.cache = Cache(4, lambda: now[0])
    for wait, asked in ((0, 1), (59, 1), (2, 2)):
        now[0] += wait
        assert net.fails("none.example", socket.AF_INET) == socket.EAI_NONAME
        assert len(net.server.asked) == asked
    net.server.change = lambda query, response, transport: (response.authority.clear(), response)[1]
    for _ in range(2):
        net.fails("other.example", socket.AF_INET)
    assert len(net.server.asked) == 4, "without proof nothing is kept (RFC 2308 section 5)"


def test_the_cache_is_bounded_and_its_oldest_go_first():
    now = [0.0]
    cache = Cache(3, lambda: now[0])
    for n in range(5):
        cache.put(n, n, 10)
        cache.get(2)
    assert len(cache) == 3 and [cache.get(n) for n in range(5)] == [None, None, 2, 3, 4]
    now[0] = 10
    assert cache.get(4) is None and len(cache) == 2
    cache.put(9, 9, 0)
    assert cache.get(9) is None
    nothing = Cache(0, lambda: now[0])
    nothing.put(1, 1, 100)
    assert nothing.get(1) is None


def test_ids_and_ports_are_not_guessable(net):
    net.resolver.stub.cache = Cache(0, lambda: 0.0)
    for _ in range(40):
        net.addresses("four.example", socket.AF_INET)
    assert len(net.server.ports) >= 39 and len(set(net.server.ids)) >= 39
    for values in (sorted(net.server.ports), sorted(net.server.ids)):
        assert values[-1] - values[0] > 20000


# --- whole programs ---------------------------------------------------------------------------------------------------

def test_programs_resolve_through_their_own_stack_in_every_thread(net):
    def serve(listener):
        for _ in range(3):
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    listener = net.serving.create_server(("10.9.0.80", 80))
    thread = threading.Thread(target=serve, args=(listener,))
    thread.start()
    try:
        with net.host.patch():
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            assert opener.open("http://four.example/", timeout=30).read() == b"hello"

            async def fetch():
                reader, writer = await asyncio.open_connection("alias.example", 80, family=socket.AF_INET)
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                out = await reader.read()
                writer.close()
                return out

            assert asyncio.run(fetch()).endswith(b"hello")
            assert socket.gethostbyname("many.example").startswith("10.9.0.8")
            socket.create_connection(("www.example", 80), 30).close()
    finally:
        thread.join(30)
        listener.close()
    assert ("alias.example.", "A", "UDP") in net.server.asked


def test_looking_names_up_loads_no_ssl_or_asyncio():
    from tests.test_imports import HEAVY, loaded_by

    loaded = loaded_by("import dns.message, dns.reversename, netstack.resolver.messages, netstack.resolver.stub")
    assert "dns.message" in loaded and not HEAVY & loaded
    assert "dns.message" not in loaded_by("import netstack.host, netstack.resolver.stub")
