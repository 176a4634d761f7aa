# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Neighbours of an uplink: asked for, believed, asked again, given up (RFC 1122 section 2.3.2; RFC 4861 section 7).

An entry is made when a packet is to be sent, never by what others say, and only an answer to a question of ours gives it a
hardware address. Whoever claims the address of a neighbour we know, override flag or not, makes us ask that neighbour, who
keeps his entry as long as he answers (security rows H1, H3). A neighbour is asked again every 30 s while it is used, first at
its known address; three questions without an answer end it.
"""

from libc.stdint cimport uint16_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from netstack.address cimport address_equal, address_from_v4, address_is_any, address_is_link_local, address_is_v4
from netstack.clock cimport NEVER
from netstack.router.discovery cimport (
    ANSWER, hear, heard_t, link_local_of, NOTHING, QUESTION, send_announcement, send_answer, send_question,
)
from netstack.router.neighbors cimport (
    neighbor_answered, neighbor_find, neighbor_make, neighbor_remove, neighbor_t, neighbor_take, neighbor_wait, neighbors_free,
    neighbors_init, pending_t,
)
from netstack.router.port cimport DROP_NEIGHBOR, DROP_NO_MEMORY
from netstack.router.routes cimport hosted
from netstack.router.uplink cimport station_of, uplink_transmit
from netstack.wire.byte_order cimport load_be16, load_native32
from netstack.wire.ethernet cimport ETHERNET_HEADER, ETHERTYPE_IPV4, ETHERTYPE_IPV6, write_ethernet

cdef enum:
    PROBES = 3

cdef int64_t RETRY_NS = 1000000000           # RFC 1122 section 2.3.2.1, RFC 4861 section 10 RETRANS_TIMER
cdef int64_t FRESH_NS = 30000000000          # RFC 4861 section 10 REACHABLE_TIME, used for ARP alike


cdef int station_init(station_t *s, device_t *device, const uint8_t *mac, const table_t *table,
                      const routes_t *routes, const uint64_t *key) noexcept nogil:
    memset(s, 0, sizeof(station_t))
    s.device = device
    s.table = table
    s.routes = routes
    s.next_deadline_ns = NEVER
    memcpy(s.mac, mac, 6)
    link_local_of(mac, &s.link_local)
    return neighbors_init(&s.neighbors, key)


cdef void station_free(station_t *s) noexcept nogil:
    neighbors_free(&s.neighbors)


cdef bint is_own(station_t *s, const address_t *a) noexcept nogil:
    return address_equal(a, &s.link_local) or (not address_is_any(a) and address_equal(a, &station_side(s, a).own))


cdef bint hosts(station_t *s, const address_t *a) noexcept nogil:
    return is_own(s, a) or hosted(s.table, s.routes, a)


# ---- questions

cdef void set_deadline(station_t *s, neighbor_t *n, int64_t deadline_ns) noexcept nogil:
    n.deadline_ns = deadline_ns
    if deadline_ns < s.next_deadline_ns:
        s.next_deadline_ns = deadline_ns


cdef void ask(station_t *s, neighbor_t *n, int64_t now_ns) noexcept nogil:
    """Everybody, or the neighbour himself at the address that we know."""
    cdef const address_t *source = &station_side(s, &n.address).own
    if not address_is_v4(&n.address) and (address_is_link_local(&n.address) or address_is_any(source)):
        source = &s.link_local
    n.probes += 1
    n.used = 0
    send_question(s.device, s.mac, source, &n.address, n.mac if n.resolved else NULL)
    set_deadline(s, n, now_ns + RETRY_NS)


cdef void forget(port_t *port, station_t *s, neighbor_t *n) noexcept nogil:
    """The neighbour does not answer, or has no use any more."""
    cdef pending_t *p = neighbor_take(&s.neighbors, n)
    while p != NULL:
        port.queue_packets -= 1
        port.counters.drops_out[<int> DROP_NEIGHBOR] += 1
        free(p)
        p = neighbor_take(&s.neighbors, n)
    neighbor_remove(&s.neighbors, n)


cdef void station_advance(port_t *port, int64_t now_ns) noexcept nogil:
    cdef station_t *s = station_of(port)
    cdef uint32_t i
    cdef neighbor_t *n
    if now_ns < s.next_deadline_ns:
        return
    s.next_deadline_ns = NEVER
    for i in range(s.neighbors.touched):
        n = &s.neighbors.entries[i]
        if n.address.lo == 0 and n.address.hi == 0:
            continue
        if n.deadline_ns > now_ns:
            set_deadline(s, n, n.deadline_ns)
        elif n.probes >= PROBES or (n.resolved and n.probes == 0 and not n.used):
            forget(port, s, n)
        else:
            ask(s, n, now_ns)


# ---- what others say

cdef void write_header(station_t *s, const neighbor_t *n, uint8_t *at) noexcept nogil:
    write_ethernet(at, n.mac, s.mac, ETHERTYPE_IPV4 if address_is_v4(&n.address) else ETHERTYPE_IPV6)


cdef void learn(port_t *port, station_t *s, neighbor_t *n, const uint8_t *mac, int64_t now_ns) noexcept nogil:
    """The neighbour answered: what waited goes out."""
    cdef uint8_t ethernet[ETHERNET_HEADER]
    cdef pending_t *waiting
    cdef packet_t p
    neighbor_answered(&s.neighbors, n, mac)
    set_deadline(s, n, now_ns + FRESH_NS)
    write_header(s, n, ethernet)
    memset(&p, 0, sizeof(packet_t))
    waiting = neighbor_take(&s.neighbors, n)
    while waiting != NULL:
        p.header = <uint8_t *> (waiting + 1)
        p.head = p.header
        p.header_length = p.head_length = waiting.length
        port.queue_packets -= 1
        uplink_transmit(port, &p, ethernet, ETHERNET_HEADER)
        free(waiting)
        waiting = neighbor_take(&s.neighbors, n)
    if s.device.flush != NULL:
        s.device.flush(s.device)


cdef void believe(port_t *port, station_t *s, const heard_t *heard, bint answers_us, int64_t now_ns) noexcept nogil:
    """A claim to an address. Without an entry it says nothing to us."""
    cdef neighbor_t *n = neighbor_find(&s.neighbors, &heard.claimed)
    if n == NULL:
        return
    if n.resolved and memcmp(n.mac, heard.mac, 6) != 0:
        port.counters.neighbor_conflicts += 1
        if n.probes == 0 and n.deadline_ns > now_ns and n.deadline_ns - now_ns <= FRESH_NS - RETRY_NS:
            ask(s, n, now_ns)                # the one we know, and not more often than once a second
    elif n.probes and answers_us and (n.resolved or heard.located):
        learn(port, s, n, heard.mac, now_ns)


cdef void listen(port_t *port, station_t *s, heard_t *heard, int kind, const uint8_t *from_mac,
                 int64_t now_ns) noexcept nogil:
    if not heard.located:                    # who does not say is where his frame came from
        memcpy(heard.mac, from_mac, 6)
    if memcmp(heard.mac, s.mac, 6) == 0:
        return
    if kind == ANSWER:
        believe(port, s, heard, heard.solicited and is_own(s, &heard.to), now_ns)
        return
    if heard.located:
        believe(port, s, heard, False, now_ns)
    if hosts(s, &heard.about):
        send_answer(s.device, s.mac, &heard.about, heard.mac, &heard.to, is_own(s, &heard.about))


cdef uint32_t ip_length(station_t *s, const uint8_t *frame, uint32_t length) noexcept nogil:
    """Bytes of the IP packet in a frame, padding trimmed by its own length; 0: it is none, or not for us."""
    cdef uint32_t total
    cdef uint16_t kind
    if length < ETHERNET_HEADER + 20 or memcmp(frame, s.mac, 6) != 0:
        return 0
    kind = load_be16(frame + 12)
    length -= ETHERNET_HEADER
    if kind == ETHERTYPE_IPV4:
        total = load_be16(frame + ETHERNET_HEADER + 2)
    elif kind == ETHERTYPE_IPV6 and length >= 40:
        total = 40 + <uint32_t> load_be16(frame + ETHERNET_HEADER + 4)
    else:
        return 0
    return total if total < length else length


cdef uint32_t station_input(port_t *port, frame_t *frame, int64_t now_ns) noexcept nogil:
    cdef station_t *s = station_of(port)
    cdef heard_t heard
    cdef int kind = hear(frame.data, frame.length, &heard)
    if kind == NOTHING:
        return ip_length(s, frame.data, frame.length)
    if (kind == QUESTION or kind == ANSWER) and not frame.data[6] & 1:
        listen(port, s, &heard, kind, frame.data + 6, now_ns)
    return 0


# ---- sending

cdef void next_hop(station_t *s, const packet_t *p, address_t *hop) noexcept nogil:
    """Whom a packet is sent to on this link: the gateway that its route names, its destination, or the link's gateway."""
    cdef side_t *side
    if p.via != NULL:
        hop[0] = p.via[0]
        return
    if p.header[0] >> 4 == 4:
        address_from_v4(hop, load_native32(p.header + 16))
    else:
        memcpy(hop, p.header + 24, 16)
    side = station_side(s, hop)
    if side.routed and ((hop.hi & side.mask.hi) != side.base.hi or (hop.lo & side.mask.lo) != side.base.lo):
        hop[0] = side.gateway


cdef int station_hand(port_t *port, packet_t *p, int64_t now_ns) noexcept nogil:
    cdef station_t *s = station_of(port)
    cdef address_t hop
    cdef neighbor_t *n
    cdef uint8_t ethernet[ETHERNET_HEADER]
    cdef int status
    next_hop(s, p, &hop)
    n = neighbor_find(&s.neighbors, &hop)
    if n == NULL:
        n = neighbor_make(&s.neighbors, &hop, p.source)
    if n == NULL:
        port.counters.drops_out[<int> DROP_NEIGHBOR] += 1
        return -1
    n.used = 1
    if n.resolved:
        write_header(s, n, ethernet)
        return uplink_transmit(port, p, ethernet, ETHERNET_HEADER)
    status = neighbor_wait(&s.neighbors, n, p)
    if status == 0:
        port.queue_packets += 1
    else:
        port.counters.drops_out[<int> (DROP_NEIGHBOR if status == -1 else DROP_NO_MEMORY)] += 1
    if n.probes == 0:
        ask(s, n, now_ns)
    return status


cdef void station_announce(station_t *s, const address_t *a) noexcept nogil:
    send_announcement(s.device, s.mac, a)
