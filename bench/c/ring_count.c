/* ring_count.c - records in and out of one ring in one process, for counting instructions.
 *
 *   ring_count SIZE COUNT
 *
 * Batches of 32: claim, copy, commit; publish; peek, copy, release.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rings/spsc_ring.h"

enum { CAPACITY = 1 << 20, BATCH = 32 };

int main(int argc, char **argv)
{
	size_t size = argc > 1 ? strtoul(argv[1], NULL, 0) : 64, count = argc > 2 ? strtoul(argv[2], NULL, 0) : 1;
	uint8_t *producer_memory = aligned_alloc(4096, ring_producer_region_bytes(CAPACITY));
	uint8_t *consumer_memory = aligned_alloc(4096, ring_consumer_region_bytes());
	uint8_t *source = calloc(1, 65536), *target = calloc(1, 65536), *head, *body;
	ring_producer_t producer;
	ring_consumer_t consumer;
	ring_record_t record;

	if (!producer_memory || !consumer_memory || !source || !target || size > 65536 ||
	    ring_format(producer_memory, consumer_memory, CAPACITY, 1) ||
	    ring_producer_attach(&producer, producer_memory, consumer_memory, CAPACITY) ||
	    ring_consumer_attach(&consumer, producer_memory, consumer_memory, CAPACITY))
		return 1;
	for (size_t done = 0; done < count;) {
		size_t n = count - done < BATCH ? count - done : BATCH;

		for (size_t i = 0; i < n; i++) {
			if (ring_claim(&producer, RING_FRAME, 0, (uint32_t)size, &head, &body))
				return 1;
			memcpy(body, source, size);
			ring_commit(&producer);
		}
		ring_publish(&producer);
		while (ring_peek(&consumer, &record) == RING_OK) {
			memcpy(target, record.body, record.body_length);
			done++;
		}
		ring_release(&consumer);
	}
	printf("%d\n", target[0]);
	return 0;
}
