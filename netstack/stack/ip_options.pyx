"""The IP level of setsockopt, with Linux's numbers and quirks: what recvmsg tells, path MTU discovery, raw sockets' filters."""

from libc.errno cimport EINVAL, ENOPROTOOPT, ENOTCONN
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from netstack.address cimport address_t
from netstack.ip.shared cimport ip_config_t
from netstack.sock cimport SF_V6, SOCK_RAW, SOCK_UDPLITE
from netstack.stack.core cimport stack_route
from netstack.stack.multicast cimport multicast_option_get, multicast_option_set
from netstack.tcp.mtu cimport path_mtu_recall
from netstack.udp.endpoint cimport (
    EM_CHECKSUM, EM_HEADER_INCLUDED, EM_RECEIVE_COVERAGE, PMTU_OMIT, PMTU_PROBE, WANT_DESTINATION, WANT_ERRORS, WANT_ERRORS6, WANT_HOPLIMIT,
    WANT_PKTINFO, WANT_PKTINFO6, WANT_TCLASS, WANT_TOS, WANT_TTL,
)
from netstack.wire.udp cimport UDP_HEADER

cdef enum:
    SOL_IP = 0
    SOL_IPV6 = 41
    SOL_ICMPV6 = 58
    SOL_UDPLITE = 136
    SOL_RAW = 255
    IP_TOS = 1
    IP_TTL = 2
    IP_HDRINCL = 3
    IP_PKTINFO = 8
    IP_MTU_DISCOVER = 10
    IP_RECVERR = 11
    IP_RECVTTL = 12
    IP_RECVTOS = 13
    IP_MTU = 14
    IP_RECVORIGDSTADDR = 20
    IPV6_CHECKSUM = 7
    IPV6_MTU_DISCOVER = 23
    IPV6_MTU = 24
    IPV6_RECVERR = 25
    IPV6_RECVPKTINFO = 49
    IPV6_RECVHOPLIMIT = 51
    IPV6_RECVTCLASS = 66
    ICMP_FILTER = 1
    UDPLITE_SEND_CSCOV = 10
    UDPLITE_RECV_CSCOV = 11
    ICMP6_FILTER = 1
    IPPROTO_ICMP = 1
    IPPROTO_ICMPV6 = 58


cdef uint16_t want_of(int level, int name) noexcept nogil:
    """The bit of an option that only says what recvmsg tells; 0: it is none."""
    if level == SOL_IP:
        if name == IP_PKTINFO:
            return WANT_PKTINFO
        if name == IP_RECVTTL:
            return WANT_TTL
        if name == IP_RECVTOS:
            return WANT_TOS
        if name == IP_RECVERR:
            return WANT_ERRORS
        if name == IP_RECVORIGDSTADDR:
            return WANT_DESTINATION
    elif level == SOL_IPV6:
        if name == IPV6_RECVPKTINFO:
            return WANT_PKTINFO6
        if name == IPV6_RECVHOPLIMIT:
            return WANT_HOPLIMIT
        if name == IPV6_RECVTCLASS:
            return WANT_TCLASS
        if name == IPV6_RECVERR:
            return WANT_ERRORS6
    return 0


cdef int ip_option_set(stack_t *stack, udp_endpoint_t *ep, int level, int name, const uint8_t *value,
                       uint32_t n) noexcept nogil:
    cdef uint16_t want = want_of(level, name)
    cdef int32_t v = 0
    cdef int r = multicast_option_set(stack, ep, level, name, value, n)
    if r != -ENOPROTOOPT:
        return r
    if level == SOL_RAW or level == SOL_ICMPV6:
        return set_filter(ep, level, name, value, n)
    if level == SOL_UDPLITE:
        return set_coverage(ep, name, value, n)
    if n >= 4:
        memcpy(&v, value, 4)
    elif level == SOL_IPV6:
        return -EINVAL if want else -ENOPROTOOPT       # another may know it
    elif n >= 1:
        v = value[0]
    if want:
        if v:
            ep.wants |= want
        else:
            ep.wants &= ~want
    elif level == SOL_IP and name == IP_HDRINCL:
        if ep.sock.kind != SOCK_RAW or ep.sock.flags & SF_V6:
            return -ENOPROTOOPT
        if v:
            ep.modes |= EM_HEADER_INCLUDED
        else:
            ep.modes &= ~<uint16_t> EM_HEADER_INCLUDED
    elif (level == SOL_IP and name == IP_MTU_DISCOVER) or (level == SOL_IPV6 and name == IPV6_MTU_DISCOVER):
        if v < 0 or v > PMTU_OMIT:
            return -EINVAL
        ep.pmtu_discovery = <uint8_t> v
    elif level == SOL_IPV6 and name == IPV6_CHECKSUM:
        return set_checksum(ep, v)
    else:
        return -ENOPROTOOPT
    return 0


