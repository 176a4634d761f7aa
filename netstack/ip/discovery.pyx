# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Router advertisements: which routers there are, which prefixes, and what they say about the link."""

from libc.stdint cimport INT64_MAX, int8_t, uint16_t
from libc.string cimport memcmp, memcpy, memset

from netstack.address cimport (
    address_equal, address_is_link_local, address_is_multicast6, address_is_unspecified6, address_set_zone,
)
from netstack.counters cimport DROP_ND_IGNORED, DROP_ND_INVALID, DROP_NONE
from netstack.ip.autoconf cimport autoconf_prefix, ip6_schedule, random_ns
from netstack.ip.ip6 cimport (
    IP6_DOMAIN_MAX, IP6_DOMAINS, IP6_PREFIXES, IP6_REDIRECTS, IP6_ROUTERS, IP6_SERVERS, domain_t, ip6_t, prefix_t, router_t,
)
from netstack.ip.ndp cimport ND_HOP_LIMIT, nd_options, nd_options_t, nd_send
from netstack.ip.neighbor cimport NEIGHBOR_FAILED, NEIGHBOR_FREE, NEIGHBOR_INCOMPLETE, neighbor_find, neighbor_t
from netstack.ip.nud cimport nud_contradicted
from netstack.ip.source cimport source_address
from netstack.siphash cimport random_next
from netstack.wire.byte_order cimport load_be16, load_be32
from netstack.wire.icmp6 cimport (
    ND_OPTION_DOMAINS, ND_OPTION_PREFIX, ND_OPTION_SERVERS, ND_OPTION_SOURCE, ND_ROUTER_SOLICITATION,
)
from netstack.wire.ipv6 cimport IPV6_MIN_MTU

cdef enum:
    ADVERTISEMENT = 16           # bytes of a router advertisement without options
    REDIRECT = 40
    PREFIX_OPTION = 32
    SERVERS_OPTION = 8           # without addresses
    DOMAINS_OPTION = 8           # without names
    LABEL_MAX = 63               # bytes of a part of a name (RFC 1035 section 2.3.4)
    MANAGED = 0x80               # flags of an advertisement
    OTHER = 0x40
    ON_LINK = 0x80               # flags of a prefix
    AUTONOMOUS = 0x40
    FOREVER = 0xffffffff         # seconds
    REACHABLE_MAX_MS = 3600000   # RFC 4861 section 4.2
    RETRANS_MIN_MS = 100         # bound of ours: a router may not make us ask faster
    SOLICIT_TRIES = 3            # after which the interval grows (RFC 7559)

cdef int64_t S = 1000000000
cdef int64_t MS = 1000000
cdef int64_t SOLICIT_NS = 4000000000             # RTR_SOLICITATION_INTERVAL
cdef int64_t SOLICIT_MAX_NS = 3600000000000      # MRT (RFC 7559 section 2)
cdef int64_t REACHABLE_AGAIN_NS = 7200000000000  # RFC 4861 section 6.3.2: chosen anew every few hours


cdef inline int64_t lifetime_ns(uint32_t seconds) noexcept nogil:
    return INT64_MAX if seconds == FOREVER else <int64_t> seconds * S


cdef inline int64_t until(int64_t now_ns, int64_t lifetime) noexcept nogil:
    return INT64_MAX if lifetime == INT64_MAX else now_ns + lifetime


cdef int route(interface_t *ifc, bint add, const address_t *prefix, uint8_t length, const address_t *gateway) noexcept nogil:
    if ifc.change_route == NULL:
        return 0
    return ifc.change_route(ifc.context, ifc, add, prefix, length, gateway)


# ---- routers ---------------------------------------------------------------

cdef bint seems_dead(interface_t *ifc, const address_t *a) noexcept nogil:
    cdef neighbor_t *n = neighbor_find(&ifc.neighbors, a)
    return n != NULL and (n.state == NEIGHBOR_FAILED or (n.state == NEIGHBOR_INCOMPLETE and n.probes > 1))


cdef void choose_router(interface_t *ifc) noexcept nogil:
    """The default router (RFC 4861 section 6.3.6, 4191 section 3.2): one that answers before one that does not, then by
    preference; the present one stays while none is better."""
    cdef ip6_t *ip6 = ifc.ip6
    cdef router_t *best = NULL
    cdef router_t *r
    cdef int score, best_score = -100
    cdef uint32_t i
    cdef address_t any
    for i in range(ip6.router_count):
        r = &ip6.routers[i]
        score = 4 * r.preference + (0 if seems_dead(ifc, &r.address) else 20) + address_equal(&r.address, &ip6.default_router)
        if score > best_score:
            best = r
            best_score = score
    if best != NULL and address_equal(&best.address, &ip6.default_router):
        return
    memset(&any, 0, sizeof(any))
    if not address_is_unspecified6(&ip6.default_router):
        route(ifc, False, &any, 0, &ip6.default_router)
        memset(&ip6.default_router, 0, sizeof(address_t))
    if best != NULL and route(ifc, True, &any, 0, &best.address) == 0:
        ip6.default_router = best.address


