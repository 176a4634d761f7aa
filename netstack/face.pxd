"""The half of a socket's handle that does not depend on where the stack is: see face.pyx."""

from libc.stdint cimport int64_t, uint32_t

from netstack.address cimport address_t, endpoint_t

cdef extern from "Python.h":
    long PyLong_AsLong(object number) except? -1


cdef inline int as_int(object number) except? -1:
    """An argument that the standard library takes for a C int: no float, nothing that does not fit."""
    cdef long n = PyLong_AsLong(number)
    if n != <int> n:
        raise OverflowError("signed integer is greater than maximum" if n > 0 else "signed integer is less than minimum")
    return <int> n


cdef bytes option_value(object value, object optlen)      # what setsockopt() hands to the stack


cdef class Face:
    cdef readonly object host    # resolves names; may be None
    cdef readonly int family
    cdef readonly int type
    cdef readonly int proto
    cdef readonly object timeout # seconds or None
    cdef int64_t timeout_ns      # -1 blocks, 0 does not
    cdef int owners              # objects that have it beside the first, by dup()
    cdef public int twins        # more of them, made of its descriptor's number: the end of one is the end of all
    cdef public str shown_as     # the class of the object around it, for `repr`
    cdef object last_name        # the host name of the last sendto and its address
    cdef address_t last_address
    cdef object __weakref__

    cdef int usable(self) except -1
    cdef int to_endpoint(self, object address, str operation, endpoint_t *out) except -1
    cdef object from_endpoint(self, const endpoint_t *e)
    cdef object failure(self, int code, str operation, object remote=*)
    cdef object not_now(self)
    cdef int64_t deadline(self)
    cdef ssize_t receive(self, unsigned char *data, size_t n, int flags, endpoint_t *src) except -1
    cdef ssize_t transmit(self, const unsigned char *data, size_t n, int flags, const endpoint_t *to, bint everything,
                          str operation) except -1
    cdef object receive_bytes(self, Py_ssize_t n, int flags, endpoint_t *src, str operation)
    cdef object receive_into(self, object buffer, Py_ssize_t n, int flags, endpoint_t *src, str operation)
    cdef object receive_datagram(self, bytearray space, Py_ssize_t size, Py_ssize_t room, int flags)
    cdef object send_instructed(self, bytes data, list ancillary, int flags, object address)
    cdef int parse(self, str name, uint32_t zone, endpoint_t *out) except -1
    cdef int flags_of(self, object flags) except? -1
    cdef int connect_number(self, object address) except -1
    cdef bint blocks(self, int flags)
