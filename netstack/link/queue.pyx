# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The queue link: packets in, packets out, nothing in between. No thread, no clock, no file descriptor."""

from libc.errno cimport EMSGSIZE, ENOBUFS
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from netstack.link.link cimport LINK_CHECKSUM_TRUSTED, MEDIA_ETHERNET, MEDIA_IP, frame_t

cdef enum:
    BLOCK_HEADER = (sizeof(queue_block_t) + 15) & ~15
    RECORD_HEADER = sizeof(queue_record_t)
    FRAME_MAX = 65535 + 18      # bytes: the largest IP packet behind an Ethernet header with a tag


# ---- the queue -------------------------------------------------------------

cdef inline queue_record_t *record_at(queue_block_t *block, uint32_t offset) noexcept nogil:
    return <queue_record_t *> (<uint8_t *> block + BLOCK_HEADER + offset)


cdef const uint8_t *queue_bytes(const queue_record_t *r) noexcept nogil:
    return <const uint8_t *> r + RECORD_HEADER


cdef void queue_init(packet_queue_t *q, uint64_t limit) noexcept nogil:
    memset(q, 0, sizeof(packet_queue_t))
    q.limit = limit
    q.next_block = QUEUE_BLOCK_MIN


cdef void queue_free(packet_queue_t *q) noexcept nogil:
    """Give back all memory; the queue is empty and usable afterwards."""
    cdef queue_block_t *block = q.first
    cdef queue_block_t *next
    while block != NULL:
        next = block.next
        free(block)
        block = next
    free(q.spare)
    queue_init(q, q.limit)


cdef queue_block_t *append_block(packet_queue_t *q, uint32_t size) noexcept nogil:
    """A block with room for a record of `size` bytes behind the last one; NULL without memory."""
    cdef queue_block_t *block = q.spare
    cdef uint32_t capacity = q.next_block
    if block != NULL and block.capacity >= size:
        q.spare = NULL
    else:
        if capacity < 4 * size:
            capacity = 4 * size
        block = <queue_block_t *> malloc(BLOCK_HEADER + <size_t> capacity)
        if block == NULL:
            return NULL
        block.capacity = capacity
        if q.next_block < QUEUE_BLOCK_MAX and q.first != NULL:
            q.next_block *= 2
    block.next = NULL
    block.filled = 0
    if q.last == NULL:
        q.first = block
        q.show_block = block
        q.first_offset = 0
        q.show_offset = 0
    else:
        q.last.next = block
    q.last = block
    return block


cdef uint8_t *queue_claim(packet_queue_t *q, uint32_t length) noexcept nogil:
    """Room for one packet, contiguous. It exists once committed; a second claim takes its place."""
    cdef uint32_t size = (RECORD_HEADER + length + 15) & ~<uint32_t> 15
    cdef queue_block_t *block = q.last
    if q.bytes + size > q.limit:
        return NULL
    if block == NULL or block.capacity - block.filled < size:
        block = append_block(q, size)
        if block == NULL:
            return NULL
    q.claimed = length
    return <uint8_t *> record_at(block, block.filled) + RECORD_HEADER


cdef void queue_commit(packet_queue_t *q, int64_t t_ns) noexcept nogil:
    cdef queue_record_t *r
    if q.claimed == 0:
        return
    r = record_at(q.last, q.last.filled)
    r.t_ns = t_ns
    r.length = q.claimed
    r.size = (RECORD_HEADER + q.claimed + 15) & ~<uint32_t> 15
    q.last.filled += r.size
    q.bytes += r.size
    q.count += 1
    q.claimed = 0


cdef queue_record_t *queue_show(packet_queue_t *q) noexcept nogil:
    """The oldest packet that was not shown yet; it stays where it is until `queue_release`."""
    cdef queue_record_t *r
    if q.count == 0:
        return NULL
    while q.show_offset == q.show_block.filled:
        q.show_block = q.show_block.next
        q.show_offset = 0
    r = record_at(q.show_block, q.show_offset)
    q.show_offset += r.size
    q.count -= 1
    q.shown += 1
    return r


