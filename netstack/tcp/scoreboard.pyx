"""An array of records of what is in flight (RFC 6675's scoreboard, one entry per segment).

Sending appends, cumulative acknowledgements take from the front. Nothing grows with the window per acknowledgement:

* a block finds its first record by binary search, and skips runs that are known to have arrived by links that get
  shorter with use (`scoreboard_skip`, a disjoint-set forest): each record is touched once, however often it is reported;
* records that may still be found lost by time (RFC 8985) hang in the order of sending, a list of places in the array;
  what is selectively acknowledged or lost has left it;
* what is lost and waits to be sent again is found in sequence order by a tree of bits (`tcp/places`).

Taking a reduction back and smaller segments touch all records once per event, in order: an episode, not an
acknowledgement. The array lies in a buffer of the connection's pool, and an idle connection has none.

A record is one packet, so a block that covers a part of it says nothing here: the segment waits until all of it is
covered. So does Linux, which splits only what it had joined for the card, and only between its packets.
"""


from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from netstack.tcp.buffers cimport pool_get, pool_put
from netstack.tcp.places cimport place_add, place_next, place_remove, places_clear
from netstack.tcp.seq cimport seq_gt
from netstack.tcp.tcb cimport SENT_APP_LIMITED, SENT_TWICE, tcp_t

cdef enum:
    SMALLEST = 64                # records: a page
    RECORDS_MAX = 1 << 17
    SPARES = 64


cdef inline uint32_t place_of(const recovery_t *rec, const sent_t *r) noexcept nogil:
    return <uint32_t> (r - rec.sent)


cdef inline uint32_t number_of(const recovery_t *rec, const sent_t *r) noexcept nogil:
    """Records are numbered in the order of sequence numbers: the first in flight is sent_first, which counts up."""
    return rec.sent_first + ((place_of(rec, r) - rec.sent_first) & (rec.sent_capacity - 1))


# --- the order of sending ---------------------------------------------------------------------------------------------

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
    if rec.rack_at == place_of(rec, r):
        rec.rack_at = r.earlier


cdef inline bint sent_before(const sent_t *a, const sent_t *b) noexcept nogil:
    return a.sent_ns < b.sent_ns or (a.sent_ns == b.sent_ns and not seq_gt(a.end, b.end))


cdef uint32_t merged(sent_t *sent, uint32_t a, uint32_t b, uint64_t *steps) noexcept nogil:
    """Two chains, each in the order of sending, become one; at a tie the first chain's goes first."""
    cdef uint32_t first = NONE
    cdef uint32_t *link = &first
    while a != NONE and b != NONE:
        steps[0] += 1
        if sent_before(&sent[a], &sent[b]):
            link[0] = a
            link = &sent[a].later
            a = link[0]
        else:
            link[0] = b
            link = &sent[b].later
            b = link[0]
    link[0] = a if a != NONE else b
    return first


cdef void order_merge(recovery_t *rec, uint32_t chain, uint64_t *steps) noexcept nogil:
    """The records of a chain (linked by `later`, in any order) go back into the order of sending. A merge sort of the runs
    that are there: what was sent once is in order already, so mostly one pass."""
    cdef uint32_t[20] runs
    cdef uint32_t i, run, last, at, earlier = NONE
    for i in range(20):
        runs[i] = NONE
    while chain != NONE:
        run = last = chain
        chain = rec.sent[last].later
        while chain != NONE and sent_before(&rec.sent[last], &rec.sent[chain]):
            steps[0] += 1
            last = chain
            chain = rec.sent[last].later
        rec.sent[last].later = NONE
        i = 0
        while i < 19 and runs[i] != NONE:
            run = merged(rec.sent, runs[i], run, steps)
            runs[i] = NONE
            i += 1
        runs[i] = run
    at = rec.order_first
    for i in range(20):
        at = merged(rec.sent, at, runs[i], steps)
    rec.order_first = at
    while at != NONE:
        steps[0] += 1
        rec.sent[at].earlier = earlier
        rec.sent[at].flags |= SENT_LISTED
        earlier = at
        at = rec.sent[at].later
    rec.order_last = earlier
    rec.rack_at = NONE


# --- the array --------------------------------------------------------------------------------------------------------

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
        if new[place].flags & SENT_LISTED:
            new[place].earlier = moved(rec, new[place].earlier, capacity)
            new[place].later = moved(rec, new[place].later, capacity)
    rec.rack_at = moved(rec, rec.rack_at, capacity)
    rec.tree_valid = 0
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
    rec.rack_at = NONE
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
        rec.rack_at = NONE
        rec.tree_valid = 0
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


