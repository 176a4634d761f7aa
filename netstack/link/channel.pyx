# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Channels: IP packets of up to 64 KiB between two processes through shared memory, without the kernel.

A packet is one record of the ring: the headers are its head, the payload its body, so that the payload starts on a
cache line of its own. What the other side writes is not trusted: the ring checks indices and record headers, here the
length is checked, and the stack copies headers before it believes them. A record that is no packet is dropped and
counted, and so are records whose header an error of memory damaged; a ring whose format the other side broke is dead
for good, and so is one whose memory it truncated.
"""

import errno
import os
import struct

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.fcntl cimport O_CLOEXEC

from netstack.link.link cimport (
    frame_t, Link, link_t, LINK_CHECKSUM_TRUSTED, LINK_NO_CHECKSUM, MEDIA_IP,
)
from rings.doorbell cimport doorbell_drain, doorbell_flush, doorbell_now_ns, doorbell_space
from rings.mapping cimport fork_count, memory_lost
from rings.peer cimport peer_died, peer_forget, peer_init, peer_look
from rings.spsc_ring cimport (
    ConsumerRing, ProducerRing, RING_DAMAGED, RING_EMPTY, RING_FRAME, RING_FULL, RING_INVALID, RING_MAX_HEAD_BYTES,
    RING_OK, RING_POISONED, ring_claim, ring_commit, ring_consumer_arm, ring_consumer_disarm, ring_has_data,
    ring_note_streamed, ring_peek, ring_peer_cpu, ring_producer_arm_as, ring_producer_disarm, ring_record_t, ring_release,
)

from netstack.units import size_bytes
from rings.doorbell import Doorbell
from rings.process import identity

cdef extern from "<unistd.h>" nogil:
    int dup3(int old, int new, int flags)

cdef enum:
    PACKET_MAX = 65535
    STREAM_MIN = 512             # bytes of a body from which streaming stores are tried
    GROUP_BYTES = 65536          # bytes of such bodies that are timed together
    GROUPS = 256                 # a power of two: in one group of so many ...
    OWN_GROUP = 0                # ... the way in use is timed,
    TRIAL_GROUP = 2              # ... and in the two after it the other way is tried, timed in the second

CAPACITY_MIN = 256 << 10
_SETTINGS = struct.Struct("<I?3x")         # mtu and checksum, before the layout of an exported side


cdef inline channel_t *usable(link_t *link) noexcept nogil:
    """The state, or NULL when the link was closed, was truncated, or belongs to the process we were forked from."""
    cdef channel_t *c = <channel_t *> link.state
    if c.tx != NULL and c.forks[0] == c.forks_seen:
        if not memory_lost(&c.watch):
            return c
        c.truncated = 1
    link.dead = 1
    return NULL


cdef void lost(link_t *link, channel_t *c, int status) noexcept nogil:
    """The ring ended: closed by the peer, poisoned, its memory truncated, which poisons it too, or empty for ever since
    the peer's process died."""
    link.dead = 1
    if memory_lost(&c.watch):
        c.truncated = 1
    elif status == RING_POISONED:
        c.poisoned = 1


cdef void next_group(channel_t *c) noexcept nogil:
    """Plain or non-temporal stores for large bodies, by what they cost here and now.

    Where the peer's core is far, or the ring fits the caches, every line must be fetched from there before it can be
    written; stores past the caches do not wait for it. Where it is near they only make the reader slower. That can
    change within a second (a virtual CPU moves), so one group in 256 tries the other way, and the costs decide.
    """
    cdef uint32_t phase = c.group & (GROUPS - 1)
    if c.timed:
        c.cost_ns[c.streaming if phase == OWN_GROUP else not c.streaming] = c.spent_ns
    if phase == TRIAL_GROUP:
        if not c.streaming and c.cost_ns[0] > 2 * c.cost_ns[1]:
            c.streaming = 1
        elif c.streaming and 2 * c.cost_ns[0] < 3 * c.cost_ns[1]:
            c.streaming = 0
    c.group += 1
    phase = c.group & (GROUPS - 1)
    c.timed = phase == OWN_GROUP or phase == TRIAL_GROUP
    c.group_bytes = 0
    c.spent_ns = 0


