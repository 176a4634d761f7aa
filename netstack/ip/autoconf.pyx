# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Duplicate address detection, stable opaque addresses, lifetimes; and the timers of all of IPv6 on an interface."""

from libc.errno cimport EADDRNOTAVAIL, EEXIST, EINVAL, ENOMEM, ENOSPC
from libc.stdint cimport INT64_MAX, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, memset

from netstack.address cimport (
    address_equal, address_is_multicast6, address_is_unspecified6, address_set_zone,
)
from netstack.ip.discovery cimport discovery_advance, discovery_next
from netstack.ip.interface cimport (
    INTERFACE_ADDRESSES, interface_add_address, interface_index_of, interface_remove_address,
)
from netstack.ip.ip6 cimport (
    IP6_ADDRESSES, ORIGIN_CONFIGURED, ORIGIN_LINK_LOCAL, ORIGIN_SLAAC, ip6_t,
)
from netstack.ip.mld cimport mld_advance, mld_join, mld_leave, mld_next
from netstack.ip.ndp cimport nd_announce, nd_ask, nd_probe, solicited_node
from netstack.link.link cimport MEDIA_ETHERNET
from netstack.siphash cimport random_next, siphash

cdef enum:
    ATTEMPTS = 3                 # IDGEN_RETRIES (RFC 7217 section 5): addresses tried before it is left alone
    INTERFACE_ID = 64            # bits
    SALT_OPAQUE = 5              # keeps this use of the secret apart

cdef int64_t S = 1000000000
cdef int64_t SOLICITATION_DELAY_NS = 1000000000      # MAX_RTR_SOLICITATION_DELAY (RFC 4861 section 10)
cdef int64_t AGAIN_NS = 1000000000                   # IDGEN_DELAY (RFC 7217 section 7)
cdef int64_t TWO_HOURS_NS = 7200000000000            # RFC 4862 section 5.5.3 (e)


# ---- making ----------------------------------------------------------------

cdef int64_t random_ns(interface_t *ifc, int64_t below_ns) noexcept nogil:
    return <int64_t> (random_next(ifc.random) >> 33) * below_ns >> 31 if below_ns < (<int64_t> 1 << 32) else \
        (<int64_t> (random_next(ifc.random) >> 33) * (below_ns >> 10) >> 31) << 10


cdef int ip6_make(interface_t *ifc) noexcept nogil:
    cdef ip6_t *ip6
    if ifc.ip6 != NULL:
        return 0
    ip6 = <ip6_t *> calloc(1, sizeof(ip6_t))
    if ip6 == NULL:
        return -ENOMEM
    ip6.running = ifc.media == MEDIA_ETHERNET and not ifc.loopback
    ip6.next_deadline_ns = 0 if ip6.running else INT64_MAX
    ip6.retrans_ns = S
    ip6.base_reachable_ms = 30000
    ip6.reachable_ns = 30 * S
    ip6.reachable_again_ns = INT64_MAX
    ip6.solicit_ns = INT64_MAX
    ip6.general_ns = INT64_MAX
    ifc.ip6 = ip6
    ifc.ask_nd = nd_ask
    ifc.advance_ip6 = ip6_advance
    return 0


cdef void opaque_id(const interface_t *ifc, const address_t *prefix, uint32_t attempt, address_t *out) noexcept nogil:
    """The address with a stable opaque interface id in a /64 (RFC 7217 section 5): F(prefix, interface, attempt, secret).
    Reserved ids (RFC 5453) are passed over, each by a further number as if it were a duplicate."""
    cdef uint64_t words[4]
    cdef const uint64_t *key = ifc.secret
    cdef uint8_t *p = <uint8_t *> out
    cdef uint32_t skip = 0
    if ifc.conf.has_stable_secret:
        key = &ifc.conf.stable_secret[0]
    while True:
        words[0] = prefix.hi
        words[1] = 0
        memcpy(&words[1], ifc.mac, 6)
        words[2] = (<uint64_t> SALT_OPAQUE << 32) | attempt
        words[3] = skip
        out.hi = prefix.hi
        out.lo = siphash(key, words, 4)
        skip += 1
        if out.lo == 0 or (p[8] == 0xfd and p[9] == 0xff and p[10] == 0xff and p[11] == 0xff) or \
                (p[8] == 0x02 and p[9] == 0 and p[10] == 0x5e and p[11] == 0xff and p[12] == 0xfe):
            continue
        return


# ---- addresses on trial ----------------------------------------------------

cdef held_t *trial_of(interface_t *ifc, const address_t *a) noexcept nogil:
    cdef uint32_t i
    if ifc.ip6 == NULL:
        return NULL
    for i in range(ifc.ip6.trial_count):
        if address_equal(&ifc.ip6.trial[i].address, a):
            return &ifc.ip6.trial[i]
    return NULL


