/* ring_ours.c - the ring of rings/ as a contestant of ring_bench. */
#include <stdlib.h>
#include <string.h>

#include "ring_bench.h"
#include "rings/spsc_ring.h"
#include "rings/value_ring.h"

typedef struct {
	ring_producer_t to, back_producer;
	ring_consumer_t from, back_consumer;
	int publish_each;
} ours_t;

static ours_t ours;

static int prepare(contestant_t *self, void *memory, enum bench_test test, const bench_options_t *options)
{
	uint64_t capacity = test == TEST_REC64 || test == TEST_REC1500 ? 2 << 20 : options->values * 8;
	int records = test == TEST_REC64 || test == TEST_REC1500;
	uint8_t *at = memory;

	ours.publish_each = options->publish_each;
	for (int way = 0; way < 2; way++) {
		ring_producer_t *p = way ? &ours.back_producer : &ours.to;
		ring_consumer_t *c = way ? &ours.back_consumer : &ours.from;
		uint8_t *consumer = at + ring_producer_region_bytes(capacity);
		int failed;

		if (records)
			failed = ring_format(at, consumer, capacity, 1) || ring_producer_attach(p, at, consumer, capacity) ||
				 ring_consumer_attach(c, at, consumer, capacity);
		else
			failed = value_ring_format(at, consumer, capacity, 1) ||
				 value_ring_producer_attach(p, at, consumer, capacity) ||
				 value_ring_consumer_attach(c, at, consumer, capacity);
		if (failed)
			abort();
		at = consumer + ring_consumer_region_bytes();
	}
	self->state = &ours;
	return 1;
}

static inline void put_record(ring_producer_t *p, const uint8_t *record, uint32_t length)
{
	uint8_t *head, *body;

	while (ring_claim(p, RING_FRAME, 0, length, &head, &body) != RING_OK)
		bench_pause();
	memcpy(body, record, length);
	ring_commit(p);
}

static inline void get_record(ring_consumer_t *c, uint8_t *record)
{
	ring_record_t r;

	while (ring_peek(c, &r) != RING_OK)
		bench_pause();
	memcpy(record, r.body, r.body_length);
	ring_release(c);
}

static void produce(contestant_t *self, enum bench_test test, uint64_t first, uint64_t n, uint8_t *buffer)
{
	ring_producer_t p = ours.to;
	uint64_t values[BATCH];
	uint32_t kind;

	(void)self;
	switch (test) {
	case TEST_ONE:
		for (uint64_t i = first; i < first + n; i++) {
			while (value_ring_put(&p, i) != RING_OK)
				bench_pause();
			if (ours.publish_each)
				ring_publish(&p);
		}
		break;
	case TEST_BATCH:
		for (uint64_t i = first; i < first + n; i += BATCH) {
			size_t done = 0;

			for (int k = 0; k < BATCH; k++)
				values[k] = i + k;
			while ((done += value_ring_put_many(&p, values + done, BATCH - done)) < BATCH)
				bench_pause();
		}
		break;
	case TEST_REC64:
	case TEST_REC1500:
		for (uint64_t i = first; i < first + n; i++) {
			memcpy(buffer, &i, sizeof i);
			put_record(&p, buffer, test == TEST_REC64 ? 64 : 1500);
			if (ours.publish_each)
				ring_publish(&p);
		}
		break;
	default: {
		ring_consumer_t c = ours.back_consumer;
		uint64_t back;

		for (uint64_t i = first; i < first + n; i++) {
			value_ring_put(&p, i);
			ring_flush_needs_kick(&p, &kind);
			while (value_ring_get(&c, &back) != RING_OK)
				;
		}
		ours.back_consumer = c;
	}
	}
	ring_flush_needs_kick(&p, &kind);
	ours.to = p;
}

static uint64_t consume(contestant_t *self, enum bench_test test, uint64_t first, uint64_t n, uint8_t *buffer)
{
	ring_consumer_t c = ours.from;
	uint64_t values[BATCH], bad = 0, value;
	uint32_t kind;

	(void)self;
	switch (test) {
	case TEST_ONE:
		for (uint64_t i = first; i < first + n; i++) {
			while (value_ring_get(&c, &value) != RING_OK)
				bench_pause();
			bad += value != i;
		}
		break;
	case TEST_BATCH:
		for (uint64_t i = first; i < first + n;) {
			size_t got = value_ring_get_many(&c, values, BATCH);

			if (!got)
				bench_pause();
			for (size_t k = 0; k < got; k++)
				bad += values[k] != i + k;
			i += got;
		}
		break;
	case TEST_REC64:
	case TEST_REC1500:
		for (uint64_t i = first; i < first + n; i++) {
			get_record(&c, buffer);
			memcpy(&value, buffer, sizeof value);
			bad += value != i;
		}
		break;
	default: {
		ring_producer_t p = ours.back_producer;

		for (uint64_t i = first; i < first + n; i++) {
			while (value_ring_get(&c, &value) != RING_OK)
				;
			value_ring_put(&p, value);
			ring_flush_needs_kick(&p, &kind);
			bad += value != i;
		}
		ours.back_producer = p;
	}
	}
	ring_release_now(&c);
	ours.from = c;
	return bad;
}

contestant_t contestant_ours = {"ours", prepare, produce, consume, NULL};
