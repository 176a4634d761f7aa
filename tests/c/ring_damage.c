/* ring_damage.c - one bit of a record's header flips: noticed every time, counted, and the ring goes on.
 *
 *   ring_damage SEED ROUNDS
 *
 * Each round fills a ring with random records (bodies, padding at the end, references into an arena), reads some,
 * flips one bit of the header of one that was not read, and reads on: every record before the damaged one comes as it
 * was written, none from there on, and what is written afterwards comes again. Every bit is tried equally often. Also
 * all pairs of bits of the fields, which the check catches too, and records of an earlier lap.
 * Prints how many flips there were and how many were caught. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rings/spsc_ring.h"

enum { CAPACITY = 4096, ARENA = 1 << 16, MOST = CAPACITY / 64 };

typedef struct {
	uint64_t index;
	uint32_t head_length, body_length;
	uint8_t fill, kind;
} written_t;

static uint64_t state;
static uint8_t arena[ARENA];

static uint64_t next_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static void die(const char *what, uint64_t number)
{
	fprintf(stderr, "%s: %llu\n", what, (unsigned long long)number);
	abort();
}

/* Where the records are that commit made of one claim: the padding before it, if any, and itself. */
static int put(ring_producer_t *p, written_t *w)
{
	uint32_t head_length = next_random() % 100, body_length = next_random() % 700;
	uint64_t before = p->tail;
	uint8_t fill = (uint8_t)next_random(), *head, *body;
	bool reference = next_random() % 8 == 0;
	int n = 0, status;

	if (reference) {
		body = arena + next_random() % 1000;
		status = ring_claim_reference(p, head_length, (uint32_t)(body - arena), body_length, &head);
	} else {
		status = ring_claim(p, next_random() % 4 ? RING_FRAME : RING_CONTROL, head_length, body_length, &head, &body);
	}
	if (p->tail != before)
		w[n++] = (written_t){.index = before, .kind = RING_PAD};
	if (status != RING_OK)
		return n;
	memset(head, fill, head_length);
	if (!reference)
		memset(body, fill, body_length);
	w[n++] = (written_t){p->tail, head_length, body_length, fill, (uint8_t)(p->claimed_header >> RING_KIND_BIT & 3)};
	ring_commit(p);
	return n;
}

static void compare(const ring_record_t *r, const written_t *w)
{
	if (r->kind != w->kind || r->head_length != w->head_length || r->body_length != w->body_length)
		die("another record than was written", w->index);
	for (uint32_t i = 0; i < r->head_length; i++)
		if (r->head[i] != w->fill)
			die("another head", w->index);
	for (uint32_t i = 0; r->kind != RING_FRAME_REF && i < r->body_length; i++)
		if (r->body[i] != w->fill)
			die("another body", w->index);
}

static long rounds_of_one_bit(uint8_t *p, uint8_t *c, long rounds)
{
	static written_t written[2 * MOST];
	ring_producer_t producer;
	ring_consumer_t consumer;
	ring_record_t r;
	long flips = 0;

	if (ring_format(p, c, CAPACITY, 1) || ring_producer_attach(&producer, p, c, CAPACITY) ||
	    ring_consumer_attach(&consumer, p, c, CAPACITY))
		die("format", 0);
	ring_consumer_set_arena(&consumer, arena, ARENA);
	for (long i = 0; i < rounds; i++) {
		uint64_t errors = consumer.header_errors, lost = consumer.lost_bytes, at, header;
		int n = 0, bad, k;

		for (uint64_t wanted = 1 + next_random() % 12; wanted > 0; wanted--)
			n += put(&producer, written + n);
		ring_publish(&producer);
		if (!n)
			die("a ring that takes nothing", (uint64_t)i);
		bad = (int)(next_random() % (uint64_t)n);
		at = written[bad].index & (CAPACITY - 1);
		memcpy(&header, p + RING_DATA_OFFSET + at, 8);
		header ^= (uint64_t)1 << (i & 63);
		memcpy(p + RING_DATA_OFFSET + at, &header, 8);
		flips++;
		for (k = 0; k < bad; k++) {
			if (written[k].kind == RING_PAD)
				continue;
			if (ring_peek(&consumer, &r) != RING_OK)
				die("a record before the damage does not come", (uint64_t)i);
			compare(&r, written + k);
			if (next_random() % 2)
				ring_release(&consumer);
		}
		if (ring_peek(&consumer, &r) != RING_DAMAGED)
			die("a flipped bit went unnoticed", (uint64_t)i & 63);
		if (consumer.header_errors != errors + 1 || consumer.lost_bytes - lost != producer.tail - written[bad].index)
			die("counted wrongly", consumer.lost_bytes - lost);
		if (ring_peek(&consumer, &r) != RING_EMPTY)
			die("something comes behind the damage", (uint64_t)i);
		ring_release_now(&consumer);
		if (ring_free_bytes(&producer) != CAPACITY)
			die("space was not given back", ring_free_bytes(&producer));
	}
	return flips;
}

/* What no ring needs to show: two bits of the fields, or another lap. */
static long pairs_and_laps(void)
{
	long tried = 0;

	for (int turn = 0; turn < 100; turn++) {
		uint64_t fields = next_random() & RING_FIELDS, index = next_random() & ~(uint64_t)63;
		uint64_t check = ring_check(fields, index);

		for (int a = 0; a < RING_CHECK_BIT; a++)
			for (int b = 0; b < a; b++, tried++)
				if (ring_check(fields ^ (uint64_t)1 << a ^ (uint64_t)1 << b, index) == check)
					die("two flipped bits went unnoticed", (uint64_t)(a * 64 + b));
		for (int lap = 9; lap < 40; lap++, tried++)
			if (ring_check(fields, index - ((uint64_t)1 << lap)) == check)
				die("a record of an earlier lap went unnoticed", (uint64_t)lap);
	}
	if (ring_check(0, 0) == 0)
		die("memory never written passes", 0);
	return tried;
}

int main(int argc, char **argv)
{
	long rounds = argc == 3 ? atol(argv[2]) : 0, flips, pairs;
	uint8_t *p = aligned_alloc(128, RING_DATA_OFFSET + CAPACITY), *c = aligned_alloc(128, RING_DATA_OFFSET);

	if (rounds <= 0 || !p || !c)
		return 2;
	state = strtoull(argv[1], NULL, 0) * 2654435761u + 88172645463325252u;
	flips = rounds_of_one_bit(p, c, rounds);
	pairs = pairs_and_laps();
	free(p);
	free(c);
	printf("{\"flips\": %ld, \"pairs\": %ld}\n", flips, pairs);
	return 0;
}
