/* spsc_ring.h - one producer, one consumer, records in shared memory.
 *
 * Two regions of memory, each with ONE writer, so that each can be a mapping of its own that only
 * that writer may write:
 *
 *   producer's region                        consumer's region
 *   +0    magic, version, capacity           +0    magic, version, capacity       (creator, once)
 *   +128  tail                               +128  head                           (often)
 *   +256  sleep word, bell, closed, cpu      +256  sleep word, bell, closed       (seldom)
 *   +384  data: capacity bytes
 *
 * Indices are u64 byte counts that run free; used = tail - head <= capacity; offset = index & mask.
 * The owner of an index keeps it in private memory and only publishes it. Of the peer's index a
 * private copy is kept and refreshed when it no longer suffices: one atomic load into a local, which
 * must lie between the last value and the bound, or the ring is poisoned for ever. Capacity, mask and
 * offsets come from private memory after attach. A hostile peer can so garble its own records, never
 * lead us outside the region (the payload itself may change under the reader: copy, then look).
 *
 * A record starts on a 64-byte slot and never wraps (a PAD record fills the end of the region):
 *
 *   +0  u64 header, from bit
 *         0  length       32 bits: bytes from here to the end of the inline body, without padding
 *        32  body_offset   8 bits, in units of 4 bytes
 *        40  kind          2 bits: PAD, FRAME, FRAME_REF, CONTROL
 *        42  head_length  10 bits: bytes (packet headers)
 *        52  check        12 bits over all of these and the index at which the record stands
 *   +8  head              FRAME_REF: {u32 offset, u32 length} into the arena at +8, head at +16
 *       body              on the next cache line if it has 256 bytes or more, else right after the head
 *
 * The check is for errors of the host's memory: it catches every single flipped bit of a header, and a
 * record that an earlier lap left there. A header that does not pass it says nothing, not even where the
 * next record begins, so what was published up to tail is dropped and counted, and the ring goes on: for
 * packets a loss like any other. (To look for the next header instead would take payload for headers.)
 * A header that passes and is impossible was written by a broken or hostile producer: poison.
 *
 * Producer: claim -> write -> commit, ... -> publish (or flush, which also says whom to kick).
 * Consumer: peek -> read, peek -> read, ... -> release. A record is visible whole or not at all: a
 * writer that dies between two instructions leaves a valid ring.
 *
 * Head need not stand on a record's border: a consumer of byte streams may later release part of a
 * record (a multiple of 64 bytes) by moving `released` while its cursor stays inside the record. The
 * producer uses head for its arithmetic only.
 *
 * Sleeping (see tests/models/ring.pml for the proof by model checking): the sleep word has one
 * writer, the sleeper: sequence << 2 | kind, kind 0 = awake. Sleeper: write word; full fence; look at
 * the peer's index again; sleep. Peer: publish index; full fence; look at the word; kick. The waker
 * remembers privately which value it has kicked, so a sleep is kicked at most once. With both fences
 * one of the two sees the other's store: either the kick is sent or the second look finds the data.
 *
 * No call here blocks, allocates or enters the kernel; doorbell.h does that. One thread at a time
 * per end.
 */
#ifndef RINGS_SPSC_RING_H
#define RINGS_SPSC_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "rings/cache_line.h"

#define RING_MAGIC 0x676e69522d535350ull /* "PSS-Ring" */
#define RING_VERSION 2u

#define RING_SLOT_BYTES 64u
#define RING_HEADER_BYTES 8u
#define RING_REFERENCE_BYTES 8u
#define RING_DATA_OFFSET (3u * WRITER_SPACING_BYTES)
#define RING_REGION_ALIGNMENT 4096u /* regions are sized so that each can be mapped on pages of its own */
#define RING_MIN_CAPACITY 512u
#define RING_MAX_CAPACITY (1ull << 40)
#define RING_MAX_HEAD_BYTES 944u       /* body_offset is one byte in units of 4, and a body on its own line */
#define RING_OWN_LINE_BODY_BYTES 256u  /* bodies of this length and more start on a cache line of their own */
#define RING_PUBLISH_RECORDS 32u       /* a commit publishes by itself after so many records ... */
#define RING_LAZY_SHARE 8u             /* ... or capacity / 8 bytes; head is stored after as many bytes */
#define RING_WAKE_SHARE 4u             /* a producer that sleeps for space is woken at capacity / 4 free */

/* Switches for the tests of the tests: each must be caught by the thread sanitizer. */
#ifdef RING_MUTANT_RELAXED_PUBLISH
#define RING_ORDER_PUBLISH memory_order_relaxed
#else
#define RING_ORDER_PUBLISH memory_order_release
#endif
#ifdef RING_MUTANT_RELAXED_ACQUIRE
#define RING_ORDER_ACQUIRE memory_order_relaxed
#else
#define RING_ORDER_ACQUIRE memory_order_acquire
#endif

enum {
	RING_OK = 0,
	RING_EMPTY = 1,    /* nothing published beyond the cursor */
	RING_FULL = 2,     /* no room for this record now */
	RING_POISONED = 3, /* the peer broke the format: detach, never retry */
	RING_INVALID = 4,  /* our caller's mistake: sizes, alignment, an attach to something else */
	RING_CLOSED = 5,   /* the peer closed its end; for a consumer: and everything was taken */
	RING_DAMAGED = 6   /* records were lost to an error of memory, and counted: peek again */
};

