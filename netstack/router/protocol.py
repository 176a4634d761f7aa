"""The control protocol between a router and the processes attached to it, version 1.

One SOCK_SEQPACKET connection per attachment. Every message is exactly 512 bytes, little-endian, padded with
zeros:

======  ====  =====================================================================
offset  size  field
======  ====  =====================================================================
0       4     magic ``NSRT``
4       2     version (1)
6       2     type (`Type`); replies carry the type of their request
8       4     sequence, chosen by the client, repeated in the reply
12      4     status: 0, or an errno number (replies)
16      496   body by type; a reply with a status carries its text in UTF-8
======  ====  =====================================================================

The first message must be HELLO. File descriptors travel only from the router to its clients and only with the
replies to ATTACH and CAPTURE; a client that sends one is cut off. Addresses are 16 bytes, IPv4 mapped.

The end of the connection ends the attachment: the router takes back addresses, memory and descriptors at
once, and a client that sees it end knows that its router is gone.
"""

from __future__ import annotations

import array
import enum
import os
import select
import socket
import struct
from dataclasses import astuple, dataclass, field, fields

from netstack.errors import RouterError
from netstack.router.block_messages import BLOCKS, MAX_BLOCKS, Network, network_of, pack_blocks, unpack_blocks

MAGIC = b"NSRT"
VERSION = 1
MESSAGE_BYTES = 512
MAX_ADDRESSES = 8  # of one attachment
MAX_FDS = 8  # in one reply

HEADER = struct.Struct("<4sHHIi")
BODY_BYTES = MESSAGE_BYTES - HEADER.size