cdef int set_checksum(udp_endpoint_t *ep, int32_t offset) noexcept nogil:
    """RFC 3542 section 3.1: an even offset, or -1; ICMPv6 has its own place."""
    if ep.sock.kind != SOCK_RAW:
        return -ENOPROTOOPT
    if ep.protocol == IPPROTO_ICMPV6 or offset > 0xffff or (offset > 0 and offset & 1):
        return -EINVAL
    if offset < 0:
        ep.modes &= ~<uint16_t> EM_CHECKSUM
        ep.check_offset = -1
    else:
        ep.modes |= EM_CHECKSUM
        ep.check_offset = offset
    return 0


cdef int set_filter(udp_endpoint_t *ep, int level, int name, const uint8_t *value, uint32_t n) noexcept nogil:
    """Which types of messages a raw ICMP socket does not hear."""
    cdef int32_t v
    if ep.sock.kind != SOCK_RAW:
        return -ENOPROTOOPT
    if level == SOL_RAW and name == ICMP_FILTER and ep.protocol == IPPROTO_ICMP:
        memset(ep.filter, 0, 4)
        memcpy(ep.filter, value, n if n < 4 else 4)
        return 0
    if level == SOL_ICMPV6 and name == ICMP6_FILTER and ep.protocol == IPPROTO_ICMPV6:
        memcpy(ep.filter, value, n if n < sizeof(ep.filter) else sizeof(ep.filter))
        return 0
    if level == SOL_RAW and name == IPV6_CHECKSUM and n >= 4:
        memcpy(&v, value, 4)
        return set_checksum(ep, v)
    return -ENOPROTOOPT


cdef int set_coverage(udp_endpoint_t *ep, int name, const uint8_t *value, uint32_t n) noexcept nogil:
    """How much of a datagram the checksum covers (udplite(7)); the header always is."""
    cdef int32_t v
    if n < 4:
        return -EINVAL
    memcpy(&v, value, 4)
    if ep.sock.kind != SOCK_UDPLITE or name not in (UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV):
        return -ENOPROTOOPT
    if v and v < UDP_HEADER:
        v = UDP_HEADER
    if v > 0xffff:
        v = 0xffff
    if name == UDPLITE_SEND_CSCOV:
        ep.send_coverage = <uint16_t> v
    else:
        ep.receive_coverage = <uint16_t> v
        ep.modes |= EM_RECEIVE_COVERAGE
    return 0


cdef int give(uint8_t *value, uint32_t *size, const void *p, uint32_t n) noexcept nogil:
    if size[0] > n:
        size[0] = n
    memcpy(value, p, size[0])
    return 0


cdef int path_mtu_of(stack_t *stack, const udp_endpoint_t *ep) noexcept nogil:
    """Of the way to the peer; -ENOTCONN without one."""
    cdef address_t next_hop
    cdef int i
    cdef uint32_t mtu, known
    if not ep.connected:
        return -ENOTCONN
    i = stack_route(stack, &ep.remote, &next_hop)
    if i < 0:
        return -ENOTCONN
    mtu = stack.interfaces[i].mtu
    known = path_mtu_recall(&stack.tcp, &ep.remote) if ep.pmtu_discovery <= PMTU_PROBE else 0
    return <int> (known if known and known < mtu else mtu)


cdef int ip_option_get(stack_t *stack, udp_endpoint_t *ep, int level, int name, uint8_t *value, uint32_t *size) noexcept nogil:
    cdef uint16_t want = want_of(level, name)
    cdef int32_t v = 0
    cdef int r = multicast_option_get(stack, ep, level, name, value, size)
    if r != -ENOPROTOOPT:
        return r
    if want:
        v = ep.wants & want != 0
    elif level == SOL_IP and name == IP_HDRINCL and ep.sock.kind == SOCK_RAW:
        v = ep.modes & EM_HEADER_INCLUDED != 0
    elif (level == SOL_IP and name == IP_MTU_DISCOVER) or (level == SOL_IPV6 and name == IPV6_MTU_DISCOVER):
        v = ep.pmtu_discovery
    elif (level == SOL_IP and name == IP_MTU) or (level == SOL_IPV6 and name == IPV6_MTU):
        v = path_mtu_of(stack, ep)
        if v < 0:
            return v
    elif level == SOL_IPV6 and name == IPV6_CHECKSUM and ep.sock.kind == SOCK_RAW:
        v = ep.check_offset
    elif level == SOL_RAW and name == ICMP_FILTER and ep.sock.kind == SOCK_RAW and ep.protocol == IPPROTO_ICMP:
        return give(value, size, ep.filter, 4)
    elif level == SOL_ICMPV6 and name == ICMP6_FILTER and ep.sock.kind == SOCK_RAW and ep.protocol == IPPROTO_ICMPV6:
        return give(value, size, ep.filter, sizeof(ep.filter))
    elif level == SOL_UDPLITE and ep.sock.kind == SOCK_UDPLITE and name == UDPLITE_SEND_CSCOV:
        v = ep.send_coverage
    elif level == SOL_UDPLITE and ep.sock.kind == SOCK_UDPLITE and name == UDPLITE_RECV_CSCOV:
        v = ep.receive_coverage
    else:
        return -ENOPROTOOPT
    return give(value, size, &v, 4)


