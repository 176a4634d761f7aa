"""The way of a datagram out: where to, from which address, how large, and then written once or in pieces.

What the path carries is shared by all sockets of a stack (`path_mtu_recall`); IP_MTU_DISCOVER says what happens to a
datagram that is larger, as on Linux: cut (DONT, WANT, OMIT), or refused with EMSGSIZE (DO, PROBE, INTERFACE).
"""

from libc.errno cimport EACCES, EADDRNOTAVAIL, EAGAIN, EHOSTUNREACH, EINVAL, EMSGSIZE, ENETUNREACH, ENOMEM, EPIPE
from libc.stdint cimport int64_t, uint16_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from netstack.address cimport address_from_v4, address_is_any, address_is_v4, address_v4
from netstack.ip.interface cimport (
    CLAIM_FULL, CLAIM_OK, CLAIM_UNREACHABLE, interface_claim, interface_commit, interface_is_broadcast, interface_mtu,
    interface_t, packet_out_t,
)
from netstack.ip.ipv6 cimport ipv6_listens
from netstack.ip.output cimport ip_send, outgoing_t
from netstack.ip.shared cimport ip_next_id
from netstack.sock cimport SF_BROADCAST, SF_V6, SOCK_PING, SOCK_RAW, SOCK_UDP, SOCK_UDPLITE, kind_is_udp
from netstack.stack.core cimport (
    stack_flow_label, stack_hop_limit, stack_is_local, stack_route, stack_settle, stack_source,
)
from netstack.stack.sockets cimport sock_fit, sock_give_port, stack_is_group
from netstack.tcp.mtu cimport path_mtu_recall
from netstack.udp.endpoint cimport (
    EM_CHECKSUM, EM_HEADER_INCLUDED, ORIGIN_LOCAL, PMTU_DO, PMTU_INTERFACE, PMTU_PROBE, PMTU_WANT, WANT_ERRORS, WANT_ERRORS6,
    arrival_t, endpoint_error,
)
from netstack.wire.byte_order cimport load_be16, load_native32, store_be16, store_native16, store_native32
from netstack.wire.checksum cimport (
    checksum_and_copy, checksum_finish, checksum_partial, checksum_pseudo, copy_bytes,
)
from netstack.wire.ipv4 cimport IPV4_HEADER, PROTOCOL_ICMP, PROTOCOL_UDP, PROTOCOL_UDPLITE, write_ipv4
from netstack.wire.ipv6 cimport IPV6_HEADER, PROTOCOL_ICMPV6, write_ipv6
from netstack.wire.udp cimport UDP_HEADER, write_udp_as

cdef enum:
    PACKET_MAX = 65535
    LARGE = 552                  # bytes: below it no report about a datagram is believed anyway
    IPPROTO_RAW = 255


cdef struct way_t:
    interface_t *ifc
    address_t next_hop
    address_t source
    uint32_t mtu                 # of the path, as far as the socket wants to know
    uint8_t ttl
    uint8_t tos
    uint8_t group                # multicast
    uint8_t broadcast


cdef void send_how_init(send_how_t *how) noexcept nogil:
    how.ttl = how.tos = -1
    how.interface = 0
    memset(&how.source, 0, sizeof(address_t))


# --- where to ---------------------------------------------------------------------------------------------------------

cdef bint is_multicast(const address_t *a) noexcept nogil:
    cdef const uint8_t *p = <const uint8_t *> a
    return p[12] >> 4 == 14 if address_is_v4(a) else p[0] == 0xff


cdef int first_interface(const stack_t *stack) noexcept nogil:
    """Where groups and broadcasts go when no route says: the first that is not the loopback."""
    return 0 if stack.interface_count > 1 else -1


