"""Routes: the longest prefix wins, as Python's ipaddress would say."""

import errno
import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from netstack.testing.probe import RouteProbe

# few distinct bits, so that prefixes overlap and lookups hit
addresses = st.lists(st.sampled_from([0, 1, 10, 128, 255]), min_size=4, max_size=4).map(
    lambda b: str(ipaddress.IPv4Address(bytes(b)))
)
prefixes = st.tuples(addresses, st.integers(0, 32)).map(
    lambda p: str(ipaddress.ip_network(f"{p[0]}/{p[1]}", strict=False))
)
changes = st.lists(st.tuples(st.booleans(), prefixes, st.one_of(st.none(), addresses), st.integers(0, 7)), max_size=40)


@given(changes, st.lists(addresses, min_size=1, max_size=20))
def test_the_table_is_a_dictionary_searched_by_longest_prefix(steps, wanted):
    table, model = RouteProbe(), {}
    for adding, prefix, gateway, interface in steps:
        if adding:
            assert table.add(prefix, gateway, interface) == (-errno.EEXIST if prefix in model else 0)
            model.setdefault(prefix, (interface, gateway))
        else:
            assert table.remove(prefix) == (0 if model.pop(prefix, None) else -errno.ESRCH)
    for dst in wanted:
        hits = [p for p in map(ipaddress.ip_network, model) if ipaddress.ip_address(dst) in p]
        if not hits:
            assert table.lookup(dst) is None
            continue
        interface, gateway = model[str(max(hits, key=lambda p: p.prefixlen))]
        on_link = gateway is None or gateway == "0.0.0.0"
        assert table.lookup(dst) == (interface, dst if on_link else gateway)


def test_host_bits_of_a_prefix_are_ignored():
    table = RouteProbe()
    assert table.add("10.0.0.77/24", None, 3) == 0
    assert table.add("10.0.0.0/24") == -errno.EEXIST
    assert table.lookup("10.0.0.1") == (3, "10.0.0.1")
    assert table.remove("10.0.0.5/24") == 0
    assert table.lookup("10.0.0.1") is None


def test_a_default_route_takes_what_is_left():
    table = RouteProbe()
    table.add("0.0.0.0/0", "10.0.0.254", 1)
    table.add("10.0.0.0/24", None, 2)
    table.add("10.0.0.9/32", "10.0.0.8", 2)
    assert table.lookup("10.0.0.1") == (2, "10.0.0.1")
    assert table.lookup("10.0.0.9") == (2, "10.0.0.8")
    assert table.lookup("8.8.8.8") == (1, "10.0.0.254")


def test_lengths_beyond_the_address_are_refused():
    assert RouteProbe().add("10.0.0.0/33") == -errno.EINVAL
    assert RouteProbe().remove("10.0.0.0/33") == -errno.EINVAL
