"""The algorithms by name, and what the core does with the one of a connection.

The core never calls an algorithm's functions itself: it calls ``congestion_ack``, ``congestion_loss``, ... here, which know
what may be NULL, keep what undo needs, and hold the result inside the guard rails: at least one segment, at most
``cwnd_clamp``, no growth beyond what acknowledgements pay for. What they had to correct counts as ``congestion_clamped``.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from netstack.tcp.tcb cimport (
    CC_PACED, TM_CC_ACTIVE, TM_PACED, congestion_ops_t, congestion_t, rate_sample_t, tcb_t,
)

cdef enum:
    CWND_MAX = 1 << 30           # bytes: the largest window TCP can use (RFC 7323 section 2.3); as ssthresh: none yet
    CONGESTION_NAME = 16         # bytes of a name, its zero included (TCP_CA_NAME_MAX)
    CONGESTION_MAX = 128         # algorithms a process can have


cdef int congestion_register(const congestion_ops_t *ops) except -1   # the struct stays; ValueError: name taken or bad, ops missing
cdef const congestion_ops_t *congestion_find(const char *name) noexcept nogil     # NULL: no such algorithm
cdef const congestion_ops_t *congestion_at(uint32_t i) noexcept nogil             # in the order of registration; NULL: no more
cdef const congestion_ops_t *congestion_default() noexcept nogil
cdef list congestion_names()

# Life of the algorithm of one connection.
cdef void congestion_start(tcb_t *tcb, uint32_t cwnd) noexcept nogil             # established: tcb.cc_ops begins
cdef void congestion_switch(tcb_t *tcb, const congestion_ops_t *ops) noexcept nogil   # at any time; cwnd and ssthresh stay
cdef void congestion_stop(tcb_t *tcb) noexcept nogil                              # the connection ends; twice is allowed
# From a snapshot: the fields of tcb.cc are back, extended are the bytes saved. False: it fell back to a fresh start.
cdef bint congestion_reload(tcb_t *tcb, const void *extended, uint32_t size, int64_t shift_ns) noexcept nogil
cdef void congestion_set_paced(tcb_t *tcb) noexcept nogil                         # a setting of pacing changed

# Behind the inline functions below.
cdef void congestion_guard(tcb_t *tcb, uint32_t before, uint64_t earned) noexcept nogil
cdef void congestion_remember(tcb_t *tcb) noexcept nogil
cdef void congestion_set_rate(tcb_t *tcb) noexcept nogil
cdef void congestion_undo(tcb_t *tcb) noexcept nogil      # the last reduction was spurious


cdef inline tcb_t *tcb_of(congestion_t *cc) noexcept nogil:
    """The connection around a congestion_t: it always stands in its tcb_t."""
    cdef tcb_t t
    return <tcb_t *> (<char *> cc - (<char *> &t.cc - <char *> &t))


cdef inline void congestion_ack(tcb_t *tcb, const rate_sample_t *rs) noexcept nogil:
    """An acknowledgement, or a batch of them, as the algorithm sees it."""
    cdef uint32_t before = tcb.cc.cwnd
    tcb.cc_ops.on_ack(&tcb.cc, rs)
    if tcb.cc.cwnd != before:
        congestion_guard(tcb, before, <uint64_t> rs.acked + rs.sacked)
    if tcb.modes & TM_PACED:
        congestion_set_rate(tcb)


cdef inline void congestion_loss(tcb_t *tcb, uint32_t in_flight) noexcept nogil:
    """Once at the start of a loss episode. Sets ssthresh, and cwnd to it; who regulates cwnd in recovery goes on from there."""
    cdef uint32_t before = tcb.cc.cwnd
    congestion_remember(tcb)
    if tcb.cc_ops.on_loss != NULL:
        tcb.cc_ops.on_loss(&tcb.cc, in_flight, tcb.tcp.now_ns)
    congestion_guard(tcb, before, 0)


cdef inline void congestion_rto(tcb_t *tcb, uint32_t in_flight) noexcept nogil:
    """The first timeout of an episode."""
    cdef uint32_t before = tcb.cc.cwnd
    congestion_remember(tcb)
    if tcb.cc_ops.on_rto != NULL:
        tcb.cc_ops.on_rto(&tcb.cc, in_flight, tcb.tcp.now_ns)
    else:
        tcb.cc.cwnd = tcb.cc.mss
    congestion_guard(tcb, before, 0)


cdef inline void congestion_ecn(tcb_t *tcb, uint32_t in_flight) noexcept nogil:
    """Congestion was signalled by ECN: at most once per window."""
    cdef uint32_t before = tcb.cc.cwnd
    if tcb.cc_ops.on_ecn == NULL:
        congestion_loss(tcb, in_flight)
        return
    congestion_remember(tcb)
    tcb.cc_ops.on_ecn(&tcb.cc, in_flight, tcb.tcp.now_ns)
    congestion_guard(tcb, before, 0)


cdef inline void congestion_recovered(tcb_t *tcb) noexcept nogil:
    """The episode is over."""
    cdef uint32_t before = tcb.cc.cwnd
    if tcb.cc_ops.on_recovered != NULL:
        tcb.cc_ops.on_recovered(&tcb.cc, tcb.tcp.now_ns)
        congestion_guard(tcb, before, 0)


cdef inline void congestion_idle(tcb_t *tcb, int64_t idle_ns) noexcept nogil:
    """Data is about to be sent after a silence longer than the RTO."""
    cdef uint32_t before = tcb.cc.cwnd
    if tcb.cc_ops.after_idle != NULL:
        tcb.cc_ops.after_idle(&tcb.cc, idle_ns, tcb.rto_ns)
        congestion_guard(tcb, before, 0)


cdef inline void congestion_sent(tcb_t *tcb, uint32_t bytes, uint32_t in_flight) noexcept nogil:
    """Payload went out. in_flight: before it."""
    if tcb.cc_ops.on_sent != NULL:
        tcb.cc_ops.on_sent(&tcb.cc, bytes, in_flight, tcb.tcp.now_ns)