cdef void forget_router(interface_t *ifc, uint32_t i) noexcept nogil:
    ifc.ip6.router_count -= 1
    ifc.ip6.routers[i] = ifc.ip6.routers[ifc.ip6.router_count]


cdef void router_left(interface_t *ifc, const address_t *a, int64_t now_ns) noexcept nogil:
    cdef uint32_t i
    for i in range(ifc.ip6.router_count):
        if address_equal(&ifc.ip6.routers[i].address, a):
            forget_router(ifc, i)
            choose_router(ifc)
            ip6_schedule(ifc)
            return


cdef void router_heard(interface_t *ifc, const address_t *a, uint32_t lifetime_s, uint8_t flags, int64_t now_ns) noexcept nogil:
    cdef ip6_t *ip6 = ifc.ip6
    cdef uint8_t bits = (flags >> 3) & 3
    cdef uint32_t i = 0
    if bits == 2:                        # reserved: as if it were no default router (RFC 4191 section 2.2)
        lifetime_s = 0
    while i < ip6.router_count and not address_equal(&ip6.routers[i].address, a):
        i += 1
    if lifetime_s == 0:
        if i < ip6.router_count:
            forget_router(ifc, i)
    elif i < IP6_ROUTERS:
        if i == ip6.router_count:
            ip6.router_count += 1
            ip6.routers[i].address = a[0]
        ip6.routers[i].until_ns = now_ns + <int64_t> lifetime_s * S
        ip6.routers[i].preference = 1 if bits == 1 else (-1 if bits == 3 else 0)
        ip6.solicit_ns = INT64_MAX       # found one
    choose_router(ifc)


# ---- prefixes --------------------------------------------------------------

cdef void prefix_heard(interface_t *ifc, const address_t *prefix, uint8_t length, uint32_t valid_s, int64_t now_ns) noexcept nogil:
    """On link, for that long (RFC 4861 section 6.3.4)."""
    cdef ip6_t *ip6 = ifc.ip6
    cdef address_t none
    cdef uint32_t i = 0
    memset(&none, 0, sizeof(none))
    while i < ip6.prefix_count and (
            ip6.prefixes[i].length != length or not address_equal(&ip6.prefixes[i].prefix, prefix)):
        i += 1
    if valid_s == 0:
        if i < ip6.prefix_count:
            forget_prefix(ifc, i)
        return
    if i == IP6_PREFIXES:
        return
    if i == ip6.prefix_count:
        if route(ifc, True, prefix, length, &none) != 0:
            return                       # there is such a route already, and it stays
        ip6.prefix_count += 1
        ip6.prefixes[i].prefix = prefix[0]
        ip6.prefixes[i].length = length
    ip6.prefixes[i].until_ns = until(now_ns, lifetime_ns(valid_s))


cdef void forget_prefix(interface_t *ifc, uint32_t i) noexcept nogil:
    cdef ip6_t *ip6 = ifc.ip6
    cdef address_t none
    memset(&none, 0, sizeof(none))
    route(ifc, False, &ip6.prefixes[i].prefix, ip6.prefixes[i].length, &none)
    ip6.prefix_count -= 1
    ip6.prefixes[i] = ip6.prefixes[ip6.prefix_count]


cdef void mask(address_t *a, uint32_t length) noexcept nogil:
    cdef uint8_t *p = <uint8_t *> a
    cdef uint32_t i
    for i in range(16):
        if i * 8 >= length:
            p[i] = 0
        elif length < i * 8 + 8:
            p[i] &= <uint8_t> (0xff << (i * 8 + 8 - length))


cdef void prefix_option(interface_t *ifc, const uint8_t *p, int64_t now_ns) noexcept nogil:
    cdef address_t prefix
    cdef uint8_t length = p[2], flags = p[3]
    cdef uint32_t valid_s = load_be32(p + 4), preferred_s = load_be32(p + 8)
    memcpy(&prefix, p + 16, 16)
    if length > 128 or address_is_link_local(&prefix) or address_is_multicast6(&prefix):
        return
    mask(&prefix, length)
    if flags & ON_LINK and length:
        prefix_heard(ifc, &prefix, length, valid_s, now_ns)
    if flags & AUTONOMOUS and length == 64 and preferred_s <= valid_s and ifc.conf.autoconf:
        autoconf_prefix(ifc, &prefix, lifetime_ns(preferred_s), lifetime_ns(valid_s), now_ns)


