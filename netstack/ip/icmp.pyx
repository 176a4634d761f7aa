# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""ICMP: what is answered, what is reported, what is believed (RFC 792, 1122 section 3.2.2, 5927)."""

from libc.errno cimport (
    ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, EMSGSIZE, ENETUNREACH, ENONET, ENOPROTOOPT, EOPNOTSUPP,
)
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from netstack.address cimport address_from_v4, address_is_v4, address_v4
from netstack.counters cimport (
    DROP_ICMP_CHECKSUM, DROP_ICMP_EMBEDDED, DROP_ICMP_LENGTH, DROP_ICMP_RATE, DROP_ICMP_TYPE, DROP_IP_NO_ROUTE,
    DROP_LINK_MALFORMED, DROP_NEIGHBOR_UNREACHABLE, DROP_NO_MEMORY, DROP_NONE, DROP_TX_FULL, drop,
)
from netstack.ip.interface cimport (
    CLAIM_FULL, CLAIM_OK, CLAIM_UNREACHABLE, interface_claim, interface_commit, interface_has_address,
    packet_copy, packet_out_t, packet_payload,
)
from netstack.ip.output cimport ip_send, outgoing_t
from netstack.ip.shared cimport icmp_may_send
from netstack.wire.byte_order cimport load_be16, load_be32, load_native32
from netstack.wire.checksum cimport checksum_and_copy, checksum_fold, checksum_partial
from netstack.wire.icmp cimport (
    ICMP_CODES_UNREACHABLE, ICMP_CODE_FRAGMENTATION, ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, ICMP_HEADER,
    ICMP_PARAMETER_PROBLEM, ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE, icmp_t, parse_icmp, write_icmp,
)
from netstack.wire.ipv4 cimport (
    IPV4_HEADER, IPV4_OFFSET_MASK, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_UDPLITE,
    ipv4_source_is_martian, write_ipv4,
)

cdef enum:
    ICMP_TTL = 64                # RFC 1122 section 3.2.1.7, as Linux
    ICMP_TOS_ERROR = 0xc0        # internetwork control (RFC 1812 section 4.3.2.5, as Linux)
    QUOTE_MAX = 548              # bytes of the packet an error is about: 576 in all (RFC 1812 section 4.3.2.3)
    EMBEDDED_TRANSPORT = 8       # bytes of its transport header an error carries at least (RFC 792)
    SCRATCH_STEP = 2048


# ---- sending ---------------------------------------------------------------

cdef int claim_ipv4(interface_t *ifc, const address_t *src, const address_t *dst, const address_t *next_hop,
                    uint32_t payload_length, uint8_t tos, uint8_t ttl, int64_t now_ns, packet_out_t *out) noexcept nogil:
    """Claim room for an ICMP message and write its IP header; the ICMP header goes to out.ip + 20."""
    cdef int claimed = interface_claim(ifc, next_hop, IPV4_HEADER + ICMP_HEADER, payload_length, now_ns, out)
    if claimed == CLAIM_OK:
        write_ipv4(out.ip, address_v4(src), address_v4(dst), PROTOCOL_ICMP,
                   IPV4_HEADER + ICMP_HEADER + payload_length, tos, ttl, 0, True)
    return claimed


cdef interface_t *way_back(packet_in_t *packet, address_t *next_hop) noexcept nogil:
    """The interface and next hop of an answer to packet."""
    cdef interface_t *ifc = packet.interface
    if ifc.loopback or ifc.route_to == NULL:
        next_hop[0] = packet.src
        return ifc
    return ifc.route_to(ifc.context, &packet.src, next_hop)


cdef DropReason why_not(int claimed) noexcept nogil:
    """The drop reason of an answer that could not be sent; DROP_NONE when the interface counted it already."""
    if claimed == CLAIM_FULL:
        return DROP_TX_FULL
    if claimed == CLAIM_UNREACHABLE:
        return DROP_NEIGHBOR_UNREACHABLE
    return DROP_NONE


cdef bint may_answer(const packet_in_t *packet) noexcept nogil:
    """RFC 1122 section 3.2.2: no error about ICMP errors, broadcasts, pieces that are not the first, or packets whose
    source is no single host."""
    cdef uint8_t type
    if packet.broadcast or not address_is_v4(&packet.src) or (packet.piece and packet.fragment.offset):
        return False
    if not packet.interface.loopback and not packet.interface.kernel_ip and \
            ipv4_source_is_martian(address_v4(&packet.src)):
        return False
    if packet.protocol == PROTOCOL_ICMP:
        if packet.header_bytes <= packet.header_length:
            return False
        type = packet.header[packet.header_length]
        return type == ICMP_ECHO_REPLY or type == ICMP_ECHO_REQUEST
    return True


