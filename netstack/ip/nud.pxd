"""Neighbour unreachability detection (RFC 4861 section 7.3, RFC 1122 section 2.3.2): one machine for ARP and ND.

    INCOMPLETE -answer-> REACHABLE -30 s-> STALE -used-> (IPv6: DELAY 5 s ->) PROBE -answer-> REACHABLE
    no answer to three questions: FAILED, and what waited is returned

Only an answer to our own question, or TCP that hears from the peer what it sent, makes an entry reachable. Somebody else's
claim to a known address makes us ask the station we know; it keeps its entry as long as it answers (security rows H1, H3).
"""

from libc.stdint cimport int64_t, uint8_t

from netstack.address cimport address_t
from netstack.ip.interface cimport interface_t
from netstack.ip.neighbor cimport neighbor_t

cdef enum:
    NUD_TRIES = 3                # questions before a neighbour counts as unreachable (RFC 4861 section 10; as Linux)


cdef enum:                       # what nud_resolve says
    NUD_RESOLVED = 0             # n.mac is good
    NUD_WAIT = 1                 # asked: queue the packet at n
    NUD_FULL = -1                # the link has no room for the question (or for the packets that waited)
    NUD_UNREACHABLE = -2         # asked in vain a moment ago
    NUD_NO_ROOM = -3             # the table is full of entries in use


cdef int nud_resolve(interface_t *ifc, const address_t *a, int64_t now_ns, neighbor_t **out) noexcept nogil
cdef void nud_confirm(interface_t *ifc, neighbor_t *n, int64_t now_ns) noexcept nogil        # it answered us
cdef void nud_heard(interface_t *ifc, neighbor_t *n, int64_t now_ns) noexcept nogil          # its address, unconfirmed: STALE
cdef void nud_contradicted(interface_t *ifc, neighbor_t *n, int64_t now_ns) noexcept nogil   # another claims its address
# TCP made progress through that neighbour (RFC 4861 section 7.3.1).
cdef void nud_progress(interface_t *ifc, const address_t *a, int64_t now_ns) noexcept nogil
cdef void nud_advance(interface_t *ifc, int64_t now_ns) noexcept nogil
