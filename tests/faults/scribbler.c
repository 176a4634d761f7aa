/* A hostile stack's hands: it changes words of its own ring memory while the router reads them (security F5).
 * Built as a shared object; called by tests/faults/hostile_stack.py, which holds the attachment. */
#include "rings/spsc_ring.h"

static uint64_t draw(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* A value that has a chance to be believed: small, at an edge, or near what stands there. */
static uint64_t value(uint64_t *state, uint64_t now, uint64_t capacity)
{
	uint64_t r = draw(state);
	switch (r >> 8 & 7) {
	case 0: return now + (r >> 16 & 4095);
	case 1: return now ^ 1ull << (r >> 16 & 63);
	case 2: return capacity - 1 + (r >> 16 & 3);
	case 3: return r >> 16 & (capacity - 1) & ~63ull;
	case 4: return (1ull << (r >> 16 & 63)) - 1;
	case 5: return ring_header((uint32_t)(r >> 16 & 0xffff), r >> 32 & 3, 8 + (r >> 34 & 0x3fc), r >> 44 & 0x3ff);
	default: return r;
	}
}

/* `count` changes; `fatal` of 65,536 are to indices and sleep words, the others to records: valid headers (the check
 * included) with lengths and kinds of chance, and packet bytes behind them. Between two, other words of this region keep
 * their values. */
void scribble(uint64_t *words, uint64_t capacity, uint64_t consumer, uint64_t count, uint64_t seed, unsigned fatal)
{
	uint64_t state = seed * 0x9e3779b97f4a7c15ull | 1;
	uint64_t slots = capacity / RING_SLOT_BYTES;
	volatile uint64_t *memory = words;
	for (uint64_t i = 0; i < count; i++) {
		uint64_t r = draw(&state), at;
		if ((r & 0xffff) < fatal) {
			static const unsigned named[] = {0, 1, 2, 3, 128 / 8, 256 / 8, 264 / 8, 272 / 8};
			at = named[r >> 16 & 7] + (r >> 20 & 1 ? consumer / 8 : 0);
			memory[at] = value(&state, memory[at], capacity);
			continue;
		}
		at = RING_DATA_OFFSET / 8 + (r >> 16) % slots * (RING_SLOT_BYTES / 8) + (r >> 60 & 7);
		if ((r >> 60 & 7) == 0) {
			uint64_t tail = memory[128 / 8];
			uint64_t index = (tail & ~(capacity - 1)) + (r >> 16) % slots * RING_SLOT_BYTES;
			uint64_t fields = ring_header((uint32_t)(draw(&state) & 2047), 1, 8, 0);
			memory[at] = r >> 40 & 1 ? fields | ring_check(fields, index) << 52 : value(&state, memory[at], capacity);
		} else {
			memory[at] = value(&state, memory[at], capacity);
		}
	}
}
