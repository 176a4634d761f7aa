"""Datagrams and ICMP: what arrives finds its socket; errors, and neighbours that do not answer, find who they concern."""

from libc.errno cimport EACCES, ECONNREFUSED, EHOSTUNREACH, EPROTO
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from netstack.address cimport address_equal, address_from_v4, address_is_any, address_is_v4, address_set_zone, address_t
from netstack.counters cimport (
    DROP_LINK_MALFORMED, DROP_NONE, DROP_UDP_CHECKSUM, DROP_UDP_LENGTH, DROP_UDP_NO_PORT, DROP_UDPLITE_COVERAGE, DropReason,
)
from netstack.demux cimport as_tcb, demux_datagram, demux_find, demux_hash
from netstack.ip.icmp cimport (
    ICMP_HARD, icmp_input, icmp_message_t, icmp_send_unreachable, icmp_unreachable_errno,
)
from netstack.ip.icmp6 cimport icmp6_input, icmp6_send_error
from netstack.ip.interface cimport interface_t, packet_in_t, packet_payload
from netstack.ip.ipv6 cimport ipv6_transport
from netstack.link.link cimport LINK_CHECKSUM_TRUSTED
from netstack.sock cimport (
    EVENT_ERR, EVENT_IN, EVENT_OUT, SF_V6ONLY, SOCK_PING, SOCK_TCP, SOCK_UDP, SOCK_UDPLITE, sock_event,
)
from netstack.stack.core cimport stack_t
from netstack.stack.endpoint_errors cimport endpoint_icmp_error
from netstack.stack.multicast cimport multicast_wanted
from netstack.stack.raw cimport arrival_of
from netstack.tcp.connection cimport connection_abort
from netstack.tcp.mtu cimport mtu_reported
from netstack.tcp.recovery cimport recovery_resend
from netstack.tcp.seq cimport seq_ge, seq_lt
from netstack.tcp.tcb cimport ESTABLISHED, SYN_SENT, tcb_t
from netstack.udp.endpoint cimport EM_RECEIVE_COVERAGE, arrival_t, udp_deliver, udp_endpoint_t
from netstack.wire.byte_order cimport load_be16, load_be32, load_native32
from netstack.wire.checksum cimport checksum_fold, checksum_partial
from netstack.wire.icmp cimport ICMP_CODE_FRAGMENTATION, ICMP_PARAMETER_PROBLEM, ICMP_UNREACHABLE
from netstack.wire.ipv4 cimport PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_UDPLITE
from netstack.wire.icmp6 cimport ICMP6_PORT, ICMP6_UNREACHABLE
from netstack.wire.ipv6 cimport PROTOCOL_ICMPV6, ipv6_t, parse_ipv6
from netstack.wire.udp cimport parse_udp, parse_udplite, udp_partial, udp_t

# --- in ---------------------------------------------------------------------------------------------------------------

cdef DropReason udp_input(stack_t *stack, packet_in_t *packet) noexcept nogil:
    """A datagram of UDP or of UDP-Lite."""
    cdef udp_t h
    cdef bint lite = packet.protocol == PROTOCOL_UDPLITE
    cdef uint8_t kind = SOCK_UDPLITE if lite else SOCK_UDP
    cdef const uint8_t *payload
    cdef uint32_t length, i
    cdef udp_endpoint_t *ep
    cdef int64_t partial
    cdef arrival_t how
    cdef DropReason reason
    stack.tcp.counters.udp_in += not lite
    stack.tcp.counters.udplite_in += lite
    if packet.length < packet.header_length + 8:
        return DROP_UDP_LENGTH
    if packet.header_bytes < packet.header_length + 8 or not packet_payload(packet, 8, &payload, &length):
        return DROP_LINK_MALFORMED
    if lite:
        reason = parse_udplite(packet.header + packet.header_length, packet.length - packet.header_length, &h)
    else:
        reason = parse_udp(packet.header + packet.header_length, packet.length - packet.header_length, &h)
    if reason != DROP_NONE:
        return reason
    if not h.has_checksum and not address_is_v4(&packet.dst):
        return DROP_UDP_CHECKSUM                       # RFC 8200 section 8.1: discard, log
    partial = udp_partial(&h, &packet.src, &packet.dst)
    if packet.interface.link.capabilities & LINK_CHECKSUM_TRUSTED and not packet.reassembled:
        partial = -1
    arrival_of(packet, &how)
    if packet.broadcast:
        # Every socket bound to the port gets a copy (RFC 1122 section 4.1.3.3 lets it).
        reason = DROP_UDP_NO_PORT
        for i in range(stack.sock_count):
            if stack.socks[i].kind == kind:
                ep = <udp_endpoint_t *> stack.socks[i]
                if ep.lport == h.dport and hears_group(ep, packet, h.sport):
                    reason = deliver(stack, ep, &packet.src, &h, payload, partial, &how)
        return reason
    ep = demux_datagram(&stack.demux, &stack.tcp, kind, &packet.dst, h.dport, &packet.src, h.sport)
    if ep == NULL:
        if partial >= 0 and checksum_fold(<uint64_t> partial + checksum_partial(payload, h.coverage - 8)) != 0xffff:
            return DROP_UDP_CHECKSUM                   # no answer to what may not have been meant for us
        if address_is_v4(&packet.dst):
            icmp_send_unreachable(packet, 3, stack.tcp.now_ns)
        else:
            icmp6_send_error(packet, ICMP6_UNREACHABLE, ICMP6_PORT, 0, stack.tcp.now_ns)
        return DROP_UDP_NO_PORT
    return deliver(stack, ep, &packet.src, &h, payload, partial, &how)


