# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Routes come and go: control's half of ``routes``.

What is new is built without the router's lock; the data thread waits for the few stores that make it valid, also when a
million routes come at once. Changes exclude each other by a lock of their own.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import threading

from netstack.address cimport address_format, address_parse, address_t
from netstack.errors import ConfigError
from netstack.router.poptrie cimport (
    poptrie_commit, poptrie_load, poptrie_memory, poptrie_rebuild, poptrie_reclaim, poptrie_set, poptrie_t, poptrie_unset,
    poptrie_wasteful,
)
from netstack.router.port cimport PORT_STACK, port_t
from netstack.router.prefixes cimport prefix_network, prefix_parse, sorted_entries
from netstack.router.rib cimport place_t, prefix_t, rib_find, rib_lower, rib_memory, rib_next, rib_unpack
from netstack.router.routes cimport HOP_POOL, HOP_STACK, hop_t, HOP_UPLINK
from netstack.router.state cimport enter, leave

cdef enum:
    HOPS_MAX = 65535

cdef tuple ASIDE = (HOP_STACK, 0, None), HELD = (HOP_STACK, 0, "held")

cdef dict KINDS = {HOP_POOL: "pool", HOP_UPLINK: "uplink", HOP_STACK: "stack"}


cdef object address_text(object gateway):
    """Of a gateway in any form, None of none."""
    cdef address_t a
    if gateway is None:
        return None
    address_parse(gateway, &a)
    return address_format(&a)


