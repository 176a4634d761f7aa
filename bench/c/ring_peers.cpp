// ring_peers.cpp - rings of other people as contestants of ring_bench, each if its headers are there:
// -DWITH_BOOST (boost::lockfree::spsc_queue), -DWITH_ATOMIC_QUEUE, -DWITH_DPDK (rte_ring).
//
// Each gets what suits it best: its blocking calls where it has faster ones, its burst calls for the
// batch test, fixed-size elements for the records, its queue placed in the shared memory.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

#include "ring_bench.h"

#ifdef WITH_BOOST
#include <boost/lockfree/spsc_queue.hpp>
#endif
#ifdef WITH_ATOMIC_QUEUE
#include <atomic_queue/atomic_queue.h>
#endif
#ifdef WITH_DPDK
extern "C" {
#include <rte_config.h>
#include <rte_ring.h>
#include <rte_ring_elem.h>
}
#endif

namespace {

// A message of fixed size. Copied by memcpy with a length the compiler cannot see through: a plain
// struct copy of 1500 bytes becomes a string instruction and would measure that instead.
template <size_t S>
struct alignas(S >= 64 ? 64 : 8) Message {
	unsigned char bytes[S];
	Message() noexcept {}
	Message(const Message &other) noexcept { copy(other); }
	Message &operator=(const Message &other) noexcept
	{
		copy(other);
		return *this;
	}
	void copy(const Message &other) noexcept
	{
		size_t n = S;
		if (S > 64)
			__asm__("" : "+r"(n));
		memcpy(bytes, other.bytes, n);
	}
};

using Small = Message<64>;
using Large = Message<1500>;

// The loops, for any queue with push(const T &) -> bool and pop(T &) -> bool.
template <class Values, class Smalls, class Larges>
struct Loops {
	struct State {
		Values *values[2];
		Smalls *smalls;
		Larges *larges;
	};

	template <class Queue, class T>
	static void send(Queue *queue, uint64_t first, uint64_t n, uint8_t *buffer)
	{
		T *message = reinterpret_cast<T *>(buffer);
		for (uint64_t i = first; i < first + n; i++) {
			memcpy(message->bytes, &i, sizeof i);
			while (!queue->push(*message))
				bench_pause();
		}
	}

	template <class Queue, class T>
	static uint64_t receive(Queue *queue, uint64_t first, uint64_t n, uint8_t *buffer)
	{
		T *message = reinterpret_cast<T *>(buffer);
		uint64_t bad = 0, value;
		for (uint64_t i = first; i < first + n; i++) {
			while (!queue->pop(*message))
				bench_pause();
			memcpy(&value, message->bytes, sizeof value);
			bad += value != i;
		}
		return bad;
	}

	static void produce(contestant_t *self, bench_test test, uint64_t first, uint64_t n, uint8_t *buffer)
	{
		State *state = static_cast<State *>(self->state);
		Values *queue = state->values[0], *back = state->values[1];
		uint64_t values[BATCH], value;

		switch (test) {
		case TEST_ONE:
			for (uint64_t i = first; i < first + n; i++)
				while (!queue->push(i))
					bench_pause();
			break;
		case TEST_BATCH:
			if constexpr (Values::has_bursts)
				for (uint64_t i = first; i < first + n; i += BATCH) {
					size_t done = 0;
					for (int k = 0; k < BATCH; k++)
						values[k] = i + k;
					while ((done += queue->push_many(values + done, BATCH - done)) < BATCH)
						bench_pause();
				}
			break;
		case TEST_REC64:
			send<Smalls, Small>(state->smalls, first, n, buffer);
			break;
		case TEST_REC1500:
			send<Larges, Large>(state->larges, first, n, buffer);
			break;
		default:
			for (uint64_t i = first; i < first + n; i++) {
				while (!queue->push(i))
					;
				while (!back->pop(value))
					;
			}
		}
	}

	static uint64_t consume(contestant_t *self, bench_test test, uint64_t first, uint64_t n, uint8_t *buffer)
	{
		State *state = static_cast<State *>(self->state);
		Values *queue = state->values[0], *back = state->values[1];
		uint64_t values[BATCH], value, bad = 0;

		switch (test) {
		case TEST_ONE:
			for (uint64_t i = first; i < first + n; i++) {
				while (!queue->pop(value))
					bench_pause();
				bad += value != i;
			}
			return bad;
		case TEST_BATCH:
			if constexpr (Values::has_bursts)
				for (uint64_t i = first; i < first + n;) {
					size_t got = queue->pop_many(values, BATCH);
					if (!got)
						bench_pause();
					for (size_t k = 0; k < got; k++)
						bad += values[k] != i + k;
					i += got;
				}
			return bad;
		case TEST_REC64:
			return receive<Smalls, Small>(state->smalls, first, n, buffer);
		case TEST_REC1500:
			return receive<Larges, Large>(state->larges, first, n, buffer);
		default:
			for (uint64_t i = first; i < first + n; i++) {
				while (!queue->pop(value))
					;
				while (!back->push(value))
					;
				bad += value != i;
			}
			return bad;
		}
	}

