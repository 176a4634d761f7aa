"""The socket of an application whose stack is in a daemon: the methods of `netstack.handle.Handle` over the C client.

Bytes of streams are copied to and from the rings here, without the interpreter when they are many. Everything else is
asked of the daemon, which answers at once; what has to be waited for is waited for here, by the words of the socket.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EBADF, ECONNRESET, EINPROGRESS
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from netstack.address cimport endpoint_t
from netstack.daemon.client cimport (
    NSD_ACCEPT,
    NSD_ADOPT,
    NSD_BIND,
    NSD_CLOSE,
    NSD_CONNECT,
    NSD_DEAD,
    NSD_DUP,
    NSD_EMPTIED,
    NSD_FDS,
    NSD_FILLED,
    NSD_GETSOCKOPT,
    NSD_INTERRUPTED,
    NSD_LEFT,
    NSD_LISTEN,
    NSD_NAME,
    NSD_OPEN,
    NSD_RECV,
    NSD_SEND,
    NSD_SETSOCKOPT,
    NSD_SHUTDOWN,
    NSD_TIMEOUT,
    NSD_TOOK,
    Client,
    nsd_alive,
    nsd_ask,
    nsd_call,
    nsd_closed,
    nsd_fileno,
    nsd_forget,
    nsd_message_t,
    nsd_now_ns,
    nsd_obtain,
    nsd_readable,
    nsd_recv,
    nsd_send,
    nsd_show,
    nsd_socket_t,
    nsd_state,
    nsd_streams,
    nsd_take_error,
    nsd_wait,
)
from netstack.driver cimport signal_slice
from netstack.face cimport Face, as_int, option_value
from netstack.sock cimport EVENT_FINISHED, EVENT_IN, EVENT_OUT

import os
import socket as kernel
import struct
import warnings

from netstack.daemon.protocol import pack_items, unpack_items
from netstack.handle import describe, readiness_fds, readiness_files, repeat_blocking

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef enum:
    SMALL = 1024
    KEEP_BYTES = 16 << 10        # more than this lets the interpreter go
    DATAGRAM_MOST = 65536
    ANCILLARY_MOST = 1024
    MSG_OOB = 0x1
    MSG_PEEK = 0x2
    MSG_TRUNC = 0x20
    MSG_DONTWAIT = 0x40
    MSG_EOR = 0x80
    MSG_WAITALL = 0x100
    MSG_ERRQUEUE = 0x2000
    MSG_NOSIGNAL = 0x4000
    MSG_MORE = 0x8000
    MSG_FASTOPEN = 0x20000000

cdef str AGAIN = os.strerror(EAGAIN)


cdef inline void put_endpoint(nsd_message_t *m, const endpoint_t *e) noexcept:
    memcpy(m.address, &e.address, 16)
    m.port = e.port
    m.scope = e.scope


cdef inline void get_endpoint(const nsd_message_t *m, endpoint_t *e) noexcept:
    memcpy(&e.address, m.address, 16)
    e.port = m.port
    e.scope = m.scope


cdef DaemonHandle without_socket(Client client, object host, int family, int type, int proto):
    cdef DaemonHandle new = DaemonHandle.__new__(DaemonHandle)
    new.client = client
    new.host = host
    new.family = family
    new.type = type
    new.proto = proto
    return new


cdef class DaemonHandle(Face):
    """A socket of a daemon's host. Methods, results and errors are those of ``socket.socket``."""

    def __cinit__(self):
        memset(&self.s, 0, sizeof(self.s))
        self.s.ready_fd = -1
        self.s.closed = 1

    @staticmethod
    def open(Client client not None, int family, int type, int proto, object host=None):
        """A new socket.

        Raises
        ------
        OSError
            EAFNOSUPPORT, EPROTONOSUPPORT, EPERM (raw sockets), EMFILE, ENFILE, ENOMEM; ECONNRESET: the daemon is gone.
        """
        cdef DaemonHandle self = without_socket(client, host, family, type, proto)
        cdef nsd_message_t m
        memset(&m, 0, sizeof(m))
        m.type = NSD_OPEN
        m.a, m.b, m.c = family, type, proto
        self.obtain(&m, "socket")
        return self

    @staticmethod
    def adopt(Client client not None, int family, int type, int proto, number, key, object host=None):
        """A reference to a socket that another process told the number and key of."""
        cdef DaemonHandle self = without_socket(client, host, family, type, proto)
        cdef nsd_message_t m
        memset(&m, 0, sizeof(m))
        m.type = NSD_ADOPT
        m.number = number
        m.key = key
        self.obtain(&m, "adopt")
        return self

    cdef obtain(self, nsd_message_t *m, str operation):
        cdef int r
        with nogil:
            r = nsd_obtain(&self.client.c, m, &self.s)
        if r < 0:
            raise OSError(-r, f"{os.strerror(-r)}: {operation}")
        self.client.sockets += 1

    @property
    def number(self):
        """Its number in the daemon."""
        return self.s.number

    @property
    def key(self):
        """Who knows it and the number may `adopt` the socket."""
        return self.s.key

    def __dealloc__(self):
        if self.s.ready_fd >= 0:
            close(self.s.ready_fd)
        nsd_forget(&self.s)

    def __del__(self):
        if self.s.closed:
            return
        text = f"unclosed {self!r}"
        self.close()
        warnings.warn(text, ResourceWarning, stacklevel=1, source=self)

    def __repr__(self):
        return f"<{self.shown_as} {describe(self)}>"

    cdef DaemonHandle sibling(self):
        return without_socket(self.client, self.host, self.family, self.type, self.proto)

    def closed_twin(self):
        """A closed socket of the same kind: what stays with an object that gave its socket away."""
        return self.sibling()

    @property
    def closed(self):
        return self.s.closed != 0

    cdef int usable(self) except -1:
        if self.s.closed:
            raise OSError(EBADF, os.strerror(EBADF))
        return 0

    # --- asking

    cdef int begin(self, nsd_message_t *m, int kind) except -1:
        self.usable()
        memset(m, 0, sizeof(m[0]))
        m.type = kind
        return 0

    cdef int ask(self, nsd_message_t *m, const void *data, size_t n) except -1:
        """0 or an errno number."""
        cdef int r
        with nogil:
            r = nsd_ask(&self.s, m, data, n)
        nsd_show(&self.s, 0)
        return -r

    cdef object failure(self, int code, str operation, object remote=None):
        """The exception for an errno number, naming the operation and both ends as far as they are known."""
        if code == EAGAIN:
            return self.not_now()
        text = f"{os.strerror(code)}: {operation}"
        if self.s.closed or not nsd_alive(&self.client.c):
            return OSError(code, text if self.s.closed else f"{text}: the daemon is gone")
        for whose in (0, 1):
            if whose and remote is None:
                try:
                    remote = self.name(1, "getpeername")
                except OSError:
                    break
            elif not whose:
                try:
                    local = self.name(0, "getsockname")
                except OSError:
                    continue
                if local[1]:
                    text += f" {local[0]}:{local[1]}"
        if remote:
            text += f" -> {remote[0]}:{remote[1]}"
        return OSError(code, text)

    # --- waiting

    cdef int wait_for(self, unsigned int events, int64_t deadline, int *step) except -1:
        """NSD_READY_NOW or NSD_TIMEOUT; signal handlers run meanwhile."""
        cdef int waited
        cdef int64_t slice
        while True:
            slice = signal_slice(step, nsd_now_ns())
            with nogil:
                waited = nsd_wait(&self.s, events, deadline, slice)
            if waited == NSD_DEAD:
                self.usable()
                raise OSError(ECONNRESET, "the daemon is gone")
            if waited != NSD_INTERRUPTED:
                return waited
            PyErr_CheckSignals()

    def wait(self, unsigned int events, object seconds=None):
        """Wait until one of ``events`` (EVENT_IN, EVENT_OUT), an error or a hang-up holds. False: not within ``seconds``."""
        cdef int64_t deadline = (<int64_t> 1 << 62)
        cdef int step = 0
        self.usable()
        if seconds is not None:
            deadline = nsd_now_ns() + <int64_t> (min(max(seconds, 0.0), 9e9) * 1e9)
        return self.wait_for(events, deadline, &step) != NSD_TIMEOUT

    def settimeout(self, object value, /):
        """Seconds, 0 for non-blocking, None for blocking."""
        Face.settimeout(self, value)
        self.usable()
        if self.s.ready_fd >= 0:
            repeat_blocking(self)

    # --- connections

    def bind(self, address):
        """Bind to a local address and port; port 0 picks one."""
        cdef nsd_message_t m
        cdef endpoint_t e
        cdef int r
        self.to_endpoint(address, "bind", &e)
        self.begin(&m, NSD_BIND)
        put_endpoint(&m, &e)
        r = self.ask(&m, NULL, 0)
        if r:
            raise self.failure(r, f"bind to {address[0] or '*'}:{address[1]}")

    cdef int connect_number(self, object address) except -1:
        cdef nsd_message_t m
        cdef endpoint_t e
        cdef int r, step = 0
        self.to_endpoint(address, "connect", &e)
        if self.s.closed:
            return EBADF
        self.begin(&m, NSD_CONNECT)
        put_endpoint(&m, &e)
        r = self.ask(&m, NULL, 0)
        if r == EINPROGRESS and self.timeout_ns:
            if self.wait_for(EVENT_OUT, self.deadline(), &step) == NSD_TIMEOUT:
                return EAGAIN
            r = self.getsockopt(kernel.SOL_SOCKET, kernel.SO_ERROR)
        return r

    def listen(self, backlog=128):
        """Accept connections; ``backlog`` may wait for `accept`."""
        cdef nsd_message_t m
        cdef int r, most = as_int(backlog)
        self.begin(&m, NSD_LISTEN)
        m.a = max(most, 0)
        r = self.ask(&m, NULL, 0)
        if r:
            raise self.failure(r, "listen")

    def accept(self):
        """The next connection: ``(DaemonHandle, address of the peer)``."""
        cdef DaemonHandle new = self.sibling()
        cdef nsd_message_t m
        cdef endpoint_t e
        cdef int64_t deadline = 0
        cdef int r, step = 0
        while True:
            self.begin(&m, NSD_ACCEPT)
            m.number = self.s.number
            with nogil:
                r = nsd_obtain(&self.client.c, &m, &new.s)
            nsd_show(&self.s, NSD_TOOK)
            if r == 0:
                self.client.sockets += 1
                get_endpoint(&m, &e)
                return new, self.from_endpoint(&e)
            if r != -EAGAIN:
                raise self.failure(-r, "accept")
            if self.timeout_ns == 0:
                raise BlockingIOError(EAGAIN, AGAIN)
            if not deadline:
                deadline = self.deadline()
            if self.wait_for(EVENT_IN, deadline, &step) == NSD_TIMEOUT:
                raise TimeoutError("timed out")

    def shutdown(self, how, /):
        """End reading (0), writing (1) or both (2)."""
        cdef nsd_message_t m
        cdef int r, direction = as_int(how)
        self.begin(&m, NSD_SHUTDOWN)
        m.a = direction
        r = self.ask(&m, NULL, 0)
        if r:
            raise self.failure(r, "shutdown")

    def duplicate(self):
        """One more reference of this process, in the daemon: for C programs, whose dup() has no object to share."""
        cdef nsd_message_t m
        self.begin(&m, NSD_DUP)
        r = self.ask(&m, NULL, 0)
        if r:
            raise self.failure(r, "dup")

    def drop(self):
        """Give back a reference of `duplicate`."""
        cdef nsd_message_t m
        self.begin(&m, NSD_CLOSE)
        m.a = 1
        r = self.ask(&m, NULL, 0)
        if r:
            raise self.failure(r, "close")

    def close(self):
        """Give the socket up. Data on its way is still delivered; threads that wait on it get EBADF."""
        cdef nsd_message_t m
        if self.s.closed:
            return
        try:
            self.begin(&m, NSD_CLOSE)
            if self.ask(&m, NULL, 0) == 0 and m.c > 0:
                self.linger(m.c)
        finally:
            if not self.s.closed:
                readiness_fds.pop(self.s.ready_fd, None)
                self.client.sockets -= 1
                nsd_closed(&self.s)
                if self.s.ready_fd >= 0:
                    close(self.s.ready_fd)
                    self.s.ready_fd = -1

    def linger(self, int seconds):
        """SO_LINGER: wait until the peer has everything, at most for the time the application gave; then close."""
        cdef nsd_message_t m
        cdef int step = 0
        self.begin(&m, NSD_SHUTDOWN)
        m.a, m.b = 1, 1
        try:
            if self.ask(&m, NULL, 0) == 0:
                self.wait_for(EVENT_FINISHED, nsd_now_ns() + <int64_t> seconds * 1_000_000_000, &step)
        except ConnectionResetError:
            pass
        finally:
            self.begin(&m, NSD_CLOSE)
            m.a = 1
            self.ask(&m, NULL, 0)

    # --- readiness

    @property
    def shareable_listener(self):
        """Never: children share all sockets."""
        return False

    @property
    def shown_fd(self):
        """The readiness descriptor, if somebody asked for it; else -1."""
        return self.s.ready_fd

    def fileno(self):
        """A descriptor that shows readiness to select, poll and epoll; it carries no data. -1 once closed."""
        cdef int r
        if self.s.closed:
            return -1
        if self.s.ready_fd < 0:
            with nogil:
                r = nsd_fileno(&self.s)
            if r < 0:
                raise self.failure(-r, "fileno")
            readiness_fds[r] = self
            readiness_files[os.fstat(r).st_ino] = self
            repeat_blocking(self)
        return self.s.ready_fd

    def fileno_at(self, int fd):
        """As `fileno`, but the descriptor gets the number ``fd``; what was open there is closed."""
        cdef int r = self.fileno()
        if r < 0 or r == fd:
            return r
        readiness_fds.pop(r, None)
        os.dup2(r, fd, False)
        self.s.ready_fd = fd
        os.close(r)
        readiness_fds[fd] = self
        return fd

    def release_fileno(self):
        """Give the readiness descriptor to the caller, who closes it; -1: there is none."""
        cdef int r = self.s.ready_fd
        self.usable()
        self.s.ready_fd = -1
        readiness_fds.pop(r, None)
        return r

    # --- names and options

    cdef object name(self, int whose, str operation):
        cdef nsd_message_t m
        cdef endpoint_t e
        cdef int r
        self.begin(&m, NSD_NAME)
        m.a = whose
        r = self.ask(&m, NULL, 0)
        if r:
            raise OSError(r, f"{os.strerror(r)}: {operation}")
        get_endpoint(&m, &e)
        return self.from_endpoint(&e)

    def getsockname(self):
        return self.name(0, "getsockname")

    def getpeername(self):
        return self.name(1, "getpeername")

    def getsockopt(self, level, option, buflen=0, /):
        """An int, or ``buflen`` bytes at most."""
        cdef uint8_t value[1024]
        cdef nsd_message_t m
        cdef int fds[NSD_FDS]
        cdef size_t got = 0
        cdef int count, r, number, at = as_int(level), which = as_int(option), most = as_int(buflen)
        if most < 0 or most > 1024:
            raise OSError("getsockopt buflen out of range")
        self.begin(&m, NSD_GETSOCKOPT)
        memset(value, 0, sizeof(value))
        if at == 1 and which == 4 and nsd_streams(&self.s):        # SO_ERROR
            number = nsd_take_error(&self.s)
            nsd_show(&self.s, 0)
            return struct.pack("=i", number)[:most] if most else number
        m.number = self.s.number
        m.a, m.b, m.c = at, which, most or <int> sizeof(int)
        with nogil:
            r = nsd_call(&self.client.c, &m, NULL, 0, value, sizeof(value), &got, fds, &count)
        nsd_show(&self.s, 0)
        if r < 0:
            raise self.failure(-r, f"getsockopt {level}, {option}")
        if most:
            return PyBytes_FromStringAndSize(<char *> value, got)
        memcpy(&number, value, sizeof(number))
        return number

    def setsockopt(self, level, option, value, optlen=None, /):
        """``value``: an int or a bytes-like object. None with ``optlen``, which few families have, is EFAULT."""
        cdef nsd_message_t m
        cdef bytes data
        cdef int at = as_int(level), which = as_int(option), r
        if value is None and isinstance(optlen, int):
            self.usable()
        data = option_value(value, optlen)
        self.begin(&m, NSD_SETSOCKOPT)
        m.a, m.b = at, which
        r = self.ask(&m, PyBytes_AS_STRING(data), len(data))
        if r:
            raise self.failure(r, f"setsockopt {level}, {option}")

    # --- receiving

    cdef object ask_datagram(self, Py_ssize_t size, Py_ssize_t room, int flags, endpoint_t *src):
        """One try: ``(whole length, ancillary bytes, flags, data)``, or an errno number."""
        cdef nsd_message_t m
        cdef int fds[NSD_FDS]
        cdef int count, r
        cdef size_t got = 0, most
        cdef bytearray space
        cdef char *p
        self.begin(&m, NSD_RECV)
        if size > DATAGRAM_MOST:
            size = DATAGRAM_MOST
        space = bytearray(size + ANCILLARY_MOST)
        p = PyByteArray_AS_STRING(space)
        most = size + ANCILLARY_MOST
        m.number = self.s.number
        m.a, m.b, m.c = <int> size, flags & ~(MSG_WAITALL | MSG_TRUNC), <int> min(room, ANCILLARY_MOST)
        with nogil:
            r = nsd_call(&self.client.c, &m, NULL, 0, p, most, &got, fds, &count)
        nsd_show(&self.s, NSD_TOOK)
        if r < 0:
            return -r
        if src != NULL:
            get_endpoint(&m, src)
        view = memoryview(space)
        return m.a, bytes(view[:m.c]), m.b, view[m.c:got]

    cdef ssize_t receive_asked(self, uint8_t *data, size_t n, int flags, endpoint_t *src) except? -1:
        answer = self.ask_datagram(<Py_ssize_t> n, 0, flags, src)
        if isinstance(answer, int):
            return -<int> answer
        cdef Py_ssize_t whole = answer[0], got = len(answer[3])
        cdef const unsigned char[:] view = answer[3]
        if got:
            memcpy(data, &view[0], <size_t> got if <size_t> got < n else n)
        return whole if flags & MSG_TRUNC and self.type != 1 else got

    cdef ssize_t receive_once(self, uint8_t *data, size_t n, int flags) except? -1:
        """Of a stream: bytes, or a negative errno number."""
        cdef uint8_t byte
        cdef ssize_t r
        self.usable()
        if flags & (MSG_OOB | MSG_ERRQUEUE) or not nsd_streams(&self.s):
            return self.receive_asked(data, n, flags & ~MSG_WAITALL, NULL)
        if n == 0:                                     # nothing, but not before there is something
            r = min(nsd_recv(&self.s, &byte, 1, MSG_PEEK), 0)
        elif n <= KEEP_BYTES:
            r = nsd_recv(&self.s, data, n, flags & MSG_PEEK)
        else:
            with nogil:
                r = nsd_recv(&self.s, data, n, flags & MSG_PEEK)
        nsd_show(&self.s, NSD_TOOK | (NSD_LEFT if flags & MSG_PEEK or r == <ssize_t> n else NSD_EMPTIED))
        if r == -EAGAIN and not self.blocks(flags) and not nsd_alive(&self.client.c):
            return -ECONNRESET
        return r

    cdef ssize_t receive(self, unsigned char *data, size_t n, int flags, endpoint_t *src) except -1:
        cdef bint blocking = self.blocks(flags)
        cdef bint waitall = flags & MSG_WAITALL and self.timeout_ns < 0 and self.type == 1 and not flags & MSG_PEEK
        cdef int64_t deadline = 0
        cdef size_t got = 0
        cdef ssize_t r
        cdef int step = 0
        self.usable()
        while True:
            if self.type == 1:
                r = self.receive_once(data + got, n - got, flags)
            else:
                r = self.receive_asked(data, n, flags, src)
            if r > 0 and waitall and blocking and got + r < n:
                got += r
                continue
            if r >= 0:
                return got + r
            if r != -EAGAIN or not blocking:
                break
            if not deadline:
                deadline = self.deadline()
            if self.wait_for(EVENT_IN, deadline, &step) == NSD_TIMEOUT:
                break
        if got:
            return got
        if r == -EAGAIN and not blocking:
            raise BlockingIOError(EAGAIN, AGAIN)
        raise self.failure(-<int> r, "recv")

    cdef object receive_bytes(self, Py_ssize_t n, int flags, endpoint_t *src, str operation):
        cdef uint8_t small[SMALL]
        cdef bytes out
        cdef size_t room
        cdef ssize_t r
        cdef int64_t deadline = 0
        cdef int step = 0
        if n < 0:
            raise ValueError(f"negative buffersize in {operation}")
        if n == 0 and src == NULL:
            return b""
        self.usable()
        if self.type != 1 or flags & (MSG_WAITALL | MSG_TRUNC | MSG_OOB):
            out = PyBytes_FromStringAndSize(NULL, n if self.type == 1 else min(n, DATAGRAM_MOST))
            r = self.receive(<unsigned char *> PyBytes_AS_STRING(out), len(out), flags, src)
            return out[:r]
        while True:
            room = nsd_readable(&self.s) if nsd_streams(&self.s) else 0
            if room > <size_t> n:
                room = n
            if room > SMALL:
                out = PyBytes_FromStringAndSize(NULL, room)
                r = self.receive_once(<uint8_t *> PyBytes_AS_STRING(out), room, flags)
                if r >= 0:
                    return out if <size_t> r == room else out[:r]
            else:
                r = self.receive_once(small, min(n, SMALL), flags)
                if r >= 0:
                    return PyBytes_FromStringAndSize(<char *> small, r)
            if r != -EAGAIN:
                raise self.failure(-<int> r, operation)
            if not self.blocks(flags):
                raise BlockingIOError(EAGAIN, AGAIN)
            if not deadline:
                deadline = self.deadline()
            if self.wait_for(EVENT_IN, deadline, &step) == NSD_TIMEOUT:
                raise TimeoutError("timed out")

    cdef object receive_datagram(self, bytearray space, Py_ssize_t size, Py_ssize_t room, int flags):
        """``(whole length, ancillary, flags, address)``."""
        cdef endpoint_t e
        cdef int64_t deadline = 0
        cdef int step = 0
        while True:
            answer = self.ask_datagram(size, room, flags, &e)
            if not isinstance(answer, int):
                break
            if answer != EAGAIN:
                raise self.failure(answer, "recvmsg")
            if not self.blocks(flags) or flags & MSG_ERRQUEUE:
                raise BlockingIOError(EAGAIN, AGAIN)
            if not deadline:
                deadline = self.deadline()
            if self.wait_for(EVENT_IN, deadline, &step) == NSD_TIMEOUT:
                raise TimeoutError("timed out")
        whole, items, out_flags, data = answer
        space[:len(data)] = data
        return whole, unpack_items(items), out_flags & ~MSG_TRUNC, self.from_endpoint(&e)

    # --- sending

    cdef ssize_t send_asked(self, const uint8_t *data, size_t n, int flags, const endpoint_t *to, bytes items) except? -1:
        """One message: bytes, or a negative errno number."""
        cdef nsd_message_t m
        cdef bytes whole
        cdef int r
        self.begin(&m, NSD_SEND)
        if n > DATAGRAM_MOST:                          # which no datagram has: the daemon says what is wrong first
            n = DATAGRAM_MOST
        m.a = flags & ~(MSG_DONTWAIT | MSG_NOSIGNAL)
        m.c = <int> len(items)
        if to != NULL:
            m.b = 1
            put_endpoint(&m, to)
        if items:
            whole = items + PyBytes_FromStringAndSize(<const char *> data, n)
            r = self.ask(&m, PyBytes_AS_STRING(whole), len(whole))
        else:
            r = self.ask(&m, data, n)
        return -r if r else m.a

    cdef ssize_t send_once(self, const uint8_t *data, size_t n, int flags, const endpoint_t *to) except? -1:
        cdef ssize_t r
        self.usable()
        if self.type != 1 or flags & (MSG_OOB | MSG_EOR | MSG_FASTOPEN) or not nsd_streams(&self.s):
            return self.send_asked(data, n, flags, to, b"")
        if n <= KEEP_BYTES:
            r = nsd_send(&self.s, data, n)
        else:
            with nogil:
                r = nsd_send(&self.s, data, n)
        nsd_show(&self.s, NSD_FILLED if (r == -EAGAIN or 0 <= r < <ssize_t> n) and not self.blocks(flags) else 0)
        if r == -EAGAIN and not self.blocks(flags) and not nsd_alive(&self.client.c):
            return -ECONNRESET
        return r

    cdef ssize_t transmit(self, const unsigned char *data, size_t n, int flags, const endpoint_t *to, bint everything,
                          str operation) except -1:
        """Bytes sent: all of them, or what went before the timeout or an error when that is not wanted."""
        cdef bint blocking = self.blocks(flags)
        cdef int64_t deadline = 0
        cdef size_t sent = 0
        cdef ssize_t r
        cdef int step = 0
        while True:
            r = self.send_once(data + sent, n - sent, flags, to)
            if r >= 0:
                sent += r
                if sent >= n or self.type != 1 or not (everything or (blocking and self.timeout_ns < 0)):
                    return sent
                continue
            if r == -EINPROGRESS and blocking:                 # MSG_FASTOPEN: its SYN is out
                flags &= ~MSG_FASTOPEN
                to = NULL
                r = -EAGAIN
            if r != -EAGAIN or not blocking:
                break
            if not deadline:
                deadline = self.deadline()
            if self.wait_for(EVENT_OUT, deadline, &step) == NSD_TIMEOUT:
                break
        if sent and not everything:
            return sent
        if r == -EAGAIN and not blocking:
            raise BlockingIOError(EAGAIN, AGAIN)
        raise self.failure(-<int> r, operation)

    cdef object send_instructed(self, bytes data, list ancillary, int flags, object address):
        """One datagram with what its ancillary data says."""
        cdef endpoint_t e
        cdef int64_t deadline = 0
        cdef ssize_t r
        cdef int step = 0
        if address is not None:
            self.to_endpoint(address, "sendmsg", &e)
        while True:
            r = self.send_asked(<const uint8_t *> PyBytes_AS_STRING(data), len(data), flags, &e if address is not None else NULL,
                                pack_items(ancillary))
            if r >= 0:
                return r
            if r != -EAGAIN:
                raise self.failure(-<int> r, "sendmsg", address)
            if not self.blocks(flags):
                raise BlockingIOError(EAGAIN, AGAIN)
            if not deadline:
                deadline = self.deadline()
            if self.wait_for(EVENT_OUT, deadline, &step) == NSD_TIMEOUT:
                raise TimeoutError("timed out")