cdef void servers_option(interface_t *ifc, const uint8_t *p, uint32_t size, int64_t now_ns) noexcept nogil:
    """Name servers (RFC 8106 section 5.1). An even length holds half an address: no such option (CVE-2020-16898)."""
    cdef ip6_t *ip6 = ifc.ip6
    cdef address_t a
    cdef uint32_t at, i, lifetime_s = load_be32(p + 4)
    if size < SERVERS_OPTION + 16 or (size - SERVERS_OPTION) % 16:
        return
    for at in range(SERVERS_OPTION, size, 16):
        memcpy(&a, p + at, 16)
        if address_is_multicast6(&a) or address_is_unspecified6(&a):
            continue
        address_set_zone(&a, ifc.index + 1)
        i = 0
        while i < ip6.server_count and not address_equal(&ip6.servers[i].address, &a):
            i += 1
        if lifetime_s == 0:
            if i < ip6.server_count:
                ip6.server_count -= 1
                ip6.servers[i] = ip6.servers[ip6.server_count]
            continue
        if i == IP6_SERVERS:
            continue
        if i == ip6.server_count:
            ip6.server_count += 1
        ip6.servers[i].address = a
        ip6.servers[i].until_ns = until(now_ns, lifetime_ns(lifetime_s))


cdef uint32_t domain_length(const uint8_t *p, uint32_t size) noexcept nogil:
    """Bytes of the name that stands first, its root included; 0: it is padding, or no name (RFC 1035 section 3.1)."""
    cdef uint32_t at = 0
    while at < size and p[at]:
        if p[at] > LABEL_MAX:
            return 0
        at += 1 + <uint32_t> p[at]
    return at + 1 if 0 < at < size and at < IP6_DOMAIN_MAX else 0


cdef void domain_heard(ip6_t *ip6, const uint8_t *name, uint32_t length, uint32_t lifetime_s, int64_t now_ns) noexcept nogil:
    cdef domain_t *d
    cdef uint32_t i = 0
    while i < ip6.domain_count and (
            ip6.domains[i].length != length or memcmp(ip6.domains[i].name, name, length) != 0):
        i += 1
    if lifetime_s == 0:
        if i < ip6.domain_count:
            ip6.domain_count -= 1
            ip6.domains[i] = ip6.domains[ip6.domain_count]
        return
    if i == IP6_DOMAINS:
        return
    if i == ip6.domain_count:
        ip6.domain_count += 1
    d = &ip6.domains[i]
    d.length = <uint8_t> length
    memcpy(d.name, name, length)
    d.until_ns = until(now_ns, lifetime_ns(lifetime_s))


cdef void domains_option(interface_t *ifc, const uint8_t *p, uint32_t size, int64_t now_ns) noexcept nogil:
    """Search domains (RFC 8106 section 5.2): names one after the other, zeros up to the end."""
    cdef uint32_t at = DOMAINS_OPTION, length, lifetime_s
    if size < DOMAINS_OPTION + 8:
        return
    lifetime_s = load_be32(p + 4)
    while at < size:
        length = domain_length(p + at, size - at)
        if length == 0:
            return
        domain_heard(ifc.ip6, p + at, length, lifetime_s, now_ns)
        at += length


# ---- advertisements --------------------------------------------------------

cdef void choose_reachable(interface_t *ifc, int64_t now_ns) noexcept nogil:
    """Between half and one and a half times what the router says (RFC 4861 section 6.3.2)."""
    cdef int64_t base = <int64_t> ifc.ip6.base_reachable_ms * MS
    ifc.ip6.reachable_ns = base // 2 + random_ns(ifc, base)
    ifc.ip6.reachable_again_ns = now_ns + REACHABLE_AGAIN_NS


