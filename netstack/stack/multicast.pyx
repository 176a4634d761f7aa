"""Memberships of groups. What an interface listens to follows from what all sockets want of it (`group_changed`)."""

from libc.errno cimport EADDRINUSE, EADDRNOTAVAIL, EINVAL, ENOBUFS, ENODEV, ENOMEM, ENOPROTOOPT
from libc.stdint cimport int32_t, uint16_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from netstack.address cimport (
    address_equal, address_from_v4, address_is_any, address_is_multicast6, address_is_v4,
    address_set_zone, address_t, address_v4,
)
from netstack.ip.groups cimport GROUP_SOURCES, set_has, source_set_t
from netstack.ip.igmp cimport igmp_set
from netstack.ip.interface cimport interface_has_address, interface_t
from netstack.ip.mld cimport mld_set
from netstack.sock cimport SF_V6, SOCK_TCP
from netstack.stack.core cimport stack_route
from netstack.udp.endpoint cimport EM_MULTICAST_OWN, EM_MULTICAST_OWN6, membership_t

cdef enum:
    SOL_IP = 0
    SOL_IPV6 = 41
    IP_MULTICAST_IF = 32
    IP_MULTICAST_TTL = 33
    IP_MULTICAST_LOOP = 34
    IP_ADD_MEMBERSHIP = 35
    IP_DROP_MEMBERSHIP = 36
    IP_UNBLOCK_SOURCE = 37
    IP_BLOCK_SOURCE = 38
    IP_ADD_SOURCE_MEMBERSHIP = 39
    IP_DROP_SOURCE_MEMBERSHIP = 40
    IP_MSFILTER = 41
    MCAST_JOIN_GROUP = 42
    MCAST_BLOCK_SOURCE = 43
    MCAST_UNBLOCK_SOURCE = 44
    MCAST_LEAVE_GROUP = 45
    MCAST_JOIN_SOURCE_GROUP = 46
    MCAST_LEAVE_SOURCE_GROUP = 47
    MCAST_MSFILTER = 48
    IP_MULTICAST_ALL = 49
    IPV6_JOIN_GROUP = 20
    IPV6_LEAVE_GROUP = 21
    IPV6_MULTICAST_ALL = 29
    AF_INET = 2
    AF_INET6 = 10
    STORAGE = 128                # bytes of struct sockaddr_storage
    GROUP_REQ = 8 + STORAGE      # struct group_req; group_source_req has one more address
    IP_FILTER = 16               # struct ip_msfilter without sources
    GROUP_FILTER = GROUP_REQ + 8     # struct group_filter without sources
    MCAST_INCLUDE = 1            # imsf_fmode, gf_fmode
    MLD_SOURCES = 64             # of one membership (net.ipv6.mld_max_msf)
    MLD_MEMBERSHIPS = 1024       # of one socket; Linux limits their memory

cdef enum:                       # what is done to a membership
    JOIN = 1
    LEAVE = 2
    BLOCK_ONE = 3
    UNBLOCK_ONE = 4
    JOIN_ONE = 5
    LEAVE_ONE = 6


cdef struct change_t:
    address_t group
    address_t source
    int interface                # index; -1: none
    int action


# --- which interface --------------------------------------------------------------------------------------------------

cdef int interface_with(const stack_t *stack, uint32_t be) noexcept nogil:
    cdef address_t a
    cdef uint32_t i
    address_from_v4(&a, be)
    for i in range(stack.interface_count):
        if interface_has_address(stack.interfaces[i], &a):
            return <int> i
    return -1


cdef int default_interface(const stack_t *stack, const address_t *group) noexcept nogil:
    """The route's, else the first that is not the loopback."""
    cdef address_t next_hop
    cdef int i = stack_route(stack, group, &next_hop)
    return i if i >= 0 else (0 if stack.interface_count > 1 else -1)


cdef int by_number(const stack_t *stack, uint32_t number) noexcept nogil:
    return <int> number - 1 if 0 < number <= stack.interface_count else -1


# --- reading what setsockopt was given --------------------------------------------------------------------------------

cdef uint32_t word(const uint8_t *p) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, 4)
    return v


cdef int read_mreq(const stack_t *stack, int name, const uint8_t *value, uint32_t n, change_t *c) noexcept nogil:
    """struct ip_mreq, ip_mreqn or ip_mreq_source."""
    cdef bint with_source = name >= IP_UNBLOCK_SOURCE
    cdef uint32_t local
    cdef int number = 0
    if n < (12 if with_source else 8):
        return -EINVAL
    address_from_v4(&c.group, word(value))
    local = word(value + 4)
    if with_source:
        address_from_v4(&c.source, word(value + 8))
    elif n >= 12:
        number = <int> word(value + 8)
    if number:
        c.interface = by_number(stack, <uint32_t> number)
    elif local:
        c.interface = interface_with(stack, local)
    else:
        c.interface = default_interface(stack, &c.group)
    return 0


