"""The relay's loop, as its uplink holds it."""

from netstack.driver cimport Driver
from netstack.router.relay.kernel cimport epoll_event
from netstack.router.relay.state cimport relay_t


cdef class Relay:
    cdef relay_t *r
    cdef readonly Driver driver
    cdef list duplicates         # descriptors of the stack's links, for our epoll
    cdef bint closed, look
    cdef readonly unsigned long long rounds, sleeps

    cdef void dispatch(self, epoll_event *events, int n) noexcept nogil
    cdef bint work(self) noexcept nogil
    cdef bint round(self) noexcept nogil
