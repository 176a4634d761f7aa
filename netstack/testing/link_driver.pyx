# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Drive a link by hand, as a stack would: for tests of links and for programs that speak raw frames."""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

from netstack.link.link cimport BELL_LEADER, BELL_SERVICE, frame_t, Link, link_t, NEVER

cdef enum:
    BATCH = 64


cdef uint32_t bell(str kind) except 0:
    if kind == "leader":
        return BELL_LEADER
    if kind == "service":
        return BELL_SERVICE
    raise ValueError(f"kind {kind!r}: say 'leader' or 'service'")


cdef class LinkDriver:
    """The functions of a link (``link.pxd``) as Python calls.

    Parameters
    ----------
    link : Link
        The link to drive. Nothing else may drive it meanwhile.

    Examples
    --------
    >>> a, b = netstack.link.Wire()
    >>> LinkDriver(a).send(b"frame")
    True
    >>> LinkDriver(b).receive()
    [b'frame']
    """

    cdef readonly Link link

    def __init__(self, Link link not None):
        self.link = link

    def write(self, bytes frame not None, int64_t now_ns=0, head=None):
        """Claim, fill and commit one frame without flushing. False when the link has no room.

        ``head`` says how many bytes are headers; the rest is the body. By default everything is head.
        """
        cdef link_t *c = &self.link.link
        cdef uint8_t *first
        cdef uint8_t *second
        cdef uint32_t length = <uint32_t> len(frame)
        cdef uint32_t head_length = length if head is None else min(<uint32_t> head, length)
        cdef const uint8_t *data = frame
        if c.claim(c, head_length, length - head_length, &first, &second):
            return False
        memcpy(first, data, head_length)
        if length > head_length:
            memcpy(second, data + head_length, length - head_length)
        c.commit(c, now_ns)
        return True

    def claim(self, uint32_t head_length, uint32_t body_length=0):
        """Claim only; True when there is room. The claim is dropped by the next one."""
        cdef link_t *c = &self.link.link
        cdef uint8_t *first
        cdef uint8_t *second
        return c.claim(c, head_length, body_length, &first, &second) == 0

    def flush(self):
        self.link.link.flush(&self.link.link)

    def send(self, bytes frame not None, int64_t now_ns=0, head=None):
        """Write one frame and flush."""
        sent = self.write(frame, now_ns, head)
        self.flush()
        return sent

    def receive(self, int limit=BATCH):
        """The frames that are there now, at most ``limit``, as a list of bytes."""
        return [head + body for head, body in self.receive_split(limit)]

    def receive_split(self, int limit=BATCH):
        """As `receive`, but each frame as the pair (head, body) that the link shows."""
        cdef link_t *c = &self.link.link
        cdef frame_t frames[BATCH]
        cdef int i, got
        cdef list out = []
        while limit > 0:
            got = c.receive(c, frames, min(limit, BATCH))
            for i in range(got):
                out.append((
                    (<const uint8_t *> frames[i].head)[:frames[i].head_length] if frames[i].head_length else b"",
                    (<const uint8_t *> frames[i].body)[:frames[i].body_length] if frames[i].body_length else b"",
                ))
            c.release(c)
            limit -= got
            if got == 0:
                break
        return out

    def next_deadline(self):
        """When the link wants `advance`, ns; None when it does not."""
        cdef int64_t deadline = self.link.link.next_deadline(&self.link.link)
        return None if deadline == NEVER else deadline

    def advance(self, int64_t now_ns):
        self.link.link.advance(&self.link.link, now_ns)

    def arm(self, str kind="leader"):
        """Make ready to sleep; True when there is input already and nothing was armed."""
        return self.link.link.arm(&self.link.link, bell(kind)) != 0

    def disarm(self):
        self.link.link.disarm(&self.link.link)

    def poll_fd(self, str kind="leader"):
        return self.link.link.poll_fd(&self.link.link, bell(kind))

    def drain_fd(self, str kind="leader"):
        self.link.link.drain_fd(&self.link.link, bell(kind))

    def has_input(self):
        return self.link.link.has_input(&self.link.link) != 0

    def peer_cpu(self):
        """CPU the peer last flushed on, or None."""
        cdef uint32_t cpu = self.link.link.peer_cpu(&self.link.link)
        return None if cpu == <uint32_t> 0xffffffff else cpu

    @property
    def dead(self):
        return self.link.link.dead != 0

    @property
    def capabilities(self):
        return self.link.link.capabilities
