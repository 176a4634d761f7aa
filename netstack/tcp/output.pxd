"""Sending in three steps: ``next_segment`` decides, ``write_segment`` writes, ``on_sent`` commits."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from netstack.tcp.tcb cimport bare_t, tcb_t
from netstack.wire.tcp cimport tcp_options_t


cdef struct plan_t:
    # A segment that should go out now.
    uint32_t seq
    uint32_t length              # payload bytes
    uint32_t header_length       # TCP header with options, bytes
    uint16_t flags
    uint8_t fresh                # the payload, or its end, is the caller's data, not yet in the send buffer
    uint8_t retransmit
    uint8_t prior                # acknowledges ecn.prior_ack, not rcv_nxt
    uint8_t ecn                  # IP's codepoint
    tcp_options_t options


# fresh: bytes the application offers beyond the send buffer (0: only what is buffered). False: nothing to send now.
cdef bint next_segment(tcb_t *tcb, uint32_t fresh, plan_t *plan) noexcept nogil
# Header at *head*, payload from the send buffer at *body*, checksum over both.
# stream: at *body* past the caches (link_t.stream).
cdef void write_segment(tcb_t *tcb, const plan_t *plan, uint8_t *head, uint8_t *body, bint stream) noexcept nogil
# The same with the payload, behind what the buffer holds from plan.seq on, taken from the application's memory: stored at
# *body* and in the send buffer in one pass.
cdef void write_fresh_segment(tcb_t *tcb, const plan_t *plan, uint8_t *head, uint8_t *body,
                              const uint8_t *data, bint stream) noexcept nogil
cdef void on_sent(tcb_t *tcb, const plan_t *plan) noexcept nogil
cdef void retry_now(tcb_t *tcb) noexcept nogil                    # the way out is there again
cdef void on_timer(tcb_t *tcb) noexcept nogil                     # every deadline of the connection that has passed
cdef uint32_t write_bare(const bare_t *b, uint8_t *head) noexcept nogil    # TCP header bytes written
cdef uint32_t bare_length(const bare_t *b) noexcept nogil
