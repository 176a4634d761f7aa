"""httpcore on a host, by its hook for networks; `netstack.adapters.httpx` puts it under httpx.

>>> pool = httpcore.ConnectionPool(network_backend=NetworkBackend(host))                    # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
import contextlib
import socket as _kernel
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore

from netstack.adapters.tls_steps import TlsSteps, run, run_async

CHUNK = 65536                    # bytes asked for at once below TLS
Options = Iterable[Any]


@contextlib.contextmanager
def _errors(late: type[Exception], failed: type[Exception]) -> Iterator[None]:
    """The socket's errors in httpcore's words."""
    try:
        yield
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise late(error) from error
    except OSError as error:                           # TLS's errors too
        raise failed(error) from error


def _no_unix(*_: Any, **__: Any) -> Any:
    raise httpcore.ConnectError("a host has no Unix sockets")


class Stream(httpcore.NetworkStream):
    """One connection, plain or under TLS; TLS within TLS, as behind an HTTPS proxy, is one more layer."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _errors(httpcore.ReadTimeout, httpcore.ReadError):
            self._sock.settimeout(timeout)
            return self._sock.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _errors(httpcore.WriteTimeout, httpcore.WriteError):
            self._sock.settimeout(timeout)
            self._sock.sendall(buffer)

    def close(self) -> None:
        self._sock.close()

    def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None = None,
                  timeout: float | None = None) -> Stream:
        return TlsStream(self, ssl_context, server_hostname, timeout)

    def get_extra_info(self, info: str) -> Any:
        if info == "client_addr":
            return self._sock.getsockname()
        if info == "server_addr":
            return self._sock.getpeername()
        if info == "socket":
            return self._sock
        if info == "is_readable":
            try:
                self._sock.recv(1, _kernel.MSG_PEEK | _kernel.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except OSError:
                pass
            return True
        return None


class TlsStream(Stream):
    def __init__(self, below: Stream, context: ssl.SSLContext, server_hostname: str | None,
                 timeout: float | None) -> None:
        super().__init__(below._sock)
        self._below = below
        try:
            with _errors(httpcore.ConnectTimeout, httpcore.ConnectError):
                self._tls = TlsSteps(context, server_hostname)
                self._run(self._tls.handshake(), timeout)
        except (httpcore.ReadTimeout, httpcore.WriteTimeout) as error:
            self.close()
            raise httpcore.ConnectTimeout(error) from error
        except (httpcore.ReadError, httpcore.WriteError) as error:
            self.close()
            raise httpcore.ConnectError(error) from error
        except BaseException:
            self.close()
            raise

    def _run(self, steps: Any, timeout: float | None) -> Any:
        return run(steps, lambda: self._below.read(CHUNK, timeout), lambda data: self._below.write(data, timeout))

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _errors(httpcore.ReadTimeout, httpcore.ReadError):
            return self._run(self._tls.read(max_bytes), timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _errors(httpcore.WriteTimeout, httpcore.WriteError):
            self._run(self._tls.write(buffer), timeout)

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._tls.object
        if info == "is_readable" and self._tls.waiting:
            return True
        return super().get_extra_info(info)


class NetworkBackend(httpcore.NetworkBackend):
    """What ``httpcore.ConnectionPool`` takes as ``network_backend``: connections of ``host``."""

    def __init__(self, host: Any) -> None:
        self._host = host

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
                    socket_options: Options | None = None) -> Stream:
        with _errors(httpcore.ConnectTimeout, httpcore.ConnectError):
            sock = self._host.create_connection(
                (host, port), timeout, source_address=None if local_address is None else (local_address, 0))
            _set_options(sock, socket_options)
        return Stream(sock)

    connect_unix_socket = staticmethod(_no_unix)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def _set_options(sock: Any, options: Options | None) -> None:
    for option in (*(options or ()), (_kernel.IPPROTO_TCP, _kernel.TCP_NODELAY, 1)):
        sock.setsockopt(*option)


# --- asynchronous -----------------------------------------------------------------------------------------------------


class _AsyncioEnd:
    """A connection in a loop of asyncio's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.socket = writer.get_extra_info("socket")

    @classmethod
    async def connect(cls, host: Any, name: str, port: int, local: str | None) -> _AsyncioEnd:
        options = {} if local is None else {"local_addr": (local, 0)}
        return cls(*await host.open_connection(name, port, **options))

    @staticmethod
    async def within(seconds: float | None, awaitable: Any) -> Any:
        return await asyncio.wait_for(awaitable, seconds)

    async def receive(self, n: int) -> bytes:
        return await self._reader.read(n)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    @property
    def readable(self) -> bool:
        return bool(getattr(self._reader, "_buffer", b"")) or self._reader.at_eof() or self._writer.is_closing()


class _TrioEnd:
    """A connection under trio."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.socket = stream.socket

    @classmethod
    async def connect(cls, host: Any, name: str, port: int, local: str | None) -> _TrioEnd:
        import trio

        from netstack.adapters.trio import Socket

        last: OSError | None = None
        entries = await trio.to_thread.run_sync(host.getaddrinfo, name, port, 0, _kernel.SOCK_STREAM,
                                                abandon_on_cancel=True)
        for family, kind, proto, _, address in entries:
            sock = Socket(host.socket(family, kind, proto))
            try:
                if local is not None:
                    await sock.bind((local, 0))
                await sock.connect(address)
                return cls(trio.SocketStream(sock))
            except OSError as error:
                last = error
                sock.close()
            except BaseException:
                sock.close()
                raise
        raise last if last is not None else OSError("getaddrinfo returns an empty list")

    @staticmethod
    async def within(seconds: float | None, awaitable: Any) -> Any:
        import trio

        try:
            with trio.fail_after(float("inf") if seconds is None else seconds):
                return await awaitable
        except trio.TooSlowError as error:
            raise TimeoutError("timed out") from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise OSError(str(error)) from error

    async def receive(self, n: int) -> bytes:
        return await self._stream.receive_some(n)

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def close(self) -> None:
        await self._stream.aclose()

    @property
    def readable(self) -> bool:
        return self.socket.is_readable()


class AsyncStream(httpcore.AsyncNetworkStream):
    """One connection, plain or under any number of layers of TLS."""

    def __init__(self, end: Any, layers: tuple[TlsSteps, ...] = ()) -> None:
        self._end, self._layers = end, layers

    async def _receive(self, n: int, depth: int) -> bytes:
        if depth == 0:
            return await self._end.receive(n)
        return await self._do(self._layers[depth - 1].read(n), depth)

    async def _send(self, data: bytes, depth: int) -> None:
        if depth == 0:
            await self._end.send(data)
        else:
            await self._do(self._layers[depth - 1].write(data), depth)

    async def _do(self, steps: Any, depth: int) -> Any:
        return await run_async(steps, lambda: self._receive(CHUNK, depth - 1), lambda data: self._send(data, depth - 1))

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _errors(httpcore.ReadTimeout, httpcore.ReadError):
            return await self._end.within(timeout, self._receive(max_bytes, len(self._layers)))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _errors(httpcore.WriteTimeout, httpcore.WriteError):
            await self._end.within(timeout, self._send(buffer, len(self._layers)))

    async def aclose(self) -> None:
        await self._end.close()

    async def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None = None,
                        timeout: float | None = None) -> AsyncStream:
        above = AsyncStream(self._end, (*self._layers, TlsSteps(ssl_context, server_hostname)))
        try:
            with _errors(httpcore.ConnectTimeout, httpcore.ConnectError):
                await self._end.within(timeout, above._do(above._layers[-1].handshake(), len(above._layers)))
        except BaseException:
            await self.aclose()
            raise
        return above

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object" and self._layers:
            return self._layers[-1].object
        if info == "client_addr":
            return self._end.socket.getsockname()
        if info == "server_addr":
            return self._end.socket.getpeername()
        if info == "socket":
            return self._end.socket
        if info == "is_readable":
            return any(layer.waiting for layer in self._layers) or self._end.readable
        return None


class AsyncNetworkBackend(httpcore.AsyncNetworkBackend):
    """What ``httpcore.AsyncConnectionPool`` takes as ``network_backend``, under asyncio and under trio."""

    def __init__(self, host: Any) -> None:
        self._host = host

    async def connect_tcp(self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
                          socket_options: Options | None = None) -> AsyncStream:
        kind = _TrioEnd if _under_trio() else _AsyncioEnd
        with _errors(httpcore.ConnectTimeout, httpcore.ConnectError):
            end = await kind.within(timeout, kind.connect(self._host, host, port, local_address))
            _set_options(end.socket, socket_options)
        return AsyncStream(end)

    async def connect_unix_socket(self, path: str, timeout: float | None = None,
                                  socket_options: Options | None = None) -> Any:
        _no_unix()

    async def sleep(self, seconds: float) -> None:
        if _under_trio():
            import trio

            await trio.sleep(seconds)
        else:
            await asyncio.sleep(seconds)


def _under_trio() -> bool:
    try:
        asyncio.get_running_loop()
        return False
    except RuntimeError:
        return True
