"""UDP and echo through the relay: see datagrams.pxd."""

from libc.errno cimport (
    EACCES, EAGAIN, ECONNREFUSED, EHOSTUNREACH, EINTR, EMSGSIZE, ENETUNREACH, EPERM, errno,
)
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from netstack.address cimport address_from_v4, address_is_v4, address_t
from netstack.clock cimport NS_PER_S
from netstack.ip.icmp cimport icmp_send_error
from netstack.ip.icmp6 cimport icmp6_send_error
from netstack.ip.interface cimport CLAIM_OK, interface_mtu, packet_copy
from netstack.ip.output cimport ip_send, outgoing_t

from netstack.router.relay.datagram_errors cimport datagram_errors
from netstack.router.relay.flows cimport RELAY_UDP, flow_end, flow_find, flow_new, flow_open, flow_queue, flow_used
from netstack.router.relay.kernel cimport (
    AF_INET, EPOLLERR, EPOLLIN, IP_RECVERR, IP_TTL, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_IP, IPPROTO_IPV6,
    IPV6_RECVERR, IPV6_UNICAST_HOPS, MSG_DONTWAIT, MSG_NOSIGNAL, SOCK_DGRAM, kernel_name_t, name_read, name_write,
    recvfrom, sendto, setsockopt,
)
from netstack.router.relay.policy cimport (
    POLICY_AS_IS, POLICY_NAMES, POLICY_OURS, policy_foreign, policy_is_own, policy_judge, policy_loopback, policy_own,
    policy_server_failed,
)
from netstack.router.relay.state cimport (
    BAD_CHECKSUM, DATAGRAMS_DENIED, DATAGRAMS_FLOWS, DATAGRAMS_FULL, DATAGRAMS_IN, DATAGRAMS_OUT, DATAGRAMS_REFUSED,
    DATAGRAMS_STRANGE, ECHOES_FORBIDDEN, ECHOES_IN, ECHOES_OUT, FLOW_OPEN, FLOWS_IDLE, MALFORMED, RELAY_PEERS,
    RELAY_SCRATCH,
)
from netstack.wire.byte_order cimport load_be16, load_be32, load_native32, store_be16, store_native16
from netstack.wire.checksum cimport checksum_finish, checksum_fold, checksum_partial, checksum_pseudo
from netstack.wire.icmp cimport (
    ICMP_CODE_FRAGMENTATION, ICMP_CODE_HOST, ICMP_CODE_NET, ICMP_CODE_PORT, ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, ICMP_HEADER,
    ICMP_UNREACHABLE,
)
from netstack.wire.icmp6 cimport (
    ICMP6_ADDRESS, ICMP6_ECHO_REPLY, ICMP6_ECHO_REQUEST, ICMP6_NO_ROUTE, ICMP6_PORT, ICMP6_PROHIBITED, ICMP6_TOO_BIG,
    ICMP6_UNREACHABLE,
)
from netstack.wire.ipv4 cimport IPV4_HEADER, PROTOCOL_ICMP
from netstack.wire.ipv6 cimport IPV6_HEADER, PROTOCOL_ICMPV6
from netstack.wire.udp cimport UDP_HEADER, parse_udp, udp_t, write_udp

cdef enum:
    SHARE = 64                   # datagrams of one socket before others have their turn
    TTL = 64
    LEAST_MTU = 576              # a path that carries less is not believed (RFC 1191 section 3, RFC 8200 section 5)
    LEAST_MTU6 = 1280
    CODE_PROHIBITED = 13         # RFC 1812 section 5.2.7.1

cdef int64_t PATIENCE_NS = <int64_t> 2 * NS_PER_S       # for a name server; resolvers ask again after 5 seconds or less
cdef int64_t NAMES_IDLE_NS = <int64_t> 10 * NS_PER_S    # a question has a port of its own and one answer


# --- from a stack -----------------------------------------------------------------------------------------------------

cdef bint summed(relay_t *r, packet_in_t *packet, uint32_t length, bint pseudo) noexcept nogil:
    """The transport's bytes go into the scratch; False: their sum is bad."""
    cdef uint64_t sum = packet_copy(packet, packet.header_length, r.scratch, length)
    if pseudo:
        sum += checksum_pseudo(&packet.src, &packet.dst, <uint8_t> packet.protocol, length)
    if checksum_fold(sum) == 0xffff:
        return True
    r.counts[<int> BAD_CHECKSUM] += 1
    return False


