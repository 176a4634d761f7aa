"""An array of records of what is in flight (RFC 6675's scoreboard, one entry per segment).

Sending appends, cumulative acknowledgements take from the front, a selective one finds its records by binary search and
touches each once: nothing here grows with the window per acknowledgement. Records that may still be found lost by time
(RFC 8985) also hang in the order of sending, a list of places in the array; what is selectively acknowledged or lost has
left it. The array lies in a buffer of the connection's pool, and an idle connection has none.

A block that covers a segment in part says nothing here: the segment waits until all of it is covered.
"""


from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from netstack.tcp.buffers cimport pool_get, pool_put
from netstack.tcp.seq cimport seq_gt
from netstack.tcp.tcb cimport SENT_APP_LIMITED, SENT_TWICE, tcp_t

cdef enum:
    SMALLEST = 64                # records: a page
    RECORDS_MAX = 1 << 17
    SPARES = 64


cdef inline uint32_t place_of(const recovery_t *rec, const sent_t *r) noexcept nogil:
    return <uint32_t> (r - rec.sent)


cdef void order_append(recovery_t *rec, sent_t *r) noexcept nogil:
    cdef uint32_t at = place_of(rec, r)
    r.earlier = rec.order_last
    r.later = NONE
    if rec.order_last == NONE:
        rec.order_first = at
    else:
        rec.sent[rec.order_last].later = at
    rec.order_last = at
    r.flags |= SENT_LISTED


cdef void order_remove(recovery_t *rec, sent_t *r) noexcept nogil:
    if not r.flags & SENT_LISTED:
        return
    if r.earlier == NONE:
        rec.order_first = r.later
    else:
        rec.sent[r.earlier].later = r.later
    if r.later == NONE:
        rec.order_last = r.earlier
    else:
        rec.sent[r.later].earlier = r.earlier
    r.flags &= ~<uint8_t> SENT_LISTED


cdef void order_insert(recovery_t *rec, sent_t *r) noexcept nogil:
    """Back into the order, behind all that were sent before it."""
    cdef uint32_t at = rec.order_last, own = place_of(rec, r)
    if r.flags & SENT_LISTED:
        return
    while at != NONE and (rec.sent[at].sent_ns > r.sent_ns or
                          (rec.sent[at].sent_ns == r.sent_ns and seq_gt(rec.sent[at].end, r.end))):
        at = rec.sent[at].earlier
    r.earlier = at
    if at == NONE:
        r.later = rec.order_first
        rec.order_first = own
    else:
        r.later = rec.sent[at].later
        rec.sent[at].later = own
    if r.later == NONE:
        rec.order_last = own
    else:
        rec.sent[r.later].earlier = own
    r.flags |= SENT_LISTED


cdef bint resize(tcb_t *tcb, uint32_t capacity) noexcept nogil:
    """Move the records into an array of another capacity, at the places their numbers have there."""
    cdef recovery_t *rec = tcb.rec
    cdef sent_t *new
    cdef uint32_t i, n, place
    if capacity > RECORDS_MAX:
        return False
    new = <sent_t *> pool_get(tcb.tcp, capacity * <uint32_t> sizeof(sent_t))
    if new == NULL:
        return False
    for i in range(rec.sent_count):
        n = rec.sent_first + i
        new[n & (capacity - 1)] = rec.sent[n & (rec.sent_capacity - 1)]
    # The order of sending by place: an old place p holds the number whose low bits are p.
    for i in range(rec.sent_count):
        place = (rec.sent_first + i) & (capacity - 1)
        new[place].earlier = moved(rec, new[place].earlier, capacity)
        new[place].later = moved(rec, new[place].later, capacity)
    rec.order_first = moved(rec, rec.order_first, capacity)
    rec.order_last = moved(rec, rec.order_last, capacity)
    pool_put(tcb.tcp, <uint8_t *> rec.sent, rec.sent_capacity * <uint32_t> sizeof(sent_t))
    rec.sent = new
    rec.sent_capacity = capacity
    return True


