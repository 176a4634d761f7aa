"""Algorithms written in Python: the compiled half.

The packet path folds what it sees into a report and never calls Python. Once a round trip (or at every acknowledgement,
folded over what came meanwhile) the report joins its stack's queue; whoever holds the interpreter next empties that with
``plugins_run``: a `Stack` at the end of its own call, a simulation between two of its steps, a Host's stacks one thread of their
own (``driver``), which also serves connections that only the standby thread works for.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from cpython.ref cimport PyObject

from netstack.address cimport address_t
from netstack.tcp.tcb cimport congestion_ops_t, tcb_t, tcp_t


cdef struct report_t:            # what happened since the last report
    int64_t start_ns
    int64_t now_ns
    int64_t rtt_sum_ns
    int64_t rtt_min_ns           # 0: no sample
    int64_t rtt_last_ns
    int64_t rate_interval_ns     # of the best delivery rate; 0: none
    uint64_t rate_delivered
    uint64_t acked
    uint64_t sacked
    uint64_t lost
    uint64_t ce_bytes
    uint32_t rtt_count
    uint32_t acks
    uint32_t losses              # episodes
    uint32_t timeouts
    uint32_t ecn                 # windows with ECE
    uint32_t undone
    uint32_t in_flight
    uint8_t app_limited
    uint8_t cwnd_limited
    uint8_t in_recovery
    # as they stood when the report was taken
    uint32_t cwnd
    uint32_t ssthresh
    uint32_t mss
    uint64_t pacing_rate
    int64_t srtt_ns
    int64_t min_rtt_ns


cdef struct kind_t:              # a registered class
    congestion_ops_t ops         # first
    char name[16]
    uint32_t beta                # of 1024: left of the window after a loss, until Python says more
    uint8_t per_ack
    PyObject *algorithm


cdef struct plugin_t:            # one connection's
    tcb_t *tcb                   # NULL: the connection is over, or went on with another algorithm
    tcp_t *tcp
    const kind_t *kind
    PyObject *instance
    address_t local              # of the connection, which may be over when Python asks
    address_t remote
    uint16_t lport
    uint16_t rport
    plugin_t *next
    report_t report
    uint32_t round_end           # congestion_t.delivered, low 32 bits
    uint8_t queued
    uint8_t silent               # round trips that the report has waited


cdef struct decision_t:
    uint32_t cwnd                # 0: leave it
    uint32_t ssthresh
    uint64_t pacing_rate
    uint64_t earned              # what the report says was delivered
    uint32_t nonsense            # values that are no window at all


cdef plugin_t *plugin_take(tcp_t *tcp, report_t *out) noexcept nogil     # the oldest with something to say; NULL: none
cdef bint plugin_decide(plugin_t *p, const report_t *r, decision_t *out)  # calls Python; False: it failed and is logged
cdef void plugin_apply(plugin_t *p, const decision_t *d) noexcept nogil
cdef void plugin_fail(plugin_t *p) noexcept nogil                        # its connection goes on with the default
cdef void plugin_discard(plugin_t *p)                                    # tcb is NULL
cdef void plugins_run(tcp_t *tcp)                                        # everything queued; the caller alone has the stack
cdef void plugins_drop(tcp_t *tcp)                                       # the stack ends: its connections are freed already
