"""Channel: two rings, one each way, and the doorbells of both sides.

Memory has one writer: side A's region holds the ring A produces into and A's half of the ring it
consumes from; side B's region likewise. Each side maps the other's region read-only, so a side can
write nothing but its own words and its own messages::

    region of A:  [ A -> B: tail, words, data ][ B -> A: head, words ]
    region of B:  [ B -> A: tail, words, data ][ A -> B: head, words ]

Each side has one eventfd per kind of sleeper (leader or plain sleeper, service); it sleeps on its own
and kicks the other's. A side travels to another process as file descriptors and a `ChannelLayout`
(SCM_RIGHTS, or inherited over a fork)::

    here, there = rings.channel_pair(1 << 20, backend="memfd")
    fds, layout = there.export()
    socket.send_fds(control, [layout.pack()], fds)
    there.detach()                           # it lives in the other process now

    message, fds, _, _ = socket.recv_fds(control, 100, ChannelLayout.FDS)
    there = rings.Channel.attach(fds, ChannelLayout.unpack(message))
"""

import dataclasses
import os
import secrets
import struct

from rings import shared_memory
from rings.doorbell import Doorbell
from rings.errors import RegionMismatch, RingSizeError
from rings.process import identity
from rings.spsc_ring import (
    LEADER,
    SERVICE,
    ConsumerRing,
    ProducerRing,
    consumer_region_bytes,
    format_ring,
    producer_region_bytes,
)

SIDES = ("a", "b")
_LAYOUT = struct.Struct("<4sHBBQQQ")
_MAGIC = b"NSch"
_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChannelLayout:
    """What the creator of a channel says about it: an attaching side believes this, not the memory.

    Attributes
    ----------
    side : {"a", "b"}
        Which side the file descriptors are for.
    backend : {"posix", "memfd"}
    capacity : int
        Bytes of data per ring, a power of two.
    generation : int
        Tells this channel from an earlier one, 64 bits.
    single_writer : tuple of bool
        Per side: its memory is sealed against any further writable mapping (memfd only).
    """

    FDS = 6  # memory of a, memory of b, then leader and service eventfds of a and of b

    side: str
    backend: str
    capacity: int
    generation: int
    single_writer: tuple = (False, False)

    def __post_init__(self):
        if self.side not in SIDES:
            raise ValueError(f"side {self.side!r}: say a or b")
        if self.backend not in shared_memory.BACKENDS:
            raise ValueError(f"backend {self.backend!r}: say one of {', '.join(shared_memory.BACKENDS)}")
        producer_region_bytes(self.capacity)

    def pack(self):
        """32 bytes, little-endian, for a control message."""
        sealed_a, sealed_b = self.single_writer
        flags = shared_memory.BACKENDS.index(self.backend) | sealed_a << 1 | sealed_b << 2
        return _LAYOUT.pack(
            _MAGIC, _VERSION, SIDES.index(self.side), flags, self.capacity, self.generation, self.region_bytes
        )

    @classmethod
    def unpack(cls, data):
        """The inverse of `pack`.

        Raises
        ------
        RegionMismatch
            Not a layout, or of another version.
        """
        import errno

        try:
            magic, version, side, flags, capacity, generation, region_bytes = _LAYOUT.unpack(data)
            if magic != _MAGIC or version != _VERSION or flags > 7:
                raise ValueError("another version")
            layout = cls(
                side=SIDES[side],
                backend=shared_memory.BACKENDS[flags & 1],
                capacity=capacity,
                generation=generation,
                single_writer=(bool(flags & 2), bool(flags & 4)),
            )
            if layout.region_bytes != region_bytes:
                raise ValueError("another size")
            return layout
        except (struct.error, IndexError, ValueError) as error:
            raise RegionMismatch(errno.EINVAL, f"no channel layout: {error}") from None

    @property
    def region_bytes(self):
        """Size of each side's memory."""
        return producer_region_bytes(self.capacity) + consumer_region_bytes()