cdef void tell(relay_t *r, packet_in_t *packet, int error) noexcept nogil:
    """The stack hears why its datagram did not leave, where ICMP has a word for it."""
    cdef bint v4 = address_is_v4(&packet.dst)
    cdef int64_t now = r.stack.tcp.now_ns
    if error == ECONNREFUSED and v4:
        icmp_send_error(packet, ICMP_UNREACHABLE, ICMP_CODE_PORT, 0, now)
    elif error == ECONNREFUSED:
        icmp6_send_error(packet, ICMP6_UNREACHABLE, ICMP6_PORT, 0, now)
    elif error == ENETUNREACH and v4:
        icmp_send_error(packet, ICMP_UNREACHABLE, ICMP_CODE_NET, 0, now)
    elif error == ENETUNREACH:
        icmp6_send_error(packet, ICMP6_UNREACHABLE, ICMP6_NO_ROUTE, 0, now)
    elif error == EHOSTUNREACH and v4:
        icmp_send_error(packet, ICMP_UNREACHABLE, ICMP_CODE_HOST, 0, now)
    elif error == EHOSTUNREACH:
        icmp6_send_error(packet, ICMP6_UNREACHABLE, ICMP6_ADDRESS, 0, now)
    elif error in (EACCES, EPERM) and v4:
        icmp_send_error(packet, ICMP_UNREACHABLE, CODE_PROHIBITED, 0, now)
    elif error in (EACCES, EPERM):
        icmp6_send_error(packet, ICMP6_UNREACHABLE, ICMP6_PROHIBITED, 0, now)


cdef flow_t *new_socket(relay_t *r, uint8_t protocol, packet_in_t *packet, uint16_t port, const address_t *far,
                        uint16_t far_port, const kernel_name_t *target, unsigned int length) noexcept nogil:
    """A flow with its socket. NULL: there is none to be had, which was counted."""
    cdef flow_t *f = flow_new(r, protocol, &packet.src, port, far, far_port)
    cdef int one = 1, proto = 0, error
    if f == NULL:
        return NULL
    f.target = target[0]
    f.target_length = length
    f.far_fixed = far != NULL
    if protocol != RELAY_UDP:
        proto = IPPROTO_ICMP if target.any.sa_family == AF_INET else IPPROTO_ICMPV6
    error = flow_open(r, f, SOCK_DGRAM, proto)
    if error:
        r.counts[<int> ECHOES_FORBIDDEN] += protocol != RELAY_UDP and error in (EACCES, EPERM)
        return NULL
    f.state = FLOW_OPEN
    if target.any.sa_family == AF_INET:
        setsockopt(f.fd, IPPROTO_IP, IP_RECVERR, &one, sizeof(one))
    else:
        setsockopt(f.fd, IPPROTO_IPV6, IPV6_RECVERR, &one, sizeof(one))
    return f


cdef void set_hops(flow_t *f, uint8_t ttl) noexcept nogil:
    """What was left of the packet's way goes on: so traceroute sees all of it."""
    cdef int hops = ttl
    if f.ttl == ttl or ttl == 0:
        return
    f.ttl = ttl
    if f.target.any.sa_family == AF_INET:
        setsockopt(f.fd, IPPROTO_IP, IP_TTL, &hops, sizeof(hops))
    else:
        setsockopt(f.fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, &hops, sizeof(hops))


cdef int send_out(flow_t *f, const uint8_t *data, uint32_t n, const kernel_name_t *to, unsigned int length) noexcept nogil:
    """0 or an errno number. An error of an earlier datagram is reported to the next: its own answer counts."""
    cdef int tries
    for tries in range(2):
        if sendto(f.fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL, &to.any, length) >= 0:
            return 0
        if errno not in (ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EINTR):
            break
    return errno


cdef bint knows_peer(const flow_t *f, uint16_t port) noexcept nogil:
    cdef int i
    if f.peers == NULL:
        return False
    for i in range(RELAY_PEERS):
        if f.peers[i] == port:
            return True
    return False


