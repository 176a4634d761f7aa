/* The Internet checksum (RFC 1071), fused with the copy of the bytes it covers.
 *
 * A payload that a peer process can rewrite at any moment is summed and copied in
 * one pass: each source byte is loaded exactly once, and the register that enters
 * the sum is the register that is stored. The verdict is then about exactly the
 * bytes delivered. Hence no overlapped vector tails (they load bytes twice), and a
 * compiler barrier after every load, so that no compiler may load again.
 *
 * A *partial sum* is a 32-bit ones' complement sum of native-endian words, not yet
 * folded: sums of pieces that start at even offsets are added with
 * checksum_combine(a, b, 0), and only checksum_fold() or checksum_finish() make 16
 * bits of it. The sum is independent of byte order (RFC 1071 section 2.B): a result
 * stored as a native 16-bit word (store_native16) lies right on the wire.
 *
 * Under 64 bytes everything is inline scalar code. Longer runs go through a table
 * chosen when the module is loaded: AVX-512 with or without VNNI, AVX2 or plain C on x86-64; NEON on
 * aarch64; plain C elsewhere. Every translation unit has its own table pointer.
 * No Python.h.
 */
#ifndef NETSTACK_INET_CHECKSUM_H
#define NETSTACK_INET_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "byte_order.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* What checksum_select() takes. A level the machine lacks becomes the best below it. */
enum {
    CHECKSUM_LEVEL_BEST = -1,
    CHECKSUM_LEVEL_PLAIN = 0,
    CHECKSUM_LEVEL_AVX2 = 1,     /* x86-64 */
    CHECKSUM_LEVEL_AVX512 = 2,   /* x86-64: AVX-512 F and BW */
    CHECKSUM_LEVEL_AVX512VNNI = 3,   /* x86-64: the same and VNNI */
    CHECKSUM_LEVEL_NEON = 4,     /* aarch64 */
};

#define CHECKSUM_INLINE_MAX 64   /* bytes; from here on through the table */
#define CHECKSUM_OWN_COPY_MIN_ 1024   /* bytes; shorter plain copies are libc's */

/* ---- folding and combining ------------------------------------------------ */

/* A 64-bit sum to 32 bits with end-around carry: added to itself with the halves swapped,
 * the upper half is high + low + the carry out of low + high. Zero only if the sum is. */
static inline uint32_t checksum_fold32_(uint64_t sum)
{
    return (uint32_t)((sum + (sum >> 32 | sum << 32)) >> 32);
}

/* To 16 bits, not complemented; a native-endian word. */
static inline uint16_t checksum_fold(uint64_t sum)
{
    uint32_t s = checksum_fold32_(sum);
    return (uint16_t)((s + (s >> 16 | s << 16)) >> 16);
}

/* The checksum field: the complement of the folded sum, a native-endian word. */
static inline uint16_t checksum_finish(uint64_t sum) { return (uint16_t)~checksum_fold(sum); }

/* Add b, the partial sum of bytes that start at `offset` within the whole. At an odd
 * offset the bytes of b sit in the other halves of their words: times 256 modulo
 * 2^16 - 1, which is a rotation (RFC 1071 section 2.B). */
static inline uint32_t checksum_combine(uint32_t a, uint32_t b, size_t offset)
{
    if (offset & 1)
        b = (b << 8) | (b >> 24);
    return checksum_fold32_((uint64_t)a + b);
}

/* RFC 1624 equation 3: the check field after one covered 16-bit word went from old to
 * new_. All three are native-endian words as they lie in the packet. */
static inline uint16_t checksum_update16(uint16_t check, uint16_t old, uint16_t new_)
{
    return checksum_finish((uint64_t)(uint16_t)~check + (uint16_t)~old + new_);
}

/* The same for a covered 32-bit word (an address) at an even offset. */
static inline uint16_t checksum_update32(uint16_t check, uint32_t old, uint32_t new_)
{
    return checksum_finish((uint64_t)(uint16_t)~check + (uint32_t)~old + new_);
}

/* ---- pseudo headers ------------------------------------------------------- */

/* IPv4 (RFC 9293 section 3.1): addresses as they lie in the packet, length of the
 * TCP or UDP header and data in bytes, host order. */
