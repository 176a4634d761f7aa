/* ring_threads.c - both ends of a ring as threads over one mapping, for the thread sanitizer.
 *
 *   ring_threads records|sleep|values N
 *
 * records: N records of all sizes through a small ring, spinning, every byte checked. sleep: the same
 * with both sides going to sleep whenever they can (futex bells): a lost wake-up is a hang, which the
 * alarm turns into a failure. values: 8-byte values, single and in batches.
 * Exit 0: all arrived in order and whole. Built with -DRING_MUTANT_RELAXED_PUBLISH or
 * -DRING_MUTANT_RELAXED_ACQUIRE the sanitizer must complain. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rings/doorbell.h"
#include "rings/value_ring.h"

enum { CAPACITY = 4096 };

static ring_producer_t producer;
static ring_consumer_t consumer;
static long total;
static int sleeping;
static long sleeps[2], kicks[2];

static uint32_t body_length(long i)
{
	static const uint32_t some[] = {0, 1, 7, 8, 55, 56, 57, 64, 200, 255, 256, 257, 600, 1500};

	return some[i % 14];
}

static uint32_t head_length(long i)
{
	static const uint32_t some[] = {0, 0, 20, 52, 72, 3};

	return some[i % 6];
}

static void fail(const char *what, long i)
{
	fprintf(stderr, "record %ld: %s\n", i, what);
	exit(1);
}

static void wait_for_space(void)
{
	uint32_t seen, kind;

	if (ring_flush_needs_kick(&producer, &kind)) {
		kicks[0]++;
		doorbell_ring_bell(producer.mine);
	}
	if (!sleeping) {
		sched_yield();
		return;
	}
	seen = doorbell_bell(producer.theirs);
	if (ring_producer_arm(&producer))
		return;
	sleeps[0]++;
	/* Not capped at 50 ms as in doorbell_wait_bell(): a lost wake-up shall be a hang. */
	doorbell_futex(&producer.theirs->words.bell, FUTEX_WAIT, seen, NULL);
	ring_producer_disarm(&producer);
}

static void give_space(void)
{
	uint32_t kind;

	if (ring_space_needs_kick(&consumer, &kind)) {
		kicks[1]++;
		doorbell_ring_bell(consumer.mine);
	}
}

static void wait_for_data(void)
{
	uint32_t seen = doorbell_bell(consumer.theirs);
	bool found;

	if (!sleeping) {
		sched_yield();
		return;
	}
	found = ring_consumer_arm(&consumer, RING_LEADER);
	give_space();
	if (found)
		return;
	sleeps[1]++;
	doorbell_futex(&consumer.theirs->words.bell, FUTEX_WAIT, seen, NULL);
	ring_consumer_disarm(&consumer);
}

static void *produce(void *unused)
{
	uint8_t *head, *body;
	uint32_t kind;

	for (long i = 0; i < total; i++) {
		if (i % 5 == 0 && ring_claim(&producer, RING_CONTROL, 4, 40, &head, &body) == RING_OK)
			memset(head, 0xee, 4); /* a claim that is dropped */
		while (ring_claim(&producer, RING_FRAME, head_length(i), body_length(i), &head, &body) != RING_OK)
			wait_for_space();
		memset(head, (int)(i * 3), head_length(i));
		memset(body, (int)i, body_length(i));
		ring_commit(&producer);
		if (i % 7 == 0 || (sleeping && i % 97 < 3)) {
			ring_set_cpu(&producer, (int)(i & 1));
			if (ring_flush_needs_kick(&producer, &kind)) {
				kicks[0]++;
				doorbell_ring_bell(producer.mine);
			}
		}
	}
	if (ring_producer_close(&producer, &kind))
		doorbell_ring_bell(producer.mine);
	return unused;
}