cdef flow_t *udp_flow(relay_t *r, packet_in_t *packet, uint16_t sport, uint16_t dport, kernel_name_t *target,
                      unsigned int *length) noexcept nogil:
    """Whose socket a datagram leaves by, and where to; NULL: by none."""
    cdef flow_t *f
    cdef address_t loopback
    cdef int verdict
    cdef uint16_t far_port
    if policy_is_own(r, &packet.dst):
        f = flow_find(r, RELAY_UDP, &packet.src, sport, NULL, 0)
        if f != NULL and f.permanent and knows_peer(f, dport):        # an answer to the machine itself
            machine(&loopback, address_is_v4(&packet.dst))
            length[0] = name_write(target, &loopback, dport)
            return f
    verdict = policy_judge(r, &packet.dst, dport, target, length)
    if verdict == POLICY_OURS:
        r.counts[<int> DATAGRAMS_DENIED] += 1
        tell(r, packet, ECONNREFUSED)
        return NULL
    if verdict < 0:
        r.counts[<int> DATAGRAMS_DENIED] += 1
        tell(r, packet, EACCES)
        return NULL
    if verdict == POLICY_AS_IS:
        f = flow_find(r, RELAY_UDP, &packet.src, sport, NULL, 0)
        if f != NULL:
            return f
        r.counts[<int> DATAGRAMS_FLOWS] += 1
        return new_socket(r, RELAY_UDP, packet, sport, NULL, 0, target, length[0])
    far_port = dport if verdict == POLICY_NAMES else 0
    f = flow_find(r, RELAY_UDP, &packet.src, sport, &packet.dst, far_port)
    if f != NULL and verdict == POLICY_NAMES:
        target[0] = f.target                           # the server that was asked first
        length[0] = f.target_length
    if f != NULL:
        return f
    r.names_asked |= verdict == POLICY_NAMES
    r.counts[<int> DATAGRAMS_FLOWS] += 1
    return new_socket(r, RELAY_UDP, packet, sport, &packet.dst, far_port, target, length[0])


cdef void machine(address_t *a, bint v4) noexcept nogil:
    memset(a, 0, sizeof(address_t))
    (<uint8_t *> a)[15] = 1
    if v4:
        address_from_v4(a, 0)
        (<uint8_t *> a)[12] = 127
        (<uint8_t *> a)[15] = 1


cdef bint datagram_arrives(relay_t *r, packet_in_t *packet) noexcept nogil:
    cdef udp_t h
    cdef uint32_t length = packet.length - packet.header_length
    cdef kernel_name_t target
    cdef unsigned int n = 0
    cdef flow_t *f
    cdef int error
    if packet.header_bytes < packet.header_length + UDP_HEADER or \
            parse_udp(packet.header + packet.header_length, length, &h) != 0 or h.sport == 0 or h.dport == 0 or \
            not (h.has_checksum or address_is_v4(&packet.dst)):
        r.counts[<int> MALFORMED] += 1
        return True
    if h.has_checksum and not summed(r, packet, h.length, True):
        return True
    if not h.has_checksum:
        packet_copy(packet, packet.header_length, r.scratch, h.length)
    f = udp_flow(r, packet, h.sport, h.dport, &target, &n)
    if f == NULL:
        return True
    set_hops(f, packet.ttl)
    error = send_out(f, r.scratch + UDP_HEADER, h.length - UDP_HEADER, &target, n)
    flow_used(r, f)
    if error == 0:
        r.counts[<int> DATAGRAMS_OUT] += 1
        return True
    r.counts[<int> DATAGRAMS_REFUSED] += 1
    if error != EMSGSIZE:                              # of which the kernel tells more in its queue of errors
        tell(r, packet, error)
    return True