cdef DropReason router_input(packet_in_t *packet, const uint8_t *p, uint32_t length, int64_t now_ns) noexcept nogil:
    cdef interface_t *ifc = packet.interface
    cdef ip6_t *ip6 = ifc.ip6
    cdef nd_options_t options
    cdef neighbor_t *n
    cdef uint32_t at = ADVERTISEMENT, size, ms
    if length < ADVERTISEMENT or not address_is_link_local(&packet.src) or not nd_options(p, at, length, &options):
        return DROP_ND_INVALID
    if not ifc.conf.accept_ra:
        return DROP_ND_IGNORED
    ip6.other_config = p[5] & (MANAGED | OTHER) != 0     # who gives addresses knows the rest too (RFC 4861 section 4.2)
    if p[4]:
        ip6.hop_limit = p[4]
    ms = load_be32(p + 8)
    if ms and ms <= REACHABLE_MAX_MS and ms != ip6.base_reachable_ms:
        ip6.base_reachable_ms = ms
        choose_reachable(ifc, now_ns)
    ms = load_be32(p + 12)
    if ms:
        ip6.retrans_ns = <int64_t> (ms if ms > RETRANS_MIN_MS else RETRANS_MIN_MS) * MS
    if options.mtu >= IPV6_MIN_MTU and options.mtu <= ifc.mtu and ifc.conf.accept_ra_mtu:
        ip6.router_mtu = options.mtu
    n = neighbor_find(&ifc.neighbors, &packet.src)
    if n != NULL and options.source_mac != NULL and n.state != NEIGHBOR_FAILED and n.state != NEIGHBOR_INCOMPLETE:
        if (<const uint16_t *> n.mac)[0] != (<const uint16_t *> options.source_mac)[0] or \
                load_be32(n.mac + 2) != load_be32(options.source_mac + 2):
            nud_contradicted(ifc, n, now_ns)
    if ifc.conf.accept_ra_defrtr:
        router_heard(ifc, &packet.src, load_be16(p + 6), p[5], now_ns)
    while at < length:
        size = <uint32_t> p[at + 1] * 8
        if p[at] == ND_OPTION_PREFIX and size == PREFIX_OPTION and ifc.conf.accept_ra_pinfo:
            prefix_option(ifc, p + at, now_ns)
        elif p[at] == ND_OPTION_SERVERS:
            servers_option(ifc, p + at, size, now_ns)
        elif p[at] == ND_OPTION_DOMAINS:
            domains_option(ifc, p + at, size, now_ns)
        at += size
    ip6_schedule(ifc)
    return DROP_NONE


# ---- redirects -------------------------------------------------------------

cdef bint redirected(interface_t *ifc, const address_t *dst, uint32_t *at) noexcept nogil:
    for at[0] in range(<uint32_t> IP6_REDIRECTS):
        if address_equal(&ifc.ip6.redirects[at[0]], dst):
            return True
    return False


cdef void redirect(interface_t *ifc, const address_t *dst, const address_t *target) noexcept nogil:
    """A route to one host. There is a bounded number of them, and none takes the place of a route that is no redirect's."""
    cdef ip6_t *ip6 = ifc.ip6
    cdef uint32_t at
    if redirected(ifc, dst, &at):
        route(ifc, False, dst, 128, target)
        if route(ifc, True, dst, 128, target) != 0:
            memset(&ip6.redirects[at], 0, sizeof(address_t))
        return
    if route(ifc, True, dst, 128, target) != 0:
        return
    at = ip6.redirect_next % IP6_REDIRECTS
    ip6.redirect_next += 1
    if not address_is_unspecified6(&ip6.redirects[at]):
        route(ifc, False, &ip6.redirects[at], 128, target)
    ip6.redirects[at] = dst[0]


cdef void forget_redirects(interface_t *ifc) noexcept nogil:
    """A neighbour failed or a router left: who asks the router again hears again (RFC 4861 section 7.3.3)."""
    cdef address_t none
    cdef uint32_t i
    memset(&none, 0, sizeof(none))
    for i in range(<uint32_t> IP6_REDIRECTS):
        if not address_is_unspecified6(&ifc.ip6.redirects[i]):
            route(ifc, False, &ifc.ip6.redirects[i], 128, &none)
            ifc.ip6.redirects[i] = none


cdef bint leads_to(interface_t *ifc, const address_t *router, const address_t *dst) noexcept nogil:
    """Is that router the first hop to dst, as far as no redirect has said otherwise (RFC 4861 section 8.1)?"""
    cdef address_t hop
    cdef uint32_t at
    if redirected(ifc, dst, &at):
        return True
    return ifc.route_to != NULL and ifc.route_to(ifc.context, dst, &hop) == ifc and address_equal(&hop, router)


