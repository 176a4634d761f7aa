"""ARP (RFC 826, 5227, 1122 section 2.3.2): who asks, who answers, and what is believed.

Nothing said unasked is believed: only an answer to our own question makes an entry reachable. Another station's claim
to a known address makes us ask the known station again; it keeps its entry as long as it answers.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.address cimport address_t
from netstack.counters cimport DropReason
from netstack.ip.interface cimport interface_t
from netstack.ip.neighbor cimport neighbor_t

cdef enum:
    ARP_TRIES = 3                # requests before a neighbour counts as unreachable (RFC 4861 section 10; as Linux)


cdef enum:                       # what arp_resolve says
    ARP_RESOLVED = 0             # n.mac is good
    ARP_WAIT = 1                 # asked: queue the packet at n
    ARP_FULL = -1                # the link has no room for the question (or for the packets that waited)
    ARP_UNREACHABLE = -2         # asked in vain a moment ago
    ARP_NO_ROOM = -3             # the table is full of entries in use


cdef int arp_resolve(interface_t *ifc, const address_t *a, int64_t now_ns, neighbor_t **out) noexcept nogil
# An ARP packet, private copy. DROP_NONE: taken and, if it was a question for us, answered.
cdef DropReason arp_input(interface_t *ifc, const uint8_t *p, uint32_t length, int64_t now_ns) noexcept nogil
cdef void arp_advance(interface_t *ifc, int64_t now_ns) noexcept nogil
cdef void arp_announce(interface_t *ifc, uint32_t address_be, int64_t now_ns) noexcept nogil
cdef void arp_probe(interface_t *ifc, uint32_t address_be, int64_t now_ns) noexcept nogil      # does anybody have it?
