# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Four misdeeds, and why an honest end cannot be taken for one that does them.

Window overrun: the router saw every window that the sender was offered, so the furthest right edge of all is more than it may
use; one byte beyond it is a probe (RFC 9293 section 3.8.6.1).
Optimistic acknowledgement (Savage et al. 1999): the router knows the last byte that it handed on, and a range that it dropped.
Acknowledgement division (the same): each acknowledgement that says something new answers a segment, so there are no more of them
than segments were handed on.
No back-off: a round ends when the sender repeats what was dropped, so it knows, whatever the distance to it; what was acknowledged
without is not waited for. An honest sender
gives up a part of its window then (RFC 5681: half, RFC 9438: 0.3) and sends no more than arrives (RFC 6937), so what is dropped of
it in 32 rounds is little, or it has become slow. Who lost a quarter of all that it sent in them, was not slower than half in the
later ones, and sends 16 segments a round and more, does not back off. (BBR bears a loss of up to a fifth for ever; what loses
less is left to fair queues.)

The first three are judged only where both SYNs passed, the second acknowledging the first: a record that was made later, or by
one end alone, knows too little. An end that contradicts itself (`doubt`) is believed nothing that speaks against the other.
"""

from libc.stdint cimport uint16_t

from netstack.address cimport address_equal
from netstack.router.policing cimport ACK_DIVISION, NO_BACK_OFF, OPTIMISTIC_ACK, WINDOW_OVERRUN
from netstack.router.port cimport PORT_STACK
from netstack.router.reading cimport read_header, reading_t
from netstack.router.segments cimport segment_is_sound
from netstack.router.watched cimport watched_restart
from netstack.tcp.seq cimport seq_ge, seq_gt, seq_le, seq_lt, seq_max
from netstack.wire.byte_order cimport load_be16

cdef enum:
    OPTION_MSS = 2
    OPTION_SHIFT = 3
    OPTION_MD5 = 19
    OPTION_AO = 29
    OPTION_MPTCP = 30
    DEFAULT_MSS = 536                # RFC 9293 section 3.7.1; no link on the way carries less
    ETHERNET_MSS = 1460
    HEADERS = 40                     # IPv4 and TCP, the least
    OVERRUNS = 8                     # segments
    OPTIMISTIC = 3                   # acknowledgements, each beyond the one before
    DIVISIONS = 16                   # acknowledgements too many
    ROUNDS = 32
    SMALL_SEGMENTS = 16              # in a round: whose window is small has nothing to reduce
    HEAVY = 4                        # a part of this size was dropped


cdef inline bint is_sound(const seen_t *s, const packet_t *p) noexcept nogil:
    """What its receiver will not take proves nothing."""
    return segment_is_sound(p, s.at, s.headers)


# ---- the beginning and the end

cdef bint read_options(const seen_t *s, uint32_t *mss, uint32_t *shift, watched_t *w) noexcept nogil:
    """Of a SYN; False: they can be understood in more than one way."""
    cdef const uint8_t *o = s.tcp + 20
    cdef uint32_t n = s.headers - s.at - 20, at = 0, length
    cdef int shifts = 0, sizes = 0
    mss[0] = 0
    shift[0] = NO_SHIFT
    while at < n and o[at]:
        if o[at] == 1:
            at += 1
            continue
        if at + 1 >= n:
            return False
        length = o[at + 1]
        if length < 2 or at + length > n:
            return False
        if o[at] == OPTION_MSS and length == 4:
            mss[0] = load_be16(o + at + 2)
            sizes += 1
        elif o[at] == OPTION_SHIFT:
            if length != 3:
                return False
            shift[0] = o[at + 2]
            shifts += 1
        elif o[at] == OPTION_MD5 or o[at] == OPTION_AO:
            w.signed = True
        elif o[at] == OPTION_MPTCP:
            w.shared_window = True
        at += length
    return shifts <= 1 and sizes <= 1


cdef bint is_own(const port_t *src, const packet_t *p) noexcept nogil:
    """Does the stack at the port itself have the address? Not so behind an uplink, or in a network behind a stack."""
    cdef reading_t r
    cdef int i
    if src.kind != PORT_STACK or not read_header(p.header, p.header_length, &r):
        return False
    for i in range(src.n_addresses):
        if address_equal(&r.src, &src.addresses[i]):
            return True
    return False


cdef void open_half(half_t *half, half_t *peer, const seen_t *s, uint32_t mss, uint32_t shift) noexcept nogil:
    half.opened = half.started = True
    half.isn = s.seq
    half.own_mss = <uint16_t> mss
    half.shift = <uint8_t> shift
    half.syn_window = s.window
    half.top = s.seq + length_of(s)
    half.delivered = half.acked = half.credit_mark = s.seq
    peer.mss = mss if mss >= DEFAULT_MSS else DEFAULT_MSS


cdef bint takes_credit(half_t *other, uint32_t ack) noexcept nogil:
    """Is there a segment that this acknowledgement answers? What came before the mark is settled when the mark is."""
    cdef bint there = other.credit or other.credit_next
    if other.credit:
        other.credit -= 1
    elif other.credit_next:
        other.credit_next -= 1
    if ack == other.delivered:               # it has all that there is: nothing is left to answer
        other.credit = other.credit_next = 0
    if seq_ge(ack, other.credit_mark):
        other.credit = other.credit_next
        other.credit_next = 0
        other.credit_mark = other.delivered
    return there


cdef void judge_syn(watched_t *w, const seen_t *s, port_t *src, const packet_t *p) noexcept nogil:
    cdef half_t *half = &w.halves[s.side]
    cdef half_t *peer = &w.halves[1 - s.side]
    cdef uint32_t mss, shift
    cdef bint same = half.opened and half.isn == s.seq
    if not is_sound(s, p):
        return
    if not s.flags & ACK and not same and (w.closed or (half.fin and peer.fin) or (half.started and not w.matched)):
        w.closed = w.closed or w.matched
        watched_restart(w)
        half.port = src.id
    if not read_options(s, &mss, &shift, w) or (half.started and (half.isn != s.seq or not half.opened)) or \
            (half.opened and (half.own_mss != mss or half.shift != shift)):
        half.doubt = True
        return
    if not half.opened:
        open_half(half, peer, s, mss, shift)
        half.direct = is_own(src, p)
    half.top = seq_max(half.top, s.seq + length_of(s))
    if s.flags & ACK and peer.opened and seq_gt(s.ack, peer.isn) and seq_le(s.ack, peer.top):
        if not w.matched:
            half.edge = half.isn + 1 + peer.syn_window
            peer.edge = s.ack + s.window
            peer.acked = s.ack
            takes_credit(peer, s.ack)
            w.matched = True
        peer.edge = seq_max(peer.edge, s.ack + s.window)


cdef void judge_reset(watched_t *w, const seen_t *s) noexcept nogil:
    """Only the exact number ends a connection (RFC 5961 section 3.2)."""
    if s.seq == w.halves[s.side].acked:
        w.closed = True


# ---- what the sender does

cdef bint close_round(half_t *half, int64_t now_ns) noexcept nogil:
    """The sender knows of a loss. True: it has known often enough."""
    cdef int part = half.strikes >= ROUNDS // 2
    cdef uint64_t lost = half.lost_bytes, sent
    if half.strikes == 0:
        half.strike_bytes[:] = [0, 0]
        half.strike_ns[:] = [0, 0]
    half.missing = False
    half.strikes += 1
    half.strike_bytes[part] += half.sent_bytes
    half.strike_ns[part] += now_ns - half.episode_ns
    half.sent_bytes = 0
    half.episode_ns = now_ns
    if half.strikes < ROUNDS:
        return False
    half.strikes = half.lost_bytes = 0
    sent = half.strike_bytes[0] + half.strike_bytes[1]
    return lost * HEAVY >= sent and sent >= <uint64_t> ROUNDS * SMALL_SEGMENTS * half.mss and \
        2.0 * half.strike_bytes[1] * half.strike_ns[0] >= <double> half.strike_bytes[0] * half.strike_ns[1]


cdef int judge_data(watched_t *w, const seen_t *s, const port_t *src, const packet_t *p, int64_t now_ns) noexcept nogil:
    cdef half_t *half = &w.halves[s.side]
    cdef half_t *peer = &w.halves[1 - s.side]
    cdef uint32_t behind = s.seq + s.payload
    cdef int guilty = NOBODY
    if not half.started:
        half.started = True
        half.top = half.acked = half.delivered = s.seq
    if half.episode_ns == 0:
        half.episode_ns = now_ns
    if s.flags & FIN:
        half.fin = True
    if half.mss < s.payload and not peer.opened:
        half.mss = s.payload if s.payload < ETHERNET_MSS else ETHERNET_MSS
    if half.mss > src.mtu - HEADERS:
        half.mss = src.mtu - HEADERS
    if s.payload == 0:
        half.top = seq_max(half.top, s.seq + length_of(s))
        return NOBODY
    if w.matched and not peer.doubt and not w.shared_window and seq_gt(behind, half.edge + 1) and is_sound(s, p):
        half.overruns += 1
        if half.overruns == OVERRUNS:
            guilty = WINDOW_OVERRUN
    half.sent_bytes += s.payload
    if half.missing and seq_le(s.seq, half.lost) and seq_gt(behind, half.lost) and close_round(half, now_ns):
        guilty = NO_BACK_OFF
    half.top = seq_max(half.top, s.seq + length_of(s))
    return guilty


# ---- what the receiver does

cdef int judge_ack(watched_t *w, const seen_t *s, const packet_t *p) noexcept nogil:
    cdef half_t *other = &w.halves[1 - s.side]
    cdef bint judged = w.matched and not other.doubt
    if not other.started:
        return NOBODY
    if seq_gt(s.ack, other.delivered) or (other.has_hole and seq_gt(s.ack, other.hole)):
        if judged and (other.optimistic == 0 or seq_gt(s.ack, other.claimed)) and is_sound(s, p):
            other.optimistic += 1
            other.claimed = s.ack
            other.has_hole = False
            if other.optimistic == OPTIMISTIC:
                return OPTIMISTIC_ACK
    elif seq_gt(s.ack, other.acked):
        other.acked = s.ack
        if other.missing and seq_gt(s.ack, other.lost):      # what was dropped was a repetition: nobody waits for it
            other.missing = False
        if not takes_credit(other, s.ack) and judged and is_sound(s, p):
            other.divided += 1
            if other.divided == DIVISIONS:
                return ACK_DIVISION
    return NOBODY


# ---- what the router did

cdef void note_delivered(watched_t *w, const seen_t *s) noexcept nogil:
    cdef half_t *half = &w.halves[s.side]
    cdef uint32_t n = length_of(s), behind = s.seq + n
    if n == 0:
        return
    half.credit_next += 1 if w.halves[1 - s.side].direct or s.payload <= DEFAULT_MSS else \
        (s.payload + DEFAULT_MSS - 1) // DEFAULT_MSS
    if seq_gt(behind, half.delivered):
        half.delivered = behind
    if half.has_hole and seq_lt(s.seq, half.hole_end) and seq_gt(behind, half.hole):
        half.has_hole = False


cdef void note_dropped(watched_t *w, const seen_t *s) noexcept nogil:
    cdef half_t *half = &w.halves[s.side]
    if s.payload == 0:
        return
    half.lost_bytes += s.payload
    if not half.missing and seq_gt(s.seq + s.payload, half.acked):
        half.missing = True
        half.lost = s.seq
    if not half.has_hole and seq_ge(s.seq, half.delivered):
        half.has_hole = True
        half.hole = s.seq
        half.hole_end = s.seq + s.payload
