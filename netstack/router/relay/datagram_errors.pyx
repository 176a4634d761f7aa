"""ICMP errors about datagrams of stacks: see datagram_errors.pxd."""

from libc.errno cimport EMSGSIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from netstack.address cimport address_is_v4, address_t, address_v4
from netstack.ip.icmp cimport icmp_send_error
from netstack.ip.icmp6 cimport icmp6_send_error
from netstack.ip.interface cimport HEADER_COPY, packet_in_t
from netstack.link.link cimport frame_t
from netstack.router.relay.flows cimport RELAY_UDP
from netstack.router.relay.kernel cimport (
    CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_NXTHDR, IP_RECVERR, IPPROTO_IP, IPPROTO_IPV6, IPV6_RECVERR, MSG_DONTWAIT,
    MSG_ERRQUEUE, SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, cmsghdr, iovec, kernel_name_t, msghdr, name_read, recvmsg,
    sock_extended_err,
)
from netstack.router.relay.policy cimport policy_foreign, policy_loopback, policy_server_failed
from netstack.router.relay.state cimport DATAGRAMS_ERRORS, RELAY_SCRATCH
from netstack.wire.byte_order cimport store_be16
from netstack.wire.checksum cimport checksum_partial
from netstack.wire.icmp cimport ICMP_CODE_FRAGMENTATION, ICMP_HEADER, ICMP_UNREACHABLE
from netstack.wire.icmp6 cimport ICMP6_TOO_BIG
from netstack.wire.ipv4 cimport IPV4_HEADER, write_ipv4
from netstack.wire.ipv6 cimport IPV6_HEADER, write_ipv6
from netstack.wire.udp cimport UDP_HEADER, write_udp

cdef enum:
    ERRORS = 16                  # of one socket in one turn
    TTL = 64
    QUOTED = 256                 # bytes of a datagram that an error shows


cdef void show_error(relay_t *r, flow_t *f, const address_t *to, uint16_t port, const uint8_t *data, uint32_t n,
                     const sock_extended_err *e, const kernel_name_t *offender) noexcept nogil:
    """The ICMP error about a datagram of the stack's, as the stack would have got it: the datagram is made again."""
    cdef packet_in_t packet
    cdef frame_t frame
    cdef uint8_t about[QUOTED + 64]
    cdef bint v4 = address_is_v4(&f.near)
    cdef uint32_t ip_length = IPV4_HEADER if v4 else IPV6_HEADER, whole
    cdef address_t who
    cdef uint16_t unused = 0
    if n > QUOTED:
        n = QUOTED
    memset(about, 0, sizeof(about))
    if f.protocol == RELAY_UDP:
        write_udp(about + ip_length, &f.near, to, f.near_port, port, n, checksum_partial(data, n))
        memcpy(about + ip_length + UDP_HEADER, data, n)
        whole = ip_length + UDP_HEADER + n
    else:
        if n < ICMP_HEADER:
            return
        memcpy(about + ip_length, data, n)
        store_be16(about + ip_length + 4, f.near_port)
        whole = ip_length + n
    if v4:
        write_ipv4(about, address_v4(&f.near), address_v4(to), f.protocol, whole, 0, TTL, 0, True)
    else:
        write_ipv6(about, &f.near, to, f.protocol, whole - IPV6_HEADER, 0, TTL, 0)
    memset(&packet, 0, sizeof(packet))
    frame.head = about
    frame.head_length = whole
    frame.body = NULL
    frame.body_length = 0
    packet.interface = r.interface
    packet.frame = &frame
    packet.header_bytes = whole if whole < HEADER_COPY else HEADER_COPY
    memcpy(packet.header, about, packet.header_bytes)
    packet.header_length = ip_length
    packet.length = whole
    packet.protocol = f.protocol
    packet.src = f.near
    packet.dst = to[0]                                 # errors leave from there: from who said so, where that can be
    if offender != NULL and not f.far_fixed and name_read(offender, &who, &unused) and address_is_v4(&who) == v4 and \
            policy_foreign(r, &who) and not policy_loopback(&who):
        packet.dst = who
    r.counts[<int> DATAGRAMS_ERRORS] += 1
    if e.ee_origin == SO_EE_ORIGIN_ICMP:
        icmp_send_error(&packet, e.ee_type, e.ee_code, e.ee_info, r.stack.tcp.now_ns)
    elif e.ee_origin == SO_EE_ORIGIN_ICMP6:
        icmp6_send_error(&packet, e.ee_type, e.ee_code, e.ee_info, r.stack.tcp.now_ns)
    elif e.ee_errno == EMSGSIZE and v4:
        icmp_send_error(&packet, ICMP_UNREACHABLE, ICMP_CODE_FRAGMENTATION, e.ee_info, r.stack.tcp.now_ns)
    elif e.ee_errno == EMSGSIZE:
        icmp6_send_error(&packet, ICMP6_TOO_BIG, 0, e.ee_info, r.stack.tcp.now_ns)


cdef void datagram_errors(relay_t *r, flow_t *f) noexcept nogil:
    cdef kernel_name_t to_name
    cdef kernel_name_t offender
    cdef sock_extended_err e
    cdef msghdr m
    cdef iovec part
    cdef uint8_t control[512]
    cdef cmsghdr *c
    cdef address_t to
    cdef uint16_t port = 0
    cdef ssize_t n
    cdef size_t most
    cdef bint found
    cdef int i
    for i in range(ERRORS):
        memset(&m, 0, sizeof(m))
        part.iov_base = r.scratch
        part.iov_len = RELAY_SCRATCH
        m.msg_name = &to_name
        m.msg_namelen = sizeof(to_name)
        m.msg_iov = &part
        m.msg_iovlen = 1
        m.msg_control = control
        m.msg_controllen = sizeof(control)
        n = recvmsg(f.fd, &m, MSG_ERRQUEUE | MSG_DONTWAIT)
        if n < 0:
            return
        found = False
        memset(&offender, 0, sizeof(offender))
        c = CMSG_FIRSTHDR(&m)
        while c != NULL:
            if (c.cmsg_level == IPPROTO_IP and c.cmsg_type == IP_RECVERR) or \
                    (c.cmsg_level == IPPROTO_IPV6 and c.cmsg_type == IPV6_RECVERR):
                memcpy(&e, CMSG_DATA(c), sizeof(e))
                most = c.cmsg_len - CMSG_LEN(sizeof(e))
                memcpy(&offender, CMSG_DATA(c) + sizeof(e), most if most < sizeof(offender) else sizeof(offender))
                found = True
            c = CMSG_NXTHDR(&m, c)
        if not found:
            continue
        if not name_read(&to_name, &to, &port):
            continue
        if f.far_fixed:                                # the stack knows it by another name
            to = f.far
            port = f.far_port if f.far_port else port
            policy_server_failed(r, &f.target)
        show_error(r, f, &to, port, r.scratch, <uint32_t> n, &e, &offender)
