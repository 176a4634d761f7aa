# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Which multicast groups the interface hears, and telling the routers of the link so."""

from libc.errno cimport EADDRNOTAVAIL, ENOBUFS, ENOMEM
from libc.stdint cimport INT64_MAX, uint16_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from netstack.address cimport (
    address_equal, address_is_link_local, address_is_multicast6, address_is_unspecified6,
)
from netstack.counters cimport DROP_MLD_INVALID, DROP_ND_IGNORED, DROP_NONE
from netstack.ip.autoconf cimport ip6_make, ip6_schedule, random_ns
from netstack.ip.groups cimport (
    ALLOW_NEW, BLOCK_OLD, IS_EXCLUDE, IS_INCLUDE, TO_EXCLUDE, TO_INCLUDE, filter_answer, filter_change, filter_reported,
    filter_t, set_add,
)
from netstack.ip.ip6 cimport IP6_GROUPS, group_t
from netstack.ip.ndp cimport all_nodes, nd_send
from netstack.ip.source cimport source_address
from netstack.wire.byte_order cimport load_be16, store_be16
from netstack.wire.icmp6 cimport MLD_DONE_V1, MLD_QUERY, MLD_REPORT_V1, MLD_REPORT_V2
from netstack.wire.ipv6 cimport write_address

cdef enum:
    ROBUSTNESS = 2               # reports of a change (RFC 3810 section 9.1)
    QUERY_V1 = 24                # bytes
    QUERY_V2 = 28
    RECORD = 20                  # of a report, without sources
    MESSAGE_MAX = 1280           # of a report
    HEADERS = 48                 # of IPv6, and its options header with the router alert

cdef int64_t MS = 1000000
cdef int64_t UNSOLICITED_NS = 1000000000         # Unsolicited Report Interval (RFC 3810 section 9.11)
cdef int64_t OLD_QUERIER_NS = 260000000000       # 2 * 125 s + 10 s (RFC 3810 section 9.12)


cdef bint is_reported(const address_t *group) noexcept nogil:
    """All nodes, and what does not leave the interface, is reported by nobody (RFC 3810 section 6)."""
    cdef address_t everybody
    all_nodes(&everybody)
    return (<const uint8_t *> group)[1] & 15 > 1 and not address_equal(group, &everybody)


cdef group_t *find(const interface_t *ifc, const address_t *group) noexcept nogil:
    cdef uint32_t i
    if ifc.ip6 == NULL:
        return NULL
    for i in range(ifc.ip6.group_count):
        if address_equal(&ifc.ip6.groups[i].address, group):
            return &ifc.ip6.groups[i]
    return NULL


cdef void changed(interface_t *ifc, group_t *g, int64_t now_ns) noexcept nogil:
    """Reported at once, and once more within a second."""
    if not ifc.ip6.running or not is_reported(&g.address):
        filter_reported(g.filter)
        g.report_ns = INT64_MAX
        return
    g.reports = ROBUSTNESS
    g.report_ns = now_ns
    ip6_schedule(ifc)


cdef int append(interface_t *ifc, const address_t *group, group_t **out) noexcept nogil:
    cdef int r = ip6_make(ifc)
    cdef group_t *g
    if r < 0:
        return r
    if ifc.ip6.group_count == IP6_GROUPS:
        return -ENOBUFS
    g = &ifc.ip6.groups[ifc.ip6.group_count]
    memset(g, 0, sizeof(group_t))
    g.filter = <filter_t *> calloc(1, sizeof(filter_t))
    if g.filter == NULL:
        return -ENOMEM
    ifc.ip6.group_count += 1
    g.address = group[0]
    g.answer_ns = g.report_ns = INT64_MAX
    g.left = 1
    out[0] = g
    return 0


