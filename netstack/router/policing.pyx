# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Watching TCP connections on their way through the router, and what is done about those that misbehave."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import os

from netstack.address cimport address_format, address_t
from netstack.router.greedy import Finding, MISDEEDS
from netstack.router.judging cimport (
    ACK, judge_ack, judge_data, judge_reset, judge_syn, NOBODY, note_delivered, note_dropped, RST, seen_t, shift_of, SYN,
)
from netstack.router.port cimport PORT_STACK
from netstack.router.reading cimport FIRST, LATER, read_header, readable, reading_t
from netstack.router.watched cimport (
    half_t, WATCHED_BUCKETS, WATCHED_WAYS, watched_find, watched_make, watched_restart, watched_t,
)
from netstack.tcp.seq cimport seq_gt, seq_max
from netstack.wire.byte_order cimport load_be16, load_be32, load_native16, store_be16, store_native16
from netstack.wire.checksum cimport checksum_update16
from netstack.wire.ecn cimport ip_codepoint, ip_mark_congestion

cdef enum:                           # what `look` found
    NOTHING = 0
    SEGMENT = 1
    PIECE = 2                        # the first of several: the ports are there
    BEYOND = 3                       # its headers go on behind these bytes

cdef enum:
    EARLY = 8                        # one in so many packets is dropped where none can be marked
    CLAMP_SEGMENTS = 8               # of a window that was made small


cdef inline bint comes_after(const address_t *a, uint32_t a_port, const address_t *b, uint32_t b_port) noexcept nogil:
    if a.hi != b.hi:
        return a.hi > b.hi
    if a.lo != b.lo:
        return a.lo > b.lo
    return a_port > b_port


cdef int look(const uint8_t *h, uint32_t n, uint32_t total, seen_t *s) noexcept nogil:
    cdef reading_t r
    cdef uint32_t sport, dport
    if not read_header(h, n, &r):
        return BEYOND
    if r.protocol != 6 or r.part == LATER:
        return NOTHING
    if n < r.at + 4:
        return BEYOND
    s.tcp = h + r.at
    sport = load_be16(s.tcp)
    dport = load_be16(s.tcp + 2)
    s.side = comes_after(&r.src, sport, &r.dst, dport)
    memcpy(&s.key[2 * s.side], &r.src, 16)
    memcpy(&s.key[2 - 2 * s.side], &r.dst, 16)
    s.key[4] = <uint64_t> dport << 16 | sport if s.side else <uint64_t> sport << 16 | dport      # of the smaller end first
    if r.part == FIRST:
        return PIECE
    if n < r.at + 20:
        return BEYOND
    s.at = r.at
    s.headers = r.at + ((s.tcp[12] >> 4) << 2)
    if s.headers < r.at + 20 or s.headers > total:
        return NOTHING
    if s.headers > n:
        return BEYOND
    s.payload = total - s.headers
    s.seq = load_be32(s.tcp + 4)
    s.ack = load_be32(s.tcp + 8)
    s.flags = s.tcp[13]
    s.window = load_be16(s.tcp + 14)
    return SEGMENT


# ---- findings

cdef inline bint of_receiver(int misdeed) noexcept nogil:
    return misdeed == ACK_DIVISION or misdeed == OPTIMISTIC_ACK


cdef inline bint never_by_mistake(int misdeed) noexcept nogil:
    return misdeed == OPTIMISTIC_ACK or misdeed == WINDOW_OVERRUN