cdef bint echo_arrives(relay_t *r, packet_in_t *packet) noexcept nogil:
    cdef uint32_t length = packet.length - packet.header_length
    cdef const uint8_t *h = packet.header + packet.header_length
    cdef bint v4 = packet.protocol == PROTOCOL_ICMP
    cdef kernel_name_t target
    cdef unsigned int n = 0
    cdef uint16_t id
    cdef flow_t *f
    cdef int verdict, error
    if packet.header_bytes < packet.header_length + ICMP_HEADER:
        return False
    if (h[0] == ICMP_UNREACHABLE and h[1] == ICMP_CODE_FRAGMENTATION) if v4 else h[0] == ICMP6_TOO_BIG:
        learn_mtu(r, packet)
    if h[0] != (ICMP_ECHO_REQUEST if v4 else ICMP6_ECHO_REQUEST) or h[1] != 0:
        return False                                   # what else there is, our stack judges
    verdict = policy_judge(r, &packet.dst, 0, &target, &n)
    if verdict == POLICY_OURS:
        return False                                   # we answer ourselves
    if not summed(r, packet, length, not v4):
        return True
    if verdict < 0:
        r.counts[<int> DATAGRAMS_DENIED] += 1
        tell(r, packet, EACCES)
        return True
    id = load_be16(h + 4)
    f = flow_find(r, <uint8_t> packet.protocol, &packet.src, id, NULL if verdict == POLICY_AS_IS else &packet.dst, 0)
    if f == NULL:
        f = new_socket(r, <uint8_t> packet.protocol, packet, id, NULL if verdict == POLICY_AS_IS else &packet.dst, 0, &target,
                       n)
    if f == NULL:
        return True
    set_hops(f, packet.ttl)
    error = send_out(f, r.scratch, length, &target, n)       # the kernel puts its own identifier and sum in
    flow_used(r, f)
    if error == 0:
        r.counts[<int> ECHOES_OUT] += 1
    else:
        r.counts[<int> DATAGRAMS_REFUSED] += 1
        tell(r, packet, error)
    return True


cdef void learn_mtu(relay_t *r, packet_in_t *packet) noexcept nogil:
    """The router could not pass a datagram of ours on: from now on it goes in pieces (RFC 1191, RFC 8201)."""
    cdef uint8_t copy[ICMP_HEADER + 60 + UDP_HEADER]     # an IPv4 header has at most 60 bytes
    cdef uint8_t *quoted = copy + ICMP_HEADER
    cdef bint v4 = packet.protocol == PROTOCOL_ICMP
    cdef address_t near, far
    cdef uint32_t n = packet.length - packet.header_length, at, mtu
    cdef uint16_t port
    cdef flow_t *f
    if n > sizeof(copy):
        n = sizeof(copy)
    packet_copy(packet, packet.header_length, copy, n)
    if n < ICMP_HEADER + <uint32_t> (IPV4_HEADER if v4 else IPV6_HEADER) or quoted[0] >> 4 != (4 if v4 else 6) or \
            quoted[9 if v4 else 6] != RELAY_UDP:
        return
    if v4:
        mtu = load_be16(copy + 6)
        at = ICMP_HEADER + (quoted[0] & 15) * 4
        address_from_v4(&far, load_native32(quoted + 12))
        address_from_v4(&near, load_native32(quoted + 16))
    else:
        mtu = load_be32(copy + 4)
        at = ICMP_HEADER + IPV6_HEADER
        memcpy(&far, quoted + 8, 16)
        memcpy(&near, quoted + 24, 16)
    if n < at + 4 or mtu < <uint32_t> (LEAST_MTU if v4 else LEAST_MTU6):
        return
    port = load_be16(copy + at + 2)
    f = flow_find(r, RELAY_UDP, &near, port, NULL, 0)
    if f == NULL:
        f = flow_find(r, RELAY_UDP, &near, port, &far, 0)
    if f == NULL:
        f = flow_find(r, RELAY_UDP, &near, port, &far, load_be16(copy + at))
    if f != NULL and (f.mtu == 0 or mtu < f.mtu):
        f.mtu = mtu


# --- towards a stack --------------------------------------------------------------------------------------------------

cdef bint seen_from(relay_t *r, flow_t *f, const kernel_name_t *name, address_t *src, uint16_t *port) noexcept nogil:
    """As whom the stack sees the sender; False: it could not answer such a one."""
    if not name_read(name, src, port):
        return False
    if f.far_fixed:
        src[0] = f.far
        if f.far_port:
            port[0] = f.far_port
        return True
    if policy_loopback(src) and f.permanent:
        if not knows_peer(f, port[0]):
            f.peers[f.peer_at % RELAY_PEERS] = port[0]
            f.peer_at += 1
        return policy_own(r, address_is_v4(src), src)
    return policy_foreign(r, src) and not policy_loopback(src)