cdef DropReason deliver(stack_t *stack, udp_endpoint_t *ep, const address_t *src, const udp_t *h, const uint8_t *payload,
                        int64_t partial, const arrival_t *how) noexcept nogil:
    """As udplite(7): a datagram that is covered in part has at least the coverage that the socket asks for, if it does."""
    if ep.modes & EM_RECEIVE_COVERAGE and h.coverage < h.length and (
            ep.receive_coverage == 0 or h.coverage < ep.receive_coverage):
        return DROP_UDPLITE_COVERAGE
    return udp_deliver(ep, &stack.tcp.events, src, h.sport, payload, h.length - 8, h.coverage - 8, partial, how)


cdef bint hears_group(const udp_endpoint_t *ep, const packet_in_t *packet, uint16_t sport) noexcept nogil:
    """Is a broadcast or multicast datagram for this socket? One that is bound to an address hears that of the datagram
    alone; a connected one hears its peer."""
    if ep.connected and (ep.rport != sport or not address_equal(&ep.remote, &packet.src)):
        return False
    if not address_is_any(&ep.local):
        if not address_equal(&ep.local, &packet.dst):
            return False
    elif address_is_v4(&packet.dst):
        if not address_is_v4(&ep.local) and ep.sock.flags & SF_V6ONLY:
            return False
    elif address_is_v4(&ep.local):
        return False
    return multicast_wanted(ep, packet)


cdef DropReason icmp_arrives(stack_t *stack, packet_in_t *packet) noexcept nogil:
    cdef icmp_message_t m
    cdef udp_endpoint_t *ep
    cdef arrival_t how
    cdef DropReason reason
    if packet.protocol == PROTOCOL_ICMPV6:
        reason = icmp6_input(packet, stack.tcp.now_ns, &m)
    else:
        reason = icmp_input(packet, stack.tcp.now_ns, &m)
    if reason != DROP_NONE:
        return reason
    if m.type == 0 and not m.is_error:
        ep = demux_datagram(&stack.demux, &stack.tcp, SOCK_PING, &packet.dst, m.identifier, &packet.src, 0)
        if ep == NULL:
            return DROP_UDP_NO_PORT
        arrival_of(packet, &how)
        return udp_deliver(ep, &stack.tcp.events, &packet.src, 0, m.payload - 8, m.payload_length + 8, 0, -1, &how)
    if m.is_error:
        icmp_error(stack, &m)
    return DROP_NONE


cdef void too_big(stack_t *stack, const icmp_message_t *m) noexcept nogil:
    """A router could not pass a packet on (RFC 1191 section 4). Only a connection that has sent such a one believes it."""
    cdef void *p
    p = demux_find(
        &stack.demux,
        demux_hash(&stack.tcp, &m.embedded_src, &m.embedded_dst, m.embedded_sport, m.embedded_dport),
        &m.embedded_src, &m.embedded_dst, m.embedded_sport, m.embedded_dport)
    if as_tcb(p) != NULL and (<tcb_t *> p).state >= ESTABLISHED and \
            mtu_reported(<tcb_t *> p, m.mtu, m.embedded_seq):
        recovery_resend(<tcb_t *> p)