cdef inline void waits(tcb_t *tcb, const sent_t *r) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    rec.waiting += 1
    if rec.tree_valid:
        place_add(rec.sent, rec.sent_capacity, place_of(rec, r), &tcb.tcp.counters.tcp_recovery_steps)


cdef inline void waits_no_more(tcb_t *tcb, const sent_t *r) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    rec.waiting -= 1
    if rec.tree_valid:
        place_remove(rec.sent, rec.sent_capacity, place_of(rec, r), &tcb.tcp.counters.tcp_recovery_steps)


cdef void scoreboard_again(tcb_t *tcb, sent_t *r) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    if not r.flags & SENT_AGAIN:
        r.flags |= SENT_AGAIN
        rec.again += r.end - r.start
        rec.again_out += 1
        if r.flags & SENT_LOST:
            waits_no_more(tcb, r)
    r.flags |= SENT_TWICE
    stamp(tcb, r)
    order_remove(rec, r)
    if not r.flags & SENT_SACKED:            # a probe of the tail may send again what has arrived
        order_append(rec, r)


cdef void forget_again(tcb_t *tcb, sent_t *r) noexcept nogil:
    if r.flags & SENT_AGAIN:
        r.flags &= ~<uint8_t> SENT_AGAIN
        tcb.rec.again -= r.end - r.start
        tcb.rec.again_out -= 1
        if r.flags & SENT_LOST:
            waits(tcb, r)


cdef inline void forget_lost(tcb_t *tcb, sent_t *r) noexcept nogil:
    if r.flags & SENT_LOST:
        if not r.flags & SENT_AGAIN:
            waits_no_more(tcb, r)
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


cdef uint32_t scoreboard_skip(tcb_t *tcb, uint32_t i) noexcept nogil:
    """The first record from the i-th on that is not selectively acknowledged; links halve as they are followed."""
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t n = rec.sent_first + i, mask = rec.sent_capacity - 1
    cdef sent_t *r
    while n - rec.sent_first < rec.sent_count:
        tcb.tcp.counters.tcp_sack_steps += 1
        r = &rec.sent[n & mask]
        if not r.flags & SENT_SACKED:
            break
        n = r.later
        if n - rec.sent_first < rec.sent_count and rec.sent[n & mask].flags & SENT_SACKED:
            r.later = rec.sent[n & mask].later
            n = r.later
    return n - rec.sent_first


cdef sent_t *scoreboard_next_lost(tcb_t *tcb) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    cdef uint64_t *steps = &tcb.tcp.counters.tcp_recovery_steps
    cdef uint32_t i, place
    cdef const sent_t *r
    if rec.waiting == 0:
        return NULL
    if not rec.tree_valid:                   # once for an array: its records have paid for it by being sent
        places_clear(rec.sent, rec.sent_capacity)
        steps[0] += rec.sent_count
        for i in range(rec.sent_count):
            r = sent_at(tcb, i)
            if r.flags & (SENT_LOST | SENT_AGAIN) == SENT_LOST:
                place_add(rec.sent, rec.sent_capacity, place_of(rec, r), steps)
        rec.tree_valid = 1
    place = place_next(rec.sent, rec.sent_capacity, rec.sent_first & (rec.sent_capacity - 1), steps)
    if place == rec.sent_capacity:
        place = place_next(rec.sent, rec.sent_capacity, 0, steps)
    return &rec.sent[place] if place != rec.sent_capacity else NULL


cdef void mark_lost(tcb_t *tcb, sent_t *r) noexcept nogil:
    """Neither it nor its retransmission, if there was one, is in the network any more."""
    cdef recovery_t *rec = tcb.rec
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
        waits(tcb, r)
    elif r.flags & SENT_AGAIN:
        tcb.hist.lost_ever += r.end - r.start
        forget_again(tcb, r)
    order_remove(rec, r)


cdef void mark_sacked(tcb_t *tcb, sent_t *r) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t number = number_of(rec, r)
    if rec.sacked_out == 0:
        judge_again(rec)
    if number - rec.marked < rec.sent_capacity:
        rec.marked_above += 1
    if r.flags & SENT_LOST:                   # else a retransmission of it may still be in flight
        forget_again(tcb, r)
    forget_lost(tcb, r)
    r.flags |= SENT_SACKED
    rec.sacked += r.end - r.start
    rec.sacked_out += 1
    order_remove(rec, r)
    r.later = number + 1


