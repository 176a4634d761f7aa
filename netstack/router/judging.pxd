"""What a segment says about the ends of its connection: who broke which rule of TCP."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from netstack.router.packet cimport packet_t
from netstack.router.port cimport port_t
from netstack.router.watched cimport half_t, watched_t

cdef enum:
    NOBODY = -1                      # else a Misdeed
    NO_SHIFT = 255
    FIN = 1                          # flags
    SYN = 2
    RST = 4
    ACK = 16


cdef struct seen_t:                  # a segment that was looked at
    uint64_t key[5]
    const uint8_t *tcp               # its header
    uint32_t at                      # where that begins in the packet
    uint32_t headers                 # where it ends
    uint32_t payload                 # bytes
    uint32_t seq
    uint32_t ack
    uint32_t window                  # as written
    uint32_t side                    # which half of the connection it is of
    uint8_t flags


cdef void judge_syn(watched_t *w, const seen_t *s, port_t *src, const packet_t *p) noexcept nogil
cdef void judge_reset(watched_t *w, const seen_t *s) noexcept nogil
cdef int judge_data(watched_t *w, const seen_t *s, const port_t *src, const packet_t *p, int64_t now_ns) noexcept nogil
cdef int judge_ack(watched_t *w, const seen_t *s, const packet_t *p) noexcept nogil
cdef void note_delivered(watched_t *w, const seen_t *s) noexcept nogil
cdef void note_dropped(watched_t *w, const seen_t *s) noexcept nogil


cdef inline uint32_t length_of(const seen_t *s) noexcept nogil:
    """In sequence numbers."""
    return s.payload + (s.flags & FIN != 0) + (s.flags & SYN != 0)


cdef inline uint32_t shift_of(const watched_t *w, int side) noexcept nogil:
    """Of the windows that an end offers after its SYN: none where one of both did not offer to scale (RFC 7323 section 2.2)."""
    if w.halves[0].shift == NO_SHIFT or w.halves[1].shift == NO_SHIFT:
        return 0
    return w.halves[side].shift if w.halves[side].shift < 14 else 14
