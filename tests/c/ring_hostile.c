/* ring_hostile.c - a peer that writes anything into its own region, for the address sanitizer.
 *
 *   ring_hostile SEED ROUNDS
 *
 * The regions are heap blocks of exactly their size, so that a step outside is seen. Each round starts
 * from a valid ring with some records, changes bytes of one side's region, and lets the other side go
 * on: it must end with OK, EMPTY, FULL, CLOSED or POISONED, every pointer it gives must lie in the
 * data, and poison must be final. Prints how often each status came. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rings/spsc_ring.h"
#include "rings/value_ring.h"

enum { CAPACITY = 2048 };

static uint64_t state;
static long statuses[7];

static uint64_t next_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static void die(const char *what)
{
	fprintf(stderr, "%s\n", what);
	abort();
}

/* The words a hostile peer aims at: small steps, edges, and noise. */
static uint64_t nasty(uint64_t now)
{
	switch (next_random() % 10) {
	case 0: return now + 64;
	case 1: return now - 64;
	case 2: return now + CAPACITY;
	case 3: return now + CAPACITY + 64;
	case 4: return now + 1;
	case 5: return 0;
	case 6: return UINT64_MAX;
	case 7: return now + (next_random() % 64) * 64;
	case 8: return now + ((uint64_t)1 << (next_random() % 64));
	default: return next_random();
	}
}

/* For the record at `index`; as often as not with a check that holds, so that what is behind it is tried. */
static uint64_t nasty_header(uint64_t index)
{
	static const uint32_t lengths[] = {0, 1, 7, 8, 9, 15, 16, 63, 64, 65, 127, 128, 1024, 2048, 2049,
					   0x10040, 0x7fffffff, 0x80000000u, 0xfffffff8u, 0xffffffffu};
	uint64_t length = next_random() % 3 ? lengths[next_random() % 20] : next_random() % 4096;
	uint64_t header = ring_header((uint32_t)length, next_random() & 3, (uint32_t)(next_random() & 0xff) * 4,
				      next_random() % 2 ? next_random() % 128 : next_random() & 0x3ff);

	return next_random() % 4 ? header | ring_check(header, index) : header ^ next_random() << 52;
}

static volatile uint8_t sink;

static void look_at(const uint8_t *data, const uint8_t *start, uint32_t length)
{
	if (length && (start < data || start + length > data + CAPACITY))
		die("a pointer outside the ring");
	for (uint32_t i = 0; i < length; i++)
		sink += start[i];
}

static void against_consumer(uint8_t *p, uint8_t *c)
{
	ring_producer_t producer;
	ring_consumer_t consumer;
	ring_region_t *region = (ring_region_t *)(void *)p;
	ring_record_t r;
	uint8_t *head, *body;
	int poisoned = 0;

	if (ring_format(p, c, CAPACITY, 1) || ring_producer_attach(&producer, p, c, CAPACITY) ||
	    ring_consumer_attach(&consumer, p, c, CAPACITY))
		die("format");
	for (int turn = 0; turn < 6; turn++) {
		for (uint64_t i = next_random() % 8; i > 0; i--)
			if (ring_claim(&producer, RING_FRAME, next_random() % 80, next_random() % 500, &head, &body) == RING_OK)
				ring_commit(&producer);
		ring_publish(&producer);
		for (uint64_t i = next_random() % 4; i > 0; i--) {
			uint64_t index = consumer.next + (next_random() % (CAPACITY / 64)) * 64;
			uint64_t at = RING_DATA_OFFSET + (index & (CAPACITY - 1)), header = nasty_header(index);

			switch (next_random() % 5) {
			case 0: atomic_store(&region->index, nasty(consumer.tail)); break;
			case 1: p[next_random() % (RING_DATA_OFFSET + CAPACITY)] = (uint8_t)next_random(); break;
			case 2: atomic_store(&region->words.sleep, next_random()); break;
			default: memcpy(p + at, &header, 8);
			}
		}
		for (int i = 0; i < 100; i++) {
			int status = ring_peek(&consumer, &r);
			uint32_t kind;

			statuses[status]++;
			if (poisoned && status != RING_POISONED)
				die("poison was forgotten");
			if (status == RING_OK) {
				look_at(consumer.data, r.head, r.head_length);
				look_at(consumer.data, r.body, r.body_length);
				if (next_random() % 8 == 0)
					ring_unpeek(&consumer, &r);
				if (next_random() % 4)
					ring_release(&consumer);
				continue;
			}
			if (status == RING_DAMAGED)
				continue; /* 100 such looks at the most */
			poisoned |= status == RING_POISONED;
			ring_space_needs_kick(&consumer, &kind);
			if (!ring_consumer_arm(&consumer, RING_SERVICE))
				ring_consumer_disarm(&consumer);
			break;
		}
		if (consumer.head != atomic_load(&((ring_region_t *)(void *)c)->index))
			die("head was read back");
	}
}