enum { RING_PAD = 0, RING_FRAME = 1, RING_FRAME_REF = 2, RING_CONTROL = 3 };

/* Who sleeps, low two bits of a sleep word. */
enum { RING_AWAKE = 0, RING_LEADER = 1, RING_SERVICE = 2, RING_KIND_MASK = 3 };

/* Constants of a region: written by the creator before anybody attaches, read once at attach. */
typedef struct {
	uint64_t magic;
	uint32_t version;
	uint32_t grain; /* unit of the indices: 64 for records, 8 for values (value_ring.h) */
	uint64_t capacity;
	uint64_t generation;
} ring_constants_t;

/* The words that change seldom, apart from the index so that looking at them does not fetch its line. */
typedef struct {
	_Atomic uint64_t sleep; /* sequence << 2 | kind; written by the sleeper alone */
	_Atomic uint32_t bell;  /* counts the kicks sent to the peer; a peer may wait on it with a futex */
	_Atomic uint32_t closed;
	_Atomic uint32_t cpu; /* where the owner last flushed, plus 1; 0 unknown */
	/* Who owns this end, so that the peer can notice its death (a hint: strangers use sockets). */
	_Atomic uint32_t owner_pid;
	_Atomic uint64_t owner_start;
	_Atomic uint64_t owner_namespace;
} ring_words_t;

typedef struct {
	_Alignas(WRITER_SPACING_BYTES) ring_constants_t constants;
	_Alignas(WRITER_SPACING_BYTES) _Atomic uint64_t index; /* tail, or head */
	_Alignas(WRITER_SPACING_BYTES) ring_words_t words;
} ring_region_t;

_Static_assert(sizeof(ring_region_t) == RING_DATA_OFFSET, "the data follows the three lines");
_Static_assert(sizeof(ring_constants_t) <= WRITER_SPACING_BYTES && sizeof(ring_words_t) <= WRITER_SPACING_BYTES,
	       "one line pair each");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2, "locks do not work across processes");

/* The producer's end: private memory of the producer. */
typedef struct {
	uint8_t *data;
	uint64_t capacity;
	uint64_t mask;
	uint64_t tail;      /* own index: everything below is committed */
	uint64_t published; /* what the consumer can see */
	uint64_t head;      /* last value seen of the consumer's index */
	uint64_t room_end;  /* head + capacity: how far tail may go */
	uint64_t publish_at; /* tail at which a commit publishes ... */
	uint64_t publish_bytes; /* ... so many bytes after the last time */
	uint32_t records;   /* committed since the last publish */
	uint32_t claimed;   /* bytes of the claimed record, 0 = none */
	uint64_t claimed_header;
	uint64_t claimed_reference;
	uint64_t claimed_skip; /* bytes of padding before it */
	uint64_t wanted;    /* bytes that the last refused claim needs */
	uint64_t flushed;   /* tail at the last flush */
	uint64_t kicked;    /* the consumer's sleep word that was kicked last */
	uint64_t sleep;     /* own sleep word */
	uint64_t generation;
	uint32_t cpu;
	uint32_t grain;
	int state;          /* RING_OK, RING_POISONED, RING_CLOSED */
	uint32_t streamed;  /* non-temporal stores were made since the last publish */
	ring_region_t *mine;
	const ring_region_t *theirs;
} ring_producer_t;

/* The consumer's end: private memory of the consumer. */
typedef struct {
	const uint8_t *data;
	uint64_t capacity;
	uint64_t mask;
	uint64_t next;     /* read cursor: the next record to peek */
	uint64_t tail;     /* last value seen of the producer's index */
	uint64_t released; /* everything below may be written again ... */
	uint64_t head;     /* ... and this much of it the producer knows */
	uint64_t release_bytes; /* the producer is told after so many */
	uint64_t checked;  /* head at the last look at the producer's sleep word */
	uint64_t kicked;   /* the producer's sleep word that was kicked last */
	uint64_t sleep;    /* own sleep word */
	uint64_t generation;
	const uint8_t *arena; /* where FRAME_REF points; NULL: such records poison the ring */
	uint64_t arena_bytes;
	uint64_t header_errors; /* records whose header was damaged ... */
	uint64_t lost_bytes;    /* ... and what was dropped with them, headers and padding included */
	uint32_t space_kick; /* kind of a producer to be kicked, 0 = none */
	uint32_t grain;
	int state;           /* RING_OK, RING_POISONED, RING_CLOSED */
	const ring_region_t *theirs;
	ring_region_t *mine;
} ring_consumer_t;

/* What peek gives: private, checked copies of the lengths; the pointers go into the ring (the body of
 * a FRAME_REF: into the arena). Bytes behind the pointers may change while the peer is hostile. */
typedef struct {
	uint8_t *head;
	uint8_t *body;
	uint32_t head_length;
	uint32_t body_length;
	uint8_t kind;
} ring_record_t;

/* ---------------------------------------------------------------- layout */

