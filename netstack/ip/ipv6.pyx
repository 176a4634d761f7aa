# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""IPv6 packets on their way in: addresses, then the chain of extension headers (RFC 8200, 5095, 6946, 7112, 8504).

The chain is walked in the link's memory, each byte that decides something read once into a local; then the IPv6 header and
what follows the chain stand side by side in the private copy. Every header has at least 8 bytes and there are at most
eight, so the walk ends; options end with their header, 2,048 bytes at most (security rows A4, A5).
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from netstack.address cimport (
    address_is_link_local, address_is_multicast6, address_is_unspecified6, address_is_v4, address_set_zone, address_t,
)
from netstack.counters cimport (
    DROP_IP_DESTINATION, DROP_IP_EXTENSION, DROP_IP_SOURCE, DROP_LINK_MALFORMED, DROP_NONE,
)
from netstack.ip.interface cimport HEADER_COPY, interface_index_of
from netstack.ip.ip6 cimport ip6_t
from netstack.wire.byte_order cimport load_be16, load_be32
from netstack.wire.ipv6 cimport (
    IPV6_HEADER, IPV6_MAX_PAYLOAD, NEXT_DESTINATION, NEXT_FRAGMENT, NEXT_HOP_BY_HOP, NEXT_ROUTING, PROTOCOL_ICMPV6, ipv6_t,
    parse_ipv6,
)

cdef enum:
    OPTION_PAD1 = 0
    OPTION_PADN = 1
    PROBLEM_HEADER = 1           # packet_in_t.problem: code 0, erroneous header field (RFC 4443 section 3.4)
    PROBLEM_NEXT_HEADER = 2      # code 1, unrecognized next header
    PROBLEM_OPTION = 3           # code 2, unrecognized option
    PROBLEM_CHAIN = 4            # code 3, first fragment has incomplete header chain (RFC 7112 section 5)
    TRANSPORT_TCP = 6
    TRANSPORT_UDP = 17
    TRANSPORT_UDPLITE = 136


# ---- addresses -------------------------------------------------------------

cdef bint ipv6_listens(const interface_t *ifc, const address_t *group) noexcept nogil:
    """All nodes of the link, and the groups that somebody here has joined (RFC 4291 section 2.8)."""
    cdef const uint8_t *p = <const uint8_t *> group
    cdef const ip6_t *ip6 = ifc.ip6
    cdef uint32_t i
    if p[1] & 15 < 2:                    # scope 0 is reserved, 1 does not leave its interface (RFC 4291 section 2.7)
        return False
    if p[1] == 2 and p[2] == 0 and p[3] == 0 and (<const uint32_t *> p)[1] == 0 and (<const uint64_t *> p)[1] == all_nodes():
        return True
    if ip6 == NULL:
        return False
    for i in range(ip6.group_count):
        if ip6.groups[i].address.lo == group.lo and ip6.groups[i].address.hi == group.hi and not ip6.groups[i].left:
            return True
    return False


cdef inline uint64_t all_nodes() noexcept nogil:
    """The second half of ff02::1 as it stands in memory."""
    cdef uint64_t lo = 0
    (<uint8_t *> &lo)[7] = 1
    return lo


cdef bint local_zeros(const address_t *a) noexcept nogil:
    """Bits 10 to 63 of a link-local address are zero (RFC 4291 section 2.5.6); inside we use two of the bytes."""
    cdef const uint8_t *p = <const uint8_t *> a
    return p[1] == 0x80 and p[2] | p[3] | p[4] | p[5] | p[6] | p[7] == 0


cdef DropReason check_addresses(interface_t *ifc, ipv6_t *ip, packet_in_t *out) noexcept nogil:
    """Could the sender have that address, and is the packet for us? Link-local addresses get their interface's number."""
    if ifc.loopback:             # only this stack itself sends here, from and to whatever is its own
        if address_is_multicast6(&ip.dst):
            out.broadcast = 1
        return DROP_NONE
    if ifc.kernel_ip:
        address_set_zone(&ip.src, ifc.index + 1)
        address_set_zone(&ip.dst, ifc.index + 1)
        out.broadcast = address_is_multicast6(&ip.dst)
        return DROP_NONE
    if address_is_multicast6(&ip.src) or (ip.src.hi == 0 and not address_is_unspecified6(&ip.src)):
        return DROP_IP_SOURCE            # a group, ::1, or IPv4 in disguise
    if address_is_link_local(&ip.src):
        if not local_zeros(&ip.src):
            return DROP_IP_SOURCE
        address_set_zone(&ip.src, ifc.index + 1)
    if interface_index_of(ifc, &ip.src) >= 0 and not ifc.shared:
        return DROP_IP_SOURCE
    if address_is_multicast6(&ip.dst):
        out.broadcast = 1
        return DROP_NONE if ipv6_listens(ifc, &ip.dst) else DROP_IP_DESTINATION
    if address_is_link_local(&ip.dst):
        if not local_zeros(&ip.dst):
            return DROP_IP_DESTINATION
        address_set_zone(&ip.dst, ifc.index + 1)
    if address_is_v4(&ip.dst) or (interface_index_of(ifc, &ip.dst) < 0 and (not ifc.any_address or ip.dst.hi == 0)):
        return DROP_IP_DESTINATION
    return DROP_NONE


