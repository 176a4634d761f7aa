"""A wrapper that shows every frame of both directions to a function: what pcap writer, tracer and recorder share."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.link.link cimport link_t
from netstack.link.wrapper cimport wrapper_t

cdef enum:                       # direction, the numbers of pcapng's epb_flags
    TEE_IN = 1
    TEE_OUT = 2


cdef struct tee_t:               # first member of the state of such a wrapper
    wrapper_t wrapper
    void (*on_frame)(tee_t *tee, int direction, const uint8_t *head, uint32_t head_length,
                     const uint8_t *body, uint32_t body_length) noexcept nogil
    uint8_t on                   # 0: frames pass unseen, at the cost of this comparison
    int64_t now_ns               # the latest time told; received frames carry it
    uint8_t *head                # the open claim
    uint8_t *body
    uint32_t head_length
    uint32_t body_length


cdef void tee_init(link_t *outer, tee_t *state, link_t *inner) noexcept nogil
