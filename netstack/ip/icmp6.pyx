# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""ICMPv6: what is answered, what is reported, what is believed. The checksum is verified in every case."""

from libc.errno cimport EACCES, ECONNREFUSED, EHOSTUNREACH, EMSGSIZE, ENETUNREACH, EPROTO
from libc.stdint cimport uint64_t
from libc.string cimport memset

from netstack.address cimport address_is_multicast6, address_is_unspecified6, address_set_zone
from netstack.counters cimport (
    DROP_ICMP_CHECKSUM, DROP_ICMP_EMBEDDED, DROP_ICMP_LENGTH, DROP_ICMP_RATE, DROP_ICMP_TYPE, DROP_IP_NO_ROUTE,
    DROP_IP_SOURCE, DROP_LINK_MALFORMED, DROP_ND_INVALID, DROP_ND_ON_CHANNEL, DROP_NONE, drop,
)
from netstack.ip.icmp cimport ICMP_CONSUMED, private_copy, read_quoted, way_back, why_not
from netstack.ip.interface cimport (
    CLAIM_OK, interface_claim, interface_commit, interface_has_address, packet_copy, packet_out_t,
    packet_payload,
)
from netstack.ip.ipv6 cimport ipv6_transport
from netstack.ip.ndp cimport ndp_input
from netstack.ip.output cimport ip_send, outgoing_t
from netstack.ip.shared cimport icmp_may_send
from netstack.ip.source cimport source_address
from netstack.wire.byte_order cimport load_be32
from netstack.wire.checksum cimport checksum_and_copy, checksum_fold, checksum_partial, checksum_pseudo
from netstack.wire.icmp cimport (
    ICMP_CODE_FRAGMENTATION, ICMP_CODE_HOST, ICMP_CODE_NET, ICMP_CODE_PORT, ICMP_ECHO_REPLY, ICMP_HEADER,
    ICMP_PARAMETER_PROBLEM, ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE, icmp_t, parse_icmp,
)
from netstack.wire.icmp6 cimport (
    ICMP6_BAD_OPTION, ICMP6_ECHO_REPLY, ICMP6_ECHO_REQUEST, ICMP6_NO_ROUTE, ICMP6_PARAMETER_PROBLEM, ICMP6_POLICY,
    ICMP6_PORT, ICMP6_PROHIBITED, ICMP6_REJECT, ICMP6_TIME_EXCEEDED, ICMP6_TOO_BIG, ICMP6_UNREACHABLE, MLD_DONE_V1,
    MLD_QUERY, MLD_REPORT_V2, ND_REDIRECT, ND_ROUTER_SOLICITATION, write_icmp6,
)
from netstack.wire.ipv6 cimport IPV6_HEADER, IPV6_MIN_MTU, PROTOCOL_ICMPV6, ipv6_t, parse_ipv6, write_ipv6

cdef enum:
    HOP_LIMIT = 64               # as Linux
    QUOTE_MAX = IPV6_MIN_MTU - IPV6_HEADER - ICMP_HEADER     # an error is not larger than 1,280 bytes (RFC 4443 2.4 c)
    EMBEDDED_TRANSPORT = 8       # bytes of its transport header that say which socket a packet came from
    FIRST_INFORMATION = 128      # types below are errors


# ---- sending ---------------------------------------------------------------

cdef int claim(interface_t *ifc, const address_t *src, const address_t *dst, const address_t *next_hop,
               uint32_t payload_length, uint8_t traffic_class, uint8_t hop_limit, int64_t now_ns,
               packet_out_t *out) noexcept nogil:
    """Room for a message and its IP header; the ICMPv6 header goes to out.ip + 40."""
    cdef int claimed = interface_claim(ifc, next_hop, IPV6_HEADER + ICMP_HEADER, payload_length, now_ns, out)
    if claimed == CLAIM_OK:
        write_ipv6(out.ip, src, dst, PROTOCOL_ICMPV6, ICMP_HEADER + payload_length, traffic_class, hop_limit, 0)
    return claimed


