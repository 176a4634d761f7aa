"""Multicast listener discovery as a host needs it (RFC 3810; RFC 2710 while an old querier is there; RFC 3590).

Addresses of ours join their groups as a whole; what sockets want of a group is set for all of them together.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.address cimport address_t
from netstack.counters cimport DropReason
from netstack.ip.groups cimport source_set_t
from netstack.ip.interface cimport interface_t, packet_in_t
from netstack.ip.ip6 cimport ip6_t

# Each join is to be followed by a leave. 0, -ENOBUFS: too many groups, -ENOMEM; leave: -EADDRNOTAVAIL.
cdef int mld_join(interface_t *ifc, const address_t *group, int64_t now_ns) noexcept nogil
cdef int mld_leave(interface_t *ifc, const address_t *group, int64_t now_ns) noexcept nogil
# What sockets want of a group (RFC 3810 section 4.2); include of nothing: nothing. 0 or -errno.
cdef int mld_set(interface_t *ifc, const address_t *group, bint exclude, const source_set_t *sources, int64_t now_ns) noexcept nogil
cdef void mld_free(ip6_t *ip6) noexcept nogil                # what groups hold
cdef DropReason mld_input(packet_in_t *packet, const uint8_t *p, uint32_t length, int64_t now_ns) noexcept nogil
cdef void mld_advance(interface_t *ifc, int64_t now_ns) noexcept nogil
cdef int64_t mld_next(const interface_t *ifc) noexcept nogil
