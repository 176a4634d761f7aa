# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Cutting and joining TCP packets."""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy, memset

from netstack.router.devices.offload cimport VNET_ECN, VNET_NEEDS_CHECKSUM, VNET_TCPV4, VNET_TCPV6
from netstack.wire.byte_order cimport load_be16, load_be32, load_native32, store_be16, store_be32, store_native16
from netstack.wire.checksum cimport (
    checksum_combine, checksum_finish, checksum_fold, checksum_partial, checksum_pseudo_ipv4, checksum_pseudo_ipv6,
)
from netstack.wire.ipv4 cimport PROTOCOL_TCP

cdef enum:
    FIN = 1
    SYN = 2
    RST = 4
    PSH = 8
    ACK = 16
    URG = 32
    CWR = 128
    OPTION_MD5 = 19                  # RFC 2385, RFC 5925: they sign the segment as it is
    OPTION_AO = 29
    SMALLEST_CUT = 64                # payload of a piece


cdef bint tcp_view(const packet_t *p, tcp_view_t *view) noexcept nogil:
    cdef const uint8_t *h = p.header
    cdef uint32_t total = p.head_length + p.body_length
    if p.header_length < 40:
        return False
    if h[0] >> 4 == 4:
        view.ip_header = (h[0] & 15) << 2
        if h[9] != PROTOCOL_TCP or load_be16(h + 6) & 0x3fff:
            return False
    else:
        view.ip_header = 40
        if h[6] != PROTOCOL_TCP:
            return False
    if view.ip_header + 20 > p.header_length:
        return False
    view.headers = view.ip_header + ((h[view.ip_header + 12] >> 4) << 2)
    if view.headers < view.ip_header + 20 or view.headers > p.header_length or view.headers > HEADERS_MAX or \
            view.headers > total:
        return False
    view.payload = total - view.headers
    if p.head_length == view.headers:
        view.data = p.body
    elif p.body_length == 0:
        view.data = p.head + view.headers
    else:
        return False
    return True


cdef inline uint32_t pseudo(const uint8_t *h, uint32_t length) noexcept nogil:
    if h[0] >> 4 == 4:
        return checksum_pseudo_ipv4(load_native32(h + 12), load_native32(h + 16), PROTOCOL_TCP, <uint16_t> length)
    return checksum_pseudo_ipv6(h + 8, h + 24, PROTOCOL_TCP, length)


cdef inline uint64_t tcp_sum(const uint8_t *h, const tcp_view_t *view, const uint8_t *data, uint32_t length) noexcept nogil:
    """Of a segment and its pseudo header, checksum field included."""
    return <uint64_t> pseudo(h, view.headers - view.ip_header + length) \
        + checksum_partial(h + view.ip_header, view.headers - view.ip_header) + checksum_partial(data, length)


cdef bint tcp_is_sound(const packet_t *p, const tcp_view_t *view) noexcept nogil:
    return checksum_fold(tcp_sum(p.header, view, view.data, view.payload)) == 0xffff


cdef bint segment_is_sound(const packet_t *p, uint32_t at, uint32_t headers) noexcept nogil:
    """The payload may lie in two parts, the first of any length."""
    cdef uint32_t total = p.head_length + p.body_length
    cdef uint32_t in_head = p.head_length - headers
    cdef uint64_t sum = <uint64_t> pseudo(p.header, total - at) + checksum_partial(p.header + at, headers - at)
    if in_head:
        sum += checksum_partial(p.head + headers, in_head)
    if p.body_length:
        sum += checksum_combine(0, checksum_partial(p.body, p.body_length), in_head)
    return checksum_fold(sum) == 0xffff


# ---- cutting

cdef bint is_signed(const uint8_t *options, uint32_t length) noexcept nogil:
    cdef uint32_t at = 0
    while at < length and options[at]:
        if options[at] == 1:
            at += 1
            continue
        if options[at] == OPTION_MD5 or options[at] == OPTION_AO or at + 1 >= length or options[at + 1] < 2:
            return True                      # signed, or broken: nothing of it is touched
        at += options[at + 1]
    return False


cdef uint32_t cut_size(const packet_t *p, const tcp_view_t *view, uint32_t limit) noexcept nogil:
    cdef uint32_t most
    if p.header[view.ip_header + 13] & (SYN | RST | URG) or limit < view.headers + SMALLEST_CUT or \
            is_signed(p.header + view.ip_header + 20, view.headers - view.ip_header - 20):
        return 0
    most = limit - view.headers
    return p.segment if 0 < p.segment < most else most


cdef void cut_begin(cutter_t *c, const packet_t *p, const tcp_view_t *view, uint32_t segment) noexcept nogil:
    memcpy(c.header, p.header, view.headers)
    c.view = view[0]
    c.segment = segment
    c.at = 0
    c.source = p.source
    c.at_home = p.at_home


cdef void write_lengths(uint8_t *h, const tcp_view_t *view, uint32_t payload) noexcept nogil:
    """Lengths, and the checksum of an IPv4 header."""
    if h[0] >> 4 == 4:
        store_be16(h + 2, <uint16_t> (view.headers + payload))
        store_native16(h + 10, 0)
        store_native16(h + 10, checksum_finish(checksum_partial(h, view.ip_header)))
    else:
        store_be16(h + 4, <uint16_t> (view.headers - view.ip_header + payload))


