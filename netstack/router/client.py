"""How a stack joins a router: `attach`, and the requests of `netstack ps`."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from netstack.errors import AddressTakenError, NoRouterError, PoolEmptyError, RouterError
from netstack.router import protocol
from netstack.router.block_messages import MAX_BLOCKS, Network
from netstack.router.paths import router_name, socket_path
from netstack.router.pool import pack_address
from netstack.router.protocol import AttachmentInfo, AttachReply, AttachRequest, Backend, Capability, Type, UplinkInfo

if TYPE_CHECKING:
    from netstack.router.attachment import Attachment
    from netstack.router.limits import Limit
    from netstack.router.static_routes import Route

TIMEOUT_S = 10.0  # for an answer of the router

_ERRORS = {errno.EADDRINUSE: AddressTakenError, errno.ENOBUFS: PoolEmptyError}


def connect(sock: socket.socket, path: str, timeout: float) -> None:
    """Connect, and wait while the queue is full: only a blocking call does, for SO_SNDTIMEO (unix(7))."""
    seconds, rest = divmod(timeout, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(seconds), int(rest * 1e6)))
    sock.connect(path)
    sock.settimeout(timeout)


class ControlClient:
    """A connection to the control socket of a router.

    Parameters
    ----------
    name : str, optional
        The router; ``$NETSTACK_ROUTER`` or ``default`` without it.
    timeout : float
        Seconds to wait for it, and for each answer.
    path : str, optional
        Its control socket, if known.

    Raises
    ------
    NoRouterError
        None runs under that name.
    """

    def __init__(self, name: str | None = None, *, timeout: float = TIMEOUT_S, path: str | None = None):
        self.name = router_name(name)
        self.path = path = path or socket_path(self.name)
        self._sequence = 0
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            connect(self.socket, path, timeout)
        except (FileNotFoundError, ConnectionRefusedError):
            self.socket.close()
            flag = "" if self.name == "default" else f" --name {self.name}"
            raise NoRouterError(
                errno.ECONNREFUSED,
                f"no router named {self.name!r} is running ({path}): start one with "
                f"`netstack router{flag}`, make one in this process with netstack.Router(), or start the "
                f"program with `netstack run`, which brings its own",
            ) from None
        except OSError as error:
            self.socket.close()
            raise RouterError(error.errno, f"control socket {path}: {error.strerror}") from None
        try:
            hello = self.request(Type.HELLO, protocol.HELLO.pack(int(Capability.HOLD)))[0]
        except BaseException:
            self.socket.close()
            raise
        self.capabilities, self.router_pid, self.mtu, backend, _ = protocol.HELLO_REPLY.unpack_from(hello)
        self.backend = Backend(backend).name.lower()

    def request(self, kind: int, body: bytes = b"", max_fds: int = 0) -> tuple[bytes, list[int]]:
        """One question and its answer: body and descriptors.

        Raises
        ------
        RouterError
            What the router says, or that it is gone.
        """
        self._sequence += 1
        try:
            self.socket.send(protocol.pack(kind, self._sequence, body), socket.MSG_NOSIGNAL)
            data, fds = protocol.receive(self.socket, max_fds)
        except TimeoutError:
            raise RouterError(errno.ETIMEDOUT, f"router {self.name!r} does not answer") from None
        except protocol.ProtocolError as error:
            raise RouterError(errno.EPROTO, f"router {self.name!r}: {error}") from None
        except OSError as error:
            raise RouterError(error.errno, f"router {self.name!r} is gone: {error.strerror}") from None
        try:
            if not data:
                raise RouterError(errno.ECONNRESET, f"router {self.name!r} closed the connection")
            answered, sequence, status, reply = protocol.unpack(data)
            if answered == Type.END:
                self._wait_for_end()
                raise RouterError(errno.ECONNRESET,
                                  f"router {self.name!r} ended this attachment: {protocol.text_of(reply)}")
            if answered != kind or sequence != self._sequence:
                raise RouterError(errno.EPROTO, f"router {self.name!r} answered something else")
            if status:
                raise _ERRORS.get(status, RouterError)(status, protocol.text_of(reply))
        except protocol.ProtocolError as error:
            protocol.close_fds(fds)
            raise RouterError(errno.EPROTO, f"router {self.name!r}: {error}") from None
        except BaseException:
            protocol.close_fds(fds)
            raise
        return reply, fds

    def _wait_for_end(self) -> None:
        """The router closes when it has taken everything back."""
        try:
            while self.socket.recv(1):
                pass
        except OSError:
            pass

    def attachments(self) -> list[AttachmentInfo]:
        """Who is attached."""
        out: list[AttachmentInfo] = []
        last = 0
        while True:
            info = AttachmentInfo.unpack(self.request(Type.LIST, protocol.LIST.pack(last))[0])
            if info.id <= last:
                return out
            out.append(info)
            last = info.id

    def uplinks(self) -> list[UplinkInfo]:
        """The router's ways out, in the order in which it was told of them."""
        out: list[UplinkInfo] = []
        while True:
            info = UplinkInfo.unpack(self.request(Type.UPLINKS, protocol.UPLINKS.pack(len(out)))[0])
            if info.number != len(out) + 1:
                return out
            out.append(info)

    def counters(self, ident: int = 0) -> dict[str, int]:
        """Counters of one attachment, or of the router (0), by name."""
        from netstack.router.forwarding import counter_names

        return dict(zip(counter_names(), self._values(ident), strict=False))

    def relayed(self) -> dict[str, int]:
        """What the router's uplink ``user`` did, by name, as `Router.relayed`; empty without one."""
        if not self.capabilities & Capability.NAMES:
            return {}
        from netstack.router.relay.engine import COUNTER_NAMES

        return dict(zip(("streams", "datagrams", *COUNTER_NAMES), self._values(protocol.RELAYED), strict=False))

    def _values(self, ident: int) -> list[int]:
        values: list[int] = []
        while True:
            body, _ = self.request(Type.COUNTERS, protocol.COUNTERS.pack(ident, len(values)))
            _, n = protocol.COUNTERS_REPLY_HEAD.unpack_from(body)
            at = protocol.COUNTERS_REPLY_HEAD.size
            more = min(n - len(values), protocol.MAX_COUNTERS)
            if more <= 0:
                break
            values += [int.from_bytes(body[at + 8 * i : at + 8 * i + 8], "little") for i in range(more)]
        return values

    def queued(self, ident: int) -> int:
        """How many packets wait in the router for one attachment: one of its `counters`, by one message."""
        from netstack.router.forwarding import counter_names

        body, _ = self.request(Type.COUNTERS, protocol.COUNTERS.pack(ident, counter_names().index("queued")))
        at = protocol.COUNTERS_REPLY_HEAD.size
        return int.from_bytes(body[at : at + 8], "little")

    def routes(self) -> Iterator[Route]:
        """The routes, IPv4's first, by address and length. There may be many: they come in parts."""
        from netstack.router import static_routes as messages

        for version in (4, 6):
            last = None
            while True:
                body = messages.pack_after(version, last)
                found = messages.unpack_listed(version, self.request(Type.ROUTES, body)[0])
                yield from found
                if not found or (last is not None and found[-1].network == last):
                    break
                last = found[-1].network

    def add_route(self, route: Route | str) -> None:
        """Add a route as the router's owner: ``"198.51.100.0/24,via=192.0.2.9,dev=tap1"``."""
        from netstack.router import static_routes as messages

        self.request(Type.ROUTE, messages.pack_route(protocol.ROUTE_ADD, messages.Route.parse(route)))

    def remove_route(self, network) -> None:
        """Remove a written route, as the router's owner."""
        from netstack.router import static_routes as messages

        route = messages.Route(ipaddress.ip_network(network))
        self.request(Type.ROUTE, messages.pack_route(protocol.ROUTE_REMOVE, route))

    def limit(self, ident: int) -> tuple[int, int, int, int]:
        """What an attachment may send: as `limits.Limits.of`."""
        return protocol.LIMIT_REPLY.unpack_from(self.request(Type.LIMIT, protocol.LIMIT.pack(ident, 0, 0, 0, 0))[0])

    def set_limit(self, ident: int, wanted: Limit | None) -> tuple[int, int, int, int]:
        """Change what an attachment may send, as the router's owner; None: no limit. Returns as `limit`."""
        settings = (wanted.rate or 0, wanted.packets or 0, wanted.burst) if wanted else (0, 0, 0)
        return protocol.LIMIT_REPLY.unpack_from(self.request(Type.LIMIT, protocol.LIMIT.pack(ident, 1, *settings))[0])

    def greedy(self) -> tuple[str, dict[str, int]]:
        """What the router does about TCPs that misbehave, and how many connections it found, by misdeed."""
        return self._greedy(protocol.GREEDY.pack(0, b""))

    def set_greedy(self, policy: str) -> tuple[str, dict[str, int]]:
        """Change what it does (`netstack.router.greedy.POLICIES`), as the router's owner. Returns as `greedy`."""
        return self._greedy(protocol.GREEDY.pack(1, policy.encode()))

    def _greedy(self, body: bytes) -> tuple[str, dict[str, int]]:
        from netstack.router.greedy import MISDEEDS

        policy, *found = protocol.GREEDY_REPLY.unpack_from(self.request(Type.GREEDY, body)[0])
        return protocol.text_of(policy), dict(zip(MISDEEDS, found, strict=True))

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.request(Type.PING)

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()


