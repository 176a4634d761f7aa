"""A place at a router, and how it survives that the router is killed and started again."""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
import logging
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

from netstack.errors import RouterError
from netstack.link.channel import ChannelLink
from netstack.router import protocol
from netstack.router.block_messages import Network
from netstack.router.blocks import first_host
from netstack.router.client import ControlClient
from netstack.router.keeper import keeper
from netstack.router.pool import format_address, is_v4, last_address, pack_address
from netstack.router.protocol import AttachReply, AttachRequest, Backend, Capability, Type
from rings.channel import Channel, ChannelLayout
from rings.errors import RingError

if TYPE_CHECKING:
    from netstack.driver import Driver
    from netstack.router.ports import SharedPorts

log = logging.getLogger("netstack.router")

COME_BACK_TIMEOUT_S = 5.0  # for an answer of the next router, which may have many to take back at once


def _channel_of(reply: AttachReply, fds: list[int]):
    """The stack's side of the channel that a router made for it."""
    backend = Backend(reply.backend).name.lower()
    layout = ChannelLayout(
        side="b",
        backend=backend,
        capacity=reply.ring_capacity,
        generation=reply.generation,
        single_writer=(backend == "memfd", False),
    )
    return Channel.attach(fds, layout)


class Attachment:
    """A place at a router: a link, and the addresses that go with it.

    Attributes
    ----------
    link : netstack.link.channel.ChannelLink
        What the stack sends and receives through; dead when the router is gone.
    addresses : tuple of str
        Leased for as long as this object (or the process) lives. Of a version of which there are only blocks, the
        first but one of the first.
    blocks : tuple of ipaddress networks
        Prefixes leased likewise: the stack may have any address of them, the router knows one route for each.
    prefix_lengths : tuple of int
        Of the pool of each address.
    router_addresses : tuple of str
        The router itself, in the pools of these addresses: it answers ping.
    mtu : int
        Largest packet, bytes.
    token : bytes
        Proof of the lease: whoever brings it gets the addresses (16 bytes, keep it secret).
    epoch : int
        How often the first address has changed hands.
    id : int
        The router's number for this attachment.
    name : str
        The router's name.
    name_servers : tuple of str
        Who answers questions for names there, if anybody does.
    ports : netstack.router.ports.SharedPorts or None
        Where the address is shared with other stacks: what this one has of its ports.
    returns : int
        How often the router was killed, and this came back to the next one.
    """

    def __init__(self, control: ControlClient, request: AttachRequest, reply: AttachReply, fds: list[int]):
        channel = _channel_of(reply, fds)
        self._control: ControlClient | None = control
        self._request = request
        self._path = control.path
        self._pid = os.getpid()
        self._lock = threading.Lock()        # between the program, which closes, and the keeper
        self._closed = False
        self._driver: Driver | None = None
        self._patience_s = 0.0
        self._lost_at = 0.0                  # monotonic; 0: the router is there
        self._complaint = ""                 # why the last attempt to come back failed
        self._ending = ""
        self.returns = 0
        self.link = ChannelLink(channel, mtu=reply.mtu, watch_peer=False)  # the keeper does, by the control socket
        self.mtu = reply.mtu
        self.name = control.name
        self._take(reply)
        self.ports: SharedPorts | None = None
        if reply.capabilities & Capability.SHARED:
            from netstack.router.ports import SharedPorts

            self.ports = SharedPorts(control.socket.fileno(), self.link, control.name)
            self.link.keep = self.ports      # whose stack calls it
        keeper().watch(self, control.socket.fileno())

    def _take(self, reply: AttachReply) -> None:
        self.blocks = reply.blocks
        self._leased = reply.addresses
        places = {a: n for a, n in zip(map(format_address, reply.addresses), reply.prefix_lengths, strict=True)}
        for version in (4, 6):
            of_blocks = [(b, n) for b, n in zip(reply.blocks, reply.pool_lengths, strict=True) if b.version == version]
            if of_blocks and all(is_v4(a) != (version == 4) for a in reply.addresses):
                places[str(first_host(of_blocks[0][0]))] = of_blocks[0][1]
        self.addresses = tuple(places)
        self.prefix_lengths = tuple(places.values())
        self.router_addresses = tuple(format_address(a) for a in reply.router_addresses)
        self.token = reply.token
        self.epoch = reply.epoch
        self.id = reply.id
        self.name_servers: tuple[str, ...] = ()
        if reply.capabilities & Capability.NAMES:
            network = ipaddress.ip_network(f"{self.address}/{self.prefix_lengths[0]}", strict=False)
            self.name_servers = (str(last_address(network)),)

    @property
    def address(self) -> str:
        """The first address."""
        return self.addresses[0]

    @property
    def block(self) -> Network | None:
        """The first block, None without one."""
        return self.blocks[0] if self.blocks else None

    @property
    def router_address(self) -> str:
        """The first of the router's addresses."""
        return self.router_addresses[0]

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def down(self) -> bool:
        """The router is gone, and waited for."""
        return self._lost_at != 0

    @property
    def gone(self) -> bool:
        """The router ended or was killed, or this was closed."""
        return self._control is None

    @property
    def ending(self) -> str:
        """Why the router ended this attachment, and no other: ``poisoned`` or ``truncated`` (its rings), or ``greedy:``
        and what a TCP of it did. Empty: it did not, or did not say so.
        """
        with self._lock:
            if not self._ending and self._control is not None:
                self._ending = protocol.last_words(self._control.socket, socket.MSG_PEEK)
            return self._ending

    def serve(self, driver: Driver, patience_s: float) -> None:
        """A driver has the link: should the router be killed, its connections wait so long for the next one."""
        self._driver = driver
        self._patience_s = patience_s

    def close(self) -> None:
        """Give everything back. Closing twice is allowed; a forked child only forgets its copy."""
        forked = self._pid != os.getpid()
        if forked:
            self._closed, control = True, self._control
            self._control = None
            if control is not None:
                control.close()
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            control, self._control = self._control, None
        if self.ports is not None:
            self.ports.close()
        self.link.close()
        if control is None:
            return                           # the router is gone: it has nothing of ours any more
        keeper().unwatch(control.socket.fileno())
        self._release(control)

    @staticmethod
    def _release(control: ControlClient) -> None:
        """Give the addresses back, which nobody will ask for again."""
        try:
            control.request(Type.RELEASE)
        except RouterError:
            pass                             # the router is gone, likewise
        control.close()

    # ---- the keeper's calls

    def lost(self) -> bool:
        """The control socket hung up. True: `come_back` is to be tried."""
        with self._lock:
            if self._closed:
                return False
            control, self._control = self._control, None
            if self.ports is not None:
                self.ports.close()
            if control is not None:
                self._ending = protocol.last_words(control.socket)
                control.close()
            if self._ending:
                log.warning("router %s ended the attachment of %s: %s", self.name, ", ".join(self.addresses),
                            self._ending)
            if self._ending or self.link.peer_closed or self._driver is None or self._patience_s <= 0:
                self._end()
                return False
            self.link.lose()
            self._driver.change_links()
            self.link.settle()
            self._lost_at = time.monotonic()     # last: who sees `down` sends nothing to the router that is gone
        log.warning(
            "router %s is gone: %s waits for it, at most %g s", self.name, ", ".join(self.addresses), self._patience_s
        )
        return True

    def come_back(self) -> bool:
        """One attempt. True: it is to be tried again."""
        if self._closed:
            return False
        try:
            control = ControlClient(self.name, path=self._path, timeout=COME_BACK_TIMEOUT_S)
        except (RouterError, OSError) as error:
            return self._failed(error)
        try:
            body, fds = control.request(Type.ATTACH, self._request_again().pack(), protocol.MAX_FDS)
            reply = AttachReply.unpack(body)
            channel = _channel_of(reply, fds)
            same = set(reply.addresses) == set(self._leased) and set(reply.blocks) == set(self.blocks)
            if not same or reply.mtu < self.link.mtu:
                raise RouterError(errno.EADDRNOTAVAIL, "it has other addresses or a smaller mtu now")
        except (RouterError, RingError, protocol.ProtocolError, OSError) as error:
            control.close()
            return self._failed(error)
        with self._lock:
            if not self._closed and self._resume(control, channel):
                self._take(reply)
                self.returns += 1
                waited, self._lost_at, self._complaint = time.monotonic() - self._lost_at, 0.0, ""
                self._control = control
                keeper().watch(self, control.socket.fileno())
            else:                            # the program closed it meanwhile
                channel.close()
                self._release(control)
                return False
        log.info("%s is back at router %s after %.3f s", ", ".join(self.addresses), self.name, waited)
        return False

    def _request_again(self) -> AttachRequest:
        return dataclasses.replace(
            self._request,
            addresses=self._leased,
            blocks=tuple((pack_address(b.network_address), b.prefixlen) for b in self.blocks),
            token=self.token,
            mtu=self.link.mtu,
        )

    def _resume(self, control: ControlClient, channel) -> bool:
        assert self._driver is not None
        if self.ports is not None:
            lost = self.ports.renew(control.socket.fileno())
            if lost:
                log.warning("%d ports of %s are not to be had any more", lost, ", ".join(self.addresses))
        self.link.renew(channel)
        done = self._driver.change_links(True)
        if done:
            self.link.settle()
        return done

    def _failed(self, error: BaseException) -> bool:
        """An attempt failed. True: there is time for another one."""
        with self._lock:
            if self._closed:
                return False
            text = getattr(error, "strerror", None) or str(error)
            if text != self._complaint:
                self._complaint = text
                log.info("%s cannot come back to router %s yet: %s", ", ".join(self.addresses), self.name, text)
            if time.monotonic() < self._lost_at + self._patience_s:
                return True
            self._end()
        log.warning("router %s did not come back within %g s: %s is cut off", self.name, self._patience_s,
                    ", ".join(self.addresses))
        return False

    def _end(self) -> None:
        """The link is dead: whoever sleeps on it looks."""
        self.link.end()
        if self._driver is not None:
            self._driver.change_links()
            return
        self.link.change()
        if self.link.channel.layout.backend == "posix":      # sockets as doorbells hang up by themselves
            for bell in self.link.channel.doorbells.values():
                bell.kick()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<Attachment {', '.join(self.addresses)} at router {self.name!r}{state}>"