cdef int accuse(police_t *police, watched_t *w, const seen_t *s, port_t *src, int misdeed, int64_t now_ns) noexcept nogil:
    """Who sent this segment did it: counted once for a connection, and told. CUT_OFF: no more of him."""
    cdef half_t *culprit = &w.halves[s.side]
    cdef half_t *data = &w.halves[1 - s.side if of_receiver(misdeed) else s.side]
    cdef finding_t *finding = &police.findings[police.found % FINDINGS]
    if culprit.found >> misdeed & 1:
        return PASS
    culprit.found |= 1 << misdeed
    w.punished |= 1 << (1 - s.side if of_receiver(misdeed) else s.side)
    src.counters.greedy[misdeed] += 1
    memcpy(finding.key, w.key, sizeof(finding.key))
    finding.when_ns = now_ns
    finding.port = src.id
    finding.culprit = s.side
    finding.misdeed = misdeed
    finding.amount = data.strike_bytes[0] + data.strike_bytes[1] if misdeed == NO_BACK_OFF else \
        data.divided if misdeed == ACK_DIVISION else \
        s.ack - data.delivered if misdeed == OPTIMISTIC_ACK else s.seq + s.payload - data.edge
    police.found += 1
    police.news = True
    return CUT_OFF if police.policy == POLICY_DETACH and never_by_mistake(misdeed) and src.kind == PORT_STACK and \
        not src.outside else PASS


# ---- what is done about it

cdef bint clamp(watched_t *w, seen_t *s, packet_t *p) noexcept nogil:
    """Make the window that a segment offers small, but never take back what was offered before: the right edge stays where it
    is until what is acknowledged has come near to it. Checksum by RFC 1624."""
    cdef half_t *other = &w.halves[1 - s.side]
    cdef uint32_t shift = shift_of(w, s.side)
    cdef uint32_t edge = s.ack + CLAMP_SEGMENTS * other.mss
    cdef uint32_t field
    cdef uint16_t before
    cdef uint8_t *tcp = p.header + s.at
    if not w.matched or w.signed or w.halves[s.side].doubt:
        return False
    if seq_gt(other.edge, edge):
        edge = other.edge
    field = (edge - s.ack + (1 << shift) - 1) >> shift
    if field >= s.window:
        return False
    before = load_native16(tcp + 14)
    store_be16(tcp + 14, <uint16_t> field)
    store_native16(tcp + 16, checksum_update16(load_native16(tcp + 16), before, load_native16(tcp + 14)))
    s.window = field
    return True


cdef bint mark(half_t *half, packet_t *p) noexcept nogil:
    """Tell the sender that there is congestion; False: by dropping this packet."""
    ip_mark_congestion(p.header)
    if ip_codepoint(p.header) == 0:
        half.turn += 1
        return half.turn % EARLY != 0
    return True


cdef int punish(int policy, watched_t *w, seen_t *s, port_t *src, packet_t *p) noexcept nogil:
    """What the policy does to a segment of a connection in which somebody misbehaved."""
    cdef bint data = w.punished >> s.side & 1 and s.payload
    if policy == POLICY_CLAMP and w.punished >> (1 - s.side) & 1 and s.flags & ACK:
        src.counters.policed += clamp(w, s, p)
    elif policy == POLICY_MARK and data:
        src.counters.policed += 1
        return PASS if mark(&w.halves[s.side], p) else DISCARD
    elif policy == POLICY_PENALTY and data:
        src.counters.policed += 1
        p.source = PENALTY_SOURCE
    return PASS


# ---- hooks

cdef void offered(watched_t *w, const seen_t *s) noexcept nogil:
    """The window that a segment offers to the other end."""
    cdef half_t *other = &w.halves[1 - s.side]
    if w.matched:
        other.edge = seq_max(other.edge, s.ack + (s.window << shift_of(w, s.side)))


cdef int judge(police_t *police, watched_t *w, seen_t *s, port_t *src, packet_t *p, int64_t now_ns) noexcept nogil:
    cdef int misdeed, verdict = PASS
    if s.flags & SYN:
        judge_syn(w, s, src, p)
        return PASS
    if s.flags & RST:
        judge_reset(w, s)
        return PASS
    if s.flags & ACK:
        misdeed = judge_ack(w, s, p)
        if misdeed != NOBODY:
            verdict = accuse(police, w, s, src, misdeed, now_ns)
    misdeed = judge_data(w, s, src, p, now_ns)
    if misdeed != NOBODY and verdict == PASS:
        verdict = accuse(police, w, s, src, misdeed, now_ns)
    if w.punished and verdict == PASS:
        verdict = punish(police.policy, w, s, src, p)
    if s.flags & ACK:
        offered(w, s)
    return verdict