static inline size_t ring_round_up(uint64_t n, uint64_t unit)
{
	return (size_t)((n + unit - 1) & ~(unit - 1));
}

static inline bool ring_capacity_valid(uint64_t capacity)
{
	return capacity >= RING_MIN_CAPACITY && capacity <= RING_MAX_CAPACITY && (capacity & (capacity - 1)) == 0;
}

/* Bytes of the producer's region, data included; a multiple of 4096. */
static inline size_t ring_producer_region_bytes(uint64_t capacity)
{
	return ring_round_up(RING_DATA_OFFSET + capacity, RING_REGION_ALIGNMENT);
}

static inline size_t ring_consumer_region_bytes(void)
{
	return ring_round_up(sizeof(ring_region_t), RING_REGION_ALIGNMENT);
}

/* Bytes a record takes: header, head padded to 4 bytes (to a line before a long body), body. */
static inline uint32_t ring_body_at(uint32_t head_bytes, uint32_t body_length)
{
	uint32_t at = RING_HEADER_BYTES + head_bytes;
	return body_length >= RING_OWN_LINE_BODY_BYTES ? (at + 63u) & ~63u : (at + 3u) & ~3u;
}

/* The longest body that fits a record with this head: a record may take half of the ring. */
static inline uint64_t ring_max_body(uint64_t capacity, uint32_t head_length)
{
	uint64_t most = capacity / 2 < (1u << 30) ? capacity / 2 : 1u << 30;
	uint64_t at = (RING_HEADER_BYTES + head_length + 63u) & ~63u;
	return most > at ? most - at : 0;
}

static inline int ring_format_grain(void *producer_region, void *consumer_region, uint64_t capacity,
				    uint64_t generation, uint32_t grain)
{
	ring_region_t *regions[2] = {producer_region, consumer_region};

	if (!ring_capacity_valid(capacity) || !producer_region || !consumer_region ||
	    (((uintptr_t)producer_region | (uintptr_t)consumer_region) & (WRITER_SPACING_BYTES - 1)))
		return RING_INVALID;
	for (int i = 0; i < 2; i++) {
		memset((void *)regions[i], 0, sizeof(ring_region_t));
		regions[i]->constants.version = RING_VERSION;
		regions[i]->constants.grain = grain;
		regions[i]->constants.capacity = capacity;
		regions[i]->constants.generation = generation;
		regions[i]->constants.magic = RING_MAGIC;
	}
	return RING_OK;
}

/* By the creator of the memory, once, before anybody attaches. Capacity: a power of two, >= 512. */
static inline int ring_format(void *producer_region, void *consumer_region, uint64_t capacity, uint64_t generation)
{
	return ring_format_grain(producer_region, consumer_region, capacity, generation, RING_SLOT_BYTES);
}

static inline bool ring_region_matches(const ring_region_t *region, uint64_t capacity, uint32_t grain,
				       uint64_t *generation)
{
	ring_constants_t found;

	if (!region || ((uintptr_t)region & (WRITER_SPACING_BYTES - 1)))
		return false;
	memcpy(&found, (const void *)&region->constants, sizeof found);
	*generation = found.generation;
	return found.magic == RING_MAGIC && found.version == RING_VERSION && found.grain == grain &&
	       found.capacity == capacity;
}

/* Attaching continues where the former owner of this end stopped (a new ring starts at 0): an end can
 * so be handed to another process. The own words are read this once and never again. */
static inline int ring_producer_attach_grain(ring_producer_t *p, void *producer_region,
					     const void *consumer_region, uint64_t capacity, uint32_t grain)
{
	uint64_t generation, other;
	ring_region_t *mine = producer_region;
	const ring_region_t *theirs = consumer_region;

	if (!ring_capacity_valid(capacity) || !ring_region_matches(mine, capacity, grain, &generation) ||
	    !ring_region_matches(theirs, capacity, grain, &other) || generation != other)
		return RING_INVALID;
	memset(p, 0, sizeof *p);
	p->mine = mine;
	p->theirs = theirs;
	p->data = (uint8_t *)producer_region + RING_DATA_OFFSET;
	p->capacity = capacity;
	p->mask = capacity - 1;
	p->grain = grain;
	p->generation = generation;
	p->tail = p->published = p->flushed = atomic_load_explicit(&mine->index, memory_order_relaxed);
	p->head = atomic_load_explicit(&theirs->index, memory_order_acquire);
	p->sleep = atomic_load_explicit(&mine->words.sleep, memory_order_relaxed) & ~(uint64_t)RING_KIND_MASK;
	p->room_end = p->head + capacity;
	p->publish_bytes = capacity / RING_LAZY_SHARE;
	if (grain < RING_SLOT_BYTES && p->publish_bytes > (uint64_t)grain * RING_PUBLISH_RECORDS)
		p->publish_bytes = (uint64_t)grain * RING_PUBLISH_RECORDS;
	p->publish_at = p->tail + p->publish_bytes;
	if (p->tail - p->head > capacity || (p->tail & (grain - 1)))
		p->state = RING_POISONED;
	return p->state;
}

