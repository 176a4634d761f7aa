"""A link around a link: every function passes through; wrappers replace those they care about."""

from netstack.link.link cimport Link, link_t


cdef struct wrapper_t:           # first member of every wrapper's state
    link_t *inner


cdef void wrapper_init(link_t *outer, wrapper_t *state, link_t *inner) noexcept nogil
cdef void wrapper_refresh(link_t *outer) noexcept nogil       # take over dead from the inner link


cdef class Wrapper(Link):
    cdef readonly Link inner
