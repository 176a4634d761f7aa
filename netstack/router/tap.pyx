# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Frames to and from a TAP, and the small ARP table behind it (RFC 826; RFC 1122 section 2.3.2).

The router answers ARP for every address it hosts and asks for those it sends to. An entry is made when a packet is to be
sent, never by what others say, and only an answer to a question of ours gives it a hardware address. Whoever claims the
address of a neighbour we know makes us ask that neighbour, who keeps his entry as long as he answers (security rows H1,
H4). A neighbour is asked again every 30 s while it is used, first at its known address; three questions without an
answer end it. Half of the table is for neighbours that have not answered yet: those that have are never pushed out.
"""

from libc.errno cimport EAGAIN, EINTR, EINVAL, EIO, ENOBUFS, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.unistd cimport read, write

from netstack.router.port cimport DROP_LINK, DROP_NEIGHBOR, DROP_NO_MEMORY
from netstack.wire.arp cimport ARP_LENGTH, ARP_REPLY, ARP_REQUEST, arp_t, parse_arp, write_arp
from netstack.wire.byte_order cimport load_be16, load_native32
from netstack.wire.ethernet cimport ETHERNET_HEADER, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, write_ethernet

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t writev(int fd, const iovec *iov, int iovcnt)

cdef enum:
    PROBES = 3
    MINIMUM_FRAME = 60               # bytes without check sequence (IEEE 802.3 section 3.2.7)

cdef int64_t RETRY_NS = 1000000000           # RFC 1122 section 2.3.2.1: at most one request a second
cdef int64_t FRESH_NS = 30000000000          # base reachable time of RFC 4861, used for ARP alike
cdef int64_t FAR_AWAY = 0x7fffffffffffffff


cdef void tap_init(tap_t *tap, int fd) noexcept nogil:
    memset(tap, 0, sizeof(tap_t))
    tap.fd = fd
    tap.next_deadline_ns = FAR_AWAY


cdef inline bint final(int error) noexcept nogil:
    """Is the device gone, rather than down (EIO) or busy?"""
    return error != EAGAIN and error != ENOBUFS and error != EIO and error != EINVAL


cdef int tap_read(tap_t *tap, uint32_t *length) noexcept nogil:
    """One frame into tap.frame: 1, or 0 when there is none. An error for good is kept in `gone`."""
    cdef ssize_t n
    while True:
        n = read(tap.fd, tap.frame, TAP_FRAME_BYTES)
        if n > 0:
            length[0] = <uint32_t> n
            return 1
        if n < 0 and errno == EINTR:
            continue
        if n < 0 and final(errno):
            tap.gone = errno
        return 0


cdef uint32_t tap_ip(tap_t *tap, uint32_t length) noexcept nogil:
    """Bytes of the IP packet in the frame, padding trimmed by its own length; 0 if it is none or not for us."""
    cdef uint16_t kind
    cdef uint32_t total
    if length < ETHERNET_HEADER + 20 or tap.frame[0] & 1 or memcmp(tap.frame, tap.mac, 6) != 0:
        return 0
    kind = load_be16(tap.frame + 12)
    length -= ETHERNET_HEADER
    if kind == ETHERTYPE_IPV4:
        total = load_be16(tap.frame + ETHERNET_HEADER + 2)
    elif kind == ETHERTYPE_IPV6 and length >= 40:
        total = 40 + <uint32_t> load_be16(tap.frame + ETHERNET_HEADER + 4)
    else:
        return 0
    return total if total < length else length


cdef bint tap_arp_target(tap_t *tap, uint32_t length, uint32_t *target_be) noexcept nogil:
    """Is the frame an ARP request, and for which address?"""
    if length < ETHERNET_HEADER + ARP_LENGTH or load_be16(tap.frame + 12) != ETHERTYPE_ARP:
        return False
    target_be[0] = load_native32(tap.frame + ETHERNET_HEADER + 24)
    return True


cdef neighbor_t *find(tap_t *tap, uint32_t address_be, bint make) noexcept nogil:
    """The entry of an address; with `make` a free one, as long as few enough are without an answer."""
    cdef int i, asking = 0
    cdef neighbor_t *n
    cdef neighbor_t *spare = NULL
    if address_be == 0:
        return NULL
    for i in range(NEIGHBORS):
        n = &tap.neighbors[i]
        if n.address_be == address_be:
            return n
        if spare == NULL and n.address_be == 0:
            spare = n
        asking += n.address_be != 0 and not n.resolved
    if not make or spare == NULL or asking >= NEIGHBORS_ASKED:
        return NULL
    memset(spare, 0, sizeof(neighbor_t))
    spare.address_be = address_be
    spare.deadline_ns = FAR_AWAY
    return spare


cdef int write_frame(tap_t *tap, uint8_t *frame, size_t length) noexcept nogil:
    cdef ssize_t n
    while True:
        n = write(tap.fd, frame, length)
        if n >= 0:
            return 0
        if errno != EINTR:
            return -1


cdef void send_arp(tap_t *tap, uint16_t operation, const uint8_t *to, uint32_t sender_be, const uint8_t *target_mac,
                   uint32_t target_be) noexcept nogil:
    cdef uint8_t frame[MINIMUM_FRAME]
    memset(frame, 0, MINIMUM_FRAME)
    write_ethernet(frame, to, tap.mac, ETHERTYPE_ARP)
    write_arp(frame + ETHERNET_HEADER, operation, tap.mac, sender_be, target_mac, target_be)
    write_frame(tap, frame, MINIMUM_FRAME)


cdef void set_deadline(tap_t *tap, neighbor_t *n, int64_t deadline_ns) noexcept nogil:
    n.deadline_ns = deadline_ns
    if deadline_ns < tap.next_deadline_ns:
        tap.next_deadline_ns = deadline_ns


cdef void ask(tap_t *tap, neighbor_t *n, int64_t now_ns) noexcept nogil:
    cdef uint8_t to[6]
    n.probes += 1
    n.used = 0
    memset(to, 0xff, 6)
    if n.resolved:
        memcpy(to, n.mac, 6)
    send_arp(tap, ARP_REQUEST, to, tap.address_be, NULL, n.address_be)
    set_deadline(tap, n, now_ns + RETRY_NS)


cdef void learn(port_t *port, neighbor_t *n, const uint8_t *mac, int64_t now_ns) noexcept nogil:
    """The neighbour answered: what waited goes out."""
    cdef tap_t *tap = <tap_t *> port.uplink
    cdef pending_t *p = n.pending
    cdef pending_t *following
    cdef uint8_t *frame
    memcpy(n.mac, mac, 6)
    n.resolved = 1
    n.probes = 0
    set_deadline(tap, n, now_ns + FRESH_NS)
    n.pending = NULL
    n.pending_count = 0
    while p != NULL:
        following = p.next
        frame = <uint8_t *> (p + 1)
        write_ethernet(frame, n.mac, tap.mac, ETHERTYPE_IPV4)
        port.queue_packets -= 1
        sent(port, write_frame(tap, frame, ETHERNET_HEADER + p.length), p.length)
        free(p)
        p = following


cdef void forget(port_t *port, neighbor_t *n) noexcept nogil:
    cdef pending_t *p = n.pending
    cdef pending_t *following
    while p != NULL:
        following = p.next
        port.queue_packets -= 1
        port.counters.drops_out[<int> DROP_NEIGHBOR] += 1
        free(p)
        p = following
    memset(n, 0, sizeof(neighbor_t))


cdef void tap_free(tap_t *tap) noexcept nogil:
    cdef int i
    cdef pending_t *following
    for i in range(NEIGHBORS):
        while tap.neighbors[i].pending != NULL:
            following = tap.neighbors[i].pending.next
            free(tap.neighbors[i].pending)
            tap.neighbors[i].pending = following


cdef void tap_arp(port_t *port, uint32_t length, bint hosted, int64_t now_ns) noexcept nogil:
    """Answer a request for an address we host; believe answers that we asked for, and nothing else."""
    cdef tap_t *tap = <tap_t *> port.uplink
    cdef arp_t arp
    cdef neighbor_t *n
    if parse_arp(tap.frame + ETHERNET_HEADER, length - ETHERNET_HEADER, &arp) != 0:
        return
    if memcmp(arp.sender_mac, tap.mac, 6) == 0:
        return
    n = find(tap, arp.sender_be, False)
    if n != NULL and n.resolved and memcmp(n.mac, arp.sender_mac, 6) != 0:
        port.counters.neighbor_conflicts += 1
        if n.probes == 0 and n.deadline_ns > now_ns and n.deadline_ns - now_ns <= FRESH_NS - RETRY_NS:
            ask(tap, n, now_ns)              # the one we know, and not more often than once a second
    elif n != NULL and n.probes and arp.operation == ARP_REPLY and arp.target_be == tap.address_be:
        learn(port, n, arp.sender_mac, now_ns)
    if arp.operation == ARP_REQUEST and hosted and arp.sender_be != arp.target_be:
        send_arp(tap, ARP_REPLY, arp.sender_mac, arp.target_be, arp.sender_mac, arp.sender_be)


cdef void sent(port_t *port, int status, uint32_t length) noexcept nogil:
    if status == 0:
        port.counters.out_packets += 1
        port.counters.out_bytes += length
    else:
        port.counters.drops_out[<int> DROP_LINK] += 1
        if final(errno):
            (<tap_t *> port.uplink).gone = errno


cdef int tap_hand(port_t *port, packet_t *p, int64_t now_ns) noexcept nogil:
    """Send an IPv4 packet to its neighbour, or keep it until ARP found him. 0, or -1 when dropped (and counted)."""
    cdef tap_t *tap = <tap_t *> port.uplink
    cdef uint32_t hop, length = p.head_length + p.body_length
    cdef uint8_t ethernet[ETHERNET_HEADER]
    cdef uint8_t *at
    cdef iovec parts[4]
    cdef neighbor_t *n
    cdef pending_t *waiting
    cdef pending_t **end
    cdef ssize_t written
    port.counters.to_packets += 1
    if p.header[0] >> 4 != 4:            # IPv6 needs neighbour discovery, which this uplink does not speak
        port.counters.drops_out[<int> DROP_LINK] += 1
        return -1
    hop = load_native32(p.header + 16)
    if tap.gateway_be and (hop & tap.netmask_be) != tap.network_be:
        hop = tap.gateway_be
    n = find(tap, hop, True)
    if n == NULL:
        port.counters.drops_out[<int> DROP_NEIGHBOR] += 1
        return -1
    n.used = 1
    if n.resolved:
        write_ethernet(ethernet, n.mac, tap.mac, ETHERTYPE_IPV4)
        parts[0].iov_base = ethernet
        parts[0].iov_len = ETHERNET_HEADER
        parts[1].iov_base = p.header
        parts[1].iov_len = p.header_length
        parts[2].iov_base = <void *> (p.head + p.header_length)
        parts[2].iov_len = p.head_length - p.header_length
        parts[3].iov_base = <void *> p.body
        parts[3].iov_len = p.body_length
        written = writev(tap.fd, parts, 4)
        sent(port, 0 if written >= 0 else -1, length)
        return 0 if written >= 0 else -1
    if n.pending_count >= NEIGHBOR_PENDING:
        port.counters.drops_out[<int> DROP_NEIGHBOR] += 1
        return -1
    waiting = <pending_t *> malloc(sizeof(pending_t) + ETHERNET_HEADER + length)
    if waiting == NULL:
        port.counters.drops_out[<int> DROP_NO_MEMORY] += 1
        return -1
    waiting.next = NULL
    waiting.length = length
    at = <uint8_t *> (waiting + 1) + ETHERNET_HEADER
    memcpy(at, p.header, p.header_length)
    memcpy(at + p.header_length, p.head + p.header_length, p.head_length - p.header_length)
    memcpy(at + p.head_length, p.body, p.body_length)
    end = &n.pending
    while end[0] != NULL:
        end = &end[0].next
    end[0] = waiting
    n.pending_count += 1
    port.queue_packets += 1
    if n.probes == 0:
        ask(tap, n, now_ns)
    return 0


cdef void tap_advance(port_t *port, int64_t now_ns) noexcept nogil:
    """Ask again, and give up on who does not answer."""
    cdef tap_t *tap = <tap_t *> port.uplink
    cdef int i
    cdef neighbor_t *n
    if now_ns < tap.next_deadline_ns:
        return
    tap.next_deadline_ns = FAR_AWAY
    for i in range(NEIGHBORS):
        n = &tap.neighbors[i]
        if n.address_be == 0:
            continue
        if n.deadline_ns > now_ns:
            set_deadline(tap, n, n.deadline_ns)
        elif n.probes >= PROBES or (n.resolved and n.probes == 0 and not n.used):
            forget(port, n)
        else:
            ask(tap, n, now_ns)
