"""Seeded forwarding tables of the shape that the Internet's have, as packed entries for `PrefixTable.load`."""

from __future__ import annotations

import random
import struct

# Parts of the announced prefixes by length, in percent, rounded: the shape that public reports show for the global
# tables of the 2020s. More than half of IPv4 is /24; IPv6 is /48, /32 and what lies between. Long ones are one's own.
IPV4_LENGTHS = {24: 60.0, 23: 10.0, 22: 11.0, 21: 5.0, 20: 4.5, 19: 2.7, 18: 1.5, 17: 0.9, 16: 1.4, 15: 0.2, 14: 0.1,
                13: 0.06, 12: 0.03, 11: 0.01, 10: 0.005, 9: 0.002, 8: 0.002, 25: 0.5, 26: 0.5, 27: 0.4, 28: 0.4,
                29: 0.4, 30: 0.2, 32: 0.2}
IPV6_LENGTHS = {48: 47.0, 44: 10.0, 40: 10.0, 36: 5.0, 32: 13.0, 29: 3.0, 33: 2.0, 34: 1.5, 35: 0.8, 38: 1.5, 42: 2.0,
                45: 0.8, 46: 2.0, 47: 1.2, 28: 0.2, 64: 0.2}
FIRST_BYTES = [n for n in range(1, 224) if n not in (10, 127, 169, 172, 192)]    # where nothing is private
TAIL = struct.Struct("=BBH")     # length, 0, answer: behind the address of an entry


def entry(address: int, length: int, hop: int, width: int = 4) -> bytes:
    """One entry, packed: 8 bytes, IPv6 (`width` 16) 20."""
    return address.to_bytes(width, "big") + TAIL.pack(length, 0, hop)


def bgp_like(n: int, *, version: int = 4, hops: int = 64, seed: int = 1) -> bytes:
    """`n` distinct prefixes with answers 1 to `hops`, packed.

    They cluster as announcements do: in blocks (a /16, of IPv6 a /28) of which some have many, and most of a block
    lead the same way.
    """
    dice = random.Random(seed)
    lengths, width, parent = (IPV4_LENGTHS, 4, 16) if version == 4 else (IPV6_LENGTHS, 16, 28)
    bits = width * 8
    blocks = [_block(dice, version) for _ in range(max(1, n // 40))]
    ways = [dice.randint(1, hops) for _ in blocks]
    seen: dict[tuple[int, int], int] = {}
    while len(seen) < n:
        for length in dice.choices(list(lengths), list(lengths.values()), k=n - len(seen)):
            which = int(dice.random() ** 1.5 * len(blocks))          # the first ones have more
            address = blocks[which]
            if length > parent:
                address |= dice.getrandbits(length - parent) << (bits - length)
            else:
                address &= ~0 << (bits - length)
            seen[address, length] = ways[which] if dice.random() < 0.7 else dice.randint(1, hops)
    return b"".join(entry(address, length, hop, width) for (address, length), hop in seen.items())


def _block(dice: random.Random, version: int) -> int:
    if version == 4:
        return dice.choice(FIRST_BYTES) << 24 | dice.getrandbits(8) << 16
    return 0x2 << 124 | dice.getrandbits(24) << 100


def addresses(n: int, *, seed: int = 1, inside: bytes | None = None) -> bytes:
    """`n` IPv4 addresses to look up: any, or any of a random prefix of a packed table."""
    dice = random.Random(seed)
    if inside is None:
        return dice.randbytes(4 * n)
    out = bytearray()
    for _ in range(n):
        at = dice.randrange(len(inside) // 8) * 8
        address, length = int.from_bytes(inside[at : at + 4], "big"), inside[at + 4]
        out += (address | (dice.getrandbits(32 - length) if length < 32 else 0)).to_bytes(4, "big")
    return bytes(out)