cdef void become(interface_t *ifc, group_t *g, bint exclude, const source_set_t *sources, int64_t now_ns) noexcept nogil:
    """What is heard of a group from now on; include of nothing: it is left."""
    cdef bint nothing = not exclude and sources.count == 0
    if not filter_change(g.filter, exclude, sources) and g.left == nothing:
        return
    g.left = nothing
    if nothing:
        g.answer_ns = INT64_MAX
    changed(ifc, g, now_ns)
    if nothing and g.report_ns == INT64_MAX:
        forget(ifc, g)


cdef int mld_join(interface_t *ifc, const address_t *group, int64_t now_ns) noexcept nogil:
    cdef source_set_t none
    cdef group_t *g = find(ifc, group)
    cdef int r
    if g == NULL:
        r = append(ifc, group, &g)
        if r < 0:
            return r
    g.users += 1
    none.count = 0
    become(ifc, g, True, &none, now_ns)
    return 0


cdef int mld_leave(interface_t *ifc, const address_t *group, int64_t now_ns) noexcept nogil:
    cdef source_set_t none
    cdef group_t *g = find(ifc, group)
    if g == NULL or g.users == 0:
        return -EADDRNOTAVAIL
    g.users -= 1
    none.count = 0
    if g.users == 0 and not g.wanted:
        become(ifc, g, False, &none, now_ns)
    return 0


cdef int mld_set(interface_t *ifc, const address_t *group, bint exclude, const source_set_t *sources, int64_t now_ns) noexcept nogil:
    cdef bint nothing = not exclude and sources.count == 0
    cdef group_t *g = find(ifc, group)
    cdef int r
    if g == NULL:
        if nothing:
            return 0
        r = append(ifc, group, &g)
        if r < 0:
            return r
    g.wanted = not nothing
    if g.users == 0:                     # else all sources are heard anyway, and sockets filter
        become(ifc, g, exclude, sources, now_ns)
    return 0


cdef void mld_free(ip6_t *ip6) noexcept nogil:
    cdef uint32_t i
    if ip6 != NULL:
        for i in range(ip6.group_count):
            free(ip6.groups[i].filter)


cdef void forget(interface_t *ifc, group_t *g) noexcept nogil:
    free(g.filter)
    ifc.ip6.group_count -= 1
    g[0] = ifc.ip6.groups[ifc.ip6.group_count]


# ---- reports ---------------------------------------------------------------

cdef struct report_t:
    # A report of version 2 that is being written.
    uint32_t length
    uint32_t records
    uint8_t message[MESSAGE_MAX]


cdef void source_of(const interface_t *ifc, const address_t *dst, int64_t now_ns, address_t *out) noexcept nogil:
    """The link-local address, :: while there is none (RFC 3590)."""
    if not source_address(ifc, dst, now_ns, out) or not address_is_link_local(out):
        memset(out, 0, sizeof(address_t))


cdef bint report_old(interface_t *ifc, const group_t *g, int64_t now_ns) noexcept nogil:
    """MLD version 1 (RFC 2710): reports go to the group itself, the farewell to all routers."""
    cdef uint8_t message[QUERY_V1]
    cdef address_t src, dst = g.address
    memset(message, 0, sizeof(message))
    message[0] = MLD_DONE_V1 if g.left else MLD_REPORT_V1
    write_address(message + 8, &g.address)
    if g.left:
        all_nodes(&dst)
        (<uint8_t *> &dst)[15] = 2
    source_of(ifc, &dst, now_ns, &src)
    return nd_send(ifc, NULL, &src, &dst, message, QUERY_V1, 1, True, now_ns)


cdef void send_report(interface_t *ifc, report_t *r, int64_t now_ns) noexcept nogil:
    """What has been written so far; nothing: nothing."""
    cdef address_t src, dst
    if r.records:
        memset(r.message, 0, 8)
        r.message[0] = MLD_REPORT_V2
        store_be16(r.message + 6, <uint16_t> r.records)
        all_nodes(&dst)
        (<uint8_t *> &dst)[15] = 0x16    # all MLDv2-capable routers
        source_of(ifc, &dst, now_ns, &src)
        nd_send(ifc, NULL, &src, &dst, r.message, r.length, 1, True, now_ns)
    r.length = 8
    r.records = 0