cdef bint cut_next(cutter_t *c, packet_t *piece) noexcept nogil:
    """Numbers go on, IPv4's identification with them; FIN and PSH are the last one's, CWR is the first one's."""
    cdef const tcp_view_t *view = &c.view
    cdef uint32_t length = view.payload - c.at
    cdef uint8_t *tcp = c.header + view.ip_header
    cdef uint8_t flags = tcp[13]
    if length == 0:
        return False
    if c.at:
        store_be32(tcp + 4, load_be32(tcp + 4) + c.segment)
        if c.header[0] >> 4 == 4:
            store_be16(c.header + 4, <uint16_t> (load_be16(c.header + 4) + 1))
    if length > c.segment:
        length = c.segment
        tcp[13] = flags & ~<uint8_t> (FIN | PSH)
    write_lengths(c.header, view, length)
    store_native16(tcp + 16, 0)
    store_native16(tcp + 16, checksum_finish(tcp_sum(c.header, view, view.data + c.at, length)))
    piece.header = c.piece
    memcpy(c.piece, c.header, view.headers)
    tcp[13] = flags & ~<uint8_t> CWR
    piece.head = piece.header
    piece.header_length = piece.head_length = view.headers
    piece.body = view.data + c.at
    piece.body_length = length
    piece.segment = 0
    piece.stays = False
    piece.source = c.source
    piece.at_home = c.at_home
    c.at += length
    return True


# ---- leaving it to a device

cdef void describe(vnet_t *vnet, uint8_t *headers, const tcp_view_t *view, uint32_t ethernet, uint32_t segment) noexcept nogil:
    cdef uint8_t *tcp = headers + view.ip_header
    cdef uint16_t sum
    write_lengths(headers, view, view.payload)
    memset(vnet, 0, sizeof(vnet_t))
    vnet.flags = VNET_NEEDS_CHECKSUM
    vnet.kind = VNET_TCPV4 if headers[0] >> 4 == 4 else VNET_TCPV6
    if tcp[13] & CWR:
        vnet.kind |= VNET_ECN
    vnet.header_length = <uint16_t> (ethernet + view.headers)
    vnet.segment = <uint16_t> segment
    vnet.checksum_start = <uint16_t> (ethernet + view.ip_header)
    vnet.checksum_offset = 16
    sum = checksum_fold(pseudo(headers, view.headers - view.ip_header + view.payload))
    store_native16(tcp + 16, sum)


# ---- joining

cdef bint follows(joined_t *j, const packet_t *p, const tcp_view_t *view) noexcept nogil:
    """The same flow, the next bytes, and nothing else that is news: acknowledgement, options, marks, hop limit."""
    cdef const uint8_t *a = j.first
    cdef const uint8_t *b = p.header
    cdef uint32_t ip = view.ip_header
    if view.headers != j.view.headers or ip != j.view.ip_header or view.payload > j.segment or \
            j.packets == JOINED_PARTS or view.headers + j.view.payload + view.payload > JOINED_BYTES:
        return False
    if b[0] >> 4 == 4:
        if memcmp(a, b, 2) != 0 or memcmp(a + 6, b + 6, 4) != 0 or memcmp(a + 12, b + 12, ip - 12) != 0:
            return False
    elif memcmp(a, b, 4) != 0 or memcmp(a + 6, b + 6, 34) != 0:
        return False
    return memcmp(a + ip, b + ip, 4) == 0 and memcmp(a + ip + 8, b + ip + 8, 5) == 0 and \
        load_be32(b + ip + 4) == load_be32(a + ip + 4) + j.view.payload and \
        memcmp(a + ip + 20, b + ip + 20, view.headers - ip - 20) == 0


cdef bint join(joined_t *j, const packet_t *p, bint *closed) noexcept nogil:
    cdef tcp_view_t view
    cdef uint8_t flags
    if not p.stays or not tcp_view(p, &view) or view.payload == 0:
        return False
    flags = p.header[view.ip_header + 13]
    if flags & ~<uint8_t> PSH != ACK or (j.packets and not follows(j, p, &view)) or not tcp_is_sound(p, &view):
        return False
    if j.packets == 0:
        if p.head_length + p.body_length > JOINED_BYTES or \
                is_signed(p.header + view.ip_header + 20, view.headers - view.ip_header - 20):
            return False
        memcpy(j.first, p.header, view.headers)
        j.view = view
        j.view.payload = 0
        j.segment = view.payload
    else:
        memcpy(j.first + view.ip_header + 14, p.header + view.ip_header + 14, 2)     # the window is the latest
        if flags & PSH:
            j.first[view.ip_header + 13] |= PSH
    j.parts[2 + j.packets].iov_base = <void *> view.data
    j.parts[2 + j.packets].iov_len = view.payload
    j.packets += 1
    j.view.payload += view.payload
    closed[0] = flags & PSH != 0 or view.payload < j.segment
    return True
