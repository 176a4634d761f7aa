"""The compiled half of a socket: what ``netstack.socket.socket`` binds its methods to."""

from libc.stdint cimport int64_t

from netstack.address cimport address_t, endpoint_t
from netstack.driver cimport Driver, owner_t
from netstack.sock cimport sock_t


cdef class Handle:
    cdef owner_t o
    cdef readonly Driver driver  # kept alive
    cdef readonly object host    # resolves names; may be None
    cdef readonly int family
    cdef readonly int type
    cdef readonly int proto
    cdef readonly object timeout # seconds or None
    cdef int64_t timeout_ns      # -1 blocks, 0 does not
    cdef bint listening
    cdef int owners              # objects that have it beside the first, by dup()
    cdef object last_name        # the host name of the last sendto and its address
    cdef address_t last_address
    cdef object __weakref__

    cdef Handle sibling(self)
    cdef void without_waiting(self)
    cdef int usable(self) except -1
    cdef int to_endpoint(self, object address, str operation, endpoint_t *out) except -1
    cdef object from_endpoint(self, const endpoint_t *e)
    cdef object failure(self, int code, str operation, object remote=*)
    cdef object not_now(self)
    cdef int64_t deadline(self)
    cdef int wait_for(self, unsigned int events, int64_t deadline, int *step) except -1
    cdef int linger(self) except -1
    cdef void release(self) noexcept
    cdef ssize_t receive(self, unsigned char *data, size_t n, int flags, endpoint_t *src) except -1
    cdef ssize_t transmit_fast(self, const unsigned char *data, size_t n, int flags, const endpoint_t *to, bint blocking,
                               str operation) except -1
    cdef ssize_t transmit(self, const unsigned char *data, size_t n, int flags, const endpoint_t *to, bint everything,
                          str operation) except -1
    cdef object receive_bytes(self, Py_ssize_t n, int flags, endpoint_t *src, str operation)
    cdef object receive_into(self, object buffer, Py_ssize_t n, int flags, endpoint_t *src, str operation)
    cdef object receive_datagram(self, bytearray space, Py_ssize_t size, Py_ssize_t room, int flags)
    cdef object send_instructed(self, bytes data, list ancillary, int flags, object address)
    cdef int parse(self, object address, str name, str operation, endpoint_t *out) except -1
    cdef int connect_number(self, object address) except -1
    cdef bint own_address(self, const endpoint_t *e)
    cdef bint blocks(self, int flags)