# HELLO: capabilities of the client; reply: capabilities, pid, mtu, backend, name of the router
HELLO = struct.Struct("<Q")
HELLO_REPLY = struct.Struct("<QIIH62s")
# ATTACH: capabilities, ring capacity and mtu (0: the router's), number of addresses, token, addresses
ATTACH = struct.Struct(f"<QQIH2x16s{16 * MAX_ADDRESSES}s")
# behind these blocks wanted (`block_messages`), where the router has `Capability.BLOCKS`
# reply: id, capabilities, ring capacity, generation, epoch, mtu, backend, number of fds, number of addresses,
# prefix lengths, router address, token, addresses, router address of the other version (zeros: none); behind these
# blocks, and prefix lengths of their pools
ATTACH_REPLY = struct.Struct(f"<QQQQIIHHH2x{MAX_ADDRESSES}B16s16s{16 * MAX_ADDRESSES}s16s")
# LIST: the id after which to go on; reply: one attachment (id 0: no more); behind it its blocks
LIST = struct.Struct("<Q")
LIST_REPLY = struct.Struct(f"<QIIIIQQQQQQQHH4x{16 * MAX_ADDRESSES}s64sQQQQ")
# behind these, and behind UPLINKS_REPLY, connections in which a TCP of it misbehaved, by `greedy.MISDEEDS`
FOUND = struct.Struct("<4Q")
# COUNTERS: id (0: the router's sum, RELAYED: what the uplink ``user`` did), the first value wanted; reply: id, how many
# there are, and as many values from that one on as fit, in the order of `forwarding.counter_names`, `Router.relayed`
COUNTERS = struct.Struct("<QQ")
COUNTERS_REPLY_HEAD = struct.Struct("<QQ")
RELAYED = (1 << 64) - 1
MAX_COUNTERS = (BODY_BYTES - COUNTERS_REPLY_HEAD.size) // 8
# CLAIM, UNCLAIM: kind, flags, number (`sharing`); no reply to UNCLAIM. LEASE: kind; reply: how many ports, the ports
CLAIM = struct.Struct("<BBH")
LEASE = struct.Struct("<B")
# SHARE, STAY: as CLAIM; no reply to STAY. INHERIT: kind, whether the parent yields, number, the parent's token.
# FLOWS: kind, how many, number, and of each connection there the own address, the peer's and its port; no reply
INHERIT = struct.Struct("<BBH16s")
FLOWS = struct.Struct("<BBH")
FLOW = struct.Struct("<16s16sH")
MAX_FLOWS = (BODY_BYTES - FLOWS.size) // FLOW.size
LEASE_REPLY = struct.Struct("<H64H")
# CAPTURE: id (0: end the capture of this connection), ring capacity, snap length; the router's owner only.
# reply: ring capacity, generation, packets captured, packets missed; with it the descriptors of a channel, side b,
# in sealed memory, whose ring towards the client has the packets (`mirror.pxd`)
CAPTURE = struct.Struct("<QQI")
CAPTURE_REPLY = struct.Struct("<QQQQ")
# UPLINKS: how many were told; reply: the next uplink (number 0: no more)
UPLINKS = struct.Struct("<Q")
UPLINKS_REPLY = struct.Struct("<QQQQQQQQQI16s16s")
# ROUTE: 1 add, 2 remove (the router's owner only), IP version, prefix length, address, gateway (zeros: none), name of
# the uplink (empty: the one on whose network the gateway is). Empty reply
ROUTE = struct.Struct("<BBBx16s16s32s")
ROUTE_ADD, ROUTE_REMOVE = 1, 2
# ROUTES: IP version, whether there is a prefix after which to go on, its length and address. reply: number of routes
# (0: no more), routes: kind (`ROUTE_KINDS`), prefix length, lost, attachment, address, gateway, name of the uplink
ROUTES = struct.Struct("<BBBx16s")
ROUTES_REPLY_HEAD = struct.Struct("<B7x")
ROUTES_ITEM = struct.Struct("<BBBxQ16s16s32s")
MAX_ROUTES = (BODY_BYTES - ROUTES_REPLY_HEAD.size) // ROUTES_ITEM.size
ROUTE_KINDS = ("static", "link", "pool", "stack", "default")
# LIMIT: id, whether to change it (the router's owner only), bit/s and packets a second from now on (0: no limit),
# nanoseconds of burst. reply: bytes and packets a second (0: no limit), bytes and packets at once
LIMIT = struct.Struct("<QB7xQQQ")
LIMIT_REPLY = struct.Struct("<QQQQ")
# GREEDY: whether to change it (the router's owner only), the policy from now on (`greedy.POLICIES`). reply: the policy,
# and how many connections there were so far with each of `greedy.MISDEEDS`
GREEDY = struct.Struct("<B7x16s")
GREEDY_REPLY = struct.Struct("<16s4Q")
# END: unasked, from the router, the last message of a connection whose attachment it ended by itself: why, in UTF-8


class Type(enum.IntEnum):
    HELLO = 1
    ATTACH = 2
    RELEASE = 3
    LIST = 4
    COUNTERS = 5
    PING = 6
    CLAIM = 7
    UNCLAIM = 8
    LEASE = 9
    CAPTURE = 10
    UPLINKS = 11
    ROUTE = 12
    ROUTES = 13
    INHERIT = 14
    STAY = 15
    SHARE = 16
    FLOWS = 17
    LIMIT = 18
    GREEDY = 19
    END = 20


class Capability(enum.IntFlag):
    """What an attachment asks for and is granted."""

    NONE = 0
    HOLD = 1  # after its death keep the addresses for the owner of the token (10 s)
    SHARED = 2  # it claims ports: its address may be one that others have too
    BLOCKS = 8  # of a router: it leases blocks
    NAMES = 4  # granted only: an uplink ``user`` is there, and answers for names at the last address but the broadcast


class Backend(enum.IntEnum):
    POSIX = 1
    MEMFD = 2


class ProtocolError(Exception):
    """The other side broke the protocol: the connection is closed."""


def _networks(body: bytes, offset: int) -> tuple[Network, ...]:
    """Blocks that a router tells of."""
    try:
        return tuple(network_of(*block) for block in unpack_blocks(body, offset))
    except (ValueError, RouterError) as error:
        raise ProtocolError(f"the router's reply is out of bounds: {error}") from None


