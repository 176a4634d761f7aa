# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Pass-through of all link functions: a wrapper keeps sleeping, waking and deadlines of the link below working."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.link.link cimport frame_t, Link, link_t


cdef inline link_t *below(link_t *outer) noexcept nogil:
    return (<wrapper_t *> outer.state).inner


cdef void wrapper_refresh(link_t *outer) noexcept nogil:
    outer.dead = below(outer).dead


cdef int pass_claim(link_t *self, uint32_t head_length, uint32_t body_length,
                    uint8_t **head, uint8_t **body) noexcept nogil:
    cdef link_t *inner = below(self)
    return inner.claim(inner, head_length, body_length, head, body)


cdef void pass_commit(link_t *self, int64_t now_ns) noexcept nogil:
    cdef link_t *inner = below(self)
    inner.commit(inner, now_ns)


cdef void pass_flush(link_t *self) noexcept nogil:
    cdef link_t *inner = below(self)
    inner.flush(inner)
    wrapper_refresh(self)


cdef int pass_receive(link_t *self, frame_t *frames, int n) noexcept nogil:
    cdef link_t *inner = below(self)
    n = inner.receive(inner, frames, n)
    wrapper_refresh(self)
    return n


cdef void pass_release(link_t *self) noexcept nogil:
    cdef link_t *inner = below(self)
    inner.release(inner)


cdef int64_t pass_next_deadline(link_t *self) noexcept nogil:
    cdef link_t *inner = below(self)
    return inner.next_deadline(inner)


cdef void pass_advance(link_t *self, int64_t now_ns) noexcept nogil:
    cdef link_t *inner = below(self)
    inner.advance(inner, now_ns)


cdef int pass_arm(link_t *self, uint32_t kind) noexcept nogil:
    cdef link_t *inner = below(self)
    return inner.arm(inner, kind)


cdef void pass_disarm(link_t *self) noexcept nogil:
    cdef link_t *inner = below(self)
    inner.disarm(inner)


cdef int pass_poll_fd(link_t *self, uint32_t kind) noexcept nogil:
    cdef link_t *inner = below(self)
    return inner.poll_fd(inner, kind)


cdef void pass_drain_fd(link_t *self, uint32_t kind) noexcept nogil:
    cdef link_t *inner = below(self)
    inner.drain_fd(inner, kind)


cdef int pass_has_input(link_t *self) noexcept nogil:
    cdef link_t *inner = below(self)
    return inner.has_input(inner)


cdef uint32_t pass_peer_cpu(link_t *self) noexcept nogil:
    cdef link_t *inner = below(self)
    return inner.peer_cpu(inner)


cdef int pass_peer_fd(link_t *self) noexcept nogil:
    cdef link_t *inner = below(self)
    return inner.peer_fd(inner)


cdef void pass_peer_died(link_t *self) noexcept nogil:
    cdef link_t *inner = below(self)
    inner.peer_died(inner)


cdef void pass_change(link_t *self) noexcept nogil:
    cdef link_t *inner = below(self)
    inner.change(inner)
    wrapper_refresh(self)


cdef int pass_route(link_t *self, const uint8_t *dst, uint8_t *src) noexcept nogil:
    cdef link_t *inner = below(self)
    return inner.route(inner, dst, src)


cdef void wrapper_init(link_t *outer, wrapper_t *state, link_t *inner) noexcept nogil:
    """Make ``outer`` look like ``inner`` and pass everything on."""
    state.inner = inner
    outer.state = state
    outer.mtu = inner.mtu
    outer.media = inner.media
    outer.capabilities = inner.capabilities
    outer.dead = inner.dead
    outer.claim = pass_claim
    outer.commit = pass_commit
    outer.flush = pass_flush
    outer.receive = pass_receive
    outer.release = pass_release
    outer.next_deadline = pass_next_deadline
    outer.advance = pass_advance
    outer.arm = pass_arm
    outer.disarm = pass_disarm
    outer.poll_fd = pass_poll_fd
    outer.drain_fd = pass_drain_fd
    outer.has_input = pass_has_input
    outer.peer_cpu = pass_peer_cpu
    outer.peer_fd = pass_peer_fd
    outer.peer_died = pass_peer_died
    outer.change = pass_change
    outer.ports = inner.ports
    if inner.route != NULL:
        outer.route = pass_route


cdef class Wrapper(Link):
    """Base of links that wrap a link. The inner link must not be used directly while it is wrapped.

    Attributes
    ----------
    inner : Link
        The wrapped link.
    """

    def close(self):
        """Close the wrapper and the link inside it."""
        if self.inner is not None:
            self.inner.close()