	static int prepare(contestant_t *self, void *memory, bench_test test, const bench_options_t *options)
	{
		static State state;
		unsigned char *at = static_cast<unsigned char *>(memory);

		if (options->values != VALUES || (test == TEST_BATCH && !Values::has_bursts))
			return 0;
		self->state = &state;
		switch (test) {
		case TEST_REC64:
			state.smalls = new (at) Smalls;
			return 1;
		case TEST_REC1500:
			state.larges = new (at) Larges;
			return 1;
		default:
			state.values[0] = new (at) Values;
			state.values[1] = new (at + (4 << 20)) Values;
			return 1;
		}
	}

	static contestant_t make(const char *name) { return {name, prepare, produce, consume, nullptr}; }
};

#ifdef WITH_BOOST
template <class T, size_t N>
struct Boost {
	static constexpr bool has_bursts = true;
	boost::lockfree::spsc_queue<T, boost::lockfree::capacity<N>> queue;
	bool push(const T &x) { return queue.push(x); }
	bool pop(T &x) { return queue.pop(x); }
	size_t push_many(const T *x, size_t n) { return queue.push(x, n); }
	size_t pop_many(T *x, size_t n) { return queue.pop(x, n); }
};
contestant_t boost_contestant =
	Loops<Boost<uint64_t, VALUES>, Boost<Small, RECORDS_64>, Boost<Large, RECORDS_1500>>::make("boost");
#endif

#ifdef WITH_ATOMIC_QUEUE
// Values by its fastest way, the blocking push and pop of the atomic-element queue (value 0 means empty).
template <size_t N>
struct AtomicValues {
	static constexpr bool has_bursts = false;
	atomic_queue::AtomicQueue<uint64_t, N, 0, true, true, false, true> queue;
	bool push(uint64_t x)
	{
		queue.push(x + 1);
		return true;
	}
	bool pop(uint64_t &x)
	{
		x = queue.pop() - 1;
		return true;
	}
};
template <class T, size_t N>
struct AtomicMessages {
	static constexpr bool has_bursts = false;
	atomic_queue::AtomicQueue2<T, N, true, true, false, true> queue;
	bool push(const T &x) { return queue.try_push(x); }
	bool pop(T &x) { return queue.try_pop(x); }
};
contestant_t atomic_contestant =
	Loops<AtomicValues<VALUES>, AtomicMessages<Small, RECORDS_64>, AtomicMessages<Large, RECORDS_1500>>::make(
		"atomic_queue");
#endif

#ifdef WITH_DPDK
template <class T, size_t N>
struct Dpdk {
	static constexpr bool has_bursts = true;
	alignas(128) rte_ring ring; // the elements follow it
	T elements[N];
	Dpdk()
	{
		if (rte_ring_init(&ring, "bench", N, RING_F_SP_ENQ | RING_F_SC_DEQ))
			abort();
	}
	bool push(const T &x) { return !rte_ring_sp_enqueue_elem(&ring, const_cast<T *>(&x), sizeof(T)); }
	bool pop(T &x) { return !rte_ring_sc_dequeue_elem(&ring, &x, sizeof(T)); }
	size_t push_many(const T *x, size_t n) { return rte_ring_sp_enqueue_burst_elem(&ring, x, sizeof(T), n, nullptr); }
	size_t pop_many(T *x, size_t n) { return rte_ring_sc_dequeue_burst_elem(&ring, x, sizeof(T), n, nullptr); }
};
contestant_t dpdk_contestant =
	Loops<Dpdk<uint64_t, VALUES>, Dpdk<Small, RECORDS_64>, Dpdk<Large, RECORDS_1500>>::make("dpdk");
#endif

} // namespace

extern "C" contestant_t *peer_contestant(const char *name)
{
	(void)name;
#ifdef WITH_BOOST
	if (!strcmp(name, "boost"))
		return &boost_contestant;
#endif
#ifdef WITH_ATOMIC_QUEUE
	if (!strcmp(name, "atomic_queue"))
		return &atomic_contestant;
#endif
#ifdef WITH_DPDK
	if (!strcmp(name, "dpdk"))
		return &dpdk_contestant;
#endif
	return nullptr;
}
