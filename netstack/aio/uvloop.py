"""uvloop's event loop on hosts: libuv keeps timers, descriptors and the kernel's sockets, asyncio's code the rest.

libuv looks names up, connects and reads by itself, and would use the kernel for all of it. Here what belongs to a host
takes the transports of `netstack.aio`; everything else is uvloop's. The loop leads its hosts while it rests, with their
doorbells among libuv's descriptors. libuv does not say when it wakes for something else, so its lead is loose: a thread
that waits takes it at once, the standby thread when the loop has not come for a while. It does not spin before it
rests: it cannot tell whether callbacks wait. `netstack.aio.new_event_loop` does, and answers a lone connection much
faster.
"""

from __future__ import annotations

import asyncio
import socket as _kernel
import weakref
from asyncio import selector_events, sslproto
from typing import Any

import uvloop

from netstack import socket as face
from netstack.aio import connecting
from netstack.aio.loop import LoopMixin, by_descriptor, stack_handle
from netstack.aio.poller import Poller
from netstack.aio.transports import DatagramTransport, StreamTransport

_asyncio: Any = asyncio.BaseEventLoop
_events: Any = selector_events
_selecting: Any = selector_events.BaseSelectorEventLoop


class _Bells:
    """Where `LoopMixin` puts its pollers: among uvloop's descriptors."""

    def __init__(self, loop: UvloopLoop) -> None:
        self._loop = loop

    def add(self, poller: Poller) -> None:
        for fd in poller.fds:
            self._loop.add_reader(fd, self._loop._rang, poller, fd)
        self._loop.call_soon(self._loop._rest, poller)

    def get_key(self, fd: int) -> Any:
        """What the ``repr`` of asyncio's transports asks: libuv does not tell what it watches."""
        raise KeyError(fd)

    def renew(self, poller: Poller) -> None:
        """The links of its host ring other descriptors now."""
        for fd in poller.fds:
            self._loop.remove_reader(fd)
        poller.take_bells()
        for fd in poller.fds:
            self._loop.add_reader(fd, self._loop._rang, poller, fd)

    def remove(self, poller: Poller) -> None:
        timer = self._loop._timers.pop(poller, None)
        if timer is not None:
            timer.cancel()
        if not self._loop.is_closed():
            for fd in poller.fds:
                self._loop.remove_reader(fd)


