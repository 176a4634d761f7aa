# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Changing valid frames so that they break rules one at a time, and judging what a stack answers.

A second opinion: nothing here uses the stack's own parsers and sums.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from netstack.siphash cimport random_next

cdef enum:
    HOP_BY_HOP = 0
    ICMP = 1
    IGMP = 2
    TCP = 6
    UDP = 17
    UDPLITE = 136
    ROUTING = 43
    FRAGMENT = 44
    AUTHENTICATION = 51
    ICMPV6 = 58
    DESTINATION = 60
    ADDED_MAX = 64               # bytes put in at once
    CHANGES_MAX = 4              # of one mutant
    NUMBERED = 64                # frames with the same number

cdef uint8_t[14] EDGES8 = [0, 1, 2, 4, 5, 7, 8, 0x3f, 0x40, 0x7f, 0x80, 0xc0, 0xfe, 0xff]
cdef uint16_t[12] EDGES16 = [0, 1, 7, 8, 40, 68, 1280, 1500, 0x7fff, 0x8000, 0xfff8, 0xffff]
cdef uint8_t[14] NEXT_HEADERS = [0, 1, 6, 17, 43, 44, 50, 51, 58, 59, 60, 135, 139, 255]


cdef inline uint32_t below(mutator_t *m, uint32_t n) noexcept nogil:
    return <uint32_t> (random_next(m.random) >> 16) % n


# --- changes ----------------------------------------------------------------------------------------------------------

cdef uint32_t place(mutator_t *m, const template_t *t, uint32_t n) noexcept nogil:
    """Where to change something: mostly behind the focus."""
    if t.focus < n and below(m, 8):
        return t.focus + below(m, n - t.focus)
    return below(m, n)


cdef uint32_t take_out(mutator_t *m, uint8_t *p, uint32_t at, uint32_t n) noexcept nogil:
    cdef uint32_t size = 1 + below(m, 3) if below(m, 2) else 8
    if size >= n - at:
        return at if at else n
    memmove(p + at, p + at + size, n - at - size)
    return n - size


cdef uint32_t put_in(mutator_t *m, uint8_t *p, uint32_t at, uint32_t n) noexcept nogil:
    """Random bytes, or those in front of the place once more: an option or a header twice."""
    cdef uint32_t size = 8 * (1 + below(m, 3)) if below(m, 4) else 1 + below(m, ADDED_MAX), i
    if n + size > MUTANT_MAX:
        return n
    memmove(p + at + size, p + at, n - at)
    if at >= size and below(m, 2):
        memcpy(p + at, p + at - size, size)
    else:
        for i in range(size):
            p[at + i] = <uint8_t> below(m, 256)
    return n + size


cdef uint32_t splice(mutator_t *m, uint8_t *p, uint32_t at, uint32_t n) noexcept nogil:
    """The bytes of another template in the same place."""
    cdef const template_t *other = &m.templates[below(m, m.count)]
    cdef uint32_t size
    if at >= other.length:
        return n
    size = 1 + below(m, other.length - at)
    memcpy(p + at, other.bytes + at, size)
    return at + size if at + size > n or below(m, 4) == 0 else n


cdef uint32_t change(mutator_t *m, const template_t *t, uint8_t *p, uint32_t n) noexcept nogil:
    """One change of a frame of n bytes, at least one; its new length, at least one too."""
    cdef uint32_t at = place(m, t, n), kind = below(m, 16), i, v
    if kind < 3:
        p[at] ^= <uint8_t> (1 << below(m, 8))
    elif kind < 5:
        p[at] = EDGES8[below(m, 14)]
    elif kind < 7:
        p[at] = <uint8_t> below(m, 256)
    elif kind < 9:
        v = EDGES16[below(m, 12)] if below(m, 2) else n - below(m, 48)
        p[at] = <uint8_t> (v >> 8)
        if at + 1 < n:
            p[at + 1] = <uint8_t> v
    elif kind == 9:
        v = below(m, 2) * 0xff
        for i in range(at, at + 4 if at + 4 < n else n):
            p[i] = <uint8_t> v
    elif kind == 10:
        p[at] = NEXT_HEADERS[below(m, 14)]
    elif kind == 11:
        return at if at else 1
    elif kind == 12:
        return take_out(m, p, at, n)
    elif kind == 13:
        return put_in(m, p, at, n)
    elif kind == 14:
        return splice(m, p, at, n)
    else:
        p[at] = p[below(m, n)]
    return n


