"""Options of AF_INET6 sockets with Linux's numbers and quirks (RFC 3493, 3542), and net.ipv6 sysctls."""

import ipaddress

from libc.errno cimport EINVAL, ENODEV, ENOPROTOOPT, ENOTCONN
from libc.string cimport memcpy

from netstack.address cimport address_t
from netstack.ip.autoconf cimport ip6_make
from netstack.ip.interface cimport interface_mtu, interface_t
from netstack.ip.ip6 cimport ip6_conf_t
from netstack.link.link cimport MEDIA_ETHERNET
from netstack.sock cimport SF_V6, SF_V6ONLY, SOCK_TCP
from netstack.stack.core cimport stack_route
from netstack.tcp.mtu cimport path_mtu_recall
from netstack.tcp.tcb cimport ESTABLISHED, tcb_t
from netstack.udp.endpoint cimport udp_endpoint_t

cdef enum:
    IPV6_UNICAST_HOPS = 16
    IPV6_MULTICAST_IF = 17
    IPV6_MULTICAST_HOPS = 18
    IPV6_MULTICAST_LOOP = 19
    IPV6_MTU_DISCOVER = 23
    IPV6_MTU = 24
    IPV6_RECVERR = 25
    IPV6_V6ONLY = 26
    IPV6_DONTFRAG = 62
    IPV6_TCLASS = 67
    HOPS_DEFAULT = 64            # net.ipv6.conf.*.hop_limit
    PMTUDISC_LAST = 5            # IPV6_PMTUDISC_OMIT


# --- options ----------------------------------------------------------------------------------------------------------

cdef int set_hops(stack_t *stack, sock_t *sock, int32_t v) noexcept nogil:
    if v < -1 or v > 255:
        return -EINVAL
    if v == -1:
        v = HOPS_DEFAULT
    if sock.kind == SOCK_TCP:
        (<tcb_t *> sock).hops = <uint8_t> v
    else:
        (<udp_endpoint_t *> sock).hops = <uint8_t> v
    return 0


cdef int set_class(sock_t *sock, int32_t v) noexcept nogil:
    if v < -1 or v > 255:
        return -EINVAL
    if v == -1:
        v = 0
    if sock.kind == SOCK_TCP:
        (<tcb_t *> sock).tclass = <uint8_t> (v & ~3)      # the ECN bits are TCP's own
    else:
        (<udp_endpoint_t *> sock).tclass = <uint8_t> v
    return 0


cdef int set_v6only(sock_t *sock, int32_t v) noexcept nogil:
    """Before the socket has a port; Linux says EINVAL later."""
    if (<tcb_t *> sock).lport if sock.kind == SOCK_TCP else (<udp_endpoint_t *> sock).lport:
        return -EINVAL
    if v:
        sock.flags |= SF_V6ONLY
    else:
        sock.flags &= ~<uint32_t> SF_V6ONLY
    return 0


cdef int mtu_to_peer(stack_t *stack, sock_t *sock, int32_t *v) noexcept nogil:
    """IPV6_MTU: of the path to the peer, so only of a connected socket."""
    cdef address_t *remote
    cdef address_t next_hop
    cdef uint32_t path
    cdef int i
    if sock.kind == SOCK_TCP:
        if (<tcb_t *> sock).state < ESTABLISHED:
            return -ENOTCONN
        remote = &(<tcb_t *> sock).remote
    else:
        if not (<udp_endpoint_t *> sock).connected:
            return -ENOTCONN
        remote = &(<udp_endpoint_t *> sock).remote
    i = stack_route(stack, remote, &next_hop)
    if i < 0:
        return -ENOTCONN
    v[0] = interface_mtu(stack.interfaces[i], False)
    path = path_mtu_recall(&stack.tcp, remote)
    if path and path < <uint32_t> v[0]:
        v[0] = path
    return 0


cdef int ipv6_option_set(stack_t *stack, sock_t *sock, int name, int32_t v, const uint8_t *value, uint32_t n) noexcept nogil:
    cdef udp_endpoint_t *ep = <udp_endpoint_t *> sock
    if not sock.flags & SF_V6:
        return -ENOPROTOOPT
    if name == IPV6_V6ONLY:
        return set_v6only(sock, v)
    if name == IPV6_UNICAST_HOPS:
        return set_hops(stack, sock, v)
    if name == IPV6_TCLASS:
        return set_class(sock, v)
    if name == IPV6_RECVERR:
        return 0
    if name == IPV6_MTU_DISCOVER:
        if v < 0 or v > PMTUDISC_LAST:
            return -EINVAL
        if sock.kind != SOCK_TCP:
            ep.pmtu_discovery = <uint8_t> v
        return 0
    if sock.kind == SOCK_TCP:
        return -ENOPROTOOPT
    if name == IPV6_MULTICAST_HOPS:
        if v < -1 or v > 255:
            return -EINVAL
        ep.multicast_ttl = 1 if v == -1 else <uint8_t> v
    elif name == IPV6_MULTICAST_LOOP:
        if v != 0 and v != 1:
            return -EINVAL
        ep.multicast_loop = <uint8_t> v
    elif name == IPV6_MULTICAST_IF:
        if v < 0 or v >= <int32_t> stack.interface_count:
            return -ENODEV
        ep.multicast_interface = <uint8_t> v
    elif name == IPV6_DONTFRAG:
        ep.dont_fragment = v != 0
    else:
        return -ENOPROTOOPT
    return 0