static inline uint32_t checksum_pseudo_ipv4(uint32_t src_be, uint32_t dst_be, uint8_t protocol,
                                            uint16_t length)
{
    return checksum_fold32_((uint64_t)src_be + dst_be + host_to_be16(protocol) + host_to_be16(length));
}

/* IPv6 (RFC 8200 section 8.1). */
static inline uint32_t checksum_pseudo_ipv6(const uint8_t src[16], const uint8_t dst[16], uint8_t protocol,
                                            uint32_t length)
{
    uint64_t sum = (uint64_t)host_to_be32(length) + host_to_be32(protocol);
    for (int i = 0; i < 16; i += 4)
        sum += (uint64_t)load_native32(src + i) + load_native32(dst + i);
    return checksum_fold32_(sum);
}

/* ---- scalar pieces -------------------------------------------------------- */

#define CHECKSUM_LOOP_ static inline __attribute__((always_inline))

/* One load of a word that may change under us: after the barrier the compiler knows
 * only the register, so the stored and the summed value are one. Words are added as
 * they are, the carries out of 64 bits counted apart (they weigh 2^64 = 1 modulo 2^16 - 1). */
#define CHECKSUM_WORD_(type, i)                                       \
    do {                                                              \
        type v_;                                                      \
        memcpy(&v_, s + sizeof v_ * (i), sizeof v_);                  \
        __asm__ volatile("" : "+r"(v_));                              \
        if (copies > 0) memcpy(d + sizeof v_ * (i), &v_, sizeof v_);  \
        if (copies > 1) memcpy(d2 + sizeof v_ * (i), &v_, sizeof v_); \
        carries += __builtin_add_overflow(sum, v_, &sum);             \
    } while (0)

#define CHECKSUM_ADVANCE_(n)       \
    do {                           \
        s += (n);                  \
        if (copies > 0) d += (n);  \
        if (copies > 1) d2 += (n); \
    } while (0)

/* In all loops `copies` is a constant: 0 only sums, 1 stores to d, 2 to d and d2. */

/* Fewer than 64 bytes. The result has at most 33 bits. */
CHECKSUM_LOOP_ uint64_t checksum_small_(uint8_t *d, uint8_t *d2, const uint8_t *s, size_t n, int copies)
{
    uint64_t sum = 0, carries = 0;
    if (n & 32) {
        CHECKSUM_WORD_(uint64_t, 0);
        CHECKSUM_WORD_(uint64_t, 1);
        CHECKSUM_WORD_(uint64_t, 2);
        CHECKSUM_WORD_(uint64_t, 3);
        CHECKSUM_ADVANCE_(32);
    }
    if (n & 16) {
        CHECKSUM_WORD_(uint64_t, 0);
        CHECKSUM_WORD_(uint64_t, 1);
        CHECKSUM_ADVANCE_(16);
    }
    if (n & 8) {
        CHECKSUM_WORD_(uint64_t, 0);
        CHECKSUM_ADVANCE_(8);
    }
    if (n & 4) {
        CHECKSUM_WORD_(uint32_t, 0);
        CHECKSUM_ADVANCE_(4);
    }
    if (n & 2) {
        CHECKSUM_WORD_(uint16_t, 0);
        CHECKSUM_ADVANCE_(2);
    }
    if (n & 1) {   /* counts as if a zero byte followed */
        uint8_t v = *s;
        __asm__ volatile("" : "+r"(v));
        if (copies > 0)
            *d = v;
        if (copies > 1)
            *d2 = v;
        carries += NETSTACK_LITTLE_ENDIAN ? v : (uint64_t)v << 8;
    }
    return (uint64_t)checksum_fold32_(sum) + carries;
}

/* ---- level plain: any machine --------------------------------------------- */

