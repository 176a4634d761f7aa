"""What the acknowledgement in a segment does (RFC 9293 section 3.10.7.4, fifth step; RFC 2018; RFC 5681)."""

from netstack.tcp.tcb cimport segment_t, tcb_t


cdef void acknowledge(tcb_t *tcb, segment_t *seg) noexcept nogil      # SND.UNA <= SEG.ACK <= SND.NXT, sum good
cdef void acknowledge_overtaken(tcb_t *tcb, segment_t *seg) noexcept nogil    # SEG.ACK < SND.UNA, with SACK blocks
