"""Longest-prefix match against a model that looks at every prefix."""

import array
import ipaddress
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.route_tables import bgp_like, entry
from netstack.router.prefixes import PrefixTable
from tests.support import scale

WIDTH = {4: 32, 6: 128}
NETWORK = {4: ipaddress.IPv4Network, 6: ipaddress.IPv6Network}
ADDRESS = {4: ipaddress.IPv4Address, 6: ipaddress.IPv6Address}


def network(version, address, length):
    """The prefix of an address."""
    bits = WIDTH[version]
    return NETWORK[version]((address >> (bits - length) << (bits - length), length))


class Model:
    """The same by definition."""

    def __init__(self, version):
        self.bits = WIDTH[version]
        self.hops = {}                     # (address, length) -> answer

    def set(self, net, hop):
        self.hops[int(net.network_address), net.prefixlen] = hop

    def remove(self, net):
        return self.hops.pop((int(net.network_address), net.prefixlen))

    def find(self, address):
        for length in range(self.bits, -1, -1):
            hop = self.hops.get((address >> (self.bits - length) << (self.bits - length), length))
            if hop is not None:
                return hop
        return 0

    def edges(self):
        """The first and the last address of each prefix, and their neighbours."""
        for address, length in list(self.hops):
            last = address | (1 << (self.bits - length)) - 1
            yield from (a for a in (address - 1, address, last, last + 1) if 0 <= a < 1 << self.bits)


