"""What a stack asks of a link: a struct of functions over a state. Links that wrap links look the same from outside.

A link moves *frames* (media Ethernet) or *packets* (media IP). The stack writes only through ``claim`` and ``commit``,
straight into the link's memory, and reads only what ``receive`` shows until ``release``.

The memory behind a received frame may belong to another process and may change under us: copy the headers first,
and read payload bytes once (checksum-and-copy).
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from netstack.clock cimport NEVER          # a deadline that does not come

cdef enum:
    MEDIA_IP = 0
    MEDIA_ETHERNET = 1

cdef enum:                       # capabilities
    LINK_CHECKSUM_TRUSTED = 1    # the link vouches for checksums: they may be left unverified
    LINK_NO_CHECKSUM = 2         # checksums need not be written either (an explicit choice, never the default)
    LINK_KERNEL_IP = 4           # IP below the stack is the kernel's: it has judged what arrives, and own addresses, those
                                 # of the loopback too, are reached through it
    LINK_SHARED_ADDRESS = 8      # others have its addresses too: they are reached through it, and packets from them arrive
    LINK_NOWHERE = 16            # there is no link: an interface that only has addresses

cdef enum:                       # how a port may be shared, to a keeper of ports
    KEEPER_REUSEADDR = 1
    KEEPER_REUSEPORT = 2

cdef enum:                       # how a driver sleeps on a link: the kind of the sleep word
    BELL_LEADER = 1              # the leader, or any plain sleeper
    BELL_SERVICE = 2             # the service thread


cdef struct frame_t:
    # One received frame: head, then body. The body is empty, or it starts exactly behind the transport header.
    const uint8_t *head
    const uint8_t *body
    uint32_t head_length         # bytes
    uint32_t body_length         # bytes


cdef struct port_keeper_t:
    # Who shares the ports of our addresses: asked before a socket gets one, told when the last user of it has gone.
    uint32_t *users[2]           # by port, kept by `demux`: sockets, connections, TIME-WAIT records; [0] TCP, [1] UDP
    int (*claim)(port_keeper_t *self, int udp, uint16_t port, int flags) noexcept nogil       # KEEPER_*; 0 or -errno
    void (*release)(port_keeper_t *self, int udp, uint16_t port) noexcept nogil
    # The i-th port to try for who wants any, from a random place on, the same in one search; -errno: no more. NULL: ports
    # come from the whole range.
    int (*pick)(port_keeper_t *self, int udp, uint32_t random, uint32_t i) noexcept nogil


cdef struct link_t:
    void *state
    uint32_t mtu                 # largest IP packet, bytes, at most 65535
    uint8_t media                # MEDIA_IP or MEDIA_ETHERNET
    uint8_t capabilities
    uint8_t dead                 # the other side is gone for good; set by the link
    uint8_t stream               # set by claim: store the body past the caches, if it begins on a 64-byte line (whole
                                 # lines may be written); commit sees to the fence
    # --- output. claim: 0, or -1 when there is no room now (backpressure); the claim is dropped when not committed.
    int (*claim)(link_t *self, uint32_t head_length, uint32_t body_length, uint8_t **head, uint8_t **body) noexcept nogil
    void (*commit)(link_t *self, int64_t now_ns) noexcept nogil
    void (*flush)(link_t *self) noexcept nogil       # make committed frames visible, ring the doorbell at most once
    # --- input. receive: how many frames it shows (at most n); they stay valid until release.
    int (*receive)(link_t *self, frame_t *frames, int n) noexcept nogil
    void (*release)(link_t *self) noexcept nogil
    # --- time, for links that hold frames themselves (emulation, WireGuard). advance tells the time; it is called
    # when the deadline has come and before each receive, so that input can be delayed and stamped.
    int64_t (*next_deadline)(link_t *self) noexcept nogil
    void (*advance)(link_t *self, int64_t now_ns) noexcept nogil
    # --- sleeping. arm: 1 when input (or room, after a failed claim) is there already, and then nothing is armed.
    int (*arm)(link_t *self, uint32_t kind) noexcept nogil
    void (*disarm)(link_t *self) noexcept nogil
    int (*poll_fd)(link_t *self, uint32_t kind) noexcept nogil   # readable when armed and rung; -1: none (simulated links)
    void (*drain_fd)(link_t *self, uint32_t kind) noexcept nogil # swallow the ring of the bell after waking
    int (*has_input)(link_t *self) noexcept nogil                # cheap look, for spinning
    uint32_t (*peer_cpu)(link_t *self) noexcept nogil            # CPU the peer last flushed on, or 0xffffffff
    # --- the other side's process: a descriptor that is readable once it died (-1: not known), good while armed; and what
    # to do then, under the stack's lock: the link is dead when what the process had sent is taken.
    int (*peer_fd)(link_t *self) noexcept nogil
    void (*peer_died)(link_t *self) noexcept nogil
    # --- take what the link's owner prepared: other memory, or none for now. Under the stack's lock, while nobody looks.
    void (*change)(link_t *self) noexcept nogil
    # --- links whose addresses others use too; NULL: none are. route: the source address towards dst, both 16 bytes with
    # IPv4 mapped; 0 or -errno.
    port_keeper_t *ports
    int (*route)(link_t *self, const uint8_t *dst, uint8_t *src) noexcept nogil


cdef void link_init(link_t *link) noexcept nogil


cdef class Link:
    """Owner of a :c:type:`link_t`. Concrete links subclass it and fill the functions they have."""
    cdef link_t link
    cdef object __weakref__
