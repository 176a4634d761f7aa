/* value_ring.h - 8-byte values through the same two regions, indices and sleep words as spsc_ring.h.
 *
 * For descriptors, frame numbers, pointers within one process: no header per value, 8 values to a
 * cache line. Made with value_ring_format() and attached with value_ring_*_attach(); publish, flush,
 * arm, disarm and close are those of spsc_ring.h. A ring of records refuses to be attached as a ring
 * of values, and the other way round.
 *
 * Values are published by themselves 32 at a time, so that the index's cache line does not cross for
 * each: a producer that pauses flushes.
 */
#ifndef RINGS_VALUE_RING_H
#define RINGS_VALUE_RING_H

#include "rings/spsc_ring.h"

#define RING_VALUE_BYTES 8u

static inline int value_ring_format(void *producer_region, void *consumer_region, uint64_t capacity,
				    uint64_t generation)
{
	return ring_format_grain(producer_region, consumer_region, capacity, generation, RING_VALUE_BYTES);
}

static inline int value_ring_producer_attach(ring_producer_t *p, void *producer_region,
					     const void *consumer_region, uint64_t capacity)
{
	return ring_producer_attach_grain(p, producer_region, consumer_region, capacity, RING_VALUE_BYTES);
}

static inline int value_ring_consumer_attach(ring_consumer_t *c, const void *producer_region,
					     void *consumer_region, uint64_t capacity)
{
	return ring_consumer_attach_grain(c, producer_region, consumer_region, capacity, RING_VALUE_BYTES);
}

/* RING_OK, FULL (everything put was published), POISONED, CLOSED. */
static inline int value_ring_put(ring_producer_t *p, uint64_t value)
{
	if (RING_UNLIKELY(p->room_end == p->tail || p->state != RING_OK)) {
		int state = ring_claim_slow(p, 0, RING_VALUE_BYTES);

		if (state != RING_OK)
			return state;
	}
	memcpy(p->data + (p->tail & p->mask), &value, sizeof value);
	p->tail += RING_VALUE_BYTES;
	if (RING_UNLIKELY(p->tail == p->publish_at))
		ring_publish(p);
	return RING_OK;
}

/* Puts as many of n values as there is room for, and publishes them. Returns how many; 0: p->state
 * says whether the ring is poisoned or closed (else it is full). */
static inline size_t value_ring_put_many(ring_producer_t *p, const uint64_t *values, size_t n)
{
	uint64_t room = (p->room_end - p->tail) / RING_VALUE_BYTES, offset = p->tail & p->mask;
	uint64_t straight = (p->capacity - offset) / RING_VALUE_BYTES;

	if (room < n) {
		int state = ring_claim_slow(p, 0, n <= p->capacity / RING_VALUE_BYTES ? n * RING_VALUE_BYTES : p->capacity);

		if (state != RING_OK && state != RING_FULL)
			return 0;
		room = (p->room_end - p->tail) / RING_VALUE_BYTES;
		if (n > room)
			n = (size_t)room;
	}
	if (RING_UNLIKELY(p->state != RING_OK))
		return 0;
	if (RING_LIKELY(n <= straight)) {
		memcpy(p->data + offset, values, n * RING_VALUE_BYTES);
	} else {
		memcpy(p->data + offset, values, straight * RING_VALUE_BYTES);
		memcpy(p->data, values + straight, (n - straight) * RING_VALUE_BYTES);
	}
	p->tail += n * RING_VALUE_BYTES;
	ring_publish(p);
	return n;
}

/* RING_OK, EMPTY, POISONED, CLOSED. The place is given back lazily, as with ring_release(). */
static inline int value_ring_get(ring_consumer_t *c, uint64_t *value)
{
	if (RING_UNLIKELY(c->next == c->tail)) {
		int state = ring_consumer_refresh(c);

		if (state != RING_OK)
			return state;
	}
	memcpy(value, c->data + (c->next & c->mask), sizeof *value);
	c->next += RING_VALUE_BYTES;
	ring_release(c);
	return RING_OK;
}

/* Takes up to n values; returns how many. 0: value_ring_get() tells empty from closed and poisoned. */
static inline size_t value_ring_get_many(ring_consumer_t *c, uint64_t *values, size_t n)
{
	uint64_t have, offset, straight;

	if (c->next == c->tail && ring_consumer_refresh(c) != RING_OK)
		return 0;
	have = (c->tail - c->next) / RING_VALUE_BYTES;
	if (n > have)
		n = (size_t)have;
	offset = c->next & c->mask;
	straight = (c->capacity - offset) / RING_VALUE_BYTES;
	if (RING_LIKELY(n <= straight)) {
		memcpy(values, c->data + offset, n * RING_VALUE_BYTES);
	} else {
		memcpy(values, c->data + offset, straight * RING_VALUE_BYTES);
		memcpy(values + straight, c->data, (n - straight) * RING_VALUE_BYTES);
	}
	c->next += n * RING_VALUE_BYTES;
	ring_release(c);
	return n;
}

#endif