cdef void finish(packet_out_t *out, const address_t *src, const address_t *dst, uint8_t type, uint8_t code, uint32_t word,
                 uint32_t payload_length, uint32_t payload_sum, int64_t now_ns) noexcept nogil:
    write_icmp6(out.ip + IPV6_HEADER, type, code, word, payload_sum,
                checksum_pseudo(src, dst, PROTOCOL_ICMPV6, ICMP_HEADER + payload_length))
    interface_commit(out, now_ns)
    out.interface.counters.icmp_out += 1


cdef bint about_an_error(const packet_in_t *about) noexcept nogil:
    """Is that packet an ICMPv6 error or a redirect, as far as can be seen in the private copy?"""
    cdef uint8_t protocol = <uint8_t> about.protocol, type
    cdef uint32_t at = about.header_length
    if about.problem and not ipv6_transport(about.header, about.header_bytes, &protocol, &at):
        return False
    if protocol != PROTOCOL_ICMPV6:
        return False
    if about.header_bytes <= at:
        return True              # the type cannot be seen: be silent
    type = about.header[at]
    return type < FIRST_INFORMATION or type == ND_REDIRECT


cdef void icmp6_send_error(packet_in_t *about, uint8_t type, uint8_t code, uint32_t word, int64_t now_ns) noexcept nogil:
    cdef interface_t *ifc
    cdef address_t next_hop, source = about.dst
    cdef packet_out_t out
    cdef uint32_t quoted = about.length + about.skipped
    cdef DropReason reason
    cdef int claimed
    if address_is_unspecified6(&about.src) or address_is_multicast6(&about.src) or about_an_error(about):
        return
    if about.broadcast and not (type == ICMP6_PARAMETER_PROBLEM and code == ICMP6_BAD_OPTION):
        return
    if not icmp_may_send(about.interface.ip, &about.src, now_ns):
        drop(about.interface.counters, DROP_ICMP_RATE)
        return
    ifc = way_back(about, &next_hop)
    if ifc == NULL or (address_is_multicast6(&source) and not source_address(ifc, &about.src, now_ns, &source)):
        drop(about.interface.counters, DROP_IP_NO_ROUTE)
        return
    if quoted > QUOTE_MAX:
        quoted = QUOTE_MAX
    claimed = claim(ifc, &source, &about.src, &next_hop, quoted, 0, HOP_LIMIT, now_ns, &out)
    if claimed != CLAIM_OK:
        reason = why_not(claimed)
        if reason != DROP_NONE:
            drop(ifc.counters, reason)
        return
    finish(&out, &source, &about.src, type, code, word, quoted, packet_copy(about, 0, out.body, quoted), now_ns)


cdef void icmp6_send_problem(packet_in_t *about, int64_t now_ns) noexcept nogil:
    icmp6_send_error(about, ICMP6_PARAMETER_PROBLEM, <uint8_t> (about.problem - 1), about.problem_at, now_ns)


cdef int icmp6_send_echo(interface_t *ifc, const address_t *src, const address_t *dst, const address_t *next_hop,
                         uint16_t identifier, uint16_t sequence, const uint8_t *payload, uint32_t length,
                         uint8_t hop_limit, uint8_t traffic_class, int64_t now_ns) noexcept nogil:
    cdef packet_out_t out
    cdef int claimed = claim(ifc, src, dst, next_hop, length, traffic_class, hop_limit, now_ns, &out)
    if claimed == CLAIM_OK:
        finish(&out, src, dst, ICMP6_ECHO_REQUEST, 0, <uint32_t> identifier << 16 | sequence, length,
               checksum_and_copy(out.body, payload, length), now_ns)
    return claimed


# ---- input -----------------------------------------------------------------

