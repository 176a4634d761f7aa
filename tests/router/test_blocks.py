"""Blocks of a pool: where they lie, who may have them, when they come back."""

import ipaddress
import random

import pytest

from netstack.errors import AddressTakenError, ConfigError, PoolEmptyError, RouterError
from netstack.router.blocks import first_host, parse_block
from netstack.router.journal import Journal
from netstack.router.pool import HOLD_NS, AddressPool, format_address, pack_address

TOKEN = bytes(range(16))


class Clock:
    now = 1_000_000_000

    def __call__(self):
        return self.now


def net(text):
    return ipaddress.ip_network(text)


def block(pool, wanted, owner="a", *, uid=1000, token=None):
    """The network of a leased block, as text."""
    return str(pool.blocks.lease(owner, uid, parse_block(wanted), token)[0].network)


def test_blocks_come_from_the_top_and_addresses_from_the_bottom():
    pool = AddressPool("10.77.0.0/24")
    got = [block(pool, 26), block(pool, "/27"), block(pool, 26)]
    assert got == ["10.77.0.128/26", "10.77.0.192/27", "10.77.0.64/26"]
    assert format_address(pool.lease("a", 1000)[0].address) == "10.77.0.2"


def test_a_block_is_written_in_several_ways():
    assert parse_block(26) == parse_block("26") == parse_block(" /26 ") == net("0.0.0.0/26")
    assert parse_block(64) == parse_block("/64") == net("::/64")
    assert parse_block("10.77.4.0/26") == net("10.77.4.0/26") == parse_block(net("10.77.4.0/26"))
    assert str(first_host(net("10.77.4.0/26"))) == "10.77.4.1"


@pytest.mark.parametrize("text, why", [("10.77.4.1/26", "host bits"), ("/129", "129"), ("-1", "write a length"),
                                       ("10.77.4.0", "one address"), ("x", "write a length"), (-3, "write a length")])
def test_what_is_no_block(text, why):
    with pytest.raises(ConfigError, match=why):
        parse_block(text)


@pytest.mark.parametrize("pool, wanted, why", [
    ("10.77.0.0/24", "/24", "from /25 .* to /30"), ("10.77.0.0/24", "/8", "larger pool"),
    ("10.77.0.0/24", 31, "to /30"), ("10.77.0.0/24", "/64", "from /25"),
    ("fd77::/48", "/127", "to /126"), ("fd77::/48", "::/48", "from /49"),
    ("10.77.0.0/30", "/30", "too small for blocks"), ("10.77.0.0/24", "10.78.0.0/26", "not in the pool .* any"),
    ("10.77.0.0/24", "10.77.0.0/26", "never leased: it is the router's"),
    ("10.77.0.0/24", "10.77.0.192/26", "255 of this block is never leased"),
    ("10.77.0.0/24", "10.77.0.96/27", "100 of this block is never leased"),
])
def test_blocks_that_cannot_be_had(pool, wanted, why):
    with pytest.raises(RouterError, match=why):
        block(AddressPool(pool, reserved=["10.77.0.100"]), wanted)


def test_leased_addresses_are_nobodys_block_and_blocks_nobodys_address():
    pool = AddressPool("10.77.0.0/24")
    pool.lease("a", 1000, pack_address("10.77.0.70"))
    with pytest.raises(AddressTakenError, match="70 of this block is another's: ask for any"):
        block(pool, "10.77.0.64/26")
    assert block(pool, "10.77.0.128/26") == "10.77.0.128/26"
    with pytest.raises(AddressTakenError, match="lies in the block 10.77.0.128/26"):
        pool.lease("b", 1000, pack_address("10.77.0.130"))
    for overlapping in ("10.77.0.128/27", "10.77.0.128/26", "10.77.0.160/30"):
        with pytest.raises(AddressTakenError, match="taken: ask for any"):
            block(pool, overlapping)
    with pytest.raises(PoolEmptyError, match="no free block /26.* smaller one, or .* larger pool"):
        block(pool, 26)


def test_all_addresses_that_are_in_no_block_can_be_had_and_no_other():
    pool = AddressPool("10.77.0.0/26")                                 # .2 to .62
    taken = net(block(pool, "/28"))
    got = []
    with pytest.raises(PoolEmptyError):
        while True:
            got.append(pool.lease("a", 1000)[0].address)
    assert len(got) == 61 - 16 and not any(ipaddress.ip_address(format_address(a)) in taken for a in got)
    pool.blocks.release(taken, "a")
    for _ in range(16):                                                # it rests no longer: nothing else is left
        assert ipaddress.ip_address(format_address(pool.lease("a", 1000)[0].address)) in taken
    assert pool.blocks.gone() == [taken], "nor is it answered for"
    with pytest.raises(PoolEmptyError):
        pool.lease("a", 1000)