cdef void add_record(interface_t *ifc, report_t *r, uint8_t type, const address_t *group, const source_set_t *sources,
                     int64_t now_ns) noexcept nogil:
    """One record; a message that has no room for it goes out first."""
    cdef uint32_t size = RECORD + 16 * sources.count, i
    cdef uint32_t room = ifc.mtu - HEADERS if ifc.mtu < MESSAGE_MAX + HEADERS else MESSAGE_MAX
    cdef uint8_t *p
    if r.length + size > room:
        send_report(ifc, r, now_ns)
    p = r.message + r.length
    memset(p, 0, 4)
    p[0] = type
    store_be16(p + 2, <uint16_t> sources.count)
    write_address(p + 4, group)
    for i in range(sources.count):
        write_address(p + RECORD + 16 * i, &sources.sources[i])
    r.length += size
    r.records += 1


cdef void add_change(interface_t *ifc, report_t *r, const group_t *g, int64_t now_ns) noexcept nogil:
    cdef const filter_t *f = g.filter
    if f.mode_changed:
        add_record(ifc, r, TO_EXCLUDE if f.exclude else TO_INCLUDE, &g.address, &f.sources, now_ns)
        return
    if f.allow.count:
        add_record(ifc, r, ALLOW_NEW, &g.address, &f.allow, now_ns)
    if f.block.count:
        add_record(ifc, r, BLOCK_OLD, &g.address, &f.block, now_ns)


cdef void report_changes(interface_t *ifc, int64_t now_ns) noexcept nogil:
    """The changes that are due, in as few reports as hold them."""
    cdef ip6_t *ip6 = ifc.ip6
    cdef report_t r
    cdef uint32_t i
    cdef bint old = now_ns < ip6.old_querier_until_ns
    cdef group_t *g
    r.records = 0
    r.length = 8
    for i in range(ip6.group_count):
        g = &ip6.groups[i]
        if g.report_ns > now_ns:
            continue
        if old:
            report_old(ifc, g, now_ns)
        else:
            add_change(ifc, &r, g, now_ns)
        g.reports -= 1
        if g.reports and not (old and g.left):
            g.report_ns = now_ns + random_ns(ifc, UNSOLICITED_NS)
        else:
            g.report_ns = INT64_MAX
            filter_reported(g.filter)
    send_report(ifc, &r, now_ns)
    i = 0
    while i < ip6.group_count:
        if ip6.groups[i].left and ip6.groups[i].report_ns == INT64_MAX:
            forget(ifc, &ip6.groups[i])
        else:
            i += 1


cdef void add_answer(interface_t *ifc, report_t *r, group_t *g, int64_t now_ns) noexcept nogil:
    """The current state, or that of the sources asked about (RFC 3810 section 6.3)."""
    cdef source_set_t heard
    cdef filter_t *f = g.filter
    if f.asked.count == 0:
        add_record(ifc, r, IS_EXCLUDE if f.exclude else IS_INCLUDE, &g.address, &f.sources, now_ns)
        return
    filter_answer(f, &heard)
    if heard.count:
        add_record(ifc, r, IS_INCLUDE, &g.address, &heard, now_ns)


cdef void answer_queries(interface_t *ifc, int64_t now_ns) noexcept nogil:
    """The state of the groups that were asked about, or of all (RFC 3810 section 6.2)."""
    cdef ip6_t *ip6 = ifc.ip6
    cdef report_t r
    cdef uint32_t i
    cdef bint everything = ip6.general_ns <= now_ns
    cdef group_t *g
    r.records = 0
    r.length = 8
    for i in range(ip6.group_count):
        g = &ip6.groups[i]
        if not (everything or g.answer_ns <= now_ns):
            continue
        if everything:
            g.filter.asked.count = 0
        g.answer_ns = INT64_MAX
        if g.left or not is_reported(&g.address):
            continue
        if now_ns < ip6.old_querier_until_ns:
            g.filter.asked.count = 0
            report_old(ifc, g, now_ns)
        else:
            add_answer(ifc, &r, g, now_ns)
    if everything:
        ip6.general_ns = INT64_MAX
    send_report(ifc, &r, now_ns)


