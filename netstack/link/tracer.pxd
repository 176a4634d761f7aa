"""Binary event records of the frames of a link, in a plain buffer."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.link.tee cimport tee_t
from netstack.link.wrapper cimport Wrapper


cdef struct trace_record_t:      # 64 bytes; numbers in host byte order
    int64_t t_ns
    uint32_t length              # of the frame, bytes
    uint8_t direction            # 1 in, 2 out
    uint8_t version              # of IP; 0 when the frame is no IP packet
    uint8_t protocol             # of the transport
    uint8_t flags                # of TCP
    uint16_t sport               # TCP, UDP; ICMP: type and code
    uint16_t dport
    uint32_t seq
    uint32_t ack
    uint16_t window              # of TCP, unscaled
    uint16_t payload             # of TCP or UDP, bytes
    uint8_t src[16]              # IPv4 as ::ffff:a.b.c.d
    uint8_t dst[16]


cdef struct trace_t:
    tee_t tee                    # first
    trace_record_t *records
    uint32_t capacity
    uint64_t count               # records ever written; the buffer holds the last ones


cdef class Tracer(Wrapper):
    cdef trace_t state
