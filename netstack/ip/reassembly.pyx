# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""One reassembly for both versions, made for hostile senders.

The pieces of a datagram are a sorted array, found by halving. A piece that overlaps another ends its datagram and all
that still comes of it (RFC 5722, 8200 section 4.5; for IPv4 the same, so that no order of arrival shows one datagram to
a filter and another to us); only an exact copy, byte for byte, is passed over.

Memory is bounded three ways: bytes in all, datagrams in all, datagrams of one source. Sources (of IPv6: networks of 64
bits) fall into lists by a keyed hash. When a bound is reached the oldest datagram of the list that holds most goes, so
whoever floods pushes out his own (CVE-2018-5391).
"""

from libc.stdint cimport INT64_MAX
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

from netstack.address cimport address_equal, address_is_v4
from netstack.clock cimport NS_PER_MS
from netstack.counters cimport (
    DROP_FRAGMENT_DUPLICATE, DROP_FRAGMENT_ECN, DROP_FRAGMENT_LENGTH, DROP_FRAGMENT_LIMIT, DROP_FRAGMENT_OVERLAP,
    DROP_FRAGMENT_TIMEOUT, DROP_FRAGMENT_TINY, DROP_NO_MEMORY, DROP_NONE,
)
from netstack.ip.interface cimport HEADER_COPY, frame_copy, packet_copy
from netstack.siphash cimport siphash
from netstack.wire.byte_order cimport store_be16, store_native16
from netstack.wire.checksum cimport checksum_finish, checksum_partial
from netstack.wire.ipv4 cimport PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_UDPLITE
from netstack.wire.ipv6 cimport IPV6_HEADER, PROTOCOL_ICMPV6

cdef enum:
    HEADROOM = 16                # bytes before a whole datagram: as many as a link header takes
    DATAGRAM_MAX = 65535         # bytes: RFC 791, and of IPv6 the payload (RFC 8200 section 3)
    FIRST_PIECES = 4
    OVERHEAD = 32                # bytes of a piece besides its data: what the allocator and the array take
    HIGH_BYTES = 4 << 20         # net.ipv4.ipfrag_high_thresh
    TIMEOUT_V4_MS = 30000        # net.ipv4.ipfrag_time; RFC 1122 section 3.3.2 says 60 to 120 s
    TIMEOUT_V6_MS = 60000        # net.ipv6.ip6frag_time; RFC 8200 section 4.5
    ECN_CE = 3


cdef void reassembly_init(reassembly_t *r, const uint8_t *secret, counters_t *counters) noexcept nogil:
    memset(r, 0, sizeof(reassembly_t))
    memcpy(r.key, secret, 16)
    r.key[1] ^= <uint64_t> 0x66726167                  # "frag": apart from the secret's other uses
    r.counters = counters
    r.high_bytes = HIGH_BYTES
    r.timeout_ms[0] = TIMEOUT_V4_MS
    r.timeout_ms[1] = TIMEOUT_V6_MS


cdef void reassembly_free(reassembly_t *r) noexcept nogil:
    cdef int v
    for v in range(2):
        while r.first[v] != NULL:
            forget(r, r.first[v])
    reassembly_release(r)


cdef void reassembly_release(reassembly_t *r) noexcept nogil:
    free(r.whole)
    r.whole = NULL


# ---- datagrams under way ---------------------------------------------------

cdef uint32_t list_of(const reassembly_t *r, const address_t *src) noexcept nogil:
    cdef uint64_t words[2]
    words[0] = src.hi
    words[1] = src.lo if address_is_v4(src) else 0     # a host of IPv6 has 2^64 addresses
    return <uint32_t> siphash(r.key, words, 2) & (REASSEMBLY_SOURCES - 1)


cdef void charge(reassembly_t *r, partial_t *d, uint32_t more) noexcept nogil:
    d.charge += more
    r.sources[d.list].bytes += more
    r.bytes += more


cdef void drop_pieces(reassembly_t *r, partial_t *d, DropReason why) noexcept nogil:
    """Give back what its pieces take; each was a packet."""
    cdef uint32_t i, held = d.charge - <uint32_t> sizeof(partial_t)
    for i in range(d.count):
        free(d.pieces[i].memory)
    r.counters.drops[<int> why] += d.count
    free(d.pieces)
    d.pieces = NULL
    d.count = d.capacity = d.received = d.head_length = d.kept = d.next_at = d.end = 0
    d.has_end = 0
    d.charge -= held
    r.sources[d.list].bytes -= held
    r.bytes -= held


cdef void forget(reassembly_t *r, partial_t *d) noexcept nogil:
    """Out of the lists and gone; the pieces were dropped or used before, what is left of them is only freed."""
    cdef source_list_t *s = &r.sources[d.list]
    cdef uint32_t i
    cdef int v = d.v6
    if d.older == NULL:
        s.oldest = d.newer
    else:
        d.older.newer = d.newer
    if d.newer == NULL:
        s.newest = d.older
    else:
        d.newer.older = d.older
    if d.before == NULL:
        r.first[v] = d.after
    else:
        d.before.after = d.after
    if d.after == NULL:
        r.last[v] = d.before
    else:
        d.after.before = d.before
    s.count -= 1
    s.bytes -= d.charge
    r.bytes -= d.charge
    r.count -= 1
    for i in range(d.count):
        free(d.pieces[i].memory)
    free(d.pieces)
    free(d)
    if r.count == 0:
        free(r.sources)
        r.sources = NULL


cdef void give_up(reassembly_t *r, partial_t *d) noexcept nogil:
    """RFC 5722 section 4: the datagram, and what still comes of it until its time is over."""
    drop_pieces(r, d, DROP_FRAGMENT_OVERLAP)
    d.dead = 1


cdef void push_out(reassembly_t *r, partial_t *d) noexcept nogil:
    drop_pieces(r, d, DROP_FRAGMENT_LIMIT)
    forget(r, d)


cdef partial_t *victim(reassembly_t *r, const partial_t *keep) noexcept nogil:
    """The oldest datagram of the source that holds most, but not *keep*."""
    cdef uint32_t i, most = 0
    cdef partial_t *d
    cdef partial_t *best = NULL
    for i in range(<uint32_t> REASSEMBLY_SOURCES):
        d = r.sources[i].oldest
        if d == keep and d != NULL:
            d = d.newer
        if d != NULL and (best == NULL or r.sources[i].bytes > most):
            best = d
            most = r.sources[i].bytes
    return best


cdef partial_t *reassembly_begin(reassembly_t *r, const address_t *src, const address_t *dst, bint v6) noexcept nogil:
    cdef partial_t *d
    cdef source_list_t *s
    cdef uint32_t list = list_of(r, src)
    cdef int v = 1 if v6 else 0
    if r.sources == NULL:
        r.sources = <source_list_t *> calloc(REASSEMBLY_SOURCES, sizeof(source_list_t))
        if r.sources == NULL:
            return NULL
    if r.sources[list].count >= REASSEMBLY_PER_SOURCE:
        push_out(r, r.sources[list].oldest)
    elif r.count >= REASSEMBLY_DATAGRAMS:
        push_out(r, victim(r, NULL))
    d = <partial_t *> calloc(1, sizeof(partial_t))
    if d == NULL:
        if r.count == 0:
            free(r.sources)
            r.sources = NULL
        return NULL
    s = &r.sources[list]
    d.src = src[0]
    d.dst = dst[0]
    d.v6 = v
    d.list = <uint16_t> list
    d.older = s.newest
    if s.newest == NULL:
        s.oldest = d
    else:
        s.newest.newer = d
    s.newest = d
    d.before = r.last[v]
    if r.last[v] == NULL:
        r.first[v] = d
    else:
        r.last[v].after = d
    r.last[v] = d
    s.count += 1
    r.count += 1
    charge(r, d, sizeof(partial_t))
    return d


cdef partial_t *find(reassembly_t *r, const packet_in_t *packet) noexcept nogil:
    """Of the same source, destination, number and, in IPv4, protocol (RFC 791 section 3.2, RFC 8200 section 4.5)."""
    cdef partial_t *d
    cdef bint v6 = not address_is_v4(&packet.src)
    if r.sources == NULL:
        return NULL
    d = r.sources[list_of(r, &packet.src)].newest
    while d != NULL:
        r.counters.ip_fragment_steps += 1
        if d.id == packet.fragment.id and d.v6 == v6 and address_equal(&d.src, &packet.src) and \
                address_equal(&d.dst, &packet.dst) and (v6 or d.protocol == packet.fragment.next_header):
            return d
        d = d.older
    return NULL


# ---- pieces ----------------------------------------------------------------

cdef uint32_t place_of(const reassembly_t *r, const partial_t *d, uint32_t offset) noexcept nogil:
    """How many pieces begin before it."""
    cdef uint32_t low = 0, high = d.count, middle
    if high and d.pieces[high - 1].offset < offset:
        return high                                    # in order, as nearly always
    while low < high:
        r.counters.ip_fragment_steps += 1
        middle = (low + high) // 2
        if d.pieces[middle].offset < offset:
            low = middle + 1
        else:
            high = middle
    return low


cdef bint reassembly_insert(reassembly_t *r, partial_t *d, uint32_t at, uint32_t offset, uint32_t length,
                            uint8_t *memory, uint32_t size) noexcept nogil:
    cdef piece_t *grown
    cdef uint32_t capacity
    if d.count == d.capacity:
        capacity = d.capacity * 2 if d.capacity else FIRST_PIECES
        grown = <piece_t *> realloc(d.pieces, capacity * sizeof(piece_t))
        if grown == NULL:
            return False
        charge(r, d, (capacity - d.capacity) * <uint32_t> sizeof(piece_t))
        d.pieces = grown
        d.capacity = capacity
    memmove(&d.pieces[at + 1], &d.pieces[at], (d.count - at) * sizeof(piece_t))
    d.pieces[at].offset = offset
    d.pieces[at].length = length
    d.pieces[at].memory = memory
    d.count += 1
    d.received += length
    charge(r, d, size + OVERHEAD)
    return True


cdef bint same_piece(const partial_t *d, uint32_t at, const packet_in_t *packet, const uint8_t *data,
                     uint32_t length) noexcept nogil:
    """A copy of one that is there, in every byte (RFC 8200 section 4.5 lets us pass it over)."""
    cdef const piece_t *p
    cdef bint last
    if at >= d.count:
        return False
    p = &d.pieces[at]
    last = d.has_end and d.end == p.offset + length
    return p.offset == packet.fragment.offset and p.length == length and last != (packet.fragment.more != 0) and \
        memcmp(p.memory + (d.head_length if p.offset == 0 else 0), data, length) == 0


cdef bint overlaps(const partial_t *d, uint32_t at, uint32_t offset, uint32_t length) noexcept nogil:
    return (at > 0 and d.pieces[at - 1].offset + d.pieces[at - 1].length > offset) or \
        (at < d.count and offset + length > d.pieces[at].offset)


cdef bint contradicts_end(const partial_t *d, uint32_t end, bint more) noexcept nogil:
    """Bytes beyond the end, or a second end that is another."""
    if d.has_end:
        return end > d.end or (not more and end != d.end)
    return not more and d.count and d.pieces[d.count - 1].offset + d.pieces[d.count - 1].length > end


cdef bint is_tiny(uint8_t protocol, uint32_t offset, const uint8_t *data, uint32_t length) noexcept nogil:
    """RFC 1858 and 3128: what filters look at must lie in the first piece, whole."""
    if offset:
        return protocol == PROTOCOL_TCP and offset < 20
    if protocol == PROTOCOL_TCP:
        return length < 20 or length < <uint32_t> (data[12] >> 4) * 4
    return length < 8 and protocol in (PROTOCOL_UDP, PROTOCOL_UDPLITE, PROTOCOL_ICMP, PROTOCOL_ICMPV6)


cdef uint8_t ecn_of(uint8_t seen) noexcept nogil:
    """The codepoint of the whole; 255: its pieces cannot be of one datagram (RFC 3168 section 5.3, as Linux)."""
    if seen & 1 and seen != 1:
        return 255
    if seen & 8:
        return ECN_CE
    return 255 if seen == 0 else (0 if seen == 1 else (2 if seen & 4 else 1))


cdef DropReason reassembly_input(reassembly_t *r, packet_in_t *packet, int64_t now_ns) noexcept nogil:
    cdef bint v6 = not address_is_v4(&packet.src)
    cdef uint32_t length = packet.fragment.length, offset = packet.fragment.offset, at
    cdef uint32_t head = packet.fragment.data_at if offset == 0 else 0
    cdef uint32_t most = DATAGRAM_MAX - (packet.fragment.at - IPV6_HEADER if v6 else packet.fragment.at)
    cdef uint8_t *memory
    cdef uint8_t *data
    cdef partial_t *d
    cdef partial_t *away
    cdef DropReason why = DROP_NONE
    r.counters.ip_fragments_in += 1
    d = find(r, packet)
    if d != NULL and d.dead:
        return DROP_FRAGMENT_OVERLAP
    if length == 0 or (packet.fragment.more and length & 7) or offset + length > most:
        why = DROP_FRAGMENT_LENGTH                     # CVE-1999-0128: offset + length beyond any datagram
    memory = <uint8_t *> malloc(head + length) if why == DROP_NONE else NULL
    if memory == NULL:
        if d != NULL and why != DROP_NONE:
            give_up(r, d)
        return why if why != DROP_NONE else DROP_NO_MEMORY
    data = memory + head
    if head and v6:
        frame_copy(packet, 0, memory, head)            # believed only when the whole is walked again
    elif head:
        packet_copy(packet, 0, memory, head)
    frame_copy(packet, packet.fragment.data_at, data, length)
    if is_tiny(packet.fragment.next_header, offset, data, length):
        free(memory)
        if d != NULL:
            give_up(r, d)
        return DROP_FRAGMENT_TINY
    if d == NULL:
        d = reassembly_begin(r, &packet.src, &packet.dst, v6)
        if d == NULL:
            free(memory)
            return DROP_NO_MEMORY
        d.id = packet.fragment.id
        d.protocol = packet.fragment.next_header
        d.interface = packet.interface
        d.expires_ns = now_ns + <int64_t> r.timeout_ms[d.v6] * NS_PER_MS
    at = place_of(r, d, offset)
    if same_piece(d, at, packet, data, length):
        free(memory)
        return DROP_FRAGMENT_DUPLICATE
    if overlaps(d, at, offset, length) or contradicts_end(d, offset + length, packet.fragment.more):
        free(memory)
        give_up(r, d)
        return DROP_FRAGMENT_OVERLAP
    if d.count >= REASSEMBLY_PIECES:
        free(memory)
        give_up(r, d)
        return DROP_FRAGMENT_LIMIT
    if not reassembly_insert(r, d, at, offset, length, memory, head + length):
        free(memory)
        return DROP_NO_MEMORY
    if not packet.fragment.more:
        d.has_end = 1
        d.end = offset + length
    if offset == 0:
        d.head_length = head
        d.kept = packet.fragment.at
        d.next_at = packet.fragment.field
        d.protocol = packet.fragment.next_header
    d.broadcast |= packet.broadcast
    d.ecn |= 1 << (packet.tos & 3)
    while r.bytes > r.high_bytes:
        away = victim(r, d)
        if away == NULL:
            push_out(r, d)
            return DROP_NONE                           # counted with its pieces
        push_out(r, away)
    if not d.has_end or d.received != d.end or d.head_length == 0:
        return DROP_NONE
    return assemble(r, d, packet)


cdef DropReason assemble(reassembly_t *r, partial_t *d, packet_in_t *packet) noexcept nogil:
    """All is there: *packet* becomes the whole datagram, its headers as if it had come in one."""
    cdef uint32_t total = d.kept + d.end, i
    cdef uint8_t ecn = ecn_of(d.ecn)
    cdef uint8_t *p
    if ecn == 255:
        drop_pieces(r, d, DROP_FRAGMENT_ECN)
        forget(r, d)
        return DROP_NONE                               # counted with its pieces
    reassembly_release(r)
    r.whole = <uint8_t *> malloc(HEADROOM + total)
    if r.whole == NULL:
        drop_pieces(r, d, DROP_NO_MEMORY)
        forget(r, d)
        return DROP_NONE
    p = r.whole + HEADROOM
    memcpy(p, d.pieces[0].memory, d.kept)
    memcpy(p + d.kept, d.pieces[0].memory + d.head_length, d.pieces[0].length)
    for i in range(1, d.count):
        memcpy(p + d.kept + d.pieces[i].offset, d.pieces[i].memory, d.pieces[i].length)
    if d.v6:
        store_be16(p + 4, <uint16_t> (total - IPV6_HEADER))
        p[d.next_at] = d.protocol
        p[1] = (p[1] & 0xcf) | <uint8_t> (ecn << 4)
        packet.tos = <uint8_t> ((p[0] & 15) << 4) | (p[1] >> 4)
        packet.ttl = p[7]
    else:
        p[1] = (p[1] & 0xfc) | ecn
        store_be16(p + 2, <uint16_t> total)
        store_be16(p + 6, 0)
        store_native16(p + 10, 0)
        store_native16(p + 10, checksum_finish(checksum_partial(p, d.kept)))
        packet.tos = p[1]
        packet.ttl = p[8]
    packet.protocol = d.protocol
    packet.broadcast = d.broadcast
    show(r, packet, total, d.kept)
    packet.piece = 0
    packet.reassembled = 1
    r.counters.ip_fragments_used += d.count
    r.counters.ip_reassembled += 1
    forget(r, d)
    return DROP_NONE


cdef void show(reassembly_t *r, packet_in_t *packet, uint32_t total, uint32_t header_length) noexcept nogil:
    """Let *packet* lie in r.whole, as a frame of its interface would."""
    cdef uint8_t *p = r.whole + HEADROOM
    cdef uint32_t link_header = packet.interface.link_header
    r.frame.head = p - link_header
    r.frame.head_length = link_header + total
    r.frame.body = NULL
    r.frame.body_length = 0
    packet.frame = &r.frame
    packet.header_bytes = total if total < HEADER_COPY else HEADER_COPY
    memcpy(packet.header, p, packet.header_bytes)
    packet.header_length = header_length
    packet.length = total


# ---- time ------------------------------------------------------------------

cdef int64_t reassembly_next_deadline(const reassembly_t *r) noexcept nogil:
    cdef int64_t d = INT64_MAX
    cdef int v
    for v in range(2):
        if r.first[v] != NULL and r.first[v].expires_ns < d:
            d = r.first[v].expires_ns
    return d


cdef int reassembly_expire(reassembly_t *r, int64_t now_ns, packet_in_t *packet) noexcept nogil:
    cdef partial_t *d = NULL
    cdef int v, said = 2
    cdef uint32_t total
    for v in range(2):
        if r.first[v] != NULL and r.first[v].expires_ns <= now_ns and (
                d == NULL or r.first[v].expires_ns < d.expires_ns):
            d = r.first[v]
    if d == NULL:
        return 0
    if d.head_length:
        total = d.head_length + d.pieces[0].length
        reassembly_release(r)
        r.whole = <uint8_t *> malloc(HEADROOM + total)
        if r.whole != NULL:
            memcpy(r.whole + HEADROOM, d.pieces[0].memory, total)
            memset(packet, 0, sizeof(packet_in_t))
            packet.interface = d.interface
            packet.src = d.src
            packet.dst = d.dst
            packet.broadcast = d.broadcast
            packet.protocol = d.protocol
            show(r, packet, total, d.head_length)
            packet.ttl = packet.header[7 if d.v6 else 8]
            said = 1
    drop_pieces(r, d, DROP_FRAGMENT_TIMEOUT)
    forget(r, d)
    return said
