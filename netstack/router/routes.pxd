"""Where to with an address that has no entry of its own: by longest prefix to a next hop.

A next hop is a port, with a gateway behind it or without; pools are prefixes too, so that a longer one may lie inside.
Several routes share a hop. Hops stand in one array by number, and a hop whose port goes stays: it leads nowhere then.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_is_v4, address_t
from netstack.router.poptrie cimport poptrie_find, poptrie_t
from netstack.router.port cimport port_t
from netstack.router.table cimport table_find, table_t
from netstack.wire.byte_order cimport load_be32, load_be64

cdef enum:
    HOP_POOL = 1             # nobody's: addresses of it that are somebody's have entries
    HOP_UPLINK = 2
    HOP_STACK = 3            # a block that lives behind an attachment


cdef struct hop_t:
    uint32_t kind            # 0: this number is free
    port_t *port             # NULL: of a pool, or gone
    uint64_t ident           # of the port, gone or not
    bint held                # of a block that waits for its owner: nothing is answered
    address_t gateway        # 0: whoever has the destination is on the uplink, or behind its own gateway
    address_t broadcast      # of an IPv4 pool


cdef struct routes_t:
    poptrie_t v4
    poptrie_t v6
    hop_t *hops              # by answer; 0 is no hop
    uint32_t room
    uint32_t blocks          # hops to attachments
    uint32_t gateways        # hops with a gateway


cdef inline hop_t *routes_find(const routes_t *r, const address_t *a) noexcept nogil:
    """The next hop for an address, NULL without a route. Under the lock."""
    cdef uint16_t hop
    if address_is_v4(a):
        hop = poptrie_find(&r.v4.view, <uint64_t> load_be32(<const uint8_t *> a + 12) << 32, 0)
    else:
        hop = poptrie_find(&r.v6.view, load_be64(&a.hi), load_be64(&a.lo))
    return &r.hops[hop] if hop else NULL


cdef inline bint hosted(const table_t *table, const routes_t *r, const address_t *a) noexcept nogil:
    """Is it an address of the router, or of somebody attached?"""
    cdef hop_t *hop
    if table_find(table, a) != NULL:
        return True
    if r.blocks == 0:
        return False
    hop = routes_find(r, a)
    return hop != NULL and hop.kind == HOP_STACK


cdef void routes_init(routes_t *r) noexcept nogil
cdef void routes_free(routes_t *r) noexcept nogil
# A port goes: hops that led there lead nowhere. Under the lock.
cdef void routes_lose(routes_t *r, const port_t *port) noexcept nogil