cdef int choose_way(stack_t *stack, const udp_endpoint_t *ep, const endpoint_t *to, const send_how_t *how,
                    way_t *way) noexcept nogil:
    """0, or -errno."""
    cdef int i
    cdef const address_t *dst = &to.address
    cdef address_t kernels
    cdef uint32_t number = how.interface if how != NULL else 0, known
    way.group = is_multicast(dst)
    way.broadcast = not way.group and stack_is_group(stack, dst)
    if way.broadcast and not ep.sock.flags & SF_BROADCAST:
        return -EACCES
    if number == 0 and way.group:
        number = to.scope if to.scope else ep.multicast_interface
    i = stack_route(stack, dst, &way.next_hop)
    if number:
        if number >= stack.interface_count + 1:
            return -ENETUNREACH
        if i != <int> number - 1 and (i < 0 or not stack.interfaces[i].loopback):      # ours are reached inside
            i = <int> number - 1
            way.next_hop = dst[0]
    elif i < 0 and (way.group or way.broadcast):
        i = first_interface(stack)
    if i < 0:
        return -ENETUNREACH
    if way.group or way.broadcast:
        way.next_hop = dst[0]                          # no router stands between
    way.ifc = stack.interfaces[i]
    way.source = ep.local
    if how != NULL and not address_is_any(&how.source):
        if not stack_is_local(stack, &how.source):
            return -EINVAL
        way.source = how.source
    elif address_is_any(&ep.local) or stack_is_group(stack, &ep.local):
        if way.group and not address_is_any(&ep.multicast_source):
            way.source = ep.multicast_source
        elif not stack_source(stack, i, dst, &way.source):
            if way.ifc.link.route != NULL:
                return -ENETUNREACH                    # the kernel has no way there
            if not way.broadcast or not address_is_v4(dst):
                return -EADDRNOTAVAIL
            address_from_v4(&way.source, 0)            # a host that has no address yet asks for one (RFC 2131 section 4.1)
    if address_is_v4(&way.source) != address_is_v4(dst):
        return -ENETUNREACH if address_is_v4(dst) else -EINVAL
    if way.ifc.link.route != NULL and not address_is_any(&ep.local) and not way.group and not way.broadcast and \
            not stack_source(stack, i, dst, &kernels):
        return -ENETUNREACH
    way.ttl = ep.multicast_ttl if way.group else stack_hop_limit(stack, i, dst, ep.ttl if address_is_v4(dst) else ep.hops)
    way.tos = ep.tos if address_is_v4(dst) else ep.tclass
    if how != NULL and how.ttl >= 0:
        way.ttl = <uint8_t> how.ttl
    if how != NULL and how.tos >= 0:
        way.tos = <uint8_t> how.tos
    way.mtu = interface_mtu(way.ifc, address_is_v4(dst))
    if ep.pmtu_discovery < PMTU_PROBE:
        known = path_mtu_recall(&stack.tcp, dst)
        if known and known < way.mtu:
            way.mtu = known
    return 0


cdef bint must_be_whole(const udp_endpoint_t *ep) noexcept nogil:
    return ep.pmtu_discovery == PMTU_DO or ep.pmtu_discovery == PMTU_PROBE or ep.pmtu_discovery == PMTU_INTERFACE or \
        ep.dont_fragment


cdef int too_large(stack_t *stack, udp_endpoint_t *ep, const endpoint_t *to, uint32_t mtu) noexcept nogil:
    """EMSGSIZE, and with IP_RECVERR an entry that says what would fit."""
    cdef arrival_t how
    if ep.wants & (WANT_ERRORS | WANT_ERRORS6):
        memset(&how, 0, sizeof(how))
        how.dst = to.address
        how.origin = ORIGIN_LOCAL
        how.error = EMSGSIZE
        how.info = mtu
        endpoint_error(ep, &stack.tcp.events, to, NULL, 0, &how)
    return -EMSGSIZE


# --- writing ----------------------------------------------------------------------------------------------------------

cdef uint32_t pseudo_sum(const way_t *way, const address_t *dst, uint8_t protocol, uint32_t length) noexcept nogil:
    return checksum_pseudo(&way.source, dst, protocol, length)


cdef inline uint8_t protocol_of(const udp_endpoint_t *ep) noexcept nogil:
    return PROTOCOL_UDPLITE if ep.sock.kind == SOCK_UDPLITE else PROTOCOL_UDP


