"""trio on a host, by its hooks for sockets and names.

>>> async def main():                                                   # doctest: +SKIP
...     use(host)
...     stream = await trio.open_tcp_stream("10.9.0.1", 80)

trio's own socket class takes nothing but the standard library's; `Socket` has its interface, over a host's socket whose
readiness descriptor trio waits for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket as _kernel
from typing import Any

import trio
import trio.abc

from netstack.socket import socket

_NUMERIC = (_kernel.AF_INET, _kernel.AF_INET6)


class Socket(trio.socket.SocketType):
    """As ``trio.socket.SocketType``, of a host.

    Parameters
    ----------
    sock : netstack.socket.socket
        Belongs to this object from here on.
    """

    def __init__(self, sock: socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._shut = False

    # --- what does not wait

    family = property(lambda self: self._sock.family)
    type = property(lambda self: self._sock.type)
    proto = property(lambda self: self._sock.proto)
    did_shutdown_SHUT_WR = property(lambda self: self._shut)  # noqa: N815 - trio's

    def fileno(self) -> int:
        return self._sock.fileno()

    def getpeername(self) -> Any:
        return self._sock.getpeername()

    def getsockname(self) -> Any:
        return self._sock.getsockname()

    def getsockopt(self, *args: Any) -> Any:
        return self._sock.getsockopt(*args)

    def setsockopt(self, *args: Any) -> None:
        self._sock.setsockopt(*args)

    def listen(self, backlog: int = 128) -> None:
        self._sock.listen(backlog)

    def get_inheritable(self) -> bool:
        return self._sock.get_inheritable()

    def set_inheritable(self, inheritable: bool) -> None:
        self._sock.set_inheritable(inheritable)

    def dup(self) -> Socket:
        return Socket(self._sock.dup())

    def shutdown(self, flag: int) -> None:
        self._sock.shutdown(flag)
        if flag in (_kernel.SHUT_WR, _kernel.SHUT_RDWR):
            self._shut = True

    def detach(self) -> int:
        """A descriptor that carries the data: `netstack.socket.socket.detach`."""
        self._wake_waiters()
        return self._sock.detach()

    def close(self) -> None:
        self._wake_waiters()
        self._sock.close()

    def _wake_waiters(self) -> None:
        fd = self._sock.fileno()
        if fd != -1:
            with contextlib.suppress(RuntimeError):        # outside of trio nobody waits
                trio.lowlevel.notify_closing(fd)

    def is_readable(self) -> bool:
        try:
            self._sock.recv(1, _kernel.MSG_PEEK | _kernel.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    # --- what waits

    async def _call(self, wait: Any, function: Any, *args: Any) -> Any:
        """At once if it can be, else as often as the socket becomes ready; a checkpoint of trio either way."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with contextlib.suppress(BlockingIOError):
            result = function(*args)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return result
        while True:
            await self._until(wait)
            with contextlib.suppress(BlockingIOError):
                return function(*args)

    async def _until(self, wait: Any) -> None:
        fd = self._sock.fileno()
        if fd == -1:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        await wait(fd)

    async def _resolved(self, address: Any, local: bool = False) -> Any:
        """The address with numbers for names, asked for as trio asks."""
        if self.family not in _NUMERIC or not isinstance(address, tuple) or not 2 <= len(address) <= 4:
            raise ValueError("address should be a (host, port) tuple")
        name, port, *rest = address
        if isinstance(port, int) and name is not None:
            with contextlib.suppress(OSError, TypeError):
                _kernel.inet_pton(self.family, name)
                return address
        flags = _kernel.AI_PASSIVE if local else 0
        if self.family == _kernel.AF_INET6 and not self._sock.getsockopt(_kernel.IPPROTO_IPV6, _kernel.IPV6_V6ONLY):
            flags |= _kernel.AI_V4MAPPED
        name = {"": None, "<broadcast>": "255.255.255.255"}.get(name, name)
        found = await trio.socket.getaddrinfo(name, port, self.family, self.type, self.proto, flags)
        numeric = found[0][4]
        return (*numeric[:2], *rest, *numeric[2 + len(rest):])

    async def bind(self, address: Any) -> None:
        self._sock.bind(await self._resolved(address, local=True))
        await trio.lowlevel.checkpoint()

    async def connect(self, address: Any) -> None:
        """As trio's: cancelled on its way, it closes the socket."""
        try:
            address = await self._resolved(address)
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                self._sock.connect(address)
            except BlockingIOError:
                await self._until(trio.lowlevel.wait_writable)
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return
        except trio.Cancelled:
            self._sock.close()
            raise
        code = self._sock.getsockopt(_kernel.SOL_SOCKET, _kernel.SO_ERROR)
        if code:
            raise OSError(code, f"Error connecting to {address!r}: {os.strerror(code)}")

    async def accept(self) -> Any:
        sock, address = await self._call(trio.lowlevel.wait_readable, self._sock.accept)
        return Socket(sock), address

    async def wait_writable(self) -> None:
        await self._until(trio.lowlevel.wait_writable)

    async def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        return await self._call(trio.lowlevel.wait_readable, self._sock.recv, bufsize, flags)

    async def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        return await self._call(trio.lowlevel.wait_readable, self._sock.recv_into, buffer, nbytes, flags)

    async def recvfrom(self, bufsize: int, flags: int = 0, /) -> Any:
        return await self._call(trio.lowlevel.wait_readable, self._sock.recvfrom, bufsize, flags)

    async def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> Any:
        return await self._call(trio.lowlevel.wait_readable, self._sock.recvfrom_into, buffer, nbytes, flags)

    async def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> Any:
        return await self._call(trio.lowlevel.wait_readable, self._sock.recvmsg, bufsize, ancbufsize, flags)

    async def recvmsg_into(self, buffers: Any, ancbufsize: int = 0, flags: int = 0, /) -> Any:
        return await self._call(trio.lowlevel.wait_readable, self._sock.recvmsg_into, buffers, ancbufsize, flags)

    async def send(self, data: Any, flags: int = 0, /) -> int:
        return await self._call(trio.lowlevel.wait_writable, self._sock.send, data, flags)

    async def sendto(self, data: Any, *args: Any) -> int:
        *flags, address = args
        address = await self._resolved(address)
        return await self._call(trio.lowlevel.wait_writable, self._sock.sendto, data, *flags, address)

    async def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:
        if address is not None:
            address = await self._resolved(address)
        return await self._call(trio.lowlevel.wait_writable, self._sock.sendmsg, buffers, ancdata, flags, address)