static inline int ring_consumer_attach_grain(ring_consumer_t *c, const void *producer_region,
					     void *consumer_region, uint64_t capacity, uint32_t grain)
{
	uint64_t generation, other;
	ring_region_t *mine = consumer_region;
	const ring_region_t *theirs = producer_region;

	if (!ring_capacity_valid(capacity) || !ring_region_matches(mine, capacity, grain, &generation) ||
	    !ring_region_matches(theirs, capacity, grain, &other) || generation != other)
		return RING_INVALID;
	memset(c, 0, sizeof *c);
	c->mine = mine;
	c->theirs = theirs;
	c->data = (const uint8_t *)producer_region + RING_DATA_OFFSET;
	c->capacity = capacity;
	c->mask = capacity - 1;
	c->grain = grain;
	c->generation = generation;
	c->head = atomic_load_explicit(&mine->index, memory_order_relaxed);
	c->next = c->tail = c->released = c->head;
	c->release_bytes = capacity / RING_LAZY_SHARE;
	c->checked = c->head - capacity; /* look at the sleep word with the first release */
	c->sleep = atomic_load_explicit(&mine->words.sleep, memory_order_relaxed) & ~(uint64_t)RING_KIND_MASK;
	if (c->head & (grain - 1))
		c->state = RING_POISONED;
	return c->state;
}

/* Capacity is the caller's own knowledge; the regions must agree with it. RING_INVALID if they do not. */
static inline int ring_producer_attach(ring_producer_t *p, void *producer_region, const void *consumer_region,
				       uint64_t capacity)
{
	return ring_producer_attach_grain(p, producer_region, consumer_region, capacity, RING_SLOT_BYTES);
}

static inline int ring_consumer_attach(ring_consumer_t *c, const void *producer_region, void *consumer_region,
				       uint64_t capacity)
{
	return ring_consumer_attach_grain(c, producer_region, consumer_region, capacity, RING_SLOT_BYTES);
}

/* FRAME_REF records are refused until the consumer has an arena (its own mapping, private knowledge). */
static inline void ring_consumer_set_arena(ring_consumer_t *c, const void *arena, uint64_t arena_bytes)
{
	c->arena = arena;
	c->arena_bytes = arena ? arena_bytes : 0;
}

/* ---------------------------------------------------------------- record headers */

enum { RING_BODY_AT_BIT = 32, RING_KIND_BIT = 40, RING_HEAD_LENGTH_BIT = 42, RING_CHECK_BIT = 52 };

#define RING_FIELDS (((uint64_t)1 << RING_CHECK_BIT) - 1)

/* A header without its check. */
static inline uint64_t ring_header(uint32_t length, uint8_t kind, uint32_t body_at, uint32_t head_length)
{
	return (uint64_t)length | (uint64_t)(body_at / 4) << RING_BODY_AT_BIT | (uint64_t)(kind & 3) << RING_KIND_BIT |
	       (uint64_t)head_length << RING_HEAD_LENGTH_BIT;
}

/* The check, in place. Multiplicative: a flipped bit i of the fields moves the product by 2^i * factor,
 * which for this factor is never so close to 0 (modulo 2^64) that the upper 12 bits could stay the same;
 * neither is any sum of two such steps. The like holds for the index. The last term keeps memory that
 * was never written from passing. tests/c/ring_damage.c shows it. */
static inline uint64_t ring_check(uint64_t fields, uint64_t index)
{
	return (fields * 0x91b7584a2265b1f5u + index * 0xcd613e30d8f16adfu + 0x5bd1e995a7c6f04bu) & ~RING_FIELDS;
}

/* ---------------------------------------------------------------- producer */

static inline void ring_store_word(uint8_t *at, uint64_t word)
{
	/* Relaxed: the release store of tail publishes it. Atomic, so that it is one store. */
	atomic_store_explicit((_Atomic uint64_t *)(void *)at, word, memory_order_relaxed);
}

/* The claimed body is written with non-temporal stores. A release store does not order those: the next
 * publish fences first, once for all records of the batch. */
static inline void ring_note_streamed(ring_producer_t *p)
{
	p->streamed = 1;
}

/* Makes everything committed visible. */
static inline void ring_publish(ring_producer_t *p)
{
	if (p->tail == p->published)
		return;
#if defined(__x86_64__)
	if (RING_UNLIKELY(p->streamed)) {
		__builtin_ia32_sfence();
		p->streamed = 0;
	}
#endif
	/* Release: pairs with the acquire in ring_consumer_refresh(), so the records are written before
	 * their index is seen. Only the producer writes tail. */
	atomic_store_explicit(&p->mine->index, p->tail, RING_ORDER_PUBLISH);
	p->published = p->tail;
	p->publish_at = p->tail + p->publish_bytes;
	p->records = 0;
}

/* Looks at the consumer's index. RING_OK (perhaps with no more room than before), POISONED, CLOSED. */
static inline int ring_producer_refresh(ring_producer_t *p)
{
	/* Acquire: pairs with the release in ring_store_head(): the consumer has read the old records
	 * before we write over them. Only the consumer writes head. */
	uint64_t head = atomic_load_explicit(&p->theirs->index, RING_ORDER_ACQUIRE);

	if (RING_UNLIKELY(p->state != RING_OK))
		return p->state;
	if (RING_UNLIKELY(head - p->head > p->published - p->head))
		return p->state = RING_POISONED;
	p->head = head;
	p->room_end = head + p->capacity;
	if (RING_UNLIKELY(atomic_load_explicit(&p->theirs->words.closed, memory_order_relaxed)))
		return p->state = RING_CLOSED;
	return RING_OK;
}

