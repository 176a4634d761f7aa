/* Checksum-and-copy beside memcpy and memcpy-then-sum, interleaved in one run.
 *
 *     cc -O2 -Inetstack/include bench/c/checksum_bench.c -o checksum_bench
 *     ./checksum_bench [--rounds 31] [--level best|baseline|avx2|avx512|avx512vnni|neon] [--shift 0] [--cold MIB] [SIZE ...]
 *     ./checksum_bench --once copy|copy2|sum|memcpy|memcpy_sum|none SIZE COUNT     (for callgrind)
 *
 * Every round times each operation for about 50 us, in rotating order, so that what the
 * machine does meanwhile hits all of them. A line of JSON per size: median ns of each
 * operation, and median, least and greatest ratio to memcpy of the same round.
 * --shift moves source and destination off their 64-byte lines; --cold walks over so much memory.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "netstack/inet_checksum.h"

enum { MEMCPY, COPY, COPY2, SUM, MEMCPY_SUM, COPY_BYTES, MEMCPY2_SUM, COPY2_NT, OPS };
static const char *const names[OPS] = {"memcpy", "copy", "copy2", "sum", "memcpy_sum", "copy_bytes", "memcpy2_sum",
                                       "copy2_nt"};

static uint8_t *src, *dst, *dst2, *line;
static size_t span = 0, step = 0;   /* cold: walk in steps over span, */
static size_t walked[OPS];          /* every operation from where it stopped, far from the others */
static volatile uint32_t sink;

#define LOOP(body)                                                          \
    for (; count--; at = at + step > span ? 0 : at + step) {                \
        const uint8_t *s = src + at;                                        \
        uint8_t *d = dst + at, *d2 = dst2 + at;                             \
        (void)d, (void)d2, (void)s;                                         \
        body;                                                               \
        __asm__ volatile("" ::: "memory");                                  \
    }

static __attribute__((noinline)) void work(int op, size_t n, size_t count)
{
    uint32_t total = 0;
    size_t at = walked[op] > span ? 0 : walked[op];
    switch (op) {
    case MEMCPY: LOOP(memcpy(d, s, n)) break;
    case COPY: LOOP(total += checksum_and_copy(d, s, n)) break;
    case COPY2: LOOP(total += checksum_and_copy2(d, d2, s, n)) break;
    case SUM: LOOP(total += checksum_partial(s, n)) break;
    case MEMCPY_SUM: LOOP(memcpy(d, s, n); total += checksum_partial(d, n)) break;
    case COPY_BYTES: LOOP(copy_bytes(d, s, n)) break;
    case MEMCPY2_SUM: LOOP(memcpy(d, s, n); memcpy(d2, s, n); total += checksum_partial(d, n)) break;
    case COPY2_NT: LOOP(total += checksum_and_copy2_nt(line + at, d2, s, n)) checksum_store_fence(); break;
    }
    walked[op] = at;
    sink = total;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static const char *const levels[] = {"baseline", "avx2", "avx512", "avx512vnni", "neon"};

static void measure(size_t n, int rounds, size_t shift)
{
    static double ns[OPS][1001], ratio[1001];
    step = span ? (n + 63 + shift) / 64 * 64 : 0;
    size_t count = 1 + (size_t)(50e-6 / (n * 0.03e-9 + 3e-9));
    for (int op = 0; op < OPS; op++)
        work(op, n, count);
    for (int r = 0; r < rounds; r++)
        for (int k = 0; k < OPS; k++) {
            int op = (k + r) % OPS;
            double t = seconds();
            work(op, n, count);
            ns[op][r] = (seconds() - t) * 1e9 / (double)count;
        }
    printf("{\"size\": %zu, \"level\": \"%s\", \"shift\": %zu, \"cold_mib\": %zu, \"rounds\": %d", n,
           levels[checksum_level()], shift, span >> 20, rounds);
    for (int op = 0; op < OPS; op++) {
        if (op != MEMCPY) {
            for (int r = 0; r < rounds; r++)
                ratio[r] = ns[op][r] / ns[MEMCPY][r];
            double m = median(ratio, rounds);
            printf(", \"%s_ratio\": [%.3f, %.3f, %.3f]", names[op], m, ratio[0], ratio[rounds - 1]);
        }
    }
    for (int op = 0; op < OPS; op++)
        printf(", \"%s_ns\": %.2f", names[op], median(ns[op], rounds));
    puts("}");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    int rounds = 31, i = 1;
    size_t shift = 0, cold = 0;
    const char *once = NULL;
    for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
        if (!strcmp(argv[i], "--rounds"))
            rounds = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--shift"))
            shift = strtoul(argv[i + 1], NULL, 0) % 64;
        else if (!strcmp(argv[i], "--cold"))
            cold = strtoul(argv[i + 1], NULL, 0) << 20;
        else if (!strcmp(argv[i], "--once"))
            once = argv[i + 1];
        else if (!strcmp(argv[i], "--level")) {
            for (int l = 0; l < 4; l++)
                if (!strcmp(argv[i + 1], levels[l]) && checksum_select(l) != l)
                    return fprintf(stderr, "this machine lacks %s\n", levels[l]), 2;
        } else
            return fprintf(stderr, "unknown option %s\n", argv[i]), 2;
    }
    if (rounds < 1 || rounds > 1001)
        return fprintf(stderr, "--rounds: 1 to 1001\n"), 2;
    size_t room = (1 << 20) + (cold ? cold : 0);
    src = (uint8_t *)aligned_alloc(4096, room) + shift;
    dst = (uint8_t *)aligned_alloc(4096, room) + shift * 3 % 64;
    dst2 = (uint8_t *)aligned_alloc(4096, room) + shift * 5 % 64;
    line = dst - shift * 3 % 64;   /* non-temporal stores want whole lines */
    memset(src, 1, room - 64);
    memset(dst, 2, room - 64);
    memset(dst2, 3, room - 64);
    if (once) {
        size_t n = i < argc ? strtoul(argv[i], NULL, 0) : 1460, count = i + 1 < argc ? strtoul(argv[i + 1], NULL, 0) : 1;
        for (int op = 0; op < OPS; op++)
            if (!strcmp(once, names[op]) && n < 1 << 20)
                work(op, n, count);
        return 0;
    }
    span = cold;
    for (size_t op = 0; op < OPS; op++)
        walked[op] = span / OPS * op / 64 * 64;
    static const size_t sizes[] = {20, 40, 64, 128, 256, 536, 1448, 1460, 4096, 8960, 65483};
    if (i == argc)
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
            measure(sizes[k], rounds, shift);
    for (; i < argc; i++)
        if (strtoul(argv[i], NULL, 0) - 1 < (1 << 20) - 256)
            measure(strtoul(argv[i], NULL, 0), rounds, shift);
    return 0;
}