cdef void end_head(packet_t *p, uint32_t headers) noexcept nogil:
    """Of a packet that is private as a whole: let its head have the headers and no more, as stacks lay and read it, so that
    who looks on where it goes sees them, too."""
    p.body_length = p.head_length + p.body_length - headers
    p.body = p.header + headers
    p.header_length = p.head_length = headers


cdef int police_judge(police_t *police, port_t *src, packet_t *p, int64_t now_ns) noexcept nogil:
    cdef seen_t s
    cdef watched_t *w
    cdef int found = look(p.header, readable(p), p.head_length + p.body_length, &s)
    if found == NOTHING:
        return PASS
    if found == BEYOND:
        return HIDDEN
    w = watched_find(&police.watch, s.key)
    if found == PIECE:
        if w != NULL:
            w.halves[s.side].doubt = True
        return PASS
    if s.headers > p.header_length:
        end_head(p, s.headers)
    if w == NULL:
        w = watched_make(&police.watch, s.key, src.id, now_ns)
    w.last_ns = now_ns
    if w.halves[s.side].port != src.id:
        if w.halves[s.side].port:            # its address has moved: what it got elsewhere is not known
            watched_restart(w)
        w.halves[s.side].port = src.id
    return judge(police, w, &s, src, p, now_ns)


cdef inline watched_t *watched_flow(police_t *police, const uint8_t *packet, uint32_t n, uint32_t total,
                                    seen_t *s) noexcept nogil:
    """Of a segment, with what is seen of it; NULL: it is none, or of a connection that nobody watches."""
    return watched_find(&police.watch, s.key) if look(packet, n, total, s) == SEGMENT else NULL


cdef void police_delivered(police_t *police, const uint8_t *packet, uint32_t n, uint32_t total) noexcept nogil:
    cdef seen_t s
    cdef watched_t *w = watched_flow(police, packet, n, total, &s)
    if w != NULL:
        note_delivered(w, &s)


cdef void police_dropped(police_t *police, const uint8_t *packet, uint32_t n, uint32_t total) noexcept nogil:
    cdef seen_t s
    cdef watched_t *w = watched_flow(police, packet, n, total, &s)
    if w != NULL:
        note_dropped(w, &s)


# ---- control

cdef police_t *police_new() except NULL:
    cdef police_t *police = <police_t *> calloc(1, sizeof(police_t))
    cdef bytes secret = os.urandom(16)
    if police != NULL:
        police.watch.flows = <watched_t *> calloc(WATCHED_BUCKETS * WATCHED_WAYS, sizeof(watched_t))
    if police == NULL or police.watch.flows == NULL:
        free(police)
        raise MemoryError
    memcpy(police.watch.secret, <const char *> secret, 16)
    return police


cdef void police_free(police_t *police) noexcept nogil:
    if police != NULL:
        free(police.watch.flows)
    free(police)


cdef void police_forget(police_t *police) noexcept nogil:
    """Nothing was seen for a while: what is known may be wrong."""
    police.watch.last = NULL
    memset(police.watch.flows, 0, WATCHED_BUCKETS * WATCHED_WAYS * sizeof(watched_t))


cdef tuple end_of(const finding_t *f, int side):
    return address_format(<const address_t *> &f.key[2 * side]), f.key[4] >> (0 if side else 16) & 0xffff


cdef list police_findings(police_t *police):
    cdef list out = []
    cdef const finding_t *f
    if police.found - police.told > FINDINGS:
        police.told = police.found - FINDINGS
    while police.told < police.found:
        f = &police.findings[police.told % FINDINGS]
        police.told += 1
        out.append(Finding(MISDEEDS[f.misdeed], f.port, end_of(f, f.culprit), end_of(f, 1 - f.culprit), f.amount, f.when_ns))
    return out