cdef inline uint32_t moved(const recovery_t *rec, uint32_t place, uint32_t capacity) noexcept nogil:
    if place == NONE:
        return NONE
    return (rec.sent_first + ((place - rec.sent_first) & (rec.sent_capacity - 1))) & (capacity - 1)


cdef bint recovery_reserve(tcb_t *tcb) noexcept nogil:
    """What recovery needs while something is in flight; a stock of them waits, so that each small exchange costs no malloc."""
    cdef tcp_t *tcp = tcb.tcp
    cdef recovery_t *rec = tcp.spare
    if tcb.rec != &tcp.idle:
        return True
    if rec != NULL:
        tcp.spare = rec.spare
        tcp.spare_count -= 1
    else:
        rec = <recovery_t *> malloc(sizeof(recovery_t))
        if rec == NULL:
            return False
    memset(rec, 0, sizeof(recovery_t))
    rec.order_first = NONE
    rec.order_last = NONE
    rec.high_seq = tcb.snd_una
    rec.usage_seq = tcb.snd_una
    tcb.rec = rec
    return True


cdef void recovery_release(tcb_t *tcb) noexcept nogil:
    """Nothing is in flight: it goes back."""
    cdef tcp_t *tcp = tcb.tcp
    if tcb.rec == &tcp.idle or tcb.rec == NULL:
        return
    if tcb.rec.sent != NULL:
        pool_put(tcp, <uint8_t *> tcb.rec.sent, tcb.rec.sent_capacity * <uint32_t> sizeof(sent_t))
    if tcp.spare_count < SPARES:
        tcb.rec.spare = tcp.spare
        tcp.spare = tcb.rec
        tcp.spare_count += 1
    else:
        free(tcb.rec)
    tcb.rec = &tcp.idle


cdef void recovery_free_spares(tcp_t *tcp) noexcept nogil:
    cdef recovery_t *rec
    while tcp.spare != NULL:
        rec = tcp.spare
        tcp.spare = rec.spare
        free(rec)
    tcp.spare_count = 0


cdef bint scoreboard_reserve(tcb_t *tcb) noexcept nogil:
    cdef recovery_t *rec
    if not recovery_reserve(tcb):
        return False
    rec = tcb.rec
    if rec.sent_count < rec.sent_capacity:
        return True
    if rec.sent == NULL:
        rec.order_first = NONE
        rec.order_last = NONE
        rec.sent = <sent_t *> pool_get(tcb.tcp, SMALLEST * <uint32_t> sizeof(sent_t))
        if rec.sent == NULL:
            return False
        rec.sent_capacity = SMALLEST
        return True
    return resize(tcb, 2 * rec.sent_capacity)


cdef sent_t *scoreboard_append(tcb_t *tcb, uint32_t start, uint32_t end) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    cdef sent_t *r = sent_at(tcb, rec.sent_count)
    if rec.sent_count == 0:                  # a flight begins
        rec.first_sent_ns = tcb.tcp.now_ns
        rec.delivered_ns = tcb.tcp.now_ns
        rec.hint = rec.sent_first
    rec.sent_count += 1
    r.start = start
    r.end = end
    r.flags = 0
    stamp(tcb, r)
    order_append(rec, r)
    return r


cdef inline void stamp(tcb_t *tcb, sent_t *r) noexcept nogil:
    """What the delivery rate will be measured by (draft-ietf-ccwg-bbr section 4.1.2.2)."""
    r.sent_ns = tcb.tcp.now_ns
    r.delivered = tcb.cc.delivered
    r.delivered_ns = tcb.rec.delivered_ns
    r.first_sent_ns = tcb.rec.first_sent_ns
    r.lost = tcb.hist.lost_ever
    r.flags &= ~<uint8_t> (SENT_APP_LIMITED)
    if tcb.hist.app_limited:
        r.flags |= SENT_APP_LIMITED


