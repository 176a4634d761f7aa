"""Bad links, for control."""

from libc.stdint cimport uint64_t

from netstack.router.port cimport port_t
from netstack.router.state cimport forwarder_t


# *output* and *input*: impairments towards the stack or uplink, and from it.
cdef int link_emulate(forwarder_t *f, port_t *port, uint64_t seed, dict output, dict input) except -1
cdef dict link_emulated(forwarder_t *f, port_t *port)