class SocketFactory(trio.abc.SocketFactory):
    """For ``trio.socket.set_custom_socket_factory``: IP sockets are of ``host``, others the kernel's."""

    def __init__(self, host: Any) -> None:
        self._host = host

    def socket(self, family: Any = _kernel.AF_INET, type: Any = _kernel.SOCK_STREAM, proto: int = 0) -> Any:
        if family in _NUMERIC:
            return Socket(self._host.socket(family, type, proto))
        return trio.socket.from_stdlib_socket(_kernel.socket(family, type, proto))


class HostnameResolver(trio.abc.HostnameResolver):
    """For ``trio.socket.set_custom_hostname_resolver``: names are asked for through ``host``."""

    def __init__(self, host: Any) -> None:
        self._host = host

    async def getaddrinfo(self, host: bytes | None, port: Any, family: int = 0, type: int = 0, proto: int = 0,
                          flags: int = 0) -> Any:
        return await trio.to_thread.run_sync(
            self._host.getaddrinfo, host, port, family, type, proto, flags, abandon_on_cancel=True)

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        return await trio.to_thread.run_sync(self._host.getnameinfo, sockaddr, flags, abandon_on_cancel=True)


def use(host: Any) -> None:
    """From here on, in this run of trio: sockets and names are those of ``host``."""
    trio.socket.set_custom_socket_factory(SocketFactory(host))
    trio.socket.set_custom_hostname_resolver(HostnameResolver(host))