cdef int read_sockaddr(int level, const uint8_t *p, address_t *out) noexcept nogil:
    """struct sockaddr_in or sockaddr_in6, of the option's level."""
    cdef uint16_t family
    memcpy(&family, p, 2)
    if family != (AF_INET if level == SOL_IP else AF_INET6):
        return -EADDRNOTAVAIL
    if level == SOL_IP:
        address_from_v4(out, word(p + 4))
    else:
        memcpy(out, p + 8, sizeof(address_t))
    return 0


cdef int read_mreq6(const stack_t *stack, const uint8_t *value, uint32_t n, change_t *c) noexcept nogil:
    """struct ipv6_mreq: the group, and the interface's number (0: the first) behind it."""
    if n < 20:
        return -EINVAL
    memcpy(&c.group, value, 16)
    c.interface = by_number(stack, word(value + 16)) if word(value + 16) else default_interface(stack, &c.group)
    return 0


cdef int read_group_req(const stack_t *stack, int level, int name, const uint8_t *value, uint32_t n,
                        change_t *c) noexcept nogil:
    """struct group_req or group_source_req (RFC 3678 section 5.1)."""
    cdef bint with_source = name not in (MCAST_JOIN_GROUP, MCAST_LEAVE_GROUP)
    cdef int r
    if n < <uint32_t> (GROUP_REQ + STORAGE if with_source else GROUP_REQ):
        return -EINVAL
    r = read_sockaddr(level, value + 8, &c.group)
    c.interface = by_number(stack, word(value)) if word(value) else default_interface(stack, &c.group)
    if r == 0 and with_source:
        r = read_sockaddr(level, value + GROUP_REQ, &c.source)
        address_set_zone(&c.source, c.interface + 1)
    return r


cdef int action_of(int name) noexcept nogil:
    if name == IP_ADD_MEMBERSHIP or name == MCAST_JOIN_GROUP or name == IPV6_JOIN_GROUP:
        return JOIN
    if name == IP_DROP_MEMBERSHIP or name == MCAST_LEAVE_GROUP or name == IPV6_LEAVE_GROUP:
        return LEAVE
    if name == IP_BLOCK_SOURCE or name == MCAST_BLOCK_SOURCE:
        return BLOCK_ONE
    if name == IP_UNBLOCK_SOURCE or name == MCAST_UNBLOCK_SOURCE:
        return UNBLOCK_ONE
    if name == IP_ADD_SOURCE_MEMBERSHIP or name == MCAST_JOIN_SOURCE_GROUP:
        return JOIN_ONE
    if name == IP_DROP_SOURCE_MEMBERSHIP or name == MCAST_LEAVE_SOURCE_GROUP:
        return LEAVE_ONE
    return 0


# --- memberships ------------------------------------------------------------------------------------------------------

cdef membership_t *find(const udp_endpoint_t *ep, const address_t *group, uint32_t interface) noexcept nogil:
    cdef membership_t *m = ep.memberships
    while m != NULL:
        if m.interface == interface and address_equal(&m.group, group):
            return m
        m = m.next
    return NULL


cdef int source_at(const membership_t *m, const address_t *source) noexcept nogil:
    cdef uint32_t i
    for i in range(m.source_count):
        if address_equal(&m.sources[i], source):
            return <int> i
    return -1


cdef int add_source(membership_t *m, const address_t *source, uint32_t limit) noexcept nogil:
    cdef address_t *grown
    if m.source_count >= limit:
        return -ENOBUFS
    grown = <address_t *> realloc(m.sources, (m.source_count + 1) * sizeof(address_t))
    if grown == NULL:
        return -ENOMEM
    m.sources = grown
    m.sources[m.source_count] = source[0]
    m.source_count += 1
    return 0


cdef void drop_source(membership_t *m, int at) noexcept nogil:
    m.source_count -= 1
    m.sources[at] = m.sources[m.source_count]


cdef membership_t *begin(udp_endpoint_t *ep, const change_t *c, bint exclude, uint32_t limit, int *error) noexcept nogil:
    cdef membership_t *m = ep.memberships
    cdef uint32_t count = 0
    while m != NULL:
        count += 1
        m = m.next
    if count >= limit:
        error[0] = -ENOBUFS
        return NULL
    m = <membership_t *> calloc(1, sizeof(membership_t))
    if m == NULL:
        error[0] = -ENOMEM
        return NULL
    m.group = c.group
    m.interface = <uint32_t> c.interface
    m.exclude = exclude
    m.next = ep.memberships
    ep.memberships = m
    return m


