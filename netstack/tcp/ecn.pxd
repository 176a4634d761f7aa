"""Explicit Congestion Notification: classic (RFC 3168) and accurate (AccECN, RFC 9768), as a handshake chose.

A connection without it pays for ``tcb.ecn_mode`` being looked at, and nothing else.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from netstack.tcp.output cimport plan_t
from netstack.tcp.recovery cimport ack_t
from netstack.tcp.tcb cimport (
    AE, CWR, ECE, ECN_ACCURATE, ECN_CLASSIC, ECN_FAIL_OPTION_SEND, EF_QUEUE_CWR, OPTION_UNSEEN, congestion_ops_t, request_t, segment_t,
    tcb_t, tcp_t,
)
from netstack.wire.tcp cimport NO_ACCECN

cdef enum:
    ACE_FLAGS = AE | CWR | ECE   # read together they are a field of three bits
    ACE_START = 5                # what r.cep and s.cep count from (RFC 9768 section 3.2.1)
    OPTION_SPACE = 12            # the AccECN option with all its counters, padded


cdef inline uint32_t ace_of(uint16_t flags) noexcept nogil:
    """AE, CWR, ECE as a number."""
    return flags >> 6 & 7


cdef inline uint16_t ace_flags(uint32_t ace) noexcept nogil:
    return <uint16_t> ((ace & 7) << 6)


# What a SYN with these flags and this IP codepoint gets: ECN_*. setting: tcp_ecn; needed: the algorithm asks for ECN. No
# connection is needed for any of these three: they are also what SYN cookies answer by.
cdef uint8_t ecn_syn_mode(uint8_t setting, bint needed, uint16_t flags, uint8_t codepoint) noexcept nogil
# The flags of the SYN,ACK for that mode; codepoint: of the SYN.
cdef uint16_t ecn_syn_answer(uint8_t mode, uint8_t codepoint) noexcept nogil
# The mode that the last ACK of a handshake proves, of which only "some ECN was agreed" is remembered (RFC 9768 section 5.1).
cdef uint8_t ecn_cookie_mode(bint agreed, uint16_t flags) noexcept nogil

# State is there for connections that asked for ECN or agreed to it only.
cdef bint ecn_reserve(tcb_t *tcb) noexcept nogil                             # cleared; False: no memory
cdef void ecn_release(tcb_t *tcb) noexcept nogil

# The handshake.
cdef void ecn_open(tcb_t *tcb) noexcept nogil                                # before our SYN
cdef void ecn_from_request(tcb_t *tcb, const request_t *r) noexcept nogil    # a listener's child; of ECN it has reserved
cdef void ecn_syn_again(tcb_t *tcb, const segment_t *seg) noexcept nogil     # the peer has sent it again
# Of a half-open connection.
cdef void ecn_request(request_t *r, const segment_t *seg, const congestion_ops_t *ops) noexcept nogil
cdef void ecn_request_again(request_t *r, const segment_t *seg) noexcept nogil
cdef uint16_t ecn_request_flags(const tcp_t *tcp, const request_t *r) noexcept nogil    # of its SYN,ACK
cdef void ecn_syn_crossed(tcb_t *tcb, const segment_t *seg) noexcept nogil   # simultaneous open
cdef void ecn_syn_answered(tcb_t *tcb, const segment_t *seg) noexcept nogil  # SYN,ACK in SYN-SENT
cdef void ecn_answer_again(tcb_t *tcb, const segment_t *seg) noexcept nogil  # SYN,ACK of an established connection
cdef void ecn_established(tcb_t *tcb, const segment_t *seg) noexcept nogil   # the segment that ends SYN-RECEIVED
cdef uint16_t ecn_syn_flags(const tcb_t *tcb) noexcept nogil                 # of our SYN or SYN,ACK
cdef bint ecn_syn_option(const tcb_t *tcb, bint again) noexcept nogil        # whether our SYN,ACK has the option

# Segments, only with ecn_mode.
cdef void ecn_received(tcb_t *tcb, const segment_t *seg) noexcept nogil      # acceptable; before rcv_nxt moves
cdef void ecn_acknowledged(tcb_t *tcb, const segment_t *seg, ack_t *a) noexcept nogil
cdef void ecn_duplicate(tcb_t *tcb, uint32_t start) noexcept nogil           # data that had been acknowledged came again
cdef void ecn_plan(tcb_t *tcb, plan_t *plan) noexcept nogil                  # last of what decides on a segment
cdef void ecn_sent(tcb_t *tcb, const plan_t *plan) noexcept nogil
cdef bint ecn_beacon(const tcb_t *tcb) noexcept nogil
cdef uint16_t ecn_ack_flags(const tcb_t *tcb) noexcept nogil                 # what an acknowledgement says beside ACK
cdef uint8_t ecn_ack_codepoint(const tcb_t *tcb) noexcept nogil


cdef inline bint ecn_option_due(const tcb_t *tcb) noexcept nogil:
    """Whether the next segment is to carry the option. Requires: AccECN."""
    cdef uint8_t setting = tcb.tcp.config.ecn_option
    if setting == 0 or tcb.ecn.option_seen == OPTION_UNSEEN or tcb.ecn.fail & ECN_FAIL_OPTION_SEND:
        return False
    return setting >= 2 or tcb.ecn.option_demand != 0 or ecn_beacon(tcb)


cdef inline uint32_t ecn_limit(const tcb_t *tcb, uint32_t limit) noexcept nogil:
    """Payload of a full segment of new data, the option's space taken off *limit*."""
    return limit - OPTION_SPACE if tcb.ecn_mode == ECN_ACCURATE and limit > OPTION_SPACE and ecn_option_due(tcb) else limit


cdef inline void ecn_reduced(tcb_t *tcb) noexcept nogil:
    """The window was reduced, for whatever reason: the next new data tells it (RFC 3168 section 6.1.2)."""
    if tcb.ecn_mode == ECN_CLASSIC:
        tcb.ecn.flags |= EF_QUEUE_CWR


cdef inline void ecn_restored(tcb_t *tcb) noexcept nogil:
    """It was taken back before that."""
    if tcb.ecn_mode == ECN_CLASSIC:
        tcb.ecn.flags &= ~<uint8_t> EF_QUEUE_CWR
