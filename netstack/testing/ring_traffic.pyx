# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Packets into one ring and out of another, as fast as memory goes: the load of router benchmarks and stress tests."""

from cpython cimport array
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

import array

from netstack.wire.byte_order cimport load_native16, store_native16
from netstack.wire.checksum cimport checksum_update16
from rings.doorbell cimport doorbell_flush, doorbell_now_ns, doorbell_space
from rings.spsc_ring cimport (
    ConsumerRing, ProducerRing, RING_FRAME, RING_OK, ring_claim, ring_commit, ring_peek, ring_record_t, ring_release,
)

cdef extern from "rings/cache_line.h" nogil:
    void cpu_relax()


cdef class RingTraffic:
    """Sends copies of one packet through `sender` and takes what arrives at `receiver`.

    Parameters
    ----------
    sender, receiver : rings.channel.Channel
        The stacks' sides of two channels whose other sides a router holds.
    packet : bytes
        At most 944 bytes.
    destinations : bytes, optional
        IPv4 addresses, one behind the other: the packets go to them in turn instead.
    """

    cdef ProducerRing tx
    cdef ConsumerRing rx
    cdef int tx_bells[4]
    cdef int rx_bells[4]
    cdef bytes packet
    cdef const uint8_t *source
    cdef uint32_t length
    cdef bytes destinations
    cdef const uint8_t *targets
    cdef uint32_t n_targets
    cdef uint32_t turn
    cdef object keep
    cdef readonly uint64_t sent
    cdef readonly uint64_t received

    def __init__(self, sender, receiver, bytes packet not None, bytes destinations=b""):
        if not 20 <= len(packet) <= 944:
            raise ValueError("a packet of 20 to 944 bytes")
        self.keep = (sender, receiver)
        self.tx = sender.tx
        self.rx = receiver.rx
        self.tx_bells = sender.peer_fds
        self.rx_bells = receiver.peer_fds
        self.packet = packet
        self.source = <const uint8_t *> <char *> packet
        self.length = <uint32_t> len(packet)
        self.destinations = destinations
        self.targets = <const uint8_t *> <char *> destinations
        self.n_targets = <uint32_t> (len(destinations) // 4)

    cdef inline void aim(self, uint8_t *packet) noexcept nogil:
        """The next destination in the header, and its checksum right (RFC 1624)."""
        cdef const uint8_t *target = self.targets + 4 * self.turn
        cdef uint16_t check = load_native16(packet + 10)
        check = checksum_update16(check, load_native16(packet + 16), load_native16(target))
        check = checksum_update16(check, load_native16(packet + 18), load_native16(target + 2))
        store_native16(packet + 10, check)
        memcpy(packet + 16, target, 4)
        self.turn += 1
        if self.turn == self.n_targets:
            self.turn = 0

    cdef int send(self, int n) noexcept nogil:
        cdef uint8_t *head = NULL
        cdef uint8_t *body
        cdef int i = 0
        while i < n and ring_claim(&self.tx.ring, RING_FRAME, self.length, 0, &head, &body) == RING_OK:
            memcpy(head, self.source, self.length)
            if self.n_targets:
                self.aim(head)
            ring_commit(&self.tx.ring)
            i += 1
        doorbell_flush(&self.tx.ring, self.tx_bells)
        self.sent += i
        return i

    cdef int take(self) noexcept nogil:
        cdef ring_record_t r
        cdef int n = 0
        while ring_peek(&self.rx.ring, &r) == RING_OK:
            n += 1
        ring_release(&self.rx.ring)
        doorbell_space(&self.rx.ring, self.rx_bells)
        self.received += n
        return n

    def fill(self, int n):
        """Send at most `n` packets; returns how many fit."""
        return self.send(n)

    def drain(self):
        """Take all that arrived; returns how many."""
        return self.take()

    def blast(self, int64_t duration_ns, int burst=256):
        """Send and take for a while without the GIL, never more than the rings hold. Returns packets received."""
        cdef int64_t until
        cdef uint64_t before = self.received
        cdef int64_t open_packets
        with nogil:
            until = doorbell_now_ns() + duration_ns
            while doorbell_now_ns() < until:
                open_packets = <int64_t> (self.sent - self.received)
                if open_packets < 8 * burst:
                    self.send(burst)
                if not self.take():
                    cpu_relax()
        return self.received - before

    def pass_one(self, int n):
        """Send `n` packets, each when the one before has arrived, without the GIL. Returns nanoseconds each, the median."""
        cdef int64_t began
        cdef int i
        cdef array.array took = array.array("q", bytes(8 * n))
        cdef int64_t *out = <int64_t *> took.data.as_longlongs
        with nogil:
            for i in range(n):
                began = doorbell_now_ns()
                self.send(1)
                while not self.take():
                    cpu_relax()
                out[i] = doorbell_now_ns() - began
        return sorted(took)[n // 2]