CHECKSUM_LOOP_ uint32_t checksum_plain_(uint8_t *d, uint8_t *d2, const uint8_t *s, size_t n, int copies)
{
    uint64_t sum = 0, carries = 0;
    for (; n >= 64; n -= 64) {
        CHECKSUM_WORD_(uint64_t, 0);
        CHECKSUM_WORD_(uint64_t, 1);
        CHECKSUM_WORD_(uint64_t, 2);
        CHECKSUM_WORD_(uint64_t, 3);
        CHECKSUM_WORD_(uint64_t, 4);
        CHECKSUM_WORD_(uint64_t, 5);
        CHECKSUM_WORD_(uint64_t, 6);
        CHECKSUM_WORD_(uint64_t, 7);
        CHECKSUM_ADVANCE_(64);
    }
    uint64_t tail = checksum_small_(d, d2, s, n, copies);
    return checksum_fold32_((uint64_t)checksum_fold32_(sum) + carries + tail);
}

static uint32_t checksum_plain_sum_(const void *s, size_t n) { return checksum_plain_(NULL, NULL, s, n, 0); }
static uint32_t checksum_plain_copy_(void *d, const void *s, size_t n)
{
    return checksum_plain_(d, NULL, s, n, 1);
}
static uint32_t checksum_plain_copy2_(void *d, void *d2, const void *s, size_t n)
{
    return checksum_plain_(d, d2, s, n, 2);
}
static void checksum_plain_bytes_(void *d, const void *s, size_t n) { memcpy(d, s, n); }

/* ---- vector levels: what they share --------------------------------------- */

/* A destination off its line makes every vector store touch two lines. Long copies store
 * the bytes up to the line one by one first; the rest then starts at offset `head`. */
#define CHECKSUM_ALIGN_MIN_ 1024  /* bytes; below, the detour costs what it saves */
#define CHECKSUM_LINE_ 64

/* The entry points of a level from its loop(d, d2, s, n, copies, want_sum). */
#define CHECKSUM_ENTRY_POINTS_(level, target, loop)                                                    \
    CHECKSUM_ONE_DESTINATION_(level, target, loop)                                                     \
    target static uint32_t checksum_##level##_copy2_(void *dst, void *dst2, const void *src, size_t n) \
    {                                                                                                  \
        return loop(dst, dst2, src, n, 2, 1);                                                          \
    }

#define CHECKSUM_ONE_DESTINATION_(level, target, loop)                                                 \
    target static uint32_t checksum_##level##_sum_(const void *s, size_t n)                            \
    {                                                                                                  \
        return loop(NULL, NULL, s, n, 0, 1);                                                           \
    }                                                                                                  \
    target static uint32_t checksum_##level##_copy_(void *dst, const void *src, size_t n)              \
    {                                                                                                  \
        uint8_t *d = dst;                                                                              \
        const uint8_t *s = src;                                                                        \
        size_t head = -(uintptr_t)d % CHECKSUM_LINE_;                                                  \
        if (head && n >= CHECKSUM_ALIGN_MIN_) {                                                        \
            uint32_t first = checksum_fold32_(checksum_small_(d, NULL, s, head, 1));                   \
            return checksum_combine(first, loop(d + head, NULL, s + head, n - head, 1, 1), head);      \
        }                                                                                              \
        return loop(d, NULL, s, n, 1, 1);                                                              \
    }                                                                                                  \
    target static void checksum_##level##_bytes_(void *dst, const void *src, size_t n)                 \
    {                                                                                                  \
        uint8_t *d = dst;                                                                              \
        const uint8_t *s = src;                                                                        \
        size_t head = -(uintptr_t)d % CHECKSUM_LINE_;                                                  \
        if (head && n >= CHECKSUM_ALIGN_MIN_) {                                                        \
            checksum_small_(d, NULL, s, head, 1);                                                      \
            loop(d + head, NULL, s + head, n - head, 1, 0);                                            \
            return;                                                                                    \
        }                                                                                              \
        loop(d, NULL, s, n, 1, 0);                                                                     \
    }

/* ---- x86-64 --------------------------------------------------------------- */
/* Per 64-bit lane two running sums: `all` of whole lanes modulo 2^64 and `high` of
 * their upper halves. The lower halves add up to all - (high << 32), exactly, for any
 * length below 2^32 lanes: three instructions a vector. */

#if defined(__x86_64__)

#define CHECKSUM_AVX2_ __attribute__((target("avx2")))

CHECKSUM_AVX2_ CHECKSUM_LOOP_ uint64_t checksum_avx2_reduce_(__m256i all, __m256i high)
{
    __m256i sums = _mm256_add_epi64(_mm256_sub_epi64(all, _mm256_slli_epi64(high, 32)), high);
    __m128i two = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    return (uint64_t)_mm_cvtsi128_si64(two) + (uint64_t)_mm_extract_epi64(two, 1);
}