cdef void scoreboard_again(tcb_t *tcb, sent_t *r) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    if not r.flags & SENT_AGAIN:
        r.flags |= SENT_AGAIN
        rec.again += r.end - r.start
        rec.again_out += 1
        if r.flags & SENT_LOST:
            rec.waiting -= 1
    r.flags |= SENT_TWICE
    stamp(tcb, r)
    order_remove(rec, r)
    order_append(rec, r)


cdef void forget_again(tcb_t *tcb, sent_t *r) noexcept nogil:
    if r.flags & SENT_AGAIN:
        r.flags &= ~<uint8_t> SENT_AGAIN
        tcb.rec.again -= r.end - r.start
        tcb.rec.again_out -= 1
        if r.flags & SENT_LOST:
            tcb.rec.waiting += 1


cdef inline void forget_lost(tcb_t *tcb, sent_t *r) noexcept nogil:
    if r.flags & SENT_LOST:
        if not r.flags & SENT_AGAIN:
            tcb.rec.waiting -= 1
        r.flags &= ~<uint8_t> SENT_LOST
        tcb.rec.lost -= r.end - r.start
        tcb.rec.lost_out -= 1


cdef void scoreboard_pop(tcb_t *tcb) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    cdef sent_t *r = sent_at(tcb, 0)
    forget_lost(tcb, r)
    forget_again(tcb, r)
    if r.flags & SENT_SACKED:
        rec.sacked -= r.end - r.start
        rec.sacked_out -= 1
    order_remove(rec, r)
    rec.sent_first += 1
    rec.sent_count -= 1
    if <int> (rec.hint - rec.sent_first) < 0:
        rec.hint = rec.sent_first
    if rec.sent_count == 0:
        pool_put(tcb.tcp, <uint8_t *> rec.sent, rec.sent_capacity * <uint32_t> sizeof(sent_t))
        rec.sent = NULL
        rec.sent_capacity = 0


cdef void scoreboard_trim(tcb_t *tcb, uint32_t una) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    cdef sent_t *r = sent_at(tcb, 0)
    cdef uint32_t n = una - r.start
    if r.flags & SENT_LOST:
        rec.lost -= n
    if r.flags & SENT_AGAIN:
        rec.again -= n
    if r.flags & SENT_SACKED:
        rec.sacked -= n
    r.start = una


cdef uint32_t scoreboard_find(const tcb_t *tcb, uint32_t seq) noexcept nogil:
    cdef uint32_t low = 0, high = tcb.rec.sent_count, middle
    while low < high:
        middle = (low + high) // 2
        if seq_gt(sent_at(tcb, middle).end, seq):
            high = middle
        else:
            low = middle + 1
    return low


cdef sent_t *scoreboard_next_lost(tcb_t *tcb) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    cdef sent_t *r
    if rec.waiting == 0:
        return NULL
    while rec.hint - rec.sent_first < rec.sent_count:
        r = sent_at(tcb, rec.hint - rec.sent_first)
        if r.flags & SENT_LOST and not r.flags & (SENT_AGAIN | SENT_SACKED):
            return r
        rec.hint += 1
    return NULL


cdef void mark_lost(tcb_t *tcb, sent_t *r) noexcept nogil:
    """Neither it nor its retransmission, if there was one, is in the network any more."""
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t number
    if r.flags & SENT_SACKED:
        return
    if not r.flags & SENT_LOST:
        r.flags |= SENT_LOST
        rec.lost += r.end - r.start
        rec.lost_out += 1
        tcb.hist.lost_ever += r.end - r.start
        if r.flags & SENT_AGAIN:
            rec.again -= r.end - r.start
            rec.again_out -= 1
            r.flags &= ~<uint8_t> SENT_AGAIN
        rec.waiting += 1
    elif r.flags & SENT_AGAIN:
        tcb.hist.lost_ever += r.end - r.start
        forget_again(tcb, r)
    order_remove(rec, r)
    number = rec.sent_first + ((place_of(rec, r) - rec.sent_first) & (rec.sent_capacity - 1))
    if number - rec.sent_first < rec.hint - rec.sent_first:
        rec.hint = number