cdef class RouteTable:
    """The routes of one `Forwarder`, which owns it: both IP versions, and their next hops.

    A hop is kept under a key: (kind, port id, text of the gateway or None), of a pool (kind, network, None), of blocks
    without an attachment `ASIDE` or `HELD`.
    """

    def __cinit__(self):
        self._lock = threading.Lock()
        self._numbers = {}
        self._keys = [None]
        self._uses = [0]
        self._unused = []

    cdef poptrie_t *table(self, int version) noexcept:
        return &self.f.routes.v4 if version == 4 else &self.f.routes.v6

    cdef port_t *port(self, uint64_t ident) except NULL:
        cdef uint32_t slot = ident & 0xffff
        if slot >= self.f.max_ports or self.f.slots[slot] == NULL or self.f.slots[slot].id != ident:
            raise KeyError(f"no port {ident}")
        return self.f.slots[slot]

    cdef tuple key_of(self, uint64_t ident, object gateway):
        cdef port_t *port = self.port(ident)
        cdef int kind = HOP_STACK if port.kind == PORT_STACK and not port.outside else HOP_UPLINK
        return kind, ident, address_text(gateway)

    cdef void settle(self, poptrie_t *t) noexcept nogil:
        """Readers see what was prepared; gaps are closed when there are many."""
        enter(self.f)
        poptrie_commit(t)
        leave(self.f)
        poptrie_reclaim(t)
        if poptrie_wasteful(t) and poptrie_rebuild(t) == 0:
            enter(self.f)
            poptrie_commit(t)
            leave(self.f)
            poptrie_reclaim(t)

    # ---- hops

    cdef uint16_t take_hop(self, tuple key) except 0:
        """The number of a hop, which has one route more; a new one if need be."""
        cdef hop_t hop
        cdef hop_t *hops = NULL
        cdef uint32_t number, room = self.f.routes.room
        known = self._numbers.get(key)
        if known is not None:
            self._uses[known] += 1
            return known
        memset(&hop, 0, sizeof(hop))
        hop.kind = key[0]
        if hop.kind == HOP_POOL:
            if key[1].version == 4:
                address_parse(key[1].broadcast_address, &hop.broadcast)
        elif key[1] == 0:
            hop.held = key == HELD
        else:
            hop.port = self.port(key[1])
            hop.ident = key[1]
            if key[2] is not None:
                address_parse(key[2], &hop.gateway)
        number = self._unused[len(self._unused) - 1] if self._unused else len(self._keys)
        if number > HOPS_MAX:
            raise ConfigError(f"a router has at most {HOPS_MAX} next hops")
        if number >= room:
            room = room * 2 if room else 16
            hops = <hop_t *> calloc(room, sizeof(hop_t))
            if hops == NULL:
                raise MemoryError
            if self.f.routes.room:
                memcpy(hops, self.f.routes.hops, self.f.routes.room * sizeof(hop_t))
        if self._unused:
            self._unused.pop()
            self._keys[number] = key
            self._uses[number] = 1
        else:
            self._keys.append(key)
            self._uses.append(1)
        self._numbers[key] = number
        with nogil:
            enter(self.f)
            if hops != NULL:
                self.f.routes.hops, hops = hops, self.f.routes.hops
                self.f.routes.room = room
            self.f.routes.hops[number] = hop
            self.f.routes.blocks += hop.kind == HOP_STACK
            self.f.routes.gateways += hop.gateway.lo != 0 or hop.gateway.hi != 0
            leave(self.f)
            free(hops)
        return <uint16_t> number

    cdef int drop_hop(self, uint16_t number) except -1:
        """One route less; the last one frees the number. No route has it any more."""
        cdef hop_t *hop
        self._uses[number] -= 1
        if self._uses[number]:
            return 0
        if self._numbers.get(self._keys[number]) == number:
            del self._numbers[self._keys[number]]
        self._keys[number] = None
        self._unused.append(number)
        with nogil:
            enter(self.f)
            hop = &self.f.routes.hops[number]
            self.f.routes.blocks -= hop.kind == HOP_STACK
            self.f.routes.gateways -= hop.gateway.lo != 0 or hop.gateway.hi != 0
            memset(hop, 0, sizeof(hop_t))
            leave(self.f)
        return 0

    # ---- routes

    def add(self, network, ident, gateway, bint replace):
        with self._lock:
            self.enter_route(network, (HOP_POOL, network, None) if ident is None else self.key_of(ident, gateway), replace)

    def set_aside(self, network, bint held):
        with self._lock:
            self.enter_route(network, HELD if held else ASIDE, True)

    cdef int enter_route(self, object network, tuple key, bint replace) except -1:
        cdef prefix_t p
        cdef poptrie_t *t = self.table(network.version)
        cdef int before
        prefix_parse(network, network.version, &p)
        before = rib_find(&t.rib, &p)
        if before and self._keys[before][0] == HOP_POOL:
            raise ValueError(f"{network} is a pool of the router")
        if before and not replace:
            raise ValueError(f"{network} has a route already")
        p.hop = self.take_hop(key)
        with nogil:
            before = poptrie_set(t, &p)
            if before >= 0:
                self.settle(t)
        if before < 0:
            self.drop_hop(p.hop)
            raise MemoryError
        if before:
            self.drop_hop(<uint16_t> before)
        return 0

    def remove(self, network):
        cdef prefix_t p
        cdef poptrie_t *t = self.table(network.version)
        cdef int before
        prefix_parse(network, network.version, &p)
        with self._lock:
            before = rib_find(&t.rib, &p)
            if before == 0:
                raise KeyError(f"no route {network}")
            if self._keys[before][0] == HOP_POOL:
                raise ValueError(f"{network} is a pool of the router")
            with nogil:
                before = poptrie_unset(t, &p)
                if before > 0:
                    self.settle(t)
            if before < 0:
                raise MemoryError
            self.drop_hop(<uint16_t> before)

    def load(self, int version, entries, hops):
        cdef bytes packed = sorted_entries(entries, version)
        cdef uint8_t *raw = <uint8_t *> PyBytes_AS_STRING(packed)    # a copy that nobody else has
        cdef size_t width = 4 if version == 4 else 16, size = width + 4, n = len(packed) // size, i
        cdef uint16_t numbers[HOPS_MAX + 1]
        cdef poptrie_t *t = self.table(version)
        cdef prefix_t p
        cdef uint16_t hop
        cdef int status
        cdef list keys = [self.key_of(ident, gateway) for ident, gateway in hops]
        cdef list uses = [0] * (len(keys) + 1)
        with self._lock:
            for i in range(n):
                rib_unpack(&t.rib, raw + i * size, &p)
                if p.hop > len(keys):
                    raise ValueError(f"{prefix_network(&p, version)} has next hop {p.hop}, there are {len(keys)}")
                if rib_find(&t.rib, &p):
                    raise ValueError(f"{prefix_network(&p, version)} has a route already, or is a pool")
                uses[p.hop] += 1
            for number, key in enumerate(keys, 1):
                if uses[number]:
                    numbers[number] = self.take_hop(key)
                    self._uses[numbers[number]] += uses[number] - 1
            with nogil:
                for i in range(n):
                    memcpy(&hop, raw + i * size + width + 2, 2)
                    memcpy(raw + i * size + width + 2, &numbers[hop], 2)
                status = poptrie_load(t, raw, n)
                if status == 0:
                    self.settle(t)
            if status != 0:
                raise MemoryError

    def move(self, before, uint64_t ident):
        cdef port_t *port = self.port(ident)
        cdef int number
        with self._lock:
            for number, key in enumerate(self._keys):
                if key is None or key[0] == HOP_POOL or key[1] != before:
                    continue
                del self._numbers[key]
                self._keys[number] = key = (key[0], ident, key[2])
                self._numbers[key] = number
                with nogil:
                    enter(self.f)
                    self.f.routes.hops[number].port = port
                    self.f.routes.hops[number].ident = ident
                    leave(self.f)

    def after(self, int version, network, int most):
        cdef poptrie_t *t = self.table(version)
        cdef prefix_t p
        cdef place_t place
        cdef list out = []
        memset(&p, 0, sizeof(p))
        if network is not None:
            prefix_parse(network, version, &p)
            p.length += 1
        with self._lock:
            place = rib_lower(&t.rib, &p)
            while len(out) < most and rib_next(&t.rib, &place, &p):
                out.append(self.row(prefix_network(&p, version), p.hop))
        return out

    def get(self, network):
        cdef prefix_t p
        cdef uint16_t hop
        prefix_parse(network, network.version, &p)
        with self._lock:
            hop = rib_find(&self.table(network.version).rib, &p)
            return self.row(network, hop) if hop else None

    cdef tuple row(self, object network, uint16_t hop):
        kind, ident, gateway = self._keys[hop]
        return network, KINDS[kind], 0 if kind == HOP_POOL else ident, gateway if ident else None

    def memory(self, int version):
        cdef poptrie_t *t = self.table(version)
        return {"routes": t.rib.count, "lookup": poptrie_memory(t), "prefixes": rib_memory(&t.rib)}
