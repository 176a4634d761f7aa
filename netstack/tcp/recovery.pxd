"""When and what to send again: NewReno (RFC 6582) and the timeout (RFC 6298 section 5)."""

from libc.stdint cimport uint32_t

from netstack.tcp.tcb cimport tcb_t


cdef uint32_t flight_size(const tcb_t *tcb) noexcept nogil
cdef void recovery_on_duplicate(tcb_t *tcb) noexcept nogil                     # a duplicate acknowledgement
cdef void recovery_on_ack(tcb_t *tcb, uint32_t acked) noexcept nogil           # snd_una has moved by acked
cdef void recovery_on_timeout(tcb_t *tcb) noexcept nogil
cdef void recovery_resend(tcb_t *tcb) noexcept nogil                           # segments in flight are too large for the path
