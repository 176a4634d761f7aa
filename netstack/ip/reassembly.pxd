"""Fragments become datagrams again, for IPv4 (RFC 791, 815) and IPv6 (RFC 8200 section 4.5) alike."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_t
from netstack.counters cimport counters_t, DropReason
from netstack.ip.interface cimport interface_t, packet_in_t
from netstack.link.link cimport frame_t

cdef enum:
    REASSEMBLY_SOURCES = 256     # keyed lists: a source's share is what its list holds
    REASSEMBLY_PER_SOURCE = 64   # datagrams in one list, as net.ipv4.ipfrag_max_dist of Linux
    REASSEMBLY_DATAGRAMS = 4096  # in all
    REASSEMBLY_PIECES = 2048     # of one datagram: 65,515 bytes at an MTU of 68 are 1,365


cdef struct piece_t:
    uint32_t offset              # bytes, in the fragmentable part
    uint32_t length
    uint8_t *memory              # the bytes; before those of the first piece its headers as they came


cdef struct partial_t:
    # A datagram of which pieces are there.
    address_t src
    address_t dst
    uint32_t id
    uint8_t protocol             # what follows the headers: of the first piece
    uint8_t v6
    uint8_t dead                 # given up (RFC 5722): what still comes of it is dropped in silence
    uint8_t broadcast
    uint8_t ecn                  # which of the four codepoints its pieces carried, a bit each (RFC 3168 section 5.3)
    uint8_t has_end
    uint16_t list                # of its source
    uint32_t end                 # bytes of the fragmentable part, once the last piece is there
    uint32_t received            # bytes of it that are there
    uint32_t head_length         # headers of the first piece, as they came; 0: it is not there
    uint32_t kept                # those that the whole datagram begins with (IPv6: without the fragment header)
    uint32_t next_at             # where in them the number of what follows stands
    uint32_t charge              # bytes of memory
    uint32_t count
    uint32_t capacity
    piece_t *pieces              # by offset, no two overlap
    int64_t expires_ns
    interface_t *interface       # where the first to arrive came in
    partial_t *older             # of its source
    partial_t *newer
    partial_t *before            # of its version, in order of expiry
    partial_t *after


cdef struct source_list_t:
    partial_t *oldest
    partial_t *newest
    uint32_t bytes
    uint32_t count


cdef struct reassembly_t:
    uint64_t key[2]
    counters_t *counters
    source_list_t *sources       # made with the first fragment, gone with the last
    partial_t *first[2]          # to expire next, of IPv4 and IPv6
    partial_t *last[2]
    uint64_t bytes
    uint32_t count
    uint32_t high_bytes          # net.ipv4.ipfrag_high_thresh, for both versions together
    uint32_t timeout_ms[2]       # net.ipv4.ipfrag_time, net.ipv6.ip6frag_time
    uint8_t *whole               # the datagram handed out last
    frame_t frame


cdef void reassembly_init(reassembly_t *r, const uint8_t *secret, counters_t *counters) noexcept nogil   # 16 bytes
cdef void reassembly_free(reassembly_t *r) noexcept nogil

# A packet whose `piece` is set: taken, or dropped for the reason returned. When it completes its datagram, *packet*
# becomes that datagram (`piece` 0, `reassembled` 1), in private memory that is good until `reassembly_release`; IPv6
# walks its headers again. Else `piece` stays set and there is nothing to do. Atomic fragments (RFC 6946) never come
# here: who reads the fragment header goes on behind it.
cdef DropReason reassembly_input(reassembly_t *r, packet_in_t *packet, int64_t now_ns) noexcept nogil
cdef void reassembly_release(reassembly_t *r) noexcept nogil
cdef int64_t reassembly_next_deadline(const reassembly_t *r) noexcept nogil
# Take away one datagram that is due: 0: none is; 1: *packet* is its first piece as it came, which an error may be about
# (RFC 1122 section 3.3.2, RFC 8200 section 4.5); 2: without it, nothing is said. Good until `reassembly_release`.
cdef int reassembly_expire(reassembly_t *r, int64_t now_ns, packet_in_t *packet) noexcept nogil
# For restoring: an empty datagram of that source, in its lists, the youngest of its version. NULL: no memory.
cdef partial_t *reassembly_begin(reassembly_t *r, const address_t *src, const address_t *dst, bint v6) noexcept nogil
cdef bint reassembly_insert(reassembly_t *r, partial_t *d, uint32_t at, uint32_t offset, uint32_t length,
                            uint8_t *memory, uint32_t size) noexcept nogil
