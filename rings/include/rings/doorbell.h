/* doorbell.h - how the two ends of a ring put each other to sleep and wake each other (Linux).
 *
 * A kick is a hint: any number of spurious or missing ones costs latency, never data. Two mechanisms:
 *
 *  - eventfd, when both processes belong to one owner: one fd per kind of sleeper, usable in poll,
 *    epoll and asyncio. (A peer that holds an eventfd can make a write to it block; between strangers
 *    only the router's rule applies: it never reads and never writes one that a stack holds.)
 *  - futex on the waker's own `bell` word, which the waker alone writes. The wait is capped at 50 ms,
 *    because a peer that can map the page can also requeue its waiters.
 *
 * Spinning first: a wake-up costs the waker about 7 us and the message 16 to 29 us.
 */
#ifndef RINGS_DOORBELL_H
#define RINGS_DOORBELL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "rings/spsc_ring.h"

#define DOORBELL_FUTEX_SLICE_NS 50000000ll /* longest futex wait between two looks at the ring */

static inline int64_t doorbell_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---------------------------------------------------------------- eventfd */

static inline int doorbell_create(void)
{
	return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

/* Wakes whoever waits on fd. A counter that is full already means "awake". */
static inline void doorbell_kick(int fd)
{
	uint64_t one = 1;

	while (write(fd, &one, sizeof one) < 0 && errno == EINTR)
		;
}

/* Takes back the kicks: true if there was one. */
static inline bool doorbell_drain(int fd)
{
	uint64_t count;
	ssize_t n;

	do
		n = read(fd, &count, sizeof count);
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)sizeof count;
}

/* The producer's end of turn: publish, say where we run, kick the sleeper of its kind.
 * fds[kind] is the eventfd of that kind (index 1 leader, 2 service), -1 = none. */
static inline void doorbell_flush(ring_producer_t *p, const int fds[4])
{
	uint32_t kind;

	ring_set_cpu(p, sched_getcpu());
	if (RING_UNLIKELY(ring_flush_needs_kick(p, &kind)) && fds[kind] >= 0)
		doorbell_kick(fds[kind]);
}

/* The consumer's end of turn: kick a producer that sleeps for space. */
static inline void doorbell_space(ring_consumer_t *c, const int fds[4])
{
	uint32_t kind;

	if (RING_UNLIKELY(ring_space_needs_kick(c, &kind)) && fds[kind] >= 0)
		doorbell_kick(fds[kind]);
}

/* ---------------------------------------------------------------- futex */

static inline long doorbell_futex(const _Atomic uint32_t *word, int operation, uint32_t value,
				  const struct timespec *timeout)
{
	return syscall(SYS_futex, word, operation, value, timeout, NULL, 0);
}

/* Kicks a peer that waits with doorbell_wait_bell(): `mine` is the waker's own region. */
static inline void doorbell_ring_bell(ring_region_t *mine)
{
	uint32_t next = atomic_load_explicit(&mine->words.bell, memory_order_relaxed) + 1;

	atomic_store_explicit(&mine->words.bell, next, memory_order_release);
	doorbell_futex(&mine->words.bell, FUTEX_WAKE, INT32_MAX, NULL);
}

static inline uint32_t doorbell_bell(const ring_region_t *theirs)
{
	return atomic_load_explicit(&theirs->words.bell, memory_order_acquire);
}

/* Waits until the peer's bell differs from `seen` (read before arming), at most `wait_ns` and never
 * over 50 ms. Returns 0, or the errno ETIMEDOUT or EINTR; look at the ring in every case. */
static inline int doorbell_wait_bell(const ring_region_t *theirs, uint32_t seen, int64_t wait_ns)
{
	struct timespec t;

	if (wait_ns > DOORBELL_FUTEX_SLICE_NS)
		wait_ns = DOORBELL_FUTEX_SLICE_NS;
	if (wait_ns <= 0)
		return ETIMEDOUT;
	t.tv_sec = 0;
	t.tv_nsec = (long)wait_ns;
	if (doorbell_futex(&theirs->words.bell, FUTEX_WAIT, seen, &t) == 0 || errno == EAGAIN)
		return 0;
	return errno;
}

