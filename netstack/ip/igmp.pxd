"""IGMP as a host speaks it (RFC 3376; RFC 2236 and 1112 to queriers that know no better)."""

from libc.stdint cimport int64_t, uint32_t

from netstack.counters cimport DropReason
from netstack.ip.groups cimport igmp_group_t, igmp_t, source_set_t
from netstack.ip.interface cimport interface_t, packet_in_t

cdef DropReason igmp_input(packet_in_t *packet, int64_t now_ns) noexcept nogil
# What sockets want of a group, all of them together (RFC 3376 section 3.2); include of nothing: nothing. 0 or -errno.
cdef int igmp_set(interface_t *ifc, uint32_t group_be, bint exclude, const source_set_t *sources, int64_t now_ns) noexcept nogil
cdef bint igmp_listens(const igmp_t *igmp, uint32_t group_be) noexcept nogil
cdef int64_t igmp_next_deadline(const igmp_t *igmp) noexcept nogil
cdef void igmp_advance(interface_t *ifc, int64_t now_ns) noexcept nogil
cdef igmp_t *igmp_of(interface_t *ifc) noexcept nogil               # made when needed; NULL: no memory
cdef igmp_group_t *igmp_append(igmp_t *igmp) noexcept nogil         # NULL: too many
cdef void igmp_free(igmp_t *igmp) noexcept nogil