cdef void icmp_send_unreachable(packet_in_t *about, uint8_t code, int64_t now_ns) noexcept nogil:
    icmp_send_error(about, ICMP_UNREACHABLE, code, 0, now_ns)


cdef void icmp_send_error(packet_in_t *about, uint8_t type, uint8_t code, uint32_t rest, int64_t now_ns) noexcept nogil:
    cdef interface_t *ifc
    cdef address_t next_hop
    cdef packet_out_t out
    cdef uint32_t quoted = about.length if about.length < QUOTE_MAX else QUOTE_MAX
    cdef DropReason reason
    cdef int claimed
    if not may_answer(about):
        return
    if not icmp_may_send(about.interface.ip, &about.src, now_ns):
        drop(about.interface.counters, DROP_ICMP_RATE)
        return
    ifc = way_back(about, &next_hop)
    if ifc == NULL:
        drop(about.interface.counters, DROP_IP_NO_ROUTE)
        return
    if quoted > ifc.mtu - IPV4_HEADER - ICMP_HEADER:
        quoted = ifc.mtu - IPV4_HEADER - ICMP_HEADER
    claimed = claim_ipv4(ifc, &about.dst, &about.src, &next_hop, quoted, ICMP_TOS_ERROR, ICMP_TTL, now_ns, &out)
    if claimed != CLAIM_OK:
        reason = why_not(claimed)
        if reason != DROP_NONE:
            drop(ifc.counters, reason)
        return
    write_icmp(out.ip + IPV4_HEADER, type, code, <uint16_t> (rest >> 16), <uint16_t> rest,
               packet_copy(about, 0, out.body, quoted))
    interface_commit(&out, now_ns)
    ifc.counters.icmp_out += 1


cdef int icmp_send_echo(interface_t *ifc, const address_t *src, const address_t *dst, const address_t *next_hop,
                        uint16_t identifier, uint16_t sequence, const uint8_t *payload, uint32_t length,
                        uint8_t ttl, int64_t now_ns) noexcept nogil:
    cdef packet_out_t out
    cdef int claimed = claim_ipv4(ifc, src, dst, next_hop, length, 0, ttl, now_ns, &out)
    if claimed != CLAIM_OK:
        return claimed
    write_icmp(out.ip + IPV4_HEADER, ICMP_ECHO_REQUEST, 0, identifier, sequence,
               checksum_and_copy(out.body, payload, length))
    interface_commit(&out, now_ns)
    ifc.counters.icmp_out += 1
    return CLAIM_OK


# ---- input -----------------------------------------------------------------

cdef int icmp_unreachable_errno(uint8_t code) noexcept nogil:
    """As Linux's icmp_err_convert."""
    if code == 0:
        return ENETUNREACH
    if code == 1 or code == 12:
        return EHOSTUNREACH
    if code == 2:
        return ENOPROTOOPT | ICMP_HARD
    if code == 3:
        return ECONNREFUSED | ICMP_HARD
    if code == 4:
        return EMSGSIZE
    if code == 5:
        return EOPNOTSUPP
    if code == 6 or code == 9:
        return ENETUNREACH | ICMP_HARD
    if code == 7:
        return EHOSTDOWN | ICMP_HARD
    if code == 8:
        return ENONET | ICMP_HARD
    if code == 11:
        return ENETUNREACH
    return EHOSTUNREACH | ICMP_HARD



cdef bint own_v4(const interface_t *ifc, address_t *out) noexcept nogil:
    cdef uint32_t i
    for i in range(ifc.address_count):
        if address_is_v4(&ifc.addresses[i]):
            out[0] = ifc.addresses[i]
            return True
    return False