def unpack_flows(body: bytes) -> tuple[int, int, list[tuple[bytes, bytes, int]]]:
    """Kind, number and flows of FLOWS; what says that it has more than fit is cut."""
    kind, n, number = FLOWS.unpack_from(body)
    return kind, number, [FLOW.unpack_from(body, FLOWS.size + FLOW.size * i) for i in range(min(n, MAX_FLOWS))]


def pack(kind: int, sequence: int, body: bytes = b"", status: int = 0) -> bytes:
    """One message, padded."""
    return (HEADER.pack(MAGIC, VERSION, kind, sequence, status) + body[:BODY_BYTES]).ljust(
        MESSAGE_BYTES, b"\0"
    )


def unpack(data: bytes) -> tuple[int, int, int, bytes]:
    """Type, sequence, status and body of one message.

    Raises
    ------
    ProtocolError
        Wrong size, magic or version.
    """
    if len(data) != MESSAGE_BYTES:
        raise ProtocolError(f"a control message has {MESSAGE_BYTES} bytes, not {len(data)}")
    magic, version, kind, sequence, status = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ProtocolError("not a control message (bad magic)")
    if version != VERSION:
        raise ProtocolError(
            f"control protocol version {version}, here {VERSION}: use the same release on both sides"
        )
    return kind, sequence, status, data[HEADER.size :]


@dataclass(frozen=True)
class AttachRequest:
    """What a stack asks for; see `netstack.router.client.attach`."""

    addresses: tuple[bytes, ...] = ()
    token: bytes = b""
    capabilities: int = 0
    mtu: int = 0
    ring_capacity: int = 0
    blocks: tuple[tuple[bytes, int], ...] = ()  # first address, length: to be checked (`network_of`)

    def pack(self) -> bytes:
        head = ATTACH.pack(
            self.capabilities,
            self.ring_capacity,
            self.mtu,
            len(self.addresses),
            self.token,
            b"".join(self.addresses),
        )
        return head + pack_blocks(network_of(*block) for block in self.blocks)

    @classmethod
    def unpack(cls, body: bytes) -> AttachRequest:
        capabilities, capacity, mtu, n, token, packed = ATTACH.unpack_from(body)
        if n > MAX_ADDRESSES:
            raise ProtocolError(f"{n} addresses asked for, at most {MAX_ADDRESSES} in one attachment")
        try:
            blocks = unpack_blocks(body, ATTACH.size)
        except ValueError as error:
            raise ProtocolError(str(error)) from None
        return cls(
            tuple(packed[i * 16 : i * 16 + 16] for i in range(n)),
            token if any(token) else b"",
            capabilities,
            mtu,
            capacity,
            blocks,
        )


@dataclass(frozen=True)
class AttachReply:
    """What a stack got."""

    id: int
    capabilities: int
    ring_capacity: int
    generation: int
    epoch: int
    mtu: int
    backend: int
    fds: int
    addresses: tuple[bytes, ...]
    prefix_lengths: tuple[int, ...]
    router_addresses: tuple[bytes, ...]
    token: bytes
    blocks: tuple[Network, ...] = ()
    pool_lengths: tuple[int, ...] = ()  # prefix lengths of the pools that the blocks are of

    def pack(self) -> bytes:
        lengths = (list(self.prefix_lengths) + [0] * MAX_ADDRESSES)[:MAX_ADDRESSES]
        head = ATTACH_REPLY.pack(
            self.id,
            self.capabilities,
            self.ring_capacity,
            self.generation,
            self.epoch,
            self.mtu,
            self.backend,
            self.fds,
            len(self.addresses),
            *lengths,
            self.router_addresses[0],
            self.token,
            b"".join(self.addresses),
            self.router_addresses[1] if len(self.router_addresses) > 1 else bytes(16),
        )
        return head + pack_blocks(self.blocks) + bytes(self.pool_lengths).ljust(MAX_BLOCKS, b"\0")

    @classmethod
    def unpack(cls, body: bytes) -> AttachReply:
        values = ATTACH_REPLY.unpack_from(body)
        (ident, capabilities, capacity, generation, epoch, mtu, backend, fds, n) = values[:9]
        lengths, (router, token, packed, other) = values[9 : 9 + MAX_ADDRESSES], values[9 + MAX_ADDRESSES :]
        if n > MAX_ADDRESSES or fds > MAX_FDS:
            raise ProtocolError("the router's reply is out of bounds")
        blocks = _networks(body, ATTACH_REPLY.size)
        pool_lengths = body[ATTACH_REPLY.size + BLOCKS.size :]
        return cls(
            ident,
            capabilities,
            capacity,
            generation,
            epoch,
            mtu,
            backend,
            fds,
            tuple(packed[i * 16 : i * 16 + 16] for i in range(n)),
            tuple(lengths[:n]),
            (router, other) if any(other) else (router,),
            token,
            blocks,
            tuple(pool_lengths[: len(blocks)]),
        )


