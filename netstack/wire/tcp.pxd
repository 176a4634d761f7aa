"""TCP header on the wire (RFC 9293 section 3.1) and the options we speak."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from netstack.counters cimport DropReason

cdef enum:
    FASTOPEN_COOKIE_MAX = 16     # bytes, RFC 7413 section 4.1.1; at least 4, and even
    NO_FASTOPEN = 255


cdef enum:
    NO_ACCECN = 255              # accecn_fields: no such option
    ACCECN_FIELDS = 3            # counters an AccECN option can have (RFC 9768 section 3.2.3)


cdef struct wire_range_t:
    uint32_t start
    uint32_t end


cdef struct tcp_header_t:
    uint16_t sport               # host order, all
    uint16_t dport
    uint32_t seq
    uint32_t ack
    uint32_t wnd
    uint16_t urgent
    uint16_t flags               # the low eight, and AE (RFC 9768 section 3.1) as 0x100
    uint8_t header_length        # bytes, options included
    # options
    uint8_t has_ts
    uint8_t wscale               # shift, 255: none
    uint8_t sack_permitted
    uint8_t sack_count
    uint16_t mss                 # 0: none
    uint32_t tsval
    uint32_t tsecr
    wire_range_t sack[4]
    uint8_t accecn_fields        # NO_ACCECN: no AccECN option; else how many of its counters follow
    uint8_t accecn_order         # 0: ECT(0), CE, ECT(1); 1: ECT(1), CE, ECT(0)
    uint32_t accecn[3]           # 24 bits each, in the order on the wire
    uint8_t fastopen_length      # bytes of a Fast Open cookie (RFC 7413 section 4.1.1), 0: it is asked for; 255: no such option
    uint8_t fastopen_experimental            # as kind 254 (RFC 7413 appendix B)
    uint8_t fastopen[FASTOPEN_COOKIE_MAX]


cdef struct tcp_options_t:
    # What to write. Order and padding are Linux's (the profile of the project).
    uint16_t mss                 # 0: leave out; only on SYN
    uint8_t wscale               # 255: leave out; only on SYN
    uint8_t sack_permitted
    uint8_t has_ts
    uint8_t sack_count
    uint8_t accecn_fields        # NO_ACCECN: leave out; always written in order 1
    uint32_t tsval
    uint32_t tsecr
    wire_range_t sack[4]
    uint32_t accecn[3]           # ECT(1), CE, ECT(0); the low 24 bits
    uint8_t fastopen_length      # 255: leave out; only on SYN
    uint8_t fastopen_experimental
    uint8_t fastopen[FASTOPEN_COOKIE_MAX]


# p: private copy; available: bytes of it; segment_length: TCP header plus payload.
cdef DropReason parse_tcp(const uint8_t *p, uint32_t available, uint32_t segment_length, tcp_header_t *out) noexcept nogil
cdef void parse_tcp_options(const uint8_t *p, uint32_t n, tcp_header_t *out) noexcept nogil
cdef uint32_t tcp_options_length(const tcp_options_t *o) noexcept nogil
cdef uint32_t write_tcp_options(uint8_t *p, const tcp_options_t *o) noexcept nogil     # bytes written, a multiple of 4
# 20 bytes, checksum field zero
cdef void write_tcp(uint8_t *p, uint16_t sport, uint16_t dport, uint32_t seq, uint32_t ack, uint8_t header_length,
                    uint16_t flags, uint16_t wnd) noexcept nogil
