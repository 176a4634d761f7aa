"""ARP (RFC 826, 5227, 1122 section 2.3.2): who asks, who answers, and what is believed.

Nothing said unasked is believed: only an answer to our own question makes an entry reachable. Another station's claim
to a known address makes us ask the known station again; it keeps its entry as long as it answers.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.counters cimport DropReason
from netstack.ip.interface cimport interface_t
from netstack.ip.neighbor cimport neighbor_t

# The request for a neighbour (interface_t.ask_arp).
cdef bint arp_ask(interface_t *ifc, neighbor_t *n, const uint8_t *to, int64_t now_ns) noexcept nogil
# An ARP packet, private copy. DROP_NONE: taken and, if it was a question for us, answered.
cdef DropReason arp_input(interface_t *ifc, const uint8_t *p, uint32_t length, int64_t now_ns) noexcept nogil
cdef void arp_announce(interface_t *ifc, uint32_t address_be, int64_t now_ns) noexcept nogil
cdef void arp_probe(interface_t *ifc, uint32_t address_be, int64_t now_ns) noexcept nogil      # does anybody have it?
