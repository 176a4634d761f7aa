"""Making a ring, and handing its ends to other processes.

A ring of its own (outside a channel) lives in one piece of memory: the producer's region, then the
consumer's. An end travels as three file descriptors (memory, the doorbell for data, the doorbell for
space) and the few facts of an `EndState`: over a fork, over a socket, or by ``multiprocessing``.
"""

import dataclasses
import errno
import os
import secrets
import struct

from rings import shared_memory
from rings.doorbell import Doorbell
from rings.endpoint import Consumer, Producer
from rings.errors import RegionMismatch
from rings.spsc_ring import consumer_region_bytes, format_ring, producer_region_bytes

ROLES = ("producer", "consumer")
_STATE = struct.Struct("<4sHBBQQ")
_MAGIC = b"NSri"
_VERSION = 1


class RingPair(tuple):
    """(producer, consumer); as a context manager it closes both."""

    __slots__ = ()

    @property
    def producer(self):
        return self[0]

    @property
    def consumer(self):
        return self[1]

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        for end in self:
            end.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndState:
    """One end of a ring on its way to another process.

    Attributes
    ----------
    role : {"producer", "consumer"}
    backend : {"posix", "memfd"}
    capacity : int
        Bytes of data.
    generation : int
    fds : tuple of int
        Memory, doorbell for data, doorbell for space.
    """

    role: str
    backend: str
    capacity: int
    generation: int
    fds: tuple

    def __post_init__(self):
        if self.role not in ROLES or self.backend not in shared_memory.BACKENDS:
            raise ValueError(f"an end of role {self.role!r} on {self.backend!r} memory")
        producer_region_bytes(self.capacity)

    def pack(self):
        """The facts without the fds, 24 bytes, little-endian."""
        return _STATE.pack(
            _MAGIC,
            _VERSION,
            ROLES.index(self.role),
            shared_memory.BACKENDS.index(self.backend),
            self.capacity,
            self.generation,
        )

    @classmethod
    def unpack(cls, data, fds):
        """The inverse of `pack`. RegionMismatch if it is no such thing, or of another version."""
        try:
            magic, version, role, backend, capacity, generation = _STATE.unpack(data)
            if magic != _MAGIC or version != _VERSION:
                raise ValueError("another version")
            return cls(
                role=ROLES[role],
                backend=shared_memory.BACKENDS[backend],
                capacity=capacity,
                generation=generation,
                fds=tuple(fds),
            )
        except (struct.error, IndexError, ValueError) as error:
            raise RegionMismatch(errno.EINVAL, f"no end of a ring: {error}") from None


def ring(capacity=1 << 20, backend="posix"):
    """Make a ring and hold both ends.

    Parameters
    ----------
    capacity : int
        Bytes for messages with their headers (8 bytes, rounded up to 64): a power of two from 512 on.
        A message takes at most half of it.
    backend : {"posix", "memfd"}
        ``memfd`` for a peer that is not trusted.

    Returns
    -------
    RingPair
        (producer, consumer), for two threads of this process; hand one end on for two processes.

    Raises
    ------
    RingSizeError
        A capacity that is no power of two from 512 on.
    OSError
        No memory (ENOSPC) or no file descriptors (EMFILE).
    """
    tail = producer_region_bytes(capacity)
    region = shared_memory.create(tail + consumer_region_bytes(), backend)
    format_ring(region.mapping, 0, region.mapping, tail, capacity, secrets.randbits(63))
    data, space = Doorbell(), Doorbell()
    return RingPair((Producer(region, capacity, data, space), Consumer(region, capacity, data, space)))


def attach(state):
    """Become the end that an `EndState` describes. Takes over its fds, also when it fails.

    Raises
    ------
    RegionMismatch
        The memory is not as the state says: size, seals, format or generation.
    """
    fds = list(state.fds)
    try:
        if len(fds) != 3:
            raise RegionMismatch(errno.EINVAL, f"an end has 3 file descriptors, not {len(fds)}")
        size = producer_region_bytes(state.capacity) + consumer_region_bytes()
        region = shared_memory.attach(fds.pop(0), size, state.backend)
        data = Doorbell(fds[0])
        fds.pop(0)
        space = Doorbell(fds[0])
        fds.pop(0)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    kind = Producer if state.role == "producer" else Consumer
    end = kind(region, state.capacity, data, space)
    if end.generation != state.generation:
        end.detach()
        raise RegionMismatch(errno.EINVAL, "a ring of another generation")
    return end


def send_end(connection, end):
    """Send an end over a connected Unix socket, and detach it here."""
    import socket

    state = end.export()
    socket.send_fds(connection, [state.pack()], state.fds)
    end.detach()


def receive_end(connection):
    """Receive an end that the other process sent with `send_end`.

    Raises
    ------
    RegionMismatch
        Something else was sent; fds that came with it are closed.
    EOFError
        The connection is at its end.
    """
    import socket

    message, fds, flags, _ = socket.recv_fds(connection, _STATE.size, 3)
    try:
        if not message:
            raise EOFError("the connection was closed before an end of a ring came")
        if flags & socket.MSG_CTRUNC:
            raise RegionMismatch(errno.EINVAL, "more file descriptors came than an end has")
        state = EndState.unpack(message, fds)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return attach(state)


def reduce(end):
    """Pickle an end for a process that ``multiprocessing`` starts; this process must detach it."""
    from multiprocessing.reduction import DupFd

    state = end.export()
    return _rebuild, (state.pack(), [DupFd(fd) for fd in state.fds])


def _rebuild(message, handles):
    return attach(EndState.unpack(message, [handle.detach() for handle in handles]))