cdef DropReason redirect_input(packet_in_t *packet, const uint8_t *p, uint32_t length, int64_t now_ns) noexcept nogil:
    """A better first hop (RFC 4861 section 8): only from the default router, only where redirects are accepted."""
    cdef interface_t *ifc = packet.interface
    cdef nd_options_t options
    cdef address_t target, dst
    if length < REDIRECT or not address_is_link_local(&packet.src) or not nd_options(p, REDIRECT, length, &options):
        return DROP_ND_INVALID
    memcpy(&target, p + 8, 16)
    memcpy(&dst, p + 24, 16)
    if address_is_multicast6(&dst) or (not address_is_link_local(&target) and not address_equal(&target, &dst)):
        return DROP_ND_INVALID
    if not ifc.conf.accept_redirects or not address_equal(&packet.src, &ifc.ip6.default_router) or \
            address_is_link_local(&dst) or not leads_to(ifc, &packet.src, &dst):
        return DROP_ND_IGNORED
    address_set_zone(&target, ifc.index + 1)
    if address_equal(&target, &dst):
        memset(&target, 0, sizeof(target))       # on link
    redirect(ifc, &dst, &target)
    return DROP_NONE


# ---- time ------------------------------------------------------------------

cdef void solicit_routers(interface_t *ifc, int64_t now_ns) noexcept nogil:
    """Every four seconds, after three times more and more seldom (RFC 7559), until one has answered."""
    cdef uint8_t message[16]
    cdef address_t src, dst
    cdef ip6_t *ip6 = ifc.ip6
    cdef uint32_t length = 8
    memset(message, 0, sizeof(message))
    message[0] = ND_ROUTER_SOLICITATION
    memset(&dst, 0, sizeof(dst))
    (<uint8_t *> &dst)[0] = 0xff
    (<uint8_t *> &dst)[1] = 0x02
    (<uint8_t *> &dst)[15] = 2           # all routers
    if source_address(ifc, &dst, now_ns, &src):
        message[8] = ND_OPTION_SOURCE
        message[9] = 1
        memcpy(message + 10, ifc.mac, 6)
        length = 16
    else:
        memset(&src, 0, sizeof(src))
    nd_send(ifc, NULL, &src, &dst, message, length, ND_HOP_LIMIT, False, now_ns)
    if ip6.solicit_wait_ns < SOLICIT_TRIES:
        ip6.solicit_wait_ns += 1         # counted until then, an interval afterwards
        ip6.solicit_ns = now_ns + SOLICIT_NS
        return
    ip6.solicit_wait_ns = 2 * (ip6.solicit_wait_ns if ip6.solicit_wait_ns > SOLICIT_TRIES else SOLICIT_NS)
    if ip6.solicit_wait_ns > SOLICIT_MAX_NS:
        ip6.solicit_wait_ns = SOLICIT_MAX_NS
    ip6.solicit_ns = now_ns + ip6.solicit_wait_ns - ip6.solicit_wait_ns // 10 + random_ns(ifc, ip6.solicit_wait_ns // 5)


cdef int64_t discovery_next(const interface_t *ifc) noexcept nogil:
    cdef const ip6_t *ip6 = ifc.ip6
    cdef int64_t d = ip6.solicit_ns
    cdef uint32_t i
    if ip6.reachable_again_ns < d:
        d = ip6.reachable_again_ns
    for i in range(ip6.router_count):
        if ip6.routers[i].until_ns < d:
            d = ip6.routers[i].until_ns
    for i in range(ip6.prefix_count):
        if ip6.prefixes[i].until_ns < d:
            d = ip6.prefixes[i].until_ns
    for i in range(ip6.server_count):
        if ip6.servers[i].until_ns < d:
            d = ip6.servers[i].until_ns
    for i in range(ip6.domain_count):
        if ip6.domains[i].until_ns < d:
            d = ip6.domains[i].until_ns
    return d


cdef void discovery_advance(interface_t *ifc, int64_t now_ns) noexcept nogil:
    cdef ip6_t *ip6 = ifc.ip6
    cdef uint32_t i = 0
    cdef bint changed = ip6.look_again
    ip6.look_again = 0
    while i < ip6.router_count:
        if ip6.routers[i].until_ns <= now_ns:
            forget_router(ifc, i)
            changed = True
        else:
            i += 1
    if changed:
        forget_redirects(ifc)
        choose_router(ifc)
    i = 0
    while i < ip6.prefix_count:
        if ip6.prefixes[i].until_ns <= now_ns:
            forget_prefix(ifc, i)
        else:
            i += 1
    i = 0
    while i < ip6.server_count:
        if ip6.servers[i].until_ns <= now_ns:
            ip6.server_count -= 1
            ip6.servers[i] = ip6.servers[ip6.server_count]
        else:
            i += 1
    i = 0
    while i < ip6.domain_count:
        if ip6.domains[i].until_ns <= now_ns:
            ip6.domain_count -= 1
            ip6.domains[i] = ip6.domains[ip6.domain_count]
        else:
            i += 1
    if ip6.reachable_again_ns <= now_ns:
        choose_reachable(ifc, now_ns)
    if ip6.solicit_ns <= now_ns:
        solicit_routers(ifc, now_ns)
