"""TLS over a stack's socket: what ``ssl.SSLContext.wrap_socket`` gives while `netstack.patch` is in place.

The standard library's ``SSLSocket`` hands a descriptor to OpenSSL. A stack's socket has none that carries data, so
here OpenSSL works in memory and `Engine` moves the records. It answers to the calls of the C object that
``SSLSocket`` keeps in ``_sslobj``, so everything above it (``recv``, ``unwrap``, ``getpeercert``, ...) is the
standard library's own code.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import socket as _kernel
import ssl
import threading
import time
import weakref
from typing import Any

from netstack.handle import EVENT_IN, EVENT_OUT, Handle
from netstack.socket import socket

PIECE = 64 << 10             # plaintext bytes that are encrypted at a time
RECORD_HEADER = 5            # RFC 8446 section 5.1: type, version, length
_DONTWAIT = _kernel.MSG_DONTWAIT


class Engine:
    """One side of a TLS connection over a `Handle`; the calls of ``_ssl._SSLSocket``.

    A call blocks, or raises ``SSLWantReadError`` and ``SSLWantWriteError``, as the socket's timeout says; the
    timeout is that of a whole call. One thread may read while another writes.

    Exactly one record at a time is taken from the stack: what waits there is what ``select`` shows, so a program that
    asks ``pending()`` and then sleeps in ``select`` misses nothing.
    """

    def __init__(self, owner: SSLSocket, handle: Handle, context: ssl.SSLContext, server_side: bool,
                 server_hostname: str | None, session: ssl.SSLSession | None) -> None:
        self._owner = weakref.ref(owner)
        self._handle = handle
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context._wrap_bio(  # type: ignore[attr-defined]
            self._in, self._out, server_side, server_hostname, owner=owner, session=session)
        self._stepping = threading.Lock()      # OpenSSL's object is for one thread at a time
        self._sending = threading.Lock()       # records leave in the order in which they were made
        self._receiving = threading.Lock()
        self._heard = 0                        # grows with every piece of input
        self._header = b""                     # what is there of the next record's header
        self._body = 0                         # bytes that are missing of the record
        self._unsent = memoryview(b"")         # records that the stack has not taken
        self._established = False              # the handshake is over
        self._ended = False                    # the peer's stream has ended
        self._owed: int | None = None          # plaintext of a write that could not be sent to the end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tls, name)        # getpeercert, cipher, version, pending, ...

    @property
    def context(self) -> ssl.SSLContext:
        return self._tls.context

    @context.setter
    def context(self, value: ssl.SSLContext) -> None:
        self._tls.context = value

    @property
    def session(self):
        return self._tls.session

    @session.setter
    def session(self, value) -> None:
        self._tls.session = value

    # --- the four calls that move data

    def read(self, n: int = 1024, buffer=None):
        """Decrypted bytes, at most ``n``; into ``buffer`` if it is given, then how many."""
        return self._run("read", self._tls.read, *((n,) if buffer is None else (n, buffer)))

    def write(self, data) -> int:
        """Encrypt and send. A write that raised for lack of room is repeated with the same data, as OpenSSL demands."""
        until = self._until()
        if self._owed is not None:
            self._flush(until, "write")
            owed, self._owed = self._owed, None
            return owed
        with memoryview(data) as view, view.cast("B") as plain:
            sent = 0
            while True:
                with plain[sent:sent + PIECE] as piece:
                    sent += self._run("write", self._tls.write, piece, until=until)
                try:
                    self._flush(until, "write")
                except (ssl.SSLWantWriteError, TimeoutError):
                    self._owed = sent
                    raise
                if sent >= len(plain) or self._handle.timeout == 0:
                    return sent

    def do_handshake(self) -> None:
        until = self._until()
        self._run("handshake", self._tls.do_handshake, until=until)
        self._flush(until, "handshake")
        self._established = True

    def shutdown(self):
        """Say that no more comes and wait for the peer's word; the socket below, for plain data."""
        until = self._until()
        self._run("shutdown", self._tls.shutdown, until=until)
        self._flush(until, "shutdown")
        return self._owner()

    def settle(self) -> None:
        """Before a close: take what is no application data. Session tickets that nobody read (RFC 8446 section 4.6.1
        has the server send them when it likes) are no reason to reset the connection."""
        if not self._established or not self._stepping.acquire(blocking=False):
            return
        try:
            while not self._ended:
                try:
                    self._tls.read(1)
                    return                                     # application data, or the peer's goodbye
                except ssl.SSLWantReadError:
                    if self._receiving.locked() or not self._take():
                        return
        except (OSError, ValueError):
            return
        finally:
            self._stepping.release()

    # --- moving records

    def _until(self) -> float | None:
        patience = self._handle.timeout
        return None if patience is None else time.monotonic() + patience

    def _run(self, what: str, step, *args, until: float | None = None):
        until = self._until() if until is None else until
        reads = what == "read"
        if not reads:
            self._flush(until, what)
        while True:
            seen = self._heard
            try:
                with self._stepping:
                    result = step(*args)
            except ssl.SSLWantReadError as error:
                self._flush(until, what, hard=not reads)
                self._fill(seen, until, what, error)
                continue
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush(until, what, hard=False)       # the alert that tells the peer
                raise
            if reads:
                self._flush(until, what, hard=False)           # an answer to a key update
            return result

    def _wait(self, events: int, until: float | None, what: str) -> None:
        left = None if until is None else until - time.monotonic()
        if (left is not None and left <= 0) or not self._handle.wait(events, left):
            raise TimeoutError(f"The {what} operation timed out")

    @contextlib.contextmanager
    def _turn(self, lock: threading.Lock, until: float | None, what: str):
        left = -1.0 if until is None else max(0.0, until - time.monotonic())
        if not lock.acquire(timeout=left):
            raise TimeoutError(f"The {what} operation timed out")
        try:
            yield
        finally:
            lock.release()

    def _flush(self, until: float | None, what: str, hard: bool = True) -> None:
        """Send the records that are there; without ``hard`` only what goes at once."""
        if not self._out.pending and not self._unsent:
            return
        if not hard and self._sending.locked():
            return                                             # who sends takes these too
        with self._turn(self._sending, until, what):
            while True:
                if not self._unsent:
                    self._unsent = memoryview(self._out.read())
                    if not self._unsent:
                        return
                try:
                    self._unsent = self._unsent[self._handle.send(self._unsent, _DONTWAIT):]
                except BlockingIOError:
                    if not hard:
                        return
                    if self._handle.timeout == 0:
                        raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE,
                                                    "The operation did not complete (write)") from None
                    self._wait(EVENT_OUT, until, what)

    def _fill(self, seen: int, until: float | None, what: str, error: ssl.SSLWantReadError) -> None:
        """More of the current record, unless another thread brought some since ``seen``."""
        with self._turn(self._receiving, until, what):
            if self._heard != seen:
                return
            while not self._take():
                if self._handle.timeout == 0:
                    raise error from None
                self._wait(EVENT_IN, until, what)
            self._heard += 1

    def _take(self) -> bool:
        """What is there of one record; False: nothing."""
        taken = False
        try:
            while not taken or self._body:                     # its body stands right behind the header, most likely
                data = self._handle.recv(self._body or RECORD_HEADER - len(self._header), _DONTWAIT)
                taken = True
                if not data:
                    self._ended = True
                    self._in.write_eof()
                    break
                self._in.write(data)
                if self._body:
                    self._body -= len(data)
                    if not self._body:
                        break
                    continue
                self._header += data
                if len(self._header) == RECORD_HEADER:
                    self._body = int.from_bytes(self._header[3:], "big")
                    self._header = b""
        except BlockingIOError:
            pass
        return taken