cdef void mark_sacked(tcb_t *tcb, sent_t *r) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    if r.flags & SENT_LOST:                   # else a retransmission of it may still be in flight
        forget_again(tcb, r)
    forget_lost(tcb, r)
    r.flags |= SENT_SACKED
    rec.sacked += r.end - r.start
    rec.sacked_out += 1
    order_remove(rec, r)


cdef void unmark_sacked(tcb_t *tcb, sent_t *r) noexcept nogil:
    if r.flags & SENT_SACKED:
        r.flags &= ~<uint8_t> SENT_SACKED
        tcb.rec.sacked -= r.end - r.start
        tcb.rec.sacked_out -= 1
        order_insert(tcb.rec, r)


cdef void unmark_all_lost(tcb_t *tcb) noexcept nogil:
    cdef uint32_t i
    cdef sent_t *r
    if tcb.rec.lost_out == 0:
        return
    for i in range(tcb.rec.sent_count):
        r = sent_at(tcb, i)
        if r.flags & SENT_LOST:
            forget_lost(tcb, r)
            order_insert(tcb.rec, r)


cdef bint scoreboard_cut(tcb_t *tcb, uint32_t limit) noexcept nogil:
    """Segments became smaller: what is longer falls into pieces, each with the fate of the whole. Once, not per record."""
    cdef recovery_t *rec = tcb.rec
    cdef recovery_t old = tcb.rec[0]
    cdef uint32_t i, pieces = 0, length, capacity, n = 0, start
    cdef sent_t *r
    cdef sent_t *new
    for i in range(old.sent_count):
        length = sent_at(tcb, i).end - sent_at(tcb, i).start
        pieces += (length + limit - 1) // limit
    if pieces == old.sent_count:
        return True
    capacity = old.sent_capacity
    while capacity < pieces:
        capacity *= 2
    if capacity > RECORDS_MAX:
        return False
    new = <sent_t *> pool_get(tcb.tcp, capacity * <uint32_t> sizeof(sent_t))
    if new == NULL:
        return False
    memset(new, 0, capacity * sizeof(sent_t))
    rec.sent = new
    rec.sent_capacity = capacity
    rec.sent_first = 0
    rec.sent_count = 0
    rec.order_first = NONE
    rec.order_last = NONE
    rec.sacked_out = rec.lost_out = rec.again_out = rec.waiting = 0
    rec.hint = 0
    for i in range(old.sent_count):
        r = &old.sent[(old.sent_first + i) & (old.sent_capacity - 1)]
        start = r.start
        while start != r.end:
            length = r.end - start
            if length > limit:
                length = limit
            memcpy(&new[n], r, sizeof(sent_t))
            new[n].start = start
            new[n].end = start + length
            new[n].flags &= ~<uint8_t> SENT_LISTED
            if r.flags & SENT_LOST:
                rec.lost_out += 1
                if not r.flags & SENT_AGAIN:
                    rec.waiting += 1
            if r.flags & SENT_AGAIN:
                rec.again_out += 1
            if r.flags & SENT_SACKED:
                rec.sacked_out += 1
            if not r.flags & (SENT_SACKED | SENT_LOST) or r.flags & SENT_AGAIN and not r.flags & SENT_SACKED:
                order_insert(rec, &new[n])
            start += length
            n += 1
    rec.sent_count = n
    if not old.sacked_out == 0 and rec.sacked_out == 0:
        rec.sacked_out = old.sacked_out           # what duplicates stand for, without SACK
    pool_put(tcb.tcp, <uint8_t *> old.sent, old.sent_capacity * <uint32_t> sizeof(sent_t))
    return True
