"""An event loop of asyncio that stands on hosts; what it adds to the standard library's.

Everything that asyncio does with a socket goes through a few methods of its selector loop. `LoopMixin` has its own for
sockets of a stack and leaves the kernel's to the loop it is mixed into, so protocols, streams, servers, TLS and
subprocesses are asyncio's own code.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket as _kernel
import ssl
from asyncio import sslproto
from typing import TYPE_CHECKING, Any

from netstack.aio import connecting
from netstack.aio.poller import Poller, Watch
from netstack.aio.selector import Selector
from netstack.aio.transports import DatagramTransport, StreamTransport
from netstack.handle import EVENT_IN, EVENT_OUT, Handle
from netstack.placing import across_hosts

_DONTWAIT = _kernel.MSG_DONTWAIT


if TYPE_CHECKING:
    class _Base(asyncio.SelectorEventLoop):
        """What the mixin stands in front of, with the methods that typeshed does not know."""

        def __getattr__(self, name: str) -> Any: ...
else:
    _Base = object


def stack_handle(sock: Any) -> Handle | None:
    """The stack's side of a socket; None: it is the kernel's."""
    handle = getattr(sock, "_handle", None)
    return handle if type(handle) is Handle else None


def by_descriptor(sock: Any) -> bool:
    """Whether it is a socket of a stack in another process, a daemon's: loops serve it by its readiness descriptor."""
    handle = getattr(sock, "_handle", None)
    return handle is not None and type(handle) is not Handle