cdef inline void begin_body(link_t *link, channel_t *c, uint32_t body_length) noexcept nogil:
    cdef uint32_t phase = c.group & (GROUPS - 1)
    c.body_length = body_length
    if body_length < STREAM_MIN:
        link.stream = 0
        return
    link.stream = c.streaming ^ (OWN_GROUP < phase <= TRIAL_GROUP)
    if link.stream:
        ring_note_streamed(c.tx)
    if c.timed:
        c.claimed_ns = doorbell_now_ns()


cdef inline void end_body(channel_t *c) noexcept nogil:
    if c.body_length < STREAM_MIN:
        return
    if c.timed:
        c.spent_ns += doorbell_now_ns() - c.claimed_ns
    c.group_bytes += c.body_length
    if c.group_bytes >= GROUP_BYTES:
        next_group(c)


cdef int channel_claim(link_t *self, uint32_t head_length, uint32_t body_length,
                       uint8_t **head, uint8_t **body) noexcept nogil:
    cdef channel_t *c = usable(self)
    cdef uint32_t joined
    cdef int status
    if c == NULL or self.dead or head_length > self.mtu or body_length > self.mtu - head_length:
        return -1
    if c.down:                                    # as on any network whose wire is cut
        head[0] = c.sink
        body[0] = c.sink + head_length
        self.stream = 0
        return 0
    if head_length <= RING_MAX_HEAD_BYTES:
        status = ring_claim(c.tx, RING_FRAME, head_length, body_length, head, body)
    else:                                         # a packet in one piece: all of it is the record's body
        joined = head_length
        status = ring_claim(c.tx, RING_FRAME, 0, head_length + body_length, head, body)
        head[0] = body[0]
        body[0] = head[0] + joined
    if status == RING_OK:
        begin_body(self, c, body_length)
        return 0
    if status == RING_FULL:
        c.starved = 1
        c.refused += 1
    elif status != RING_INVALID:
        lost(self, c, status)
    return -1


cdef void channel_commit(link_t *self, int64_t now_ns) noexcept nogil:
    cdef channel_t *c = usable(self)
    if c == NULL:
        return
    if c.down:
        c.dropped_down += 1
        return
    end_body(c)
    ring_commit(c.tx)


cdef void channel_flush(link_t *self) noexcept nogil:
    cdef channel_t *c = usable(self)
    if c != NULL and not c.down:
        doorbell_flush(c.tx, c.peer_fds)


cdef int channel_receive(link_t *self, frame_t *frames, int n) noexcept nogil:
    cdef channel_t *c = usable(self)
    cdef ring_record_t record
    cdef uint32_t length
    cdef int got = 0, looks, status
    if c == NULL:
        return 0
    for looks in range(2 * n):                    # bounded, also against a peer that sends only rubbish
        if got == n:
            break
        status = ring_peek(c.rx, &record)
        if status != RING_OK:
            if status == RING_DAMAGED:            # counted there; TCP sends again what is missing
                continue
            if status != RING_EMPTY or c.peer.gone:
                lost(self, c, status)
            break
        length = record.head_length + record.body_length
        if record.kind != RING_FRAME or length < PACKET_MIN or length > self.mtu:
            c.malformed += 1
            continue
        if record.head_length == 0:
            frames[got].head = record.body
            frames[got].head_length = record.body_length
            frames[got].body = NULL
            frames[got].body_length = 0
        else:
            frames[got].head = record.head
            frames[got].head_length = record.head_length
            frames[got].body = record.body
            frames[got].body_length = record.body_length
        got += 1
    if got == 0:
        ring_release(c.rx)                        # nothing is shown, so nobody will release what was skipped
    return got


cdef void channel_release(link_t *self) noexcept nogil:
    cdef channel_t *c = usable(self)
    if c != NULL:
        ring_release(c.rx)
        doorbell_space(c.rx, c.peer_fds)


