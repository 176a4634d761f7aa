"""What a loss, an acknowledgement and a timeout do to a connection's window and to what it sends again."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from netstack.tcp.tcb cimport segment_t, sent_t, tcb_t

cdef enum:                       # ack_t.flags: what an acknowledgement says
    ACK_ADVANCED = 0x01          # snd_una moved
    ACK_DATA = 0x02              # it carries data, SYN or FIN
    ACK_WINDOW = 0x04            # it changes the window
    ACK_SACKED = 0x08            # something newly selectively acknowledged
    ACK_ORIGINAL = 0x10          # something of before the timeout that was sent once has arrived
    ACK_RESENT = 0x20            # something sent twice was acknowledged
    ACK_LOST_AGAIN = 0x40        # a retransmission was found lost
    ACK_DSACK = 0x80
    ACK_DSACK_PROBE = 0x100      # both the original and the tail loss probe arrived
    ACK_SET_TIMER = 0x200
    ACK_RENEGED = 0x400          # the first in flight is one the peer had selectively acknowledged
    ACK_ECE = 0x800


cdef struct ack_t:
    # One acknowledgement while it is worked on.
    uint32_t flags
    uint32_t prior_una
    uint32_t prior_in_flight
    uint32_t prior_highest       # highest_sack before
    uint32_t acked               # bytes
    uint32_t sacked
    uint32_t segments            # acknowledged cumulatively
    uint32_t reordered           # lowest start of what arrived late, if any_reordered
    uint32_t rate_end            # of the newest segment it covers
    uint64_t prior_delivered     # congestion_t.delivered before
    uint64_t prior_lost          # recovery_t.lost_ever before
    int64_t first_sent_ns        # oldest and newest transmission among what was sent once and is acknowledged; 0: none
    int64_t last_sent_ns
    int64_t again_sent_ns        # oldest among the last transmissions of what was sent twice and is acknowledged
    int64_t sack_sent_ns         # oldest among what is newly selectively acknowledged
    uint64_t rate_delivered      # of the newest segment: congestion_t.delivered when it was sent; rate_ns 0: none
    uint64_t rate_lost
    int64_t rate_ns
    int64_t rate_interval_ns
    uint32_t rate_in_flight
    uint32_t tsecr               # echoed timestamp; has_ts
    uint32_t delivered           # segments newly acknowledged, in either way
    uint32_t ce_bytes            # of what is newly delivered, bytes that met congestion
    unsigned char any_reordered
    unsigned char rate_app_limited
    unsigned char has_ts


cdef void note_delivery(tcb_t *tcb, sent_t *r, ack_t *a) noexcept nogil        # for the delivery rate
cdef void check_reordering(tcb_t *tcb, uint32_t low) noexcept nogil
cdef void recovery_remove_duplicates(tcb_t *tcb, uint32_t acked, uint32_t segments) noexcept nogil   # without SACK
cdef void recovery_alert(tcb_t *tcb, ack_t *a) noexcept nogil                  # an acknowledgement out of the ordinary
cdef void recovery_probe_answered(tcb_t *tcb, const ack_t *a, uint32_t ack) noexcept nogil
cdef void recovery_reduce(tcb_t *tcb, uint32_t delivered, uint32_t lost, uint32_t flags) noexcept nogil    # PRR
cdef void recovery_on_timeout(tcb_t *tcb) noexcept nogil                       # the RTO
cdef void recovery_on_reorder_timer(tcb_t *tcb) noexcept nogil
cdef void recovery_on_ecn(tcb_t *tcb) noexcept nogil                           # ECE: a window's reduction, once per window
cdef void recovery_resend(tcb_t *tcb) noexcept nogil                           # segments in flight are too large for the path