/* The path of a claim that does not fit what was last seen of head, or a ring's end. */
static inline int ring_claim_slow(ring_producer_t *p, uint64_t skip, uint64_t span)
{
	int state;

	if (p->state != RING_OK)
		return p->state;
	if (p->room_end - p->tail >= skip + span)
		return RING_OK;
	ring_publish(p); /* the consumer must be able to make room */
	state = ring_producer_refresh(p);
	if (state != RING_OK)
		return state;
	if (p->room_end - p->tail >= skip + span)
		return RING_OK;
	p->wanted = skip + span;
	return RING_FULL;
}

static inline void ring_pad(ring_producer_t *p, uint64_t skip)
{
	uint64_t header = ring_header((uint32_t)skip, RING_PAD, 0, 0);

	ring_store_word(p->data + (p->tail & p->mask), header | ring_check(header, p->tail));
	p->tail += skip;
}

static inline int ring_claim_bytes(ring_producer_t *p, uint32_t length, uint8_t **record)
{
	uint64_t span = ((uint64_t)length + RING_SLOT_BYTES - 1) & ~(uint64_t)(RING_SLOT_BYTES - 1);
	uint64_t offset = p->tail & p->mask;

	p->claimed = 0;
	if (RING_UNLIKELY(offset + span > p->capacity)) {
		uint64_t skip = p->capacity - offset;
		int state;

		if (span > p->capacity / 2)
			return RING_INVALID;
		/* The padding goes first and by itself: a producer that then waits for space needs at
		 * most half of the ring, which is what ring_store_head() counts on. */
		state = ring_claim_slow(p, skip, 0);
		if (state != RING_OK)
			return state;
		ring_pad(p, skip);
		offset = 0;
	}
	if (RING_UNLIKELY(p->room_end - p->tail < span || p->state != RING_OK || span > p->capacity / 2)) {
		int state;

		if (span > p->capacity / 2)
			return RING_INVALID;
		state = ring_claim_slow(p, 0, span);
		if (state != RING_OK)
			return state;
	}
	*record = p->data + offset;
	p->claimed = length;
	return RING_OK;
}

/* Reserves a record. Nothing is visible before commit and publish; a claim is dropped by claiming
 * again or by doing nothing. RING_OK, FULL (everything committed was published), POISONED, CLOSED;
 * INVALID: head over 944 bytes, or a record over half of the ring. */
static inline int ring_claim(ring_producer_t *p, uint8_t kind, uint32_t head_length, uint32_t body_length,
			     uint8_t **head, uint8_t **body)
{
	uint8_t *record;
	uint32_t body_at;
	int state;

	if (RING_UNLIKELY(head_length > RING_MAX_HEAD_BYTES || body_length > (1u << 30)))
		return RING_INVALID;
	body_at = ring_body_at(head_length, body_length);
	state = ring_claim_bytes(p, body_at + body_length, &record);
	if (RING_UNLIKELY(state != RING_OK))
		return state;
	p->claimed_header = ring_header(body_at + body_length, kind, body_at, head_length);
	*head = record + RING_HEADER_BYTES;
	*body = record + body_at;
	return RING_OK;
}

/* A record whose body lies in the arena that the consumer has mapped too. */
static inline int ring_claim_reference(ring_producer_t *p, uint32_t head_length, uint32_t arena_offset,
				       uint32_t body_length, uint8_t **head)
{
	uint8_t *record;
	uint32_t length = RING_HEADER_BYTES + RING_REFERENCE_BYTES + head_length;
	int state;

	if (RING_UNLIKELY(head_length > RING_MAX_HEAD_BYTES))
		return RING_INVALID;
	state = ring_claim_bytes(p, length, &record);
	if (RING_UNLIKELY(state != RING_OK))
		return state;
	p->claimed_header = ring_header(length, RING_FRAME_REF, 0, head_length);
	p->claimed_reference = (uint64_t)arena_offset | (uint64_t)body_length << 32;
	*head = record + RING_HEADER_BYTES + RING_REFERENCE_BYTES;
	return RING_OK;
}

/* Shortens the body of the claimed record before its commit; the pointers stay. */
static inline void ring_trim(ring_producer_t *p, uint32_t body_length)
{
	uint32_t body_at = (uint32_t)(p->claimed_header >> RING_BODY_AT_BIT & 0xff) * 4;

	if (p->claimed && body_at && body_at + body_length <= p->claimed) {
		p->claimed = body_at + body_length;
		p->claimed_header = (p->claimed_header & ~(uint64_t)UINT32_MAX) | p->claimed;
	}
}

/* The claimed record is complete: it becomes visible with the next publish, which happens here after
 * 32 records or an eighth of the ring. Without a claim: does nothing. */