static void against_producer(uint8_t *p, uint8_t *c)
{
	ring_producer_t producer;
	ring_region_t *region = (ring_region_t *)(void *)c;
	uint8_t *head, *body;
	int poisoned = 0;

	if (ring_format(p, c, CAPACITY, 1) || ring_producer_attach(&producer, p, c, CAPACITY))
		die("format");
	for (int turn = 0; turn < 40; turn++) {
		uint32_t head_length = next_random() % 1000, length = next_random() % 1200, kind;
		int status = ring_claim(&producer, RING_FRAME, head_length, length, &head, &body);

		statuses[status]++;
		if (poisoned && status != RING_POISONED && status != RING_INVALID)
			die("poison was forgotten");
		poisoned |= status == RING_POISONED;
		if (status == RING_OK) {
			look_at(producer.data, head, head_length);
			look_at(producer.data, body, length);
			memset(head, 1, head_length);
			memset(body, 2, length);
			ring_commit(&producer);
		}
		ring_flush_needs_kick(&producer, &kind);
		if (next_random() % 3)
			atomic_store(&region->index, next_random() % 2 ? producer.published : nasty(producer.head));
		if (next_random() % 8 == 0)
			c[next_random() % RING_DATA_OFFSET] = (uint8_t)next_random();
		ring_free_bytes(&producer);
		if (!ring_producer_arm(&producer))
			ring_producer_disarm(&producer);
	}
}

/* An attach looks at a region that says anything. */
static void attach_to_noise(uint8_t *p, uint8_t *c)
{
	ring_producer_t producer;
	ring_consumer_t consumer;
	ring_record_t r;
	uint64_t value;

	if (ring_format(p, c, CAPACITY, 1))
		die("format");
	for (uint64_t i = next_random() % 4; i > 0; i--) {
		(next_random() % 2 ? p : c)[next_random() % RING_DATA_OFFSET] = (uint8_t)next_random();
		atomic_store(&((ring_region_t *)(void *)(next_random() % 2 ? p : c))->index, nasty(0));
	}
	if (value_ring_consumer_attach(&consumer, p, c, CAPACITY) == RING_OK)
		while (value_ring_get(&consumer, &value) == RING_OK)
			;
	if (ring_consumer_attach(&consumer, p, c, CAPACITY) == RING_OK)
		statuses[ring_peek(&consumer, &r)]++;
	if (ring_producer_attach(&producer, p, c, CAPACITY) == RING_OK) {
		uint8_t *head, *body;
		int status = ring_claim(&producer, RING_FRAME, 8, 300, &head, &body);

		statuses[status]++;
		if (status == RING_OK)
			look_at(producer.data, body, 300);
	}
}

int main(int argc, char **argv)
{
	long rounds = argc == 3 ? atol(argv[2]) : 0;

	if (rounds <= 0)
		return 2;
	state = strtoull(argv[1], NULL, 0) * 2654435761u + 88172645463325252u;
	for (long i = 0; i < rounds; i++) {
		uint8_t *p = aligned_alloc(128, RING_DATA_OFFSET + CAPACITY);
		uint8_t *c = aligned_alloc(128, RING_DATA_OFFSET);

		if (!p || !c)
			return 2;
		memset(p, 0, RING_DATA_OFFSET + CAPACITY);
		against_consumer(p, c);
		against_producer(p, c);
		attach_to_noise(p, c);
		free(p);
		free(c);
	}
	printf("{\"ok\": %ld, \"empty\": %ld, \"full\": %ld, \"poisoned\": %ld, \"invalid\": %ld, \"closed\": %ld, "
	       "\"damaged\": %ld}\n",
	       statuses[0], statuses[1], statuses[2], statuses[3], statuses[4], statuses[5], statuses[6]);
	return 0;
}