cdef DropReason answer_echo(packet_in_t *packet, const icmp_t *icmp, const uint8_t *payload, uint32_t length,
                            uint32_t pseudo, int64_t now_ns) noexcept nogil:
    """Echo reply (RFC 4443 section 4.2): the payload is summed while it is copied; a bad sum leaves no reply."""
    cdef interface_t *ifc
    cdef address_t next_hop, source = packet.dst
    cdef packet_out_t out
    cdef uint32_t payload_sum
    cdef int claimed
    if address_is_unspecified6(&packet.src):
        return DROP_IP_SOURCE
    if packet.interface.conf.echo_ignore_all:
        return DROP_ICMP_TYPE
    if packet.broadcast and (packet.interface.conf.echo_ignore_multicast or not address_is_multicast6(&packet.dst)):
        return DROP_ICMP_TYPE            # RFC 4443 would like an answer, who is flooded by them would not (row G3)
    ifc = way_back(packet, &next_hop)
    if ifc == NULL or (packet.broadcast and not source_address(ifc, &packet.src, now_ns, &source)):
        return DROP_IP_NO_ROUTE
    if IPV6_HEADER + ICMP_HEADER + length > ifc.mtu:
        return answer_in_pieces(packet, ifc, &source, &next_hop, icmp, payload, length, pseudo, now_ns)
    claimed = claim(ifc, &source, &packet.src, &next_hop, length, packet.tos, HOP_LIMIT, now_ns, &out)
    if claimed != CLAIM_OK:
        return why_not(claimed)
    payload_sum = checksum_and_copy(out.body, payload, length)
    if checksum_fold(<uint64_t> icmp.header_sum + payload_sum + pseudo) != 0xffff:
        return DROP_ICMP_CHECKSUM        # the claim goes unused
    finish(&out, &source, &packet.src, ICMP6_ECHO_REPLY, 0, <uint32_t> icmp.identifier << 16 | icmp.sequence, length,
           payload_sum, now_ns)
    return DROP_NONE


cdef DropReason answer_in_pieces(packet_in_t *packet, interface_t *ifc, const address_t *source, const address_t *next_hop,
                                 const icmp_t *icmp, const uint8_t *payload, uint32_t length, uint32_t pseudo,
                                 int64_t now_ns) noexcept nogil:
    """What came in fragments is answered in fragments."""
    cdef outgoing_t d
    cdef uint8_t head[ICMP_HEADER]
    cdef uint32_t payload_sum
    cdef DropReason reason = private_copy(packet, icmp, payload, length, pseudo)
    cdef int sent
    if reason != DROP_NONE:
        return reason
    payload_sum = checksum_partial(packet.interface.scratch + ICMP_HEADER, length)
    write_icmp6(head, ICMP6_ECHO_REPLY, 0, <uint32_t> icmp.identifier << 16 | icmp.sequence, payload_sum,
                checksum_pseudo(source, &packet.src, PROTOCOL_ICMPV6, ICMP_HEADER + length))
    memset(&d, 0, sizeof(d))
    d.src = source
    d.dst = &packet.src
    d.next_hop = next_hop
    d.protocol = PROTOCOL_ICMPV6
    d.tos = packet.tos
    d.ttl = HOP_LIMIT
    d.mtu = ifc.mtu
    d.head = head
    d.head_length = ICMP_HEADER
    d.body = packet.interface.scratch + ICMP_HEADER
    d.body_length = length
    sent = ip_send(ifc, &d, now_ns)
    if sent != CLAIM_OK:
        return why_not(sent)
    ifc.counters.icmp_out += 1
    return DROP_NONE


cdef DropReason read_embedded(packet_in_t *packet, icmp_message_t *out) noexcept nogil:
    """The packet an error is about: an IPv6 header of ours and 8 bytes of a transport's behind it."""
    cdef ipv6_t ip
    cdef const uint8_t *p = out.payload
    cdef uint32_t at
    if out.payload_length < IPV6_HEADER + EMBEDDED_TRANSPORT:
        return DROP_ICMP_LENGTH
    if parse_ipv6(p, IPV6_HEADER + 65535, &ip) != DROP_NONE or ip.total_length < IPV6_HEADER + EMBEDDED_TRANSPORT:
        return DROP_ICMP_EMBEDDED
    if not packet.interface.loopback:
        address_set_zone(&ip.src, packet.interface.index + 1)
        address_set_zone(&ip.dst, packet.interface.index + 1)
        if not interface_has_address(packet.interface, &ip.src) and not packet.interface.kernel_ip and \
                not packet.interface.any_address:
            return DROP_ICMP_EMBEDDED
    if not ipv6_transport(p, out.payload_length, &out.embedded_protocol, &at) or \
            at + EMBEDDED_TRANSPORT > out.payload_length or at + EMBEDDED_TRANSPORT > ip.total_length:
        return DROP_ICMP_EMBEDDED
    out.embedded_src = ip.src
    out.embedded_dst = ip.dst
    out.embedded_length = ip.total_length
    return read_quoted(out, at, ICMP6_ECHO_REQUEST if out.embedded_protocol == PROTOCOL_ICMPV6 else -1)