cdef held_t *held_of(interface_t *ifc, const address_t *a) noexcept nogil:
    cdef uint32_t i
    for i in range(ifc.ip6.held_count):
        if address_equal(&ifc.ip6.held[i].address, a):
            return &ifc.ip6.held[i]
    return NULL


cdef int begin_trial(interface_t *ifc, const address_t *a, uint8_t prefix_length, uint8_t origin, uint8_t attempt,
                     int64_t preferred_until_ns, int64_t valid_until_ns, int64_t deadline_ns) noexcept nogil:
    cdef ip6_t *ip6 = ifc.ip6
    cdef held_t *t
    if trial_of(ifc, a) != NULL or interface_index_of(ifc, a) >= 0:
        return -EEXIST
    if ip6.trial_count == IP6_ADDRESSES or ip6.trial_count + ifc.address_count >= INTERFACE_ADDRESSES:
        return -ENOSPC
    t = &ip6.trial[ip6.trial_count]
    memset(t, 0, sizeof(held_t))
    ip6.trial_count += 1
    t.address = a[0]
    t.prefix_length = prefix_length
    t.origin = origin
    t.attempt = attempt
    t.preferred_until_ns = preferred_until_ns
    t.valid_until_ns = valid_until_ns
    t.deadline_ns = deadline_ns
    ip6_schedule(ifc)
    return 0


cdef int ip6_add_address(interface_t *ifc, const address_t *a, uint8_t prefix_length, int64_t now_ns) noexcept nogil:
    cdef address_t own = a[0]
    cdef int r
    if ifc.media != MEDIA_ETHERNET or ifc.loopback:
        return interface_add_address(ifc, a, prefix_length)
    if prefix_length > 128 or address_is_multicast6(a) or address_is_unspecified6(a):
        return -EINVAL
    r = ip6_make(ifc)
    if r < 0:
        return r
    address_set_zone(&own, ifc.index + 1)
    return begin_trial(ifc, &own, prefix_length, ORIGIN_CONFIGURED, 0, INT64_MAX, INT64_MAX, 0)


cdef void end_trial(interface_t *ifc, uint32_t i) noexcept nogil:
    ifc.ip6.trial_count -= 1
    ifc.ip6.trial[i] = ifc.ip6.trial[ifc.ip6.trial_count]


cdef void trial_conflict(interface_t *ifc, held_t *trial, int64_t now_ns) noexcept nogil:
    cdef held_t old = trial[0]
    cdef address_t group, prefix, other
    ifc.counters.nd_conflicts += 1
    ifc.conflicts += 1
    end_trial(ifc, <uint32_t> (trial - ifc.ip6.trial))
    if old.deadline_ns:
        solicited_node(&old.address, &group)
        mld_leave(ifc, &group, now_ns)
    if old.origin != ORIGIN_CONFIGURED and old.attempt + 1 < ATTEMPTS:
        prefix = old.address
        prefix.lo = 0
        address_set_zone(&prefix, 0)
        opaque_id(ifc, &prefix, <uint32_t> old.attempt + 1, &other)
        address_set_zone(&other, ifc.index + 1)
        begin_trial(ifc, &other, old.prefix_length, old.origin, old.attempt + 1, old.preferred_until_ns,
                    old.valid_until_ns, -(now_ns + AGAIN_NS))
    ip6_schedule(ifc)


cdef void passed(interface_t *ifc, uint32_t i, int64_t now_ns) noexcept nogil:
    """Nobody has said that it is his: the address is ours, and all nodes hear of it."""
    cdef held_t *h
    cdef held_t t = ifc.ip6.trial[i]
    end_trial(ifc, i)
    if interface_add_address(ifc, &t.address, t.prefix_length) != 0 or ifc.ip6.held_count == IP6_ADDRESSES:
        return
    h = &ifc.ip6.held[ifc.ip6.held_count]
    ifc.ip6.held_count += 1
    h[0] = t
    nd_announce(ifc, &t.address, now_ns)


cdef void advance_trials(interface_t *ifc, int64_t now_ns) noexcept nogil:
    """deadline_ns: 0 not begun, negative: to be begun at that time without further delay, else when the next step is due."""
    cdef held_t *t
    cdef address_t group
    cdef uint32_t i = 0
    cdef uint64_t nonce
    while i < ifc.ip6.trial_count:
        t = &ifc.ip6.trial[i]
        if t.deadline_ns > now_ns or -t.deadline_ns > now_ns:
            i += 1
            continue
        if t.deadline_ns <= 0:
            # The delay keeps hosts that start together apart, and spreads the reports for the group (RFC 4862 5.4.2).
            solicited_node(&t.address, &group)
            mld_join(ifc, &group, now_ns)
            t.deadline_ns = now_ns + (random_ns(ifc, SOLICITATION_DELAY_NS) if t.deadline_ns == 0 else 0)
            if t.deadline_ns == 0:
                t.deadline_ns = 1
            if ifc.conf.accept_dad == 0 or ifc.conf.dad_transmits == 0:
                passed(ifc, i, now_ns)
            continue
        if t.probes >= ifc.conf.dad_transmits:
            passed(ifc, i, now_ns)
            continue
        nonce = random_next(ifc.random)
        memcpy(t.nonce, &nonce, sizeof(t.nonce))
        if nd_probe(ifc, t, now_ns):
            t.probes += 1
        t.deadline_ns = now_ns + ifc.ip6.retrans_ns
        i += 1


