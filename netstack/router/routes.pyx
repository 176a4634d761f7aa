# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The next hops and what keeps them; see ``routes.pxd``. Changing is in ``route_table``."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free
from libc.string cimport memset

from netstack.router.poptrie cimport poptrie_free, poptrie_init


cdef void routes_init(routes_t *r) noexcept nogil:
    memset(r, 0, sizeof(routes_t))
    poptrie_init(&r.v4, 4)
    poptrie_init(&r.v6, 16)


cdef void routes_free(routes_t *r) noexcept nogil:
    poptrie_free(&r.v4)
    poptrie_free(&r.v6)
    free(r.hops)
    r.hops = NULL


cdef void routes_lose(routes_t *r, const port_t *port) noexcept nogil:
    cdef uint32_t i
    for i in range(r.room):
        if r.hops[i].port == port:
            r.hops[i].port = NULL