cdef void end(udp_endpoint_t *ep, membership_t *m) noexcept nogil:
    cdef membership_t **at = &ep.memberships
    while at[0] != m:
        at = &at[0].next
    at[0] = m.next
    free(m.sources)
    free(m)


cdef uint32_t most_memberships(const stack_t *stack, const address_t *group) noexcept nogil:
    return stack.ip.config.max_memberships if address_is_v4(group) else MLD_MEMBERSHIPS


cdef uint32_t most_sources(const stack_t *stack, const address_t *group) noexcept nogil:
    return stack.ip.config.max_msf if address_is_v4(group) else MLD_SOURCES


cdef int change(stack_t *stack, udp_endpoint_t *ep, const change_t *c) noexcept nogil:
    """As ip_mc_join_group, ip_mc_leave_group and ip_mc_source of Linux and their kin of IPv6, with their errors."""
    cdef membership_t *m
    cdef int error = 0, at
    if (<const uint8_t *> &c.group)[12] >> 4 != 14 if address_is_v4(&c.group) else not address_is_multicast6(&c.group):
        return -EINVAL
    if c.interface < 0:
        return -ENODEV
    m = find(ep, &c.group, <uint32_t> c.interface)
    if c.action == JOIN:
        if m != NULL:
            return -EADDRINUSE
        if begin(ep, c, True, most_memberships(stack, &c.group), &error) == NULL:
            return error
    elif c.action == LEAVE:
        if m == NULL:
            return -EADDRNOTAVAIL
        end(ep, m)
    elif c.action == BLOCK_ONE or c.action == UNBLOCK_ONE:
        if m == NULL or not m.exclude:
            return -EINVAL
        at = source_at(m, &c.source)
        if (at >= 0) == (c.action == BLOCK_ONE):
            return -EADDRNOTAVAIL
        if c.action == BLOCK_ONE:
            error = add_source(m, &c.source, most_sources(stack, &c.group))
        else:
            drop_source(m, at)
    elif c.action == JOIN_ONE:
        if m != NULL and m.exclude:
            return -EINVAL
        if m == NULL:
            m = begin(ep, c, False, most_memberships(stack, &c.group), &error)
            if m == NULL:
                return error
        if source_at(m, &c.source) >= 0:
            return -EADDRNOTAVAIL
        error = add_source(m, &c.source, most_sources(stack, &c.group))
        if error and m.source_count == 0:
            end(ep, m)
    else:
        if m == NULL or m.exclude:
            return -EINVAL
        at = source_at(m, &c.source)
        if at < 0:
            return -EADDRNOTAVAIL
        drop_source(m, at)
        if m.source_count == 0:
            end(ep, m)
    if error == 0:
        error = group_changed(stack, <uint32_t> c.interface, &c.group)
        if error < 0 and c.action in (JOIN, JOIN_ONE):     # there is no room for another group
            m = find(ep, &c.group, <uint32_t> c.interface)
            if m != NULL and m.source_count <= 1:
                end(ep, m)
    return error


cdef int replace_filter(stack_t *stack, udp_endpoint_t *ep, int level, int name, const uint8_t *value,
                        uint32_t n) noexcept nogil:
    """IP_MSFILTER and MCAST_MSFILTER (RFC 3678 sections 4.2 and 5.2): all sources at once, of a group that was joined."""
    cdef change_t c
    cdef membership_t *m
    cdef address_t *sources
    cdef uint32_t i, mode, count, head = IP_FILTER if name == IP_MSFILTER else GROUP_FILTER
    cdef uint32_t each = 4 if name == IP_MSFILTER else STORAGE
    cdef int r
    if n < head:
        return -EINVAL
    memset(&c, 0, sizeof(c))
    if name == IP_MSFILTER:
        r = read_mreq(stack, IP_ADD_MEMBERSHIP, value, 8, &c)
    else:
        r = read_group_req(stack, level, MCAST_JOIN_GROUP, value, n, &c)
    if r < 0:
        return r
    mode = word(value + head - 8)
    count = word(value + head - 4)
    if count > most_sources(stack, &c.group):
        return -ENOBUFS
    if mode > 1 or n < head + count * each:
        return -EINVAL
    m = find(ep, &c.group, <uint32_t> c.interface) if c.interface >= 0 else NULL
    if m == NULL:
        return -EINVAL if c.interface >= 0 else -ENODEV
    sources = <address_t *> calloc(count if count else 1, sizeof(address_t))
    if sources == NULL:
        return -ENOMEM
    for i in range(count):
        if name == IP_MSFILTER:
            address_from_v4(&sources[i], word(value + head + 4 * i))
        elif read_sockaddr(level, value + head + STORAGE * i, &sources[i]) < 0:
            free(sources)
            return -EADDRNOTAVAIL
        address_set_zone(&sources[i], c.interface + 1)
    free(m.sources)
    m.sources = sources
    m.source_count = count
    m.exclude = mode != MCAST_INCLUDE
    if mode == MCAST_INCLUDE and count == 0:
        end(ep, m)
    return group_changed(stack, <uint32_t> c.interface, &c.group)


