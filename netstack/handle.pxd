"""The compiled half of a socket: what ``netstack.socket.socket`` binds its methods to."""

from libc.stdint cimport int64_t

from netstack.address cimport endpoint_t
from netstack.driver cimport Driver, owner_t
from netstack.face cimport Face


cdef class Handle(Face):
    cdef owner_t o
    cdef readonly Driver driver  # kept alive
    cdef bint listening
    cdef bint shareable          # its address is one that other stacks have too: children may have its port (`bequeath`)
    cdef bint watched            # somebody waits for connections, or did
    cdef bint deferred           # nobody does, and children may: SYNs are passed over
    cdef bint offered            # the router knows that children may come
    cdef int backlog
    cdef list said               # options of a shareable one, to be set again in a child
    cdef object will             # the address that children listen at

    cdef int revive(self) except -1
    cdef void forget(self) noexcept
    cdef Handle sibling(self)
    cdef void without_waiting(self)
    cdef int wait_for(self, unsigned int events, int64_t deadline, int *step) except -1
    cdef int linger(self) except -1
    cdef void release(self) noexcept
    cdef ssize_t transmit_fast(self, const unsigned char *data, size_t n, int flags, const endpoint_t *to, bint blocking,
                               str operation) except -1
    # A stream's event loop lends a buffer for what arrives next, and takes it back: how many bytes came. Until then, or until
    # the socket is closed, the buffer must stay. EVENT_IN says that there are some.
    cdef void lend(self, unsigned char *data, size_t n) noexcept
    cdef size_t take_lent(self) noexcept
    cdef bint own_address(self, const endpoint_t *e)
