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
 * chosen when the module is loaded: AVX-512, AVX2 or plain C on x86-64; NEON on
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
    CHECKSUM_LEVEL_NEON = 3,     /* aarch64 */
};

#define CHECKSUM_INLINE_MAX 64   /* bytes; from here on through the table */

/* ---- folding and combining ------------------------------------------------ */

/* A 64-bit sum to 32 bits with end-around carry. Zero only if the sum is zero. */
static inline uint32_t checksum_fold32_(uint64_t sum)
{
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffffffffu) + (sum >> 32);
    return (uint32_t)sum;
}

/* To 16 bits, not complemented; a native-endian word. */
static inline uint16_t checksum_fold(uint64_t sum)
{
    uint32_t s = checksum_fold32_(sum);
    s = (s & 0xffff) + (s >> 16);
    s = (s & 0xffff) + (s >> 16);
    return (uint16_t)s;
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
static inline uint32_t checksum_pseudo_ipv4(uint32_t src_be, uint32_t dst_be, uint8_t protocol, uint16_t length)
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

#define CHECKSUM_ALWAYS_INLINE_ static inline __attribute__((always_inline))

/* One load of a word that may change under us: after the barrier the compiler knows
 * only the register, so the stored and the summed value are one. */
#define CHECKSUM_STEP_(type)                                       \
    do {                                                           \
        type v_;                                                   \
        memcpy(&v_, s, sizeof v_);                                 \
        __asm__ volatile("" : "+r"(v_));                           \
        if (d) { memcpy(d, &v_, sizeof v_); d += sizeof v_; }      \
        if (d2) { memcpy(d2, &v_, sizeof v_); d2 += sizeof v_; }   \
        sum += sizeof v_ == 8 ? (v_ & 0xffffffffu) + ((uint64_t)v_ >> 32) : v_; \
        s += sizeof v_;                                            \
    } while (0)

CHECKSUM_ALWAYS_INLINE_ uint64_t checksum_last_byte_(uint8_t *d, uint8_t *d2, const uint8_t *s)
{
    uint8_t v = *s;
    __asm__ volatile("" : "+r"(v));
    if (d)
        *d = v;
    if (d2)
        *d2 = v;
    return NETSTACK_LITTLE_ENDIAN ? v : (uint64_t)v << 8;   /* padded with a zero byte behind */
}

/* Fewer than 64 bytes: sum, and store to d and d2 where they are not NULL. */
CHECKSUM_ALWAYS_INLINE_ uint64_t checksum_small_(uint8_t *d, uint8_t *d2, const uint8_t *s, size_t n)
{
    uint64_t sum = 0;
    if (n & 32) {
        CHECKSUM_STEP_(uint64_t);
        CHECKSUM_STEP_(uint64_t);
        CHECKSUM_STEP_(uint64_t);
        CHECKSUM_STEP_(uint64_t);
    }
    if (n & 16) {
        CHECKSUM_STEP_(uint64_t);
        CHECKSUM_STEP_(uint64_t);
    }
    if (n & 8)
        CHECKSUM_STEP_(uint64_t);
    if (n & 4)
        CHECKSUM_STEP_(uint32_t);
    if (n & 2)
        CHECKSUM_STEP_(uint16_t);
    if (n & 1)
        sum += checksum_last_byte_(d, d2, s);
    return sum;
}

/* ---- level plain: any machine --------------------------------------------- */

CHECKSUM_ALWAYS_INLINE_ uint32_t checksum_plain_(uint8_t *d, uint8_t *d2, const uint8_t *s, size_t n)
{
    uint64_t total = 0;
    for (; n >= 64; n -= 64) {
        uint64_t sum = 0;
        CHECKSUM_STEP_(uint64_t);
        CHECKSUM_STEP_(uint64_t);
        CHECKSUM_STEP_(uint64_t);
        CHECKSUM_STEP_(uint64_t);
        CHECKSUM_STEP_(uint64_t);
        CHECKSUM_STEP_(uint64_t);
        CHECKSUM_STEP_(uint64_t);
        CHECKSUM_STEP_(uint64_t);
        total += sum;
    }
    return checksum_fold32_(total + checksum_small_(d, d2, s, n));
}

static uint32_t checksum_plain_sum_(const void *s, size_t n) { return checksum_plain_(NULL, NULL, s, n); }
static uint32_t checksum_plain_copy_(void *d, const void *s, size_t n) { return checksum_plain_(d, NULL, s, n); }
static uint32_t checksum_plain_copy2_(void *d, void *d2, const void *s, size_t n)
{
    return checksum_plain_(d, d2, s, n);
}

/* ---- x86-64 --------------------------------------------------------------- */
/* Per 64-bit lane two running sums: `all` of whole lanes modulo 2^64 and `high` of
 * their upper halves. The lower halves add up to all - (high << 32), exactly, for any
 * length below 2^32 lanes: three instructions a vector. */

#if defined(__x86_64__)

#define CHECKSUM_AVX2_(kind) kind __attribute__((target("avx2")))

CHECKSUM_AVX2_(CHECKSUM_ALWAYS_INLINE_) uint64_t checksum_avx2_reduce_(__m256i all, __m256i high)
{
    __m256i sums = _mm256_add_epi64(_mm256_sub_epi64(all, _mm256_slli_epi64(high, 32)), high);
    __m128i two = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    return (uint64_t)_mm_cvtsi128_si64(two) + (uint64_t)_mm_extract_epi64(two, 1);
}

#define CHECKSUM_AVX2_STEP_(i, all, high)                                     \
    do {                                                                      \
        __m256i v_ = _mm256_loadu_si256((const void *)(s + 32 * (i)));        \
        __asm__ volatile("" : "+x"(v_));                                      \
        if (d) _mm256_storeu_si256((void *)(d + 32 * (i)), v_);               \
        if (d2) _mm256_storeu_si256((void *)(d2 + 32 * (i)), v_);             \
        all = _mm256_add_epi64(all, v_);                                      \
        high = _mm256_add_epi64(high, _mm256_srli_epi64(v_, 32));             \
    } while (0)

CHECKSUM_AVX2_(CHECKSUM_ALWAYS_INLINE_) uint32_t checksum_avx2_(uint8_t *d, uint8_t *d2, const uint8_t *s, size_t n)
{
    __m256i all0 = _mm256_setzero_si256(), high0 = all0, all1 = all0, high1 = all0;
    for (; n >= 128; n -= 128) {
        CHECKSUM_AVX2_STEP_(0, all0, high0);
        CHECKSUM_AVX2_STEP_(1, all1, high1);
        CHECKSUM_AVX2_STEP_(2, all0, high0);
        CHECKSUM_AVX2_STEP_(3, all1, high1);
        s += 128;
        d = d ? d + 128 : d;
        d2 = d2 ? d2 + 128 : d2;
    }
    for (; n >= 32; n -= 32) {
        CHECKSUM_AVX2_STEP_(0, all0, high0);
        s += 32;
        d = d ? d + 32 : d;
        d2 = d2 ? d2 + 32 : d2;
    }
    uint64_t tail = checksum_small_(d, d2, s, n);
    uint64_t body = checksum_avx2_reduce_(_mm256_add_epi64(all0, all1), _mm256_add_epi64(high0, high1));
    return checksum_fold32_((uint64_t)checksum_fold32_(body) + tail);
}

CHECKSUM_AVX2_(static) uint32_t checksum_avx2_sum_(const void *s, size_t n)
{
    return checksum_avx2_(NULL, NULL, s, n);
}
CHECKSUM_AVX2_(static) uint32_t checksum_avx2_copy_(void *d, const void *s, size_t n)
{
    return checksum_avx2_(d, NULL, s, n);
}
CHECKSUM_AVX2_(static) uint32_t checksum_avx2_copy2_(void *d, void *d2, const void *s, size_t n)
{
    return checksum_avx2_(d, d2, s, n);
}

#define CHECKSUM_AVX512_(kind) kind __attribute__((target("avx512f,avx512bw")))

#define CHECKSUM_AVX512_STEP_(i, all, high)                                   \
    do {                                                                      \
        __m512i v_ = _mm512_loadu_si512(s + 64 * (i));                        \
        __asm__ volatile("" : "+v"(v_));                                      \
        if (d) _mm512_storeu_si512(d + 64 * (i), v_);                         \
        if (d2) _mm512_storeu_si512(d2 + 64 * (i), v_);                       \
        all = _mm512_add_epi64(all, v_);                                      \
        high = _mm512_add_epi64(high, _mm512_srli_epi64(v_, 32));             \
    } while (0)

CHECKSUM_AVX512_(CHECKSUM_ALWAYS_INLINE_) uint32_t checksum_avx512_(uint8_t *d, uint8_t *d2, const uint8_t *s, size_t n)
{
    __m512i all0 = _mm512_setzero_si512(), high0 = all0, all1 = all0, high1 = all0;
    for (; n >= 128; n -= 128) {
        CHECKSUM_AVX512_STEP_(0, all0, high0);
        CHECKSUM_AVX512_STEP_(1, all1, high1);
        s += 128;
        d = d ? d + 128 : d;
        d2 = d2 ? d2 + 128 : d2;
    }
    if (n >= 64) {
        CHECKSUM_AVX512_STEP_(0, all0, high0);
        s += 64;
        d = d ? d + 64 : d;
        d2 = d2 ? d2 + 64 : d2;
        n -= 64;
    }
    if (n) {   /* bytes behind the mask are neither loaded nor stored */
        __mmask64 mask = (1ull << n) - 1;
        __m512i v = _mm512_maskz_loadu_epi8(mask, s);
        __asm__ volatile("" : "+v"(v));
        if (d)
            _mm512_mask_storeu_epi8(d, mask, v);
        if (d2)
            _mm512_mask_storeu_epi8(d2, mask, v);
        all1 = _mm512_add_epi64(all1, v);
        high1 = _mm512_add_epi64(high1, _mm512_srli_epi64(v, 32));
    }
    __m512i all = _mm512_add_epi64(all0, all1), high = _mm512_add_epi64(high0, high1);
    return checksum_fold32_(checksum_avx2_reduce_(
        _mm256_add_epi64(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1)),
        _mm256_add_epi64(_mm512_castsi512_si256(high), _mm512_extracti64x4_epi64(high, 1))));
}

