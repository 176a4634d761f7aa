"""Changing a router's routes, as its `Forwarder` does."""

from libc.stdint cimport uint16_t, uint64_t

from netstack.router.poptrie cimport poptrie_t
from netstack.router.port cimport port_t
from netstack.router.state cimport forwarder_t


cdef class RouteTable:
    cdef forwarder_t *f              # of the Forwarder that owns this
    cdef object _lock
    cdef dict _numbers               # key -> hop
    cdef list _keys                  # by hop; None: unused
    cdef list _uses                  # by hop: how many routes have it
    cdef list _unused                # hops

    cdef poptrie_t *table(self, int version) noexcept
    cdef port_t *port(self, uint64_t ident) except NULL
    cdef tuple key_of(self, uint64_t ident, object gateway)
    cdef void settle(self, poptrie_t *t) noexcept nogil
    cdef uint16_t take_hop(self, tuple key) except 0
    cdef int drop_hop(self, uint16_t number) except -1
    cdef int enter_route(self, object network, tuple key, bint replace) except -1
    cdef tuple row(self, object network, uint16_t hop)