cdef void judge_again(recovery_t *rec) noexcept nogil:
    rec.marked = rec.sent_first
    rec.marked_above = rec.sacked_out


cdef void mark_lost_below(tcb_t *tcb, uint32_t threshold) noexcept nogil:
    """What has at least so many above it that have arrived; each record is looked at once."""
    cdef recovery_t *rec = tcb.rec
    cdef sent_t *r
    if rec.sacked_out < threshold:
        return
    if rec.marked - rec.sent_first > rec.sent_count:
        judge_again(rec)                     # what had been judged is acknowledged
    while rec.marked_above >= threshold and rec.marked - rec.sent_first < rec.sent_count:
        tcb.tcp.counters.tcp_recovery_steps += 1
        r = sent_at(tcb, rec.marked - rec.sent_first)
        if r.flags & SENT_SACKED:
            rec.marked_above -= 1
        elif not r.flags & SENT_LOST:
            mark_lost(tcb, r)
        rec.marked += 1


cdef void unmark_sacked(tcb_t *tcb, sent_t *r) noexcept nogil:
    """The peer has taken it back. The caller finds it lost: it stays out of the order of sending."""
    if r.flags & SENT_SACKED:
        r.flags &= ~<uint8_t> SENT_SACKED
        tcb.rec.sacked -= r.end - r.start
        tcb.rec.sacked_out -= 1


cdef void unmark_all_lost(tcb_t *tcb) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t i, chain = NONE
    cdef uint32_t *link = &chain
    cdef sent_t *r
    if rec.lost_out == 0:
        return
    tcb.tcp.counters.tcp_recovery_steps += rec.sent_count
    for i in range(rec.sent_count):
        r = sent_at(tcb, i)
        if r.flags & SENT_LOST:
            forget_lost(tcb, r)
            if not r.flags & SENT_LISTED:
                link[0] = place_of(rec, r)
                link = &r.later
    link[0] = NONE
    if chain != NONE:
        order_merge(rec, chain, &tcb.tcp.counters.tcp_recovery_steps)
    judge_again(rec)


cdef bint scoreboard_cut(tcb_t *tcb, uint32_t limit) noexcept nogil:
    """Segments became smaller: what is longer falls into pieces, each with the fate of the whole. Once, not per record."""
    cdef recovery_t *rec = tcb.rec
    cdef recovery_t old = tcb.rec[0]
    cdef uint32_t i, pieces = 0, length, capacity, n = 0, start, at, k
    cdef sent_t *r
    cdef sent_t *new
    for i in range(old.sent_count):
        length = sent_at(tcb, i).end - sent_at(tcb, i).start
        pieces += (length + limit - 1) // limit
    tcb.tcp.counters.tcp_recovery_steps += old.sent_count
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
    rec.rack_at = NONE
    rec.tree_valid = 0
    rec.sacked_out = rec.lost_out = rec.again_out = rec.waiting = 0
    tcb.tcp.counters.tcp_recovery_steps += 2 * pieces
    for i in range(old.sent_count):
        r = &old.sent[(old.sent_first + i) & (old.sent_capacity - 1)]
        start = r.start
        at = n
        while start != r.end:
            length = r.end - start
            if length > limit:
                length = limit
            memcpy(&new[n], r, sizeof(sent_t))
            new[n].start = start
            new[n].end = start + length
            new[n].flags &= ~<uint8_t> SENT_LISTED
            new[n].tree = 0
            if r.flags & SENT_LOST:
                rec.lost_out += 1
                if not r.flags & SENT_AGAIN:
                    rec.waiting += 1
            if r.flags & SENT_AGAIN:
                rec.again_out += 1
            if r.flags & SENT_SACKED:
                rec.sacked_out += 1
                new[n].later = n + 1
            start += length
            n += 1
        r.start = at                             # where its pieces lie now, and how many they are
        r.end = n
    rec.sent_count = n
    at = old.order_first
    while at != NONE:
        r = &old.sent[at]
        for k in range(r.start, r.end):
            order_append(rec, &new[k])
        at = r.later
    if not old.sacked_out == 0 and rec.sacked_out == 0:
        rec.sacked_out = old.sacked_out           # what duplicates stand for, without SACK
    judge_again(rec)
    pool_put(tcb.tcp, <uint8_t *> old.sent, old.sent_capacity * <uint32_t> sizeof(sent_t))
    return True
