"""Datagrams out: UDP, ping and raw sockets, cut to what the path carries."""

from libc.stdint cimport uint8_t, uint32_t

from netstack.address cimport address_t, endpoint_t
from netstack.stack.core cimport stack_t
from netstack.udp.endpoint cimport udp_endpoint_t


cdef struct send_how_t:
    # What one call says for its datagram (sendmsg's ancillary data); -1 and 0: as the socket has it.
    int ttl
    int tos
    uint32_t interface           # number (index + 1)
    address_t source             # any: not said


cdef void send_how_init(send_how_t *how) noexcept nogil
# Bytes sent or -errno; how may be NULL.
cdef ssize_t datagram_send(stack_t *stack, udp_endpoint_t *ep, const uint8_t *data, size_t n, const endpoint_t *to,
                           const send_how_t *how) noexcept nogil
