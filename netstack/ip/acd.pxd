"""Addresses on trial: is anybody else using them? (RFC 5227)"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.address cimport address_t
from netstack.ip.interface cimport interface_t
from netstack.ip.trial cimport acd_t
from netstack.wire.arp cimport arp_t

# Try an IPv4 address and take it when nobody objects: 0 or -errno. On media without ARP it is taken at once.
cdef int acd_begin(interface_t *ifc, const address_t *a, uint8_t prefix_length) noexcept nogil
cdef void acd_heard(interface_t *ifc, const arp_t *arp, int64_t now_ns) noexcept nogil     # any ARP packet of the link
cdef int64_t acd_next_deadline(const acd_t *acd) noexcept nogil
cdef void acd_advance(interface_t *ifc, int64_t now_ns) noexcept nogil
