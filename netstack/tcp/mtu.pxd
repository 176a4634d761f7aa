"""How large a segment the path takes: what ICMP says (RFC 1191, RFC 5927) and what probes find out (RFC 4821, RFC 8899)."""

from libc.stdint cimport uint32_t

from netstack.tcp.tcb cimport tcb_t


cdef void mtu_start(tcb_t *tcb) noexcept nogil                       # tcb.mss is what both SYNs allow
cdef bint mtu_reported(tcb_t *tcb, uint32_t mtu, uint32_t seq) noexcept nogil    # "fragmentation needed"; True: believed
cdef uint32_t mtu_probe_limit(tcb_t *tcb, uint32_t limit, uint32_t available, uint32_t room) noexcept nogil
cdef void mtu_probe_sent(tcb_t *tcb, uint32_t start, uint32_t end) noexcept nogil
cdef void mtu_probe_arrived(tcb_t *tcb) noexcept nogil
cdef void mtu_probe_lost(tcb_t *tcb) noexcept nogil
cdef bint mtu_black_hole(tcb_t *tcb) noexcept nogil                  # several timeouts in a row; True: segments became smaller
cdef void mtu_refresh(tcb_t *tcb) noexcept nogil                     # what was believed may have grown old