class SSLSocket(ssl.SSLSocket, socket):  # type: ignore[misc]   # sendmsg is refused there
    """A TLS socket over a stack's socket: an ``ssl.SSLSocket`` and a `netstack.socket.socket`.

    ``wrap_socket`` makes it, for a stack's socket; a kernel's socket gets the standard library's class as before.
    """

    _handle: Handle
    _sslobj: Engine | None
    _context: ssl.SSLContext
    _session: ssl.SSLSession | None

    @classmethod
    def _create(cls, sock, server_side=False, do_handshake_on_connect=True, suppress_ragged_eofs=True,
                server_hostname=None, context=None, session=None):
        if not isinstance(sock, socket) or sock._handle is None:
            return _create(ssl.SSLSocket, sock, server_side, do_handshake_on_connect, suppress_ragged_eofs,
                           server_hostname, context, session)
        if sock.type != _kernel.SOCK_STREAM:
            raise NotImplementedError("only stream sockets are supported")
        if isinstance(sock, cls) and sock._sslobj is not None:
            raise NotImplementedError("TLS inside TLS goes through ssl.SSLContext.wrap_bio")
        if server_side and server_hostname:
            raise ValueError("server_hostname can only be specified in client mode")
        if server_side and session is not None:
            raise ValueError("session can only be specified in client mode")
        if context.check_hostname and not server_hostname:
            raise ValueError("check_hostname requires server_hostname")
        self = cls.__new__(cls)
        self._adopt(sock._surrender())
        self._context = context
        self._session = session
        self._sslobj = None
        self.server_side = server_side
        self.do_handshake_on_connect = do_handshake_on_connect
        self.suppress_ragged_eofs = suppress_ragged_eofs
        try:
            self.server_hostname = context._encode_hostname(server_hostname)
            self._connected = self._is_connected()
            if self._connected:
                self._sslobj = self._engine(server_side)
                if do_handshake_on_connect:
                    if self.gettimeout() == 0.0:
                        raise ValueError("do_handshake_on_connect should not be specified for non-blocking sockets")
                    self.do_handshake()
        except (OSError, ValueError):
            with contextlib.suppress(OSError):
                self.close()
            raise
        return self

    def _engine(self, server_side: bool) -> Engine:
        return Engine(self, self._handle, self._context, server_side, self.server_hostname, self._session)

    def _is_connected(self) -> bool:
        """Whether there is a peer. Data of one that is gone must not pass for data that came through TLS."""
        try:
            self.getpeername()
            return True
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
        try:
            early = self._handle.recv(1, _DONTWAIT)
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.EINVAL, errno.EAGAIN):
                raise
            early = b""
        if early:
            reason = "Closed before TLS handshake with data in recv buffer."
            refusal = ssl.SSLError(errno.ENOTCONN, reason)
            refusal.reason = reason
            refusal.library = None  # type: ignore[assignment]
            raise refusal
        return False

    def _real_connect(self, addr, connect_ex):
        if self.server_side:
            raise ValueError("can't connect in server-side mode")
        if self._connected or self._sslobj is not None:
            raise ValueError("attempt to connect already-connected SSLSocket!")
        self._sslobj = self._engine(False)
        try:
            code = socket.connect_ex(self, addr) if connect_ex else socket.connect(self, addr)
            if not code:
                self._connected = True
                if self.do_handshake_on_connect:
                    self.do_handshake()
            return code
        except (OSError, ValueError):
            self._sslobj = None
            raise

    def _real_close(self) -> None:
        if self._sslobj is not None and self._connected:
            self._sslobj.settle()
        super()._real_close()

    def accept(self):
        """The next connection, wrapped: ``(SSLSocket, address of the peer)``."""
        plain, address = socket.accept(self)
        return type(self)._create(
            plain, server_side=True, do_handshake_on_connect=self.do_handshake_on_connect,
            suppress_ragged_eofs=self.suppress_ragged_eofs, context=self.context), address

    def __repr__(self) -> str:
        return socket.__repr__(self)


