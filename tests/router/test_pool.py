"""Addresses: which one next, who may have it, when it comes back."""

import pytest

from netstack.errors import AddressTakenError, ConfigError, PoolEmptyError, RouterError
from netstack.router.pool import HOLD_NS, AddressPool, format_address, pack_address


class Clock:
    now = 1_000_000_000

    def __call__(self):
        return self.now

TOKEN = bytes(range(16))


def lease(pool, owner="a", **options):
    address = options.pop("address", None)
    got, _ = pool.lease(
        owner, options.pop("uid", 1000), pack_address(address) if address else None, **options
    )
    return format_address(got.address)


def test_router_has_the_first_address_and_leases_begin_with_the_second():
    pool = AddressPool("10.77.0.0/16")
    assert format_address(pool.router_address) == "10.77.0.1"
    assert [lease(pool) for _ in range(3)] == ["10.77.0.2", "10.77.0.3", "10.77.0.4"]


def test_least_recently_used_address_is_leased_first():
    pool = AddressPool("10.0.0.0/29")  # .2 to .6
    owners = {lease(pool, name): name for name in "abcde"}
    for address in ("10.0.0.4", "10.0.0.2", "10.0.0.6"):
        assert pool.release(pack_address(address), owners[address])
    assert [lease(pool) for _ in range(3)] == ["10.0.0.4", "10.0.0.2", "10.0.0.6"]


def test_never_used_addresses_come_before_released_ones():
    pool = AddressPool("10.0.0.0/29")
    first = lease(pool, "a")
    pool.release(pack_address(first), "a")
    assert [lease(pool) for _ in range(5)] == ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"]


def test_empty_pool_says_so_and_recovers():
    pool = AddressPool("10.0.0.0/30")  # only .2
    lease(pool, "a")
    with pytest.raises(PoolEmptyError, match="larger pool"):
        lease(pool, "b")
    pool.release(pack_address("10.0.0.2"), "a")
    assert lease(pool, "b") == "10.0.0.2"


def test_requested_address_is_skipped_by_automatic_leases():
    pool = AddressPool("10.0.0.0/29")
    assert lease(pool, "a", address="10.0.0.3") == "10.0.0.3"
    assert [lease(pool) for _ in range(4)] == ["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"]


@pytest.mark.parametrize(
    "address, why",
    [
        ("10.0.0.1", "router's"),
        ("10.0.0.0", "network"),
        ("10.0.0.7", "broadcast"),
        ("10.0.0.5", "reserved"),
        ("192.0.2.1", "not in the pool"),
        ("fd00::1", "not in the pool"),
    ],
)
def test_addresses_that_are_never_leased(address, why):
    pool = AddressPool("10.0.0.0/29", reserved=["10.0.0.5"])
    with pytest.raises(RouterError, match=why):
        lease(pool, address=address)


def test_taken_address_needs_token_and_user():
    pool = AddressPool()
    got, _ = pool.lease("a", 1000, pack_address("10.77.1.1"), TOKEN)
    for uid, token in ((1000, None), (1000, b"x" * 16), (1001, TOKEN)):
        with pytest.raises(AddressTakenError, match="taken"):
            pool.lease("b", uid, got.address, token)
    again, previous = pool.lease("b", 1000, got.address, TOKEN)
    assert previous == "a" and again.owner == "b" and again.epoch == 2
    assert not pool.release(got.address, "a"), "the old owner has nothing to give back"
    assert pool.release(got.address, "b")


def test_epoch_rises_over_a_release():
    pool = AddressPool("10.0.0.0/30")
    epochs = []
    for _ in range(3):
        got, _ = pool.lease("a", 0)
        epochs.append(got.epoch)
        pool.release(got.address, "a")
    assert epochs == [1, 2, 3]


def test_held_address_waits_for_its_owner_and_then_is_free():
    clock = Clock()
    pool = AddressPool("10.0.0.0/30", clock=clock)
    got, _ = pool.lease("a", 1000, token=TOKEN)
    assert pool.hold(got.address, "a")
    assert pool.next_expiry_ns() == clock.now + HOLD_NS
    with pytest.raises(AddressTakenError, match="held"):
        pool.lease("b", 1000, got.address)
    with pytest.raises(PoolEmptyError):
        pool.lease("b", 1000)
    back, previous = pool.lease("c", 1000, got.address, TOKEN)
    assert previous is None and back.epoch == 2 and pool.next_expiry_ns() is None
    pool.hold(back.address, "c")
    clock.now += HOLD_NS
    assert lease(pool, "b", uid=1001) == "10.0.0.2"
    assert pool.expire() == [got.address], "the end of a hold is told even if a lease noticed it first"


def test_ipv6_pool():
    pool = AddressPool("fd77::/112")
    assert [lease(pool) for _ in range(2)] == ["fd77::2", "fd77::3"], "a small one is counted through"
    assert format_address(pool.router_address) == "fd77::1"


def test_memory_of_used_addresses_is_bounded(monkeypatch):
    monkeypatch.setattr("netstack.router.pool.RESTING_LIMIT", 4)
    pool = AddressPool("10.0.0.0/28")  # .2 to .14
    addresses = [lease(pool, "a") for _ in range(13)]
    for address in addresses:
        pool.release(pack_address(address), "a")
    assert [format_address(a) for a in pool.forget()] == addresses[:9]
    assert sorted(lease(pool) for _ in range(13)) == sorted(addresses), "what was forgotten can be leased"


@pytest.mark.parametrize("network", ["10.0.0.0/31", "10.0.0.0/99", "10.0.0.1/24", "pool", "10.0.0.0/32"])
def test_unusable_pools(network):
    with pytest.raises(ConfigError, match="pool"):
        AddressPool(network)