def attach(
    name: str | None = None,
    address=None,
    *,
    block=None,
    token: bytes | None = None,
    mtu: int | None = None,
    ring_capacity: int | None = None,
    hold: bool = False,
    timeout: float = TIMEOUT_S,
) -> Attachment:
    """Attach this process to a router of this machine.

    Parameters
    ----------
    name : str, optional
        The router; ``$NETSTACK_ROUTER`` or ``default`` without it.
    address : str, or iterable of str, optional
        Addresses wanted, at most 8; ``"0.0.0.0"`` and ``"::"`` are any of that version. Without any the router chooses
        one of each version that it has, or gives the one that its stacks share.
    block : int or str, or iterable of these, optional
        Blocks of addresses wanted, at most 4: prefixes that this attachment has whole, each one route for the router.
        ``26`` or ``"/64"`` is any of that length (up to 32 of IPv4), ``"10.77.4.0/26"`` this one. Of a version with a
        block there is no other address unless `address` asks for it: the first in the block but one is the stack's.
    token : bytes, optional
        Of an earlier attachment: brings its addresses and blocks back that are named, also from one that still lives.
    mtu : int, optional
        Largest packet, bytes; the router's own (65535) bounds it.
    ring_capacity : int, optional
        Bytes per direction: a power of two from 256 KiB.
    hold : bool
        Should this process die, the addresses wait 10 s for the token instead of being given up.
    timeout : float
        Seconds to wait for the router.

    Raises
    ------
    NoRouterError
        No router of that name runs; says how to start one.
    AddressTakenError, PoolEmptyError
        The address or block belongs to somebody else; none is left.
    RouterError
        Whatever else the router refuses.
    ConfigError
        A block that cannot be read.
    """
    from netstack.router.attachment import Attachment
    from netstack.router.blocks import parse_block

    if address is None:
        wanted: tuple[bytes, ...] = ()
    elif isinstance(address, str | bytes) or not hasattr(address, "__iter__"):
        wanted = (pack_address(address),)
    else:
        wanted = tuple(pack_address(a) for a in address)
    if len(wanted) > protocol.MAX_ADDRESSES:
        raise ValueError(f"{len(wanted)} addresses: an attachment has at most {protocol.MAX_ADDRESSES}")
    asked = [block] if isinstance(block, int | str | Network) or not hasattr(block, "__iter__") else list(block)
    blocks = [parse_block(each) for each in asked if each is not None]
    if len(blocks) > MAX_BLOCKS:
        raise ValueError(f"{len(blocks)} blocks: an attachment has at most {MAX_BLOCKS}")
    if token is not None and len(token) != 16:
        raise ValueError(f"a token has 16 bytes, not {len(token)}")
    capabilities = Capability.SHARED | (Capability.HOLD if hold else Capability.NONE)
    packed = tuple((pack_address(each.network_address), each.prefixlen) for each in blocks)
    request = AttachRequest(wanted, token or b"", int(capabilities), mtu or 0, ring_capacity or 0, packed)
    control = ControlClient(name, timeout=timeout)
    try:
        if blocks and not control.capabilities & Capability.BLOCKS:
            raise RouterError(errno.EPROTONOSUPPORT, f"router {control.name!r} leases no blocks: use the same release")
        body, fds = control.request(Type.ATTACH, request.pack(), protocol.MAX_FDS)
        return Attachment(control, request, AttachReply.unpack(body), fds)
    except BaseException:
        control.close()
        raise
