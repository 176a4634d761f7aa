"""What happened to a connection, counted and timed for TCP_INFO. Nothing here steers it."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.tcp.tcb cimport tcb_t

cdef enum:                       # counts_t.limited_by: what holds the sender back (RFC 4898's SndLim, as Linux sorts it)
    LIMIT_IDLE = 0               # the send buffer is empty
    LIMIT_BUSY = 1               # the network: congestion window, pacing
    LIMIT_RWND = 2               # the peer's window
    LIMIT_SNDBUF = 3             # our send buffer: all of it is in flight, and the application has more


cdef inline void count_segment_in(tcb_t *tcb, uint32_t length) noexcept nogil:
    """A segment with a good sum arrived."""
    tcb.counts.segments_in += 1
    if length:
        tcb.counts.data_segments_in += 1
        tcb.last_data_ns = tcb.tcp.now_ns
        if length > tcb.counts.largest_in:
            tcb.counts.largest_in = length


cdef inline void count_segment_out(tcb_t *tcb, uint32_t length, bint again) noexcept nogil:
    """A segment is in the link's hands."""
    tcb.counts.segments_out += 1
    if length:
        tcb.counts.data_segments_out += 1
        if again:
            tcb.counts.bytes_resent += length


# After output and after an acknowledgement: time goes to what limits the sender from here on.
cdef void account_limits(tcb_t *tcb) noexcept nogil
# Time in a state so far, the current stretch included, nanoseconds.
cdef int64_t limited_ns(const tcb_t *tcb, uint8_t by) noexcept nogil
# The retransmission timer fired; something new was acknowledged after it had.
cdef void account_timeout(tcb_t *tcb) noexcept nogil
cdef void account_timeouts_over(tcb_t *tcb) noexcept nogil
