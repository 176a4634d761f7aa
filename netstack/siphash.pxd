"""SipHash (Aumasson & Bernstein), the keyed hash of tables, initial sequence numbers, ports and cookies.

SipHash-1-3, one compression and three finalisation rounds, as hash tables of others use it; SipHash-2-4, the cautious
variant, where what it says is told to the peer to be shown again. Input is whole 64-bit words.
"""

from libc.stdint cimport uint64_t


cdef inline uint64_t rotl64(uint64_t x, int r) noexcept nogil:
    return (x << r) | (x >> (64 - r))


cdef inline void sip_round(uint64_t *v) noexcept nogil:
    v[0] += v[1]
    v[1] = rotl64(v[1], 13) ^ v[0]
    v[0] = rotl64(v[0], 32)
    v[2] += v[3]
    v[3] = rotl64(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = rotl64(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = rotl64(v[1], 17) ^ v[2]
    v[2] = rotl64(v[2], 32)


cdef inline uint64_t siphash_rounds(const uint64_t *key, const uint64_t *words, int n, int compress,
                                    int finish) noexcept nogil:
    """Keyed hash of *n* 64-bit words."""
    cdef uint64_t v[4]
    cdef int i, k
    v[0] = key[0] ^ <uint64_t> 0x736f6d6570736575
    v[1] = key[1] ^ <uint64_t> 0x646f72616e646f6d
    v[2] = key[0] ^ <uint64_t> 0x6c7967656e657261
    v[3] = key[1] ^ <uint64_t> 0x7465646279746573
    for i in range(n):
        v[3] ^= words[i]
        for k in range(compress):
            sip_round(v)
        v[0] ^= words[i]
    v[3] ^= (<uint64_t> n) << 59
    for k in range(compress):
        sip_round(v)
    v[0] ^= (<uint64_t> n) << 59
    v[2] ^= 0xff
    for k in range(finish):
        sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


cdef inline uint64_t siphash(const uint64_t *key, const uint64_t *words, int n) noexcept nogil:
    return siphash_rounds(key, words, n, 1, 3)


cdef inline uint64_t siphash_2_4(const uint64_t *key, const uint64_t *words, int n) noexcept nogil:
    return siphash_rounds(key, words, n, 2, 4)


cdef inline uint64_t random_next(uint64_t *state) noexcept nogil:
    """xoroshiro128+: repeatable randomness that nobody outside sees whole (ports, jitter), never a secret itself."""
    cdef uint64_t a = state[0], b = state[1], out = a + b
    b ^= a
    state[0] = rotl64(a, 24) ^ b ^ (b << 16)
    state[1] = rotl64(b, 37)
    return out