cdef void retire(packet_queue_t *q, queue_block_t *block) noexcept nogil:
    """Keep the largest block for later, free the others."""
    cdef queue_block_t *smaller = block
    if q.spare == NULL or q.spare.capacity < block.capacity:
        smaller = q.spare
        q.spare = block
    free(smaller)


cdef void queue_release(packet_queue_t *q) noexcept nogil:
    """Free what was shown; a queue that became empty starts its last block again."""
    cdef queue_block_t *block
    cdef queue_block_t *retired
    cdef uint32_t size
    while q.shown:
        block = q.first
        if q.first_offset == block.filled:
            q.first = block.next
            q.first_offset = 0
            retire(q, block)
            continue
        size = record_at(block, q.first_offset).size
        q.first_offset += size
        q.bytes -= size
        q.shown -= 1
    block = q.last
    if q.bytes == 0 and block != NULL and q.claimed == 0:      # empty: start the last block again
        while q.first != block:
            retired = q.first
            q.first = retired.next
            retire(q, retired)
        block.filled = 0
        q.show_block = block
        q.show_offset = 0
        q.first_offset = 0


# ---- the link --------------------------------------------------------------

cdef int link_claim(link_t *self, uint32_t head_length, uint32_t body_length,
                    uint8_t **head, uint8_t **body) noexcept nogil:
    cdef queue_link_t *q = <queue_link_t *> self.state
    cdef uint64_t length = <uint64_t> head_length + body_length
    cdef uint8_t *p
    if length == 0 or length > FRAME_MAX:
        return -1
    p = queue_claim(q.tx, <uint32_t> length)
    if p == NULL:
        q.starved = True
        return -1
    head[0] = p
    body[0] = p + head_length
    return 0


cdef void link_commit(link_t *self, int64_t now_ns) noexcept nogil:
    queue_commit((<queue_link_t *> self.state).tx, now_ns)


cdef int link_receive(link_t *self, frame_t *frames, int n) noexcept nogil:
    cdef packet_queue_t *rx = (<queue_link_t *> self.state).rx
    cdef queue_record_t *r
    cdef int i = 0
    while i < n:
        r = queue_show(rx)
        if r == NULL:
            break
        frames[i].head = queue_bytes(r)
        frames[i].head_length = r.length
        frames[i].body = NULL
        frames[i].body_length = 0
        i += 1
    return i


cdef void link_release(link_t *self) noexcept nogil:
    queue_release((<queue_link_t *> self.state).rx)


cdef int link_has_input(link_t *self) noexcept nogil:
    return (<queue_link_t *> self.state).rx.count != 0


cdef int link_arm(link_t *self, uint32_t kind) noexcept nogil:
    """Nothing rings here: whoever fills or drains the queue holds the stack's lock and looks again afterwards."""
    cdef queue_link_t *q = <queue_link_t *> self.state
    if q.rx.count != 0:
        return 1
    if q.starved and q.tx.bytes < q.tx.limit // 2:
        q.starved = False
        return 1
    return 0


cdef int queue_link_push(link_t *link, const uint8_t *p, uint32_t n) noexcept nogil:
    """Copy a packet to the input. With loop it is as if it had been sent at time 0."""
    cdef queue_link_t *q = <queue_link_t *> link.state
    cdef uint8_t *to
    if n == 0 or n > FRAME_MAX:
        return -EMSGSIZE
    to = queue_claim(q.rx, n)
    if to == NULL:
        return -ENOBUFS
    memcpy(to, p, n)
    queue_commit(q.rx, 0)
    return 0


