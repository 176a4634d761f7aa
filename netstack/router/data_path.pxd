"""The data path of a router: memory, thread, counters."""

from libc.stdint cimport uint64_t

from netstack.router.policing cimport police_t
from netstack.router.port cimport port_t
from netstack.router.state cimport forwarder_t


cdef class DataPath:
    cdef forwarder_t *f
    cdef police_t *_police        # kept while nobody is watched, too
    cdef dict _keep              # port id -> what its C pointers need
    cdef dict _mirrored          # port id -> the ring of its mirror

    cdef port_t *port(self, uint64_t ident) except NULL
