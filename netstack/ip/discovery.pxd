"""Routers, prefixes and what else routers say (RFC 4861 section 6.3, 4191, 8106, 7559); redirects (section 8).

Nothing of it is heard unless ``net.ipv6.conf.*.accept_ra`` is set, redirects not unless accept_redirects is (row G4).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.address cimport address_t
from netstack.counters cimport DropReason
from netstack.ip.interface cimport interface_t, packet_in_t

cdef DropReason router_input(packet_in_t *packet, const uint8_t *p, uint32_t length, int64_t now_ns) noexcept nogil
cdef DropReason redirect_input(packet_in_t *packet, const uint8_t *p, uint32_t length, int64_t now_ns) noexcept nogil
cdef void router_left(interface_t *ifc, const address_t *a, int64_t now_ns) noexcept nogil   # no router any more, if it was one
cdef void discovery_advance(interface_t *ifc, int64_t now_ns) noexcept nogil
cdef int64_t discovery_next(const interface_t *ifc) noexcept nogil