cdef int ipv6_option_get(stack_t *stack, sock_t *sock, int name, int32_t *v) noexcept nogil:
    cdef udp_endpoint_t *ep = <udp_endpoint_t *> sock
    cdef tcb_t *tcb = <tcb_t *> sock
    if not sock.flags & SF_V6:
        return -ENOPROTOOPT
    if name == IPV6_V6ONLY:
        v[0] = (sock.flags & SF_V6ONLY) != 0
    elif name == IPV6_UNICAST_HOPS:
        v[0] = tcb.hops if sock.kind == SOCK_TCP else ep.hops
    elif name == IPV6_TCLASS:
        v[0] = tcb.tclass if sock.kind == SOCK_TCP else ep.tclass
    elif name == IPV6_RECVERR:
        v[0] = 0
    elif name == IPV6_MTU:
        return mtu_to_peer(stack, sock, v)
    elif name == IPV6_MTU_DISCOVER:
        v[0] = 1 if sock.kind == SOCK_TCP else ep.pmtu_discovery
    elif sock.kind == SOCK_TCP:
        return -ENOPROTOOPT
    elif name == IPV6_MULTICAST_HOPS:
        v[0] = ep.multicast_ttl
    elif name == IPV6_MULTICAST_LOOP:
        v[0] = ep.multicast_loop
    elif name == IPV6_MULTICAST_IF:
        v[0] = ep.multicast_interface
    elif name == IPV6_DONTFRAG:
        v[0] = ep.dont_fragment
    else:
        return -ENOPROTOOPT
    return 0


# --- sysctls ----------------------------------------------------------------------------------------------------------

# net.ipv6.conf.all.* and .default.* are one here: the settings of every interface. name: (smallest, largest)
CONF = {
    "accept_dad": (0, 2), "dad_transmits": (0, 255), "accept_ra": (0, 2), "accept_ra_defrtr": (0, 1),
    "accept_ra_pinfo": (0, 1), "accept_ra_mtu": (0, 1), "autoconf": (0, 1), "accept_redirects": (0, 1),
    "stable_secret": None,
}
SYSCTLS = {
    "net.ipv6.bindv6only": (0, 1),
    "net.ipv6.auto_flowlabels": (0, 3),
    "net.ipv6.icmp.echo_ignore_all": (0, 1),
    "net.ipv6.icmp.echo_ignore_multicast": (0, 1),
    **{f"net.ipv6.conf.{which}.{name}": limits for which in ("all", "default") for name, limits in CONF.items()},
}


cdef bint sysctl6_known(str name):
    return name in SYSCTLS


cdef int set_conf(ip6_conf_t *conf, str name, object value) except -1:
    cdef bytes secret
    if name == "accept_dad":
        conf.accept_dad = value
    elif name == "dad_transmits":
        conf.dad_transmits = value
    elif name == "accept_ra":
        conf.accept_ra = value
    elif name == "accept_ra_defrtr":
        conf.accept_ra_defrtr = value
    elif name == "accept_ra_pinfo":
        conf.accept_ra_pinfo = value
    elif name == "accept_ra_mtu":
        conf.accept_ra_mtu = value
    elif name == "autoconf":
        conf.autoconf = value
    elif name == "accept_redirects":
        conf.accept_redirects = value
    elif name == "echo_ignore_multicast":
        conf.echo_ignore_multicast = value
    elif name == "echo_ignore_all":
        conf.echo_ignore_all = value
    else:
        secret = ipaddress.IPv6Address(value).packed   # 128 bits, written as Linux writes them
        memcpy(conf.stable_secret, <const char *> secret, 16)
        conf.has_stable_secret = 1
    return 0


cdef int sysctl6_set(stack_t *stack, str name, object value) except -1:
    """A name of `SYSCTLS`; ValueError for a value out of range."""
    cdef uint32_t i
    cdef interface_t *ifc
    limits = SYSCTLS[name]
    if limits is not None:
        value = int(value)
        if not limits[0] <= value <= limits[1]:
            raise ValueError(f"{name} = {value}: from {limits[0]} to {limits[1]}")
    if name == "net.ipv6.bindv6only":
        stack.bindv6only = value
    elif name == "net.ipv6.auto_flowlabels":
        stack.auto_flowlabels = value
    else:
        for i in range(stack.interface_count):
            ifc = stack.interfaces[i]
            set_conf(&ifc.conf, name.rpartition(".")[2], value)
            if name.endswith(".accept_ra") and value and ifc.media == MEDIA_ETHERNET and not ifc.loopback:
                if ip6_make(ifc) < 0:
                    raise MemoryError
    return 0


cdef object sysctl6_get(stack_t *stack, str name):
    cdef const ip6_conf_t *c = &stack.interfaces[0].conf
    if name == "net.ipv6.bindv6only":
        return stack.bindv6only
    if name == "net.ipv6.auto_flowlabels":
        return stack.auto_flowlabels
    short = name.rpartition(".")[2]
    if short == "stable_secret":
        return str(ipaddress.IPv6Address((<const char *> c.stable_secret)[:16])) if c.has_stable_secret else ""
    return {
        "accept_dad": c.accept_dad, "dad_transmits": c.dad_transmits, "accept_ra": c.accept_ra,
        "accept_ra_defrtr": c.accept_ra_defrtr, "accept_ra_pinfo": c.accept_ra_pinfo, "accept_ra_mtu": c.accept_ra_mtu,
        "autoconf": c.autoconf, "accept_redirects": c.accept_redirects, "echo_ignore_multicast": c.echo_ignore_multicast,
        "echo_ignore_all": c.echo_ignore_all,
    }[short]
