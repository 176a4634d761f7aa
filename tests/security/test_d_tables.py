"""Row D13 for the tables of IP: neighbours are found by a keyed hash; routes and path MTUs are small bounded arrays."""

import random
import struct
from collections import defaultdict

import numpy as np
import pytest
from scapy.layers.inet6 import ICMPv6ND_Redirect, ICMPv6NDOptPrefixInfo, IPv6

from netstack.stack import Stack
from netstack.testing.packets import build_icmp
from netstack.testing.probe import InterfaceProbe, route_count
from netstack.wire import arp, ethernet, ipv4
from tests.ip.fragments import S, sent
from tests.ip.nd_rig import ROUTER, ROUTER_MAC, Link
from tests.ip.nd_rig import US as US6
from tests.ip.test_ndp import advertisement_of_router, first_hop
from tests.support import scale

US, OUR_MAC = "10.0.0.1", "02:00:00:00:00:01"
TABLE, BUCKETS = 512, 256                        # entries of the neighbour table, and its chains
KNOWN_SECRET = b"a secret we know"


# ---- neighbours -----------------------------------------------------------------


def siphash_1_3(key: bytes, words: list[int]) -> int:
    """SipHash-1-3 of whole words, from its paper: what an attacker computes who knows, or guesses, a key."""
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]
    top = (1 << 64) - 1

    def turn(x, n):
        return (x << n | x >> (64 - n)) & top

    def rounds(n):
        for _ in range(n):
            v[0] = (v[0] + v[1]) & top
            v[1] = turn(v[1], 13) ^ v[0]
            v[0] = turn(v[0], 32)
            v[2] = (v[2] + v[3]) & top
            v[3] = turn(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & top
            v[3] = turn(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & top
            v[1] = turn(v[1], 17) ^ v[2]
            v[2] = turn(v[2], 32)

    for word in [*words, len(words) << 59]:
        v[3] ^= word
        rounds(1)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(3)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def bucket(key: bytes, address: str) -> int:
    mapped = bytes(10) + b"\xff\xff" + bytes(map(int, address.split(".")))
    return siphash_1_3(key, [*struct.unpack("<QQ", mapped), 0x6E6462]) % BUCKETS


def packet(dst: str) -> bytes:
    return ipv4.build(US, dst, 17, bytes(8))


def probe(secret: bytes) -> InterfaceProbe:
    return InterfaceProbe((f"{US}/8",), media="ethernet", mac=OUR_MAC, secret=secret)


def answer(table: InterfaceProbe, address: str, now: int) -> None:
    mac = "02:00:01:" + bytes(map(int, address.split(".")[1:])).hex(":")
    table.input(ethernet.build(OUR_MAC, mac, 0x806, arp.build(arp.REPLY, mac, address, OUR_MAC, US)), now)


def steps_of(table: InterfaceProbe, addresses: list[str], *, answered: bool = True) -> list[int]:
    """Make them neighbours; entries looked at for each when all are looked up in turn."""
    for n, address in enumerate(addresses):
        table.send(address, packet(address), S + n)
        if answered:
            answer(table, address, S + n)
        table.sent()
    out = []
    for address in addresses:
        before = table.neighbor_steps[1]
        table.send(address, packet(address), 2 * S)
        out.append(table.neighbor_steps[1] - before)
        table.sent()
    return out


def spread(n: int) -> str:
    return f"10.{n >> 16 & 255 | 128}.{n >> 8 & 255}.{n & 255}"


CHOSEN = {
    "that end in one byte": lambda n: f"10.{n // 250 + 1}.{n % 250}.7",
    "that xor to one value": lambda n: f"10.{n // 250 + 1}.{n % 250}.{(n // 250 + 1) ^ n % 250}",
    "one after the other": lambda n: f"10.1.{n // 256}.{n % 256}",
    "2^16 apart": lambda n: f"10.{n % 250 + 1}.{n // 250}.9",
}


@pytest.mark.parametrize("name", CHOSEN)
def test_d13_neighbours_chosen_against_an_unkeyed_hash_share_no_chain(name):
    rng = random.Random(13)
    plain = np.array(steps_of(probe(rng.randbytes(16)), [spread(rng.getrandbits(23)) for _ in range(TABLE)]))
    chosen = np.array(steps_of(probe(rng.randbytes(16)), [CHOSEN[name](n) for n in range(TABLE)]))
    assert plain.min() >= 0 and plain.mean() > 0.5, "the counter counts"
    assert np.percentile(chosen, 99) < 2 * np.percentile(plain, 99) and chosen.mean() < 1.5 * plain.mean()


def test_d13_neighbours_that_collide_under_one_secret_do_not_under_another():
    """Of 10^5 addresses those that share one chain of a known key: that stack walks it, every other stack does not."""
    by_bucket = defaultdict(list)
    for n in range(scale(100_000, 20_000)):
        by_bucket[bucket(KNOWN_SECRET, spread(n))].append(spread(n))
    worst = max(by_bucket.values(), key=len)[:TABLE]
    theirs = steps_of(probe(KNOWN_SECRET), worst)
    assert max(theirs) >= len(worst) - 2, "the attack works where the secret is known: the test reads the hash right"
    for seed in range(3):
        ours = np.array(steps_of(probe(random.Random(seed).randbytes(16)), worst))
        assert ours.mean() < 4 and ours.max() <= 12


def test_d13_a_stack_takes_its_own_secret_for_its_neighbours():
    """Two interfaces with the same neighbours and different secrets walk different chains."""
    addresses = [CHOSEN["one after the other"](n) for n in range(400)]
    walks = [tuple(steps_of(probe(bytes([k]) * 16), addresses)) for k in range(3)]
    assert len(set(walks)) == 3
    assert walks[0] == tuple(steps_of(probe(bytes(16)), addresses))


def test_d13_a_hundred_thousand_addresses_are_looked_up_in_few_steps():
    """A scan of 10^5 addresses with one last byte: the table is full of them, and of others in use, all the time."""
    table = probe(b"0123456789abcdef")
    friends = [CHOSEN["2^16 apart"](n) for n in range(200)]
    steps_of(table, friends)
    lookups, steps = table.neighbor_steps
    n, worst = scale(100_000, 5000), 0
    for k in range(n):
        now = 3 * S + k * 100_000
        before = table.neighbor_steps
        address = f"10.{k // 65536 + 1}.{k // 256 % 256}.9" if k % 2 else friends[k // 2 % 200]
        table.send(address, packet(address), now)
        after = table.neighbor_steps
        worst = max(worst, after[1] - before[1])
        if (deadline := table.next_deadline()) is not None and deadline <= now:
            table.advance(now)
        table.sent()
    lookups, steps = table.neighbor_steps[0] - lookups, table.neighbor_steps[1] - steps
    assert lookups > n / 2 and steps < 4 * lookups and worst <= 16
    assert all(table.neighbors[f][0] != "failed" for f in friends) and len(table.neighbors) <= TABLE


def test_d13_chains_hold_after_entries_are_given_up_evicted_and_restored():
    """Against a dictionary: who is known, whatever was forgotten before."""
    rng = random.Random(5)
    table = probe(b"fedcba9876543210")
    hosts = [f"10.1.{n // 250}.{n % 250}" for n in range(900)]
    now = S
    for k in range(scale(30_000, 3000)):
        now += rng.randrange(300_000_000)
        table.advance(now)
        address = rng.choice(hosts)
        table.send(address, packet(address), now)
        if rng.random() < 0.6 and table.neighbors.get(address, ("",))[0] == "incomplete":
            answer(table, address, now)
        table.sent()
        if k % 500 == 499:
            copy = probe(b"another secret!!")
            copy.restore(table.save(now), now)
            assert copy.neighbors == table.neighbors
            table = copy
        if k % 50 == 0:
            for known, (state, mac, _) in list(table.neighbors.items()):
                if state == "reachable":
                    assert table.send(known, packet(known), now) == 0
                    assert {data[:6].hex(":") for data, _ in table.sent() if data[12:14] == b"\x08\0"} == {mac}
    assert len(table.neighbors) > 100


# ---- routes ---------------------------------------------------------------------


def test_d13_what_routers_say_makes_a_bounded_number_of_routes():
    """Routes are an array sorted by prefix length, compared in order: no hash, so no address costs more than there
    are routes. The administrator writes some; thousands of prefixes, routers and redirects make 16, one and 32 more."""
    link = Link(accept_ra=1, accept_redirects=1)
    own = route_count(link.stack)
    link.give(advertisement_of_router(), src=ROUTER_MAC)
    for n in range(scale(5_000, 300)):
        option = ICMPv6NDOptPrefixInfo(prefix=f"2001:db8:{n & 0xFFFF:x}:{n >> 16:x}::", prefixlen=64, L=1, A=0,
                                       validlifetime=9000, preferredlifetime=9000)
        link.give(advertisement_of_router(src=ROUTER if n % 2 else f"fe80::{n & 0xFFFF:x}:1") / option, src=ROUTER_MAC)
        link.give(IPv6(src=ROUTER, dst=US6, hlim=255) / ICMPv6ND_Redirect(tgt="fe80::66", dst=f"2001:db9::{n:x}"),
                  src=ROUTER_MAC)
        assert route_count(link.stack) <= own + 16 + 1 + 32
    assert route_count(link.stack) == own + 16 + 1 + 32
    assert first_hop(link, f"2001:db9::{n:x}") == "fe80::66", "the newest redirect counts"
    assert first_hop(link, "2001:db9::1") == ROUTER, "the oldest gave way"


# ---- path MTUs ------------------------------------------------------------------


def test_d13_path_mtus_are_an_array_of_32_so_that_keys_do_not_matter():
    """The table of paths is looked through as a whole; reports about 10^5 paths leave the newest 32."""
    stack = Stack(addresses=(f"{US}/8",), seed=1)
    stack.advance(S)
    sock = stack.socket("dgram")
    sock.setsockopt(0, 10, 1)                        # IP_MTU_DISCOVER: as the path carries
    n = scale(100_000, 500)
    hosts = [f"10.{(k >> 16) + 1}.{k >> 8 & 255}.{k & 255}" for k in range(n)]
    for dst in hosts:
        sock.sendto(bytes(1400), (dst, 9))
        big, = sent(stack)
        stack.input(build_icmp(dst, US, 3, 4, b"\0\0\x03\xe8", big[:28]), stack.now_ns)
    assert stack.counters()["ip_pmtu_lowered"] == n
    lowered = []
    for dst in hosts[-100:]:
        sock.sendto(bytes(1400), (dst, 9))
        lowered.append(len(sent(stack)) > 1)
    assert lowered == [False] * 68 + [True] * 32
