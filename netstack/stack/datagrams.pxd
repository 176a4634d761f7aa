"""The datagram side of a stack: UDP, ICMP and its errors, neighbours that do not answer."""

from libc.stdint cimport uint8_t, uint32_t

from netstack.counters cimport DropReason
from netstack.ip.interface cimport interface_t, packet_in_t
from netstack.stack.core cimport stack_t

cdef DropReason udp_input(stack_t *stack, packet_in_t *packet) noexcept nogil
cdef DropReason icmp_arrives(stack_t *stack, packet_in_t *packet) noexcept nogil
# Links have drained: datagram sockets that found them full may try again.
cdef void wake_datagram_waiters(stack_t *stack) noexcept nogil
# interface_t.on_unreachable: a packet waited for a neighbour in vain.
cdef void on_unreachable(void *context, interface_t *ifc, const uint8_t *packet, uint32_t length) noexcept nogil
