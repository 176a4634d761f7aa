"""A segment arrives (RFC 9293 section 3.10.7)."""

from netstack.counters cimport DropReason
from netstack.tcp.tcb cimport segment_t, tcb_t, tcp_t


cdef DropReason segment_arrives(tcb_t *tcb, segment_t *seg) noexcept nogil          # of a connection, not a listener
cdef DropReason synchronized_segment(tcb_t *tcb, segment_t *seg) noexcept nogil     # the same, with a sum that is good
# No connection and no listener has these names: 3.10.7.1. The sum is checked first.
cdef DropReason segment_for_nobody(tcp_t *tcp, segment_t *seg) noexcept nogil
cdef bint segment_verify(tcp_t *tcp, segment_t *seg) noexcept nogil
