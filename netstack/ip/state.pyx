# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Neighbours (with the packets that wait for them) and limits of an interface, in a versioned form.

Free places of the table are kept too: the order in which entries are asked again is part of the state.
"""

import struct

from libc.stdint cimport INT64_MAX, INT64_MIN, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from netstack.address cimport address_t

from netstack.ip.groups cimport GROUP_SOURCES, filter_t, igmp_group_t, source_set_t
from netstack.ip.igmp cimport igmp_append, igmp_of
from netstack.ip.neighbor cimport (
    NEIGHBOR_DELAY, NEIGHBOR_FAILED, NEIGHBOR_FREE, NEIGHBOR_MAX, NEIGHBOR_QUEUE_MAX, neighbor_append, neighbor_claim,
    neighbor_commit, neighbor_find, neighbor_link, neighbor_schedule, neighbor_t, pending_packet_t,
)
from netstack.ip.reassembly cimport (
    REASSEMBLY_DATAGRAMS, REASSEMBLY_PIECES, partial_t, reassembly_begin, reassembly_insert,
)
from netstack.ip.shared cimport ICMP_LIMIT_PLACES, RESET_LIMIT_PLACES, icmp_limit_t
from netstack.ip.trial cimport TRIALS, acd_t, trial_t

cdef enum:
    VERSION = 4

HEADER = struct.Struct("<BqQQH")         # version, defence (ns from now), conflicts, places
ENTRY = struct.Struct("<16s6sBBBqqq")    # address, mac, state, probes, queued; deadline, used, confirmed (ns from now)
PENDING = struct.Struct("<II")           # head length, whole length

cdef int64_t FAR = INT64_MAX // 4        # times further away than this stay where they are


cdef int64_t remaining(int64_t t_ns, int64_t now_ns) noexcept:
    """From a time to a distance; "never" and "long ago" keep their meaning under any clock."""
    if t_ns > FAR:
        return INT64_MAX
    return INT64_MIN if t_ns < -FAR else t_ns - now_ns


cdef int64_t absolute(int64_t distance_ns, int64_t now_ns) noexcept:
    if distance_ns > FAR:
        return INT64_MAX
    return INT64_MIN // 2 if distance_ns < -FAR else distance_ns + now_ns


GROUP = struct.Struct("<IBBqq")          # igmp_group_t: address, left, reports; next report, answer
QUERIERS = struct.Struct("<Iqqq")        # groups, general answer, queriers of versions 1 and 2
TRIAL = struct.Struct("<16sBBB6sq")      # trial_t


cdef bytes set_save(const source_set_t *s):
    return struct.pack("<B", s.count) + (<const char *> s.sources)[:16 * s.count]


cdef Py_ssize_t set_restore(source_set_t *s, bytes data, Py_ssize_t at) except -1:
    cdef bytes raw
    count = data[at] if at < len(data) else 255
    raw = data[at + 1:at + 1 + 16 * count]
    if count > GROUP_SOURCES or len(raw) != 16 * count:
        raise ValueError("sources of a group cut short")
    s.count = count
    memcpy(s.sources, <const char *> raw, len(raw))
    return at + 1 + len(raw)


cdef bytes filter_save(const filter_t *f):
    return struct.pack("<BB", f.exclude, f.mode_changed) + set_save(&f.sources) + set_save(&f.allow) + \
        set_save(&f.block) + set_save(&f.asked)


cdef Py_ssize_t filter_restore(filter_t *f, bytes data, Py_ssize_t at) except -1:
    """Returns where what follows begins."""
    f.exclude, f.mode_changed = struct.unpack_from("<BB", data, at)
    at = set_restore(&f.sources, data, at + 2)
    at = set_restore(&f.allow, data, at)
    at = set_restore(&f.block, data, at)
    return set_restore(&f.asked, data, at)


cdef bytes groups_save(const interface_t *ifc, int64_t now_ns):
    """Groups and what is to be said of them; addresses on trial."""
    cdef const igmp_group_t *g
    cdef const trial_t *t
    cdef uint32_t i, n = ifc.igmp.count if ifc.igmp != NULL else 0
    cdef list parts = [QUERIERS.pack(n, remaining(ifc.igmp.general_ns, now_ns) if n else INT64_MAX,
                                     remaining(ifc.igmp.v1_until_ns, now_ns) if ifc.igmp != NULL else INT64_MIN,
                                     remaining(ifc.igmp.v2_until_ns, now_ns) if ifc.igmp != NULL else INT64_MIN)]
    for i in range(n):
        g = &ifc.igmp.groups[i]
        parts.append(GROUP.pack(g.be, g.left, g.reports, remaining(g.report_ns, now_ns), remaining(g.answer_ns, now_ns)))
        parts.append(filter_save(&g.filter))
    n = ifc.acd.count if ifc.acd != NULL else 0
    parts.append(struct.pack("<B", n))
    for i in range(n):
        t = &ifc.acd.trials[i]
        parts.append(TRIAL.pack((<const uint8_t *> &t.address)[:16], t.prefix_length, t.state, t.sent,
                                (<const uint8_t *> t.mac)[:6], remaining(t.next_ns, now_ns)))
    return b"".join(parts)


cdef Py_ssize_t groups_restore(interface_t *ifc, bytes data, Py_ssize_t at, int64_t now_ns) except -1:
    cdef igmp_group_t *g
    cdef trial_t *t
    n, general, v1, v2 = QUERIERS.unpack_from(data, at)
    at += QUERIERS.size
    if n or v1 > -FAR or v2 > -FAR:
        if igmp_of(ifc) == NULL:
            raise MemoryError
        ifc.igmp.general_ns = absolute(general, now_ns)
        ifc.igmp.v1_until_ns = absolute(v1, now_ns)
        ifc.igmp.v2_until_ns = absolute(v2, now_ns)
    for _ in range(n):
        g = igmp_append(ifc.igmp)
        if g == NULL:
            raise ValueError(f"{n} groups")
        g.be, g.left, g.reports, report, answer = GROUP.unpack_from(data, at)
        g.report_ns = absolute(report, now_ns)
        g.answer_ns = absolute(answer, now_ns)
        at = filter_restore(&g.filter, data, at + GROUP.size)
    n = struct.unpack_from("<B", data, at)[0]
    at += 1
    if n > TRIALS:
        raise ValueError(f"{n} addresses on trial")
    if n:
        ifc.acd = <acd_t *> calloc(1, sizeof(acd_t))
        if ifc.acd == NULL:
            raise MemoryError
    for i in range(n):
        address, prefix, state, sent, mac, left = TRIAL.unpack_from(data, at)
        at += TRIAL.size
        t = &ifc.acd.trials[<uint32_t> i]
        memcpy(&t.address, <const char *> address, 16)
        memcpy(t.mac, <const char *> mac, 6)
        t.prefix_length, t.state, t.sent = prefix, state, sent
        t.next_ns = absolute(left, now_ns)
        ifc.acd.count += 1
    return at


cdef bytes interface_save(const interface_t *ifc, int64_t now_ns):
    cdef const neighbor_t *n
    cdef const pending_packet_t *p
    cdef uint32_t i
    parts = [HEADER.pack(VERSION, remaining(ifc.defended_ns, now_ns),
                         ifc.conflicts, ifc.neighbors.conflicts, ifc.neighbors.count)]
    for i in range(ifc.neighbors.count):
        n = &ifc.neighbors.entries[i]
        parts.append(ENTRY.pack((<const uint8_t *> &n.address)[:16], (<const uint8_t *> n.mac)[:6], n.state, n.probes,
                                n.queued, remaining(n.deadline_ns, now_ns), remaining(n.used_ns, now_ns),
                                remaining(n.confirmed_ns, now_ns)))
        p = n.first
        while p != NULL:
            parts.append(PENDING.pack(p.head_length, p.length))
            parts.append((<const uint8_t *> p.data)[:p.length])
            p = p.next
    parts.append(groups_save(ifc, now_ns))
    return b"".join(parts)


cdef int interface_restore(interface_t *ifc, bytes data, int64_t now_ns) except -1:
    cdef neighbor_t *n
    cdef pending_packet_t *p
    cdef Py_ssize_t at = HEADER.size
    cdef uint32_t i, places, head, length
    cdef int queued
    try:
        version, defended, ours, theirs, places = HEADER.unpack_from(data)
        if version != VERSION or places > NEIGHBOR_MAX or ifc.neighbors.count:
            raise ValueError(f"interface state of version {version} with {places} neighbours")
        for i in range(places):
            address, mac, state, probes, queued, deadline, used, confirmed = ENTRY.unpack_from(data, at)
            at += ENTRY.size
            if state > NEIGHBOR_DELAY or queued > NEIGHBOR_QUEUE_MAX or (
                    queued and state in (NEIGHBOR_FREE, NEIGHBOR_FAILED)):
                raise ValueError(f"neighbour in state {state} with {queued} packets")
            n = neighbor_append(&ifc.neighbors)
            if n == NULL:
                raise MemoryError
            memcpy(&n.address, <const char *> address, 16)
            memcpy(n.mac, <const char *> mac, 6)
            if state != NEIGHBOR_FREE:
                if neighbor_find(&ifc.neighbors, &n.address) != NULL:
                    raise ValueError("two entries of one neighbour")
                neighbor_link(&ifc.neighbors, n, state)
            n.probes = probes
            n.deadline_ns = absolute(deadline, now_ns)
            n.used_ns = absolute(used, now_ns)
            n.confirmed_ns = absolute(confirmed, now_ns)
            for _ in range(queued):
                head, length = PENDING.unpack_from(data, at)
                at += PENDING.size
                if not ifc.link_header <= head <= length or length > <uint32_t> ifc.link_header + 65535 or length > len(data) - at:
                    raise ValueError(f"a waiting frame of {head} of {length} bytes")
                p = neighbor_claim(&ifc.neighbors, n, head, length - head)
                if p == NULL:
                    raise MemoryError
                memcpy(p.data, <const char *> data + at, length)
                neighbor_commit(&ifc.neighbors, p)
                at += length
        at = groups_restore(ifc, data, at, now_ns)
        if at != len(data):
            raise ValueError(f"{len(data) - at} bytes too many")
    except struct.error as error:
        raise ValueError(f"interface state cut short: {error}") from None
    ifc.defended_ns = absolute(defended, now_ns)
    ifc.conflicts = ours
    ifc.neighbors.conflicts = theirs
    neighbor_schedule(&ifc.neighbors)
    return 0


# ---- fragments -------------------------------------------------------------

FRAGMENTS = struct.Struct("<BIIII")                    # version, bound, timeouts, datagrams
PARTIAL = struct.Struct("<16s16sIBBBBBBIIIIBqI")       # of partial_t, in its order; time left, pieces
PIECE = struct.Struct("<II")                           # offset, length


cdef bytes fragments_save(const reassembly_t *r, int64_t now_ns):
    cdef const partial_t *d
    cdef uint32_t i
    cdef list parts = [FRAGMENTS.pack(VERSION, r.high_bytes, r.timeout_ms[0], r.timeout_ms[1], r.count)]
    for version in range(2):
        d = r.first[<int> version]
        while d != NULL:
            parts.append(PARTIAL.pack(
                (<const uint8_t *> &d.src)[:16], (<const uint8_t *> &d.dst)[:16], d.id, d.protocol, d.v6, d.dead,
                d.broadcast, d.ecn, d.has_end, d.end, d.head_length, d.kept, d.next_at, d.interface.index,
                remaining(d.expires_ns, now_ns), d.count))
            for i in range(d.count):
                parts.append(PIECE.pack(d.pieces[i].offset, d.pieces[i].length))
                parts.append((<const uint8_t *> d.pieces[i].memory)[
                    :d.pieces[i].length + (d.head_length if d.pieces[i].offset == 0 else 0)])
            d = d.after
    return b"".join(parts)


cdef int fragments_restore(reassembly_t *r, bytes data, int64_t now_ns, interface_t **interfaces,
                           uint32_t interface_count) except -1:
    cdef partial_t *d
    cdef address_t a, b
    cdef uint8_t *memory
    cdef uint32_t i, size, at_byte
    cdef Py_ssize_t at = FRAGMENTS.size
    try:
        version, high, r.timeout_ms[0], r.timeout_ms[1], count = FRAGMENTS.unpack_from(data)
        if version != VERSION or count > REASSEMBLY_DATAGRAMS:
            raise ValueError(f"{count} datagrams in pieces, version {version}")
        r.high_bytes = high
        for _ in range(count):
            src, dst, id, protocol, v6, dead, broadcast, ecn, has_end, end, head, kept, next_at, index, left, pieces = \
                PARTIAL.unpack_from(data, at)
            at += PARTIAL.size
            if index >= interface_count or pieces > REASSEMBLY_PIECES or kept > head or v6 > 1 or end > 65535 or next_at >= 256:
                raise ValueError("a datagram in pieces that cannot be")
            memcpy(&a, <const char *> src, 16)
            memcpy(&b, <const char *> dst, 16)
            d = reassembly_begin(r, &a, &b, v6)
            if d == NULL:
                raise MemoryError
            d.id, d.protocol, d.dead, d.broadcast, d.ecn = id, protocol, dead, broadcast, ecn
            d.has_end, d.end, d.kept, d.next_at = has_end, end, kept, next_at
            d.interface = interfaces[<uint32_t> index]
            d.expires_ns = absolute(left, now_ns)
            at_byte = 0
            for i in range(<uint32_t> pieces):
                offset, length = PIECE.unpack_from(data, at)
                at += PIECE.size
                size = length + (head if offset == 0 else 0)
                if offset < at_byte or length == 0 or offset + length > 65535 or size > len(data) - at:
                    raise ValueError("pieces that overlap")
                at_byte = offset + length
                memory = <uint8_t *> malloc(size)
                if memory == NULL:
                    raise MemoryError
                memcpy(memory, <const char *> data + at, size)
                if not reassembly_insert(r, d, i, offset, length, memory, size):
                    free(memory)
                    raise MemoryError
                if offset == 0:
                    d.head_length = head
                at += size
        if at != len(data):
            raise ValueError(f"{len(data) - at} bytes too many")
    except struct.error as error:
        raise ValueError(f"fragments cut short: {error}") from None
    return 0


# ---- limits of errors ------------------------------------------------------

LIMIT = struct.Struct("<HIq")


cdef icmp_limit_t *limit_at(ip_t *ip, uint32_t place) noexcept:
    """Those of errors, and behind them those of resets."""
    return &ip.icmp_limits[place] if place < ICMP_LIMIT_PLACES else &ip.reset_limits[place - ICMP_LIMIT_PLACES]


cdef bytes limits_save(const ip_t *ip, int64_t now_ns):
    cdef ip_t *own = <ip_t *> ip
    cdef uint32_t i
    return b"".join(LIMIT.pack(i, limit_at(own, i).tag, limit_at(own, i).next_ns - now_ns)
                    for i in range(ICMP_LIMIT_PLACES + RESET_LIMIT_PLACES) if limit_at(own, i).tag)


cdef int limits_restore(ip_t *ip, bytes data, int64_t now_ns) except -1:
    cdef icmp_limit_t *limit
    if len(data) % LIMIT.size:
        raise ValueError("limits cut short")
    for place, tag, left in LIMIT.iter_unpack(data):
        if place >= ICMP_LIMIT_PLACES + RESET_LIMIT_PLACES:
            raise ValueError(f"limit number {place}")
        limit = limit_at(ip, <uint32_t> place)
        limit.tag = tag
        limit.next_ns = now_ns + <int64_t> left
    return 0
