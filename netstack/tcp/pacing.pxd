"""Pacing: a connection with a rate sends bursts of about a millisecond, each when the one before has drained.

A connection without a rate is asked nothing but ``cc.pacing_rate == 0``. Whose rate it is says ``congestion/controller``.
"""

from libc.stdint cimport uint32_t

from netstack.tcp.tcb cimport tcb_t


cdef bint pacing_holds(tcb_t *tcb) noexcept nogil                 # not now: the timer goes on with it
cdef void pacing_sent(tcb_t *tcb, uint32_t bytes) noexcept nogil  # payload left
