"""What connections did, segment by segment, with their congestion control's variables: a ring of records in memory.

Off, it costs one comparison a segment; on, a few stores. `netstack.trace.Trace` reads the records.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.tcp.output cimport plan_t
from netstack.tcp.tcb cimport segment_t, tcb_t

cdef enum:                       # trace_event_t.kind
    TRACE_SENT = 1
    TRACE_RECEIVED = 2


cdef struct trace_event_t:
    # Host byte order, no padding: `netstack.trace.EVENT` reads it. Variables are those after the event.
    int64_t t_ns
    int64_t srtt_ns
    uint64_t pacing_rate         # bytes per second; 0: not paced
    uint32_t id                  # sock_t.id
    uint32_t seq                 # of the segment
    uint32_t ack
    uint32_t length              # payload bytes
    uint32_t window              # the peer's, bytes, scaled, as it stands; of a segment sent: ours
    uint32_t snd_una
    uint32_t snd_nxt
    uint32_t in_flight           # bytes believed to be in the network
    uint32_t cwnd                # bytes
    uint32_t ssthresh
    uint32_t sack_start          # the first block; both 0: none
    uint32_t sack_end
    uint16_t lport
    uint16_t rport
    uint8_t kind
    uint8_t flags                # of the segment
    uint8_t ca_state             # as in TCP_INFO
    uint8_t again                # sent before
    uint8_t local[16]
    uint8_t remote[16]


cdef struct trace_t:
    uint64_t count               # events so far; the last `capacity` of them are kept
    uint32_t capacity
    trace_event_t events[1]      # really `capacity` of them


cdef void trace_sent(trace_t *trace, const tcb_t *tcb, const plan_t *plan) noexcept nogil
cdef void trace_received(trace_t *trace, const tcb_t *tcb, const segment_t *seg) noexcept nogil
cdef trace_t *trace_new(uint32_t capacity) noexcept nogil                          # the caller's to free; NULL: no memory
cdef bytes trace_bytes(const trace_t *trace)                                     # the events kept, oldest first