CHECKSUM_AVX512_(static) uint32_t checksum_avx512_sum_(const void *s, size_t n)
{
    return checksum_avx512_(NULL, NULL, s, n);
}
CHECKSUM_AVX512_(static) uint32_t checksum_avx512_copy_(void *d, const void *s, size_t n)
{
    return checksum_avx512_(d, NULL, s, n);
}
CHECKSUM_AVX512_(static) uint32_t checksum_avx512_copy2_(void *d, void *d2, const void *s, size_t n)
{
    return checksum_avx512_(d, d2, s, n);
}

/* ---- aarch64 -------------------------------------------------------------- */

#elif defined(__aarch64__)

#define CHECKSUM_NEON_STEP_(i, acc)                                           \
    do {                                                                      \
        uint8x16_t v_ = vld1q_u8(s + 16 * (i));                               \
        __asm__ volatile("" : "+w"(v_));                                      \
        if (d) vst1q_u8(d + 16 * (i), v_);                                    \
        if (d2) vst1q_u8(d2 + 16 * (i), v_);                                  \
        acc = vpadalq_u32(acc, vreinterpretq_u32_u8(v_));                     \
    } while (0)

CHECKSUM_ALWAYS_INLINE_ uint32_t checksum_neon_(uint8_t *d, uint8_t *d2, const uint8_t *s, size_t n)
{
    uint64x2_t a = vdupq_n_u64(0), b = a;
    for (; n >= 64; n -= 64) {
        CHECKSUM_NEON_STEP_(0, a);
        CHECKSUM_NEON_STEP_(1, b);
        CHECKSUM_NEON_STEP_(2, a);
        CHECKSUM_NEON_STEP_(3, b);
        s += 64;
        d = d ? d + 64 : d;
        d2 = d2 ? d2 + 64 : d2;
    }
    uint64_t tail = checksum_small_(d, d2, s, n);
    return checksum_fold32_(vaddvq_u64(vaddq_u64(a, b)) + tail);
}

