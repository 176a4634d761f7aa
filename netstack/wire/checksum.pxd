"""The Internet checksum and the copy that computes it, for cimport.

The words of ``netstack/inet_checksum.h``: partial sums are 32-bit ones' complement
sums of native-endian words; ``checksum_finish`` makes the check field of them, a
native-endian word to be stored as it is (``store_native16``).
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_is_link_local, address_is_v4, address_set_zone, address_t, address_v4


cdef extern from "netstack/inet_checksum.h" nogil:
    enum:
        CHECKSUM_LEVEL_BEST
        CHECKSUM_LEVEL_PLAIN
        CHECKSUM_LEVEL_AVX2
        CHECKSUM_LEVEL_AVX512
        CHECKSUM_LEVEL_AVX512VNNI
        CHECKSUM_LEVEL_NEON

    # sums and copies: each source byte is loaded once, the register summed is the one stored
    uint32_t checksum_partial(const void *p, size_t n)
    uint32_t checksum_and_copy(void *dst, const void *src, size_t n)
    uint32_t checksum_and_copy2(void *dst, void *dst2, const void *src, size_t n)
    void copy_bytes(void *dst, const void *src, size_t n)
    # dst on a 64-byte line, whole lines past the caches; the fence before publishing
    uint32_t checksum_and_copy2_nt(void *dst, void *dst2, const void *src, size_t n)
    uint32_t checksum_and_copy_nt(void *dst, const void *src, size_t n)
    void checksum_store_fence()

    # folding: combine adds b, the sum of bytes that start at `offset` of the whole
    uint32_t checksum_combine(uint32_t a, uint32_t b, size_t offset)
    uint16_t checksum_fold(uint64_t sum)
    uint16_t checksum_finish(uint64_t sum)

    # RFC 1624 equation 3, words as they lie in the packet
    uint16_t checksum_update16(uint16_t check, uint16_t old, uint16_t new_)
    uint16_t checksum_update32(uint16_t check, uint32_t old, uint32_t new_)

    # pseudo headers: addresses as they lie in the packet, length in bytes, host order
    uint32_t checksum_pseudo_ipv4(uint32_t src_be, uint32_t dst_be, uint8_t protocol, uint16_t length)
    uint32_t checksum_pseudo_ipv6(const uint8_t *src, const uint8_t *dst, uint8_t protocol, uint32_t length)

    # dispatch, per extension module
    int checksum_select(int level)
    int checksum_level()


cdef inline uint32_t checksum_pseudo(const address_t *src, const address_t *dst, uint8_t protocol,
                                     uint32_t length) noexcept nogil:
    """The pseudo header of either version; interface numbers in link-local addresses are left out."""
    cdef address_t wire[2]
    if address_is_v4(src):
        return checksum_pseudo_ipv4(address_v4(src), address_v4(dst), protocol, <uint16_t> length)
    if address_is_link_local(src) or address_is_link_local(dst):
        wire[0] = src[0]
        wire[1] = dst[0]
        address_set_zone(&wire[0], 0)
        address_set_zone(&wire[1], 0)
        return checksum_pseudo_ipv6(<const uint8_t *> &wire[0], <const uint8_t *> &wire[1], protocol, length)
    return checksum_pseudo_ipv6(<const uint8_t *> src, <const uint8_t *> dst, protocol, length)