def test_addresses_given_back_in_a_block_are_forgotten_and_taken_last():
    pool = AddressPool("10.77.0.0/24")
    used, _ = pool.lease("a", 1000, pack_address("10.77.0.130"))
    pool.release(used.address, "a")
    assert block(pool, 26) == "10.77.0.64/26", "another one is free that nobody used"
    assert block(pool, 26) == "10.77.0.128/26"
    assert pool.forget() == [used.address]


def test_a_block_rests_until_no_other_is_left_and_the_oldest_comes_first():
    pool = AddressPool("10.77.0.0/24")
    first, second = block(pool, 27, "a"), block(pool, 27, "b")
    assert pool.blocks.release(net(second), "b") and pool.blocks.release(net(first), "a")
    others = {block(pool, 27) for _ in range(4)}                       # 8 less the first, the last and these two
    assert not others & {first, second}
    assert block(pool, 27) == second and pool.blocks.gone() == [net(second)]


def test_what_was_given_back_is_part_of_larger_blocks():
    pool = AddressPool("10.77.0.0/24")
    small = [block(pool, 28) for _ in range(14)]                       # all but the first and the last
    with pytest.raises(PoolEmptyError):
        block(pool, 28)
    for each in small:
        pool.blocks.release(net(each), "a")
    assert {block(pool, 26), block(pool, 26)} == {"10.77.0.64/26", "10.77.0.128/26"}
    assert sorted(map(str, pool.blocks.gone()))[:2] == ["10.77.0.112/28", "10.77.0.128/28"]


def test_a_block_waits_for_its_owners_token():
    clock = Clock()
    pool = AddressPool("10.77.0.0/24", clock=clock)
    mine = net(block(pool, 26, "a", token=TOKEN))
    assert pool.blocks.hold(mine, "a", HOLD_NS) and not pool.blocks.release(mine, "a")
    assert pool.next_expiry_ns() == clock.now + HOLD_NS
    for uid, token in ((1000, None), (1000, b"x" * 16), (1001, TOKEN)):
        with pytest.raises(AddressTakenError, match="held for its owner"):
            block(pool, str(mine), uid=uid, token=token)
    assert block(pool, str(mine), "a again", token=TOKEN) == str(mine) and pool.next_expiry_ns() is None
    got, previous = pool.blocks.lease("a third time", 1000, mine, TOKEN)
    assert previous == "a again" and not pool.blocks.release(mine, "a again"), "the one before has nothing to give back"
    pool.blocks.hold(mine, got.owner, HOLD_NS)
    clock.now += HOLD_NS
    assert pool.expire() == [] and pool.blocks.expired() == [mine]
    assert block(pool, str(mine), "b", uid=1001) == str(mine)


def test_the_token_of_one_block_opens_no_part_of_it_and_nothing_around():
    pool = AddressPool("10.77.0.0/24")
    block(pool, "10.77.0.128/26", token=TOKEN)
    for other in ("10.77.0.128/27", "10.77.0.160/27"):
        with pytest.raises(AddressTakenError, match="overlaps"):
            block(pool, other, token=TOKEN)


def test_large_ipv6_pools_draw_their_blocks():
    pools = [AddressPool("fd77::/48") for _ in range(4)]
    assert len({block(pool, 64) for pool in pools}) == 4
    assert block(pools[0], "fd77:0:0:8::/64") == "fd77:0:0:8::/64"
    with pytest.raises(AddressTakenError, match="lies in the block"):
        pools[0].lease("b", 1000, pack_address("fd77:0:0:8::1"))


def test_addresses_that_are_drawn_lie_in_no_block():
    pool = AddressPool("fd77::/100")
    half = net(block(pool, "fd77::800:0/101"))
    got = [ipaddress.ip_address(format_address(pool.lease("a", 1000)[0].address)) for _ in range(64)]
    assert not any(address in half for address in got)


def test_memory_of_used_blocks_is_bounded(monkeypatch):
    monkeypatch.setattr("netstack.router.blocks.RESTING_LIMIT", 4)
    pool = AddressPool("10.77.0.0/16")
    used = [block(pool, 30) for _ in range(9)]
    for each in used:
        pool.blocks.release(net(each), "a")
    assert [str(each) for each in pool.blocks.gone()] == used[:5] and pool.blocks.gone() == []


def restored(path, network="10.77.0.0/24", clock=None):
    pool = AddressPool(network, clock=clock or Clock())
    pool.journal = Journal(str(path))
    for text, (uid, digest) in pool.journal.load().blocks.items():
        pool.blocks.restore(net(text), digest, uid, HOLD_NS)
    return pool


def test_the_next_router_holds_blocks_for_their_owners(tmp_path):
    path = tmp_path / "default.leases"
    before = restored(path)
    mine, gone = block(before, 26, token=TOKEN), block(before, 27)
    before.blocks.release(net(gone), "a")
    for _ in range(2):                                                 # also after two restarts
        pool = restored(path)
        with pytest.raises(AddressTakenError, match="held"):
            block(pool, mine)
        assert len(pool.blocks) == 1
    assert block(pool, mine, token=TOKEN) == mine and block(pool, gone) == gone
    assert not restored(path).restore(pack_address(str(first_host(net(mine)))), "0" * 64, 1000, 1), "it is the block's"
    assert len(restored(path, "10.78.0.0/24").blocks) == 0, "of another pool"
    assert len(restored(path, "10.77.0.128/26").blocks) == 0, "the pool is not larger"


