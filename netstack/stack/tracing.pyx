"""Records of what connections did; see tracing.pxd."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, memset

from netstack.stack.tcp_info cimport ca_state
from netstack.tcp.scoreboard cimport in_flight


cdef trace_event_t *next_event(trace_t *trace, const tcb_t *tcb) noexcept nogil:
    cdef trace_event_t *e = &trace.events[trace.count % trace.capacity]
    trace.count += 1
    memset(e, 0, sizeof(trace_event_t))
    e.t_ns = tcb.tcp.now_ns
    e.srtt_ns = tcb.srtt_ns
    e.pacing_rate = tcb.cc.pacing_rate
    e.id = tcb.sock.id
    e.snd_una = tcb.snd_una
    e.snd_nxt = tcb.snd_nxt
    e.in_flight = in_flight(tcb)
    e.cwnd = tcb.cc.cwnd
    e.ssthresh = tcb.cc.ssthresh
    e.ca_state = ca_state(tcb)
    e.lport = tcb.lport
    e.rport = tcb.rport
    memcpy(e.local, &tcb.local, 16)
    memcpy(e.remote, &tcb.remote, 16)
    return e


cdef void trace_sent(trace_t *trace, const tcb_t *tcb, const plan_t *plan) noexcept nogil:
    cdef trace_event_t *e = next_event(trace, tcb)
    e.kind = TRACE_SENT
    e.seq = plan.seq
    e.ack = tcb.rcv_nxt
    e.length = plan.length
    e.window = tcb.rcv_adv - tcb.rcv_nxt
    e.flags = <uint8_t> plan.flags
    e.again = plan.retransmit
    if plan.options.sack_count:
        e.sack_start = plan.options.sack[0].start
        e.sack_end = plan.options.sack[0].end


cdef void trace_received(trace_t *trace, const tcb_t *tcb, const segment_t *seg) noexcept nogil:
    cdef trace_event_t *e = next_event(trace, tcb)
    e.kind = TRACE_RECEIVED
    e.seq = seg.seq
    e.ack = seg.ack
    e.length = seg.length
    e.window = tcb.snd_wnd
    e.flags = <uint8_t> seg.flags
    if seg.sack_count:
        e.sack_start = seg.sack[0].start
        e.sack_end = seg.sack[0].end


cdef trace_t *trace_new(uint32_t capacity) noexcept nogil:
    cdef trace_t *trace = <trace_t *> calloc(1, sizeof(trace_t) + (<size_t> capacity - 1) * sizeof(trace_event_t))
    if trace != NULL:
        trace.capacity = capacity
    return trace


cdef bytes trace_bytes(const trace_t *trace):
    cdef const char *base = <const char *> trace.events
    cdef size_t size = sizeof(trace_event_t)
    cdef uint64_t first = trace.count % trace.capacity
    if trace.count <= trace.capacity:
        return base[:<Py_ssize_t> (trace.count * size)]
    return base[<Py_ssize_t> (first * size):<Py_ssize_t> (trace.capacity * size)] + base[:<Py_ssize_t> (first * size)]
