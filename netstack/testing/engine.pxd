"""The loop of a simulation, for compiled programs that run in it."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from netstack.address cimport address_t
from netstack.link.link cimport frame_t, link_t
from netstack.stack.core cimport stack_t

cdef enum:
    PORT_ADDRESSES = 8


cdef struct node_t:
    stack_t *stack
    link_t *link


cdef struct port_t:
    link_t *link
    uint32_t count
    address_t addresses[PORT_ADDRESSES]
    uint8_t mac[6]               # learned
    uint8_t mac_known


cdef class Engine:
    cdef readonly int64_t now_ns
    cdef readonly uint64_t forwarded
    cdef readonly uint64_t unroutable
    cdef readonly uint64_t steps
    cdef node_t *nodes
    cdef uint32_t node_count
    cdef port_t *ports
    cdef uint32_t port_count
    cdef list alive              # stacks and links, so that the pointers stay good
    cdef list port_links         # of the switch, kept alive too

    cdef int64_t deadline(self) noexcept nogil       # NEVER when nothing is due
    cdef bint rest(self) noexcept nogil              # all that is possible at this moment; False: without end
    cdef bint forward(self, uint32_t index) noexcept nogil
    cdef void route_packet(self, const frame_t *frame) noexcept nogil
    cdef void switch_frame(self, uint32_t source, const frame_t *frame) noexcept nogil
    cdef void deliver(self, uint32_t index, const frame_t *frame) noexcept nogil