# ---- extension headers -----------------------------------------------------

cdef inline DropReason refuse(packet_in_t *out, uint8_t problem, uint32_t at) noexcept nogil:
    out.problem = problem
    out.problem_at = at
    return DROP_IP_EXTENSION


cdef DropReason walk_options(const uint8_t *p, uint32_t at, uint32_t end, packet_in_t *out) noexcept nogil:
    """The options of one header (RFC 8200 section 4.2): none but padding is known here, the two highest bits of its type
    say what an unknown one asks for. The jumbo payload option is one of them: such packets are refused."""
    cdef uint8_t type, length
    while at < end:
        type = p[at]
        if type == OPTION_PAD1:
            at += 1
            continue
        if at + 2 > end:
            return DROP_IP_EXTENSION
        length = p[at + 1]
        if length > end - at - 2:
            return DROP_IP_EXTENSION
        if type != OPTION_PADN and type >> 6:
            if type >> 6 == 2 or (type >> 6 == 3 and not out.broadcast):
                return refuse(out, PROBLEM_OPTION, at)
            return DROP_IP_EXTENSION
        at += 2 + <uint32_t> length
    return DROP_NONE


cdef DropReason incomplete(packet_in_t *out) noexcept nogil:
    """The chain does not end within the packet. A first fragment must hold all of it (RFC 7112)."""
    if out.fragment.more:
        return refuse(out, PROBLEM_CHAIN, 0)
    return DROP_IP_EXTENSION


cdef DropReason fragment_header(const uint8_t *p, uint32_t at, uint32_t field, uint32_t total,
                                packet_in_t *out) noexcept nogil:
    """Note a fragment header (RFC 8200 section 4.5) and check its numbers."""
    cdef uint32_t word = load_be32(p + at), length = total - at - 8
    if out.fragmented:
        return DROP_IP_EXTENSION
    out.fragmented = 1
    out.fragment.at = at
    out.fragment.field = field
    out.fragment.data_at = at + 8
    out.fragment.length = length
    out.fragment.next_header = <uint8_t> (word >> 24)
    out.fragment.offset = word & 0xfff8
    out.fragment.more = word & 1
    out.fragment.id = load_be32(p + at + 4)
    if out.fragment.more and length & 7:
        return refuse(out, PROBLEM_HEADER, 4)            # the payload length
    if out.fragment.offset + length > IPV6_MAX_PAYLOAD:
        return refuse(out, PROBLEM_HEADER, at + 2)
    return DROP_NONE


cdef DropReason walk(const uint8_t *p, uint32_t held, uint32_t total, packet_in_t *out, uint32_t *end) noexcept nogil:
    """The chain from out.protocol on; end: where it ends. p: the packet, of whose total bytes held lie there."""
    cdef uint32_t at = IPV6_HEADER, field = 6, length, headers = 0
    cdef uint8_t next, kind, left
    cdef DropReason reason
    while out.protocol == NEXT_HOP_BY_HOP or out.protocol == NEXT_ROUTING or out.protocol == NEXT_FRAGMENT \
            or out.protocol == NEXT_DESTINATION:
        headers += 1
        out.interface.counters.ip6_extension_headers += 1
        if headers > MAX_EXTENSION_HEADERS:
            return DROP_IP_EXTENSION
        if out.protocol == NEXT_HOP_BY_HOP and at != IPV6_HEADER:
            return refuse(out, PROBLEM_NEXT_HEADER, field)       # RFC 8200 section 4.1: at the beginning or nowhere
        if at + 8 > total:
            return incomplete(out)
        if at + 8 > held:
            return DROP_LINK_MALFORMED
        length = 8 if out.protocol == NEXT_FRAGMENT else (<uint32_t> p[at + 1] + 1) * 8
        if at + length > total:
            return incomplete(out)
        if at + length > held:
            return DROP_LINK_MALFORMED
        next = p[at]
        if out.protocol == NEXT_ROUTING:
            kind = p[at + 2]
            left = p[at + 3]
            if left:                     # no kind of it is ours to follow, type 0 is nobody's any more (RFC 5095)
                return refuse(out, PROBLEM_HEADER, at + 2)
        elif out.protocol == NEXT_FRAGMENT:
            reason = fragment_header(p, at, field, total, out)
            if reason != DROP_NONE:
                return reason
            next = out.fragment.next_header
            if out.fragment.offset:
                out.protocol = next
                out.piece = 1
                return DROP_NONE
        else:
            reason = walk_options(p, at + 2, at + length, out)
            if reason != DROP_NONE:
                return reason
        out.protocol = next
        field = at
        at += length
    out.protocol_at = field
    end[0] = at
    if out.fragment.more:
        if at + transport_header(p, held, at, out.protocol) > total:
            return refuse(out, PROBLEM_CHAIN, 0)
        out.protocol = out.fragment.next_header
        out.piece = 1
    return DROP_NONE


