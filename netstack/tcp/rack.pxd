"""RACK-TLP (RFC 8985): losses found by time, and a probe for the tail."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from netstack.tcp.tcb cimport sent_t, tcb_t


cdef void rack_delivered(tcb_t *tcb, const sent_t *r) noexcept nogil          # a record was acknowledged, in either way
cdef bint rack_mark_lost(tcb_t *tcb) noexcept nogil                           # True: a reordering timer runs now
cdef int64_t rack_detect_loss(tcb_t *tcb) noexcept nogil                      # nanoseconds until more may be lost; 0: none
cdef int64_t rack_remaining(const tcb_t *tcb, const sent_t *r, int64_t reorder_window_ns) noexcept nogil
cdef void rack_adapt(tcb_t *tcb, uint64_t prior_delivered) noexcept nogil     # the reordering window, after D-SACKs
cdef bint probe_schedule(tcb_t *tcb, bint advancing) noexcept nogil           # True: a tail loss probe is the next timer
cdef void rto_rearm(tcb_t *tcb) noexcept nogil
