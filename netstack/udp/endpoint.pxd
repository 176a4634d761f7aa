"""UDP endpoints: bounded receive queue, checksum-and-copy into it (RFC 768, 1122 section 4.1)."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from netstack.address cimport address_t, endpoint_t
from netstack.counters cimport counters_t, DropReason
from netstack.sock cimport event_list_t, sock_t


cdef struct datagram_t:
    datagram_t *next
    address_t src
    uint16_t sport
    uint32_t length
    # the payload follows the struct


cdef struct udp_endpoint_t:
    sock_t sock                  # first: a udp_endpoint_t * is a sock_t *
    address_t local
    address_t remote
    uint16_t lport               # host order; of a ping socket: the echo identifier
    uint16_t rport
    uint8_t connected
    uint8_t shutdown             # 1 read, 2 write
    uint8_t ttl
    uint8_t tos
    uint32_t rcvbuf              # limit, bytes, bookkeeping included
    uint32_t sndbuf
    uint32_t queued_bytes
    uint32_t queued
    uint32_t dropped             # because the queue was full
    datagram_t *first
    datagram_t *last


cdef void udp_endpoint_init(udp_endpoint_t *ep) noexcept nogil
cdef void udp_endpoint_free(udp_endpoint_t *ep) noexcept nogil       # the queue; not the struct
# Sum-and-copy the payload into the queue. partial: pseudo header plus UDP header sum, or -1 when there is none to check.
cdef DropReason udp_deliver(udp_endpoint_t *ep, event_list_t *events, const address_t *src, uint16_t sport,
                            const uint8_t *payload, uint32_t length, int64_t partial) noexcept nogil
# The next datagram's bytes, at most n; -EAGAIN. *length gets the datagram's whole length. peek: leave it there.
cdef ssize_t udp_receive(udp_endpoint_t *ep, uint8_t *buf, size_t n, endpoint_t *src, uint32_t *length,
                         bint peek) noexcept nogil