static uint32_t checksum_neon_sum_(const void *s, size_t n) { return checksum_neon_(NULL, NULL, s, n); }
static uint32_t checksum_neon_copy_(void *d, const void *s, size_t n) { return checksum_neon_(d, NULL, s, n); }
static uint32_t checksum_neon_copy2_(void *d, void *d2, const void *s, size_t n) { return checksum_neon_(d, d2, s, n); }

#endif

/* ---- choice at run time --------------------------------------------------- */

typedef struct checksum_ops_t {
    int level;
    uint32_t (*sum)(const void *s, size_t n);
    uint32_t (*copy)(void *d, const void *s, size_t n);
    uint32_t (*copy2)(void *d, void *d2, const void *s, size_t n);
} checksum_ops_t;

static const checksum_ops_t checksum_plain_ops_ = {
    CHECKSUM_LEVEL_PLAIN, checksum_plain_sum_, checksum_plain_copy_, checksum_plain_copy2_};
#if defined(__x86_64__)
static const checksum_ops_t checksum_avx2_ops_ = {
    CHECKSUM_LEVEL_AVX2, checksum_avx2_sum_, checksum_avx2_copy_, checksum_avx2_copy2_};
static const checksum_ops_t checksum_avx512_ops_ = {
    CHECKSUM_LEVEL_AVX512, checksum_avx512_sum_, checksum_avx512_copy_, checksum_avx512_copy2_};