static inline void ring_commit(ring_producer_t *p)
{
	uint8_t *record = p->data + (p->tail & p->mask);

	if (RING_UNLIKELY(!p->claimed))
		return;
	if (RING_UNLIKELY((p->claimed_header >> RING_KIND_BIT & 3) == RING_FRAME_REF))
		ring_store_word(record + RING_HEADER_BYTES, p->claimed_reference);
	ring_store_word(record, p->claimed_header | ring_check(p->claimed_header, p->tail));
	p->tail += ((uint64_t)p->claimed + RING_SLOT_BYTES - 1) & ~(uint64_t)(RING_SLOT_BYTES - 1);
	p->claimed = 0;
	if (++p->records >= RING_PUBLISH_RECORDS || (int64_t)(p->tail - p->publish_at) >= 0)
		ring_publish(p);
}

/* Looks at the consumer's sleep word; the caller has stored what the sleeper will look for. */
static inline bool ring_look_for_sleeper(const ring_region_t *theirs, uint64_t *kicked, uint32_t *kind)
{
	uint64_t word;

	/* Store-load: pairs with the fence between a sleeper's word and its second look. */
	atomic_thread_fence(memory_order_seq_cst);
	word = atomic_load_explicit(&theirs->words.sleep, memory_order_relaxed);
	if (RING_LIKELY((word & RING_KIND_MASK) == RING_AWAKE || word == *kicked))
		return false;
	*kicked = word;
	*kind = (uint32_t)(word & RING_KIND_MASK);
	return true;
}

/* The end of a turn: publishes, then looks whether the consumer sleeps. True at most once per sleep:
 * the caller kicks the doorbell of that kind (RING_LEADER, RING_SERVICE). A second flush with nothing
 * new costs nothing. */
static inline bool ring_flush_needs_kick(ring_producer_t *p, uint32_t *kind)
{
	ring_publish(p);
	if (p->flushed == p->tail)
		return false;
	p->flushed = p->tail;
	return ring_look_for_sleeper(p->theirs, &p->kicked, kind);
}

/* Where this end runs, for a peer that decides how to spin. Stored only when it changed. */
static inline void ring_set_cpu(ring_producer_t *p, int cpu)
{
	if (RING_UNLIKELY(p->cpu != (uint32_t)cpu + 1)) {
		p->cpu = (uint32_t)cpu + 1;
		atomic_store_explicit(&p->mine->words.cpu, p->cpu, memory_order_relaxed);
	}
}

/* Free bytes of the ring, from a fresh look at head; 0 if the ring is poisoned or closed. */
static inline uint64_t ring_free_bytes(ring_producer_t *p)
{
	return ring_producer_refresh(p) == RING_OK ? p->room_end - p->tail : 0;
}

static inline bool ring_consumer_closed(const ring_producer_t *p)
{
	return atomic_load_explicit(&p->theirs->words.closed, memory_order_relaxed) != 0;
}

static inline void ring_producer_disarm(ring_producer_t *p)
{
	p->sleep &= ~(uint64_t)RING_KIND_MASK;
	atomic_store_explicit(&p->mine->words.sleep, p->sleep, memory_order_relaxed);
}

/* About to sleep for space: true = do not, there is room for the refused record, or an error to be
 * seen by the next claim (disarmed again). Everything committed is published; flush first, so that a
 * sleeping consumer was kicked. The consumer wakes us when a quarter of the ring is free. */
static inline bool ring_producer_arm_as(ring_producer_t *p, uint32_t kind)
{
	uint64_t wanted = p->wanted ? p->wanted : p->capacity / RING_WAKE_SHARE;

	ring_publish(p);
	p->sleep = ((p->sleep >> 2) + 1) << 2 | kind;
	atomic_store_explicit(&p->mine->words.sleep, p->sleep, memory_order_relaxed);
	/* Store-load: pairs with the fence in ring_look_for_sleeper(). */
	atomic_thread_fence(memory_order_seq_cst);
	if (ring_producer_refresh(p) == RING_OK && p->room_end - p->tail < wanted)
		return false;
	ring_producer_disarm(p);
	return true;
}

static inline bool ring_producer_arm(ring_producer_t *p)
{
	return ring_producer_arm_as(p, RING_LEADER);
}

/* Nothing will follow what is published here. True: the consumer sleeps, kick this kind. */
static inline bool ring_producer_close(ring_producer_t *p, uint32_t *kind)
{
	p->claimed = 0;
	ring_publish(p);
	/* Release: whoever sees `closed` sees the last tail too. */
	atomic_store_explicit(&p->mine->words.closed, 1, memory_order_release);
	p->flushed = p->tail;
	if (p->state == RING_OK)
		p->state = RING_CLOSED;
	return ring_look_for_sleeper(p->theirs, &p->kicked, kind);
}

/* ---------------------------------------------------------------- consumer */

/* Tells the producer what may be written again.
 *
 * The look at the producer's sleep word needs a full fence, so it is made only when the producer can
 * be asleep: it sleeps for at most half of the ring, hence only with more than half used, so once
 * what we know of tail is more than half of the ring beyond the head of our last look. (If it is not,
 * that head was already stored before a fence that the sleeper's second look comes after.) */
