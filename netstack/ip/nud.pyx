# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The states of neighbours: who is asked when, and what happens to packets that wait for an answer."""

from libc.stdint cimport INT64_MAX, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from netstack.address cimport address_is_v4
from netstack.counters cimport DROP_NEIGHBOR_UNREACHABLE, drop
from netstack.ip.ip6 cimport ip6_t
from netstack.ip.neighbor cimport (
    NEIGHBOR_DELAY, NEIGHBOR_FAILED, NEIGHBOR_FREE, NEIGHBOR_INCOMPLETE, NEIGHBOR_PROBE, NEIGHBOR_REACHABLE,
    NEIGHBOR_STALE, neighbor_find, neighbor_make, neighbor_schedule, neighbor_set_state, neighbor_table_t, neighbor_take,
    neighbor_timed, pending_packet_t,
)
from netstack.link.link cimport link_t
from netstack.wire.ethernet cimport ETHERNET_HEADER

cdef int64_t RETRY_NS = 1000000000       # RFC 1122 section 2.3.2.1, RFC 4861 section 10 RETRANS_TIMER
cdef int64_t REACHABLE_NS = 30000000000  # RFC 4861 section 10 REACHABLE_TIME
cdef int64_t DELAY_NS = 5000000000       # RFC 4861 section 10 DELAY_FIRST_PROBE_TIME
cdef int64_t FAILED_NS = 1000000000      # how long a failure is remembered
cdef int64_t REOFFER_NS = 1000000        # packets that found the link full are offered again after this


cdef inline int64_t retry_ns(const interface_t *ifc, const neighbor_t *n) noexcept nogil:
    """Between two questions; a router may say otherwise (RFC 4861 section 4.2)."""
    return RETRY_NS if ifc.ip6 == NULL or address_is_v4(&n.address) else ifc.ip6.retrans_ns


cdef inline int64_t reachable_ns(const interface_t *ifc, const neighbor_t *n) noexcept nogil:
    return REACHABLE_NS if ifc.ip6 == NULL or address_is_v4(&n.address) else ifc.ip6.reachable_ns


cdef inline bint ask(interface_t *ifc, neighbor_t *n, const uint8_t *to, int64_t now_ns) noexcept nogil:
    if address_is_v4(&n.address):
        return ifc.ask_arp(ifc, n, to, now_ns)
    return ifc.ask_nd == NULL or ifc.ask_nd(ifc, n, to, now_ns)     # without discovery nobody answers


# ---- waiting packets -------------------------------------------------------

cdef bint send_waiting(interface_t *ifc, neighbor_t *n, int64_t now_ns) noexcept nogil:
    """Send what waited, in order. False: the link had no room for all; the rest is offered again."""
    cdef link_t *link = ifc.link
    cdef pending_packet_t *p
    cdef uint8_t *head
    cdef uint8_t *body
    while n.first != NULL:
        p = n.first
        if link.claim(link, p.head_length, p.length - p.head_length, &head, &body) != 0:
            n.deadline_ns = now_ns + REOFFER_NS if n.deadline_ns > now_ns + REOFFER_NS else n.deadline_ns
            neighbor_schedule(&ifc.neighbors)
            return False
        memcpy(p.data, n.mac, 6)
        memcpy(head, p.data, p.head_length)
        memcpy(body, p.data + p.head_length, p.length - p.head_length)
        link.commit(link, now_ns)
        ifc.flushed = 0
        ifc.counters.packets_out += 1
        ifc.counters.bytes_out += p.length
        free(neighbor_take(&ifc.neighbors, n))
    return True


cdef void give_up(interface_t *ifc, neighbor_t *n, int64_t until_ns) noexcept nogil:
    """No answer: failed until then. The callback may use the table: it runs last, on a queue taken off before."""
    cdef pending_packet_t *p
    cdef pending_packet_t *first = NULL
    cdef pending_packet_t *last = NULL
    while True:
        p = neighbor_take(&ifc.neighbors, n)
        if p == NULL:
            break
        p.next = NULL
        if last == NULL:
            first = p
        else:
            last.next = p
        last = p
    neighbor_set_state(&ifc.neighbors, n, NEIGHBOR_FAILED, until_ns)
    if ifc.ip6 != NULL:
        ifc.ip6.look_again = 1       # it may have been the default router
        ifc.ip6.next_deadline_ns = 0
    while first != NULL:
        p = first
        first = p.next
        drop(ifc.counters, DROP_NEIGHBOR_UNREACHABLE)
        if ifc.on_unreachable != NULL:
            ifc.on_unreachable(ifc.context, ifc, p.data + ETHERNET_HEADER, p.length - ETHERNET_HEADER)
        free(p)


# ---- resolving -------------------------------------------------------------