@pytest.mark.parametrize("rubbish", [b"b 10.77.0.1/26 0 " + b"0" * 64, b"b 10.77.0.0/26 0 abc", b"b 10.77.0.0/26", b"B",
                                     b"b x 0 " + b"0" * 64, b"b 10.77.0.0/24 0 " + b"0" * 64,
                                     b"b 10.77.0.0/26 0 " + b"0" * 64, b"b 10.77.0.160/27 0 " + b"0" * 64])
def test_rubbish_in_the_journal_is_passed_over(tmp_path, rubbish):
    path = tmp_path / "default.leases"
    mine = block(restored(path), 26, token=TOKEN)
    with open(path, "ab") as file:
        file.write(rubbish + b"\n")
    pool = restored(path)
    assert len(pool.blocks) == 1 and block(pool, mine, token=TOKEN) == mine


# ---- against a model


class Model:
    """What must hold of one pool, with sets of all its addresses."""

    def __init__(self, network, clock):
        self.clock = clock
        self.pool = AddressPool(network, clock=clock)
        self.never = {self.pool.network[0], self.pool.network[1]}
        if self.pool.network.version == 4:
            self.never.add(self.pool.network[-1])
        self.singles = {}                # address: owner
        self.blocks = {}                 # network: owner
        self.held = {}                   # address or network: when it ends

    def occupied(self):
        out = set(self.never) | set(self.singles)
        for each in self.blocks:
            out.update(each)
        return out

    def expire(self):
        for what in [what for what, end in self.held.items() if end <= self.clock.now]:
            del self.held[what]
            (self.singles if what in self.singles else self.blocks).pop(what)

    def is_free(self, network):
        return not self.occupied() & set(network)

    def take_block(self, length, owner):
        self.expire()
        any_ = [n for n in self.pool.network.subnets(new_prefix=length) if self.is_free(n)]
        wanted = net(f"{'0.0.0.0' if self.pool.network.version == 4 else '::'}/{length}")
        try:
            got = self.pool.blocks.lease(owner, 0, wanted, TOKEN)[0].network
        except PoolEmptyError:
            assert not any_, f"{any_[0]} is free"
            return
        assert got.prefixlen == length and got in any_
        self.blocks[got] = owner

    def take_that(self, network, owner):
        self.expire()
        try:
            self.pool.blocks.lease(owner, 0, network)
        except RouterError:
            assert not self.is_free(network)
            return
        assert self.is_free(network)
        self.blocks[network] = owner

    def take_single(self, owner):
        self.expire()
        try:
            got = ipaddress.ip_address(format_address(self.pool.lease(owner, 0)[0].address))
        except PoolEmptyError:
            assert len(self.occupied()) == self.pool.network.num_addresses
            return
        assert got not in self.occupied()
        self.singles[got] = owner

    def end(self, what, hold):
        table = self.singles if what in self.singles else self.blocks
        owner, end = table[what], self.clock.now + HOLD_NS
        if what in self.blocks:
            done = self.pool.blocks.hold(what, owner, HOLD_NS) if hold else self.pool.blocks.release(what, owner)
        else:
            packed = pack_address(what)
            done = self.pool.hold(packed, owner) if hold else self.pool.release(packed, owner)
        assert done == (what not in self.held)
        if not done:
            return
        if hold:
            self.held[what] = end
        else:
            del table[what]


@pytest.mark.parametrize("network, lengths", [("10.77.0.0/25", (26, 30)), ("fd77::/121", (122, 126))])
def test_against_a_model(network, lengths, scale):
    """Random leases, ends and time: what is given is aligned, free and of the length; what is refused was not free."""
    for seed in range(scale(30)):
        rng, clock = random.Random(seed), Clock()
        model = Model(network, clock)
        for step in range(150):
            dice = rng.random()
            if dice < 0.3:
                model.take_block(rng.randint(*lengths), step)
            elif dice < 0.4:
                model.take_that(rng.choice(list(model.pool.network.subnets(new_prefix=rng.randint(*lengths)))), step)
            elif dice < 0.6:
                model.take_single(step)
            elif dice < 0.7:
                clock.now += rng.choice([1, HOLD_NS // 3, HOLD_NS])
            elif everything := [*model.singles, *model.blocks]:
                model.end(rng.choice(everything), rng.random() < 0.4)
        model.expire()
        for what in [*model.singles, *model.blocks]:
            if what not in model.held:
                model.end(what, False)
        clock.now += HOLD_NS
        model.expire()
        for quarter in model.pool.network.subnets(new_prefix=lengths[0] + 1):
            model.take_that(quarter, "all is back in one piece")
        assert len(model.blocks) == (2 if model.pool.network.version == 4 else 3)
