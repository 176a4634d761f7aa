"""The way of a connection's bytes while nothing unusual happens: from the socket to the protocol, and straight back out."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, _PyBytes_Resize
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF

from netstack.handle cimport Handle

from asyncio import protocols

cdef enum:
    RECEIVE_MOST = 256 << 10     # bytes asked for at a time
    MSG_DONTWAIT = 0x40
    LEND_FROM = 16 << 10         # who got so much at once gets the next bytes without a copy in between
    LEND_LEAST = 64 << 10        # size of a buffer that is lent
    LEND_MOST = 128 << 10
    LENT_BYTES = 8 << 20         # of all buffers of the process

cdef size_t lent_bytes = 0


@cython.no_gc_clear              # a loan needs the handle to its end
cdef class Stream:
    """What `netstack.aio.transports.StreamTransport` does for every message; the rest it does itself.

    A connection that receives much at a time lends the bytes object of its next message to the stack, which then writes
    what arrives where the protocol will read it.

    Parameters
    ----------
    transport : StreamTransport
    handle : Handle
        Its socket.

    Attributes
    ----------
    flows : bool
        What is written goes to the socket: nothing waits to be sent, and the stream was not ended.
    """

    cdef object transport
    cdef object protocol
    cdef Handle handle
    cdef bint into_buffer
    cdef bint stopped
    cdef PyObject *buffer        # a bytes object nobody else has, lent to the stack; NULL: none
    cdef size_t buffer_size
    cdef public bint flows

    def __init__(self, transport, Handle handle not None):
        self.transport = transport
        self.handle = handle
        self.flows = True

    def __dealloc__(self):
        self.end_loan()

    @property
    def lends(self):
        """Whether a buffer is lent to the stack."""
        return self.buffer != NULL

    def set_protocol(self, protocol, bint into_buffer):
        """Who gets what arrives; by its ``get_buffer`` and ``buffer_updated`` if ``into_buffer``."""
        self.protocol = protocol
        self.into_buffer = into_buffer

    def stop(self):
        """Nothing is received or sent any more."""
        self.stopped = True
        self.flows = False
        self.end_loan()

    cdef void end_loan(self) noexcept:
        global lent_bytes
        if self.buffer == NULL:
            return
        self.handle.take_lent()
        lent_bytes -= self.buffer_size
        Py_XDECREF(self.buffer)
        self.buffer = NULL

    cdef int lend(self, size_t n) except -1:
        global lent_bytes
        cdef size_t size = LEND_LEAST if n <= LEND_LEAST else LEND_MOST
        if lent_bytes + size > LENT_BYTES:
            return 0
        fresh = PyBytes_FromStringAndSize(NULL, size)
        Py_INCREF(fresh)
        self.buffer = <PyObject *> fresh
        self.buffer_size = size
        lent_bytes += size
        self.handle.lend(<unsigned char *> PyBytes_AS_STRING(fresh), size)
        return 0

    cdef bytes taken(self):
        """What has come into the buffer, which is no longer lent; None: nothing."""
        global lent_bytes
        cdef PyObject *buffer = self.buffer
        cdef size_t n = self.handle.take_lent()
        cdef bytes out
        lent_bytes -= self.buffer_size
        self.buffer = NULL
        if n == 0:
            Py_XDECREF(buffer)
            return None
        if n < LEND_FROM:                              # not worth the whole buffer's memory
            out = PyBytes_FromStringAndSize(PyBytes_AS_STRING(<object> buffer), n)
        else:
            if n < self.buffer_size:
                _PyBytes_Resize(&buffer, n)
            out = <bytes> buffer
        Py_XDECREF(buffer)
        return out

    def release(self):
        """Let go of transport and protocol, after `stop`."""
        self.transport = self.protocol = None

    def receive(self):
        """Take what has arrived and give it to the protocol."""
        cdef object transport = self.transport
        cdef bytes data = None
        if self.stopped:
            return
        if self.buffer != NULL:
            data = self.taken()
        if self.into_buffer:
            self.receive_into(data)
            return
        try:
            if data is None:
                data = self.handle.receive_bytes(RECEIVE_MOST, MSG_DONTWAIT, NULL, "recv")
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            transport._fatal_error(error, "Fatal read error on socket transport")
            return
        if not data:
            transport._receive_eof()
            return
        try:
            self.protocol.data_received(data)
        except Exception as error:
            transport._fatal_error(error, "Fatal error: protocol.data_received() call failed.")
        if len(data) >= LEND_FROM and not self.stopped:
            self.lend(len(data))

    cdef object receive_into(self, bytes before):
        """Into the protocol's own buffer; first what came for the protocol ``before`` it, if anything did."""
        cdef object transport = self.transport
        cdef Py_ssize_t n
        if before is not None:
            try:
                protocols._feed_data_to_buffered_proto(self.protocol, before)
            except Exception as error:
                transport._fatal_error(error, "Fatal error: protocol.buffer_updated() call failed.")
            return
        try:
            space = self.protocol.get_buffer(-1)
            if not len(space):
                raise RuntimeError("get_buffer() returned an empty buffer")
        except Exception as error:
            transport._fatal_error(error, "Fatal error: protocol.get_buffer() call failed.")
            return
        try:
            n = self.handle.receive_into(space, 0, MSG_DONTWAIT, NULL, "recv_into")
        except (BlockingIOError, InterruptedError):
            return
        except Exception as error:                     # the buffer may be none
            transport._fatal_error(error, "Fatal read error on socket transport")
            return
        if not n:
            transport._receive_eof()
            return
        try:
            self.protocol.buffer_updated(n)
        except Exception as error:
            transport._fatal_error(error, "Fatal error: protocol.buffer_updated() call failed.")

    def write(self, data):
        """As the transport's: to the socket, and what that does not take into the transport's buffer."""
        cdef object transport = self.transport
        cdef Py_ssize_t sent = 0
        cdef Py_buffer view
        if not self.flows or not isinstance(data, (bytes, bytearray, memoryview)):
            if transport is not None:
                type(transport).write(transport, data)
            return
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if view.len == 0:
                return
            sent = self.handle.transmit(<const unsigned char *> view.buf, view.len, MSG_DONTWAIT, NULL, False, "send")
            if sent == view.len:
                return
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            transport._fatal_error(error, "Fatal write error on socket transport")
            return
        finally:
            PyBuffer_Release(&view)
        transport._keep(data, sent)