cdef DropReason answer_echo(packet_in_t *packet, const icmp_t *icmp, const uint8_t *payload, uint32_t length,
                            int64_t now_ns) noexcept nogil:
    """Echo reply (RFC 1122 section 3.2.2.6): the payload is summed while it is copied; a bad sum leaves no reply."""
    cdef interface_t *ifc
    cdef address_t next_hop
    cdef packet_out_t out
    cdef uint32_t payload_sum
    cdef int claimed
    cdef address_t src = packet.dst
    if packet.interface.ip.config.echo_ignore_all:
        return DROP_ICMP_TYPE
    if packet.broadcast:         # RFC 1122 section 3.2.2.6 allows silence, and smurf asks for it
        if packet.interface.ip.config.echo_ignore_broadcasts or not own_v4(packet.interface, &src):
            return DROP_ICMP_TYPE
    ifc = way_back(packet, &next_hop)
    if ifc == NULL:
        return DROP_IP_NO_ROUTE
    if IPV4_HEADER + ICMP_HEADER + length > ifc.mtu:
        return answer_large_echo(packet, icmp, payload, length, ifc, &src, &next_hop, now_ns)
    claimed = claim_ipv4(ifc, &src, &packet.src, &next_hop, length, packet.tos, ICMP_TTL, now_ns, &out)
    if claimed != CLAIM_OK:
        return why_not(claimed)
    payload_sum = checksum_and_copy(out.body, payload, length)
    if checksum_fold(<uint64_t> icmp.header_sum + payload_sum) != 0xffff:
        return DROP_ICMP_CHECKSUM        # the claim goes unused
    write_icmp(out.ip + IPV4_HEADER, ICMP_ECHO_REPLY, 0, icmp.identifier, icmp.sequence, payload_sum)
    interface_commit(&out, now_ns)
    ifc.counters.icmp_out += 1
    return DROP_NONE


cdef DropReason answer_large_echo(packet_in_t *packet, const icmp_t *icmp, const uint8_t *payload, uint32_t length,
                                  interface_t *ifc, const address_t *src, const address_t *next_hop,
                                  int64_t now_ns) noexcept nogil:
    """One that came in pieces goes back in pieces, from a copy that was summed as a whole."""
    cdef outgoing_t d
    cdef uint8_t head[ICMP_HEADER]
    cdef DropReason reason = private_copy(packet, icmp, payload, length, 0)
    cdef int claimed
    if reason != DROP_NONE:
        return reason
    memset(&d, 0, sizeof(d))
    d.src = src
    d.dst = &packet.src
    d.next_hop = next_hop
    d.protocol = PROTOCOL_ICMP
    d.tos = packet.tos
    d.ttl = ICMP_TTL
    d.mtu = ifc.mtu
    d.head = head
    d.head_length = ICMP_HEADER
    d.body = packet.interface.scratch + ICMP_HEADER
    d.body_length = length
    write_icmp(head, ICMP_ECHO_REPLY, 0, icmp.identifier, icmp.sequence, checksum_partial(d.body, length))
    claimed = ip_send(ifc, &d, now_ns)
    if claimed != CLAIM_OK:
        return why_not(claimed)
    ifc.counters.icmp_out += 1
    return DROP_NONE


