"""The handle of a socket whose stack is in a daemon."""

from libc.stdint cimport int64_t, uint8_t

from netstack.address cimport endpoint_t
from netstack.daemon.client cimport Client, nsd_message_t, nsd_socket_t
from netstack.face cimport Face


cdef class DaemonHandle(Face):
    cdef nsd_socket_t s
    cdef readonly Client client

    cdef DaemonHandle sibling(self)
    cdef int ask(self, nsd_message_t *m, const void *data, size_t n) except -1
    cdef int begin(self, nsd_message_t *m, int kind) except -1
    cdef int wait_for(self, unsigned int events, int64_t deadline, int *step) except -1
    cdef ssize_t receive_once(self, uint8_t *data, size_t n, int flags) except? -1
    cdef ssize_t receive_asked(self, uint8_t *data, size_t n, int flags, endpoint_t *src) except? -1
    cdef ssize_t send_once(self, const uint8_t *data, size_t n, int flags, const endpoint_t *to) except? -1
    cdef ssize_t send_asked(self, const uint8_t *data, size_t n, int flags, const endpoint_t *to, bytes items) except? -1
    cdef object ask_datagram(self, Py_ssize_t size, Py_ssize_t room, int flags, endpoint_t *src)
    cdef object name(self, int whose, str operation)
    cdef obtain(self, nsd_message_t *m, str operation)
