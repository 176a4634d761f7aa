/* cache_line.h - what the compiler must know about cache lines, spinning and likely branches.
 *
 * 64 bytes is the unit of coherence; 128 bytes is the distance between words of different writers,
 * because adjacent-line prefetchers pull lines in pairs.
 */
#ifndef RINGS_CACHE_LINE_H
#define RINGS_CACHE_LINE_H

#include <stdint.h>

#define CACHE_LINE_BYTES 64u
#define WRITER_SPACING_BYTES 128u

#define RING_LIKELY(condition) __builtin_expect(!!(condition), 1)
#define RING_UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/* One step of a spin loop: lets the sibling thread run and leaves the loop without a pipeline flush. */
static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
	__asm__ volatile("yield" ::: "memory");
#else
	__asm__ volatile("" ::: "memory");
#endif
}

#endif