cdef DropReason private_copy(packet_in_t *packet, const icmp_t *icmp, const uint8_t *payload,
                             uint32_t length, uint32_t pseudo_sum) noexcept nogil:
    """The message in the interface's own memory, its sum verified over exactly those bytes (and ICMPv6's pseudo header)."""
    cdef interface_t *ifc = packet.interface
    cdef uint32_t need = ICMP_HEADER + length
    cdef uint32_t payload_sum
    if ifc.scratch_size < need:
        free(ifc.scratch)
        ifc.scratch_size = 0
        ifc.scratch = <uint8_t *> malloc((need + SCRATCH_STEP - 1) // SCRATCH_STEP * SCRATCH_STEP)
        if ifc.scratch == NULL:
            return DROP_NO_MEMORY
        ifc.scratch_size = (need + SCRATCH_STEP - 1) // SCRATCH_STEP * SCRATCH_STEP
    checksum_and_copy(ifc.scratch, packet.header + packet.header_length, ICMP_HEADER)
    payload_sum = checksum_and_copy(ifc.scratch + ICMP_HEADER, payload, length)
    if checksum_fold(<uint64_t> icmp.header_sum + payload_sum + pseudo_sum) != 0xffff:
        return DROP_ICMP_CHECKSUM
    return DROP_NONE


cdef DropReason read_embedded(packet_in_t *packet, icmp_message_t *out) noexcept nogil:
    """The packet an error is about: its header and 8 bytes behind it, all inside the message, sent by us."""
    cdef const uint8_t *p = out.payload
    cdef uint32_t header_length
    if out.payload_length < IPV4_HEADER + EMBEDDED_TRANSPORT:
        return DROP_ICMP_LENGTH
    header_length = <uint32_t> (p[0] & 15) << 2
    if p[0] >> 4 != 4 or header_length < IPV4_HEADER:
        return DROP_ICMP_EMBEDDED
    if header_length + EMBEDDED_TRANSPORT > out.payload_length:
        return DROP_ICMP_LENGTH
    if load_be16(p + 2) < header_length + EMBEDDED_TRANSPORT or load_be16(p + 6) & IPV4_OFFSET_MASK:
        return DROP_ICMP_EMBEDDED
    address_from_v4(&out.embedded_src, load_native32(p + 12))
    address_from_v4(&out.embedded_dst, load_native32(p + 16))
    if not interface_has_address(packet.interface, &out.embedded_src) and not packet.interface.loopback and \
            not packet.interface.kernel_ip and not packet.interface.any_address:
        return DROP_ICMP_EMBEDDED
    out.embedded_protocol = p[9]
    out.embedded_length = load_be16(p + 2)
    return read_quoted(out, header_length, ICMP_ECHO_REQUEST if out.embedded_protocol == PROTOCOL_ICMP else -1)


cdef DropReason read_quoted(icmp_message_t *out, uint32_t at, int echo_request) noexcept nogil:
    cdef const uint8_t *p = out.payload + at
    out.quoted = p
    out.quoted_length = out.payload_length - at
    if out.embedded_protocol in (PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_UDPLITE):
        out.embedded_sport = load_be16(p)
        out.embedded_dport = load_be16(p + 2)
        if out.embedded_protocol == PROTOCOL_TCP:
            out.embedded_seq = load_be32(p + 4)
    elif echo_request >= 0:
        if p[0] != echo_request:
            return DROP_ICMP_EMBEDDED
        out.embedded_sport = load_be16(p + 4)        # the identifier: what a ping socket is bound to
    return DROP_NONE


cdef bint is_known_error(const icmp_t *icmp) noexcept nogil:
    """Errors that transports are told of. Redirects are never followed, source quench is dead (RFC 6633)."""
    if icmp.type == ICMP_UNREACHABLE:
        return icmp.code < ICMP_CODES_UNREACHABLE
    if icmp.type == ICMP_TIME_EXCEEDED:
        return icmp.code <= 1
    return icmp.type == ICMP_PARAMETER_PROBLEM and icmp.code <= 2


cdef DropReason icmp_input(packet_in_t *packet, int64_t now_ns, icmp_message_t *out) noexcept nogil:
    cdef const uint8_t *payload
    cdef uint32_t length
    cdef icmp_t icmp
    cdef DropReason reason
    packet.interface.counters.icmp_in += 1
    memset(out, 0, sizeof(icmp_message_t))
    if packet.length - packet.header_length < ICMP_HEADER:
        return DROP_ICMP_LENGTH
    if not packet_payload(packet, ICMP_HEADER, &payload, &length):
        return DROP_LINK_MALFORMED
    parse_icmp(packet.header + packet.header_length, ICMP_HEADER, &icmp)
    out.type = out.wire_type = icmp.type
    out.code = out.wire_code = icmp.code
    out.offender = packet.src
    if icmp.type == ICMP_ECHO_REQUEST:
        return answer_echo(packet, &icmp, payload, length, now_ns)
    if icmp.type != ICMP_ECHO_REPLY and not is_known_error(&icmp):
        return DROP_ICMP_TYPE
    if packet.broadcast:
        return DROP_ICMP_TYPE
    reason = private_copy(packet, &icmp, payload, length, 0)
    if reason != DROP_NONE:
        return reason
    out.payload = packet.interface.scratch + ICMP_HEADER
    out.payload_length = length
    if icmp.type == ICMP_ECHO_REPLY:
        out.identifier = icmp.identifier
        out.sequence = icmp.sequence
        return DROP_NONE
    out.is_error = 1
    if icmp.type == ICMP_UNREACHABLE and icmp.code == ICMP_CODE_FRAGMENTATION:
        out.mtu = icmp.sequence
    elif icmp.type == ICMP_PARAMETER_PROBLEM:
        out.info = icmp.identifier >> 8
    return read_embedded(packet, out)
