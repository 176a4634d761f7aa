/* sigbus_guard.h - survives the truncation of shared memory by the process at its other end (Linux).
 *
 * Whoever holds the descriptor of a shared memory object without seals can shorten it; the pages behind
 * its new end then kill every process that touches them, by SIGBUS. Here the ranges that are mapped so
 * are kept in a table. A fault inside one of them puts a private page in the place of the lost one,
 * marks the range `lost`, counts, and lets the instruction run again. The page is all ones: as an index
 * or a record header of a ring that is impossible, so a ring finds itself poisoned where it next looks.
 *
 * Any other SIGBUS goes to whoever handled it before, and kills as it would have.
 *
 * The handler calls nothing but mmap, mprotect, madvise, sigaction, getpid and raise, takes no lock and
 * reads the table without one: entries are published by their start and never freed. Whoever changes the
 * table or installs the handler holds a lock of his own. The state is static: one module of a program
 * includes this header.
 *
 * Another handler that is installed on top later (Python's faulthandler) and passes the signal on by
 * raise() takes the fault's address away: then all ranges are looked through for pages that are gone.
 * sigbus_guard_install() goes back on top, and passes on to the handler that it found there.
 */
#ifndef RINGS_SIGBUS_GUARD_H
#define RINGS_SIGBUS_GUARD_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14; older kernels say EINVAL */
#endif

#define SIGBUS_GUARD_CHUNK 256 /* ranges; the table grows by as many */

typedef struct sigbus_range {
	_Atomic uintptr_t start; /* 0: free */
	_Atomic size_t size;
	_Atomic uint32_t writable;
	_Atomic uint32_t lost;          /* some page of it is gone; stays so until the range is removed */
	struct sigbus_range *next_free; /* belongs to whoever holds the lock */
} sigbus_range_t;

typedef struct sigbus_chunk {
	sigbus_range_t ranges[SIGBUS_GUARD_CHUNK];
	_Atomic(struct sigbus_chunk *) next;
} sigbus_chunk_t;

static struct {
	sigbus_chunk_t first;
	sigbus_range_t *free;
	uint32_t used; /* ranges of the last chunk that were ever given out */
	sigbus_chunk_t *last;
	uintptr_t page_bytes;
	_Atomic uint64_t losses;    /* pages replaced */
	struct sigaction before;    /* who handled SIGBUS before us */
	struct sigaction displaced; /* who had put himself on top when we went back */
	_Atomic int has_displaced;
	_Atomic int passing; /* a signal is with `displaced`: if it comes back, it is for `before` */
	bool installed;
} sigbus_guard;

static inline sigbus_range_t *sigbus_guard_find(uintptr_t address)
{
	sigbus_chunk_t *chunk = &sigbus_guard.first;

	/* Acquire: pairs with the release of a new chunk in sigbus_guard_add(). */
	for (; chunk; chunk = atomic_load_explicit(&chunk->next, memory_order_acquire)) {
		for (int i = 0; i < SIGBUS_GUARD_CHUNK; i++) {
			sigbus_range_t *r = &chunk->ranges[i];
			/* Acquire: pairs with the release in sigbus_guard_add(), so size belongs to start. */
			uintptr_t start = atomic_load_explicit(&r->start, memory_order_acquire);

			if (start && address - start < atomic_load_explicit(&r->size, memory_order_relaxed))
				return r;
		}
	}
	return NULL;
}

