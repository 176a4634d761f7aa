"""ISN = M + F(connection, secret): monotonic for one connection, unrelated between two (RFC 6528 section 3)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from netstack.clock cimport NS_PER_MS
from netstack.siphash cimport random_next

cdef enum:
    SALT_ISN = 1
    SALT_TIMESTAMP = 2


cdef uint32_t isn_of(const tcp_t *tcp, const address_t *local, const address_t *remote, uint16_t lport,
                     uint16_t rport) noexcept nogil:
    """M ticks every 64 ns as on Linux (RFC 9293 section 3.4.1 says about 4 us)."""
    cdef uint32_t clock = <uint32_t> (<uint64_t> (tcp.now_ns + tcp.clock_shift_ns) >> 6)
    return clock + <uint32_t> tuple_hash(tcp.secret, local, remote, lport, rport, SALT_ISN)


cdef uint32_t timestamp_offset_of(const tcp_t *tcp, const address_t *local, const address_t *remote, uint16_t lport,
                                  uint16_t rport) noexcept nogil:
    return <uint32_t> tuple_hash(tcp.secret, local, remote, lport, rport, SALT_TIMESTAMP)


cdef void choose_isn(tcb_t *tcb) noexcept nogil:
    tcb.iss = isn_of(tcb.tcp, &tcb.local, &tcb.remote, tcb.lport, tcb.rport)
    tcb.ts_offset = timestamp_offset_of(tcb.tcp, &tcb.local, &tcb.remote, tcb.lport, tcb.rport)


cdef uint32_t timestamp_clock(const tcp_t *tcp) noexcept nogil:
    return <uint32_t> (<uint64_t> (tcp.now_ns + tcp.clock_shift_ns) // NS_PER_MS)


cdef uint32_t timestamp_now(const tcb_t *tcb) noexcept nogil:
    return timestamp_clock(tcb.tcp) + tcb.ts_offset


cdef uint32_t random_below(tcp_t *tcp, uint32_t n) noexcept nogil:
    """Uniform in [0, n) to within 2**-32."""
    return <uint32_t> ((<uint64_t> <uint32_t> (random_next(tcp.random) >> 32) * n) >> 32)
