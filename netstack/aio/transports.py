"""Transports of asyncio on a stack's sockets: bytes go from the stack to the protocol and back, no descriptor between.

What the methods promise is `asyncio.Transport`'s and `asyncio.DatagramTransport`'s; the behaviour in the corners (when
``connection_lost`` comes, what a write after an error does) follows the standard library's selector transports.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import socket as _kernel
import warnings
from asyncio import constants, transports, trsock
from asyncio.log import logger
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from netstack.aio.stream import Stream
from netstack.handle import Handle

if TYPE_CHECKING:
    from netstack.socket import socket

RECEIVE_MOST = 256 << 10     # bytes asked for at a time
LISTING_MOST = 128 << 10     # write buffer: pieces above this are kept as they are, others are joined


class _StackTransport(transports._FlowControlMixin, transports.Transport):
    _sock: socket | None = None
    _loop: Any
    _extra: dict[str, Any]
    _maybe_pause_protocol: Callable[[], None]
    _maybe_resume_protocol: Callable[[], None]

    def __init__(self, loop: Any, sock: socket, protocol, extra=None, server=None) -> None:
        super().__init__(extra, loop)
        self._sock = sock
        self._handle: Handle = sock._handle        # type: ignore[assignment]
        self._extra["socket"] = trsock.TransportSocket(sock)
        self._extra["sockname"] = _name(sock.getsockname)
        if "peername" not in self._extra:
            self._extra["peername"] = _name(sock.getpeername)
        self._server = server
        self._closing = False
        self._lost = 0                             # connection_lost is on its way; then counts writes in vain
        self._paused = False
        self._protocol_connected = False
        self._watch = loop._watch(self._handle)
        self.set_protocol(protocol)
        if server is not None:
            server._attach(*(() if _plain_attach(server) else (self,)))

    def __repr__(self) -> str:
        state = "closed" if self._sock is None else "closing" if self._closing else "open"
        return f"<{type(self).__name__} {state} {self._handle!r} buffered={self.get_write_buffer_size()}>"

    def __del__(self, _warn=warnings.warn) -> None:
        if self._sock is not None:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self._sock.close()

    def set_protocol(self, protocol) -> None:
        self._protocol = protocol
        self._protocol_connected = True

    def get_protocol(self):
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._closing and not self._paused

    def pause_reading(self) -> None:
        if self.is_reading():
            self._paused = True
            self._watch.on_readable(None)

    def resume_reading(self) -> None:
        if not self._closing and self._paused:
            self._paused = False
            self._watch.on_readable(self._receive)

    def _begin(self, waiter) -> None:
        self._loop.call_soon(self._protocol.connection_made, self)
        self._loop.call_soon(self._begin_reading)      # not before connection_made
        if waiter is not None:
            self._loop.call_soon(_set_unless_cancelled, waiter)

    def _begin_reading(self) -> None:
        if self.is_reading():
            self._watch.on_readable(self._receive)

    def _receive(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._watch.on_readable(None)
        if not self.get_write_buffer_size():
            self._stop()
            self._loop.call_soon(self._call_connection_lost, None)

    def _stop(self) -> None:
        """connection_lost is on its way: nothing is received or sent any more."""
        self._lost += 1
        self._watch.close()

    def abort(self) -> None:
        self._force_close(None)

    def _clear_buffer(self) -> None:
        raise NotImplementedError

    def _force_close(self, error) -> None:
        if self._lost:
            return
        self._clear_buffer()
        self._closing = True
        self._stop()
        self._loop.call_soon(self._call_connection_lost, error)

    def _fatal_error(self, error, message="Fatal error on transport") -> None:
        if isinstance(error, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=True)
        else:
            self._loop.call_exception_handler({
                "message": message, "exception": error, "transport": self, "protocol": self._protocol})
        self._force_close(error)

    def _call_connection_lost(self, error) -> None:
        try:
            if self._protocol_connected:
                self._protocol.connection_lost(error)
        finally:
            sock, server = self._sock, self._server
            self._sock = self._server = self._protocol = self._loop = None
            if sock is not None:
                sock.close()
            if server is not None:
                server._detach(*(() if _plain_attach(server) else (self,)))

    def _warn_of_vain_write(self) -> None:
        if self._lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
            logger.warning("socket.send() raised exception.")
        self._lost += 1


class StreamTransport(_StackTransport):
    """A connection. A `asyncio.BufferedProtocol` receives straight into its buffer."""

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.FALLBACK

    def __init__(self, loop: Any, sock: socket, protocol, waiter=None, extra=None, server=None) -> None:
        self._buffer: collections.deque[memoryview] = collections.deque()
        self._buffered = 0
        self._eof = False
        self._stream = Stream(self, sock._handle)      # type: ignore[arg-type]
        self._receive = self._stream.receive           # type: ignore[method-assign]
        self.write = self._stream.write                # type: ignore[method-assign]
        super().__init__(loop, sock, protocol, extra, server)
        try:
            sock.setsockopt(_kernel.IPPROTO_TCP, _kernel.TCP_NODELAY, 1)
        except OSError as error:                       # closed by its peer already: reading will tell
            logger.debug("%r: %s", self, error)
        self._begin(waiter)

    def set_protocol(self, protocol) -> None:
        self._stream.set_protocol(protocol, isinstance(protocol, asyncio.BufferedProtocol))
        super().set_protocol(protocol)

    def _stop(self) -> None:
        self._stream.stop()
        super()._stop()

    def _call_connection_lost(self, error) -> None:
        try:
            super()._call_connection_lost(error)
        finally:
            del self.write                             # from here on it warns
            self._stream.release()

    # --- receiving: `Stream.receive`

    def _receive_eof(self) -> None:
        try:
            keep_open = self._protocol.eof_received()
        except Exception as error:  # noqa: BLE001 - the protocol's
            self._fatal_error(error, "Fatal error: protocol.eof_received() call failed.")
            return
        if keep_open:
            self._watch.on_readable(None)
        else:
            self.close()

    # --- sending

    def get_write_buffer_size(self) -> int:
        return self._buffered

    def write(self, data) -> None:
        # Of an open transport `Stream.write` hides this, and calls it for what is unusual.
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._lost:
            self._warn_of_vain_write()
            return
        self._keep(data, 0)

    def _keep(self, data, sent: int) -> None:
        """What the socket does not take now waits behind what waits already."""
        left = memoryview(data).cast("B")[sent:]
        if not left:
            return
        if not self._buffered:
            self._stream.flows = False
            self._watch.on_writable(self._send)
        # A bytearray may change under us: the caller has it back when this returns.
        self._buffer.append(left if isinstance(data, bytes) else memoryview(bytes(left)))
        self._buffered += len(left)
        self._maybe_pause_protocol()

    def writelines(self, lines) -> None:
        self.write(b"".join(lines))

    def _piece(self) -> memoryview:
        """What to send next: small pieces joined."""
        buffer = self._buffer
        if len(buffer) > 1 and len(buffer[0]) < LISTING_MOST:
            size, count = 0, 0
            for piece in buffer:
                size += len(piece)
                count += 1
                if size >= LISTING_MOST:
                    break
            joined = memoryview(b"".join(itertools.islice(buffer, count)))
            for _ in range(count):
                buffer.popleft()
            buffer.appendleft(joined)
        return buffer[0]

    def _send(self) -> None:
        if self._lost:
            return
        try:
            while self._buffered:
                piece = self._piece()
                sent = self._handle.send(piece, _kernel.MSG_DONTWAIT)
                self._buffered -= sent
                if sent < len(piece):
                    self._buffer[0] = piece[sent:]
                    break
                self._buffer.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._fatal_error(error, "Fatal write error on socket transport")
            return
        self._maybe_resume_protocol()                  # may write more
        if self._buffered or self._lost:
            return
        self._watch.on_writable(None)
        if self._closing:
            self._stop()
            self._call_connection_lost(None)
        elif self._eof:
            self._shutdown()
        else:
            self._stream.flows = True

    def _clear_buffer(self) -> None:
        self._buffer.clear()
        self._buffered = 0

    def _shutdown(self) -> None:
        try:
            self._handle.shutdown(_kernel.SHUT_WR)
        except OSError as error:
            self._fatal_error(error, "Fatal write error on socket transport")

    def write_eof(self) -> None:
        if self._closing or self._eof:
            return
        self._eof = True
        self._stream.flows = False
        if not self._buffered:
            self._shutdown()

    def can_write_eof(self) -> bool:
        return True


class DatagramTransport(_StackTransport, transports.DatagramTransport):
    """A datagram socket, connected or not."""

    def __init__(self, loop: Any, sock: socket, protocol, address=None, waiter=None, extra=None) -> None:
        self._buffer: collections.deque[tuple[bytes, Any]] = collections.deque()
        self._buffered = 0
        self._address = address
        super().__init__(loop, sock, protocol, extra)
        self._begin(waiter)

    def get_write_buffer_size(self) -> int:
        return self._buffered

    def _receive(self) -> None:
        if self._lost:
            return
        try:
            data, address = self._handle.recvfrom(RECEIVE_MOST, _kernel.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if self._handle.closed:
                self._fatal_error(error, "Fatal read error on datagram transport")
            else:
                self._protocol.error_received(error)
            return
        self._protocol.datagram_received(data, address)

    def _transmit(self, data, address) -> None:
        if self._extra["peername"]:
            self._handle.send(data, _kernel.MSG_DONTWAIT)
        else:
            self._handle.sendto(data, _kernel.MSG_DONTWAIT, address)

    def sendto(self, data, addr=None) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._address:
            if addr not in (None, self._address):
                raise ValueError(f"Invalid address: must be None or {self._address}")
            addr = self._address
        if self._lost and self._address:
            self._warn_of_vain_write()
            return
        if not self._buffer:
            try:
                self._transmit(data, addr)
                return
            except (BlockingIOError, InterruptedError):
                self._watch.on_writable(self._send)
            except OSError as error:
                self._protocol.error_received(error)
                return
            except Exception as error:  # noqa: BLE001 - an address that is none
                self._fatal_error(error, "Fatal write error on datagram transport")
                return
        self._buffer.append((bytes(data), addr))
        self._buffered += len(data)
        self._maybe_pause_protocol()

    def _send(self) -> None:
        while self._buffer and not self._lost:
            data, address = self._buffer[0]
            try:
                self._transmit(data, address)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._protocol.error_received(error)
            self._buffer.popleft()
            self._buffered -= len(data)
        self._maybe_resume_protocol()
        if not self._buffer and not self._lost:
            self._watch.on_writable(None)
            if self._closing:
                self._stop()
                self._call_connection_lost(None)

    def _clear_buffer(self) -> None:
        self._buffer.clear()
        self._buffered = 0


def _name(ask):
    try:
        return ask()
    except OSError:
        return None


def _set_unless_cancelled(future) -> None:
    if not future.cancelled():
        future.set_result(None)


def _plain_attach(server) -> bool:
    """Whether this interpreter's Server counts its transports (before 3.13) or keeps them."""
    return not hasattr(server, "_clients")
