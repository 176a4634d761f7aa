# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Which groups an interface listens to, and how routers hear of it.

A change is reported at once and again (robustness 2), the second time within a second; a query is answered after a random
part of the time it grants. While a querier of version 2 or 1 is heard, its messages are spoken: one report a group, which
another host's report saves, and a leave message. 224.0.0.1 is always listened to and never reported.
"""

from libc.errno cimport ENOBUFS, ENOMEM
from libc.stdint cimport INT64_MAX, INT64_MIN, uint8_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memmove, memset

from netstack.clock cimport NS_PER_MS, NS_PER_S
from netstack.counters cimport DROP_IGMP, DROP_LINK_MALFORMED, DROP_NONE, DROP_TX_FULL, drop
from netstack.ip.groups cimport (
    ALLOW_NEW, BLOCK_OLD, IGMP_GROUPS, IS_EXCLUDE, IS_INCLUDE, TO_EXCLUDE, TO_INCLUDE, filter_answer, filter_change,
    filter_reported, set_add,
)
from netstack.ip.interface cimport (
    CLAIM_FULL, CLAIM_OK, interface_claim, interface_commit, packet_copy, packet_out_t,
)
from netstack.address cimport address_from_v4, address_is_v4, address_t, address_v4
from netstack.siphash cimport random_next
from netstack.wire.byte_order cimport (
    host_to_be32, load_be16, load_native32, store_be16, store_native16, store_native32,
)
from netstack.wire.checksum cimport checksum_finish, checksum_fold, checksum_partial
from netstack.wire.ipv4 cimport write_ipv4

cdef enum:
    IGMP_QUERY = 0x11
    IGMP_V1_REPORT = 0x12
    IGMP_V2_REPORT = 0x16
    IGMP_LEAVE = 0x17
    IGMP_V3_REPORT = 0x22
    IP_WITH_ALERT = 24           # header with the router alert option (RFC 2113)
    ROBUSTNESS = 2               # RFC 3376 section 8.1
    MESSAGE_MAX = 1400           # bytes of a report
    PROTOCOL_IGMP = 2

cdef int64_t UNSOLICITED_NS = 1000000000         # RFC 3376 section 8.11
cdef int64_t V2_UNSOLICITED_NS = 10000000000     # RFC 2236 section 8.10
cdef int64_t OLDER_QUERIER_NS = 260000000000     # RFC 3376 section 8.12: twice 125 s and 10 s


# ---- groups ----------------------------------------------------------------

cdef igmp_t *igmp_of(interface_t *ifc) noexcept nogil:
    if ifc.igmp == NULL:
        ifc.igmp = <igmp_t *> calloc(1, sizeof(igmp_t))
        if ifc.igmp != NULL:
            ifc.igmp.general_ns = INT64_MAX
            ifc.igmp.v1_until_ns = ifc.igmp.v2_until_ns = INT64_MIN // 2
    return ifc.igmp


cdef void igmp_free(igmp_t *igmp) noexcept nogil:
    if igmp != NULL:
        free(igmp.groups)
        free(igmp)


cdef igmp_group_t *find(const igmp_t *igmp, uint32_t be) noexcept nogil:
    cdef uint32_t i
    if igmp == NULL:
        return NULL
    for i in range(igmp.count):
        if igmp.groups[i].be == be:
            return &igmp.groups[i]
    return NULL


cdef igmp_group_t *igmp_append(igmp_t *igmp) noexcept nogil:
    cdef igmp_group_t *grown
    cdef uint32_t capacity
    if igmp.count >= <uint32_t> IGMP_GROUPS:
        return NULL
    if igmp.count == igmp.capacity:
        capacity = igmp.capacity * 2 if igmp.capacity else 4
        grown = <igmp_group_t *> realloc(igmp.groups, capacity * sizeof(igmp_group_t))
        if grown == NULL:
            return NULL
        igmp.groups = grown
        igmp.capacity = capacity
    grown = &igmp.groups[igmp.count]
    memset(grown, 0, sizeof(igmp_group_t))
    grown.report_ns = grown.answer_ns = INT64_MAX
    igmp.count += 1
    return grown


cdef void remove(igmp_t *igmp, igmp_group_t *g) noexcept nogil:
    cdef uint32_t at = <uint32_t> (g - igmp.groups)
    igmp.count -= 1
    memmove(g, g + 1, (igmp.count - at) * sizeof(igmp_group_t))


cdef uint32_t all_hosts() noexcept nogil:
    return host_to_be32(0xe0000001)                    # 224.0.0.1


cdef bint igmp_listens(const igmp_t *igmp, uint32_t group_be) noexcept nogil:
    cdef const igmp_group_t *g
    if group_be == all_hosts():
        return True
    g = find(igmp, group_be)
    return g != NULL and not g.left


cdef int64_t random_part(interface_t *ifc, int64_t most_ns) noexcept nogil:
    return <int64_t> (random_next(ifc.ip.random) % <uint64_t> (most_ns if most_ns > 0 else 1))


cdef int version(const interface_t *ifc, int64_t now_ns) noexcept nogil:
    """What the querier of this link understands."""
    if ifc.ip.config.igmp_version:
        return ifc.ip.config.igmp_version
    if now_ns < ifc.igmp.v1_until_ns:
        return 1
    return 2 if now_ns < ifc.igmp.v2_until_ns else 3


cdef int igmp_set(interface_t *ifc, uint32_t group_be, bint exclude, const source_set_t *sources, int64_t now_ns) noexcept nogil:
    cdef igmp_t *igmp = igmp_of(ifc)
    cdef igmp_group_t *g
    cdef bint nothing = not exclude and sources.count == 0
    if igmp == NULL:
        return -ENOMEM
    g = find(igmp, group_be)
    if g == NULL:
        if nothing:
            return 0
        g = igmp_append(igmp)
        if g == NULL:
            return -ENOBUFS
        g.be = group_be
        filter_change(&g.filter, exclude, sources)
    elif not filter_change(&g.filter, exclude, sources) and g.left == nothing:
        return 0
    g.left = nothing
    if group_be == all_hosts() or ifc.loopback:
        if nothing:
            remove(igmp, g)
        return 0
    g.reports = ROBUSTNESS
    g.report_ns = now_ns
    if version(ifc, now_ns) < 3 and nothing:
        g.reports = 1
    if now_ns >= 0:
        igmp_advance(ifc, now_ns)
    return 0


# ---- out -------------------------------------------------------------------

cdef bint send_message(interface_t *ifc, uint32_t dst_be, const uint8_t *message, uint32_t length, int64_t now_ns) noexcept nogil:
    """TTL 1, precedence "internetwork control", router alert (RFC 3376 section 4). False: the link had no room."""
    cdef packet_out_t out
    cdef address_t to
    cdef uint32_t src = 0, i
    cdef int r
    address_from_v4(&to, dst_be)
    for i in range(ifc.address_count):
        if address_is_v4(&ifc.addresses[i]):
            src = ifc.v4[i]
            break
    r = interface_claim(ifc, &to, IP_WITH_ALERT, length, now_ns, &out)
    if r != CLAIM_OK:
        if r == CLAIM_FULL:
            drop(ifc.counters, DROP_TX_FULL)
        return False
    write_ipv4(out.ip, src, dst_be, PROTOCOL_IGMP, IP_WITH_ALERT + length, 0xc0, 1, 0, True)
    out.ip[0] = 0x46
    out.ip[20] = 0x94
    out.ip[21] = 4
    out.ip[22] = out.ip[23] = 0
    store_native16(out.ip + 10, 0)
    store_native16(out.ip + 10, checksum_finish(checksum_partial(out.ip, IP_WITH_ALERT)))
    memcpy(out.body, message, length)
    interface_commit(&out, now_ns)
    ifc.counters.igmp_out += 1
    return True


cdef bint send_old(interface_t *ifc, uint8_t type, uint32_t group_be, uint32_t dst_be, int64_t now_ns) noexcept nogil:
    cdef uint8_t m[8]
    memset(m, 0, 8)
    m[0] = type
    store_native32(m + 4, group_be)
    store_native16(m + 2, checksum_finish(checksum_partial(m, 8)))
    return send_message(ifc, dst_be, m, 8, now_ns)


cdef uint32_t add_record(uint8_t *m, uint32_t at, uint8_t type, uint32_t group_be, const source_set_t *s) noexcept nogil:
    cdef uint32_t i
    m[at] = type
    m[at + 1] = 0
    store_be16(m + at + 2, <uint16_t> s.count)
    store_native32(m + at + 4, group_be)
    at += 8
    for i in range(s.count):
        store_native32(m + at, address_v4(&s.sources[i]))
        at += 4
    return at


cdef bint send_v3(interface_t *ifc, uint8_t *m, uint32_t length, uint32_t records, int64_t now_ns) noexcept nogil:
    memset(m, 0, 8)
    m[0] = IGMP_V3_REPORT
    store_be16(m + 6, <uint16_t> records)
    store_native16(m + 2, checksum_finish(checksum_partial(m, length)))
    return send_message(ifc, host_to_be32(0xe0000016), m, length, now_ns)      # 224.0.0.22


cdef void report_change(interface_t *ifc, igmp_group_t *g, int64_t now_ns) noexcept nogil:
    cdef uint8_t m[MESSAGE_MAX]
    cdef uint32_t at = 8, records = 0
    cdef int v = version(ifc, now_ns)
    if v < 3:
        if not g.left:
            send_old(ifc, IGMP_V2_REPORT if v == 2 else IGMP_V1_REPORT, g.be, g.be, now_ns)
        elif v == 2:
            send_old(ifc, IGMP_LEAVE, g.be, host_to_be32(0xe0000002), now_ns)
        return
    if g.filter.mode_changed:
        at = add_record(m, at, TO_EXCLUDE if g.filter.exclude else TO_INCLUDE, g.be, &g.filter.sources)
        records = 1
    else:
        if g.filter.allow.count:
            at = add_record(m, at, ALLOW_NEW, g.be, &g.filter.allow)
            records += 1
        if g.filter.block.count:
            at = add_record(m, at, BLOCK_OLD, g.be, &g.filter.block)
            records += 1
    if records:
        send_v3(ifc, m, at, records, now_ns)


cdef void answer_group(interface_t *ifc, igmp_group_t *g, int64_t now_ns) noexcept nogil:
    """The current state, or that of the sources asked about (RFC 3376 section 5.2)."""
    cdef uint8_t m[MESSAGE_MAX]
    cdef source_set_t heard
    cdef int v = version(ifc, now_ns)
    g.answer_ns = INT64_MAX
    if v < 3:
        send_old(ifc, IGMP_V2_REPORT if v == 2 else IGMP_V1_REPORT, g.be, g.be, now_ns)
        return
    if g.filter.asked.count:
        filter_answer(&g.filter, &heard)
        if heard.count:
            send_v3(ifc, m, add_record(m, 8, IS_INCLUDE, g.be, &heard), 1, now_ns)
        return
    send_v3(ifc, m, add_record(m, 8, IS_EXCLUDE if g.filter.exclude else IS_INCLUDE, g.be, &g.filter.sources), 1, now_ns)


cdef void answer_general(interface_t *ifc, int64_t now_ns) noexcept nogil:
    """All groups, as many in a message as it holds."""
    cdef uint8_t m[MESSAGE_MAX]
    cdef igmp_t *igmp = ifc.igmp
    cdef igmp_group_t *g
    cdef uint32_t i, at = 8, records = 0
    igmp.general_ns = INT64_MAX
    for i in range(igmp.count):
        g = &igmp.groups[i]
        if g.left or g.be == all_hosts():
            continue
        if at + 8 + 4 * g.filter.sources.count > <uint32_t> MESSAGE_MAX:
            send_v3(ifc, m, at, records, now_ns)
            at = 8
            records = 0
        at = add_record(m, at, IS_EXCLUDE if g.filter.exclude else IS_INCLUDE, g.be, &g.filter.sources)
        records += 1
    if records:
        send_v3(ifc, m, at, records, now_ns)


# ---- in --------------------------------------------------------------------

cdef int64_t granted_ns(uint8_t code) noexcept nogil:
    """Max Resp Code in tenths of a second, the large ones as a floating-point number (RFC 3376 section 4.1.1)."""
    cdef int64_t tenths = code
    if code >= 128:
        tenths = <int64_t> (code & 15 | 16) << ((code >> 4 & 7) + 3)
    return tenths * 100 * NS_PER_MS


cdef void schedule(int64_t *at, int64_t when) noexcept nogil:
    if when < at[0]:
        at[0] = when


cdef void heard_query(interface_t *ifc, const uint8_t *m, uint32_t length, int64_t now_ns) noexcept nogil:
    cdef igmp_t *igmp = igmp_of(ifc)
    cdef igmp_group_t *g
    cdef uint32_t i, be = load_native32(m + 4), sources = 0
    cdef int64_t most = granted_ns(m[1])
    cdef address_t source
    if igmp == NULL:
        return
    if length == 8 and m[1] == 0:
        igmp.v1_until_ns = now_ns + OLDER_QUERIER_NS
        most = V2_UNSOLICITED_NS
    elif length == 8:
        igmp.v2_until_ns = now_ns + OLDER_QUERIER_NS
        most = <int64_t> m[1] * 100 * NS_PER_MS
    else:
        sources = load_be16(m + 10)
    if be == 0:
        if version(ifc, now_ns) == 3:
            schedule(&igmp.general_ns, now_ns + random_part(ifc, most))
            return
        for i in range(igmp.count):
            if not igmp.groups[i].left and igmp.groups[i].be != all_hosts():
                schedule(&igmp.groups[i].answer_ns, now_ns + random_part(ifc, most))
        return
    g = find(igmp, be)
    if g == NULL or g.left or be == all_hosts():
        return
    if sources == 0:
        g.filter.asked.count = 0
    elif g.answer_ns == INT64_MAX or g.filter.asked.count:     # else all of it is answered anyway
        for i in range(sources):
            address_from_v4(&source, load_native32(m + 12 + 4 * i))
            set_add(&g.filter.asked, &source)
    schedule(&g.answer_ns, now_ns + random_part(ifc, most))


cdef DropReason igmp_input(packet_in_t *packet, int64_t now_ns) noexcept nogil:
    cdef interface_t *ifc = packet.interface
    cdef uint8_t m[MESSAGE_MAX]
    cdef uint32_t length = packet.length - packet.header_length
    cdef igmp_group_t *g
    ifc.counters.igmp_in += 1
    if length < 8 or length > <uint32_t> MESSAGE_MAX or ifc.loopback:
        return DROP_IGMP
    packet_copy(packet, packet.header_length, m, length)
    if checksum_fold(checksum_partial(m, length)) != 0xffff or packet.ttl != 1 or not packet.broadcast:
        return DROP_IGMP
    if m[0] == IGMP_QUERY:
        if length > 8 and (length < 12 or length < 12 + 4 * <uint32_t> load_be16(m + 10)):
            return DROP_IGMP
        if load_native32(m + 4) != 0 and load_native32(m + 4) != address_v4(&packet.dst) and \
                address_v4(&packet.dst) != all_hosts():
            return DROP_IGMP
        heard_query(ifc, m, length, now_ns)
    elif m[0] == IGMP_V1_REPORT or m[0] == IGMP_V2_REPORT:
        g = find(ifc.igmp, load_native32(m + 4))
        if g != NULL and version(ifc, now_ns) < 3:
            g.answer_ns = INT64_MAX                    # somebody else said it (RFC 2236 section 3)
    return DROP_NONE


# ---- time ------------------------------------------------------------------

cdef int64_t igmp_next_deadline(const igmp_t *igmp) noexcept nogil:
    cdef int64_t d
    cdef uint32_t i
    if igmp == NULL:
        return INT64_MAX
    d = igmp.general_ns
    for i in range(igmp.count):
        if igmp.groups[i].report_ns < d:
            d = igmp.groups[i].report_ns
        if igmp.groups[i].answer_ns < d:
            d = igmp.groups[i].answer_ns
    return d


cdef void igmp_advance(interface_t *ifc, int64_t now_ns) noexcept nogil:
    cdef igmp_t *igmp = ifc.igmp
    cdef igmp_group_t *g
    cdef uint32_t i = 0
    if igmp == NULL:
        return
    if igmp.general_ns <= now_ns:
        answer_general(ifc, now_ns)
    while i < igmp.count:
        g = &igmp.groups[i]
        if g.answer_ns <= now_ns:
            answer_group(ifc, g, now_ns)
        if g.report_ns <= now_ns:
            report_change(ifc, g, now_ns)
            g.reports -= 1
            if g.reports:
                g.report_ns = now_ns + 1 + random_part(ifc, UNSOLICITED_NS)
            else:
                g.report_ns = INT64_MAX
                filter_reported(&g.filter)
                if g.left:
                    remove(igmp, g)
                    continue
        i += 1
