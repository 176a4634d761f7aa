/* ring_bench.c - one producer process, one consumer process, a core each: ours and other people's rings.
 *
 *   ring_bench ours|boost|dpdk|atomic_queue|machine --test one|batch|rec64|rec1500|rtt
 *              [--seconds S] [--json] [--publish each] [--places N] [--pin A,B]
 *
 * one, batch: 8-byte values, by one or 32 a call; rec64, rec1500: records copied in and out, M/s.
 * rtt: round trip, both spinning, ns; `machine --test rtt` is the bare ping-pong of two cache lines.
 * Prints the median of rounds of about 30 ms with its spread. `line_rtt_ns` is that ping-pong in this
 * run: it says how far apart the two CPUs sit, and figures of different distances cannot be compared.
 * Rounds in which either process lost its CPU are left out while there are others.
 * Values and records are published 32 at a time by themselves, as is the default of the API;
 * --publish each makes one publish per value.
 *
 * Build: cc -std=gnu11 -O3 -march=native -Irings/include -Ibench/c -c bench/c/ring_bench.c bench/c/ring_ours.c
 *        c++ -std=c++17 -O3 -march=native -DNDEBUG -Ibench/c [-DWITH_BOOST] [-DWITH_ATOMIC_QUEUE]
 *            [-DWITH_DPDK $(pkg-config --cflags libdpdk)] bench/c/ring_peers.cpp ring_bench.o ring_ours.o -o ring_bench
 *            [$(pkg-config --libs libdpdk)]       (libboost-dev, libatomic-queue-dev, dpdk-dev of Debian)
 *
 * Exit: 0 done, 2 usage, 3 this contestant is not built in or does not offer the test.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ring_bench.h"

typedef struct {
	_Alignas(128) _Atomic uint64_t ping;
	_Alignas(128) _Atomic uint64_t pong;
	_Alignas(128) _Atomic uint64_t order; /* round number * 2, + 1 for a ping-pong round */
	uint64_t first, n;
	_Alignas(128) _Atomic uint64_t done;
	int64_t ended_ns;
	uint64_t bad;
	long lost;
} control_t;

enum { ROUNDS = 4096, PINGS = 2000 };

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static long lost_cpu(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_nivcsw;
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof set, &set))
		perror("sched_setaffinity");
}

static double ping_pong(control_t *c, int answer, uint64_t base)
{
	int64_t start = now_ns();

	for (uint64_t i = base + 1; i <= base + PINGS; i++) {
		if (answer) {
			while (atomic_load_explicit(&c->ping, memory_order_acquire) != i)
				;
			atomic_store_explicit(&c->pong, i, memory_order_release);
		} else {
			atomic_store_explicit(&c->ping, i, memory_order_release);
			while (atomic_load_explicit(&c->pong, memory_order_acquire) != i)
				;
		}
	}
	return (double)(now_ns() - start) / PINGS;
}