# ---- addresses from prefixes, and their end ---------------------------------------------------------------------------

cdef int64_t until(int64_t now_ns, int64_t lifetime_ns) noexcept nogil:
    return INT64_MAX if lifetime_ns == INT64_MAX else now_ns + lifetime_ns


cdef held_t *from_prefix(interface_t *ifc, const address_t *prefix) noexcept nogil:
    """The address made from a /64, held or on trial."""
    cdef uint32_t i
    for i in range(ifc.ip6.held_count):
        if ifc.ip6.held[i].origin == ORIGIN_SLAAC and ifc.ip6.held[i].address.hi == prefix.hi:
            return &ifc.ip6.held[i]
    for i in range(ifc.ip6.trial_count):
        if ifc.ip6.trial[i].origin == ORIGIN_SLAAC and ifc.ip6.trial[i].address.hi == prefix.hi:
            return &ifc.ip6.trial[i]
    return NULL


cdef void autoconf_prefix(interface_t *ifc, const address_t *prefix, int64_t preferred_ns, int64_t valid_ns,
                          int64_t now_ns) noexcept nogil:
    cdef held_t *h = from_prefix(ifc, prefix)
    cdef address_t own
    cdef int64_t left
    if h == NULL:
        if valid_ns == 0:
            return
        opaque_id(ifc, prefix, 0, &own)
        begin_trial(ifc, &own, INTERFACE_ID, ORIGIN_SLAAC, 0, until(now_ns, preferred_ns), until(now_ns, valid_ns), 0)
        return
    h.preferred_until_ns = until(now_ns, preferred_ns)
    left = INT64_MAX if h.valid_until_ns == INT64_MAX else h.valid_until_ns - now_ns
    if valid_ns > TWO_HOURS_NS or valid_ns > left:
        h.valid_until_ns = until(now_ns, valid_ns)
    elif left > TWO_HOURS_NS:            # a forged advertisement takes an address away in two hours at the earliest
        h.valid_until_ns = now_ns + TWO_HOURS_NS
    ip6_schedule(ifc)


cdef void advance_lifetimes(interface_t *ifc, int64_t now_ns) noexcept nogil:
    cdef ip6_t *ip6 = ifc.ip6
    cdef address_t group
    cdef uint32_t i = 0
    while i < ip6.held_count:
        if ip6.held[i].valid_until_ns <= now_ns:
            solicited_node(&ip6.held[i].address, &group)
            mld_leave(ifc, &group, now_ns)
            interface_remove_address(ifc, &ip6.held[i].address)
            ip6.held_count -= 1
            ip6.held[i] = ip6.held[ip6.held_count]
        else:
            i += 1


# ---- time ------------------------------------------------------------------

cdef void ip6_schedule(interface_t *ifc) noexcept nogil:
    cdef ip6_t *ip6 = ifc.ip6
    cdef int64_t d = discovery_next(ifc), t = mld_next(ifc)
    cdef uint32_t i
    if t < d:
        d = t
    for i in range(ip6.trial_count):
        t = ip6.trial[i].deadline_ns if ip6.trial[i].deadline_ns >= 0 else -ip6.trial[i].deadline_ns
        if t < d:
            d = t
    for i in range(ip6.held_count):
        if ip6.held[i].valid_until_ns < d:
            d = ip6.held[i].valid_until_ns
    if ip6.look_again or (ip6.running and not ip6.started):
        d = 0
    ip6.next_deadline_ns = d


cdef void ip6_advance(interface_t *ifc, int64_t now_ns) noexcept nogil:
    """What is due: interface_t.advance_ip6."""
    cdef ip6_t *ip6 = ifc.ip6
    cdef address_t prefix, own
    if ip6.running and not ip6.started:
        ip6.started = 1
        memset(&prefix, 0, sizeof(prefix))
        (<uint8_t *> &prefix)[0] = 0xfe
        (<uint8_t *> &prefix)[1] = 0x80
        opaque_id(ifc, &prefix, 0, &own)
        address_set_zone(&own, ifc.index + 1)
        begin_trial(ifc, &own, INTERFACE_ID, ORIGIN_LINK_LOCAL, 0, INT64_MAX, INT64_MAX, 0)
        if ifc.conf.accept_ra:
            ip6.solicit_ns = now_ns + random_ns(ifc, SOLICITATION_DELAY_NS)
    advance_trials(ifc, now_ns)
    advance_lifetimes(ifc, now_ns)
    discovery_advance(ifc, now_ns)
    mld_advance(ifc, now_ns)
    ip6_schedule(ifc)