cdef int nud_resolve(interface_t *ifc, const address_t *a, int64_t now_ns, neighbor_t **out) noexcept nogil:
    """The neighbour of an address for a packet that is about to be sent; asks when that is due."""
    cdef neighbor_table_t *t = &ifc.neighbors
    cdef neighbor_t *n = neighbor_find(t, a)
    if n == NULL or n.state == NEIGHBOR_FAILED:
        if n != NULL:
            if now_ns < n.deadline_ns:
                return NUD_UNREACHABLE
            neighbor_set_state(t, n, NEIGHBOR_FREE, INT64_MAX)
        n = neighbor_make(t, a, now_ns)
        if n == NULL:
            return NUD_NO_ROOM
        if not ask(ifc, n, NULL, now_ns):
            neighbor_set_state(t, n, NEIGHBOR_FREE, INT64_MAX)
            return NUD_FULL
        n.probes = 1
        neighbor_set_state(t, n, NEIGHBOR_INCOMPLETE, now_ns + retry_ns(ifc, n))
    n.used_ns = now_ns
    out[0] = n
    if n.state == NEIGHBOR_INCOMPLETE:
        return NUD_WAIT
    if n.first != NULL and not send_waiting(ifc, n, now_ns):
        return NUD_FULL
    if n.state == NEIGHBOR_REACHABLE and now_ns - n.confirmed_ns >= reachable_ns(ifc, n):
        n.state = NEIGHBOR_STALE
    if n.state == NEIGHBOR_STALE:
        if address_is_v4(&n.address):
            probe(ifc, n, now_ns)
        else:
            neighbor_set_state(t, n, NEIGHBOR_DELAY, now_ns + DELAY_NS)
    return NUD_RESOLVED


cdef void probe(interface_t *ifc, neighbor_t *n, int64_t now_ns) noexcept nogil:
    """Ask the station we know, by unicast (RFC 1122 section 2.3.2.1 (2)); without room the next use tries again."""
    if ask(ifc, n, n.mac, now_ns):
        n.probes = 1
        neighbor_set_state(&ifc.neighbors, n, NEIGHBOR_PROBE, now_ns + retry_ns(ifc, n))


cdef void nud_confirm(interface_t *ifc, neighbor_t *n, int64_t now_ns) noexcept nogil:
    n.confirmed_ns = now_ns
    neighbor_set_state(&ifc.neighbors, n, NEIGHBOR_REACHABLE, now_ns + reachable_ns(ifc, n))
    if n.first != NULL and send_waiting(ifc, n, now_ns):
        neighbor_schedule(&ifc.neighbors)


cdef void nud_advance(interface_t *ifc, int64_t now_ns) noexcept nogil:
    """Ask again, give up, or offer waiting packets again."""
    cdef neighbor_table_t *t = &ifc.neighbors
    cdef neighbor_t *n
    cdef uint32_t i = 0
    if now_ns < t.next_deadline_ns:
        return
    while i < t.count:           # entries may move and the count may grow while callbacks run
        n = &t.entries[i]
        i += 1
        if not neighbor_timed(n) or now_ns < n.deadline_ns:
            continue
        if n.state == NEIGHBOR_INCOMPLETE:
            if n.probes >= NUD_TRIES:
                give_up(ifc, n, now_ns + FAILED_NS)
                continue
            ask(ifc, n, NULL, now_ns)
            n.probes += 1
            n.deadline_ns = now_ns + retry_ns(ifc, n)
        elif n.state == NEIGHBOR_DELAY:
            probe(ifc, n, now_ns)
            if n.state == NEIGHBOR_DELAY:
                n.deadline_ns = now_ns + retry_ns(ifc, n)
        elif n.state == NEIGHBOR_PROBE and n.probes >= NUD_TRIES:
            give_up(ifc, n, now_ns)      # it has left, or moved: the next packet asks everybody
            continue
        elif n.state == NEIGHBOR_PROBE:
            ask(ifc, n, n.mac, now_ns)
            n.probes += 1
            n.deadline_ns = now_ns + retry_ns(ifc, n)
        if n.first != NULL and n.state != NEIGHBOR_INCOMPLETE and n.state != NEIGHBOR_FAILED:
            n.deadline_ns = now_ns + retry_ns(ifc, n)
            send_waiting(ifc, n, now_ns)
    neighbor_schedule(t)


cdef void nud_contradicted(interface_t *ifc, neighbor_t *n, int64_t now_ns) noexcept nogil:
    """Another station claims a neighbour's address: count it, and ask the one we know, at most once a second."""
    ifc.neighbors.conflicts += 1
    ifc.counters.arp_refused += 1
    if (n.state == NEIGHBOR_REACHABLE and now_ns - n.confirmed_ns >= retry_ns(ifc, n)) or n.state == NEIGHBOR_STALE or \
            n.state == NEIGHBOR_DELAY:
        probe(ifc, n, now_ns)


cdef void nud_heard(interface_t *ifc, neighbor_t *n, int64_t now_ns) noexcept nogil:
    """An answer that does not say it is one to us (RFC 4861 section 7.2.5): usable, the next use asks."""
    neighbor_set_state(&ifc.neighbors, n, NEIGHBOR_STALE, now_ns + retry_ns(ifc, n))
    if n.first != NULL and send_waiting(ifc, n, now_ns):
        neighbor_schedule(&ifc.neighbors)


cdef void nud_progress(interface_t *ifc, const address_t *a, int64_t now_ns) noexcept nogil:
    cdef neighbor_t *n = neighbor_find(&ifc.neighbors, a)
    if n == NULL:
        return
    if n.state == NEIGHBOR_REACHABLE:
        n.confirmed_ns = now_ns
    elif n.state == NEIGHBOR_STALE or n.state == NEIGHBOR_DELAY or n.state == NEIGHBOR_PROBE:
        nud_confirm(ifc, n, now_ns)
