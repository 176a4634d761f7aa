# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The ARP protocol over the neighbour table."""

from libc.stdint cimport INT64_MAX, uint16_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy

from netstack.address cimport address_from_v4, address_v4
from netstack.counters cimport (
    DROP_ARP_UNSOLICITED, DROP_NEIGHBOR_UNREACHABLE, DROP_NONE, DROP_TX_FULL, drop,
)
from netstack.ip.acd cimport acd_heard
from netstack.ip.neighbor cimport (
    NEIGHBOR_FAILED, NEIGHBOR_FREE, NEIGHBOR_INCOMPLETE, NEIGHBOR_PROBE, NEIGHBOR_REACHABLE, NEIGHBOR_STALE,
    neighbor_find, neighbor_make, neighbor_schedule, neighbor_set_state, neighbor_table_t, neighbor_take,
    neighbor_timed, pending_packet_t,
)
from netstack.ip.route cimport address_in_prefix
from netstack.link.link cimport link_t
from netstack.wire.arp cimport ARP_LENGTH, ARP_REPLY, ARP_REQUEST, arp_t, parse_arp, write_arp
from netstack.wire.ethernet cimport ETHERNET_HEADER, ETHERTYPE_ARP, write_ethernet

cdef int64_t RETRY_NS = 1000000000       # RFC 1122 section 2.3.2.1: at most one request a second and destination
cdef int64_t REACHABLE_NS = 30000000000  # RFC 4861 section 10 REACHABLE_TIME
cdef int64_t FAILED_NS = 1000000000      # how long a failure is remembered
cdef int64_t DEFEND_NS = 10000000000     # RFC 5227 section 2.4 DEFEND_INTERVAL
cdef int64_t REOFFER_NS = 1000000        # packets that found the link full are offered again after this

cdef uint8_t[6] BROADCAST_MAC
BROADCAST_MAC[:] = [255, 255, 255, 255, 255, 255]


# ---- sending ---------------------------------------------------------------

cdef bint send_arp(interface_t *ifc, uint16_t operation, const uint8_t *to, uint32_t sender_be,
                   const uint8_t *target_mac, uint32_t target_be, int64_t now_ns) noexcept nogil:
    """One ARP frame; False when the link has no room."""
    cdef link_t *link = ifc.link
    cdef uint8_t *head
    cdef uint8_t *body
    if link.claim(link, ETHERNET_HEADER + ARP_LENGTH, 0, &head, &body) != 0:
        return False
    write_ethernet(head, to, ifc.mac, ETHERTYPE_ARP)
    write_arp(head + ETHERNET_HEADER, operation, ifc.mac, sender_be, target_mac, target_be)
    link.commit(link, now_ns)
    ifc.flushed = 0
    ifc.counters.packets_out += 1
    ifc.counters.bytes_out += ETHERNET_HEADER + ARP_LENGTH
    return True


cdef uint32_t source_for(const interface_t *ifc, const address_t *target) noexcept nogil:
    """Our address in the target's prefix, else the first one; 0.0.0.0 without addresses (an ARP probe)."""
    cdef uint32_t i
    for i in range(ifc.address_count):
        if address_in_prefix(target, &ifc.addresses[i], ifc.prefix_lengths[i]):
            return ifc.v4[i]
    return ifc.v4[0] if ifc.address_count else 0


cdef bint ask(interface_t *ifc, neighbor_t *n, const uint8_t *to, int64_t now_ns) noexcept nogil:
    return send_arp(ifc, ARP_REQUEST, to, source_for(ifc, &n.address), NULL, address_v4(&n.address), now_ns)


cdef void arp_announce(interface_t *ifc, uint32_t address_be, int64_t now_ns) noexcept nogil:
    """Tell the link that the address is ours (RFC 5227 section 2.3)."""
    send_arp(ifc, ARP_REQUEST, BROADCAST_MAC, address_be, NULL, address_be, now_ns)


cdef void arp_probe(interface_t *ifc, uint32_t address_be, int64_t now_ns) noexcept nogil:
    """RFC 5227 section 2.1.1: a question that names no sender, so that nobody takes it for an answer."""
    send_arp(ifc, ARP_REQUEST, BROADCAST_MAC, 0, NULL, address_be, now_ns)


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
    while first != NULL:
        p = first
        first = p.next
        drop(ifc.counters, DROP_NEIGHBOR_UNREACHABLE)
        if ifc.on_unreachable != NULL:
            ifc.on_unreachable(ifc.context, p.data + ETHERNET_HEADER, p.length - ETHERNET_HEADER)
        free(p)


# ---- resolving -------------------------------------------------------------

cdef int arp_resolve(interface_t *ifc, const address_t *a, int64_t now_ns, neighbor_t **out) noexcept nogil:
    """The neighbour of an address for a packet that is about to be sent; asks when that is due."""
    cdef neighbor_table_t *t = &ifc.neighbors
    cdef neighbor_t *n = neighbor_find(t, a)
    if n == NULL or n.state == NEIGHBOR_FAILED:
        if n != NULL:
            if now_ns < n.deadline_ns:
                return ARP_UNREACHABLE
            neighbor_set_state(t, n, NEIGHBOR_FREE, INT64_MAX)
        n = neighbor_make(t, a, now_ns)
        if n == NULL:
            return ARP_NO_ROOM
        if not ask(ifc, n, BROADCAST_MAC, now_ns):
            neighbor_set_state(t, n, NEIGHBOR_FREE, INT64_MAX)
            return ARP_FULL
        n.probes = 1
        neighbor_set_state(t, n, NEIGHBOR_INCOMPLETE, now_ns + RETRY_NS)
    n.used_ns = now_ns
    out[0] = n
    if n.state == NEIGHBOR_INCOMPLETE:
        return ARP_WAIT
    if n.first != NULL and not send_waiting(ifc, n, now_ns):
        return ARP_FULL
    if n.state == NEIGHBOR_REACHABLE and now_ns - n.confirmed_ns >= REACHABLE_NS:
        n.state = NEIGHBOR_STALE
    if n.state == NEIGHBOR_STALE:
        probe(ifc, n, now_ns)
    return ARP_RESOLVED


