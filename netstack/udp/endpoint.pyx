# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The receive queue of a UDP socket (ping sockets use it too)."""

from libc.errno cimport EAGAIN
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from netstack.counters cimport DROP_NO_MEMORY, DROP_NONE, DROP_UDP_BUFFER_FULL, DROP_UDP_CHECKSUM
from netstack.sock cimport EVENT_IN, SOCK_UDP, sock_event
from netstack.wire.checksum cimport checksum_and_copy, checksum_fold, copy_bytes

cdef enum:
    UDP_BUFFER = 212992          # bytes: net.core.rmem_default of Linux
    UDP_TTL = 64                 # net.ipv4.ip_default_ttl


cdef void udp_endpoint_init(udp_endpoint_t *ep) noexcept nogil:
    """Everything zero, limits and TTL at their defaults. The caller sets identity (sock.id, sock.index)."""
    memset(ep, 0, sizeof(udp_endpoint_t))
    ep.sock.kind = SOCK_UDP
    ep.ttl = UDP_TTL
    ep.rcvbuf = UDP_BUFFER
    ep.sndbuf = UDP_BUFFER


cdef void udp_endpoint_free(udp_endpoint_t *ep) noexcept nogil:
    cdef datagram_t *d = ep.first
    cdef datagram_t *next
    while d != NULL:
        next = d.next
        free(d)
        d = next
    ep.first = NULL
    ep.last = NULL
    ep.queued = 0
    ep.queued_bytes = 0


cdef DropReason udp_deliver(udp_endpoint_t *ep, event_list_t *events, const address_t *src, uint16_t sport,
                            const uint8_t *payload, uint32_t length, int64_t partial) noexcept nogil:
    """Queue one datagram; the sum is over exactly the bytes that are kept.

    The queue holds rcvbuf bytes, bookkeeping included; an empty queue takes any datagram.
    """
    cdef uint32_t charge = <uint32_t> sizeof(datagram_t) + length
    cdef datagram_t *d
    if ep.queued and <uint64_t> ep.queued_bytes + charge > ep.rcvbuf:
        ep.dropped += 1
        return DROP_UDP_BUFFER_FULL
    d = <datagram_t *> malloc(charge)
    if d == NULL:
        return DROP_NO_MEMORY
    if partial < 0:
        copy_bytes(d + 1, payload, length)
    elif checksum_fold(<uint64_t> partial + checksum_and_copy(d + 1, payload, length)) != 0xffff:
        free(d)
        return DROP_UDP_CHECKSUM
    d.next = NULL
    d.src = src[0]
    d.sport = sport
    d.length = length
    if ep.last == NULL:
        ep.first = d
    else:
        ep.last.next = d
    ep.last = d
    ep.queued += 1
    ep.queued_bytes += charge
    sock_event(events, &ep.sock, EVENT_IN)
    return DROP_NONE


cdef ssize_t udp_receive(udp_endpoint_t *ep, uint8_t *buf, size_t n, endpoint_t *src, uint32_t *length,
                         bint peek) noexcept nogil:
    """Take the oldest datagram. src and length may be NULL; what does not fit into buf is lost unless peeked."""
    cdef datagram_t *d = ep.first
    if d == NULL:
        return -EAGAIN
    if n > d.length:
        n = d.length
    if n:
        memcpy(buf, d + 1, n)
    if length != NULL:
        length[0] = d.length
    if src != NULL:
        src.address = d.src
        src.port = d.sport
    if not peek:
        ep.first = d.next
        if ep.first == NULL:
            ep.last = NULL
        ep.queued -= 1
        ep.queued_bytes -= <uint32_t> sizeof(datagram_t) + d.length
        free(d)
    return <ssize_t> n