class Channel:
    """One side of a channel. Made by `channel_pair` or `Channel.attach`.

    Attributes
    ----------
    tx : rings.spsc_ring.ProducerRing
        The ring this side produces into.
    rx : rings.spsc_ring.ConsumerRing
        The ring this side consumes from.
    doorbells : dict of int to Doorbell
        What this side sleeps on, by kind (``LEADER``, ``SERVICE``).
    peer_doorbells : dict of int to Doorbell
        What this side kicks: the peer's.
    layout : ChannelLayout
    """

    def __init__(self, layout, regions, doorbells):
        mine = SIDES.index(layout.side)
        theirs = 1 - mine
        self.layout = layout
        self._regions = tuple(regions)
        self._doorbells = tuple(doorbells)
        self._pid = os.getpid()
        tail = producer_region_bytes(layout.capacity)
        my_memory, their_memory = regions[mine].mapping, regions[theirs].mapping
        self.tx = ProducerRing(my_memory, 0, their_memory, tail, layout.capacity)
        self.rx = ConsumerRing(their_memory, 0, my_memory, tail, layout.capacity)
        for ring in (self.tx, self.rx):
            if ring.generation != layout.generation:
                raise RegionMismatch(0, f"channel of generation {ring.generation}, not {layout.generation}")
        self.tx.own(*identity())
        self.doorbells = {LEADER: doorbells[2 * mine], SERVICE: doorbells[2 * mine + 1]}
        self.peer_doorbells = {LEADER: doorbells[2 * theirs], SERVICE: doorbells[2 * theirs + 1]}

    @property
    def capacity(self):
        """Bytes of data per direction."""
        return self.layout.capacity

    @property
    def generation(self):
        return self.layout.generation

    @property
    def peer_fds(self):
        """The peer's eventfds by kind, as ``doorbell_flush`` wants them: (-1, leader, service, -1)."""
        return (-1, self.peer_doorbells[LEADER].fd, self.peer_doorbells[SERVICE].fd, -1)

    @property
    def own_fds(self):
        """This side's eventfds by kind: (-1, leader, service, -1)."""
        return (-1, self.doorbells[LEADER].fd, self.doorbells[SERVICE].fd, -1)

    def fileno(self):
        """The leader's eventfd of this side."""
        return self.doorbells[LEADER].fd

    def flush(self):
        """Publish what was committed, and kick the peer if it sleeps."""
        self._kick(self.tx.flush())

    def release(self):
        """Give back what was peeked, and kick a peer that sleeps for space."""
        self._kick(self.rx.release())

    def export(self):
        """What another process needs to become this side: (fds, layout).

        The fds stay open here until ``detach`` or ``close``: send or inherit them before. Two
        processes must not use one side at a time.
        """
        self._check_open()
        return [r.fd for r in self._regions] + [d.fd for d in self._doorbells], self.layout

    @classmethod
    def attach(cls, fds, layout):
        """Become the side that `layout` names. Takes over all fds, also when it fails.

        Raises
        ------
        RegionMismatch
            Wrong number of fds, or memory that is not as the layout says (size, seals, format).
        RingPoisoned
            The indices in the memory contradict each other.
        """
        fds = list(fds)
        regions, doorbells = [], []
        try:
            if len(fds) != ChannelLayout.FDS:
                raise RegionMismatch(0, f"a channel has {ChannelLayout.FDS} file descriptors, not {len(fds)}")
            for side in range(2):
                regions.append(
                    shared_memory.attach(
                        fds.pop(0),
                        layout.region_bytes,
                        layout.backend,
                        writable=SIDES[side] == layout.side,
                        single_writer=layout.single_writer[side] if layout.backend == "memfd" else None,
                    )
                )
            while fds:
                doorbells.append(Doorbell(fds[0]))
                fds.pop(0)
            return cls(layout, regions, doorbells)
        except BaseException:
            for region in regions:
                region.close()
            for fd in fds:
                os.close(fd)
            raise

    def adopt(self):
        """In a forked child: take this side over from the parent, which must not use it any more.

        Returns
        -------
        Channel
            A new object with the same file descriptors; this one is done with.

        Raises
        ------
        OSError
            EPERM: the memory of this side is sealed against further writers and cannot move.
        """
        self._check_open()
        fds, layout = self.export()
        return Channel.attach([os.dup(fd) for fd in fds], layout)

    def close(self):
        """Tell the peer that nothing follows and nothing is taken any more, and detach. Idempotent."""
        if self._regions and self._pid == os.getpid():
            self._kick(self.tx.shut())
            self._kick(self.rx.shut())
        self.detach()

    def detach(self):
        """Forget this side without telling the peer: somebody else has it now. Idempotent."""
        # Regions and doorbells close with their last reference: the other side may be in this process.
        self._regions = self._doorbells = ()
        self.doorbells = self.peer_doorbells = {}
        self.tx.drop()
        self.rx.drop()

    def _kick(self, kind):
        """Ring the peer's doorbell; its sleep word may say a kind that there is not."""
        bell = self.peer_doorbells.get(kind)
        if bell is not None:
            bell.kick()

    def _check_open(self):
        if not self._regions:
            from rings.errors import RingClosed

            raise RingClosed("this side of the channel was closed")

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __repr__(self):
        state = "" if self._regions else " closed"
        return f"<Channel side {self.layout.side} {self.layout.backend} {self.layout.capacity} B{state}>"


def channel_pair(capacity=1 << 20, backend="posix", *, generation=None, single_writer=False):
    """Make a channel and hold both of its sides.

    Parameters
    ----------
    capacity : int
        Bytes of data per direction: a power of two from 512 on. Twice the L2 cache is fastest for
        bulk data, 256 KiB saves memory.
    backend : {"posix", "memfd"}
        ``memfd`` for a peer that is not trusted.
    generation : int, optional
        Tells this channel from an earlier one; random by default.
    single_writer : bool
        memfd: seal the memory of side a, which then stays in this process, against other writers.

    Returns
    -------
    tuple of Channel
        Sides a and b, both in this process: threads can use them as they are; to move side b to
        another process, export it or fork and `Channel.adopt` it.

    Raises
    ------
    RingSizeError
        A capacity that is no power of two from 512 on.
    OSError
        No memory (ENOSPC) or no file descriptors (EMFILE).
    """
    if generation is None:
        generation = secrets.randbits(63)
    if not 0 <= generation < 1 << 64:
        raise RingSizeError(f"generation {generation} does not fit 64 bits")
    layouts = [
        ChannelLayout(
            side=side,
            backend=backend,
            capacity=capacity,
            generation=generation,
            single_writer=(single_writer, False),
        )
        for side in SIDES
    ]
    regions = []
    try:
        for side in range(2):
            regions.append(
                shared_memory.create(
                    layouts[0].region_bytes, backend, single_writer=single_writer and side == 0
                )
            )
        tail = producer_region_bytes(capacity)
        memories = [region.mapping for region in regions]
        format_ring(memories[0], 0, memories[1], tail, capacity, generation)
        format_ring(memories[1], 0, memories[0], tail, capacity, generation)
        doorbells = [Doorbell() for _ in range(4)]
        return tuple(Channel(layout, regions, doorbells) for layout in layouts)
    except BaseException:
        for region in regions:
            region.close()
        raise

