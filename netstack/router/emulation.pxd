"""Emulated links: packets to and from a port lie under way for a while, or get lost (``link/impairment``)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from netstack.link.impairment cimport held_t
from netstack.router.port cimport packet_t, port_t, wire_t

# A good link. `fair`: who waits for the rate towards the port does so in a queue of its own, `quantum` the largest packet.
cdef wire_t *wire_new(bint fair, bint codel, uint32_t quantum) except NULL
cdef void wire_free(wire_t *wire) noexcept nogil
# Let a packet for the port, or from it, enter the line; what the line loses is counted at the port.
cdef void wire_push_out(port_t *port, const packet_t *p, int64_t now_ns) noexcept nogil
cdef void wire_push_back(port_t *port, const packet_t *p, int64_t now_ns) noexcept nogil
# The oldest packet that has arrived, out of the line, as *p; NULL: none. Its memory is private; free it.
cdef held_t *wire_arrived_out(port_t *port, packet_t *p, int64_t now_ns) noexcept nogil
cdef held_t *wire_arrived_back(port_t *port, packet_t *p, int64_t now_ns) noexcept nogil
cdef int64_t wire_deadline(const port_t *port) noexcept nogil
cdef uint64_t wire_waiting(const port_t *port) noexcept nogil          # packets for the port that wait or are under way
cdef void wire_clear(port_t *port, int reason) noexcept nogil         # what is under way is dropped, and counted