cdef DropReason translate(const uint8_t *message, icmp_message_t *out) noexcept nogil:
    """An error in ICMP's numbers, and the errno number as Linux has it. Unknown errors are passed to the upper layer all the
    same (RFC 4443 section 2.4 a), which makes nothing of them."""
    cdef uint8_t type = message[0], code = message[1]
    out.is_error = 1
    out.wire_type = type
    out.wire_code = code
    out.type = ICMP_UNREACHABLE
    out.code = ICMP_CODE_HOST
    out.error = EHOSTUNREACH
    if type == ICMP6_UNREACHABLE:
        if code == ICMP6_PORT:
            out.code = ICMP_CODE_PORT
            out.error = ECONNREFUSED
        elif code == ICMP6_NO_ROUTE:
            out.code = ICMP_CODE_NET
            out.error = ENETUNREACH
        elif code == ICMP6_PROHIBITED or code == ICMP6_POLICY or code == ICMP6_REJECT:
            out.error = EACCES
    elif type == ICMP6_TOO_BIG:
        out.code = ICMP_CODE_FRAGMENTATION
        out.error = EMSGSIZE
        out.mtu = load_be32(message + 4)
    elif type == ICMP6_TIME_EXCEEDED:
        out.type = ICMP_TIME_EXCEEDED
        out.code = code
    elif type == ICMP6_PARAMETER_PROBLEM:
        out.type = ICMP_PARAMETER_PROBLEM
        out.code = code
        out.error = EPROTO
        out.info = load_be32(message + 4)
    else:
        return DROP_ICMP_TYPE
    return DROP_NONE


cdef DropReason icmp6_input(packet_in_t *packet, int64_t now_ns, icmp_message_t *out) noexcept nogil:
    cdef const uint8_t *payload
    cdef uint32_t length, pseudo, size = packet.length - packet.header_length
    cdef icmp_t icmp
    cdef DropReason reason
    packet.interface.counters.icmp_in += 1
    memset(out, 0, sizeof(icmp_message_t))
    if size < ICMP_HEADER:
        return DROP_ICMP_LENGTH
    if not packet_payload(packet, ICMP_HEADER, &payload, &length):
        return DROP_LINK_MALFORMED
    parse_icmp(packet.header + packet.header_length, ICMP_HEADER, &icmp)
    pseudo = checksum_pseudo(&packet.src, &packet.dst, PROTOCOL_ICMPV6, size)
    if icmp.type == ICMP6_ECHO_REQUEST:
        out.type = ICMP_CONSUMED
        return answer_echo(packet, &icmp, payload, length, pseudo, now_ns)
    reason = private_copy(packet, &icmp, payload, length, pseudo)
    if reason != DROP_NONE:
        return reason
    out.payload = packet.interface.scratch + ICMP_HEADER
    out.payload_length = length
    if (ND_ROUTER_SOLICITATION <= icmp.type <= ND_REDIRECT) or (MLD_QUERY <= icmp.type <= MLD_DONE_V1) or \
            icmp.type == MLD_REPORT_V2:
        out.type = ICMP_CONSUMED
        if packet.interface.ip6 == NULL or not packet.interface.ip6.running:
            return DROP_ND_ON_CHANNEL
        if packet.fragmented:
            return DROP_ND_INVALID       # RFC 6980
        return ndp_input(packet, packet.interface.scratch, size, now_ns)
    if address_is_unspecified6(&packet.src):
        return DROP_IP_SOURCE
    if packet.broadcast:
        return DROP_ICMP_TYPE
    if icmp.type == ICMP6_ECHO_REPLY:
        out.type = ICMP_ECHO_REPLY
        out.identifier = icmp.identifier
        out.sequence = icmp.sequence
        return DROP_NONE
    out.offender = packet.src
    reason = translate(packet.interface.scratch, out)
    if reason != DROP_NONE:
        return reason
    return read_embedded(packet, out)