cdef int channel_arm(link_t *self, uint32_t kind) noexcept nogil:
    cdef channel_t *c = usable(self)
    if c == NULL:
        return 1                                  # nothing will ever ring: look, and find the link dead
    if c.down:
        return ring_has_data(c.rx)                # what is left; then nothing rings before the next change
    if c.peer.region != NULL:
        peer_look(&c.peer)
        if c.peer.gone:
            return 1                              # likewise
    doorbell_flush(c.tx, c.peer_fds)
    if c.starved:
        if ring_producer_arm_as(c.tx, kind):
            c.starved = 0
            return 1
        c.producer_armed = 1
    if ring_consumer_arm(c.rx, kind):
        channel_disarm(self)
        doorbell_space(c.rx, c.peer_fds)
        return 1
    doorbell_space(c.rx, c.peer_fds)
    return 0


cdef void channel_disarm(link_t *self) noexcept nogil:
    cdef channel_t *c = usable(self)
    if c == NULL or c.down:
        return
    ring_consumer_disarm(c.rx)
    if c.producer_armed:
        c.producer_armed = 0
        c.starved = 0                             # the next claim finds out anew
        ring_producer_disarm(c.tx)


cdef int channel_poll_fd(link_t *self, uint32_t kind) noexcept nogil:
    cdef channel_t *c = usable(self)
    return c.own_fds[kind & 3] if c != NULL else -1


cdef void channel_drain_fd(link_t *self, uint32_t kind) noexcept nogil:
    cdef channel_t *c = usable(self)
    if c != NULL:
        doorbell_drain(c.own_fds[kind & 3])


cdef int channel_has_input(link_t *self) noexcept nogil:
    cdef channel_t *c = usable(self)
    return c == NULL or c.peer.gone or ring_has_data(c.rx)


cdef uint32_t channel_peer_cpu(link_t *self) noexcept nogil:
    cdef channel_t *c = usable(self)
    return <uint32_t> ring_peer_cpu(c.rx) if c != NULL else <uint32_t> 0xffffffff


cdef int channel_peer_fd(link_t *self) noexcept nogil:
    cdef channel_t *c = usable(self)
    return c.peer.fd if c != NULL else -1


cdef void channel_peer_died(link_t *self) noexcept nogil:
    cdef channel_t *c = usable(self)
    if c != NULL:
        peer_died(&c.peer)


cdef void channel_change(link_t *self) noexcept nogil:
    """The numbers of the doorbells stay, for whoever has them in a set to sleep on; what is behind them changes."""
    cdef channel_t *c = <channel_t *> self.state
    cdef uint8_t change = c.next_change
    cdef int kind
    c.next_change = CHANGE_NOTHING
    if change == CHANGE_NOTHING or c.tx == NULL:
        return
    if change == CHANGE_END:
        self.dead = 1
        return
    for kind in range(4):
        c.peer_fds[kind] = c.next_peer_fds[kind]
        if c.own_fds[kind] >= 0 and c.next_own_fds[kind] >= 0:
            dup3(c.next_own_fds[kind], c.own_fds[kind], O_CLOEXEC)
    c.starved = c.producer_armed = 0
    c.down = change == CHANGE_LOSE
    if c.down:
        c.outages += 1
    else:
        c.tx = c.next_tx
        c.rx = c.next_rx
        c.watch = c.next_watch


# ---------------------------------------------------------------------------------------------- Python

def default_capacity():
    """Bytes per direction that a channel gets unless told: twice the L2 cache, at least 256 KiB, a power of two.

    A ring that fits the L2 is several times slower for bulk data: its lines must have left both private caches before
    they are written again.
    """
    try:
        l2 = os.sysconf("SC_LEVEL2_CACHE_SIZE")
    except (ValueError, OSError):
        l2 = 0
    return 1 << (min(max(2 * l2, CAPACITY_MIN), 16 << 20) - 1).bit_length()


def _capacity(value):
    if value is None:
        return default_capacity()
    capacity = size_bytes(value)
    if capacity < CAPACITY_MIN or capacity & (capacity - 1):
        raise ValueError(f"capacity {value!r}: a power of two from 256 KiB on, in bytes")
    return capacity


