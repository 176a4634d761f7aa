"""Ranges of received bytes beyond ``rcv_nxt``: sorted, disjoint, never touching; the source of SACK blocks (RFC 2018).

Insertion is a binary search and one move of at most MAX_RANGES entries, whatever the window holds.
"""

from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport realloc
from libc.string cimport memmove

from netstack.tcp.seq cimport seq_ge, seq_gt, seq_le, seq_lt
from netstack.tcp.tcb cimport MAX_RANGES, range_t


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
        if seq_lt(start, r[low].start):
            r[low].start = start
        if seq_gt(r[last - 1].end, end):
            end = r[last - 1].end
        r[low].end = end
        if last > low + 1:
            memmove(&r[low + 1], &r[last], (tcb.range_count - last) * sizeof(range_t))
            tcb.range_count -= <uint16_t> (last - low - 1)
        tcb.last_range = <uint16_t> low
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
    tcb.last_range = <uint16_t> low
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
    tcb.last_range = <uint16_t> (tcb.last_range - n) if tcb.last_range >= n else 0