class LoopMixin(_Base):
    """Mixed into a selector loop: its sockets of a stack are served without descriptors, and it drives their hosts.

    Parameters
    ----------
    host : Host, optional
        Whose network ``create_connection``, ``create_server``, ``create_datagram_endpoint`` and ``getaddrinfo`` mean.
        Without one: that of the process, which is the kernel's unless `netstack.patch` put hosts in place.
    """

    def __init__(self, host: Any = None) -> None:
        self._host = host
        self._pollers: dict[Any, Poller] = {}
        self._watches: dict[Handle, Watch] = {}
        super().__init__(self._make_selector())

    def _make_selector(self) -> Any:
        return Selector()

    # --- sockets that are watched

    def _watch(self, handle: Handle, transport: bool = True) -> Watch:
        watch = self._watches.get(handle)
        if watch is None:
            if handle.shareable_listener:
                handle.watch()
            driver = handle.driver
            poller = self._pollers.get(driver)
            if poller is None:
                poller = self._pollers[driver] = Poller(driver)
                self._selector.add(poller)
            watch = self._watches[handle] = Watch(self, poller, handle)
        elif watch.transport and not transport:
            raise RuntimeError(f"{handle!r} is used by a transport")
        watch.transport = transport
        return watch

    def _forget(self, handle: Handle) -> None:
        self._watches.pop(handle, None)

    def _process_events(self, event_list) -> None:
        if event_list:
            super()._process_events(event_list)  # type: ignore[misc]
        closed = None
        for driver, poller in self._pollers.items():
            poller.schedule(self._ready.append)
            if poller.done:
                closed = [*(closed or ()), driver]
        for driver in closed or ():
            self._drop(driver)

    def _drop(self, driver) -> None:
        poller = self._pollers.pop(driver)
        self._selector.remove(poller)
        poller.close()

    def close(self) -> None:
        if not self.is_running() and not self.is_closed():
            for driver in list(self._pollers):
                self._drop(driver)
            self._watches.clear()
        super().close()

    # --- the hooks of the standard library's loop

    def _make_socket_transport(self, sock, protocol, waiter=None, *, extra=None, server=None):
        if stack_handle(sock) is None:
            return super()._make_socket_transport(
                sock, protocol, waiter, extra=extra, server=server)
        return StreamTransport(self, sock, protocol, waiter, extra, server)

    def _make_ssl_transport(self, rawsock, protocol, sslcontext, waiter=None, *, server_side=False,
                            server_hostname=None, extra=None, server=None, **timeouts):
        if stack_handle(rawsock) is None:
            return super()._make_ssl_transport(
                rawsock, protocol, sslcontext, waiter, server_side=server_side, server_hostname=server_hostname,
                extra=extra, server=server, **timeouts)
        tls = sslproto.SSLProtocol(self, protocol, sslcontext, waiter, server_side, server_hostname, **timeouts)
        StreamTransport(self, rawsock, tls, extra=extra, server=server)
        return tls._app_transport

    def _make_datagram_transport(self, sock, protocol, address=None, waiter=None, extra=None):
        if stack_handle(sock) is None:
            return super()._make_datagram_transport(sock, protocol, address, waiter, extra)
        return DatagramTransport(self, sock, protocol, address, waiter, extra)

    def _start_serving(self, protocol_factory, sock, *args) -> None:
        handle = stack_handle(sock)
        if handle is None:
            super()._start_serving(protocol_factory, sock, *args)  # type: ignore[misc]
        else:
            self._watch(handle).on_readable(
                self._accept_connection, protocol_factory, sock, *args)

    def _stop_serving(self, sock) -> None:
        handle = stack_handle(sock)
        if handle is None:
            super()._stop_serving(sock)  # type: ignore[misc]
            return
        watch = self._watches.get(handle)
        if watch is not None:
            watch.close()
        sock.close()

    async def _sock_sendfile_native(self, sock, file, offset, count):
        if stack_handle(sock) is None and not by_descriptor(sock):
            return await super()._sock_sendfile_native(sock, file, offset, count)
        raise asyncio.SendfileNotAvailableError("a stack's socket: the file is read and sent")

    # --- connections of the loop's own host

    async def create_connection(self, protocol_factory, host=None, port=None, *, sock=None, **options):
        """As `asyncio.loop.create_connection`; on the loop's host addresses are raced (RFC 8305) unless
        ``happy_eyeballs_delay`` says otherwise."""
        if sock is not None or self._host is None or (host is None and port is None):
            return await super().create_connection(
                protocol_factory, host, port, sock=sock, **options)
        return await connecting.create_connection(self._host, protocol_factory, host, port, **options)

    async def create_server(self, protocol_factory, host=None, port=None, *, sock=None, **options):
        """As `asyncio.loop.create_server`."""
        if sock is not None or self._host is None or (host is None and port is None):
            return await super().create_server(protocol_factory, host, port, sock=sock, **options)
        return await connecting.create_server(self._host, protocol_factory, host, port, **options)

    async def create_datagram_endpoint(self, protocol_factory, local_addr=None, remote_addr=None, *, family=0, proto=0,
                                       flags=0, reuse_port=None, allow_broadcast=None, sock=None):
        """As `asyncio.loop.create_datagram_endpoint`."""
        if sock is not None or self._host is None or family == _kernel.AF_UNIX or not (local_addr or remote_addr
                                                                                      or family):
            return await super().create_datagram_endpoint(
                protocol_factory, local_addr, remote_addr, family=family, proto=proto, flags=flags,
                reuse_port=reuse_port, allow_broadcast=allow_broadcast, sock=sock)
        sock, peer = await connecting.datagram_socket(self, self._host, local_addr, remote_addr, family, proto, flags,
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

    async def getaddrinfo(self, host, port, *, family=0, type=0, proto=0, flags=0):
        """As `asyncio.loop.getaddrinfo`, through the loop's host."""
        if self._host is None:
            return await super().getaddrinfo(
                host, port, family=family, type=type, proto=proto, flags=flags)
        return await connecting.getaddrinfo(self, self._host, host, port, family, type, proto, flags)

    async def getnameinfo(self, sockaddr, flags=0):
        """As `asyncio.loop.getnameinfo`, through the loop's host."""
        if self._host is None:
            return await super().getnameinfo(sockaddr, flags)
        return await self.run_in_executor(None, self._host.getnameinfo, sockaddr, flags)

    # --- loop.sock_*

    def _stack_socket(self, sock) -> Handle | None:
        """The handle, after the checks of asyncio; None: not ours, the base does them."""
        handle = stack_handle(sock)
        if handle is not None:
            if isinstance(sock, ssl.SSLSocket):
                raise TypeError("Socket cannot be of type SSLSocket")
            if self.get_debug() and sock.gettimeout() != 0:
                raise ValueError("the socket must be non-blocking")
        return handle

    async def _until(self, handle: Handle, events: int) -> None:
        """Wait until the socket is ready for EVENT_IN or EVENT_OUT."""
        watch = self._watch(handle, transport=False)
        future = self.create_future()
        on, attribute = (watch.on_readable, "reader") if events == EVENT_IN else (watch.on_writable, "writer")
        on(_wake, on, future)
        mine = getattr(watch, attribute)
        try:
            await future
        finally:
            if getattr(watch, attribute) is mine:      # a call that was cancelled ends after the next one began
                on(None)
            if watch.idle:
                watch.close()

    async def _repeat(self, handle: Handle, events: int, call, *args):
        """The call, as often as it takes until it does not block."""
        while True:
            with contextlib.suppress(BlockingIOError, InterruptedError):
                return call(*args)
            await self._until(handle, events)

    async def sock_recv(self, sock, nbytes):
        handle = self._stack_socket(sock)
        if handle is None:
            return await super().sock_recv(sock, nbytes)
        return await self._repeat(handle, EVENT_IN, handle.recv, nbytes, _DONTWAIT)

    async def sock_recv_into(self, sock, buf):
        handle = self._stack_socket(sock)
        if handle is None:
            return await super().sock_recv_into(sock, buf)
        return await self._repeat(handle, EVENT_IN, handle.recv_into, buf, 0, _DONTWAIT)

    async def sock_recvfrom(self, sock, bufsize):
        handle = self._stack_socket(sock)
        if handle is None:
            return await super().sock_recvfrom(sock, bufsize)
        return await self._repeat(handle, EVENT_IN, handle.recvfrom, bufsize, _DONTWAIT)

    async def sock_recvfrom_into(self, sock, buf, nbytes=0):
        handle = self._stack_socket(sock)
        if handle is None:
            return await super().sock_recvfrom_into(sock, buf, nbytes)
        return await self._repeat(handle, EVENT_IN, handle.recvfrom_into, buf, nbytes, _DONTWAIT)

    async def sock_sendall(self, sock, data):
        handle = self._stack_socket(sock)
        if handle is None:
            return await super().sock_sendall(sock, data)
        with memoryview(data) as view, view.cast("B") as left:
            sent = 0
            while sent < len(left):
                with left[sent:] as rest:
                    sent += await self._repeat(handle, EVENT_OUT, handle.send, rest, _DONTWAIT)

    async def sock_sendto(self, sock, data, address):
        handle = self._stack_socket(sock)
        if handle is None:
            return await super().sock_sendto(sock, data, address)
        return await self._repeat(handle, EVENT_OUT, handle.sendto, data, _DONTWAIT, address)

    async def sock_connect(self, sock, address):
        if getattr(sock, "_placement", None) is not None:
            sock._towards(address)
        handle = self._stack_socket(sock)
        if handle is None:
            return await super().sock_connect(sock, address)
        if handle.host is not None and handle.host.resolver.must_ask(address[0]):
            found = await connecting.getaddrinfo(self, handle.host, *address[:2], sock.family, sock.type, sock.proto, 0)
            address = found[0][4]
        try:
            sock.connect(address)
            return None
        except BlockingIOError:
            pass
        await self._until(handle, EVENT_OUT)
        code = sock.getsockopt(_kernel.SOL_SOCKET, _kernel.SO_ERROR)
        if code == errno.EINPROGRESS:
            return await self.sock_connect(sock, address)
        if code:
            error = OSError(code, f"{os.strerror(code)}: connect -> {address[0]}:{address[1]}")
            raise across_hosts(error, handle.host, address)
        return None

    async def sock_accept(self, sock):
        handle = self._stack_socket(sock)
        if handle is None:
            return await super().sock_accept(sock)
        while True:
            with contextlib.suppress(BlockingIOError, InterruptedError):
                accepted, address = sock.accept()
                accepted.setblocking(False)
                return accepted, address
            await self._until(handle, EVENT_IN)


def _wake(on, future) -> None:
    on(None)
    if not future.done():
        future.set_result(None)


class EventLoop(LoopMixin, asyncio.SelectorEventLoop):
    """asyncio's selector loop on hosts; see `LoopMixin`."""


def new_event_loop(host: Any = None) -> EventLoop:
    """An event loop, for ``asyncio.run(main(), loop_factory=netstack.aio.new_event_loop)``.

    Parameters
    ----------
    host : Host, optional
        Whose network it means; see `LoopMixin`. `functools.partial` puts it into a factory.
    """
    return EventLoop(host)