cdef const template_t *choose(mutator_t *m) noexcept nogil:
    """In turn or by chance, so that what belongs together is whole now and then."""
    if below(m, 2):
        m.next = below(m, m.count)
    else:
        m.next = (m.next + 1) % m.count
    return &m.templates[m.next]


cdef uint32_t mutant_make(mutator_t *m, uint8_t *out) noexcept nogil:
    """Some frames stay as they are, so that the mutants meet a stack in many states; one in eight of the others keeps the
    lengths, and one in sixteen the sums, that no longer fit."""
    cdef const template_t *t = choose(m)
    cdef uint32_t n = t.length, i, changes = below(m, CHANGES_MAX) + 1 if below(m, m.calm) else 0, start = m.link_header
    memcpy(out, t.bytes, n)
    m.made += 1
    if m.made % NUMBERED == 0:
        m.number = <uint16_t> below(m, 65536)
    if m.number_at and m.number_at + 2 <= n:
        out[m.number_at] ^= <uint8_t> (m.number >> 8)
        out[m.number_at + 1] ^= <uint8_t> m.number
    for i in range(changes):
        n = change(m, t, out, n)
    if n > start:
        if changes and below(m, 8):
            mutant_fit(out + start, n - start)
        if below(m, 16):
            mutant_repair(out + start, n - start)
    return n


# --- sums -------------------------------------------------------------------------------------------------------------

cdef uint32_t add_words(const uint8_t *p, uint32_t n, uint32_t total) noexcept nogil:
    cdef uint32_t i = 0
    while i + 1 < n:
        total += <uint32_t> p[i] << 8 | p[i + 1]
        i += 2
    if i < n:
        total += <uint32_t> p[i] << 8
    return total


cdef uint16_t folded(uint32_t total) noexcept nogil:
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return <uint16_t> total


cdef bint transport_of(const uint8_t *p, uint32_t n, uint8_t *protocol, uint32_t *at, uint32_t *end) noexcept nogil:
    """Where the transport's header begins and its payload ends; False: no whole one is there."""
    cdef uint32_t size
    if n >= 20 and p[0] >> 4 == 4:
        at[0] = <uint32_t> (p[0] & 15) << 2
        end[0] = <uint32_t> p[2] << 8 | p[3]
        protocol[0] = p[9]
        return 20 <= at[0] and at[0] <= end[0] and end[0] <= n and (p[6] & 0x3f | p[7]) == 0
    if n < 40 or p[0] >> 4 != 6:
        return False
    at[0] = 40
    end[0] = 40 + (<uint32_t> p[4] << 8 | p[5])
    protocol[0] = p[6]
    if end[0] > n:
        return False
    while protocol[0] in (HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION):
        if at[0] + 8 > end[0]:
            return False
        size = 8 * (1 + <uint32_t> p[at[0] + 1])
        if protocol[0] == FRAGMENT:
            if p[at[0] + 2] | (p[at[0] + 3] & 0xf9):
                return False
            size = 8
        elif protocol[0] == AUTHENTICATION:
            size = 4 * (2 + <uint32_t> p[at[0] + 1])
        protocol[0] = p[at[0]]
        at[0] += size
    return at[0] <= end[0]


cdef int sum_at(uint8_t protocol) noexcept nogil:
    """Where in its header the checksum stands; -1: it has none that is known here."""
    if protocol == TCP:
        return 16
    if protocol == UDP or protocol == UDPLITE:
        return 6
    return 2 if protocol in (ICMP, IGMP, ICMPV6) else -1


