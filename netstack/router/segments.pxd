"""Large TCP packets at the router's border: cut into segments, in software, or described for a device that cuts; and segments
of one flow joined, so that one system call carries many.

Channels carry 64 KiB, Ethernets 1,500 bytes. A stream may be cut anew wherever it goes (RFC 9293 section 3.7.1 binds only its ends
to segment sizes), so what is too large for the next link is cut there instead of being refused, and what a device hands over
in one piece stays so as long as it fits. Whoever cuts or joins vouches for new checksums: the old one is verified first,
so that an error behind it stays as visible as it was. (A stack that changes its ring between the two changes its own stream.)
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from netstack.router.devices.device cimport iovec, PARTS_MAX, vnet_t
from netstack.router.packet cimport packet_t

cdef enum:
    HEADERS_MAX = 120                # IPv4 and TCP with all options
    JOINED_PARTS = PARTS_MAX - 2
    JOINED_BYTES = 65535 - 4096      # of the IP packet; page vectors of 64 KiB that begin anywhere fill a socket buffer


cdef struct tcp_view_t:              # a TCP segment in one IP packet without extension headers
    uint32_t ip_header               # bytes
    uint32_t headers                 # IP's and TCP's
    uint32_t payload                 # bytes
    const uint8_t *data


cdef struct cutter_t:
    uint8_t header[HEADERS_MAX]      # of the next piece
    tcp_view_t view
    uint32_t segment                 # payload of each piece but the last
    uint32_t at
    uint32_t source
    bint at_home
    uint8_t piece[HEADERS_MAX]       # of the one that was shown last


cdef struct joined_t:                # segments that follow each other, in memory that stays until it is sent
    int packets
    uint8_t first[HEADERS_MAX]       # headers of the first, as they were
    tcp_view_t view                  # of it; `payload` of all
    uint32_t segment                 # payload of each but the last
    iovec parts[JOINED_PARTS + 2]    # two in front for the headers


cdef bint tcp_view(const packet_t *p, tcp_view_t *view) noexcept nogil
cdef bint tcp_is_sound(const packet_t *p, const tcp_view_t *view) noexcept nogil         # is its checksum good?
# The same of one behind headers of IPv6, or whose head has more than the headers: where TCP's header begins, and where its
# payload does; up to there the packet can be read at p.header.
cdef bint segment_is_sound(const packet_t *p, uint32_t at, uint32_t headers) noexcept nogil
# May a packet be cut into pieces of at most `limit` bytes? How much payload each has; 0: it may not.
cdef uint32_t cut_size(const packet_t *p, const tcp_view_t *view, uint32_t limit) noexcept nogil
cdef void cut_begin(cutter_t *c, const packet_t *p, const tcp_view_t *view, uint32_t segment) noexcept nogil
cdef bint cut_next(cutter_t *c, packet_t *piece) noexcept nogil      # valid until the next
# Leave cutting and checksum to a device: lengths and the sum it wants are put into the headers, which have `ethernet` bytes of
# others before them.
cdef void describe(vnet_t *vnet, uint8_t *headers, const tcp_view_t *view, uint32_t ethernet, uint32_t segment) noexcept nogil
# Add a packet to those before it: 1, and nothing else may follow when `closed`; 0: it does not belong there.
cdef bint join(joined_t *j, const packet_t *p, bint *closed) noexcept nogil