#elif defined(__aarch64__)
static const checksum_ops_t checksum_neon_ops_ = {
    CHECKSUM_LEVEL_NEON, checksum_neon_sum_, checksum_neon_copy_, checksum_neon_copy2_};
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
    int want = level == CHECKSUM_LEVEL_BEST ? CHECKSUM_LEVEL_AVX512 : level;
    if (want >= CHECKSUM_LEVEL_AVX2 && __builtin_cpu_supports("avx2"))
        ops = &checksum_avx2_ops_;
    if (want >= CHECKSUM_LEVEL_AVX512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
        ops = &checksum_avx512_ops_;
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
 * avx2 or avx512: measurements, and tests of each level on one machine). */
__attribute__((constructor)) static void checksum_init_(void)
{
    const char *cap = getenv("NETSTACK_CPU");
    int level = CHECKSUM_LEVEL_BEST;
    if (cap && !strcmp(cap, "baseline"))
        level = CHECKSUM_LEVEL_PLAIN;
    else if (cap && !strcmp(cap, "avx2"))
        level = CHECKSUM_LEVEL_AVX2;
    checksum_select(level);
}

/* ---- what others call ----------------------------------------------------- */

/* Partial sum of n bytes that start at an even offset of the whole. An odd last byte
 * counts as if a zero byte followed (RFC 1071 section 1). */
static inline uint32_t checksum_partial(const void *p, size_t n)
{
    if (n < CHECKSUM_INLINE_MAX)
        return checksum_fold32_(checksum_small_(NULL, NULL, p, n));
    return checksum_ops_->sum(p, n);
}

/* Copy n bytes and return their partial sum, in one pass. The regions do not overlap. */
static inline uint32_t checksum_and_copy(void *dst, const void *src, size_t n)
{
    if (n < CHECKSUM_INLINE_MAX)
        return checksum_fold32_(checksum_small_(dst, NULL, src, n));
    return checksum_ops_->copy(dst, src, n);
}

/* The same into two places: a ring slot and the send buffer. */
static inline uint32_t checksum_and_copy2(void *dst, void *dst2, const void *src, size_t n)
{
    if (n < CHECKSUM_INLINE_MAX)
        return checksum_fold32_(checksum_small_(dst, dst2, src, n));
    return checksum_ops_->copy2(dst, dst2, src, n);
}

/* Copy n bytes. The regions do not overlap. */
static inline void copy_bytes(void *dst, const void *src, size_t n) { memcpy(dst, src, n); }

#endif
