/* failing_malloc.c - LD_PRELOAD: the k-th allocation of netstack's and rings' own modules fails, and what they have not
 * given back is counted. Allocations of the interpreter and of other libraries are left alone.
 *
 * failing_arm(k) makes the k-th from now on fail (0: none), failing_asked() says how many there were since,
 * failing_live() how many blocks of theirs below LARGE are not free, and failing_large() how many bytes the others have.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void __libc_free(void *);

#define PLACES 4096   /* callers that were looked up */
#define BLOCKS 262144 /* a power of two: live blocks */
#define LARGE 4096    /* bytes: buffers of connections are, and tables that have grown */

static struct {
	uintptr_t address;
	bool ours;
} places[PLACES];
static void *blocks[BLOCKS];
static long live, large, asked, fail_at;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread bool inside;

static bool is_ours(void *caller)
{
	uintptr_t address = (uintptr_t)caller;
	unsigned i = address * 0x9E3779B97F4A7C15ull >> 52;
	Dl_info info;

	if (places[i].address != address) {
		inside = true; /* dladdr may allocate */
		places[i].ours = dladdr(caller, &info) && info.dli_fname &&
				 (strstr(info.dli_fname, "/netstack/") || strstr(info.dli_fname, "/rings/"));
		inside = false;
		places[i].address = address;
	}
	return places[i].ours;
}

static unsigned place_of(const void *block)
{
	return (unsigned)((uintptr_t)block * 0x9E3779B97F4A7C15ull >> 40) & (BLOCKS - 1);
}

static void count(void *block, long times)
{
	size_t size = malloc_usable_size(block); /* as asked for, rounded up by 24 bytes at most */

	if (size < LARGE)
		live += times;
	else
		large += times * (long)size;
}

static void note(void *block)
{
	unsigned i;

	if (!block)
		return;
	for (i = place_of(block); blocks[i]; i = (i + 1) & (BLOCKS - 1))
		;
	blocks[i] = block;
	count(block, 1);
}

static bool forget(void *block)
{
	unsigned i, j, home;

	for (i = place_of(block); blocks[i] != block; i = (i + 1) & (BLOCKS - 1))
		if (!blocks[i])
			return false;
	count(block, -1);
	for (j = (i + 1) & (BLOCKS - 1); blocks[j]; j = (j + 1) & (BLOCKS - 1)) {
		home = place_of(blocks[j]);
		if (((j - home) & (BLOCKS - 1)) >= ((j - i) & (BLOCKS - 1))) {
			blocks[i] = blocks[j];
			i = j;
		}
	}
	blocks[i] = NULL;
	return true;
}

static bool fails(void)
{
	return ++asked == fail_at;
}

#define OURS(caller) (!inside && is_ours(caller))

void *malloc(size_t size)
{
	void *block = NULL;

	if (!OURS(__builtin_return_address(0)))
		return __libc_malloc(size);
	pthread_mutex_lock(&lock);
	if (!fails())
		note(block = __libc_malloc(size));
	pthread_mutex_unlock(&lock);
	return block;
}

void *calloc(size_t n, size_t size)
{
	void *block = NULL;

	if (!OURS(__builtin_return_address(0)))
		return __libc_calloc(n, size);
	pthread_mutex_lock(&lock);
	if (!fails())
		note(block = __libc_calloc(n, size));
	pthread_mutex_unlock(&lock);
	return block;
}

void *realloc(void *old, size_t size)
{
	void *block = NULL;

	if (!OURS(__builtin_return_address(0)))
		return __libc_realloc(old, size);
	pthread_mutex_lock(&lock);
	if (!fails()) {
		bool known = old && forget(old);

		block = __libc_realloc(old, size);
		if (block)
			note(block);
		else if (known)
			note(old);
	}
	pthread_mutex_unlock(&lock);
	return block;
}

void free(void *block)
{
	if (!block)
		return;
	if (OURS(__builtin_return_address(0))) {
		pthread_mutex_lock(&lock);
		forget(block);
		pthread_mutex_unlock(&lock);
	}
	__libc_free(block);
}

void failing_arm(long k)
{
	pthread_mutex_lock(&lock);
	asked = 0;
	fail_at = k;
	pthread_mutex_unlock(&lock);
}

long failing_asked(void)
{
	return asked;
}

long failing_live(void)
{
	return live;
}

long failing_large(void)
{
	return large;
}
