/* Another process rewrites the source while it is summed and copied.
 *
 *     hostile_writer LEVEL MODE SEGMENTS
 *
 * A segment is accepted when the sum computed during the copy is the right one; a wrong
 * delivery is an accepted segment whose delivered bytes do not have that sum. Modes:
 *     copy, copy2, copy2_nt   ours: must never deliver wrong
 *     sum_first     mutant: sum the shared bytes, then copy them
 *     overlap       mutant: the last 32 bytes are loaded once more and stored
 * A mutant stops at its tenth wrong delivery. Prints a line of JSON.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "netstack/inet_checksum.h"

enum { ROOM = 4096, ENOUGH = 10 };
/* Word by word, over vector edges, with odd tails, and below the inline limit. */
static const size_t lengths[] = {1448, 1460, 1447, 536, 333, 200, 127, 61, 40};

static void spin(unsigned n)
{
    while (n--)
        __asm__ volatile("" ::: "memory");
}

/* Flip one byte within the first n, leave it so for a moment, put it back. n is told by the reader. */
static _Noreturn void rewrite(volatile uint8_t *p, volatile size_t *length)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (uint32_t x = 1;; x = x * 1664525 + 1013904223) {
        size_t n = *length;
        volatile uint8_t *at = x & 1 ? p + (x >> 8) % n : p + n - 1 - (x >> 8) % (n < 40 ? n : 40);
        uint8_t was = *at;
        *at = was ^ 0x5a;
        spin((x >> 24) & 127);
        *at = was;
        spin((x >> 20) & 255);
    }
}

static uint32_t sum_first(uint8_t *d, const uint8_t *s, size_t n)
{
    uint32_t sum = checksum_partial(s, n);
    memcpy(d, s, n);
    return sum;
}

static uint32_t overlap(uint8_t *d, const uint8_t *s, size_t n)
{
    uint32_t sum = checksum_and_copy(d, s, n);
    __asm__ volatile("" ::: "memory");
    if (n >= 32)
        memcpy(d + n - 32, s + n - 32, 32);
    return sum;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    int level = atoi(argv[1]), mutant = 0;
    const char *mode = argv[2];
    long segments = atol(argv[3]), rejected = 0, accepted = 0, wrong = 0, i;
    if (checksum_select(level) != level)
        return 2;
    uint8_t *shared = mmap(NULL, 2 * ROOM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    volatile size_t *length = (volatile size_t *)(shared + ROOM);
    static uint8_t one[ROOM], two[ROOM], line[ROOM] __attribute__((aligned(64)));
    if (shared == MAP_FAILED)
        return 2;
    for (size_t k = 0; k < ROOM; k++)
        shared[k] = (uint8_t)rand();
    uint16_t good[sizeof lengths / sizeof *lengths];
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++)
        good[k] = checksum_fold(checksum_partial(shared + k, lengths[k]));
    *length = lengths[0];
    pid_t writer = fork();
    if (writer == 0)
        rewrite(shared, length);
    mutant = !strcmp(mode, "sum_first") || !strcmp(mode, "overlap");
    for (i = 0; i < segments && !(mutant && wrong >= ENOUGH); i++) {
        size_t k = (size_t)(i >> 10) % (sizeof lengths / sizeof *lengths), n = lengths[k];
        const uint8_t *s = shared + k;   /* each length at another alignment */
        *length = n;
        uint32_t sum;
        if (!strcmp(mode, "copy"))
            sum = checksum_and_copy(one + i % 64, s, n);
        else if (!strcmp(mode, "copy2"))
            sum = checksum_and_copy2(one + i % 64, two + i % 61, s, n);
        else if (!strcmp(mode, "copy2_nt")) {
            sum = checksum_and_copy2_nt(line, one + i % 64, s, n);
            if (memcmp(line, one + i % 64, n))
                wrong++;
        } else if (!strcmp(mode, "sum_first"))
            sum = sum_first(one + i % 64, s, n);
        else
            sum = overlap(one + i % 64, s, n);
        if (checksum_fold(sum) != good[k]) {
            rejected++;
            continue;
        }
        accepted++;
        if (checksum_fold(checksum_partial(one + i % 64, n)) != good[k])
            wrong++;
        if (!strcmp(mode, "copy2") && memcmp(one + i % 64, two + i % 61, n))
            wrong++;
    }
    kill(writer, SIGKILL);
    waitpid(writer, NULL, 0);
    printf("{\"segments\": %ld, \"accepted\": %ld, \"rejected\": %ld, \"wrong\": %ld}\n", i, accepted, rejected, wrong);
    return 0;
}