static void *consume(void *unused)
{
	ring_record_t r;
	long i = 0;

	for (;;) {
		int status = ring_peek(&consumer, &r);

		if (status == RING_EMPTY) {
			ring_release(&consumer);
			wait_for_data();
			continue;
		}
		if (status == RING_CLOSED)
			break;
		if (status != RING_OK)
			fail("poisoned", i);
		if (r.kind != RING_FRAME || r.head_length != head_length(i) || r.body_length != body_length(i))
			fail("wrong lengths", i);
		for (uint32_t k = 0; k < r.head_length; k++)
			if (r.head[k] != (uint8_t)(i * 3))
				fail("torn head", i);
		for (uint32_t k = 0; k < r.body_length; k++)
			if (r.body[k] != (uint8_t)i)
				fail("torn body", i);
		i++;
		if (i % 3)
			ring_release(&consumer);
		give_space();
	}
	if (i != total)
		fail("is missing", i);
	(void)ring_peer_cpu(&consumer);
	return unused;
}

static void *produce_values(void *unused)
{
	uint64_t batch[100];
	uint32_t kind;
	long i = 0;

	while (i < total) {
		long n = i % 3 ? 1 + i % 99 : 1;

		if (n > total - i)
			n = total - i;
		for (long k = 0; k < n; k++)
			batch[k] = (uint64_t)(i + k) * 0x9e3779b97f4a7c15u;
		for (long put = 0; put < n;) {
			long now = n == 1 ? value_ring_put(&producer, batch[0]) == RING_OK
					  : (long)value_ring_put_many(&producer, batch + put, (size_t)(n - put));

			put += now;
			if (!now)
				wait_for_space();
		}
		i += n;
		if (i % 11 == 0)
			ring_publish(&producer);
	}
	if (ring_producer_close(&producer, &kind))
		doorbell_ring_bell(producer.mine);
	return unused;
}

static void *consume_values(void *unused)
{
	uint64_t values[64];
	long i = 0;

	for (;;) {
		size_t n = i % 2 ? value_ring_get_many(&consumer, values, 1 + (size_t)i % 64) : 0;

		if (n == 0) {
			int status = value_ring_get(&consumer, values);

			if (status == RING_CLOSED)
				break;
			if (status != RING_OK)
				wait_for_data();
			n = status == RING_OK;
		}
		for (size_t k = 0; k < n; k++)
			if (values[k] != (uint64_t)(i + (long)k) * 0x9e3779b97f4a7c15u)
				fail("wrong value", i + (long)k);
		i += (long)n;
		give_space();
	}
	if (i != total)
		fail("is missing", i);
	return unused;
}

int main(int argc, char **argv)
{
	int values = argc > 1 && !strcmp(argv[1], "values");
	void *(*parts[2])(void *) = {values ? produce_values : produce, values ? consume_values : consume};
	uint8_t *p = aligned_alloc(4096, ring_producer_region_bytes(CAPACITY));
	uint8_t *c = aligned_alloc(4096, ring_consumer_region_bytes());
	pthread_t threads[2];

	if (argc != 3 || !p || !c)
		return 2;
	alarm(240);
	sleeping = strcmp(argv[1], "records") != 0;
	total = atol(argv[2]);
	if (values ? value_ring_format(p, c, CAPACITY, 9) || value_ring_producer_attach(&producer, p, c, CAPACITY) ||
			     value_ring_consumer_attach(&consumer, p, c, CAPACITY)
		   : ring_format(p, c, CAPACITY, 9) || ring_producer_attach(&producer, p, c, CAPACITY) ||
			     ring_consumer_attach(&consumer, p, c, CAPACITY))
		return 2;
	for (int i = 0; i < 2; i++)
		if (pthread_create(&threads[i], NULL, parts[i], NULL))
			return 2;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	printf("%ld through; slept %ld and %ld, kicked %ld and %ld times\n", total, sleeps[0], sleeps[1], kicks[0],
	       kicks[1]);
	free(p);
	free(c);
	return 0;
}
