"""What every handle of a socket has, wherever its stack is: timeouts, addresses, owners, and the standard library's ways
to call. `netstack.handle.Handle` has the stack in this process, `netstack.daemon.handle.DaemonHandle` in another.

Who derives from it gives the cdef methods that do something: ``receive``, ``transmit``, ``connect_number`` and the like.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EAGAIN, EINPROGRESS, EINVAL
from libc.stdint cimport int64_t, uint16_t

from netstack.address cimport address_is_v4, address_t, endpoint_parse, endpoint_t, endpoint_tuple
from netstack.driver cimport park_now_ns
from netstack.link.link cimport NEVER

import math
import operator
import os
import socket as kernel

cdef enum:
    AF_INET = 2
    AF_INET6 = 10
    KEEP_BYTES = 16 << 10        # buffers that are small together are joined and sent as one
    MSG_DONTWAIT = 0x40
    MSG_MORE = 0x8000
    MSG_TRUNC = 0x20

cdef int64_t TIMEOUT_MOST_NS = 1 << 62
cdef str AGAIN = os.strerror(EAGAIN)


cdef tuple ancillary_item(item):
    """One item for ``sendmsg``, as the standard library checks it: ``(int, int, bytes-like)``."""
    if not isinstance(item, tuple) or len(item) != 3:
        raise TypeError("[sendmsg() ancillary data items must be tuples of length 3]")
    return operator.index(item[0]), operator.index(item[1]), memoryview(item[2])


cdef class Face:
    """The half of a handle that does not depend on where the stack is. Addresses are the standard library's tuples; a name
    that is no address is asked of ``host.resolve(name, family)``."""

    def __cinit__(self):
        self.timeout_ns = -1

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

    def settimeout(self, object value):
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

    def setblocking(self, flag):
        self.settimeout(None if flag else 0.0)

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
        cdef long port
        if not isinstance(address, tuple):
            raise TypeError(f"{operation}(): AF_INET{'6' if self.family == AF_INET6 else ''} address must be tuple, "
                            f"not {address.__class__.__name__}")
        if len(address) < 2 or len(address) > (4 if self.family == AF_INET6 else 2):
            raise TypeError(f"AF_INET{'6' if self.family == AF_INET6 else ''} address must be a pair (host, port"
                            f"{'[, flowinfo[, scopeid]]' if self.family == AF_INET6 else ''})")
        name, number = address[0], address[1]
        try:
            port = number
        except OverflowError:
            port = -1
        if not 0 <= port <= 65535:
            raise OverflowError(f"{operation}(): port must be 0-65535.")
        out.port = <uint16_t> port
        out.scope = 0
        if name is self.last_name and name is not None and len(address) == 2:
            out.address = self.last_address
            return 0
        if isinstance(name, (bytes, bytearray)):
            name = bytes(name).decode("ascii")
        elif not isinstance(name, str):
            raise TypeError(f"str, bytes or bytearray expected, not {name.__class__.__name__}")
        self.parse(address, name, operation, out)
        if len(address) == 2 and "%" not in name:
            self.last_name = address[0]
            self.last_address = out.address
        return 0

    cdef int parse(self, object address, str name, str operation, endpoint_t *out) except -1:
        if name == "<broadcast>":
            name = "255.255.255.255"
        try:
            endpoint_parse(address, name, self.family, out)
        except OverflowError as e:
            raise OverflowError(f"{operation}(): {e}") from None
        except ValueError:
            if self.host is None:
                raise kernel.gaierror(kernel.EAI_NONAME, f"Name or service not known: {name!r}") from None
            endpoint_parse(address, self.host.resolve(name, self.family), self.family, out)
        if self.family == AF_INET and not address_is_v4(&out.address):
            raise kernel.gaierror(kernel.EAI_ADDRFAMILY, f"Address family for hostname not supported: {name!r}")
        return 0

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

    def recv(self, Py_ssize_t bufsize, int flags=0):
        """Up to ``bufsize`` bytes; ``b""`` at the end of the stream."""
        return self.receive_bytes(bufsize, flags, NULL, "recv")

    def recvfrom(self, Py_ssize_t bufsize, int flags=0):
        """``(bytes, address of the sender)``; of a stream the address is None."""
        cdef endpoint_t e
        if self.type == 1:
            return self.receive_bytes(bufsize, flags, NULL, "recvfrom"), None
        data = self.receive_bytes(bufsize, flags, &e, "recvfrom")
        return data, self.from_endpoint(&e)

    cdef object receive_into(self, object buffer, Py_ssize_t n, int flags, endpoint_t *src, str operation):
        cdef Py_buffer view
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
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

    def recv_into(self, buffer, Py_ssize_t nbytes=0, int flags=0):
        """Into ``buffer``; how many bytes. Of a stream the kernel of the stack writes straight into it while this
        waits; when a segment turns out damaged, bytes behind the returned length may have changed."""
        return self.receive_into(buffer, nbytes, flags, NULL, "recv_into")

    def recvfrom_into(self, buffer, Py_ssize_t nbytes=0, int flags=0):
        """``(bytes, address of the sender)`` as `recv_into` and `recvfrom`."""
        cdef endpoint_t e
        if self.type == 1:
            return self.receive_into(buffer, nbytes, flags, NULL, "recvfrom_into"), None
        r = self.receive_into(buffer, nbytes, flags, &e, "recvfrom_into")
        return r, self.from_endpoint(&e)

    def recvmsg(self, Py_ssize_t bufsize, Py_ssize_t ancbufsize=0, int flags=0):
        """``(bytes, ancillary, flags, address)``. MSG_TRUNC in flags: the datagram was longer; MSG_CTRUNC: ancillary data
        had no room. With MSG_ERRQUEUE one error of the error queue (IP_RECVERR)."""
        cdef bytearray space
        if bufsize < 0:
            raise ValueError("negative buffer size in recvmsg()")
        if ancbufsize < 0:
            raise ValueError("invalid ancillary data buffer length")
        if self.type == 1:
            return self.receive_bytes(bufsize, flags, NULL, "recvmsg"), [], 0, None
        space = bytearray(bufsize)
        n, ancillary, out_flags, address = self.recvmsg_into([space], ancbufsize, flags)
        del space[n:]
        return bytes(space), ancillary, out_flags, address

    def recvmsg_into(self, buffers, Py_ssize_t ancbufsize=0, int flags=0):
        """Scatter into several buffers: ``(bytes, ancillary, flags, address)``."""
        cdef list views = [memoryview(b).cast("B") for b in buffers]
        cdef bytearray space
        cdef Py_ssize_t total = sum([len(v) for v in views]), n, at = 0
        cdef int out_flags = 0
        ancillary = []
        if ancbufsize < 0:
            raise ValueError("invalid ancillary data buffer length")
        for v in views:
            if v.readonly:
                raise TypeError("recvmsg_into() argument 1 must be an iterable of read-write bytes-like objects")
        if self.type == 1 and len(views) == 1:
            return self.receive_into(views[0], 0, flags, NULL, "recvmsg_into"), [], 0, None
        space = bytearray(max(total, 1))
        if self.type == 1:
            n = self.receive_into(space, total, flags, NULL, "recvmsg_into") if total else 0
            address = None
        else:
            n, ancillary, out_flags, address = self.receive_datagram(space, total, ancbufsize, flags)
            if n > total:
                out_flags |= MSG_TRUNC
                if not flags & MSG_TRUNC:
                    n = total
        for v in views:
            size = min(len(v), min(n, total) - at)
            v[:size] = memoryview(space)[at:at + size]
            at += size
        return n, ancillary, out_flags, address

    # --- sending

    def send(self, data, int flags=0):
        """How many bytes were taken. A blocking socket takes all, one with a timeout what fits."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return self.transmit(<const unsigned char *> view.buf, view.len, flags, NULL, False, "send")
        finally:
            PyBuffer_Release(&view)

    def sendall(self, data, int flags=0):
        """All of it, within one timeout."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.transmit(<const unsigned char *> view.buf, view.len, flags, NULL, True, "sendall")
        finally:
            PyBuffer_Release(&view)

    def sendto(self, data, *args):
        """``sendto(data, address)`` or ``sendto(data, flags, address)``."""
        cdef Py_buffer view
        cdef endpoint_t e
        cdef int flags = 0
        if len(args) == 1:
            address = args[0]
        elif len(args) == 2:
            flags, address = args
        else:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({len(args) + 1} given)")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.to_endpoint(address, "sendto", &e)
            return self.transmit(<const unsigned char *> view.buf, view.len, flags, &e, False, "sendto")
        finally:
            PyBuffer_Release(&view)

    def sendmsg(self, buffers, ancdata=(), int flags=0, address=None):
        """Gather: the buffers one behind the other as one datagram, or into the stream. Ancillary data of a datagram: IP_TTL,
        IP_TOS, IP_PKTINFO and their IPv6 kin."""
        cdef list parts
        cdef Py_ssize_t sent = 0, n
        cdef list instructions = [ancillary_item(item) for item in ancdata]
        if instructions and self.type == 1:
            raise OSError(EINVAL, "Invalid argument: sendmsg with ancillary data on a stream")
        parts = [memoryview(b).cast("B") for b in buffers]
        if instructions:
            return self.send_instructed(b"".join(parts), instructions, flags, address)
        if self.type != 1 or address is not None or len(parts) < 2 or sum([len(p) for p in parts]) <= 4 * KEEP_BYTES:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            return self.sendto(data, flags, address) if address is not None else self.send(data, flags)
        for i, part in enumerate(parts):
            try:
                n = self.send(part, flags if i == len(parts) - 1 else flags | MSG_MORE)
            except OSError:
                if sent:
                    break
                raise
            sent += n
            if n < len(part):
                break
        return sent