#define CHECKSUM_AVX2_STEP_(i, all, high)                                 \
    do {                                                                  \
        __m256i v_ = _mm256_loadu_si256((const void *)(s + 32 * (i)));    \
        __asm__ volatile("" : "+x"(v_));                                  \
        if (copies > 0) _mm256_storeu_si256((void *)(d + 32 * (i)), v_);  \
        if (copies > 1) _mm256_storeu_si256((void *)(d2 + 32 * (i)), v_); \
        if (want_sum) {                                                   \
            all = _mm256_add_epi64(all, v_);                              \
            high = _mm256_add_epi64(high, _mm256_srli_epi64(v_, 32));     \
        }                                                                 \
    } while (0)

CHECKSUM_AVX2_ CHECKSUM_LOOP_ uint32_t checksum_avx2_(uint8_t *d, uint8_t *d2, const uint8_t *s, size_t n,
                                                      int copies, int want_sum)
{
    __m256i all0 = _mm256_setzero_si256(), high0 = all0, all1 = all0, high1 = all0;
    for (; n >= 128; n -= 128) {
        CHECKSUM_AVX2_STEP_(0, all0, high0);
        CHECKSUM_AVX2_STEP_(1, all1, high1);
        CHECKSUM_AVX2_STEP_(2, all0, high0);
        CHECKSUM_AVX2_STEP_(3, all1, high1);
        CHECKSUM_ADVANCE_(128);
    }
    for (; n >= 32; n -= 32) {
        CHECKSUM_AVX2_STEP_(0, all0, high0);
        CHECKSUM_ADVANCE_(32);
    }
    uint64_t tail = checksum_small_(d, d2, s, n, copies);
    if (!want_sum)
        return 0;
    uint64_t body = checksum_avx2_reduce_(_mm256_add_epi64(all0, all1), _mm256_add_epi64(high0, high1));
    return checksum_fold32_((uint64_t)checksum_fold32_(body) + tail);
}

CHECKSUM_ENTRY_POINTS_(avx2, CHECKSUM_AVX2_, checksum_avx2_)

/* d by non-temporal stores, whole 64-byte lines; d2 by ordinary ones. */
CHECKSUM_AVX2_ CHECKSUM_LOOP_ uint32_t checksum_avx2_nt_(uint8_t *d, uint8_t *d2, const uint8_t *s, size_t n,
                                                         int copies)
{
    __m256i all0 = _mm256_setzero_si256(), high0 = all0, all1 = all0, high1 = all0;
    for (; n >= 64; n -= 64) {
        __m256i a = _mm256_loadu_si256((const void *)s), b = _mm256_loadu_si256((const void *)(s + 32));
        __asm__ volatile("" : "+x"(a), "+x"(b));
        _mm256_stream_si256((void *)d, a);
        _mm256_stream_si256((void *)(d + 32), b);
        if (copies > 1) {
            _mm256_storeu_si256((void *)d2, a);
            _mm256_storeu_si256((void *)(d2 + 32), b);
        }
        all0 = _mm256_add_epi64(all0, a);
        high0 = _mm256_add_epi64(high0, _mm256_srli_epi64(a, 32));
        all1 = _mm256_add_epi64(all1, b);
        high1 = _mm256_add_epi64(high1, _mm256_srli_epi64(b, 32));
        CHECKSUM_ADVANCE_(64);
    }
    uint64_t tail = 0;
    if (n) {
        uint8_t line[64] __attribute__((aligned(64))) = {0};
        tail = checksum_small_(line, d2, s, n, copies);
        _mm256_stream_si256((void *)d, _mm256_load_si256((const void *)line));
        _mm256_stream_si256((void *)(d + 32), _mm256_load_si256((const void *)(line + 32)));
    }
    uint64_t body = checksum_avx2_reduce_(_mm256_add_epi64(all0, all1), _mm256_add_epi64(high0, high1));
    return checksum_fold32_((uint64_t)checksum_fold32_(body) + tail);
}

