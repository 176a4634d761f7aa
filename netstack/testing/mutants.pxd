"""Mutants of frames, made compiled: what a fuzz test gives a stack, millions of them."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    MUTANT_MAX = 2048            # bytes of a frame


cdef struct template_t:
    # A valid frame that mutants are made of.
    uint8_t *bytes
    uint32_t length
    uint32_t focus               # most changes are made at and behind this byte


cdef struct mutator_t:
    uint64_t random[2]
    template_t *templates
    uint32_t count
    uint32_t next                # template in its turn
    uint32_t link_header         # bytes in front of the IP packet
    uint32_t calm                # one in so many frames stays as it is
    uint32_t number_at           # where a 16-bit number stands that changes now and then; 0: nowhere
    uint16_t number
    uint64_t made


# A frame of at most MUTANT_MAX bytes, at least one, into out; its length.
cdef uint32_t mutant_make(mutator_t *m, uint8_t *out) noexcept nogil
# Lengths of the IP header that fit the bytes there are; checksums that are right, as far as the lengths allow.
cdef void mutant_fit(uint8_t *packet, uint32_t n) noexcept nogil
cdef void mutant_repair(uint8_t *packet, uint32_t n) noexcept nogil
# What is wrong with a packet, or with an ARP message, that a stack has sent; NULL: nothing.
cdef const char *packet_fault(const uint8_t *packet, uint32_t n) noexcept nogil
cdef const char *arp_fault(const uint8_t *frame, uint32_t n) noexcept nogil