@dataclass(frozen=True)
class AttachmentInfo:
    """One line of `netstack ps`.

    Attributes
    ----------
    id, pid, uid : int
        The attachment, and the process and user behind it.
    state : int
        `forwarding.PortState`.
    epoch : int
        Of its first address.
    uptime_ns : int
        Since it attached.
    packets_in, bytes_in, packets_out, bytes_out : int
        In: from the stack; out: to the stack.
    drops_in, drops_out : int
        Packets from it, and packets to it, that were dropped.
    mtu : int
        Largest packet it takes, bytes (65535 is the most).
    addresses : tuple of bytes
        16 bytes each.
    command : str
        Its command line, cut to 64 bytes.
    blocks : tuple of ipaddress networks
        Prefixes that it has whole.
    limit_bytes_s, limit_packets_s : int
        What it may send a second; 0: no limit.
    limited : int
        How often its next packet had to wait for that.
    deferred : int
        Rounds of the router in which it had packets and no turn, because they had cost more than its part.
    greedy : tuple of int
        Connections in which a TCP of it misbehaved, by `greedy.MISDEEDS`.
    """

    id: int
    pid: int
    uid: int
    state: int
    epoch: int
    uptime_ns: int
    packets_in: int
    bytes_in: int
    packets_out: int
    bytes_out: int
    drops_in: int
    drops_out: int
    mtu: int
    addresses: tuple[bytes, ...] = field(default=())
    command: str = ""
    blocks: tuple[Network, ...] = ()
    limit_bytes_s: int = 0
    limit_packets_s: int = 0
    limited: int = 0
    deferred: int = 0
    greedy: tuple[int, ...] = (0, 0, 0, 0)

    def pack(self) -> bytes:
        head = LIST_REPLY.pack(
            self.id,
            self.pid & 0xFFFFFFFF,
            self.uid & 0xFFFFFFFF,
            self.state,
            self.epoch,
            self.uptime_ns,
            self.packets_in,
            self.bytes_in,
            self.packets_out,
            self.bytes_out,
            self.drops_in,
            self.drops_out,
            self.mtu,
            len(self.addresses),
            b"".join(self.addresses),
            self.command.encode("utf-8", "replace")[:64],
            self.limit_bytes_s,
            self.limit_packets_s,
            self.limited,
            self.deferred,
        )
        return head + pack_blocks(self.blocks) + FOUND.pack(*self.greedy)

    @classmethod
    def unpack(cls, body: bytes) -> AttachmentInfo:
        *numbers, n, packed, command, bytes_s, packets_s, limited, deferred = LIST_REPLY.unpack_from(body)
        info = dict(zip(_INFO_NUMBERS, numbers, strict=True))
        return cls(
            **info,
            addresses=tuple(packed[i * 16 : i * 16 + 16] for i in range(min(n, MAX_ADDRESSES))),
            command=command.rstrip(b"\0").decode("utf-8", "replace"),
            blocks=_networks(body, LIST_REPLY.size),
            limit_bytes_s=bytes_s,
            limit_packets_s=packets_s,
            limited=limited,
            deferred=deferred,
            greedy=FOUND.unpack_from(body, LIST_REPLY.size + BLOCKS.size),
        )