CHECKSUM_AVX2_ static uint32_t checksum_avx2_copy_nt_(void *d, const void *s, size_t n)
{
    return checksum_avx2_nt_(d, NULL, s, n, 1);
}
CHECKSUM_AVX2_ static uint32_t checksum_avx2_copy2_nt_(void *d, void *d2, const void *s, size_t n)
{
    return checksum_avx2_nt_(d, d2, s, n, 2);
}

#define CHECKSUM_AVX512_ __attribute__((target("avx512f,avx512bw")))

#define CHECKSUM_AVX512_STEP_(i, all, high)                           \
    do {                                                              \
        __m512i v_ = _mm512_loadu_si512(s + 64 * (i));                \
        __asm__ volatile("" : "+v"(v_));                              \
        if (copies > 0) _mm512_storeu_si512(d + 64 * (i), v_);        \
        if (copies > 1) _mm512_storeu_si512(d2 + 64 * (i), v_);       \
        if (want_sum) {                                               \
            all = _mm512_add_epi64(all, v_);                          \
            high = _mm512_add_epi64(high, _mm512_srli_epi64(v_, 32)); \
        }                                                             \
    } while (0)

CHECKSUM_AVX512_ CHECKSUM_LOOP_ uint32_t checksum_avx512_(uint8_t *d, uint8_t *d2, const uint8_t *s, size_t n,
                                                          int copies, int want_sum)
{
    __m512i all0 = _mm512_setzero_si512(), high0 = all0, all1 = all0, high1 = all0;
    for (; n >= 128; n -= 128) {
        CHECKSUM_AVX512_STEP_(0, all0, high0);
        CHECKSUM_AVX512_STEP_(1, all1, high1);
        CHECKSUM_ADVANCE_(128);
    }
    if (n >= 64) {
        CHECKSUM_AVX512_STEP_(0, all0, high0);
        CHECKSUM_ADVANCE_(64);
        n -= 64;
    }
    if (n) {   /* bytes behind the mask are neither loaded nor stored */
        __mmask64 mask = (1ull << n) - 1;
        __m512i v = _mm512_maskz_loadu_epi8(mask, s);
        __asm__ volatile("" : "+v"(v));
        if (copies > 0)
            _mm512_mask_storeu_epi8(d, mask, v);
        if (copies > 1)
            _mm512_mask_storeu_epi8(d2, mask, v);
        all1 = _mm512_add_epi64(all1, v);
        high1 = _mm512_add_epi64(high1, _mm512_srli_epi64(v, 32));
    }
    if (!want_sum)
        return 0;
    __m512i all = _mm512_add_epi64(all0, all1), high = _mm512_add_epi64(high0, high1);
    return checksum_fold32_(checksum_avx2_reduce_(
        _mm256_add_epi64(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1)),
        _mm256_add_epi64(_mm512_castsi512_si256(high), _mm512_extracti64x4_epi64(high, 1))));
}

CHECKSUM_ENTRY_POINTS_(avx512, CHECKSUM_AVX512_, checksum_avx512_)

/* With VNNI one instruction adds the 16-bit words of a vector, as signed numbers, in pairs to 32-bit
 * lanes: with their top bit turned, a word is itself less 2^15. Two instructions a vector, on
 * different ports of Intel's cores; four sums, of long runs eight, hide their latency. */
#define CHECKSUM_VNNI_ __attribute__((target("avx512f,avx512bw,avx512vnni")))
#define CHECKSUM_VNNI_LONG_ 2048   /* bytes from which on eight sums pay */
#define CHECKSUM_VNNI_MOST_ ((size_t)1 << 20)   /* bytes until the lanes are added up: none overflows */

#define CHECKSUM_VNNI_ADD_(v, acc) acc = _mm512_dpwssd_epi32(acc, _mm512_xor_si512(v, top), ones)

#define CHECKSUM_VNNI_STEP_(i, acc)                                    \
    do {                                                               \
        __m512i v_ = _mm512_loadu_si512(s + 64 * (i));                 \
        __asm__ volatile("" : "+v"(v_));                               \
        if (copies > 0) _mm512_storeu_si512(d + 64 * (i), v_);         \
        if (copies > 1) _mm512_storeu_si512(d2 + 64 * (i), v_);        \
        if (want_sum) CHECKSUM_VNNI_ADD_(v_, acc);                     \
    } while (0)