/* A page of ones where one is gone. False: no memory, or too many mappings. */
static inline bool sigbus_guard_replace(sigbus_range_t *r, uintptr_t page)
{
	void *fresh = mmap((void *)page, sigbus_guard.page_bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if (fresh == MAP_FAILED)
		return false;
	memset(fresh, 0xff, sigbus_guard.page_bytes);
	if (!atomic_load_explicit(&r->writable, memory_order_relaxed))
		mprotect(fresh, sigbus_guard.page_bytes, PROT_READ);
	atomic_store_explicit(&r->lost, 1, memory_order_relaxed);
	/* Release: whoever sees the count sees the mark. */
	atomic_fetch_add_explicit(&sigbus_guard.losses, 1, memory_order_release);
	return true;
}

/* Is the memory gone? madvise reports what a touch would die of. */
static inline bool sigbus_guard_gone(uintptr_t start, size_t size)
{
	return madvise((void *)start, size, MADV_POPULATE_READ) != 0 && errno == EFAULT;
}

/* A signal without an address: replaces every page of every range that is gone. True if there was one. */
static inline bool sigbus_guard_search(void)
{
	sigbus_chunk_t *chunk = &sigbus_guard.first;
	uint64_t before = atomic_load_explicit(&sigbus_guard.losses, memory_order_relaxed);

	for (; chunk; chunk = atomic_load_explicit(&chunk->next, memory_order_acquire)) {
		for (int i = 0; i < SIGBUS_GUARD_CHUNK; i++) {
			sigbus_range_t *r = &chunk->ranges[i];
			uintptr_t start = atomic_load_explicit(&r->start, memory_order_acquire);
			size_t size = atomic_load_explicit(&r->size, memory_order_relaxed);

			if (!start || !sigbus_guard_gone(start, size))
				continue;
			for (uintptr_t page = start; page - start < size; page += sigbus_guard.page_bytes)
				if (sigbus_guard_gone(page, sigbus_guard.page_bytes))
					sigbus_guard_replace(r, page);
		}
	}
	return atomic_load_explicit(&sigbus_guard.losses, memory_order_relaxed) != before;
}

/* Not ours: to the handler that was there before, or the end of the process. */
static inline void sigbus_guard_pass_on(int number, siginfo_t *info, void *context)
{
	int nested = atomic_exchange(&sigbus_guard.passing, 1);
	bool above = !nested && atomic_load_explicit(&sigbus_guard.has_displaced, memory_order_acquire);
	struct sigaction next = above ? sigbus_guard.displaced : sigbus_guard.before;

	if (next.sa_handler == SIG_DFL || next.sa_handler == SIG_IGN) {
		/* A fault cannot be ignored. It comes again by itself; what was sent is sent again. */
		if (next.sa_handler == SIG_DFL || info->si_code > 0) {
			struct sigaction end = {.sa_handler = SIG_DFL};

			sigaction(number, &end, NULL);
			if (info->si_code <= 0)
				raise(number);
		}
	} else if (next.sa_flags & SA_SIGINFO) {
		next.sa_sigaction(number, info, context);
	} else {
		next.sa_handler(number);
	}
	/* A handler that comes back from a fault has mended nothing (faulthandler, when it was disabled
	 * meanwhile): the next time it is the turn of the one before. */
	if (above && info->si_code > 0)
		atomic_store_explicit(&sigbus_guard.has_displaced, 0, memory_order_relaxed);
	if (!nested)
		atomic_store(&sigbus_guard.passing, 0);
}

static inline void sigbus_guard_handle(int number, siginfo_t *info, void *context)
{
	int saved = errno;
	bool mended = false;

	if (info->si_code > 0) {
		uintptr_t address = (uintptr_t)info->si_addr;
		sigbus_range_t *r = sigbus_guard_find(address);

		mended = r && sigbus_guard_replace(r, address & ~(sigbus_guard.page_bytes - 1));
	} else if (info->si_code == SI_TKILL && info->si_pid == getpid()) {
		mended = sigbus_guard_search();
	}
	if (!mended)
		sigbus_guard_pass_on(number, info, context);
	errno = saved;
}

/* Handles SIGBUS from now on, on top of who does so far. Does nothing while that is so already. 0 or errno. */
static inline int sigbus_guard_install(void)
{
	struct sigaction ours, found;

	if (sigaction(SIGBUS, NULL, &found) != 0)
		return errno;
	if ((found.sa_flags & SA_SIGINFO) && found.sa_sigaction == sigbus_guard_handle)
		return 0;
	if (!sigbus_guard.installed) {
		sigbus_guard.page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
		sigbus_guard.last = &sigbus_guard.first;
		sigbus_guard.before = found;
	} else {
		atomic_store_explicit(&sigbus_guard.has_displaced, 0, memory_order_relaxed);
		sigbus_guard.displaced = found;
		atomic_store_explicit(&sigbus_guard.has_displaced, 1, memory_order_release);
	}
	memset(&ours, 0, sizeof ours);
	ours.sa_sigaction = sigbus_guard_handle;
	/* NODEFER: a handler that we pass on to may raise again, to end the process. */
	ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
	sigemptyset(&ours.sa_mask);
	if (sigaction(SIGBUS, &ours, NULL) != 0)
		return errno;
	sigbus_guard.installed = true;
	return 0;
}

/* From now on the loss of pages of this range is survived. After a successful install; NULL: no memory. */
static inline sigbus_range_t *sigbus_guard_add(const void *start, size_t size, bool writable)
{
	sigbus_range_t *r = sigbus_guard.free;

	if (r) {
		sigbus_guard.free = r->next_free;
	} else {
		if (sigbus_guard.used == SIGBUS_GUARD_CHUNK) {
			sigbus_chunk_t *chunk = calloc(1, sizeof *chunk);

			if (!chunk)
				return NULL;
			atomic_store_explicit(&sigbus_guard.last->next, chunk, memory_order_release);
			sigbus_guard.last = chunk;
			sigbus_guard.used = 0;
		}
		r = &sigbus_guard.last->ranges[sigbus_guard.used++];
	}
	atomic_store_explicit(&r->size, size, memory_order_relaxed);
	atomic_store_explicit(&r->writable, writable, memory_order_relaxed);
	atomic_store_explicit(&r->lost, 0, memory_order_relaxed);
	atomic_store_explicit(&r->start, (uintptr_t)start, memory_order_release);
	return r;
}

/* Before the range is unmapped; nobody touches it any more. */
static inline void sigbus_guard_remove(sigbus_range_t *r)
{
	atomic_store_explicit(&r->start, 0, memory_order_release);
	r->next_free = sigbus_guard.free;
	sigbus_guard.free = r;
}

#endif