cdef int group_changed(stack_t *stack, uint32_t interface, const address_t *group) noexcept nogil:
    """What all sockets together want of a group (RFC 3376 section 3.2, RFC 3810 section 4.2): with one that excludes,
    everything but what every such excludes and none includes; else what any includes. A set that is too large becomes a
    wider filter."""
    cdef source_set_t included, excluded
    cdef membership_t *m
    cdef bint exclude = False, first = True
    cdef uint32_t i, k
    included.count = excluded.count = 0
    for i in range(stack.sock_count):
        if stack.socks[i].kind == SOCK_TCP:
            continue
        m = find(<udp_endpoint_t *> stack.socks[i], group, interface)
        if m == NULL:
            continue
        if m.exclude:
            exclude = True
            keep_common(&excluded, m, first)
            first = False
            continue
        for k in range(m.source_count):
            if set_has(&included, &m.sources[k]):
                continue
            if included.count == <uint32_t> GROUP_SOURCES:
                exclude = True                         # more than are told: all are let in, sockets filter
                keep_common(&excluded, NULL, first)
                first = False
                break
            included.sources[included.count] = m.sources[k]
            included.count += 1
    if exclude:
        i = 0
        while i < excluded.count:
            if set_has(&included, &excluded.sources[i]):
                excluded.count -= 1
                excluded.sources[i] = excluded.sources[excluded.count]
            else:
                i += 1
    if address_is_v4(group):
        return igmp_set(stack.interfaces[interface], address_v4(group), exclude, &excluded if exclude else &included,
                        stack.tcp.now_ns)
    return mld_set(stack.interfaces[interface], group, exclude, &excluded if exclude else &included, stack.tcp.now_ns)


cdef void keep_common(source_set_t *s, const membership_t *m, bint first) noexcept nogil:
    """Into *s* only what the membership excludes too; the first fills it."""
    cdef uint32_t i, kept = 0
    if m == NULL:
        s.count = 0
        return
    if first:
        for i in range(m.source_count):
            if s.count < <uint32_t> GROUP_SOURCES:
                s.sources[s.count] = m.sources[i]
                s.count += 1
        return
    for i in range(s.count):
        if source_at(m, &s.sources[i]) >= 0:
            s.sources[kept] = s.sources[i]
            kept += 1
    s.count = kept


cdef void multicast_leave_all(stack_t *stack, udp_endpoint_t *ep) noexcept nogil:
    cdef address_t group
    cdef uint32_t interface
    while ep.memberships != NULL:
        group = ep.memberships.group
        interface = ep.memberships.interface
        end(ep, ep.memberships)
        group_changed(stack, interface, &group)


cdef bint multicast_wanted(const udp_endpoint_t *ep, const packet_in_t *packet) noexcept nogil:
    """Over the loopback comes what we sent ourselves: it counts as heard on any interface."""
    cdef const membership_t *m = ep.memberships
    cdef bint member = False
    cdef uint16_t own = EM_MULTICAST_OWN
    if not address_is_v4(&packet.dst):
        if not address_is_multicast6(&packet.dst):
            return True
        own = EM_MULTICAST_OWN6
    elif (<const uint8_t *> &packet.dst)[12] >> 4 != 14:
        return True
    while m != NULL:
        if (m.interface == packet.interface.index or packet.interface.loopback) and address_equal(&m.group, &packet.dst):
            member = True
            if (source_at(m, &packet.src) >= 0) != (m.exclude != 0):
                return True
        m = m.next
    return not member and not ep.modes & own


# --- options ----------------------------------------------------------------------------------------------------------

