# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Show each frame to a function on its way through. The frames themselves are not touched.

A received frame may lie in memory that another process writes: what is seen here can differ from what the stack
reads a moment later. Nothing here trusts more of it than its length, which the link has checked.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.link.link cimport frame_t, link_t
from netstack.link.wrapper cimport wrapper_init, wrapper_refresh


cdef int tee_claim(link_t *self, uint32_t head_length, uint32_t body_length,
                   uint8_t **head, uint8_t **body) noexcept nogil:
    cdef tee_t *tee = <tee_t *> self.state
    cdef link_t *inner = tee.wrapper.inner
    cdef int result = inner.claim(inner, head_length, body_length, head, body)
    if result == 0:
        tee.head = head[0]
        tee.body = body[0]
        tee.head_length = head_length
        tee.body_length = body_length
    return result


cdef void tee_commit(link_t *self, int64_t now_ns) noexcept nogil:
    cdef tee_t *tee = <tee_t *> self.state
    cdef link_t *inner = tee.wrapper.inner
    if now_ns > tee.now_ns:
        tee.now_ns = now_ns
    if tee.on:
        tee.on_frame(tee, TEE_OUT, tee.head, tee.head_length, tee.body, tee.body_length)
    inner.commit(inner, now_ns)


cdef int tee_receive(link_t *self, frame_t *frames, int n) noexcept nogil:
    cdef tee_t *tee = <tee_t *> self.state
    cdef link_t *inner = tee.wrapper.inner
    cdef int i
    n = inner.receive(inner, frames, n)
    wrapper_refresh(self)
    if tee.on:
        for i in range(n):
            tee.on_frame(tee, TEE_IN, frames[i].head, frames[i].head_length, frames[i].body, frames[i].body_length)
    return n


cdef void tee_advance(link_t *self, int64_t now_ns) noexcept nogil:
    cdef tee_t *tee = <tee_t *> self.state
    cdef link_t *inner = tee.wrapper.inner
    if now_ns > tee.now_ns:
        tee.now_ns = now_ns
    inner.advance(inner, now_ns)


cdef void tee_init(link_t *outer, tee_t *state, link_t *inner) noexcept nogil:
    wrapper_init(outer, &state.wrapper, inner)
    outer.state = state
    outer.claim = tee_claim
    outer.commit = tee_commit
    outer.receive = tee_receive
    outer.advance = tee_advance