cdef inline uint32_t covered(const udp_endpoint_t *ep, uint32_t n) noexcept nogil:
    """How many of a payload's n bytes the checksum covers (RFC 3828 section 3.1)."""
    cdef uint32_t coverage = ep.send_coverage
    return coverage - UDP_HEADER if UDP_HEADER <= coverage < UDP_HEADER + n and ep.sock.kind == SOCK_UDPLITE else n


cdef void fill_udp(uint8_t *p, const way_t *way, const udp_endpoint_t *ep, const endpoint_t *to, uint32_t n,
                   uint32_t payload_sum) noexcept nogil:
    write_udp_as(p, pseudo_sum(way, &to.address, protocol_of(ep), UDP_HEADER + n), ep.lport, to.port,
                 <uint16_t> (UDP_HEADER + covered(ep, n)), payload_sum)


cdef void fill_echo(uint8_t *p, const way_t *way, const udp_endpoint_t *ep, const endpoint_t *to, const uint8_t *data,
                    uint32_t n, uint32_t payload_sum) noexcept nogil:
    """Type and sequence are the caller's, identifier and checksum ours, as with Linux's ping sockets."""
    cdef uint64_t total
    memcpy(p, data, 8)
    store_native16(p + 2, 0)
    store_be16(p + 4, ep.lport)
    total = <uint64_t> checksum_partial(p, 8) + payload_sum
    if not address_is_v4(&to.address):
        total += pseudo_sum(way, &to.address, PROTOCOL_ICMPV6, n)
    store_native16(p + 2, checksum_finish(total))


cdef int write_whole(stack_t *stack, udp_endpoint_t *ep, const way_t *way, const endpoint_t *to, const uint8_t *data,
                     uint32_t n, interface_t *ifc) noexcept nogil:
    """A UDP datagram or an echo in one packet: summed while it is copied, as far as the sum goes."""
    cdef packet_out_t out
    cdef bint v4 = address_is_v4(&to.address), ping = ep.sock.kind == SOCK_PING
    cdef uint32_t head = IPV4_HEADER if v4 else IPV6_HEADER, body = n - 8 if ping else n, total, sum_of
    cdef bint df = ep.pmtu_discovery in (PMTU_WANT, PMTU_DO, PMTU_PROBE)
    cdef uint8_t protocol = protocol_of(ep) if not ping else (PROTOCOL_ICMP if v4 else PROTOCOL_ICMPV6)
    cdef int r = interface_claim(ifc, &way.next_hop, head + 8, body, stack.tcp.now_ns, &out)
    if r != CLAIM_OK:
        return r
    sum_of = body if ping else covered(ep, n)
    total = checksum_and_copy(out.body, data + 8 if ping else data, sum_of)
    if sum_of < body:
        copy_bytes(out.body + sum_of, data + sum_of, body - sum_of)
    if ping:
        fill_echo(out.ip + head, way, ep, to, data, n, total)
    else:
        fill_udp(out.ip + head, way, ep, to, n, total)
    if v4:
        write_ipv4(out.ip, address_v4(&way.source), address_v4(&to.address), protocol, head + 8 + body, way.tos, way.ttl,
                   0 if df else ip_next_id(&stack.ip, &way.source, &to.address), df)
    else:
        write_ipv6(out.ip, &way.source, &to.address, protocol, 8 + body, way.tos, way.ttl,
                   stack_flow_label(stack, &way.source, &to.address, ep.lport, to.port, protocol))
    interface_commit(&out, stack.tcp.now_ns)
    return CLAIM_OK


