"""Several pools on one router: which one an address is of, what a stack gets that asks for none, and IPv6's size."""

import ipaddress
import os
import tracemalloc

import pytest

from netstack.errors import AddressTakenError, ConfigError, PoolEmptyError, RouterError
from netstack.router import Router
from netstack.router.pool import HOLD_NS, AddressPool, format_address, pack_address
from netstack.router.pools import ANY_V4, ANY_V6, PoolConfig, Pools, unique_local_network
from tests.support import scale

FOUR, SIX = "10.77.0.0/16", "fd77::/64"


class Clock:
    now = 1_000_000_000

    def __call__(self):
        return self.now


def lease(pools, wanted, owner="a", **options):
    return format_address(pools.lease(owner, 1000, wanted, **options)[0].address)


# ---- how they are written


def test_pools_as_written():
    assert PoolConfig.parse("10.0.0.0/8") == PoolConfig("10.0.0.0/8")
    assert PoolConfig.parse("fd77::/64,addressing=interface") == PoolConfig("fd77::/64", "interface")
    assert [str(pool.network) for pool in Pools([SIX, FOUR])] == [SIX, FOUR], "in their order"


@pytest.mark.parametrize("text", ["10.0.0.0/8,", "10.0.0.0/8,addressing", "10.0.0.0/8,addressing=core",
                                  "fd77::/64,colour=blue"])
def test_unknown_settings_of_a_pool(text):
    with pytest.raises(ConfigError, match="unknown option"):
        PoolConfig.parse(text)


@pytest.mark.parametrize("pools", [[FOUR, "10.77.4.0/24"], ["fd77:0:0:0:8000::/65", SIX], [SIX, FOUR, SIX]])
def test_overlapping_pools_are_refused(pools):
    with pytest.raises(ConfigError, match=r"pools .* and .* overlap"):
        Pools(pools)


@pytest.mark.parametrize("network", ["127.0.0.0/24", "224.0.0.0/24", "0.0.0.0/8", "::/64", "ff0e::/64", "fe80::/64",
                                     "::ffff:10.0.0.0/120", "::/0", "fd77::/127"])
def test_networks_that_no_router_forwards_to(network):
    with pytest.raises(ConfigError, match="pool"):
        Pools([network])


def test_number_of_pools():
    for n in (0, 17):
        with pytest.raises(ConfigError, match="1 to 16"):
            Pools([f"10.{i}.0.0/16" for i in range(n)])


# ---- the network of a router that was given none


def test_default_network_of_ipv6_is_unique_local_and_stays(monkeypatch, tmp_path):
    identity = tmp_path / "machine-id"
    monkeypatch.setattr("netstack.router.pools.MACHINE_ID", str(identity))
    identity.write_text("0123456789abcdef0123456789abcdef\n")
    network = unique_local_network("default")
    assert network.subnet_of(ipaddress.IPv6Network("fd00::/8")) and network.prefixlen == 64
    assert network == unique_local_network("default"), "the same at each start"
    assert network.network_address.packed[6:] == bytes(10), "the first network of its /48"
    others = {unique_local_network(f"router-{i}") for i in range(1000)}
    assert len(others) == 1000 and network not in others
    identity.write_text("1123456789abcdef0123456789abcdef\n")
    assert unique_local_network("default") != network, "another machine"
    assert b"\x01\x23\x45\x67" not in network.network_address.packed, "the identity is nobody's business"


@pytest.mark.parametrize("content", [None, "", "uninitialized\n"])
def test_without_an_identity_of_the_machine_the_folder_has_one(monkeypatch, tmp_path, runtime, content):
    """As in containers: a router that was killed comes back with the addresses that it had given."""
    identity = tmp_path / "machine-id"
    monkeypatch.setattr("netstack.router.pools.MACHINE_ID", str(identity))
    if content is not None:
        identity.write_text(content)
    network = unique_local_network("default")
    assert unique_local_network("default") == network != unique_local_network("other")
    assert os.stat(f"{runtime}/identity").st_mode & 0o777 == 0o600
    monkeypatch.setenv("NETSTACK_RUNTIME_DIR", str(tmp_path / "elsewhere"))
    assert unique_local_network("default") != network


# ---- which address


def test_a_stack_that_asks_for_none_gets_one_of_each_version():
    pools = Pools([SIX, "10.88.0.0/24", FOUR])
    assert pools.wanted([], 1500) == [ANY_V4, ANY_V6], "IPv4 first"
    assert lease(pools, ANY_V4) == "10.88.0.2" and pack_address(lease(pools, ANY_V6)) in pools.pools[0]
    assert Pools([SIX]).wanted([], 1500) == [ANY_V6] and Pools([FOUR]).wanted([], 576) == [ANY_V4]