/* At most CHECKSUM_VNNI_MOST_ bytes. */
CHECKSUM_VNNI_ CHECKSUM_LOOP_ uint64_t checksum_vnni_piece_(uint8_t *d, uint8_t *d2, const uint8_t *s, size_t n,
                                                            int copies, int want_sum)
{
    const __m512i top = _mm512_set1_epi16(INT16_MIN), ones = _mm512_set1_epi16(1);
    __m512i a = _mm512_setzero_si512(), b = a, c = a, e = a;
    const uint64_t turned = (uint64_t)((n + 63) / 64 * 32) << 15;   /* what turning the top bits took away */
    if (n >= CHECKSUM_VNNI_LONG_) {
        __m512i f = a, g = a, h = a, i = a;
        for (; n >= 512; n -= 512) {
            CHECKSUM_VNNI_STEP_(0, a);
            CHECKSUM_VNNI_STEP_(1, b);
            CHECKSUM_VNNI_STEP_(2, c);
            CHECKSUM_VNNI_STEP_(3, e);
            CHECKSUM_VNNI_STEP_(4, f);
            CHECKSUM_VNNI_STEP_(5, g);
            CHECKSUM_VNNI_STEP_(6, h);
            CHECKSUM_VNNI_STEP_(7, i);
            CHECKSUM_ADVANCE_(512);
        }
        a = _mm512_add_epi32(a, f);
        b = _mm512_add_epi32(b, g);
        c = _mm512_add_epi32(c, h);
        e = _mm512_add_epi32(e, i);
    }
    for (; n >= 256; n -= 256) {
        CHECKSUM_VNNI_STEP_(0, a);
        CHECKSUM_VNNI_STEP_(1, b);
        CHECKSUM_VNNI_STEP_(2, c);
        CHECKSUM_VNNI_STEP_(3, e);
        CHECKSUM_ADVANCE_(256);
    }
    if (n & 128) {
        CHECKSUM_VNNI_STEP_(0, a);
        CHECKSUM_VNNI_STEP_(1, b);
        CHECKSUM_ADVANCE_(128);
    }
    if (n & 64) {
        CHECKSUM_VNNI_STEP_(0, c);
        CHECKSUM_ADVANCE_(64);
    }
    if (n & 63) {   /* bytes behind the mask are neither loaded nor stored */
        __mmask64 mask = (1ull << (n & 63)) - 1;
        __m512i v = _mm512_maskz_loadu_epi8(mask, s);
        __asm__ volatile("" : "+v"(v));
        if (copies > 0)
            _mm512_mask_storeu_epi8(d, mask, v);
        if (copies > 1)
            _mm512_mask_storeu_epi8(d2, mask, v);
        CHECKSUM_VNNI_ADD_(v, e);
    }
    if (!want_sum)
        return 0;
    __m512i sums = _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, e));
    __m256i eight = _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64(sums, 1));
    __m256i four = _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(eight)),
                                    _mm256_cvtepi32_epi64(_mm256_extracti128_si256(eight, 1)));
    __m128i two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
    return (uint64_t)_mm_cvtsi128_si64(two) + (uint64_t)_mm_extract_epi64(two, 1) + turned;
}

CHECKSUM_VNNI_ CHECKSUM_LOOP_ uint32_t checksum_vnni_(uint8_t *d, uint8_t *d2, const uint8_t *s, size_t n,
                                                      int copies, int want_sum)
{
    uint64_t sum = 0;
    for (; n > CHECKSUM_VNNI_MOST_; n -= CHECKSUM_VNNI_MOST_) {
        sum += checksum_vnni_piece_(d, d2, s, CHECKSUM_VNNI_MOST_, copies, want_sum);
        CHECKSUM_ADVANCE_(CHECKSUM_VNNI_MOST_);
    }
    return checksum_fold32_(sum + checksum_vnni_piece_(d, d2, s, n, copies, want_sum));
}

/* Two destinations: the stores set the pace, and the loop without VNNI is the faster one. */
CHECKSUM_ONE_DESTINATION_(avx512vnni, CHECKSUM_VNNI_, checksum_vnni_)