static void consumer(contestant_t *contestant, control_t *c, enum bench_test test, uint8_t *buffer)
{
	uint64_t seen = 0, pings = 0;

	for (;;) {
		uint64_t order;
		long lost = lost_cpu();

		while ((order = atomic_load_explicit(&c->order, memory_order_acquire)) / 2 == seen)
			bench_pause();
		seen = order / 2;
		if (c->n == 0)
			_exit(0);
		if (order & 1) {
			ping_pong(c, 1, pings);
			pings += PINGS;
		} else {
			c->bad += contestant->consume(contestant, test, c->first, c->n, buffer);
		}
		c->ended_ns = now_ns();
		c->lost = lost_cpu() - lost;
		atomic_store_explicit(&c->done, seen, memory_order_release);
	}
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static int usage(void)
{
	fputs("ring_bench ours|boost|dpdk|atomic_queue|machine --test one|batch|rec64|rec1500|rtt\n"
	      "           [--seconds S] [--json] [--publish each] [--places N] [--pin A,B]\n", stderr);
	return 2;
}

int main(int argc, char **argv)
{
	static const char *names[TEST_COUNT] = {"one", "batch", "rec64", "rec1500", "rtt"};
	static double clean[ROUNDS], dirty[ROUNDS], lines[ROUNDS];
	bench_options_t options = {.name = argc > 1 ? argv[1] : "", .values = VALUES};
	contestant_t *contestant;
	control_t *c;
	uint8_t *memory, *buffer;
	int test = -1, json = 0, cpus[2] = {0, 1}, machine, n_clean = 0, n_dirty = 0, n_lines = 0;
	double seconds = 1, *values;
	uint64_t n = 20000, first = 0, round = 0, pings = 0;
	int64_t until;
	pid_t child;

	for (int i = 2; i < argc; i++) {
		if (!strcmp(argv[i], "--json")) {
			json = 1;
		} else if (i + 1 == argc) {
			return usage();
		} else if (!strcmp(argv[i], "--test")) {
			i++;
			for (int t = 0; t < TEST_COUNT; t++)
				if (!strcmp(argv[i], names[t]))
					test = t;
		} else if (!strcmp(argv[i], "--seconds")) {
			seconds = atof(argv[++i]);
		} else if (!strcmp(argv[i], "--publish")) {
			options.publish_each = !strcmp(argv[++i], "each");
		} else if (!strcmp(argv[i], "--places")) {
			options.values = strtoul(argv[++i], NULL, 0);
		} else if (!strcmp(argv[i], "--pin")) {
			if (sscanf(argv[++i], "%d,%d", &cpus[0], &cpus[1]) != 2)
				return usage();
		} else {
			return usage();
		}
	}
	machine = !strcmp(options.name, "machine");
	if (argc < 2 || test < 0 || (machine && test != TEST_RTT))
		return usage();
	contestant = !strcmp(options.name, "ours") ? &contestant_ours : peer_contestant(options.name);
	c = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	memory = mmap(NULL, SHARED_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	buffer = aligned_alloc(4096, 4096);
	if (c == MAP_FAILED || memory == MAP_FAILED || !buffer) {
		perror("mmap");
		return 1;
	}
	memset(buffer, 7, 4096);
	if (!machine && (!contestant || !contestant->prepare(contestant, memory, test, &options))) {
		fprintf(stderr, "%s: not built in, or does not offer --test %s\n", options.name, names[test]);
		return 3;
	}
	child = fork();
	if (child < 0) {
		perror("fork");
		return 1;
	}
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pin(cpus[1]);
		consumer(contestant, c, test, buffer);
	}
	pin(cpus[0]);
	until = now_ns() + (int64_t)(seconds * 1e9);
	while ((now_ns() < until || n_clean + n_dirty == 0) && n_clean + n_dirty < ROUNDS) {
		int64_t start, took;
		long lost;
		int bare = machine || round % 2 == 0;

		c->first = first;
		c->n = bare ? PINGS : n;
		lost = lost_cpu();
		start = now_ns();
		atomic_store_explicit(&c->order, ++round * 2 + bare, memory_order_release);
		if (bare) {
			double line = ping_pong(c, 0, pings);

			pings += PINGS;
			while (atomic_load_explicit(&c->done, memory_order_acquire) != round)
				bench_pause();
			if (lost_cpu() == lost && c->lost == 0)
				lines[n_lines++] = line;
			if (machine)
				(lost_cpu() == lost && c->lost == 0 ? clean : dirty)[
					lost_cpu() == lost && c->lost == 0 ? n_clean++ : n_dirty++] = line;
			continue;
		}
		contestant->produce(contestant, test, first, n, buffer);
		while (atomic_load_explicit(&c->done, memory_order_acquire) != round)
			bench_pause();
		took = c->ended_ns - start;
		first += n;
		if (first > 20000) { /* the first round warms up */
			double value = test == TEST_RTT ? (double)took / (double)n : (double)n * 1e3 / (double)took;

			if (lost_cpu() == lost && c->lost == 0)
				clean[n_clean++] = value;
			else
				dirty[n_dirty++] = value;
		}
		n = (uint64_t)((double)n * 30e6 / (double)(took + 1));
		n = n < 3200 ? 3200 : n > 100000000 ? 100000000 : n / BATCH * BATCH;
	}
	c->n = 0;
	atomic_store_explicit(&c->order, ++round * 2, memory_order_release);
	waitpid(child, NULL, 0);
	if (c->bad) {
		fprintf(stderr, "%s: %llu items were wrong\n", options.name, (unsigned long long)c->bad);
		return 1;
	}
	values = n_clean ? clean : dirty;
	int count = n_clean ? n_clean : n_dirty;

	qsort(values, count, sizeof *values, by_value);
	qsort(lines, n_lines, sizeof *lines, by_value);
	printf(json ? "{\"contestant\": \"%s\", \"test\": \"%s\", \"unit\": \"%s\", \"value\": %.3f, \"min\": %.3f, "
		      "\"max\": %.3f, \"rounds\": %d, \"dirty_rounds\": %d, \"line_rtt_ns\": %.1f}\n"
		    : "%-13s %-8s %s %10.2f [%.2f - %.2f] rounds %d, dirty %d, line %.1f ns\n",
	       options.name, names[test], test == TEST_RTT ? "ns" : "M/s", values[count / 2], values[0],
	       values[count - 1], n_clean, n_dirty, n_lines ? lines[n_lines / 2] : 0.0);
	return 0;
}
