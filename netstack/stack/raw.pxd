"""Raw sockets: copies of packets in, packets out (raw(7))."""

from libc.stdint cimport uint8_t, uint32_t

from netstack.ip.interface cimport packet_in_t
from netstack.stack.core cimport stack_t
from netstack.udp.endpoint cimport arrival_t, udp_endpoint_t


# A copy of the packet for every raw socket that wants it; True: somebody got one.
cdef bint raw_input(stack_t *stack, packet_in_t *packet) noexcept nogil
cdef void arrival_of(const packet_in_t *packet, arrival_t *how) noexcept nogil     # how a received packet came
cdef bint raw_wants(const udp_endpoint_t *ep, const packet_in_t *packet) noexcept nogil