def test_a_small_mtu_carries_no_ipv6():
    pools = Pools([FOUR, SIX])
    assert pools.wanted([], 1279) == [ANY_V4]
    for asked in (ANY_V6, pack_address("fd77::9")):
        with pytest.raises(RouterError, match="1280"):
            pools.wanted([asked], 1279)
    with pytest.raises(RouterError, match="1280"):
        Pools([SIX]).wanted([], 1279)


@pytest.mark.parametrize("asked, why", [("10.78.0.1", "not in the pools"), ("fd78::1", "not in the pools")])
def test_an_address_of_no_pool(asked, why):
    with pytest.raises(RouterError, match=why):
        Pools([FOUR, SIX]).wanted([pack_address(asked)], 1500)


def test_any_address_of_a_version_that_there_is_not():
    with pytest.raises(RouterError, match="no IPv6 address"):
        Pools([FOUR]).wanted([ANY_V6], 1500)
    with pytest.raises(RouterError, match="no IPv4 address"):
        Pools([SIX]).wanted([ANY_V4], 1500)


def test_an_empty_pool_is_followed_by_the_next_of_its_version():
    pools = Pools(["10.0.0.0/30", SIX, "10.1.0.0/30"])
    assert [lease(pools, ANY_V4) for _ in range(2)] == ["10.0.0.2", "10.1.0.2"]
    with pytest.raises(PoolEmptyError, match="10.1.0.0/30"):
        lease(pools, ANY_V4)
    assert pools.release(pack_address("10.0.0.2"), "a") and lease(pools, ANY_V4) == "10.0.0.2"


def test_holds_of_all_pools():
    clock = Clock()
    pools = Pools([FOUR, SIX], clock=clock)
    both = [pools.lease("a", 1000, each, b"t" * 16)[0] for each in (ANY_V4, ANY_V6)]
    for each in both:
        assert pools.hold(each.address, "a")
        with pytest.raises(AddressTakenError, match="held"):
            pools.check(each.address, 1000)
        pools.check(each.address, 1000, b"t" * 16)
    assert pools.next_expiry_ns() == clock.now + HOLD_NS and pools.expire() == []
    clock.now += HOLD_NS
    assert set(pools.expire()) == {each.address for each in both} and pools.next_expiry_ns() is None


def test_shared_addresses_are_of_the_first_pool_of_their_version():
    pools = Pools([FOUR, f"{SIX},addressing=interface", "fd88::/64"])
    assert [format_address(a) for a in pools.shared] == ["fd77::2"]
    assert pools.shared_address(ANY_V6) == pack_address("fd77::2")
    assert pools.shared_address(ANY_V4) is None and pools.shared_address(pack_address("fd77::9")) is None
    pools = Pools([f"{FOUR},addressing=process", SIX], addressing="interface")
    assert pools.shared == [pack_address("fd77::2")]
    with pytest.raises(ConfigError, match="first IPv6 pool, fd77::/64"):
        Pools([SIX, "fd88::/64,addressing=interface"])


# ---- a network too large to count through


def test_addresses_of_a_large_network_say_little():
    """As many as hosts may have: no two alike, none in order, each bit set in about half of them."""
    pool = AddressPool(SIX)
    leased = [pool.lease("a", 0)[0].address for _ in range(2000)]
    assert len(set(leased)) == 2000 and all(address in pool for address in leased)
    assert leased != sorted(leased)
    identifiers = [int.from_bytes(address[8:], "big") for address in leased]
    for bit in range(64):
        assert 850 < sum(i >> bit & 1 for i in identifiers) < 1150, f"bit {bit}"      # 6.7 standard deviations
    assert {format_address(a) for a in leased}.isdisjoint(
        {format_address(a) for a in (AddressPool(SIX).lease("a", 0)[0].address for _ in range(100))})


def test_identifiers_of_no_single_host_are_not_drawn(monkeypatch):
    """The subnet's routers (RFC 4291 section 2.6.1), the router, the reserved anycast ones (RFC 2526)."""
    draws = iter([0, 1, 0xFDFFFFFFFFFFFF80, 0xFDFFFFFFFFFFFFFF, 77])
    monkeypatch.setattr("netstack.router.pool.secrets.randbits", lambda bits: next(draws))
    assert format_address(AddressPool(SIX).lease("a", 0)[0].address) == "fd77::4d"