def find_all(table, addresses):
    raw = b"".join(a.to_bytes(WIDTH[table.version] // 8, "big") for a in addresses)
    out = array.array("H", bytes(2 * len(addresses)))
    table.find_many(raw, out)
    return list(out)


def agree(table, model, more=()):
    addresses = [*model.edges(), *more]
    assert find_all(table, addresses) == [model.find(a) for a in addresses]
    assert len(table) == len(model.hops)


# Few bits differ, so that prefixes nest and meet; all lengths, and each border of the structure.
@st.composite
def prefixes(draw, version):
    bits = WIDTH[version]
    base = draw(st.sampled_from([0, 0b1010 << (bits - 4), (1 << bits) - 1]))
    flips = draw(st.lists(st.integers(0, bits - 1), max_size=3))
    for flip in flips:
        base ^= 1 << flip
    length = draw(st.one_of(st.integers(0, bits), st.sampled_from([0, 1, 17, 18, 19, 23, 24, 25, 30, 31, 32, bits])))
    return network(version, base, length)


@pytest.mark.parametrize("portable", [False, True], ids=["", "portable"])
@pytest.mark.parametrize("version", [4, 6])
@settings(max_examples=scale(1500), deadline=None)
@given(data=st.data())
def test_any_changes_leave_what_the_model_says(version, portable, data):
    table, model = PrefixTable(version, portable=portable), Model(version)
    strangers = data.draw(st.lists(st.integers(0, (1 << WIDTH[version]) - 1), max_size=5))
    for net, hop in data.draw(st.lists(st.tuples(prefixes(version), st.integers(0, 3)), max_size=40)):
        if hop:
            assert table.set(net, hop) == model.hops.get((int(net.network_address), net.prefixlen), 0)
            model.set(net, hop)
        elif (int(net.network_address), net.prefixlen) in model.hops:
            assert table.remove(net) == model.remove(net)
        else:
            with pytest.raises(KeyError, match="not in the table"):
                table.remove(net)
        agree(table, model, strangers)
    assert [(int(n.network_address), n.prefixlen, h) for n, h in table.items()] == [
        (*key, hop) for key, hop in sorted(model.hops.items())]


@pytest.mark.parametrize("version", [4, 6])
def test_a_table_of_the_internets_shape_loaded_and_changed(version):
    n = scale(100_000, 2000)
    dice = random.Random(version)
    packed = bgp_like(n, version=version, seed=3)
    size = WIDTH[version] // 8 + 4
    table, model = PrefixTable(version), Model(version)
    table.load(packed)
    for at in range(0, len(packed), size):
        model.hops[int.from_bytes(packed[at : at + size - 4], "big"), packed[at + size - 4]] = \
            int.from_bytes(packed[at + size - 2 : at + size], "little")
    some = [dice.getrandbits(WIDTH[version]) for _ in range(1000)]
    agree(table, model, some)
    known = list(model.hops)
    before = table.memory()["lookup"]
    for _ in range(scale(20_000, 500)):        # withdrawn, announced again with another answer
        address, length = known[dice.randrange(len(known))]
        net = NETWORK[version]((address, length))
        if (address, length) in model.hops and dice.random() < 0.5:
            assert table.remove(net) == model.remove(net)
        else:
            hop = dice.randint(1, 64)
            table.set(net, hop)
            model.set(net, hop)
    agree(table, model, some)
    # what was freed is used again: the change of a prefix costs no memory for good
    assert table.memory()["lookup"] < 1.5 * before
    for address, length in list(model.hops):
        table.remove(NETWORK[version]((address, length)))
        model.hops.pop((address, length))
    agree(table, model, some)


def test_loading_and_adding_one_by_one_give_the_same():
    packed = bgp_like(scale(20_000, 1000), seed=5)
    loaded, added = PrefixTable(), PrefixTable()
    loaded.load(packed)
    for net, hop in loaded.items():
        added.set(net, hop)
    assert list(loaded.items()) == list(added.items())
    dice = random.Random(6)
    addresses = [int(net.network_address) + dice.randrange(net.num_addresses) for net, _ in loaded.items()]
    assert find_all(loaded, addresses) == find_all(added, addresses)


def test_a_short_prefix_in_the_middle_of_long_ones_comes_and_goes():
    table, model = PrefixTable(), Model(4)
    for i in range(0, 1 << 16, 257):
        net = network(4, 0x0A000000 | i << 8, 24 + i % 9)
        table.set(net, 1 + i % 5)
        model.set(net, 1 + i % 5)
    for length in (8, 0, 1, 17, 18, 9):
        net = network(4, 0x0A000000, length)
        table.set(net, 100 + length)
        model.set(net, 100 + length)
        agree(table, model, range(0, 1 << 32, 0x01010101))
    for length in (0, 18, 8, 1, 9, 17):
        net = network(4, 0x0A000000, length)
        assert table.remove(net) == 100 + length == model.remove(net)
        agree(table, model, range(0, 1 << 32, 0x01010101))


def test_an_empty_table_costs_nothing_and_finds_nothing():
    table = PrefixTable(6)
    assert table.find("2001:db8::1") == 0 and table.memory() == {"lookup": 0, "prefixes": 0}
    table.set("::/0", 7)
    assert table.find("2001:db8::1") == 7 == table.get("::/0") and table.memory()["lookup"] == 0


def test_a_million_real_prefixes_take_less_than_16_bytes_each():
    n = scale(1_000_000)
    table = PrefixTable()
    table.load(bgp_like(n))
    memory = table.memory()
    fixed = 1 << 20                            # the array of the first 18 bits
    assert (sum(memory.values()) - fixed) / n < 16 - fixed / 1e6


@pytest.mark.parametrize("entries, complaint", [
    (entry(0x0A000000, 8, 1) + b"x", "entries of 8 bytes"),
    (entry(0x0A000001, 8, 1), r"bits set beyond it: 10\.0\.0\.0/8"),
    (entry(0x0A000000, 33, 1), "at most 32 bits"),
    (entry(0x0A000000, 8, 0), "answer 0"),
    (entry(0x0A000000, 8, 1) * 2, r"10\.0\.0\.0/8 twice"),
])
def test_what_cannot_be_loaded_says_why(entries, complaint):
    table = PrefixTable()
    with pytest.raises(ValueError, match=complaint):
        table.load(entries)
    assert len(table) == 0 and table.find("10.0.0.1") == 0


def test_other_mistakes():
    table = PrefixTable()
    with pytest.raises(ValueError, match="not of version 4"):
        table.set("fd00::/8", 1)
    with pytest.raises(ValueError, match="host bits"):
        table.set("10.0.0.1/8", 1)
    with pytest.raises(ValueError, match="answer 0"):
        table.set("10.0.0.0/8", 0)
    with pytest.raises(OverflowError):
        table.set("10.0.0.0/8", 65536)
    with pytest.raises(ValueError, match="bytes for answers"):
        table.find_many(bytes(8), bytearray(2))
    with pytest.raises(ValueError, match="4 or 6"):
        PrefixTable(5)
    assert len(table) == 0