class UvloopLoop(LoopMixin, uvloop.Loop):  # type: ignore[misc]
    """As `netstack.aio.EventLoop`, on uvloop.

    Parameters
    ----------
    host : Host, optional
        Whose network ``create_connection``, ``create_server``, ``create_datagram_endpoint`` and ``getaddrinfo`` mean.
        Without one: the host that `netstack.patch` put in place, or the kernel.
    """

    def __init__(self, host: Any = None) -> None:
        self._host = host
        self._pollers = {}
        self._watches = {}
        self._timers: dict[Poller, asyncio.TimerHandle] = {}
        self._transports: Any = weakref.WeakValueDictionary()          # asyncio's own
        self._selector = _Bells(self)
        uvloop.Loop.__init__(self)

    # --- driving

    def _rang(self, poller: Poller, fd: int) -> None:
        if poller.resting:                             # else another of its descriptors was faster
            poller.woke(fd)
            self._turn(poller)

    def _due(self, poller: Poller) -> None:
        """The time has come that the host's stack wanted."""
        self._timers.pop(poller, None)
        self._rang(poller, -1)

    def _turn(self, poller: Poller) -> None:
        poller.schedule(self._add_callback)
        self.call_soon(self._rest, poller)             # behind what was scheduled

    def _rest(self, poller: Poller) -> None:
        if not poller.usable or poller.resting:
            return
        if poller.stale():
            self._selector.renew(poller)
        seconds = poller.rest()
        if seconds == 0:
            self.call_soon(self._turn, poller)         # libuv's own callbacks come in between
        elif seconds is not None:
            self._be_back(poller, self.time() + seconds)

    def _be_back(self, poller: Poller, when: float) -> None:
        """Deadlines mostly move later: a timer that comes too early costs less than a new one each time."""
        timer = self._timers.get(poller)
        if timer is not None and timer.when() <= when:
            return
        if timer is not None:
            timer.cancel()
        self._timers[poller] = self.call_at(when, self._due, poller)

    def _add_callback(self, handle: asyncio.Handle) -> None:
        self.call_soon(_run, handle)

    # --- asyncio's code, for the sockets of stacks

    _debug = property(lambda self: self.get_debug())
    _accept_connection = _selecting._accept_connection
    _accept_connection2 = _selecting._accept_connection2
    _create_connection_transport = _asyncio._create_connection_transport
    _sendfile_fallback = _asyncio._sendfile_fallback

    # libuv would read and write the descriptors of a daemon's sockets, which carry no data; asyncio's transports call
    # the sockets.

    def _add_reader(self, fd: int, callback, *args) -> None:
        self.add_reader(fd, callback, *args)

    def _remove_reader(self, fd: int) -> bool:
        return self.remove_reader(fd)

    def _add_writer(self, fd: int, callback, *args) -> None:
        self.add_writer(fd, callback, *args)

    def _remove_writer(self, fd: int) -> bool:
        return self.remove_writer(fd)

    def _make_socket_transport(self, sock, protocol, waiter=None, *, extra=None, server=None):
        make: Any = _events._SelectorSocketTransport if by_descriptor(sock) else StreamTransport
        return make(self, sock, protocol, waiter, extra, server)

    def _make_ssl_transport(self, rawsock, protocol, sslcontext, waiter=None, *, server_side=False,
                            server_hostname=None, extra=None, server=None, **timeouts):
        tls = sslproto.SSLProtocol(self, protocol, sslcontext, waiter, server_side, server_hostname, **timeouts)
        self._make_socket_transport(rawsock, tls, extra=extra, server=server)
        return tls._app_transport

    def _make_datagram_transport(self, sock, protocol, address=None, waiter=None, extra=None):
        make: Any = _events._SelectorDatagramTransport if by_descriptor(sock) else DatagramTransport
        return make(self, sock, protocol, address, waiter, extra)

    def _start_serving(self, protocol_factory, sock, *args) -> None:
        if by_descriptor(sock):
            _selecting._start_serving(self, protocol_factory, sock, *args)
        else:
            super()._start_serving(protocol_factory, sock, *args)

    def _stop_serving(self, sock) -> None:
        if by_descriptor(sock):
            _selecting._stop_serving(self, sock)
        else:
            super()._stop_serving(sock)

    def _whose(self, choose: str, name: Any, port: Any, family: int) -> Any:
        """The host that a name means; None: the kernel."""
        if self._host is not None or not face.placements:
            return self._host
        return getattr(face.current_placement(), choose)((name, port), family or _kernel.AF_INET)

    async def create_connection(self, protocol_factory, host=None, port=None, *, sock=None, **options):
        """As `asyncio.loop.create_connection`."""
        if sock is not None and _of_a_stack(sock):
            return await _asyncio.create_connection(self, protocol_factory, sock=sock, **options)
        if sock is None and (host is not None or port is not None):
            whose = self._whose("towards", host, port, options.get("family", 0))
            if whose is not None:
                return await connecting.create_connection(whose, protocol_factory, host, port, **options)
        return await uvloop.Loop.create_connection(self, protocol_factory, host, port, sock=sock, **options)

    async def create_server(self, protocol_factory, host=None, port=None, *, sock=None, **options):
        """As `asyncio.loop.create_server`."""
        if sock is not None and _of_a_stack(sock):
            return await _asyncio.create_server(self, protocol_factory, sock=sock, **options)
        if sock is None and (host is not None or port is not None):
            first = host if isinstance(host, (str, bytes)) or not host else next(iter(host))
            whose = self._whose("here", first or "", port, options.get("family", 0))
            if whose is not None:
                return await connecting.create_server(whose, protocol_factory, host, port, **options)
        return await uvloop.Loop.create_server(self, protocol_factory, host, port, sock=sock, **options)

    async def connect_accepted_socket(self, protocol_factory, sock, **options):
        """As `asyncio.loop.connect_accepted_socket`."""
        base: Any = _asyncio if _of_a_stack(sock) else uvloop.Loop
        return await base.connect_accepted_socket(self, protocol_factory, sock, **options)

    async def create_datagram_endpoint(self, protocol_factory, local_addr=None, remote_addr=None, *, family=0, proto=0,
                                       flags=0, reuse_port=None, allow_broadcast=None, sock=None, **options):
        """As `asyncio.loop.create_datagram_endpoint`."""
        if sock is not None and _of_a_stack(sock):
            return await _asyncio.create_datagram_endpoint(self, protocol_factory, sock=sock)
        whose, peer = None, None
        if sock is None and family != _kernel.AF_UNIX and (local_addr or remote_addr or family):
            choose, address = ("towards", remote_addr) if remote_addr else ("here", local_addr or ("", 0))
            whose = self._whose(choose, *address[:2], family)
        if whose is None:
            return await uvloop.Loop.create_datagram_endpoint(
                self, protocol_factory, local_addr, remote_addr, family=family, proto=proto, flags=flags,
                reuse_port=reuse_port, allow_broadcast=allow_broadcast, sock=sock, **options)
        sock, peer = await connecting.datagram_socket(self, whose, local_addr, remote_addr, family, proto, flags,
                                                      reuse_port, allow_broadcast)
        waiter = self.create_future()
        protocol = protocol_factory()
        transport = self._make_datagram_transport(sock, protocol, peer, waiter)
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    async def start_tls(self, transport, protocol, sslcontext, **options):
        """As `asyncio.loop.start_tls`."""
        base: Any = _asyncio if _is_ours(transport) else uvloop.Loop
        return await base.start_tls(self, transport, protocol, sslcontext, **options)

    async def sendfile(self, transport, file, offset=0, count=None, *, fallback=True):
        """As `asyncio.loop.sendfile`: the file is read and sent."""
        if not _is_ours(transport):
            return await uvloop.Loop.sendfile(self, transport, file, offset, count, fallback=fallback)
        if transport.is_closing():
            raise RuntimeError("Transport is closing")
        if not fallback:
            raise asyncio.SendfileNotAvailableError("a stack's socket: the file is read and sent")
        return await self._sendfile_fallback(transport, file, offset, count)

    async def getaddrinfo(self, host, port, *, family=0, type=0, proto=0, flags=0):
        """As `asyncio.loop.getaddrinfo`."""
        if self._host is None and face.placements:
            return await self.run_in_executor(None, _kernel.getaddrinfo, host, port, family, type, proto, flags)
        return await super().getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)

    async def getnameinfo(self, sockaddr, flags=0):
        """As `asyncio.loop.getnameinfo`."""
        if self._host is None and face.placements:
            return await self.run_in_executor(None, _kernel.getnameinfo, sockaddr, flags)
        return await super().getnameinfo(sockaddr, flags)


def _run(handle: asyncio.Handle) -> None:
    if not handle.cancelled():
        handle._run()


def _of_a_stack(sock: Any) -> bool:
    return stack_handle(sock) is not None or by_descriptor(sock)


def _is_ours(transport: Any) -> bool:
    """A transport of a stack's socket, or TLS over one, in layers."""
    while not isinstance(transport, (StreamTransport, _events._SelectorSocketTransport)):
        transport = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
        if transport is None:
            return False
    return True


def new_event_loop(host: Any = None) -> UvloopLoop:
    """An event loop, for ``asyncio.run(main(), loop_factory=netstack.aio.uvloop.new_event_loop)``."""
    return UvloopLoop(host)
