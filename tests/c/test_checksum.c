/* inet_checksum.h against a six-line oracle: every alignment and length, every level. */
#include <stdio.h>
#include <stdlib.h>

#include "netstack/inet_checksum.h"

static unsigned oracle(const uint8_t *p, size_t n)
{
    unsigned long sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += i & 1 ? p[i] : (unsigned long)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (unsigned)sum;
}

#define CHECK(cond, ...)                                                \
    do {                                                                \
        if (!(cond)) {                                                  \
            printf("line %d: %s: ", __LINE__, #cond);                   \
            printf(__VA_ARGS__);                                        \
            putchar('\n');                                              \
            exit(1);                                                    \
        }                                                               \
    } while (0)

enum { GUARD = 64, MAX = 700 };
static uint8_t src[MAX + 3 * GUARD];
static uint8_t one[MAX + 3 * GUARD] __attribute__((aligned(64))), two[MAX + 3 * GUARD];

/* dst holds exactly n copied bytes at `at`, and nothing around them was touched. */
static int copied(const uint8_t *dst, size_t at, const uint8_t *from, size_t n)
{
    for (size_t i = 0; i < at; i++)
        if (dst[i] != 0xa5)
            return 0;
    for (size_t i = at + n; i < sizeof one; i++)
        if (dst[i] != 0xa5)
            return 0;
    return memcmp(dst + at, from, n) == 0;
}

static void every_alignment_and_length(int level)
{
    for (size_t n = 0; n <= MAX; n++)
        for (size_t shift = 0; shift < GUARD; shift += n < 200 ? 1 : 7) {
            const uint8_t *s = src + shift;
            size_t at = (shift * 5 + n) % GUARD, at2 = (shift * 3 + 1) % GUARD;
            unsigned want = oracle(s, n);
            CHECK(be16_to_host(checksum_fold(checksum_partial(s, n))) == want, "level %d n %zu", level, n);
            memset(one, 0xa5, sizeof one);
            CHECK(be16_to_host(checksum_fold(checksum_and_copy(one + at, s, n))) == want, "level %d n %zu", level, n);
            CHECK(copied(one, at, s, n), "level %d n %zu shift %zu", level, n, shift);
            memset(one, 0xa5, sizeof one);
            memset(two, 0xa5, sizeof two);
            CHECK(be16_to_host(checksum_fold(checksum_and_copy2(one + at, two + at2, s, n))) == want,
                  "level %d n %zu", level, n);
            CHECK(copied(one, at, s, n) && copied(two, at2, s, n), "level %d n %zu shift %zu", level, n, shift);
            size_t line = at / 64 * 64, written = (n + 63) / 64 * 64;
            memset(one, 0xa5, sizeof one);
            memset(two, 0xa5, sizeof two);
            uint32_t sum = checksum_and_copy2_nt(one + line, two + at2, s, n);
            checksum_store_fence();
            CHECK(be16_to_host(checksum_fold(sum)) == want, "level %d n %zu", level, n);
            CHECK(memcmp(one + line, s, n) == 0 && copied(two, at2, s, n), "level %d n %zu", level, n);
            memset(one + line + n, 0xa5, written - n);   /* the rest of the last line means nothing */
            CHECK(copied(one, line, s, n), "level %d n %zu shift %zu", level, n, shift);
            memset(one, 0xa5, sizeof one);
            copy_bytes(one + at, s, n);
            CHECK(copied(one, at, s, n), "level %d n %zu shift %zu", level, n, shift);
        }
}

static void extremes(int level)
{
    enum { BIG = 1 << 20 };
    uint8_t *big = malloc(BIG + 1), *to = malloc(BIG + 1);
    memset(big, 0xff, BIG + 1);   /* the most carries there can be */
    CHECK(checksum_fold(checksum_partial(big, BIG)) == 0xffff, "level %d", level);
    CHECK(checksum_fold(checksum_and_copy(to, big, BIG)) == 0xffff, "level %d", level);
    CHECK(be16_to_host(checksum_fold(checksum_partial(big, BIG + 1))) == oracle(big, BIG + 1), "level %d", level);
    memset(big, 0, BIG + 1);
    CHECK(checksum_partial(big, BIG) == 0, "level %d", level);
    big[BIG - 1] = 1;
    CHECK(be16_to_host(checksum_fold(checksum_partial(big, BIG))) == 1, "level %d", level);
    free(big);
    free(to);
}

static void combine_at_any_offset(int level)
{
    for (size_t n = 0; n < 200; n++)
        for (size_t cut = 0; cut <= n; cut++) {
            uint32_t sum = checksum_combine(checksum_partial(src, cut), checksum_partial(src + cut, n - cut), cut);
            CHECK(be16_to_host(checksum_fold(sum)) == oracle(src, n), "level %d n %zu cut %zu", level, n, cut);
        }
}

static void pseudo_headers(void)
{
    static const uint8_t v4[] = {10, 77, 0, 1, 192, 168, 250, 3, 0, 6, 0x12, 0x34};
    uint32_t sum = checksum_pseudo_ipv4(load_native32(v4), load_native32(v4 + 4), 6, 0x1234);
    CHECK(be16_to_host(checksum_fold(sum)) == oracle(v4, sizeof v4), "ipv4");
    uint8_t v6[40];
    for (int i = 0; i < 32; i++)
        v6[i] = (uint8_t)(i * 37 + 200);
    store_be32(v6 + 32, 0x12345678);
    store_be32(v6 + 36, 58);
    sum = checksum_pseudo_ipv6(v6, v6 + 16, 58, 0x12345678);
    CHECK(be16_to_host(checksum_fold(sum)) == oracle(v6, sizeof v6), "ipv6");
}

/* RFC 1624 section 4: the example that equation 2 gets wrong, and random words. */
static void incremental_update(void)
{
    CHECK(be16_to_host(checksum_update16(host_to_be16(0xdd2f), host_to_be16(0x5555), host_to_be16(0x3285))) == 0x0000,
          "RFC 1624 section 4");
    uint8_t packet[40];
    for (int round = 0; round < 20000; round++) {
        for (size_t i = 0; i < sizeof packet; i++)
            packet[i] = (uint8_t)rand();
        store_native16(packet + 10, 0);
        store_native16(packet + 10, checksum_finish(checksum_partial(packet, sizeof packet)));
        uint32_t new_ = (uint32_t)rand();
        store_native16(packet + 10, checksum_update32(load_native16(packet + 10), load_native32(packet + 12), new_));
        store_native32(packet + 12, new_);
        store_native16(packet + 10, checksum_update16(load_native16(packet + 10), load_native16(packet + 22), (uint16_t)new_));
        store_native16(packet + 22, (uint16_t)new_);
        CHECK(oracle(packet, sizeof packet) == 0xffff, "round %d", round);
    }
}

int main(void)
{
    for (size_t i = 0; i < sizeof src; i++)
        src[i] = (uint8_t)rand();
    static const int levels[] = {CHECKSUM_LEVEL_PLAIN, CHECKSUM_LEVEL_AVX2, CHECKSUM_LEVEL_AVX512,
                                 CHECKSUM_LEVEL_AVX512VNNI, CHECKSUM_LEVEL_NEON};
    int best = checksum_level();
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        if (checksum_select(levels[i]) != levels[i])
            continue;
        every_alignment_and_length(levels[i]);
        extremes(levels[i]);
        combine_at_any_offset(levels[i]);
        printf("level %d ok%s\n", levels[i], levels[i] == best ? " (best)" : "");
    }
    CHECK(checksum_select(CHECKSUM_LEVEL_BEST) == best, "best");
    pseudo_headers();
    incremental_update();
    puts("ok");
    return 0;
}
