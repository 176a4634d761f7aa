"""What is in flight: a record per segment, in the order of sequence numbers and in the order of sending."""

from libc.stdint cimport uint32_t, uint8_t

from netstack.tcp.tcb cimport SENT_AGAIN, SENT_LISTED, SENT_LOST, SENT_SACKED, recovery_t, sent_t, tcb_t, tcp_t


cdef enum:
    NONE = 0xffffffff            # no neighbour in the order of sending


cdef inline sent_t *sent_at(const tcb_t *tcb, uint32_t i) noexcept nogil:
    """The i-th record from snd_una on."""
    return &tcb.rec.sent[(tcb.rec.sent_first + i) & (tcb.rec.sent_capacity - 1)]


cdef inline uint32_t in_flight(const tcb_t *tcb) noexcept nogil:
    """Bytes believed to be in the network (RFC 6675's pipe)."""
    return tcb.snd_nxt - tcb.snd_una - tcb.rec.sacked - tcb.rec.lost + tcb.rec.again


cdef bint scoreboard_reserve(tcb_t *tcb) noexcept nogil                  # room for one more; False: no memory
cdef sent_t *scoreboard_append(tcb_t *tcb, uint32_t start, uint32_t end) noexcept nogil    # after scoreboard_reserve
cdef void scoreboard_again(tcb_t *tcb, sent_t *r) noexcept nogil         # it is sent again now
cdef void scoreboard_pop(tcb_t *tcb) noexcept nogil                      # the first was acknowledged
cdef void scoreboard_trim(tcb_t *tcb, uint32_t una) noexcept nogil       # a part of the first was
cdef bint recovery_reserve(tcb_t *tcb) noexcept nogil                    # False: no memory
cdef void recovery_release(tcb_t *tcb) noexcept nogil
cdef void recovery_free_spares(tcp_t *tcp) noexcept nogil
cdef uint32_t scoreboard_find(const tcb_t *tcb, uint32_t seq) noexcept nogil    # the first whose end lies beyond seq; or the count
cdef uint32_t scoreboard_skip(tcb_t *tcb, uint32_t i) noexcept nogil             # the first from the i-th on that has not arrived; or the count
cdef sent_t *scoreboard_next_lost(tcb_t *tcb) noexcept nogil             # the first that waits to be sent again, or NULL
cdef void mark_lost(tcb_t *tcb, sent_t *r) noexcept nogil
cdef void mark_lost_below(tcb_t *tcb, uint32_t threshold) noexcept nogil  # RFC 6675: so many have arrived above it
cdef void mark_sacked(tcb_t *tcb, sent_t *r) noexcept nogil
cdef void unmark_sacked(tcb_t *tcb, sent_t *r) noexcept nogil
cdef void unmark_all_lost(tcb_t *tcb) noexcept nogil
cdef void forget_again(tcb_t *tcb, sent_t *r) noexcept nogil             # its retransmission is not in flight any more
cdef bint scoreboard_cut(tcb_t *tcb, uint32_t limit) noexcept nogil      # no record longer than limit; False: no memory
