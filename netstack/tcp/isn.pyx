"""ISN = M + F(connection, secret): monotonic for one connection, unrelated between two (RFC 6528 section 3)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from netstack.clock cimport NS_PER_MS
from netstack.siphash cimport random_next

cdef enum:
    SALT_ISN = 1
    SALT_TIMESTAMP = 2


cdef void choose_isn(tcb_t *tcb) noexcept nogil:
    """Set ``iss`` and ``ts_offset``. M ticks every 64 ns as on Linux (RFC 9293 section 3.4.1 says about 4 us)."""
    cdef uint32_t clock = <uint32_t> (<uint64_t> (tcb.tcp.now_ns + tcb.tcp.clock_shift_ns) >> 6)
    tcb.iss = clock + <uint32_t> tuple_hash(
        tcb.tcp.secret, &tcb.local, &tcb.remote, tcb.lport, tcb.rport, SALT_ISN)
    tcb.ts_offset = <uint32_t> tuple_hash(
        tcb.tcp.secret, &tcb.local, &tcb.remote, tcb.lport, tcb.rport, SALT_TIMESTAMP)


cdef uint32_t timestamp_now(const tcb_t *tcb) noexcept nogil:
    return <uint32_t> (<uint64_t> (tcb.tcp.now_ns + tcb.tcp.clock_shift_ns) // NS_PER_MS) + tcb.ts_offset


cdef uint32_t random_below(tcp_t *tcp, uint32_t n) noexcept nogil:
    """Uniform in [0, n) to within 2**-32."""
    return <uint32_t> ((<uint64_t> <uint32_t> (random_next(tcp.random) >> 32) * n) >> 32)