/* ---- aarch64 -------------------------------------------------------------- */

#elif defined(__aarch64__)

#define CHECKSUM_NEON_STEP_(i, acc)                                     \
    do {                                                                \
        uint8x16_t v_ = vld1q_u8(s + 16 * (i));                         \
        __asm__ volatile("" : "+w"(v_));                                \
        if (copies > 0) vst1q_u8(d + 16 * (i), v_);                     \
        if (copies > 1) vst1q_u8(d2 + 16 * (i), v_);                    \
        if (want_sum) acc = vpadalq_u32(acc, vreinterpretq_u32_u8(v_)); \
    } while (0)

CHECKSUM_LOOP_ uint32_t checksum_neon_(uint8_t *d, uint8_t *d2, const uint8_t *s, size_t n,
                                       int copies, int want_sum)
{
    uint64x2_t a = vdupq_n_u64(0), b = a;
    for (; n >= 64; n -= 64) {
        CHECKSUM_NEON_STEP_(0, a);
        CHECKSUM_NEON_STEP_(1, b);
        CHECKSUM_NEON_STEP_(2, a);
        CHECKSUM_NEON_STEP_(3, b);
        CHECKSUM_ADVANCE_(64);
    }
    uint64_t tail = checksum_small_(d, d2, s, n, copies);
    return checksum_fold32_(vaddvq_u64(vaddq_u64(a, b)) + tail);
}

CHECKSUM_ENTRY_POINTS_(neon, , checksum_neon_)

#endif

/* ---- choice at run time --------------------------------------------------- */

typedef struct checksum_ops_t {
    int level;
    uint32_t (*sum)(const void *s, size_t n);
    uint32_t (*copy)(void *d, const void *s, size_t n);
    uint32_t (*copy2)(void *d, void *d2, const void *s, size_t n);
    void (*bytes)(void *d, const void *s, size_t n);
    uint32_t (*copy2_nt)(void *d, void *d2, const void *s, size_t n);
    uint32_t (*copy_nt)(void *d, const void *s, size_t n);
} checksum_ops_t;

static const checksum_ops_t checksum_plain_ops_ = {
    CHECKSUM_LEVEL_PLAIN, checksum_plain_sum_, checksum_plain_copy_, checksum_plain_copy2_,
    checksum_plain_bytes_, checksum_plain_copy2_, checksum_plain_copy_};
#if defined(__x86_64__)
static const checksum_ops_t checksum_avx2_ops_ = {
    CHECKSUM_LEVEL_AVX2, checksum_avx2_sum_, checksum_avx2_copy_, checksum_avx2_copy2_,
    checksum_avx2_bytes_, checksum_avx2_copy2_nt_, checksum_avx2_copy_nt_};
static const checksum_ops_t checksum_avx512_ops_ = {
    CHECKSUM_LEVEL_AVX512, checksum_avx512_sum_, checksum_avx512_copy_, checksum_avx512_copy2_,
    checksum_avx512_bytes_, checksum_avx2_copy2_nt_, checksum_avx2_copy_nt_};
static const checksum_ops_t checksum_avx512vnni_ops_ = {
    CHECKSUM_LEVEL_AVX512VNNI, checksum_avx512vnni_sum_, checksum_avx512vnni_copy_, checksum_avx512_copy2_,
    checksum_avx512vnni_bytes_, checksum_avx2_copy2_nt_, checksum_avx2_copy_nt_};
#elif defined(__aarch64__)
static const checksum_ops_t checksum_neon_ops_ = {
    CHECKSUM_LEVEL_NEON, checksum_neon_sum_, checksum_neon_copy_, checksum_neon_copy2_,
    checksum_neon_bytes_, checksum_neon_copy2_, checksum_neon_copy_};
#endif

static const checksum_ops_t *checksum_ops_ = &checksum_plain_ops_;

/* Choose the best level not above `level` that this machine has (tests and
 * measurements; the constructor below has chosen the best). Not for use while other
 * threads compute sums. Returns the level chosen. */
