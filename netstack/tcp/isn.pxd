"""What an attacker must not guess: initial sequence numbers (RFC 6528), ports (RFC 6056), timestamp offsets (RFC 7323 section 7)."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from netstack.address cimport address_t
from netstack.siphash cimport siphash
from netstack.tcp.tcb cimport tcb_t, tcp_t


cdef inline uint64_t tuple_hash(const uint64_t *key, const address_t *local, const address_t *remote,
                                uint16_t lport, uint16_t rport, uint32_t salt) noexcept nogil:
    """Keyed hash of a connection's four names; *salt* keeps the uses apart."""
    cdef uint64_t words[5]
    words[0] = local.hi
    words[1] = local.lo
    words[2] = remote.hi
    words[3] = remote.lo
    words[4] = (<uint64_t> salt << 32) | (<uint64_t> lport << 16) | rport
    return siphash(key, words, 5)


cdef void choose_isn(tcb_t *tcb) noexcept nogil                   # sets iss and ts_offset; needs the four names
cdef uint32_t isn_of(const tcp_t *tcp, const address_t *local, const address_t *remote, uint16_t lport,
                     uint16_t rport) noexcept nogil
cdef uint32_t timestamp_offset_of(const tcp_t *tcp, const address_t *local, const address_t *remote, uint16_t lport,
                                  uint16_t rport) noexcept nogil
cdef uint32_t timestamp_clock(const tcp_t *tcp) noexcept nogil    # 1 ms
cdef uint32_t timestamp_now(const tcb_t *tcb) noexcept nogil      # TSval: that clock plus the connection's offset
cdef uint32_t random_below(tcp_t *tcp, uint32_t n) noexcept nogil
