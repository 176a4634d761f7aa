"""The base of all links: defaults for what a link does not need."""

from libc.string cimport memset


cdef int no_claim(link_t *self, uint32_t head_length, uint32_t body_length,
                  uint8_t **head, uint8_t **body) noexcept nogil:
    return -1


cdef void no_commit(link_t *self, int64_t now_ns) noexcept nogil:
    pass


cdef void nothing(link_t *self) noexcept nogil:
    pass


cdef int no_receive(link_t *self, frame_t *frames, int n) noexcept nogil:
    return 0


cdef int64_t no_deadline(link_t *self) noexcept nogil:
    return NEVER


cdef void no_advance(link_t *self, int64_t now_ns) noexcept nogil:
    pass


cdef int no_arm(link_t *self, uint32_t kind) noexcept nogil:
    return 0


cdef int no_fd(link_t *self, uint32_t kind) noexcept nogil:
    return -1


cdef void no_drain(link_t *self, uint32_t kind) noexcept nogil:
    pass


cdef int no_input(link_t *self) noexcept nogil:
    return 0


cdef uint32_t no_cpu(link_t *self) noexcept nogil:
    return 0xffffffff


cdef int no_peer(link_t *self) noexcept nogil:
    return -1


cdef void link_init(link_t *link) noexcept nogil:
    """Fill a link with functions that do nothing; the concrete link replaces what it has."""
    memset(link, 0, sizeof(link_t))
    link.claim = no_claim
    link.commit = no_commit
    link.flush = nothing
    link.receive = no_receive
    link.release = nothing
    link.next_deadline = no_deadline
    link.advance = no_advance
    link.arm = no_arm
    link.disarm = nothing
    link.poll_fd = no_fd
    link.drain_fd = no_drain
    link.has_input = no_input
    link.peer_cpu = no_cpu
    link.peer_fd = no_peer
    link.peer_died = nothing
    link.change = nothing
    link.mtu = 1500


cdef class Link:
    """Base of all links: something that moves frames for a stack.

    Attributes
    ----------
    mtu : int
        Largest IP packet in bytes.
    media : str
        ``"ip"`` or ``"ethernet"``.
    kernel_ip : bool
        IP below is the kernel's, its loopback included.
    """

    def __cinit__(self, *args, **kwargs):
        link_init(&self.link)

    @property
    def mtu(self):
        return self.link.mtu

    @property
    def media(self):
        return "ethernet" if self.link.media == MEDIA_ETHERNET else "ip"

    @property
    def kernel_ip(self):
        return bool(self.link.capabilities & LINK_KERNEL_IP)

    def close(self):
        """Give back what the link holds. Closing twice is allowed."""