cdef void icmp_error(stack_t *stack, const icmp_message_t *m) noexcept nogil:
    """An error about a packet of ours. TCP takes it as advice once a connection stands (RFC 5927), and only when the
    sequence number it quotes is outstanding; a connected datagram socket reports it."""
    cdef void *p
    cdef tcb_t *tcb
    cdef int error = EHOSTUNREACH
    cdef bint hard = m.type == ICMP_UNREACHABLE and m.error in (ECONNREFUSED, EACCES)      # those of IPv6; as Linux
    if m.embedded_protocol != PROTOCOL_TCP:
        endpoint_icmp_error(stack, m)
        return
    if m.type == ICMP_UNREACHABLE and m.code == ICMP_CODE_FRAGMENTATION:
        too_big(stack, m)
        return
    if m.error:
        error = m.error
    elif m.type == ICMP_UNREACHABLE:
        error = icmp_unreachable_errno(m.code)
        hard = error & ICMP_HARD != 0
        error &= ~ICMP_HARD
    elif m.type == ICMP_PARAMETER_PROBLEM:
        error = EPROTO
    p = demux_find(
        &stack.demux,
        demux_hash(&stack.tcp, &m.embedded_src, &m.embedded_dst, m.embedded_sport, m.embedded_dport),
        &m.embedded_src, &m.embedded_dst, m.embedded_sport, m.embedded_dport)
    if as_tcb(p) == NULL:                              # nor half-open: what it sends ends by itself
        return
    tcb = <tcb_t *> p
    if (seq_lt(m.embedded_seq, tcb.snd_una) or seq_ge(m.embedded_seq, tcb.snd_nxt)) and not (
            tcb.state == SYN_SENT and m.embedded_seq == tcb.iss):
        return
    stack.tcp.counters.icmp_errors_in += 1
    if tcb.state == SYN_SENT and hard:
        connection_abort(tcb, error, False)
    else:
        tcb.soft_error = error


# --- out --------------------------------------------------------------------------------------------------------------

cdef void wake_datagram_waiters(stack_t *stack) noexcept nogil:
    """Links have drained: datagram sockets that found them full may try again."""
    cdef uint32_t i
    stack.datagram_waiters = 0
    for i in range(stack.sock_count):
        if stack.socks[i].kind != SOCK_TCP:
            sock_event(&stack.tcp.events, stack.socks[i], EVENT_OUT)


cdef bint read_sent(const interface_t *ifc, const uint8_t *packet, uint32_t length, icmp_message_t *m) noexcept nogil:
    """Whose packet is it, of those we sent? False: it names no ports."""
    cdef ipv6_t ip
    cdef uint32_t at
    memset(m, 0, sizeof(icmp_message_t))
    if length < 28:
        return False
    if packet[0] >> 4 == 4:
        at = (packet[0] & 15) * 4
        m.embedded_protocol = packet[9]
        address_from_v4(&m.embedded_src, load_native32(packet + 12))
        address_from_v4(&m.embedded_dst, load_native32(packet + 16))
    else:
        if parse_ipv6(packet, length, &ip) != DROP_NONE or not ipv6_transport(packet, length, &m.embedded_protocol, &at):
            return False
        m.embedded_src = ip.src
        m.embedded_dst = ip.dst
        address_set_zone(&m.embedded_src, ifc.index + 1)
        address_set_zone(&m.embedded_dst, ifc.index + 1)
    if at + 8 > length:
        return False
    m.embedded_sport = load_be16(packet + at)
    m.embedded_dport = load_be16(packet + at + 2)
    m.embedded_seq = load_be32(packet + at + 4)
    return True


cdef void on_unreachable(void *context, interface_t *ifc, const uint8_t *packet, uint32_t length) noexcept nogil:
    """A neighbour did not answer: what waited for it is dropped, and whoever was connecting hears it."""
    cdef icmp_message_t m
    if read_sent(ifc, packet, length, &m):
        neighbor_failed(<stack_t *> context, &m)


cdef void neighbor_failed(stack_t *stack, const icmp_message_t *m) noexcept nogil:
    cdef void *p
    cdef udp_endpoint_t *ep
    if m.embedded_protocol == PROTOCOL_TCP:
        p = demux_find(
            &stack.demux,
            demux_hash(&stack.tcp, &m.embedded_src, &m.embedded_dst, m.embedded_sport, m.embedded_dport),
            &m.embedded_src, &m.embedded_dst, m.embedded_sport, m.embedded_dport)
        if as_tcb(p) == NULL:                          # nor half-open: what it sends ends by itself
            return
        if (<tcb_t *> p).state == SYN_SENT:
            connection_abort(<tcb_t *> p, EHOSTUNREACH, False)
        else:
            (<tcb_t *> p).soft_error = EHOSTUNREACH
    elif m.embedded_protocol == PROTOCOL_UDP or m.embedded_protocol == PROTOCOL_UDPLITE:
        ep = demux_datagram(&stack.demux, &stack.tcp, SOCK_UDP if m.embedded_protocol == PROTOCOL_UDP else SOCK_UDPLITE,
                            &m.embedded_src, m.embedded_sport, &m.embedded_dst, m.embedded_dport)
        if ep != NULL and ep.connected:
            ep.sock.error = EHOSTUNREACH
            sock_event(&stack.tcp.events, &ep.sock, EVENT_IN | EVENT_OUT | EVENT_ERR)
