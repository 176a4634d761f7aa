"""How blocks stand in control messages: behind all else in a body, so that a client that knows none sends zeros there.

======  =====  ==========================================================================
offset  bytes  field
======  =====  ==========================================================================
0       1      how many, at most 4
1       4      their lengths: of IPv4 0 to 32, of IPv6 0 to 128
5       64     their first addresses; zeros behind ``::ffff:`` (IPv4) and zeros: any
======  =====  ==========================================================================
"""

from __future__ import annotations

import errno
import ipaddress
import struct
from collections.abc import Iterable

from netstack.errors import RouterError

MAX_BLOCKS = 4  # of one attachment
BLOCKS = struct.Struct(f"<B{MAX_BLOCKS}B{16 * MAX_BLOCKS}s")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_V4_MAPPED = b"\0" * 10 + b"\xff\xff"


def pack_blocks(networks: Iterable[Network]) -> bytes:
    """At most `MAX_BLOCKS` of them."""
    networks = list(networks)
    lengths = [network.prefixlen for network in networks]
    packed = b"".join((_V4_MAPPED if n.version == 4 else b"") + n.network_address.packed for n in networks)
    return BLOCKS.pack(len(networks), *lengths, *[0] * (MAX_BLOCKS - len(networks)), packed)


def unpack_blocks(body: bytes, offset: int) -> tuple[tuple[bytes, int], ...]:
    """First addresses (16 bytes) and lengths as they were written: see `network_of`.

    Raises
    ------
    ValueError
        More than there is room for.
    """
    count, *lengths, packed = BLOCKS.unpack_from(body, offset)
    if count > MAX_BLOCKS:
        raise ValueError(f"{count} blocks, at most {MAX_BLOCKS} in one attachment")
    return tuple((packed[16 * i : 16 * i + 16], lengths[i]) for i in range(count))


def network_of(packed: bytes, length: int) -> Network:
    """A block from what a message says.

    Raises
    ------
    RouterError
        There is no such network (EINVAL).
    """
    v4 = packed[:12] == _V4_MAPPED
    address = ipaddress.ip_address(packed[12:] if v4 else packed)
    try:
        return ipaddress.ip_network((address, length))
    except ValueError as error:
        raise RouterError(errno.EINVAL, f"block {address}/{length}: {error}; ask for a prefix whose bits behind its "
                          "length are 0") from None
