"""What every handle of a socket has, wherever its stack is: timeouts, addresses, owners, and the standard library's ways
to call. `netstack.handle.Handle` has the stack in this process, `netstack.daemon.handle.DaemonHandle` in another.

Who derives from it gives the cdef methods that do something: ``receive``, ``transmit``, ``connect_number`` and the like.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EAGAIN, EBADF, EFAULT, EINPROGRESS, EINVAL
from libc.stdint cimport int64_t, uint16_t, uint32_t

from netstack.address cimport address_is_v4, address_t, endpoint_parse, endpoint_t, endpoint_tuple
from netstack.driver cimport park_now_ns
from netstack.link.link cimport NEVER

import math
import os
import socket as kernel
from sys import audit

cdef extern from "Python.h":
    int PY_VERSION_HEX
    unsigned long PyLong_AsUnsignedLongMask(object number) except? <unsigned long> -1

cdef enum:
    AF_INET = 2
    AF_INET6 = 10
    SOL_SOCKET = 1
    SCM_RIGHTS = 1
    SCM_CREDENTIALS = 2
    KEEP_BYTES = 16 << 10        # buffers that are small together are joined and sent as one
    ANCILLARY_MOST = 0x7fffffff
    MSG_TRUNC = 0x20
    MSG_DONTWAIT = 0x40
    MSG_ERRQUEUE = 0x2000
    MSG_MORE = 0x8000
    MSG_CMSG_CLOEXEC = 0x40000000

cdef int64_t TIMEOUT_MOST_NS = 1 << 62
cdef str AGAIN = os.strerror(EAGAIN)


cdef tuple ancillary_item(item):
    """One item for ``sendmsg``, as the standard library checks it: ``(int, int, bytes-like)``."""
    if not isinstance(item, tuple) or len(item) != 3:
        raise TypeError("[sendmsg() ancillary data items must be tuples of length 3]")
    return as_int(item[0]), as_int(item[1]), memoryview(item[2])


cdef str host_name(object name):
    """The host of an address tuple as text; bytes that are no ASCII are no name, and found to be none later."""
    cdef str text
    if isinstance(name, str):
        text = name
        if not text.isascii():
            try:
                text = text.encode("idna").decode("ascii")
            except UnicodeError:
                raise TypeError("encoding of hostname failed") from None
    elif isinstance(name, (bytes, bytearray)):
        text = bytes(name).decode("ascii", "surrogateescape")
    else:
        raise TypeError(f"str, bytes or bytearray expected, not {name.__class__.__name__}")
    if "\0" in text:
        raise TypeError("host name must not contain null character")
    return text


cdef bytes option_value(object value, object optlen):
    cdef int number
    if optlen is not None:
        if value is not None:
            raise TypeError("setsockopt() takes an optlen only when the value is None")
        size = PyLong_AsUnsignedLongMask(optlen) & 0xffffffff
        code = EFAULT if 4 <= size < 1 << 31 else EINVAL               # a null pointer, which no option here takes
        raise OSError(code, os.strerror(code))
    if value is None:
        raise TypeError("setsockopt() requires 4 arguments when the value is None")
    if hasattr(value, "__index__"):
        try:
            number = as_int(value)
        except OverflowError:
            raise TypeError(f"a bytes-like object is required, not '{value.__class__.__name__}'") from None
        return PyBytes_FromStringAndSize(<char *> &number, sizeof(number))
    return bytes(memoryview(value))


cdef int get_writable(object buffer, Py_buffer *view, str operation) except -1:
    try:
        PyObject_GetBuffer(buffer, view, PyBUF_SIMPLE | PyBUF_WRITABLE)
    except BufferError:
        raise TypeError(f"{operation}() argument 1 must be read-write bytes-like object, "
                        f"not {buffer.__class__.__name__}") from None
    return 0


cdef object flat(object buffer):
    """A view of the bytes of a buffer, which have to lie one behind the other."""
    view = memoryview(buffer)
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return view.cast("B")


cdef class Face:
    """The half of a handle that does not depend on where the stack is. Addresses are the standard library's tuples; a name
    that is no address is asked of ``host.resolve(name, family)``."""

    def __cinit__(self):
        self.timeout_ns = -1
        self.shown_as = "netstack.socket.socket"

    def join(self):
        """One more object has this socket, beside the first; see `leave`."""
        self.owners += 1

    def leave(self):
        """One object less has this socket. True: others still do."""
        self.owners -= 1
        return self.owners >= 0

    @property
    def shared(self):
        """Whether more than one object has it."""
        return self.owners > 0

    # --- time

    def settimeout(self, object value, /):
        """Seconds, 0 for non-blocking, None for blocking."""
        cdef double seconds
        if value is None:
            self.timeout_ns = -1
            self.timeout = None
            return
        seconds = value
        if math.isnan(seconds):
            raise ValueError("Invalid value NaN (not a number)")
        if seconds < 0:
            raise ValueError("Timeout value out of range")
        if seconds > 9e9:
            raise OverflowError("timestamp too large to convert to C _PyTime_t")
        self.timeout_ns = <int64_t> math.ceil(seconds * 1e9)
        self.timeout = seconds

    def gettimeout(self):
        return self.timeout

    def setblocking(self, flag, /):
        """``settimeout(None)`` or ``settimeout(0)``. Until Python 3.12 the flag has to be a number."""
        self.settimeout(None if (flag if PY_VERSION_HEX >= 0x030C0000 else PyLong_AsLong(flag)) else 0.0)

    def getblocking(self):
        return self.timeout_ns != 0

    cdef bint blocks(self, int flags):
        return self.timeout_ns != 0 and not flags & MSG_DONTWAIT

    cdef int64_t deadline(self):
        if self.timeout_ns < 0:
            return NEVER
        return park_now_ns() + min(self.timeout_ns, TIMEOUT_MOST_NS)

    # --- errors and addresses

    cdef object not_now(self):
        if self.timeout_ns > 0:
            return TimeoutError("timed out")
        return BlockingIOError(EAGAIN, AGAIN)

    cdef object from_endpoint(self, const endpoint_t *e):
        return endpoint_tuple(e, self.family)

    cdef int to_endpoint(self, object address, str operation, endpoint_t *out) except -1:
        """In the standard library's order: types, then the name, then the ranges of numbers."""
        cdef int port
        cdef unsigned long flow = 0, zone = 0
        cdef Py_ssize_t n
        if not isinstance(address, tuple):
            raise TypeError(f"{operation}(): AF_INET{'6' if self.family == AF_INET6 else ''} address must be tuple, "
                            f"not {address.__class__.__name__}")
        n = len(address)
        if n < 2 or n > (4 if self.family == AF_INET6 else 2):
            raise TypeError(f"AF_INET{'6' if self.family == AF_INET6 else ''} address must be a pair (host, port"
                            f"{'[, flowinfo[, scopeid]]' if self.family == AF_INET6 else ''})")
        given = address[0]
        known = n == 2 and given is self.last_name and given is not None
        name = None if known else host_name(given)
        try:
            port = as_int(address[1])
        except OverflowError:
            raise OverflowError(f"{operation}(): port must be 0-65535.") from None
        if n > 2:
            flow = PyLong_AsUnsignedLongMask(address[2]) & 0xffffffff
        if n > 3:
            zone = PyLong_AsUnsignedLongMask(address[3]) & 0xffffffff
        out.scope = 0
        if known:
            out.address = self.last_address
        else:
            self.parse(name, <uint32_t> zone, out)
            if n == 2 and "%" not in name:
                self.last_name = given
                self.last_address = out.address
        if not 0 <= port <= 65535:
            raise OverflowError(f"{operation}(): port must be 0-65535.")
        if flow > 0xfffff:
            raise OverflowError(f"{operation}(): flowinfo must be 0-1048575.")
        out.port = <uint16_t> port
        return 0

    cdef int parse(self, str name, uint32_t zone, endpoint_t *out) except -1:
        """An address, or a name that the host knows or asks for."""
        cdef tuple address = (name, 0, 0, zone)
        literal = name
        if name in ("<broadcast>", "255.255.255.255"):
            if self.family != AF_INET:
                raise OSError("address family mismatched")
            literal = "255.255.255.255"
        try:
            endpoint_parse(address, literal, self.family, out)
        except ValueError:
            if self.host is None:
                raise kernel.gaierror(kernel.EAI_NONAME, f"Name or service not known: {name!r}") from None
            try:
                literal = self.host.resolve(name, self.family)
            except UnicodeError:                     # no name that DNS could have
                raise kernel.gaierror(kernel.EAI_NONAME, f"Name or service not known: {name!r}") from None
            endpoint_parse(address, literal, self.family, out)
        if address_is_v4(&out.address) if self.family == AF_INET6 and ":" not in literal else (
                self.family == AF_INET and not address_is_v4(&out.address)):
            raise kernel.gaierror(kernel.EAI_ADDRFAMILY, f"Address family for hostname not supported: {name!r}")
        return 0

    def check_address(self, object address, str operation):
        """Raise what ``operation`` would for an address that is none; names are looked up."""
        cdef endpoint_t e
        self.to_endpoint(address, operation, &e)

    cdef int flags_of(self, object flags) except? -1:
        """Those of a call that receives. Streams have no error queue: nothing is ever there."""
        cdef int f = as_int(flags)
        if f & MSG_ERRQUEUE and self.type == 1:
            if self.closed:
                raise OSError(EBADF, os.strerror(EBADF))
            raise BlockingIOError(EAGAIN, AGAIN)
        return f

    def check_flags(self, object flags):
        """Raise what a call would for flags that are no C int."""
        as_int(flags)

    # --- what the one that derives does

    cdef int usable(self) except -1:
        raise NotImplementedError

    cdef int connect_number(self, object address) except -1:
        raise NotImplementedError

    cdef object failure(self, int code, str operation, object remote=None):
        raise NotImplementedError

    cdef ssize_t receive(self, unsigned char *data, size_t n, int flags, endpoint_t *src) except -1:
        raise NotImplementedError

    cdef object receive_bytes(self, Py_ssize_t n, int flags, endpoint_t *src, str operation):
        raise NotImplementedError

    cdef object receive_datagram(self, bytearray space, Py_ssize_t size, Py_ssize_t room, int flags):
        raise NotImplementedError

    cdef ssize_t transmit(self, const unsigned char *data, size_t n, int flags, const endpoint_t *to, bint everything,
                          str operation) except -1:
        raise NotImplementedError

    cdef object send_instructed(self, bytes data, list ancillary, int flags, object address):
        raise NotImplementedError

    # --- connecting

    def connect(self, address):
        """Connect; of a datagram socket: set the peer.

        Raises
        ------
        ConnectionRefusedError, TimeoutError, BlockingIOError (EINPROGRESS), OSError
            As the standard library's.
        """
        cdef int r = self.connect_number(address)
        if r == 0:
            return
        if r == EAGAIN and self.timeout_ns > 0:
            raise TimeoutError("timed out")
        if r == EINPROGRESS:
            raise BlockingIOError(EINPROGRESS, os.strerror(EINPROGRESS))
        raise self.failure(r, "connect", address)

    def connect_ex(self, address):
        """As `connect`, but return the errno number instead of raising (errors of the address still raise)."""
        return self.connect_number(address)

    # --- receiving

    def recv(self, Py_ssize_t bufsize, flags=0, /):
        """Up to ``bufsize`` bytes; ``b""`` at the end of the stream."""
        return self.receive_bytes(bufsize, self.flags_of(flags), NULL, "recv")

    def recvfrom(self, Py_ssize_t bufsize, flags=0, /):
        """``(bytes, address of the sender)``; of a stream the address is None."""
        cdef endpoint_t e
        data = self.receive_bytes(bufsize, self.flags_of(flags), &e, "recvfrom")
        return data, None if self.type == 1 else self.from_endpoint(&e)

    cdef object receive_into(self, object buffer, Py_ssize_t n, int flags, endpoint_t *src, str operation):
        cdef Py_buffer view
        get_writable(buffer, &view, operation)
        try:
            if n < 0:
                raise ValueError(f"negative buffersize in {operation}")
            if n > view.len:
                raise ValueError("buffer too small for requested bytes")
            if n == 0:
                n = view.len
            if n == 0 and src == NULL:
                return 0
            return self.receive(<unsigned char *> view.buf, n, flags, src)
        finally:
            PyBuffer_Release(&view)

    def recv_into(self, buffer, Py_ssize_t nbytes=0, flags=0):
        """Into ``buffer``; how many bytes. Of a stream the kernel of the stack writes straight into it while this
        waits; when a segment turns out damaged, bytes behind the returned length may have changed."""
        return self.receive_into(buffer, nbytes, self.flags_of(flags), NULL, "recv_into")

    def recvfrom_into(self, buffer, Py_ssize_t nbytes=0, flags=0):
        """``(bytes, address of the sender)`` as `recv_into` and `recvfrom`."""
        cdef endpoint_t e
        r = self.receive_into(buffer, nbytes, self.flags_of(flags), &e, "recvfrom_into")
        return r, None if self.type == 1 else self.from_endpoint(&e)

    def recvmsg(self, Py_ssize_t bufsize, Py_ssize_t ancbufsize=0, flags=0, /):
        """``(bytes, ancillary, flags, address)``. MSG_TRUNC in flags: the datagram was longer; MSG_CTRUNC: ancillary data
        had no room. With MSG_ERRQUEUE one error of the error queue (IP_RECVERR)."""
        cdef bytearray space
        cdef endpoint_t e
        cdef int f = self.flags_of(flags)
        if bufsize < 0:
            raise ValueError("negative buffer size in recvmsg()")
        if not 0 <= ancbufsize <= ANCILLARY_MOST:
            raise ValueError("invalid ancillary data buffer length")
        if self.type == 1:
            return self.receive_bytes(bufsize, f, &e, "recvmsg"), [], f & MSG_CMSG_CLOEXEC, None
        space = bytearray(bufsize)
        n, ancillary, out_flags, address = self.recvmsg_into([space], ancbufsize, f)
        del space[n:]
        return bytes(space), ancillary, out_flags, address

    def recvmsg_into(self, buffers, Py_ssize_t ancbufsize=0, flags=0, /):
        """Scatter into several buffers: ``(bytes, ancillary, flags, address)``."""
        cdef list views = []
        cdef bytearray space
        cdef endpoint_t e
        cdef Py_ssize_t total, n, at = 0
        cdef int f = self.flags_of(flags), out_flags = 0
        for buffer in buffers:
            view = memoryview(buffer)
            if view.readonly or not view.c_contiguous:
                raise TypeError("recvmsg_into() argument 1 must be an iterable of read-write bytes-like objects")
            views.append(view.cast("B"))
        total = sum([len(v) for v in views])
        ancillary = []
        if not 0 <= ancbufsize <= ANCILLARY_MOST:
            raise ValueError("invalid ancillary data buffer length")
        if self.type == 1 and len(views) == 1:
            return self.receive_into(views[0], 0, f, &e, "recvmsg_into"), [], f & MSG_CMSG_CLOEXEC, None
        space = bytearray(max(total, 1))
        if self.type == 1:
            n = self.receive(<unsigned char *> PyByteArray_AS_STRING(space), total, f, &e)
            address = None
        else:
            n, ancillary, out_flags, address = self.receive_datagram(space, total, ancbufsize, f)
            if n > total:
                out_flags |= MSG_TRUNC
                if not f & MSG_TRUNC:
                    n = total
        for v in views:
            size = min(len(v), min(n, total) - at)
            v[:size] = memoryview(space)[at:at + size]
            at += size
        return n, ancillary, out_flags | (f & MSG_CMSG_CLOEXEC), address

    # --- sending

    def send(self, data, flags=0, /):
        """How many bytes were taken. A blocking socket takes all, one with a timeout what fits."""
        cdef Py_buffer view
        cdef int f
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            f = as_int(flags)
            return self.transmit(<const unsigned char *> view.buf, view.len, f, NULL, False, "send")
        finally:
            PyBuffer_Release(&view)

    def sendall(self, data, flags=0, /):
        """All of it, within one timeout."""
        cdef Py_buffer view
        cdef int f
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            f = as_int(flags)
            self.transmit(<const unsigned char *> view.buf, view.len, f, NULL, True, "sendall")
        finally:
            PyBuffer_Release(&view)

    def sendto(self, data, *args):
        """``sendto(data, address)`` or ``sendto(data, flags, address)``."""
        return self.sendto_of(None, data, args)

    def sendto_of(self, sock, data, tuple args):
        """`sendto`; of ``sock``, if there is one, audit hooks are told."""
        cdef Py_buffer view
        cdef endpoint_t e
        cdef int flags = 0
        if len(args) == 1:
            address = args[0]
        elif len(args) == 2:
            flags, address = as_int(args[0]), args[1]
        else:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({len(args) + 1} given)")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.to_endpoint(address, "sendto", &e)
            if sock is not None:
                audit("socket.sendto", sock, address)
            return self.transmit(<const unsigned char *> view.buf, view.len, flags, &e, False, "sendto")
        finally:
            PyBuffer_Release(&view)

    def sendmsg(self, buffers, ancdata=(), flags=0, address=None, /):
        """Gather: the buffers one behind the other as one datagram, or into the stream. Ancillary data of a datagram: IP_TTL,
        IP_TOS, IP_PKTINFO and their IPv6 kin; a stream ignores it, as in Linux."""
        cdef list parts
        cdef Py_ssize_t sent = 0, n
        cdef int f = as_int(flags)
        parts = [flat(b) for b in buffers]
        cdef list instructions = [ancillary_item(item) for item in ancdata]
        if self.type == 1:
            for level, type, _ in instructions:
                if level == SOL_SOCKET and type not in (SCM_RIGHTS, SCM_CREDENTIALS):
                    self.usable()
                    raise OSError(EINVAL, f"Invalid argument: sendmsg with ancillary data {level}, {type} on a stream")
        elif instructions:
            return self.send_instructed(b"".join(parts), instructions, f, address)
        if self.type != 1 or address is not None or len(parts) < 2 or sum([len(p) for p in parts]) <= 4 * KEEP_BYTES:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            return self.sendto(data, f, address) if address is not None else self.send(data, f)
        for i, part in enumerate(parts):
            try:
                n = self.send(part, f if i == len(parts) - 1 else f | MSG_MORE)
            except OSError:
                if sent:
                    break
                raise
            sent += n
            if n < len(part):
                break
        return sent
