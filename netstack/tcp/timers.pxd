"""Timers of a stack's connections: one heap entry per connection, corrected lazily."""

from libc.stdint cimport int64_t

from netstack.tcp.tcb cimport tcb_t, tcp_t


cdef void timer_update(tcb_t *tcb) noexcept nogil                 # after any deadline of the connection changed
cdef void timer_remove(tcb_t *tcb) noexcept nogil
cdef int64_t timers_next(tcp_t *tcp) noexcept nogil               # exact; NEVER when none runs
cdef tcb_t *timers_due(tcp_t *tcp, int64_t now_ns) noexcept nogil # the connection with the earliest deadline <= now
cdef void timers_free(tcp_t *tcp) noexcept nogil


cdef inline void timer_note(tcb_t *tcb, int64_t deadline) noexcept nogil:
    """timer_update where only this deadline changed: nothing to do unless it is the earliest now."""
    if not tcb.heap_index or deadline < tcb.timer_deadline:
        timer_update(tcb)