static inline int checksum_select(int level)
{
    const checksum_ops_t *ops = &checksum_plain_ops_;
#if defined(__x86_64__)
    __builtin_cpu_init();
    int want = level == CHECKSUM_LEVEL_BEST ? CHECKSUM_LEVEL_AVX512VNNI : level;
    if (want >= CHECKSUM_LEVEL_AVX2 && __builtin_cpu_supports("avx2"))
        ops = &checksum_avx2_ops_;
    if (want >= CHECKSUM_LEVEL_AVX512 && __builtin_cpu_supports("avx512f")
        && __builtin_cpu_supports("avx512bw"))
        ops = &checksum_avx512_ops_;
    if (want == CHECKSUM_LEVEL_AVX512VNNI && ops == &checksum_avx512_ops_ && __builtin_cpu_supports("avx512vnni"))
        ops = &checksum_avx512vnni_ops_;
#elif defined(__aarch64__)
    if (level != CHECKSUM_LEVEL_PLAIN)
        ops = &checksum_neon_ops_;
#else
    (void)level;
#endif
    checksum_ops_ = ops;
    return ops->level;
}

static inline int checksum_level(void) { return checksum_ops_->level; }

/* When the module is loaded: the best level, or what NETSTACK_CPU caps it to (baseline,
 * avx2, avx512 or avx512vnni: measurements, and tests of each level on one machine). */
__attribute__((constructor)) static void checksum_init_(void)
{
    const char *cap = getenv("NETSTACK_CPU");
    int level = CHECKSUM_LEVEL_BEST;
    if (cap && !strcmp(cap, "baseline"))
        level = CHECKSUM_LEVEL_PLAIN;
    else if (cap && !strcmp(cap, "avx2"))
        level = CHECKSUM_LEVEL_AVX2;
    else if (cap && !strcmp(cap, "avx512"))
        level = CHECKSUM_LEVEL_AVX512;
    checksum_select(level);
}

/* ---- what others call ----------------------------------------------------- */

/* Partial sum of n bytes that start at an even offset of the whole. An odd last byte
 * counts as if a zero byte followed (RFC 1071 section 1). */
static inline uint32_t checksum_partial(const void *p, size_t n)
{
    if (n < CHECKSUM_INLINE_MAX)
        return checksum_fold32_(checksum_small_(NULL, NULL, p, n, 0));
    return checksum_ops_->sum(p, n);
}

/* Copy n bytes and return their partial sum, in one pass. The regions do not overlap. */
static inline uint32_t checksum_and_copy(void *dst, const void *src, size_t n)
{
    if (n < CHECKSUM_INLINE_MAX)
        return checksum_fold32_(checksum_small_(dst, NULL, src, n, 1));
    return checksum_ops_->copy(dst, src, n);
}

/* The same into two places: a ring slot and the send buffer. */
static inline uint32_t checksum_and_copy2(void *dst, void *dst2, const void *src, size_t n)
{
    if (n < CHECKSUM_INLINE_MAX)
        return checksum_fold32_(checksum_small_(dst, dst2, src, n, 2));
    return checksum_ops_->copy2(dst, dst2, src, n);
}

/* checksum_and_copy2 with stores to dst that pass the caches by, for a ring so small or a
 * peer so far that its lines would have to be fetched to be written. dst lies on a 64-byte
 * line, and the whole last line is written, behind n with zeros or nothing. Such stores are
 * ordered by no release store: call checksum_store_fence() before publishing. Levels
 * without non-temporal stores store plainly. */
static inline uint32_t checksum_and_copy2_nt(void *dst, void *dst2, const void *src, size_t n)
{
    return checksum_ops_->copy2_nt(dst, dst2, src, n);
}

/* The same with one destination. */
static inline uint32_t checksum_and_copy_nt(void *dst, const void *src, size_t n)
{
    return checksum_ops_->copy_nt(dst, src, n);
}

/* Orders non-temporal stores before every later store. */
static inline void checksum_store_fence(void)
{
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

/* Copy n bytes. The regions do not overlap. From about 2 KiB on glibc's memcpy uses
 * "rep movsb", which costs 20 times as much on Zen 4 when the destination is off its
 * line; the loops above do not care. */
static inline void copy_bytes(void *dst, const void *src, size_t n)
{
    if (n < CHECKSUM_OWN_COPY_MIN_)
        memcpy(dst, src, n);
    else
        checksum_ops_->bytes(dst, src, n);
}

#endif
