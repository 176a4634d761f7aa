/* ring_bench.h - what the harness (ring_bench.c) and the contestants share.
 *
 * A contestant lives in one piece of shared memory that both processes have mapped at the same place.
 * Its loops move n items and come back; the harness times them. */
#ifndef RING_BENCH_H
#define RING_BENCH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum bench_test { TEST_ONE, TEST_BATCH, TEST_REC64, TEST_REC1500, TEST_RTT, TEST_COUNT };

enum { BATCH = 32, VALUES = 1024, RECORDS_64 = 4096, RECORDS_1500 = 1024, SHARED_BYTES = 16 << 20 };

typedef struct {
	const char *name;
	size_t values; /* places of an 8-byte ring, --places */
	int publish_each;
} bench_options_t;

/* Two directions: [0] producer to consumer, [1] back (round trips only). */
typedef struct contestant {
	const char *name;
	/* Builds the queues for a test in `memory` (zeroed, page-aligned); 0 = this test is not offered. */
	int (*prepare)(struct contestant *self, void *memory, enum bench_test test, const bench_options_t *options);
	/* Both move items `first` .. first + n - 1. `buffer` has room for the largest record. */
	void (*produce)(struct contestant *self, enum bench_test test, uint64_t first, uint64_t n, uint8_t *buffer);
	/* Returns how many items were not what they should be. */
	uint64_t (*consume)(struct contestant *self, enum bench_test test, uint64_t first, uint64_t n, uint8_t *buffer);
	void *state;
} contestant_t;

extern contestant_t contestant_ours;
contestant_t *peer_contestant(const char *name); /* ring_peers.cpp; NULL = not compiled in */

#ifdef __cplusplus
}
#endif

static inline void bench_pause(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

#endif
