"""Multicast groups of sockets: membership, source filters, where and how datagrams to groups leave (RFC 3376 section 2, 3678)."""

from libc.stdint cimport uint8_t, uint32_t

from netstack.ip.interface cimport packet_in_t
from netstack.stack.core cimport stack_t
from netstack.udp.endpoint cimport udp_endpoint_t

# 0 or -errno; -ENOPROTOOPT: none of these options.
cdef int multicast_option_set(stack_t *stack, udp_endpoint_t *ep, int level, int name, const uint8_t *value,
                              uint32_t n) noexcept nogil
cdef int multicast_option_get(stack_t *stack, udp_endpoint_t *ep, int level, int name, uint8_t *value,
                              uint32_t *size) noexcept nogil
# Does the socket want this datagram to a group, from that source? Broadcasts are wanted by everybody.
cdef bint multicast_wanted(const udp_endpoint_t *ep, const packet_in_t *packet) noexcept nogil
cdef void multicast_leave_all(stack_t *stack, udp_endpoint_t *ep) noexcept nogil     # the socket is closed