cdef void probe(interface_t *ifc, neighbor_t *n, int64_t now_ns) noexcept nogil:
    """Ask the station we know, by unicast (RFC 1122 section 2.3.2.1 (2)); without room the next use tries again."""
    if ask(ifc, n, n.mac, now_ns):
        n.probes = 1
        neighbor_set_state(&ifc.neighbors, n, NEIGHBOR_PROBE, now_ns + RETRY_NS)


cdef void confirm(interface_t *ifc, neighbor_t *n, int64_t now_ns) noexcept nogil:
    n.confirmed_ns = now_ns
    neighbor_set_state(&ifc.neighbors, n, NEIGHBOR_REACHABLE, now_ns + REACHABLE_NS)
    if n.first != NULL and send_waiting(ifc, n, now_ns):
        neighbor_schedule(&ifc.neighbors)


cdef void arp_advance(interface_t *ifc, int64_t now_ns) noexcept nogil:
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
            if n.probes >= ARP_TRIES:
                give_up(ifc, n, now_ns + FAILED_NS)
                continue
            ask(ifc, n, BROADCAST_MAC, now_ns)
            n.probes += 1
            n.deadline_ns = now_ns + RETRY_NS
        elif n.state == NEIGHBOR_PROBE and n.probes >= ARP_TRIES:
            give_up(ifc, n, now_ns)      # it has left, or moved: the next packet asks everybody
            continue
        elif n.state == NEIGHBOR_PROBE:
            ask(ifc, n, n.mac, now_ns)
            n.probes += 1
            n.deadline_ns = now_ns + RETRY_NS
        if n.first != NULL and n.state != NEIGHBOR_INCOMPLETE and n.state != NEIGHBOR_FAILED:
            n.deadline_ns = now_ns + RETRY_NS
            send_waiting(ifc, n, now_ns)
    neighbor_schedule(t)


# ---- hearing ---------------------------------------------------------------

cdef bint is_ours(const interface_t *ifc, uint32_t be) noexcept nogil:
    cdef uint32_t i
    for i in range(ifc.address_count):
        if ifc.v4[i] == be:
            return True
    return False


cdef void contradicted(interface_t *ifc, neighbor_t *n, int64_t now_ns) noexcept nogil:
    """Another station claims a neighbour's address: count it, and ask the one we know, at most once a second."""
    ifc.neighbors.conflicts += 1
    ifc.counters.arp_refused += 1
    if (n.state == NEIGHBOR_REACHABLE and now_ns - n.confirmed_ns >= RETRY_NS) or n.state == NEIGHBOR_STALE:
        probe(ifc, n, now_ns)


cdef DropReason arp_input(interface_t *ifc, const uint8_t *p, uint32_t length, int64_t now_ns) noexcept nogil:
    cdef arp_t arp
    cdef address_t sender
    cdef neighbor_t *n
    cdef DropReason reason = parse_arp(p, length, &arp)
    if reason != DROP_NONE:
        return reason
    if memcmp(arp.sender_mac, ifc.mac, 6) == 0:      # our own frame, come back
        return DROP_ARP_UNSOLICITED
    acd_heard(ifc, &arp, now_ns)
    if is_ours(ifc, arp.sender_be):
        ifc.conflicts += 1
        ifc.counters.address_conflicts += 1
        if now_ns - ifc.defended_ns >= DEFEND_NS:
            ifc.defended_ns = now_ns
            arp_announce(ifc, arp.sender_be, now_ns)
        return DROP_ARP_UNSOLICITED

    address_from_v4(&sender, arp.sender_be)
    n = neighbor_find(&ifc.neighbors, &sender)
    if arp.operation == ARP_REPLY:
        if n == NULL or not is_ours(ifc, arp.target_be):
            if n != NULL and n.state != NEIGHBOR_INCOMPLETE and memcmp(n.mac, arp.sender_mac, 6) != 0:
                contradicted(ifc, n, now_ns)
            return DROP_ARP_UNSOLICITED
        if n.state == NEIGHBOR_INCOMPLETE:
            memcpy(n.mac, arp.sender_mac, 6)
            confirm(ifc, n, now_ns)
            return DROP_NONE
        if n.state == NEIGHBOR_PROBE and memcmp(n.mac, arp.sender_mac, 6) == 0:
            confirm(ifc, n, now_ns)
            return DROP_NONE
        if memcmp(n.mac, arp.sender_mac, 6) != 0 and n.state != NEIGHBOR_FAILED:
            contradicted(ifc, n, now_ns)
        return DROP_ARP_UNSOLICITED

    if n != NULL and n.state != NEIGHBOR_INCOMPLETE and n.state != NEIGHBOR_FAILED \
            and memcmp(n.mac, arp.sender_mac, 6) != 0:
        contradicted(ifc, n, now_ns)
    if is_ours(ifc, arp.target_be):
        if not send_arp(ifc, ARP_REPLY, arp.sender_mac, arp.target_be, arp.sender_mac, arp.sender_be, now_ns):
            return DROP_TX_FULL
    return DROP_NONE