/* ---------------------------------------------------------------- spinning before sleeping */

/* How long to spin before a sleep. A hit restores the full budget; a miss halves it, and under an
 * eighth it is 0, tried again on every 16th wait: at most a sixteenth of the budget wasted per wait. */
typedef struct {
	int64_t full_ns;   /* 0: never spin */
	int64_t budget_ns;
	uint32_t skipped;
} doorbell_spin_t;

static inline void doorbell_spin_init(doorbell_spin_t *s, int64_t full_ns)
{
	s->full_ns = s->budget_ns = full_ns;
	s->skipped = 0;
}

static inline int64_t doorbell_spin_begin(doorbell_spin_t *s)
{
	if (s->budget_ns == 0 && s->full_ns && ++s->skipped >= 16) {
		s->skipped = 0;
		return s->full_ns;
	}
	return s->budget_ns;
}

static inline void doorbell_spin_end(doorbell_spin_t *s, int64_t spun_ns, bool hit)
{
	if (hit)
		s->budget_ns = s->full_ns;
	else if (spun_ns)
		s->budget_ns = s->budget_ns / 2 < s->full_ns / 8 ? 0 : s->budget_ns / 2;
}

/* One step of a spin: on the CPU where the peer last ran only giving way can help. */
static inline void doorbell_spin_step(int peer_cpu)
{
	if (peer_cpu >= 0 && peer_cpu == sched_getcpu())
		sched_yield();
	else
		cpu_relax();
}

/* Spins until the ring has something; true = it has. */
static inline bool doorbell_spin_for_data(doorbell_spin_t *s, ring_consumer_t *c)
{
	int64_t budget = doorbell_spin_begin(s), until;
	bool hit = false;

	if (!budget)
		return ring_has_data(c);
	until = doorbell_now_ns() + budget;
	do {
		int peer = ring_peer_cpu(c);

		for (int i = 0; i < 16 && !(hit = ring_has_data(c)); i++)
			doorbell_spin_step(peer);
	} while (!hit && doorbell_now_ns() < until);
	doorbell_spin_end(s, budget, hit);
	return hit;
}

/* Spins until the record that was refused last would fit; true = it would, or claim has news. */
static inline bool doorbell_spin_for_space(doorbell_spin_t *s, ring_producer_t *p)
{
	int64_t budget = doorbell_spin_begin(s), until = doorbell_now_ns() + budget;
	bool hit = false;

	do {
		for (int i = 0; i < 16; i++) {
			if ((hit = ring_free_bytes(p) >= p->wanted || p->state != RING_OK))
				break;
			cpu_relax();
		}
	} while (!hit && budget && doorbell_now_ns() < until);
	doorbell_spin_end(s, budget, hit);
	return hit;
}

/* ---------------------------------------------------------------- sleeping on file descriptors */

enum { DOORBELL_RUNG = 1, DOORBELL_OTHER = 2 };

/* Sleeps until fd (an eventfd, drained before return) or `other` (a pidfd or socket, -1 none) is
 * readable, or until the monotonic time until_ns. Returns a set of DOORBELL_RUNG and DOORBELL_OTHER,
 * 0 after the time or a signal, or -errno. */
static inline int doorbell_poll(int fd, int other, int64_t until_ns)
{
	struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = other, .events = POLLIN}};
	int64_t left = until_ns - doorbell_now_ns();
	struct timespec t = {0, 0};
	int n, result = 0;

	if (left > 0) {
		t.tv_sec = left / 1000000000;
		t.tv_nsec = left % 1000000000;
	}
	n = ppoll(p, 2, &t, NULL);
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (p[0].revents) {
		doorbell_drain(fd);
		result |= DOORBELL_RUNG;
	}
	if (p[1].revents)
		result |= DOORBELL_OTHER;
	return result;
}

#endif
