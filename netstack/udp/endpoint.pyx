# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The receive queue of a datagram socket (UDP, ping, raw), and the queue of its errors."""

from libc.errno cimport EAGAIN
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from netstack.counters cimport DROP_NO_MEMORY, DROP_NONE, DROP_UDP_BUFFER_FULL, DROP_UDP_CHECKSUM
from netstack.sock cimport EVENT_ERR, EVENT_IN, SOCK_UDP, sock_event
from netstack.wire.checksum cimport checksum_and_copy, checksum_fold, copy_bytes

cdef enum:
    UDP_BUFFER = 212992          # bytes: net.core.rmem_default of Linux
    UDP_TTL = 64                 # net.ipv4.ip_default_ttl


cdef void udp_endpoint_init(udp_endpoint_t *ep) noexcept nogil:
    """Everything zero, limits and TTL at their defaults. The caller sets identity (sock.id, sock.index)."""
    memset(ep, 0, sizeof(udp_endpoint_t))
    ep.sock.kind = SOCK_UDP
    ep.ttl = ep.hops = UDP_TTL
    ep.rcvbuf = UDP_BUFFER
    ep.sndbuf = UDP_BUFFER
    ep.pmtu_discovery = PMTU_WANT            # net.ipv4.ip_no_pmtu_disc 0
    ep.multicast_ttl = 1         # RFC 1112 section 6.1
    ep.multicast_loop = 1
    ep.check_offset = -1


cdef void free_queue(datagram_t *d) noexcept nogil:
    cdef datagram_t *next
    while d != NULL:
        next = d.next
        free(d)
        d = next


cdef void udp_endpoint_free(udp_endpoint_t *ep) noexcept nogil:
    cdef membership_t *m
    free_queue(ep.first)
    free_queue(ep.first_error)
    ep.first = ep.last = ep.first_error = ep.last_error = NULL
    ep.queued = 0
    ep.queued_bytes = 0
    ep.error_bytes = 0
    while ep.memberships != NULL:
        m = ep.memberships
        ep.memberships = m.next
        free(m.sources)
        free(m)


# ---- in --------------------------------------------------------------------

cdef datagram_t *endpoint_room(udp_endpoint_t *ep, uint32_t length, DropReason *reason) noexcept nogil:
    """The queue holds rcvbuf bytes, bookkeeping included; an empty queue takes any datagram."""
    cdef uint32_t charge = <uint32_t> sizeof(datagram_t) + length
    cdef datagram_t *d
    if ep.queued and <uint64_t> ep.queued_bytes + charge > ep.rcvbuf:
        ep.dropped += 1
        reason[0] = DROP_UDP_BUFFER_FULL
        return NULL
    d = <datagram_t *> malloc(charge)
    if d == NULL:
        reason[0] = DROP_NO_MEMORY
        return NULL
    memset(d, 0, sizeof(datagram_t))
    d.length = length
    return d


cdef void endpoint_append(udp_endpoint_t *ep, event_list_t *events, datagram_t *d) noexcept nogil:
    d.next = NULL
    if ep.last == NULL:
        ep.first = d
    else:
        ep.last.next = d
    ep.last = d
    ep.queued += 1
    ep.queued_bytes += <uint32_t> sizeof(datagram_t) + d.length
    sock_event(events, &ep.sock, EVENT_IN)


cdef DropReason udp_deliver(udp_endpoint_t *ep, event_list_t *events, const address_t *src, uint16_t sport,
                            const uint8_t *payload, uint32_t length, uint32_t covered, int64_t partial,
                            const arrival_t *how) noexcept nogil:
    """Queue one datagram; the sum is over exactly the bytes that are kept, those that are covered."""
    cdef DropReason reason = DROP_NONE
    cdef datagram_t *d = endpoint_room(ep, length, &reason)
    if d == NULL:
        return reason
    if partial < 0:
        copy_bytes(d + 1, payload, length)
    elif checksum_fold(<uint64_t> partial + checksum_and_copy(d + 1, payload, covered)) != 0xffff:
        free(d)
        return DROP_UDP_CHECKSUM
    elif covered < length:
        copy_bytes(<uint8_t *> (d + 1) + covered, payload + covered, length - covered)
    d.src = src[0]
    d.sport = sport
    if how != NULL:
        d.how = how[0]
    endpoint_append(ep, events, d)
    return DROP_NONE


cdef void endpoint_error(udp_endpoint_t *ep, event_list_t *events, const endpoint_t *to, const uint8_t *payload,
                         uint32_t length, const arrival_t *how) noexcept nogil:
    """As many as rcvbuf holds; what comes beyond is not told."""
    cdef uint32_t charge = <uint32_t> sizeof(datagram_t) + length
    cdef datagram_t *d
    if ep.first_error != NULL and <uint64_t> ep.error_bytes + charge > ep.rcvbuf:
        return
    d = <datagram_t *> malloc(charge)
    if d == NULL:
        return
    d.next = NULL
    d.src = to.address
    d.sport = to.port
    d.length = length
    d.how = how[0]
    if length:
        memcpy(d + 1, payload, length)
    if ep.last_error == NULL:
        ep.first_error = d
    else:
        ep.last_error.next = d
    ep.last_error = d
    ep.error_bytes += charge
    sock_event(events, &ep.sock, EVENT_ERR)


# ---- out -------------------------------------------------------------------

cdef ssize_t udp_receive(udp_endpoint_t *ep, uint8_t *buf, size_t n, endpoint_t *src, uint32_t *length,
                         bint peek) noexcept nogil:
    return endpoint_receive(ep, buf, n, src, length, peek, False, NULL)


cdef ssize_t endpoint_receive(udp_endpoint_t *ep, uint8_t *buf, size_t n, endpoint_t *src, uint32_t *length,
                              bint peek, bint errors, arrival_t *how) noexcept nogil:
    """Take the oldest. src, length and how may be NULL; what does not fit into buf is lost unless peeked."""
    cdef datagram_t *d = ep.first_error if errors else ep.first
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
        src.scope = 0
    if how != NULL:
        how[0] = d.how
    if peek:
        return <ssize_t> n
    if errors:
        ep.first_error = d.next
        if ep.first_error == NULL:
            ep.last_error = NULL
        ep.error_bytes -= <uint32_t> sizeof(datagram_t) + d.length
    else:
        ep.first = d.next
        if ep.first == NULL:
            ep.last = NULL
        ep.queued -= 1
        ep.queued_bytes -= <uint32_t> sizeof(datagram_t) + d.length
    free(d)
    return <ssize_t> n
