"""The way of a connection's bytes while nothing unusual happens: from the socket to the protocol, and straight back out."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

from netstack.handle cimport Handle

cdef enum:
    RECEIVE_MOST = 256 << 10     # bytes asked for at a time
    MSG_DONTWAIT = 0x40


cdef class Stream:
    """What `netstack.aio.transports.StreamTransport` does for every message; the rest it does itself.

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
    cdef public bint flows

    def __init__(self, transport, Handle handle not None):
        self.transport = transport
        self.handle = handle
        self.flows = True

    def set_protocol(self, protocol, bint into_buffer):
        """Who gets what arrives; by its ``get_buffer`` and ``buffer_updated`` if ``into_buffer``."""
        self.protocol = protocol
        self.into_buffer = into_buffer

    def stop(self):
        """Nothing is received or sent any more."""
        self.stopped = True
        self.flows = False

    def release(self):
        """Let go of transport and protocol, after `stop`."""
        self.transport = self.protocol = None

    def receive(self):
        """Take what has arrived and give it to the protocol."""
        cdef object transport = self.transport
        cdef bytes data
        if self.stopped:
            return
        if self.into_buffer:
            self.receive_into()
            return
        try:
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

    cdef object receive_into(self):
        cdef object transport = self.transport
        cdef Py_ssize_t n
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