def test_drawing_passes_over_what_is_leased_held_or_rests(monkeypatch):
    pool = AddressPool(SIX)
    for number, fate in ((20, "leased"), (21, "held"), (22, "resting")):
        address = pack_address(f"fd77::{number:x}")
        pool.lease(fate, 0, address)
        if fate == "held":
            pool.hold(address, fate)
        elif fate == "resting":
            pool.release(address, fate)
    draws = iter([20, 21, 22, 23])
    monkeypatch.setattr("netstack.router.pool.secrets.randbits", lambda bits: next(draws))
    assert format_address(pool.lease("a", 0)[0].address) == "fd77::17"
    monkeypatch.setattr("netstack.router.pool.secrets.randbits", lambda bits: 20)
    with pytest.raises(PoolEmptyError, match="fd77::/64"):
        pool.lease("a", 0)
    assert format_address(pool.lease("a", 0, pack_address("fd77::16"))[0].address) == "fd77::16", "asked for by name"


@pytest.mark.parametrize("network", [SIX, "fd00::/8", "fd77::/104"])
def test_leases_of_a_large_network_neither_count_nor_remember_without_end(monkeypatch, network):
    monkeypatch.setattr("netstack.router.pool.RESTING_LIMIT", 100)
    pool = AddressPool(network)
    tracemalloc.start()
    try:
        for i in range(scale(100_000)):
            if i == 1000:
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
            pool.release(pool.lease("a", 0)[0].address, "a")
            pool.forget()
        assert tracemalloc.get_traced_memory()[1] - before < 64 << 10
    finally:
        tracemalloc.stop()
    assert len(pool) == 0 and len(pool._resting) == 100


# ---- a router of several


def test_router_of_both_versions(runtime):
    with Router([FOUR, SIX, "10.88.0.0/24"], ring_capacity=1 << 18) as router:
        assert router.pools == [FOUR, SIX, "10.88.0.0/24"] and router.addresses == ["10.77.0.1", "fd77::1", "10.88.0.1"]
        with router.attach() as both, router.attach("::") as six, router.attach("0.0.0.0") as four:
            assert both.addresses[0] == "10.77.0.2" and both.prefix_lengths == (16, 64)
            assert both.router_addresses == ("10.77.0.1", "fd77::1") and both.router_address == "10.77.0.1"
            assert len(six.addresses) == 1 and pack_address(six.address) in router._pools.pools[1]
            assert six.router_addresses == ("fd77::1",) and six.prefix_lengths == (64,)
            assert four.addresses == ("10.77.0.3",) and four.router_addresses == ("10.77.0.1",)
            assert [len(info.addresses) for info in router.attachments()] == [2, 1, 1]
        with router.attach(["fd77::80", "10.88.0.9"], mtu=1280) as asked, router.attach(mtu=1279) as small:
            assert asked.addresses == ("fd77::80", "10.88.0.9") and asked.prefix_lengths == (64, 24)
            assert len(small.addresses) == 1
            with pytest.raises(AddressTakenError, match="fd77::80"):
                router.attach("fd77::80")
        for wrong in ("fd88::1", "10.99.0.1", "fd77::", "fd77::1"):
            with pytest.raises(RouterError):
                router.attach(wrong)
        with pytest.raises(RouterError, match="1280"):
            router.attach("::", mtu=1000)
        assert router.check_conservation() == []


def test_address_of_ipv6_comes_back_with_its_token(runtime):
    with Router([FOUR, SIX], ring_capacity=1 << 18) as router:
        first = router.attach()
        with router.attach(first.addresses, token=first.token) as again:
            assert again.addresses == first.addresses and again.epoch == 2
            assert [info.addresses for info in router.attachments()] == [(), tuple(map(pack_address, again.addresses))]
            first.close()


def test_addressing_of_each_pool(runtime):
    """One address for all in one version, one for each in the other."""
    with Router([f"{FOUR},addressing=interface", SIX], ring_capacity=1 << 18) as router:
        assert router.shared_addresses == ["10.77.0.2"]
        with router.attach() as a, router.attach() as b, router.attach("::") as six:
            assert a.address == b.address == "10.77.0.2" and a.addresses[1] != b.addresses[1]
            assert a.ports is not None and six.ports is None
            a.ports.claim(0, 80)
            with pytest.raises(OSError, match="Address already in use"):
                b.ports.claim(0, 80)


def test_default_router_has_both_versions(runtime):
    with Router(name="v6", ring_capacity=1 << 18) as router, router.attach() as a:
        assert router.pools == [FOUR, str(unique_local_network("v6"))]
        assert [ipaddress.ip_address(each).version for each in a.addresses] == [4, 6]
