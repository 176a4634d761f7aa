"""Ranges of received bytes beyond ``rcv_nxt``: sorted, disjoint, never touching; the source of SACK blocks (RFC 2018, 2883).

Insertion is a binary search and one move of at most MAX_RANGES entries, whatever the window holds.
"""

from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport realloc
from libc.string cimport memmove

from netstack.tcp.seq cimport seq_ge, seq_gt, seq_le, seq_lt
from netstack.tcp.tcb cimport MAX_RANGES, range_t


cdef inline bint inside(const range_t *r, uint32_t seq) noexcept nogil:
    return seq_le(r.start, seq) and seq_lt(seq, r.end)


cdef void changed(tcb_t *tcb, const range_t *r) noexcept nogil:
    """This range is the one to report first from now on."""
    cdef int i = 0
    while i < 2 and not inside(r, tcb.sack_recent[i]):
        i += 1
    while i > 0:
        tcb.sack_recent[i] = tcb.sack_recent[i - 1]
        i -= 1
    tcb.sack_recent[0] = r.start


cdef int sack_blocks(const tcb_t *tcb, range_t *blocks, int room) noexcept nogil:
    """A duplicate first, and behind it the block of our queue that it lies in (RFC 2883 section 4); then the ranges that
    changed last, the latest first; the rest from the left."""
    cdef const range_t *r = tcb.ranges
    cdef int n = 0, i, k, low, high, middle
    cdef uint32_t seq
    cdef uint16_t shown[4]
    cdef int shown_count = 0
    cdef bint duplicate = tcb.duplicate.start != tcb.duplicate.end
    if duplicate:
        blocks[0] = tcb.duplicate
        n = 1
    for k in range(-1 if duplicate else 0, 3):
        seq = tcb.sack_recent[k] if k >= 0 else tcb.duplicate.start
        low = 0
        high = tcb.range_count
        while low < high:                    # first range that ends behind it
            middle = (low + high) // 2
            if seq_le(r[middle].end, seq):
                low = middle + 1
            else:
                high = middle
        if n == room or low == tcb.range_count or not inside(&r[low], seq):
            continue
        for i in range(shown_count):
            if shown[i] == low:
                break
        else:
            blocks[n] = r[low]
            n += 1
            shown[shown_count] = <uint16_t> low
            shown_count += 1
    for low in range(tcb.range_count):
        if n == room:
            break
        for i in range(shown_count):
            if shown[i] == low:
                break
        else:
            blocks[n] = r[low]
            n += 1
    return n


cdef int range_insert(tcb_t *tcb, uint32_t start, uint32_t end) noexcept nogil:
    cdef range_t *r = tcb.ranges
    cdef int low = 0, high = tcb.range_count, middle, last
    cdef uint16_t capacity
    while low < high:                        # first range whose end is not below start
        middle = (low + high) // 2
        if seq_lt(r[middle].end, start):
            low = middle + 1
        else:
            high = middle
    last = low
    while last < tcb.range_count and seq_le(r[last].start, end):
        last += 1
    if last > low:                           # overlaps or touches ranges low .. last - 1: they become one
        middle = low + 1 if r[low].end == start else low     # what it only touches did not come again
        if tcb.tcp.config.dsack and middle < last and seq_lt(r[middle].start, end):
            tcb.duplicate.start = start if seq_gt(start, r[middle].start) else r[middle].start
            tcb.duplicate.end = end if seq_lt(end, r[middle].end) else r[middle].end
        if seq_lt(start, r[low].start):
            r[low].start = start
        if seq_gt(r[last - 1].end, end):
            end = r[last - 1].end
        r[low].end = end
        if last > low + 1:
            memmove(&r[low + 1], &r[last], (tcb.range_count - last) * sizeof(range_t))
            tcb.range_count -= <uint16_t> (last - low - 1)
        changed(tcb, &r[low])
        return 0
    if tcb.range_count >= MAX_RANGES:
        return -1
    if tcb.range_count == tcb.range_capacity:
        capacity = tcb.range_capacity * 2 if tcb.range_capacity else 4
        r = <range_t *> realloc(tcb.ranges, capacity * sizeof(range_t))
        if r == NULL:
            return -1
        tcb.ranges = r
        tcb.range_capacity = capacity
    memmove(&r[low + 1], &r[low], (tcb.range_count - low) * sizeof(range_t))
    r[low].start = start
    r[low].end = end
    tcb.range_count += 1
    changed(tcb, &r[low])
    return 0


cdef void range_absorb(tcb_t *tcb) noexcept nogil:
    cdef int n = 0
    while n < tcb.range_count and seq_ge(tcb.rcv_nxt, tcb.ranges[n].start):
        if seq_gt(tcb.ranges[n].end, tcb.rcv_nxt):
            tcb.rcv_nxt = tcb.ranges[n].end
        n += 1
    if n == 0:
        return
    memmove(tcb.ranges, &tcb.ranges[n], (tcb.range_count - n) * sizeof(range_t))
    tcb.range_count -= <uint16_t> n
