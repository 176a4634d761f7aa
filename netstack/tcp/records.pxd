"""Where MSG_EOR ended a record: no segment reaches over it. Only marks of what was never sent are kept; segments go again as
they went first. A few at a time: a record that finds no place may share a segment with the next one."""

from libc.stdint cimport uint32_t

from netstack.tcp.seq cimport seq_gt
from netstack.tcp.tcb cimport MAX_RECORD_ENDS, data_end, tcb_t


cdef inline void record_end(tcb_t *tcb) noexcept nogil:
    """What is in the send buffer ends here."""
    cdef uint32_t end = data_end(tcb)
    if seq_gt(end, tcb.snd_nxt) and tcb.record_count < MAX_RECORD_ENDS and (
            tcb.record_count == 0 or tcb.record_ends[tcb.record_count - 1] != end):
        tcb.record_ends[tcb.record_count] = end
        tcb.record_count += 1


cdef inline uint32_t record_limit(const tcb_t *tcb, uint32_t seq, uint32_t length) noexcept nogil:
    """How much of length bytes at seq, the next to be sent, belongs to one record."""
    if tcb.record_count and tcb.record_ends[0] - seq < length:
        return tcb.record_ends[0] - seq
    return length


cdef inline void record_sent(tcb_t *tcb) noexcept nogil:
    """snd_nxt has moved."""
    cdef uint32_t i, n = 0
    while n < tcb.record_count and not seq_gt(tcb.record_ends[n], tcb.snd_nxt):
        n += 1
    for i in range(n, tcb.record_count):
        tcb.record_ends[i - n] = tcb.record_ends[i]
    tcb.record_count -= <unsigned char> n