_create = ssl.SSLSocket._create.__func__  # type: ignore[attr-defined]


@functools.cache
def _over_stacks(cls: type) -> type:
    """A program's own subclass of ``ssl.SSLSocket``, over a stack's socket."""
    return type(cls.__name__, (cls, SSLSocket), {"__module__": cls.__module__, "__qualname__": cls.__qualname__})


def create(cls, sock, *args, **kwargs):
    """``ssl.SSLSocket._create`` while `netstack.patch` is in place: for classes that a program made of it."""
    if not isinstance(sock, socket) or sock._handle is None:
        return _create(cls, sock, *args, **kwargs)
    return SSLSocket._create.__func__(_over_stacks(cls), sock, *args, **kwargs)


def wrap_socket(context: ssl.SSLContext, sock: _kernel.socket, server_side: bool = False,
                do_handshake_on_connect: bool = True, suppress_ragged_eofs: bool = True,
                server_hostname: str | None = None, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    """As ``context.wrap_socket(sock, ...)``, for a stack's socket when nothing is patched.

    Examples
    --------
    >>> context = ssl.create_default_context()                                          # doctest: +SKIP
    >>> s = netstack.tls.wrap_socket(context, s, server_hostname="example.org")         # doctest: +SKIP
    """
    return SSLSocket._create(sock, server_side, do_handshake_on_connect, suppress_ragged_eofs, server_hostname,
                             context, session)