cdef bint give(relay_t *r, flow_t *f, const address_t *src, uint8_t *head, uint32_t head_length, const uint8_t *body,
               uint32_t n) noexcept nogil:
    """A transport's packet to the stack; False: its way is full."""
    cdef outgoing_t d
    memset(&d, 0, sizeof(d))
    d.src = src
    d.dst = d.next_hop = &f.near
    d.protocol = f.protocol
    d.ttl = TTL
    d.mtu = f.mtu if f.mtu else interface_mtu(r.interface, address_is_v4(src))
    d.head = head
    d.head_length = head_length
    d.body = body
    d.body_length = n
    return ip_send(r.interface, &d, r.stack.tcp.now_ns) == CLAIM_OK


cdef void give_datagram(relay_t *r, flow_t *f, const address_t *src, uint16_t port, uint32_t n) noexcept nogil:
    cdef uint8_t head[UDP_HEADER]
    write_udp(head, src, &f.near, port, f.near_port, n, checksum_partial(r.scratch, n))
    if give(r, f, src, head, UDP_HEADER, r.scratch, n):
        r.counts[<int> DATAGRAMS_IN] += 1
    else:
        r.counts[<int> DATAGRAMS_FULL] += 1


cdef void give_echo(relay_t *r, flow_t *f, const address_t *src, uint32_t n) noexcept nogil:
    cdef uint8_t *p = r.scratch
    cdef uint64_t sum = 0
    if n < ICMP_HEADER or p[0] != (ICMP_ECHO_REPLY if f.protocol == PROTOCOL_ICMP else ICMP6_ECHO_REPLY):
        return
    store_be16(p + 4, f.near_port)
    store_native16(p + 2, 0)
    if f.protocol == PROTOCOL_ICMPV6:
        sum = checksum_pseudo(src, &f.near, PROTOCOL_ICMPV6, n)
    store_native16(p + 2, checksum_finish(sum + checksum_partial(p, n)))
    if give(r, f, src, p, ICMP_HEADER, p + ICMP_HEADER, n - ICMP_HEADER):
        r.counts[<int> ECHOES_IN] += 1
    else:
        r.counts[<int> DATAGRAMS_FULL] += 1


cdef void take_answers(relay_t *r, flow_t *f) noexcept nogil:
    cdef kernel_name_t name
    cdef unsigned int length
    cdef address_t src
    cdef uint16_t port = 0
    cdef ssize_t n
    cdef int i
    for i in range(SHARE):
        length = sizeof(name)
        n = recvfrom(f.fd, r.scratch, RELAY_SCRATCH, MSG_DONTWAIT, &name.any, &length)
        if n < 0 and errno == EAGAIN:
            f.readable = 0
            return
        if n < 0:
            continue                                   # an error of an earlier datagram: its queue says more
        if not seen_from(r, f, &name, &src, &port):
            r.counts[<int> DATAGRAMS_STRANGE] += 1
            continue
        f.answered = 1
        flow_used(r, f)
        if f.protocol == RELAY_UDP:
            give_datagram(r, f, &src, port, <uint32_t> n)
        else:
            give_echo(r, f, &src, <uint32_t> n)
    flow_queue(r, f)


# --- what is ready, and time ---------------------------------------------------------------------------------------

cdef void datagram_ready(relay_t *r, flow_t *f, unsigned int events) noexcept nogil:
    if f.state != FLOW_OPEN:
        return
    if events & EPOLLERR:
        datagram_errors(r, f)
    if events & (EPOLLIN | EPOLLERR) or f.readable:
        f.readable = 1
        take_answers(r, f)


# --- time -------------------------------------------------------------------------------------------------------------

cdef void datagrams_sweep(relay_t *r) noexcept nogil:
    cdef flow_t *f = r.datagrams.first
    cdef flow_t *after
    cdef int64_t idle
    while f != NULL:
        after = f.all.next
        idle = r.stack.tcp.now_ns - f.used_ns
        if f.far_fixed and f.far_port and not f.answered and idle > PATIENCE_NS:
            policy_server_failed(r, &f.target)         # the next question goes to another
        if idle > r.limits.idle_ns or (f.far_port and idle > NAMES_IDLE_NS):
            r.counts[<int> FLOWS_IDLE] += 1
            flow_end(r, f, False)
        f = after