# ---- queries ---------------------------------------------------------------

cdef int64_t response_ns(uint32_t code) noexcept nogil:
    """The Maximum Response Code in ns (RFC 3810 section 5.1.3)."""
    if code < 32768:
        return <int64_t> code * MS
    return <int64_t> ((code & 0xfff) | 0x1000) * MS << ((code >> 12 & 7) + 3)


cdef void note_asked(group_t *g, const uint8_t *p, uint32_t sources) noexcept nogil:
    """Together with what was asked before (RFC 3810 section 6.2); about the whole group: about no source alone."""
    cdef address_t source
    cdef uint32_t i
    if sources == 0:
        g.filter.asked.count = 0
    elif g.answer_ns == INT64_MAX or g.filter.asked.count:
        for i in range(sources):
            memcpy(&source, p + 16 * i, 16)
            set_add(&g.filter.asked, &source)


cdef DropReason mld_input(packet_in_t *packet, const uint8_t *p, uint32_t length, int64_t now_ns) noexcept nogil:
    """A query; reports are for routers, and nothing is learnt from those of others."""
    cdef interface_t *ifc = packet.interface
    cdef ip6_t *ip6 = ifc.ip6
    cdef address_t group
    cdef group_t *g
    cdef int64_t most, when
    cdef uint32_t sources = 0
    if p[0] != MLD_QUERY:
        return DROP_ND_IGNORED
    # RFC 3810 section 5.1.14: from a link-local address, not passed on, with Router Alert, of one of two sizes.
    if not address_is_link_local(&packet.src) or packet.ttl != 1 or packet.skipped == 0 or \
            (length != QUERY_V1 and length < QUERY_V2):
        return DROP_MLD_INVALID
    memcpy(&group, p + 8, 16)
    if not address_is_unspecified6(&group) and not address_is_multicast6(&group):
        return DROP_MLD_INVALID
    if length >= QUERY_V2:
        sources = load_be16(p + 26)
        if length < QUERY_V2 + 16 * sources or (sources and address_is_unspecified6(&group)):
            return DROP_MLD_INVALID
    if length == QUERY_V1:
        ip6.old_querier_until_ns = now_ns + OLD_QUERIER_NS
        most = <int64_t> load_be16(p + 4) * MS
    else:
        most = response_ns(load_be16(p + 4))
    when = now_ns + random_ns(ifc, most)
    if address_is_unspecified6(&group):
        if when < ip6.general_ns:
            ip6.general_ns = when
    else:
        g = find(ifc, &group)
        if g != NULL and not g.left and when < ip6.general_ns:
            note_asked(g, p + QUERY_V2, sources)
            if when < g.answer_ns:
                g.answer_ns = when
    ip6_schedule(ifc)
    return DROP_NONE


# ---- time ------------------------------------------------------------------

cdef int64_t mld_next(const interface_t *ifc) noexcept nogil:
    cdef const ip6_t *ip6 = ifc.ip6
    cdef int64_t d = ip6.general_ns
    cdef uint32_t i
    for i in range(ip6.group_count):
        if ip6.groups[i].report_ns < d:
            d = ip6.groups[i].report_ns
        if ip6.groups[i].answer_ns < d:
            d = ip6.groups[i].answer_ns
    return d


cdef void mld_advance(interface_t *ifc, int64_t now_ns) noexcept nogil:
    cdef uint32_t i
    cdef bint asked = ifc.ip6.general_ns <= now_ns, due = False
    for i in range(ifc.ip6.group_count):
        asked |= ifc.ip6.groups[i].answer_ns <= now_ns
        due |= ifc.ip6.groups[i].report_ns <= now_ns
    if due:
        report_changes(ifc, now_ns)
    if asked:
        answer_queries(ifc, now_ns)