# --- sysctls ----------------------------------------------------------------------------------------------------------

IP_SYSCTLS = {
    # name: (smallest, largest)
    "net.ipv4.ip_no_pmtu_disc": (0, 3),
    "net.ipv4.ip_default_ttl": (1, 255),
    "net.ipv4.ipfrag_high_thresh": (0, 1 << 30),
    "net.ipv4.ipfrag_time": (1, 3600),
    "net.ipv6.ip6frag_time": (1, 3600),
    "net.ipv4.icmp_echo_ignore_all": (0, 1),
    "net.ipv4.icmp_echo_ignore_broadcasts": (0, 1),
    "net.ipv4.icmp_ratelimit": (0, 3600000),
    "net.ipv4.icmp_msgs_per_sec": (0, 1000000),
    "net.ipv4.icmp_msgs_burst": (0, 100000),
    "net.ipv4.igmp_max_memberships": (0, 10000),
    "net.ipv4.igmp_max_msf": (0, 10000),
    "net.ipv4.conf.all.force_igmp_version": (0, 3),
}


cdef bint is_ip_sysctl(str name):
    return name in IP_SYSCTLS


cdef int ip_sysctl_set(stack_t *stack, str name, object value) except -1:
    cdef ip_config_t *c = &stack.ip.config
    value = int(value)
    low, high = IP_SYSCTLS[name]
    if not low <= value <= high:
        raise ValueError(f"{name} = {value}: from {low} to {high}")
    short = name.rpartition(".")[2]
    if short == "ip_no_pmtu_disc":
        c.no_pmtu_disc = value
    elif short == "ip_default_ttl":
        c.default_ttl = value
    elif short == "ipfrag_high_thresh":
        stack.fragments.high_bytes = value
    elif short == "ipfrag_time":
        stack.fragments.timeout_ms[0] = value * 1000
    elif short == "ip6frag_time":
        stack.fragments.timeout_ms[1] = value * 1000
    elif short == "icmp_echo_ignore_all":
        c.echo_ignore_all = value
    elif short == "icmp_echo_ignore_broadcasts":
        c.echo_ignore_broadcasts = value
    elif short == "icmp_ratelimit":
        c.ratelimit_ms = value
    elif short == "icmp_msgs_per_sec":
        c.msgs_per_sec = value
    elif short == "icmp_msgs_burst":
        c.msgs_burst = value
    elif short == "igmp_max_memberships":
        c.max_memberships = value
    elif short == "igmp_max_msf":
        c.max_msf = value
    elif short == "force_igmp_version":
        c.igmp_version = value
    return 0


cdef object ip_sysctl_get(stack_t *stack, str name):
    cdef ip_config_t *c = &stack.ip.config
    return {
        "ip_no_pmtu_disc": c.no_pmtu_disc, "ip_default_ttl": c.default_ttl,
        "ipfrag_high_thresh": stack.fragments.high_bytes, "ipfrag_time": stack.fragments.timeout_ms[0] // 1000,
        "ip6frag_time": stack.fragments.timeout_ms[1] // 1000, "icmp_echo_ignore_all": c.echo_ignore_all,
        "icmp_echo_ignore_broadcasts": c.echo_ignore_broadcasts, "icmp_ratelimit": c.ratelimit_ms,
        "icmp_msgs_per_sec": c.msgs_per_sec, "icmp_msgs_burst": c.msgs_burst,
        "igmp_max_memberships": c.max_memberships, "igmp_max_msf": c.max_msf, "force_igmp_version": c.igmp_version,
    }[name.rpartition(".")[2]]
