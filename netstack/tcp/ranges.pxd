"""Out-of-order data as a small sorted array of sequence ranges."""

from libc.stdint cimport uint32_t

from netstack.tcp.tcb cimport range_t, tcb_t


cdef int range_insert(tcb_t *tcb, uint32_t start, uint32_t end) noexcept nogil   # 0, -1: at the cap or no memory
cdef void range_absorb(tcb_t *tcb) noexcept nogil                               # what rcv_nxt has reached becomes readable
cdef int sack_blocks(const tcb_t *tcb, range_t *blocks, int room) noexcept nogil  # what to report; how many