cdef uint32_t transport_sum(const uint8_t *p, uint8_t protocol, uint32_t at, uint32_t end) noexcept nogil:
    """Over the pseudo header, where there is one, and the transport's bytes, of UDP-Lite as many as are covered."""
    cdef uint32_t total = 0, size = end - at, covered = 0
    if protocol == UDPLITE and size >= 6:
        covered = <uint32_t> p[at + 4] << 8 | p[at + 5]
    if covered == 0 or covered > size:
        covered = size
    if p[0] >> 4 == 6:
        total = add_words(p + 8, 32, end - at) + protocol
    elif protocol == TCP or protocol == UDP or protocol == UDPLITE:
        total = add_words(p + 12, 8, end - at) + protocol
    return folded(add_words(p + at, covered, total))


cdef void mutant_fit(uint8_t *packet, uint32_t n) noexcept nogil:
    cdef uint32_t v = n
    if n >= 20 and packet[0] >> 4 == 4:
        packet[2] = <uint8_t> (n >> 8)
        packet[3] = <uint8_t> n
    elif n >= 40 and packet[0] >> 4 == 6:
        v = n - 40
        packet[4] = <uint8_t> (v >> 8)
        packet[5] = <uint8_t> v


cdef void mutant_repair(uint8_t *packet, uint32_t n) noexcept nogil:
    cdef uint8_t protocol
    cdef uint32_t at, end
    cdef uint16_t value
    cdef int where
    if n >= 20 and packet[0] >> 4 == 4:
        at = <uint32_t> (packet[0] & 15) << 2
        if 20 <= at <= n:
            packet[10] = packet[11] = 0
            value = ~folded(add_words(packet, at, 0))
            packet[10] = <uint8_t> (value >> 8)
            packet[11] = <uint8_t> value
    if not transport_of(packet, n, &protocol, &at, &end):
        return
    where = sum_at(protocol)
    if where < 0 or at + <uint32_t> where + 2 > end:
        return
    at += <uint32_t> where
    packet[at] = packet[at + 1] = 0
    value = ~<uint16_t> transport_sum(packet, protocol, at - <uint32_t> where, end)
    if (protocol == UDP or protocol == UDPLITE) and value == 0:
        value = 0xffff
    packet[at] = <uint8_t> (value >> 8)
    packet[at + 1] = <uint8_t> value


# --- what a stack may send --------------------------------------------------------------------------------------------

cdef const char *packet_fault(const uint8_t *packet, uint32_t n) noexcept nogil:
    cdef uint8_t protocol
    cdef uint32_t at, end
    cdef int where
    if n >= 20 and packet[0] >> 4 == 4:
        at = <uint32_t> (packet[0] & 15) << 2
        if at < 20 or at > n or (<uint32_t> packet[2] << 8 | packet[3]) != n:
            return b"IPv4 lengths that are not the packet's"
        if folded(add_words(packet, at, 0)) != 0xffff:
            return b"a wrong IPv4 header checksum"
        if packet[12] >> 4 >= 14:
            return b"an IPv4 source that is no host"
        if packet[8] == 0:
            return b"a TTL of 0"
    elif n >= 40 and packet[0] >> 4 == 6:
        if 40 + (<uint32_t> packet[4] << 8 | packet[5]) != n:
            return b"an IPv6 payload length that is not the packet's"
        if packet[8] == 0xff:
            return b"an IPv6 source that is a group"
        if packet[7] == 0:
            return b"a hop limit of 0"
    else:
        return b"neither IPv4 nor IPv6"
    if not transport_of(packet, n, &protocol, &at, &end):
        return NULL              # a piece
    where = sum_at(protocol)
    if where < 0:
        return NULL
    if at + <uint32_t> where + 2 > end:
        return b"a transport header that is cut"
    if transport_sum(packet, protocol, at, end) != 0xffff:
        return b"a wrong checksum"
    return NULL


cdef const char *arp_fault(const uint8_t *frame, uint32_t n) noexcept nogil:
    cdef uint32_t i
    if n < 42 or frame[14] or frame[15] != 1 or frame[16] != 8 or frame[17] or frame[18] != 6 or frame[19] != 4:
        return b"an ARP message that is not for IPv4 on Ethernet"
    if frame[20] or frame[21] not in (1, 2):
        return b"an ARP operation that is neither request nor reply"
    for i in range(6):
        if frame[22 + i] != frame[6 + i]:
            return b"an ARP sender that is not the frame's"
    return NULL