cdef int write_cut(stack_t *stack, udp_endpoint_t *ep, const way_t *way, const endpoint_t *to, const uint8_t *data,
                   uint32_t n, interface_t *ifc) noexcept nogil:
    """The same in pieces: the sum of the whole stands in the first."""
    cdef outgoing_t d
    cdef uint8_t head[8]
    cdef bint v4 = address_is_v4(&to.address)
    memset(&d, 0, sizeof(d))
    if ep.sock.kind == SOCK_PING:
        d.protocol = PROTOCOL_ICMP if v4 else PROTOCOL_ICMPV6
        d.body = data + 8
        d.body_length = n - 8
        fill_echo(head, way, ep, to, data, n, checksum_partial(d.body, d.body_length))
    else:
        d.protocol = protocol_of(ep)
        d.body = data
        d.body_length = n
        fill_udp(head, way, ep, to, n, checksum_partial(data, covered(ep, n)))
    d.head = head
    d.head_length = 8
    return send_out(stack, way, to, &d, False, ifc)


cdef int send_out(stack_t *stack, const way_t *way, const endpoint_t *to, outgoing_t *d, bint df, interface_t *ifc) noexcept nogil:
    d.flow_label = stack_flow_label(stack, &way.source, &to.address, 0, to.port, d.protocol)
    d.src = &way.source
    d.dst = &to.address
    d.next_hop = &way.next_hop
    d.tos = way.tos
    d.ttl = way.ttl
    d.df = df
    d.mtu = way.mtu if way.mtu < ifc.mtu or ifc == way.ifc else ifc.mtu
    return ip_send(ifc, d, stack.tcp.now_ns)


cdef int write_raw(stack_t *stack, udp_endpoint_t *ep, const way_t *way, const endpoint_t *to, const uint8_t *data,
                   uint32_t n, interface_t *ifc) noexcept nogil:
    cdef outgoing_t d
    cdef uint8_t *copy = NULL
    cdef uint16_t check
    cdef uint32_t at
    cdef int r
    memset(&d, 0, sizeof(d))
    d.protocol = <uint8_t> ep.lport
    d.body = data
    d.body_length = n
    if not address_is_v4(&to.address) and (ep.modes & EM_CHECKSUM or ep.lport == PROTOCOL_ICMPV6):
        at = <uint32_t> ep.check_offset if ep.modes & EM_CHECKSUM else 2
        if at + 2 > n:
            return -EINVAL
        copy = <uint8_t *> malloc(n)
        if copy == NULL:
            return -ENOMEM
        memcpy(copy, data, n)
        store_native16(copy + at, 0)
        check = checksum_finish(<uint64_t> pseudo_sum(way, &to.address, d.protocol, n) + checksum_partial(copy, n))
        store_native16(copy + at, check if check else 0xffff)
        d.body = copy
    r = send_out(stack, way, to, &d, ep.pmtu_discovery in (PMTU_WANT, PMTU_DO, PMTU_PROBE) and IPV4_HEADER + n <= way.mtu, ifc)
    free(copy)
    return r


cdef int write_with_header(stack_t *stack, const way_t *way, const uint8_t *data, uint32_t n, interface_t *ifc) noexcept nogil:
    """IP_HDRINCL: total length and checksum are always ours, source and number where the caller left zero (raw(7))."""
    cdef packet_out_t out
    cdef uint32_t head = <uint32_t> (data[0] & 15) * 4
    cdef address_t dst
    cdef int r
    if head < IPV4_HEADER or head > n:
        return -EINVAL
    r = interface_claim(ifc, &way.next_hop, head, n - head, stack.tcp.now_ns, &out)
    if r != CLAIM_OK:
        return r
    memcpy(out.ip, data, head)
    memcpy(out.body, data + head, n - head)
    store_be16(out.ip + 2, <uint16_t> n)
    if load_native32(out.ip + 12) == 0:
        store_native32(out.ip + 12, address_v4(&way.source))
    if load_be16(out.ip + 4) == 0:
        address_from_v4(&dst, load_native32(out.ip + 16))
        store_be16(out.ip + 4, ip_next_id(&stack.ip, &way.source, &dst))
    store_native16(out.ip + 10, 0)
    store_native16(out.ip + 10, checksum_finish(checksum_partial(out.ip, head)))
    interface_commit(&out, stack.tcp.now_ns)
    return CLAIM_OK


