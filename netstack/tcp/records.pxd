"""Where MSG_EOR ended a record: no segment reaches over it. Only marks of what was never sent are kept; segments go again as
they went first. A few at a time: a record that finds no place may share a segment with the next one."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc

from netstack.tcp.seq cimport seq_gt
from netstack.tcp.tcb cimport MAX_RECORD_ENDS, data_end, records_t, tcb_t


cdef inline void records_clear(tcb_t *tcb) noexcept nogil:
    free(tcb.records)
    tcb.records = NULL


cdef inline void record_end(tcb_t *tcb) noexcept nogil:
    """What is in the send buffer ends here."""
    cdef uint32_t end = data_end(tcb)
    cdef records_t *r = tcb.records
    if not seq_gt(end, tcb.snd_nxt):
        return
    if r == NULL:
        r = <records_t *> malloc(sizeof(records_t))
        if r == NULL:
            return
        r.count = 0
        tcb.records = r
    if r.count < MAX_RECORD_ENDS and (r.count == 0 or r.ends[r.count - 1] != end):
        r.ends[r.count] = end
        r.count += 1


cdef inline uint32_t record_limit(const tcb_t *tcb, uint32_t seq, uint32_t length) noexcept nogil:
    """How much of length bytes at seq, the next to be sent, belongs to one record."""
    if tcb.records != NULL and tcb.records.ends[0] - seq < length:
        return tcb.records.ends[0] - seq
    return length


cdef inline void record_sent(tcb_t *tcb) noexcept nogil:
    """snd_nxt has moved. Requires: records."""
    cdef records_t *r = tcb.records
    cdef uint32_t i, n = 0
    while n < r.count and not seq_gt(r.ends[n], tcb.snd_nxt):
        n += 1
    if n == r.count:
        records_clear(tcb)
        return
    for i in range(n, r.count):
        r.ends[i - n] = r.ends[i]
    r.count -= n