cdef int set_outgoing(stack_t *stack, udp_endpoint_t *ep, const uint8_t *value, uint32_t n) noexcept nogil:
    """IP_MULTICAST_IF: an address, struct ip_mreq or ip_mreqn."""
    cdef uint32_t local = 0, number = 0
    cdef int i
    if n >= 12:
        local = word(value + 4)
        number = word(value + 8)
    elif n >= 8:
        local = word(value + 4)
    elif n >= 4:
        local = word(value)
    else:
        return -EINVAL
    if number == 0 and local == 0:
        ep.multicast_interface = 0
        memset(&ep.multicast_source, 0, sizeof(address_t))
        return 0
    i = by_number(stack, number) if number else interface_with(stack, local)
    if i < 0:
        return -EADDRNOTAVAIL
    ep.multicast_interface = <uint8_t> (i + 1)
    memset(&ep.multicast_source, 0, sizeof(address_t))
    if local:
        address_from_v4(&ep.multicast_source, local)
    return 0


cdef int multicast_option_set(stack_t *stack, udp_endpoint_t *ep, int level, int name, const uint8_t *value,
                              uint32_t n) noexcept nogil:
    cdef change_t c
    cdef int32_t v = 0
    cdef int r
    if level == SOL_IPV6:
        if not ep.sock.flags & SF_V6 or not (MCAST_JOIN_GROUP <= name <= MCAST_MSFILTER or name in (
                IPV6_JOIN_GROUP, IPV6_LEAVE_GROUP, IPV6_MULTICAST_ALL)):
            return -ENOPROTOOPT
    elif level != SOL_IP or name < IP_MULTICAST_IF or name > IP_MULTICAST_ALL:
        return -ENOPROTOOPT
    if name == IP_MSFILTER or name == MCAST_MSFILTER:
        return replace_filter(stack, ep, level, name, value, n)
    if name == IPV6_MULTICAST_ALL and level == SOL_IPV6:
        if n < 4 or word(value) > 1:
            return -EINVAL
        ep.modes = ep.modes & ~<uint16_t> EM_MULTICAST_OWN6 if word(value) else ep.modes | EM_MULTICAST_OWN6
        return 0
    if name == IP_MULTICAST_IF:
        return set_outgoing(stack, ep, value, n)
    if name in (IP_MULTICAST_TTL, IP_MULTICAST_LOOP, IP_MULTICAST_ALL):
        if n < 1:
            return -EINVAL
        v = <int32_t> word(value) if n >= 4 else value[0]
        if name == IP_MULTICAST_TTL:
            if v < -1 or v > 255:
                return -EINVAL
            ep.multicast_ttl = 1 if v == -1 else <uint8_t> v
        elif name == IP_MULTICAST_LOOP:
            ep.multicast_loop = v != 0
        elif v < 0 or v > 1:
            return -EINVAL
        elif v:
            ep.modes &= ~<uint16_t> EM_MULTICAST_OWN
        else:
            ep.modes |= EM_MULTICAST_OWN
        return 0
    memset(&c, 0, sizeof(c))
    c.action = action_of(name)
    if c.action == 0:
        return -ENOPROTOOPT
    if name == IPV6_JOIN_GROUP or name == IPV6_LEAVE_GROUP:
        r = read_mreq6(stack, value, n, &c)
    elif name >= MCAST_JOIN_GROUP:
        r = read_group_req(stack, level, name, value, n, &c)
    else:
        r = read_mreq(stack, name, value, n, &c)
    if r == 0 and address_is_v4(&c.group) != (level == SOL_IP):
        return -EINVAL
    return r if r < 0 else change(stack, ep, &c)


cdef int multicast_option_get(stack_t *stack, udp_endpoint_t *ep, int level, int name, uint8_t *value,
                              uint32_t *size) noexcept nogil:
    cdef int32_t v
    if level == SOL_IPV6 and name == IPV6_MULTICAST_ALL and ep.sock.flags & SF_V6:
        v = ep.modes & EM_MULTICAST_OWN6 == 0
        if size[0] > 4:
            size[0] = 4
        memcpy(value, &v, size[0])
        return 0
    if level != SOL_IP:
        return -ENOPROTOOPT
    if name == IP_MULTICAST_IF:
        v = 0
        if not address_is_any(&ep.multicast_source):
            v = <int32_t> address_v4(&ep.multicast_source)
    elif name == IP_MULTICAST_TTL:
        v = ep.multicast_ttl
    elif name == IP_MULTICAST_LOOP:
        v = ep.multicast_loop
    elif name == IP_MULTICAST_ALL:
        v = ep.modes & EM_MULTICAST_OWN == 0
    else:
        return -ENOPROTOOPT
    if size[0] > 4:
        size[0] = 4
    memcpy(value, &v, size[0])
    return 0