_INFO_NUMBERS = [f.name for f in fields(AttachmentInfo)][:-8]      # in the order of LIST_REPLY


@dataclass(frozen=True)
class UplinkInfo:
    """One uplink of a router.

    Attributes
    ----------
    number : int
        Its place in the order in which the router was told of them, from 1.
    id : int
        The number of its counters; 0 while its device is lost.
    packets_in, bytes_in, packets_out, bytes_out : int
        In: from outside; out: to the outside. They begin anew when a lost device is back.
    drops_in, drops_out : int
        Packets from there, and packets to there, that were dropped.
    queued : int
        Packets that wait for a neighbour's answer, or on an emulated link.
    mtu : int
        Of the device, bytes; 0 while it is lost.
    kind, name : str
        As the uplink was written.
    greedy : tuple of int
        Connections in which a TCP behind it misbehaved, by `greedy.MISDEEDS`.
    """

    number: int
    id: int = 0
    packets_in: int = 0
    bytes_in: int = 0
    packets_out: int = 0
    bytes_out: int = 0
    drops_in: int = 0
    drops_out: int = 0
    queued: int = 0
    mtu: int = 0
    kind: str = ""
    name: str = ""
    greedy: tuple[int, ...] = (0, 0, 0, 0)

    def pack(self) -> bytes:
        *numbers, kind, name, greedy = astuple(self)
        return UPLINKS_REPLY.pack(*numbers, kind.encode(), name.encode()) + FOUND.pack(*greedy)

    @classmethod
    def unpack(cls, body: bytes) -> UplinkInfo:
        *numbers, kind, name = UPLINKS_REPLY.unpack_from(body)
        return cls(*numbers, text_of(kind), text_of(name), FOUND.unpack_from(body, UPLINKS_REPLY.size))


# ---- messages on the socket


def send(sock: socket.socket, message: bytes, fds=()) -> None:
    """Send one message, never waiting for the peer (BlockingIOError if its queue is full)."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([message], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def receive(sock: socket.socket, max_fds: int = 0, flags: int = 0) -> tuple[bytes, list[int]]:
    """One message and the descriptors that came with it; ``b""`` at the end of the connection.

    There is room for `max_fds` descriptors: the kernel drops what is beyond, and then the rest is closed too.

    Raises
    ------
    ProtocolError
        More descriptors than `max_fds`, or descriptors or bytes were cut off.
    """
    room = socket.CMSG_SPACE(max_fds * array.array("i").itemsize) if max_fds else 0
    data, ancillary, got, _ = sock.recvmsg(MESSAGE_BYTES + 1, room, flags | socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    if got & socket.MSG_TRUNC or len(fds) > max_fds or (got & socket.MSG_CTRUNC and not max_fds):
        close_fds(fds)
        raise ProtocolError(f"a message too long, or with more than {max_fds} descriptors")
    if got & socket.MSG_CTRUNC:
        close_fds(fds)
        raise ProtocolError("descriptors were cut off: this process may have no more (RLIMIT_NOFILE)")
    return data, list(fds)


def text_of(body: bytes) -> str:
    """A body that is text."""
    return body.rstrip(b"\0").decode("utf-8", "replace")


def last_words(sock: socket.socket, flags: int = 0) -> str:
    """Why the router ended the attachment, from what waits in a connection; empty: it said nothing, or nothing yet.

    Reads up to there, never waiting; with MSG_PEEK it looks at the next message only, and leaves it.
    """
    there = select.poll()                  # a socket with a timeout waits in spite of MSG_DONTWAIT
    there.register(sock, select.POLLIN)
    while there.poll(0):
        try:
            kind, _, _, body = unpack(sock.recv(MESSAGE_BYTES, flags | socket.MSG_DONTWAIT))
        except (OSError, ProtocolError):
            return ""
        if kind == Type.END:
            return text_of(body)
        if flags & socket.MSG_PEEK:
            break
    return ""


def close_fds(fds) -> None:
    """Close descriptors, whatever they are."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass
