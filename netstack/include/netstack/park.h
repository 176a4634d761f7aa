/* park.h - a lock, a word to sleep on, and the fences between them: what Cython cannot say for the driver.
 *
 * All words here are private to one process. Nothing blocks except park_lock's slow way and park_wait.
 */
#ifndef NETSTACK_PARK_H
#define NETSTACK_PARK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PARK_LOCK_SPIN = 40 };            /* pauses before a waiter for the lock sleeps */
#define PARK_NEVER INT64_MAX

typedef struct { _Atomic uint32_t value; } park_word_t;
/* 0 free, 1 held, 2 held and somebody may sleep on it */
typedef struct { _Atomic uint32_t value; } park_lock_t;

static inline int64_t park_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static inline void park_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* The CPU we run on, or 0xfffffffe, which is no CPU's number and differs from "unknown" of a link. */
static inline uint32_t park_cpu(void)
{
    int cpu = sched_getcpu();
    return cpu < 0 ? 0xfffffffeu : (uint32_t)cpu;
}

/* --- the word: written and read by several threads; the lock of its driver orders most of it ------------------ */

static inline uint32_t park_load(park_word_t *w)
{
    return atomic_load_explicit(&w->value, memory_order_acquire);
}

static inline void park_store(park_word_t *w, uint32_t v)
{
    atomic_store_explicit(&w->value, v, memory_order_release);
}

static inline uint32_t park_add(park_word_t *w, uint32_t v)
{
    return atomic_fetch_add_explicit(&w->value, v, memory_order_acq_rel) + v;
}

/* Sleep while *w == expected, until `until` of CLOCK_MONOTONIC. 0 (also when spurious), EINTR, ETIMEDOUT or EAGAIN. */
static inline int park_wait(park_word_t *w, uint32_t expected, int64_t until)
{
    struct timespec ts, *limit = NULL;
    if (until != PARK_NEVER) {
        ts.tv_sec = until / 1000000000;
        ts.tv_nsec = until % 1000000000;
        limit = &ts;
    }
    long r = syscall(SYS_futex, (uint32_t *)&w->value, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, expected, limit, NULL,
                     FUTEX_BITSET_MATCH_ANY);
    return r < 0 ? errno : 0;
}

/* The address may be that of a waiter who has left meanwhile: the wake is then spurious for whoever sleeps there. */
static inline void park_wake(park_word_t *w)
{
    syscall(SYS_futex, (uint32_t *)&w->value, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
}

/* --- the lock --------------------------------------------------------------------------------------------------- */

static inline int park_try(park_lock_t *l)
{
    uint32_t free_ = 0;
    return atomic_compare_exchange_strong_explicit(&l->value, &free_, 1, memory_order_acquire, memory_order_relaxed);
}

/* Try for as long as a short holder may take: for callers that must not sleep (they hold the interpreter). */
static inline int park_try_hard(park_lock_t *l)
{
    if (__builtin_expect(park_try(l), 1))
        return 1;
    for (int i = 0; i < PARK_LOCK_SPIN; i++) {
        if (atomic_load_explicit(&l->value, memory_order_relaxed) == 0 && park_try(l))
            return 1;
        park_pause();
    }
    return 0;
}

static inline void park_lock(park_lock_t *l)
{
    if (park_try_hard(l))
        return;
    /* From here on we cannot know whether others sleep: take it as 2, so that our unlock wakes one. */
    while (atomic_exchange_explicit(&l->value, 2, memory_order_acquire) != 0)
        syscall(SYS_futex, (uint32_t *)&l->value, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 2, NULL, NULL, 0);
}

static inline void park_unlock(park_lock_t *l)
{
    if (__builtin_expect(atomic_exchange_explicit(&l->value, 0, memory_order_release) == 2, 0))
        syscall(SYS_futex, (uint32_t *)&l->value, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
}

#endif