static inline void ring_store_head(ring_consumer_t *c, bool look)
{
	/* Release: pairs with the acquire in ring_producer_refresh(). Only the consumer writes head. */
	atomic_store_explicit(&c->mine->index, c->released, RING_ORDER_PUBLISH);
	c->head = c->released;
	if (look || c->tail - c->checked > c->capacity / 2) {
		c->checked = c->head;
		if (c->capacity - (c->tail - c->head) >= c->capacity / RING_WAKE_SHARE)
			ring_look_for_sleeper(c->theirs, &c->kicked, &c->space_kick);
	}
}

/* Looks at the producer's index after everything known was taken. */
static inline int ring_consumer_refresh(ring_consumer_t *c)
{
	uint64_t tail;

	if (RING_UNLIKELY(c->state != RING_OK))
		return c->state;
	if (c->released != c->head)
		ring_store_head(c, false);
	/* Acquire: pairs with the release in ring_publish(). Only the producer writes tail. */
	tail = atomic_load_explicit(&c->theirs->index, RING_ORDER_ACQUIRE);
	if (tail == c->tail) {
		if (RING_LIKELY(!atomic_load_explicit(&c->theirs->words.closed, memory_order_acquire)))
			return RING_EMPTY;
		tail = atomic_load_explicit(&c->theirs->index, memory_order_acquire);
		if (tail == c->tail)
			return RING_CLOSED; /* not kept: the records still peeked can be released */
	}
	/* Between what was seen before and a full ring, on a slot's border. */
	if (RING_UNLIKELY(tail - c->head > c->capacity || tail - c->head < c->tail - c->head ||
			  (tail & (c->grain - 1))))
		return c->state = RING_POISONED;
	c->tail = tail;
	return RING_OK;
}

static inline int ring_poison(ring_consumer_t *c)
{
	c->tail = c->next; /* sends every later peek to the check of `state` */
	return c->state = RING_POISONED;
}

/* Passes over so many bytes that nobody reads: released with what was released before them. */
static inline void ring_skip(ring_consumer_t *c, uint64_t bytes)
{
	if (c->released == c->next)
		c->released += bytes;
	c->next += bytes;
}

/* The record at the cursor is damaged, and so many bytes of the ring cannot be read for that. */
static inline int ring_damaged(ring_consumer_t *c, uint64_t bytes)
{
	c->header_errors++;
	c->lost_bytes += bytes;
	ring_skip(c, bytes);
	return RING_DAMAGED;
}

/* The next record that was not yet taken. RING_OK moves the read cursor; the record stays valid until
 * it is released. RING_EMPTY, RING_CLOSED (empty, and the producer closed), RING_POISONED for ever
 * after a bad index or an impossible record, RING_DAMAGED once for each record that memory damaged:
 * what is lost was counted in `header_errors` and `lost_bytes`, and the next call goes on behind it. */
static inline int ring_peek(ring_consumer_t *c, ring_record_t *r)
{
	for (;;) {
		const uint8_t *record;
		uint64_t offset, span, header;
		uint32_t length, kind, body_at, head_length;

		if (c->next == c->tail) {
			int state = ring_consumer_refresh(c);
			if (state != RING_OK)
				return state;
		}
		offset = c->next & c->mask;
		record = c->data + offset;
		/* Loaded once; everything below uses the local. */
		header = atomic_load_explicit((const _Atomic uint64_t *)(const void *)record, memory_order_relaxed);
		if (RING_UNLIKELY((header & ~RING_FIELDS) != ring_check(header & RING_FIELDS, c->next)))
			return ring_damaged(c, c->tail - c->next);
		length = (uint32_t)header;
		body_at = (uint32_t)(header >> RING_BODY_AT_BIT & 0xff) * 4;
		kind = (uint32_t)(header >> RING_KIND_BIT) & 3;
		head_length = (uint32_t)(header >> RING_HEAD_LENGTH_BIT) & 0x3ff;
		span = ((uint64_t)length + RING_SLOT_BYTES - 1) & ~(uint64_t)(RING_SLOT_BYTES - 1);
		if (RING_UNLIKELY(length < RING_HEADER_BYTES || span > c->tail - c->next ||
				  offset + span > c->capacity))
			return ring_poison(c);
		if (RING_LIKELY(kind == RING_FRAME || kind == RING_CONTROL)) {
			if (RING_UNLIKELY(body_at < RING_HEADER_BYTES + head_length || body_at > length))
				return ring_poison(c);
			r->head = (uint8_t *)(uintptr_t)record + RING_HEADER_BYTES;
			r->body = (uint8_t *)(uintptr_t)record + body_at;
			r->head_length = head_length;
			r->body_length = length - body_at;
			r->kind = (uint8_t)kind;
			c->next += span;
			return RING_OK;
		}
		if (kind == RING_PAD) {
			if (offset + length != c->capacity)
				return ring_poison(c);
			ring_skip(c, span);
			continue; /* at most once more: it ended at the end of the ring */
		}
		if (kind == RING_FRAME_REF && length == RING_HEADER_BYTES + RING_REFERENCE_BYTES + head_length) {
			uint64_t reference = atomic_load_explicit(
				(const _Atomic uint64_t *)(const void *)(record + RING_HEADER_BYTES),
				memory_order_relaxed);

			if (!c->arena)
				return ring_poison(c);
			if ((reference & UINT32_MAX) + (reference >> 32) > c->arena_bytes)
				return ring_damaged(c, span); /* the header is good: only this record is lost */
			r->head = (uint8_t *)(uintptr_t)record + RING_HEADER_BYTES + RING_REFERENCE_BYTES;
			r->body = (uint8_t *)(uintptr_t)c->arena + (reference & UINT32_MAX);
			r->head_length = head_length;
			r->body_length = (uint32_t)(reference >> 32);
			r->kind = RING_FRAME_REF;
			c->next += span;
			return RING_OK;
		}
		return ring_poison(c);
	}
}