cdef uint32_t transport_header(const uint8_t *p, uint32_t held, uint32_t at, uint8_t protocol) noexcept nogil:
    """Bytes of a transport's header, those known here."""
    if protocol == TRANSPORT_TCP:
        return 20 if at + 20 > held else (<uint32_t> p[at + 12] >> 4) * 4
    return 8 if protocol in (TRANSPORT_UDP, TRANSPORT_UDPLITE, PROTOCOL_ICMPV6) else 0


cdef DropReason ipv6_input(interface_t *ifc, const frame_t *frame, uint32_t n, uint32_t available,
                           packet_in_t *out) noexcept nogil:
    cdef ipv6_t ip
    cdef DropReason reason
    if frame.body_length and n < IPV6_HEADER:
        return DROP_LINK_MALFORMED
    reason = parse_ipv6(out.header, available, &ip)
    if reason == DROP_NONE:
        reason = check_addresses(ifc, &ip, out)
    if reason != DROP_NONE:
        return reason
    out.header_bytes = n if n < ip.total_length else ip.total_length
    out.header_length = IPV6_HEADER
    out.length = ip.total_length
    out.protocol = ip.next_header
    out.ttl = ip.hop_limit
    out.tos = ip.traffic_class
    out.src = ip.src
    out.dst = ip.dst
    reason = follow(out)
    if reason != DROP_NONE:
        return reason
    if address_is_unspecified6(&out.src) and (out.protocol != PROTOCOL_ICMPV6 or out.piece):
        return DROP_IP_SOURCE            # who has no address yet asks for one, and nothing else
    ifc.counters.ip_delivered += out.piece == 0
    return DROP_NONE


cdef DropReason follow(packet_in_t *out) noexcept nogil:
    """Walk the headers of a packet of which all but those is known, and let what follows them stand behind the first."""
    cdef const frame_t *frame = out.frame
    cdef uint32_t link_header = out.interface.link_header, held, end = IPV6_HEADER, rest
    cdef const uint8_t *p
    cdef DropReason reason
    out.protocol_at = 6
    out.fragment.more = 0
    if out.protocol != NEXT_HOP_BY_HOP and out.protocol != NEXT_ROUTING and out.protocol != NEXT_FRAGMENT \
            and out.protocol != NEXT_DESTINATION:
        return DROP_NONE
    p = frame.head + link_header
    held = frame.head_length - link_header
    if held > out.length:
        held = out.length
    reason = walk(p, held, out.length, out, &end)
    if reason != DROP_NONE or out.piece:
        return reason
    rest = held - end if held - end < HEADER_COPY - IPV6_HEADER else HEADER_COPY - IPV6_HEADER
    memcpy(out.header + IPV6_HEADER, p + end, rest)
    out.header_bytes = IPV6_HEADER + rest
    out.skipped = end - IPV6_HEADER
    out.length -= out.skipped
    return DROP_NONE


cdef DropReason ipv6_again(packet_in_t *packet) noexcept nogil:
    cdef DropReason reason
    packet.header_length = IPV6_HEADER
    packet.protocol = packet.header[6]
    packet.skipped = 0
    packet.problem = 0
    packet.fragmented = 0                # a fragment within a fragment: once more is dropped by the walk
    reason = follow(packet)
    if reason == DROP_NONE and packet.fragmented:
        reason = DROP_IP_EXTENSION
    packet.piece = 0
    packet.fragmented = 1
    return reason


cdef bint ipv6_transport(const uint8_t *p, uint32_t length, uint8_t *protocol, uint32_t *at) noexcept nogil:
    cdef uint8_t next
    cdef uint32_t here = IPV6_HEADER, size, headers = 0
    if length < IPV6_HEADER:
        return False
    next = p[6]
    while next == NEXT_HOP_BY_HOP or next == NEXT_ROUTING or next == NEXT_FRAGMENT or next == NEXT_DESTINATION:
        headers += 1
        if headers > MAX_EXTENSION_HEADERS or here + 8 > length:
            return False
        if next == NEXT_FRAGMENT:
            if load_be16(p + here + 2) & 0xfff8:
                return False
            size = 8
        else:
            size = (<uint32_t> p[here + 1] + 1) * 8
        next = p[here]
        here += size
    protocol[0] = next
    at[0] = here
    return here <= length