cdef int queue_link_pop(link_t *link, const uint8_t **p, uint32_t *n, int64_t *t_ns) noexcept nogil:
    cdef queue_link_t *q = <queue_link_t *> link.state
    cdef queue_record_t *r
    if q.tx == q.rx:
        return 0
    queue_release(q.tx)
    r = queue_show(q.tx)
    if r == NULL:
        return 0
    p[0] = queue_bytes(r)
    n[0] = r.length
    t_ns[0] = r.t_ns
    return 1


cdef class QueueLink(Link):
    """Packets handed over by hand: what a stack sends waits until it is popped, what is pushed waits for the stack.

    Parameters
    ----------
    mtu : int
        Largest IP packet in bytes, 68 to 65535.
    media : str
        ``"ip"`` or ``"ethernet"``.
    loop : bool
        What is sent comes back as input: the loopback interface.
    limit : int
        Bytes of memory that waiting packets may use, per direction. At the limit the stack is held back
        (backpressure) and `push` raises.
    trusted : bool
        The link vouches for checksums (``LINK_CHECKSUM_TRUSTED``).

    Raises
    ------
    ValueError
        For an mtu, media or limit that cannot be.

    Examples
    --------
    >>> from netstack.link import QueueLink
    >>> link = QueueLink()
    >>> link.push(bytes(40))
    >>> link.waiting                  # nothing was sent, one packet waits for the stack
    (0, 1)
    """

    def __cinit__(self, int mtu=1500, str media="ip", *, bint loop=False, object limit=QUEUE_LIMIT, bint trusted=False):
        queue_init(&self.q.queues[0], QUEUE_LIMIT)
        queue_init(&self.q.queues[1], QUEUE_LIMIT)
        if not 68 <= mtu <= 65535:
            raise ValueError(f"mtu {mtu}: an IP packet has 68 to 65535 bytes")
        if media not in ("ip", "ethernet"):
            raise ValueError(f"media {media!r}: say 'ip' or 'ethernet'")
        if not 0 < limit < 1 << 40:
            raise ValueError(f"limit {limit}: a number of bytes above 0")
        self.loop = loop
        self.q.queues[0].limit = limit
        self.q.queues[1].limit = limit
        self.q.rx = &self.q.queues[0]
        self.q.tx = self.q.rx if loop else &self.q.queues[1]
        self.link.state = &self.q
        self.link.mtu = <uint32_t> mtu
        self.link.media = MEDIA_ETHERNET if media == "ethernet" else MEDIA_IP
        self.link.capabilities = LINK_CHECKSUM_TRUSTED if trusted else 0
        self.link.claim = link_claim
        self.link.commit = link_commit
        self.link.receive = link_receive
        self.link.release = link_release
        self.link.has_input = link_has_input
        self.link.arm = link_arm

    def __dealloc__(self):
        queue_free(&self.q.queues[0])
        queue_free(&self.q.queues[1])

    def push(self, bytes packet not None):
        """Hand a packet (on Ethernet: a frame) to the stack.

        Raises
        ------
        ValueError
            Empty, or longer than any frame.
        BlockingIOError
            The input is at its limit; the stack has to run first.
        """
        cdef int error = 0
        if len(packet) <= FRAME_MAX:
            error = queue_link_push(&self.link, <const uint8_t *> <char *> packet, <uint32_t> len(packet))
        if error == -EMSGSIZE or len(packet) > FRAME_MAX:
            raise ValueError(f"a packet of {len(packet)} bytes: 1 to {FRAME_MAX}")
        if error:
            raise BlockingIOError(-error, "the input queue is full: let the stack run")

    def pop(self):
        """The oldest packet the stack sent, with the time it was sent at: ``(bytes, t_ns)``, or None."""
        cdef const uint8_t *p = NULL
        cdef uint32_t n = 0
        cdef int64_t t_ns = 0
        if not queue_link_pop(&self.link, &p, &n, &t_ns):
            return None
        packet = p[:n]
        queue_release(self.q.tx)
        return packet, t_ns

    @property
    def waiting(self):
        """Packets that were sent and not popped, packets that were pushed and not read by the stack."""
        return self.q.tx.count, self.q.rx.count