/* Puts the record of the last peek back: the next peek gives it again. Not for a FRAME_REF. */
static inline void ring_unpeek(ring_consumer_t *c, const ring_record_t *r)
{
	c->next -= ring_round_up((uint64_t)(r->body - r->head) + RING_HEADER_BYTES + r->body_length, RING_SLOT_BYTES);
}

/* All records peeked so far may be written again; touch none of them after this. The producer is told
 * lazily: when an eighth of the ring has gathered, or when the ring is found empty. So peek until
 * RING_EMPTY, or use ring_release_now() when you stop before. */
static inline void ring_release(ring_consumer_t *c)
{
	c->released = c->next;
	if (c->released - c->head >= c->release_bytes)
		ring_store_head(c, false);
}

static inline void ring_release_now(ring_consumer_t *c)
{
	c->released = c->next;
	if (c->released != c->head)
		ring_store_head(c, false);
}

/* True once after a release found the producer asleep for space: kick the producer's doorbell of that
 * kind. Ask at the end of a turn and always before sleeping. */
static inline bool ring_space_needs_kick(ring_consumer_t *c, uint32_t *kind)
{
	if (RING_LIKELY(!c->space_kick))
		return false;
	*kind = c->space_kick;
	c->space_kick = 0;
	return true;
}

/* Is there something to peek? Also true when peek would report poison or the end. */
static inline bool ring_has_data(ring_consumer_t *c)
{
	return c->next != c->tail || atomic_load_explicit(&c->theirs->index, memory_order_relaxed) != c->tail ||
	       c->state != RING_OK || atomic_load_explicit(&c->theirs->words.closed, memory_order_relaxed);
}

static inline void ring_consumer_disarm(ring_consumer_t *c)
{
	c->sleep &= ~(uint64_t)RING_KIND_MASK;
	atomic_store_explicit(&c->mine->words.sleep, c->sleep, memory_order_relaxed);
}

/* About to sleep: true = do not, there is something to peek (disarmed again). Publishes what was
 * released, so ask ring_space_needs_kick() before the sleep. */
static inline bool ring_consumer_arm(ring_consumer_t *c, uint32_t kind)
{
	if (c->released != c->head)
		ring_store_head(c, true);
	c->sleep = ((c->sleep >> 2) + 1) << 2 | kind;
	atomic_store_explicit(&c->mine->words.sleep, c->sleep, memory_order_relaxed);
	/* Store-load: pairs with the fence in ring_look_for_sleeper(). */
	atomic_thread_fence(memory_order_seq_cst);
	if (!ring_has_data(c))
		return false;
	ring_consumer_disarm(c);
	return true;
}

/* We take nothing more. True: the producer sleeps for space, kick this kind. */
static inline bool ring_consumer_close(ring_consumer_t *c, uint32_t *kind)
{
	atomic_store_explicit(&c->mine->words.closed, 1, memory_order_release);
	if (c->state == RING_OK)
		c->state = RING_CLOSED;
	return ring_look_for_sleeper(c->theirs, &c->kicked, kind);
}

static inline bool ring_producer_closed(const ring_consumer_t *c)
{
	return atomic_load_explicit(&c->theirs->words.closed, memory_order_relaxed) != 0;
}

/* Who holds an end, so that the peer can watch its process. A hint between processes of one owner:
 * strangers watch the socket that the fds came through. */
static inline void ring_set_owner(ring_region_t *mine, uint32_t pid, uint64_t start, uint64_t pid_namespace)
{
	atomic_store_explicit(&mine->words.owner_pid, 0, memory_order_release);
	atomic_store_explicit(&mine->words.owner_start, start, memory_order_release);
	atomic_store_explicit(&mine->words.owner_namespace, pid_namespace, memory_order_release);
	/* Release: whoever sees the pid sees the two words that belong to it. */
	atomic_store_explicit(&mine->words.owner_pid, pid, memory_order_release);
}

static inline uint32_t ring_owner(const ring_region_t *region, uint64_t *start, uint64_t *pid_namespace)
{
	uint32_t pid = atomic_load_explicit(&region->words.owner_pid, memory_order_acquire);

	*start = atomic_load_explicit(&region->words.owner_start, memory_order_acquire);
	*pid_namespace = atomic_load_explicit(&region->words.owner_namespace, memory_order_acquire);
	return pid;
}

/* The CPU on which the producer last flushed, -1 unknown. A hint for spinning, never checked. */
static inline int ring_peer_cpu(const ring_consumer_t *c)
{
	return (int)atomic_load_explicit(&c->theirs->words.cpu, memory_order_relaxed) - 1;
}

#endif