cdef int write_datagram(stack_t *stack, udp_endpoint_t *ep, const way_t *way, const endpoint_t *to, const uint8_t *data,
                        uint32_t n, uint32_t total, interface_t *ifc) noexcept nogil:
    if ep.sock.kind == SOCK_RAW:
        if includes_header(ep, to):
            return write_with_header(stack, way, data, n, ifc)
        return write_raw(stack, ep, way, to, data, n, ifc)
    if total <= way.mtu:
        return write_whole(stack, ep, way, to, data, n, ifc)
    return write_cut(stack, ep, way, to, data, n, ifc)


cdef bint includes_header(const udp_endpoint_t *ep, const endpoint_t *to) noexcept nogil:
    return address_is_v4(&to.address) and (ep.modes & EM_HEADER_INCLUDED != 0 or ep.lport == IPPROTO_RAW)


# --- the call ---------------------------------------------------------------------------------------------------------

cdef ssize_t datagram_send(stack_t *stack, udp_endpoint_t *ep, const uint8_t *data, size_t n, const endpoint_t *where,
                           const send_how_t *how) noexcept nogil:
    cdef way_t way
    cdef endpoint_t fitted = where[0]
    cdef const endpoint_t *to = &fitted
    cdef bint v4, whole
    cdef uint32_t total
    cdef int r
    if ep.sock.error:
        r = ep.sock.error
        ep.sock.error = 0
        return -r
    if ep.shutdown & 2:
        return -EPIPE
    r = sock_fit(stack, &ep.sock, &fitted)
    if r < 0:
        return r
    v4 = address_is_v4(&to.address)
    total = (IPV4_HEADER if v4 else IPV6_HEADER) + (UDP_HEADER if kind_is_udp(ep.sock.kind) else 0)
    if v4 and not kind_is_udp(ep.sock.kind) and ep.sock.flags & SF_V6:
        return -EINVAL
    if ep.sock.kind == SOCK_RAW and includes_header(ep, to):
        if n < IPV4_HEADER:
            return -EINVAL
        total = 0
    if n > PACKET_MAX - (total if v4 else total - IPV6_HEADER):
        return -EMSGSIZE
    total += <uint32_t> n
    if to.port == 0 and kind_is_udp(ep.sock.kind):
        return -EINVAL
    if ep.sock.kind == SOCK_PING and (n < 8 or data[0] != (8 if v4 else 128) or data[1] != 0):
        return -EINVAL
    r = choose_way(stack, ep, to, how, &way)
    if r < 0:
        return r
    whole = must_be_whole(ep) or (ep.sock.kind == SOCK_RAW and includes_header(ep, to))
    if whole and total > way.mtu:
        return too_large(stack, ep, to, way.mtu)
    if ep.lport == 0:
        r = sock_give_port(stack, &ep.sock)
        if r < 0:
            return r
    r = write_datagram(stack, ep, &way, to, data, <uint32_t> n, total, way.ifc)
    if r == CLAIM_FULL:
        stack.datagram_waiters += 1
        return -EAGAIN
    if r == -EINVAL or r == -ENOMEM:
        return r
    if ((way.broadcast and not way.ifc.kernel_ip) or (way.group and ep.multicast_loop)) and not way.ifc.loopback and (
            v4 or ipv6_listens(way.ifc, &to.address)):
        # Whoever listens here hears it too (RFC 1112 section 6.1); a full loopback loses it.
        way.mtu = stack.interfaces[stack.interface_count - 1].mtu
        write_datagram(stack, ep, &way, to, data, <uint32_t> n, total, stack.interfaces[stack.interface_count - 1])
    if total > LARGE:
        ep.big_length = <uint16_t> (total if total < PACKET_MAX else PACKET_MAX)
        ep.big_dst = to.address
        ep.big_ns = stack.tcp.now_ns
    stack.tcp.counters.udp_out += ep.sock.kind == SOCK_UDP
    stack.tcp.counters.udplite_out += ep.sock.kind == SOCK_UDPLITE
    stack.tcp.counters.icmp_out += ep.sock.kind == SOCK_PING
    stack_settle(stack)
    if r == CLAIM_UNREACHABLE:
        return -EHOSTUNREACH
    return <ssize_t> n