cdef class ChannelLink(Link):
    """One side of a channel as a link; media IP, up to 65,535 bytes a packet.

    Parameters
    ----------
    channel : rings.channel.Channel
        The side to use. The link owns it from now on.
    mtu : int
        Largest IP packet, 68 to 65535 bytes; both sides use the same.
    checksum : bool
        False: the stack neither writes nor checks checksums on this link. Both sides must agree. Errors of the host's
        memory then reach the application unseen: a choice for measurements, never the default.
    watch_peer : bool
        Watch the other side's process: when it dies without closing, and what it had sent is taken, this link is dead.
        It must live in the same pid namespace, and it is believed who it is. False where somebody else sees to that.

    Notes
    -----
    After a fork the child has no memory of the channel: its link is dead, the parent's goes on. To move a side
    to the child let the child call `adopt`.
    """

    def __cinit__(self, *args, **kwargs):
        self.state.peer.fd = -1

    def __dealloc__(self):
        peer_forget(&self.state.peer)
        free(self.state.sink)

    def __init__(self, channel, *, mtu=65535, checksum=True, watch_peer=True):
        cdef link_t *link = &self.link
        cdef channel_t *c = &self.state
        cdef ProducerRing tx = channel.tx
        cdef ConsumerRing rx = channel.rx
        cdef int kind
        if not 68 <= mtu <= 65535:
            raise ValueError(f"mtu {mtu}: an IP packet has 68 to 65535 bytes")
        peer_forget(&c.peer)
        memset(c, 0, sizeof(channel_t))
        peer_init(&c.peer, rx.ring.theirs if watch_peer else NULL, identity()[2])
        self.channel = channel
        self.bells = channel.doorbells
        for kind in range(4):
            c.peer_fds[kind] = channel.peer_fds[kind]
            c.own_fds[kind] = channel.own_fds[kind]
        c.forks = fork_count()
        c.forks_seen = c.forks[0]
        c.watch = tx.watch
        c.rx = &rx.ring
        c.tx = &tx.ring
        link.state = c
        link.mtu = mtu
        link.media = MEDIA_IP
        link.capabilities = 0 if checksum else LINK_CHECKSUM_TRUSTED | LINK_NO_CHECKSUM
        link.claim = channel_claim
        link.commit = channel_commit
        link.flush = channel_flush
        link.receive = channel_receive
        link.release = channel_release
        link.arm = channel_arm
        link.disarm = channel_disarm
        link.poll_fd = channel_poll_fd
        link.drain_fd = channel_drain_fd
        link.has_input = channel_has_input
        link.peer_cpu = channel_peer_cpu
        link.peer_fd = channel_peer_fd
        link.peer_died = channel_peer_died
        link.change = channel_change

    @property
    def checksum(self):
        """Whether packets on this link carry checksums."""
        return not self.link.capabilities & LINK_NO_CHECKSUM

    @property
    def capacity(self):
        """Bytes of the ring per direction."""
        return self.channel.capacity

    def stats(self):
        """What happened besides packets: ``malformed`` records dropped, claims ``refused`` for lack of room,
        ``header_errors`` of the host's memory with the ``lost_bytes`` of the ring they cost, and whether the peer
        ``poisoned`` the ring or ``truncated`` its memory. ``outages`` says how often the other side was gone and might have
        come back, ``dropped_down`` how many packets were sent meanwhile."""
        cdef ConsumerRing rx = self.channel.rx
        return {"malformed": self.state.malformed, "refused": self.state.refused,
                "header_errors": rx.header_errors, "lost_bytes": rx.lost_bytes,
                "poisoned": bool(self.state.poisoned), "truncated": bool(self.state.truncated),
                "outages": self.state.outages, "dropped_down": self.state.dropped_down}

    # Changes of the other side are prepared here and done by `netstack.driver.Driver.change_links`, or by `change` where
    # no driver has the link.

    @property
    def peer_closed(self):
        """The other side said that it ends; one that was killed did not."""
        return self.state.tx == NULL or bool(self.channel.tx.peer_closed or self.channel.rx.peer_closed)

    @property
    def down(self):
        """The other side is gone and may come back."""
        return bool(self.state.down)

    def lose(self):
        """Prepare for being without the other side: packets are dropped until `renew`."""
        cdef channel_t *c = &self.state
        cdef int kind
        if c.sink == NULL:
            c.sink = <uint8_t *> malloc(PACKET_MAX + 1)
            if c.sink == NULL:
                raise MemoryError
        self.silent = [Doorbell(), Doorbell()]
        for kind in range(4):
            c.next_peer_fds[kind] = c.next_own_fds[kind] = -1
        c.next_own_fds[1] = self.silent[0].fd
        c.next_own_fds[2] = self.silent[1].fd
        c.next_change = CHANGE_LOSE

    def renew(self, channel):
        """Prepare for going on with another channel, whose other side is the router's that was started again."""
        cdef channel_t *c = &self.state
        cdef ProducerRing tx = channel.tx
        cdef ConsumerRing rx = channel.rx
        cdef int kind
        for kind in range(4):
            c.next_peer_fds[kind] = channel.peer_fds[kind]
            c.next_own_fds[kind] = channel.own_fds[kind]
        c.next_tx = &tx.ring
        c.next_rx = &rx.ring
        c.next_watch = tx.watch
        self.next_channel = channel
        c.next_change = CHANGE_RENEW

    def end(self):
        """Prepare for the end: the other side does not come back."""
        self.state.next_change = CHANGE_END

    def change(self):
        """Do what was prepared, on a link that no driver has."""
        channel_change(&self.link)

    def settle(self):
        """Give back what is not needed any more after a change that was done."""
        self.silent = None
        channel, self.next_channel = self.next_channel, None
        if channel is None:
            return
        if self.state.tx == NULL:                 # closed meanwhile
            channel.close()
            return
        for bell in channel.doorbells.values():   # their duplicates have the numbers that are known
            bell.close()
        channel.doorbells = self.bells
        self.channel.detach()
        self.channel = channel

    def adopt(self):
        """In a forked child: take this side over from the parent, which must not use it any more. A new link."""
        return ChannelLink(self.channel.adopt(), mtu=self.link.mtu, checksum=self.checksum)

    def export(self):
        """What another process needs to become this side: (file descriptors, bytes). See `attach`.

        Send the descriptors (``socket.send_fds``) before this side is closed; call `detach` afterwards.
        """
        fds, layout = self.channel.export()
        return fds, _SETTINGS.pack(self.link.mtu, self.checksum) + layout.pack()

    @staticmethod
    def attach(fds, description):
        """Become the side that another process exported. Takes over the descriptors, also when it fails.

        Raises
        ------
        rings.errors.RegionMismatch
            The description or the memory is not that of a channel.
        """
        from rings.channel import Channel, ChannelLayout
        from rings.errors import RegionMismatch

        try:
            settings = _SETTINGS.unpack(description[:_SETTINGS.size])
            layout = ChannelLayout.unpack(description[_SETTINGS.size:])
        except BaseException as error:
            for fd in fds:
                os.close(fd)
            if isinstance(error, struct.error):
                raise RegionMismatch(errno.EINVAL, f"no channel description: {error}") from None
            raise
        return ChannelLink(Channel.attach(fds, layout), mtu=settings[0], checksum=settings[1])

    def detach(self):
        """Forget this side without telling the peer: another process has it now."""
        self.forget()
        self.channel.detach()

    def close(self):
        """Tell the peer that nothing follows, and give the memory back."""
        self.forget()
        self.channel.close()

    cdef forget(self):
        self.state.tx = NULL
        peer_forget(&self.state.peer)
        self.link.dead = 1
        self.bells = self.silent = None


def channel_pair(*, capacity=None, backend="posix", mtu=65535, checksum=True):
    """A channel between two stacks, without a router: its two sides as links.

    Both sides begin in this process. Two threads use them as they are. For two processes either fork and let the
    child call `ChannelLink.adopt` on its side, or pass `ChannelLink.export` to the other process.

    Parameters
    ----------
    capacity : int or str, optional
        Bytes per direction, a power of two from 256 KiB on. Default: twice the L2 cache of this machine.
    backend : str
        Where the memory comes from: ``"posix"`` (shared memory objects, for processes that trust each other) or
        ``"memfd"`` (sealed, cannot be truncated by the peer).
    mtu, checksum :
        As of `ChannelLink`.

    Returns
    -------
    tuple of ChannelLink

    Examples
    --------
    >>> a, b = netstack.link.channel_pair()
    >>> if os.fork() == 0:
    ...     b = b.adopt()
    """
    from rings.channel import channel_pair as pair

    one, two = pair(_capacity(capacity), backend)
    return ChannelLink(one, mtu=mtu, checksum=checksum), ChannelLink(two, mtu=mtu, checksum=checksum)
