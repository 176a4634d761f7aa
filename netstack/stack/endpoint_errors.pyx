"""What an ICMP error does to a socket without connections, as Linux does it (udp(7), ip(7)).

With IP_RECVERR every error goes into the error queue, with who said it and what was quoted, and is pending. Without, only a
connected socket hears, and only of errors that will not go away by themselves (RFC 1122 section 4.1.3.3, RFC 5927).
"""

from libc.errno cimport EACCES, ECONNREFUSED, EHOSTUNREACH, EMSGSIZE, EPROTO
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from netstack.address cimport address_equal, address_is_any, address_is_v4, address_t, endpoint_t
from netstack.clock cimport NS_PER_S
from netstack.demux cimport demux_datagram, demux_first
from netstack.ip.icmp cimport ICMP_HARD, icmp_unreachable_errno
from netstack.sock cimport (
    EVENT_ERR, EVENT_IN, EVENT_OUT, SF_V6, SOCK_PING, SOCK_RAW, SOCK_UDP, SOCK_UDPLITE, kind_is_udp, sock_event, sock_t,
)
from netstack.tcp.mtu cimport MTU_FLOOR_V4, MTU_FLOOR_V6, path_mtu_learn
from netstack.udp.endpoint cimport (
    EM_HEADER_INCLUDED, ORIGIN_ICMP, ORIGIN_ICMP6, PMTU_DONT, PMTU_INTERFACE, PMTU_OMIT, WANT_ERRORS, WANT_ERRORS6, arrival_t,
    endpoint_error, udp_endpoint_t,
)
from netstack.wire.icmp cimport (
    ICMP_CODE_FRAGMENTATION, ICMP_PARAMETER_PROBLEM, ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE,
)
from netstack.wire.ipv4 cimport PROTOCOL_ICMP, PROTOCOL_UDP, PROTOCOL_UDPLITE
from netstack.wire.ipv6 cimport PROTOCOL_ICMPV6

cdef enum:
    REPORT_S = 60                # how long after a datagram a report about it can still come
    PLATEAUS = 10

# What routers that name no size may have meant (RFC 1191 section 7.1).
cdef uint16_t[10] PLATEAU
PLATEAU[:] = [65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296]


cdef uint32_t reported_mtu(const icmp_message_t *m) noexcept nogil:
    cdef uint32_t i
    if m.mtu:
        return m.mtu
    for i in range(<uint32_t> PLATEAUS):
        if PLATEAU[i] < m.embedded_length:
            return PLATEAU[i]
    return 0


cdef void believe_mtu(stack_t *stack, const udp_endpoint_t *ep, const icmp_message_t *m, uint32_t mtu) noexcept nogil:
    """A report is believed about a datagram this socket did send of late, which was larger than it says, and only down to
    what every path carries (security row C11; RFC 5927 section 7)."""
    cdef uint32_t floor = MTU_FLOOR_V4 if address_is_v4(&m.embedded_dst) else MTU_FLOOR_V6
    if mtu < floor or ep.big_length <= mtu or not address_equal(&ep.big_dst, &m.embedded_dst) or \
            stack.tcp.now_ns - ep.big_ns > <int64_t> REPORT_S * NS_PER_S or m.embedded_length > ep.big_length or \
            m.embedded_length <= mtu:
        return
    if ep.pmtu_discovery == PMTU_INTERFACE or ep.pmtu_discovery == PMTU_OMIT:
        return
    path_mtu_learn(&stack.tcp, &m.embedded_dst, mtu)
    stack.tcp.counters.ip_pmtu_lowered += 1


cdef void tell(stack_t *stack, udp_endpoint_t *ep, const icmp_message_t *m) noexcept nogil:
    cdef arrival_t how
    cdef endpoint_t to
    cdef int error = EHOSTUNREACH
    cdef bint hard = False
    cdef uint32_t info = 0
    cdef const uint8_t *quoted = m.quoted
    cdef uint32_t length = m.quoted_length
    stack.tcp.counters.icmp_errors_in += 1
    if m.type == ICMP_PARAMETER_PROBLEM:
        error = EPROTO
        hard = True
        info = m.info
    elif m.type == ICMP_UNREACHABLE and m.code == ICMP_CODE_FRAGMENTATION:
        info = reported_mtu(m)
        believe_mtu(stack, ep, m, info)
        if ep.pmtu_discovery == PMTU_DONT:
            return
        error = EMSGSIZE
        hard = True
    elif m.error:                                      # of ICMPv6: the port, and what is forbidden, is for good
        error = m.error
        hard = error == ECONNREFUSED or error == EACCES
    elif m.type == ICMP_UNREACHABLE:
        error = icmp_unreachable_errno(m.code)
        hard = error & ICMP_HARD != 0
        error &= ~ICMP_HARD
    if ep.wants & (WANT_ERRORS if address_is_v4(&m.embedded_dst) else WANT_ERRORS6):
        memset(&how, 0, sizeof(how))
        how.origin = ORIGIN_ICMP if address_is_v4(&m.embedded_dst) else ORIGIN_ICMP6
        how.type = m.wire_type
        how.code = m.wire_code
        how.error = error
        how.info = info
        how.dst = m.embedded_src
        how.offender = m.offender
        to.address = m.embedded_dst
        to.port = m.embedded_dport if kind_is_udp(ep.sock.kind) else 0
        if kind_is_udp(ep.sock.kind):
            quoted += 8
            length -= 8
        elif ep.modes & EM_HEADER_INCLUDED:
            quoted = m.payload
            length = m.payload_length
        endpoint_error(ep, &stack.tcp.events, &to, quoted, length, &how)
    elif not hard or not ep.connected:
        return
    ep.sock.error = error
    sock_event(&stack.tcp.events, &ep.sock, EVENT_IN | EVENT_OUT | EVENT_ERR)


cdef bint endpoint_icmp_error(stack_t *stack, const icmp_message_t *m) noexcept nogil:
    cdef udp_endpoint_t *ep = NULL
    cdef sock_t *sock
    cdef bint found = False
    if m.embedded_protocol == PROTOCOL_UDP or m.embedded_protocol == PROTOCOL_UDPLITE:
        ep = demux_datagram(&stack.demux, &stack.tcp, SOCK_UDP if m.embedded_protocol == PROTOCOL_UDP else SOCK_UDPLITE,
                            &m.embedded_src, m.embedded_sport, &m.embedded_dst, m.embedded_dport)
    elif m.embedded_protocol == PROTOCOL_ICMP or m.embedded_protocol == PROTOCOL_ICMPV6:
        ep = demux_datagram(&stack.demux, &stack.tcp, SOCK_PING, &m.embedded_src, m.embedded_sport, &m.embedded_dst, 0)
    if ep != NULL:
        tell(stack, ep, m)
        found = True
    sock = demux_first(&stack.demux, SOCK_RAW, m.embedded_protocol)
    while sock != NULL:
        ep = <udp_endpoint_t *> sock
        if sock.kind == SOCK_RAW and ep.lport == m.embedded_protocol and \
                address_is_v4(&m.embedded_src) == (sock.flags & SF_V6 == 0) and \
                (address_is_any(&ep.local) or address_equal(&ep.local, &m.embedded_src)) and \
                (not ep.connected or address_equal(&ep.remote, &m.embedded_dst)):
            tell(stack, ep, m)
            found = True
        sock = sock.bind_next
    return found
