# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Building and changing a forwarding table; see ``poptrie.pxd``.

A change rebuilds the smallest subtree that holds all addresses of its prefix: one node for a long prefix, a range of the
array for a short one. The walk over the sorted prefixes meets each covering one before those inside it, so each paints
over what it inherits.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from netstack.router.rib cimport (
    place_t, prefix_mask, prefix_t, rib_covering, rib_free, rib_init, rib_lower, rib_next, rib_remove, rib_set, rib_t,
    rib_unpack,
)

cdef extern from * nogil:
    int __builtin_popcountll(unsigned long long)

cdef enum:
    SLOTS = 64                   # of a node
    ALIGN_LEAVES = 2             # a block of leaves holds the number of the next free one
    WASTE_MIN = 65536            # bytes of gaps that are not worth a rebuild

cdef uint64_t DIRECT = <uint64_t> 1 << POPTRIE_DIRECT_BITS


cdef struct walk_t:              # over the prefixes in order
    const rib_t *rib
    place_t place
    prefix_t p
    bint more


# ---- memory

cdef void arena_init(arena_t *a, uint32_t item_bytes) noexcept nogil:
    memset(a, 0, sizeof(arena_t))
    a.item_bytes = item_bytes


cdef int arena_room(arena_t *a, uint64_t items, const void *shared) noexcept nogil:
    """Room for so many in all. Readers may still look at `shared`: it is not freed here."""
    cdef void *memory
    if items > 0x7fffffff:
        return -1
    memory = malloc(items * a.item_bytes)
    if memory == NULL:
        return -1
    if a.memory != NULL:
        memcpy(memory, a.memory, <size_t> a.used * a.item_bytes)
        if a.memory != shared:
            free(a.memory)
    a.memory = memory
    a.room = <uint32_t> items
    if a.used == 0:
        a.used = ALIGN_LEAVES
        memset(memory, 0, ALIGN_LEAVES * a.item_bytes)
    return 0


cdef uint32_t arena_take(arena_t *a, uint32_t n, const void *shared) noexcept nogil:
    """A block of n; 0 without memory."""
    cdef uint32_t at = a.free[n]
    if at:
        memcpy(&a.free[n], <uint8_t *> a.memory + <size_t> at * a.item_bytes, 4)
        a.free_items -= n
        return at
    if <uint64_t> a.used + n > a.room and arena_room(a, <uint64_t> a.room + a.room // 4 + 256, shared) != 0:
        return 0
    at = a.used
    a.used += n
    return at


cdef void arena_give(arena_t *a, uint32_t at, uint32_t n) noexcept nogil:
    if n:
        memcpy(<uint8_t *> a.memory + <size_t> at * a.item_bytes, &a.free[n], 4)
        a.free[n] = at
        a.free_items += n


cdef void arena_trim(arena_t *a) noexcept nogil:
    """Give back what is beyond a sixteenth more than is used."""
    cdef uint32_t room = a.used + a.used // 16 + 256
    cdef void *memory
    if room < a.room:
        memory = realloc(a.memory, <size_t> room * a.item_bytes)
        if memory != NULL:
            a.memory = memory
            a.room = room


cdef inline poptrie_node_t *nodes_of(poptrie_t *t) noexcept nogil:
    return <poptrie_node_t *> t.nodes.memory


cdef inline uint32_t children_of(const poptrie_node_t *node) noexcept nogil:
    return <uint32_t> __builtin_popcountll(node.vector)


cdef inline uint32_t leaves_of(const poptrie_node_t *node) noexcept nogil:
    """With the one that fills a block up."""
    return (<uint32_t> __builtin_popcountll(node.leafvec) + ALIGN_LEAVES - 1) & ~<uint32_t> (ALIGN_LEAVES - 1)


cdef void give_below(poptrie_t *t, const poptrie_node_t *node) noexcept nogil:
    """Free what hangs from a node, not the node."""
    cdef uint32_t i
    for i in range(children_of(node)):
        give_below(t, &nodes_of(t)[node.base1 + i])
    arena_give(&t.nodes, node.base1, children_of(node))
    arena_give(&t.leaves, node.base0, leaves_of(node))


# ---- building

cdef inline uint32_t slot_of(const prefix_t *p, uint32_t depth) noexcept nogil:
    """The six bits behind the first `depth`."""
    if depth >= 64:
        return <uint32_t> (p.lo << (depth - 64) >> (64 - POPTRIE_STRIDE))
    return <uint32_t> ((p.hi << depth | p.lo >> (64 - depth)) >> (64 - POPTRIE_STRIDE))


cdef inline bint same_bits(const prefix_t *a, const prefix_t *b, uint32_t depth) noexcept nogil:
    """Are the first `depth` bits the same? (1 and more.)"""
    if depth <= 64:
        return (a.hi ^ b.hi) >> (64 - depth) == 0
    return a.hi == b.hi and (a.lo ^ b.lo) >> (128 - depth) == 0


cdef void walk_from(walk_t *w, const rib_t *rib, const prefix_t *key, uint32_t depth) noexcept nogil:
    """Begin with the first prefix of more than `depth` bits that begins with those of `key`, or what comes behind."""
    cdef prefix_t start = key[0]
    prefix_mask(&start, depth)
    start.length = depth + 1
    w.rib = rib
    w.place = rib_lower(rib, &start)
    w.more = rib_next(rib, &w.place, &w.p)


cdef bint any_below(const rib_t *rib, const prefix_t *key, uint32_t depth) noexcept nogil:
    """Is there a prefix of more than `depth` bits that begins with those of `key`?"""
    cdef walk_t w
    walk_from(&w, rib, key, depth)
    return w.more and same_bits(&w.p, key, depth)


cdef int build_node(poptrie_t *t, walk_t *w, uint32_t depth, uint16_t inherited, poptrie_node_t *out) noexcept nogil:
    """A node for the first `depth` bits of the walk's prefix, from all prefixes that go on behind them. -1: no memory."""
    cdef poptrie_node_t children[SLOTS]
    cdef uint16_t leaf[SLOTS]
    cdef uint16_t leaves[SLOTS]
    cdef prefix_t key = w.p
    cdef uint32_t slot, n_children = 0, n_leaves = 0, end = depth + POPTRIE_STRIDE
    cdef int i
    cdef uint64_t vector = 0, leafvec = 0
    for i in range(SLOTS):
        leaf[i] = inherited
    while w.more and same_bits(&w.p, &key, depth):
        slot = slot_of(&w.p, depth)
        if w.p.length > end:
            vector |= <uint64_t> 1 << slot
            if build_node(t, w, end, leaf[slot], &children[n_children]) != 0:
                return -1
            n_children += 1
            continue
        for i in range(1 << (end - w.p.length)):
            leaf[slot + i] = w.p.hop
        w.more = rib_next(w.rib, &w.place, &w.p)
    for i in range(SLOTS):
        if not vector >> i & 1 and (n_leaves == 0 or leaf[i] != leaves[n_leaves - 1]):
            leafvec |= <uint64_t> 1 << i
            leaves[n_leaves] = leaf[i]
            n_leaves += 1
    out.vector = vector
    out.leafvec = leafvec
    out.base0 = out.base1 = 0
    if n_children:
        out.base1 = arena_take(&t.nodes, n_children, t.view.nodes)
        if out.base1 == 0:
            return -1
        memcpy(&nodes_of(t)[out.base1], children, n_children * sizeof(poptrie_node_t))
    if n_leaves:
        out.base0 = arena_take(&t.leaves, leaves_of(out), t.view.leaves)
        if out.base0 == 0:
            return -1
        memcpy(<uint16_t *> t.leaves.memory + out.base0, leaves, n_leaves * 2)
    return 0


cdef int build_direct(poptrie_t *t, walk_t *w, uint32_t first, uint32_t n, uint16_t inherited, uint32_t *out) noexcept nogil:
    """A range of the array. -1: no memory."""
    cdef poptrie_node_t node
    cdef uint32_t slot, i, at
    for i in range(n):
        out[i] = inherited
    while w.more:
        slot = <uint32_t> (w.p.hi >> (64 - POPTRIE_DIRECT_BITS)) - first
        if slot >= n:
            break
        if w.p.length > POPTRIE_DIRECT_BITS:
            if build_node(t, w, POPTRIE_DIRECT_BITS, <uint16_t> out[slot], &node) != 0:
                return -1
            at = arena_take(&t.nodes, 1, t.view.nodes)
            if at == 0:
                return -1
            nodes_of(t)[at] = node
            out[slot] = POPTRIE_NODE | at
            continue
        for i in range(<uint32_t> (DIRECT >> w.p.length)):
            out[slot + i] = w.p.hop
        w.more = rib_next(w.rib, &w.place, &w.p)
    return 0


# ---- changing

cdef int prepare_direct(poptrie_t *t, const prefix_t *p, uint32_t length) noexcept nogil:
    """Build the part of the array anew that the first `length` bits of a prefix say."""
    cdef change_t *c = &t.change
    cdef walk_t w
    cdef prefix_t key = p[0]
    prefix_mask(&key, length)
    c.first = <uint32_t> (key.hi >> (64 - POPTRIE_DIRECT_BITS))
    c.n = <uint32_t> 1 << (POPTRIE_DIRECT_BITS - length)
    c.values = <uint32_t *> malloc(c.n * sizeof(uint32_t))
    if c.values == NULL:
        return -1
    walk_from(&w, &t.rib, &key, length)
    if build_direct(t, &w, c.first, c.n, rib_covering(&t.rib, &key, length), c.values) != 0:
        free(c.values)
        return -1
    c.kind = CHANGE_DIRECT
    return 0


cdef int prepare(poptrie_t *t, const prefix_t *p) noexcept nogil:
    """A prefix came, went or has another answer: build anew what it concerns."""
    cdef change_t *c = &t.change
    cdef poptrie_node_t *node
    cdef walk_t w
    cdef uint32_t depth = POPTRIE_DIRECT_BITS, slot, at
    c.kind = CHANGE_NONE
    if p.length == 0:
        return 0
    if t.direct == NULL:
        return poptrie_rebuild(t)
    if p.length <= POPTRIE_DIRECT_BITS:
        return prepare_direct(t, p, p.length)
    at = t.direct[p.hi >> (64 - POPTRIE_DIRECT_BITS)]
    if not at & POPTRIE_NODE or not any_below(&t.rib, p, depth):
        return prepare_direct(t, p, depth)
    at &= ~POPTRIE_NODE
    while p.length > depth + POPTRIE_STRIDE:         # down, as long as the child is there and stays
        node = &nodes_of(t)[at]
        slot = slot_of(p, depth)
        if not node.vector >> slot & 1 or not any_below(&t.rib, p, depth + POPTRIE_STRIDE):
            break
        at = node.base1 + <uint32_t> __builtin_popcountll(node.vector & ((<uint64_t> 2 << slot) - 1)) - 1
        depth += POPTRIE_STRIDE
    walk_from(&w, &t.rib, p, depth)
    if build_node(t, &w, depth, rib_covering(&t.rib, p, depth), &c.node) != 0:
        return -1
    c.first = at
    c.kind = CHANGE_NODE
    return 0


cdef int poptrie_rebuild(poptrie_t *t) noexcept nogil:
    cdef poptrie_t fresh = t[0]
    cdef walk_t w
    cdef prefix_t zero
    memset(&zero, 0, sizeof(zero))
    arena_init(&fresh.nodes, sizeof(poptrie_node_t))
    arena_init(&fresh.leaves, sizeof(uint16_t))
    fresh.leaking = False
    fresh.change.kind = CHANGE_ALL
    fresh.direct = <uint32_t *> calloc(DIRECT, sizeof(uint32_t))
    walk_from(&w, &t.rib, &zero, 0)
    if fresh.direct == NULL or build_direct(&fresh, &w, 0, <uint32_t> DIRECT, 0, fresh.direct) != 0:
        free(fresh.direct)
        free(fresh.nodes.memory)
        free(fresh.leaves.memory)
        return -1
    arena_trim(&fresh.nodes)
    arena_trim(&fresh.leaves)
    if t.nodes.memory != t.view.nodes:       # of a change that failed
        free(t.nodes.memory)
    if t.leaves.memory != t.view.leaves:
        free(t.leaves.memory)
    t[0] = fresh
    return 0


cdef int poptrie_set(poptrie_t *t, const prefix_t *prefix) noexcept nogil:
    cdef prefix_t before = prefix[0]
    cdef int hop = rib_set(&t.rib, prefix)
    t.change.kind = CHANGE_NONE
    if hop < 0:
        return -1
    if prefix.length == 0:
        t.fallback = prefix.hop
    if prepare(t, prefix) == 0:
        return hop
    t.leaking = True
    before.hop = <uint16_t> hop
    if hop:
        rib_set(&t.rib, &before)
    else:
        rib_remove(&t.rib, &before)
    return -1


cdef int poptrie_unset(poptrie_t *t, const prefix_t *key) noexcept nogil:
    cdef prefix_t before = key[0]
    before.hop = rib_remove(&t.rib, key)
    t.change.kind = CHANGE_NONE
    if before.hop and key.length == 0:
        t.fallback = 0
    if before.hop == 0 or prepare(t, key) == 0:
        return before.hop
    t.leaking = True
    rib_set(&t.rib, &before)                 # there is room where it was, unless its chunk went
    return -1


cdef int poptrie_load(poptrie_t *t, const uint8_t *entries, uint64_t n) noexcept nogil:
    cdef prefix_t p
    cdef uint64_t i
    for i in range(n):
        rib_unpack(&t.rib, entries + i * t.rib.entry_bytes, &p)
        if p.length == 0:
            t.fallback = p.hop
        if rib_set(&t.rib, &p) < 0:
            return -1
    return poptrie_rebuild(t)


cdef void poptrie_commit(poptrie_t *t) noexcept nogil:
    cdef change_t *c = &t.change
    cdef poptrie_node_t node
    cdef uint32_t i, value
    if c.kind == CHANGE_DIRECT:
        for i in range(c.n):
            value = t.direct[c.first + i]
            t.direct[c.first + i] = c.values[i]
            c.values[i] = value
    elif c.kind == CHANGE_NODE:
        node = nodes_of(t)[c.first]
        nodes_of(t)[c.first] = c.node
        c.node = node
    t.retired = t.view
    t.view.direct = t.direct
    t.view.nodes = nodes_of(t)
    t.view.leaves = <uint16_t *> t.leaves.memory
    t.view.fallback = t.fallback


cdef void poptrie_reclaim(poptrie_t *t) noexcept nogil:
    cdef change_t *c = &t.change
    cdef uint32_t i
    if t.retired.direct != t.view.direct:
        free(<void *> t.retired.direct)
    if t.retired.nodes != t.view.nodes:
        free(<void *> t.retired.nodes)
    if t.retired.leaves != t.view.leaves:
        free(<void *> t.retired.leaves)
    if c.kind == CHANGE_DIRECT:
        for i in range(c.n):
            if c.values[i] & POPTRIE_NODE:
                give_below(t, &nodes_of(t)[c.values[i] & ~POPTRIE_NODE])
                arena_give(&t.nodes, c.values[i] & ~POPTRIE_NODE, 1)
        free(c.values)
    elif c.kind == CHANGE_NODE:
        give_below(t, &c.node)
    c.kind = CHANGE_NONE


cdef void poptrie_init(poptrie_t *t, uint32_t width) noexcept nogil:
    memset(t, 0, sizeof(poptrie_t))
    rib_init(&t.rib, width)
    arena_init(&t.nodes, sizeof(poptrie_node_t))
    arena_init(&t.leaves, sizeof(uint16_t))
    t.view.popcnt = poptrie_has_popcnt()


cdef void poptrie_free(poptrie_t *t) noexcept nogil:
    poptrie_commit(t)
    poptrie_reclaim(t)
    rib_free(&t.rib)
    free(t.direct)
    free(t.nodes.memory)
    free(t.leaves.memory)
    memset(&t.view, 0, sizeof(t.view))


cdef bint poptrie_wasteful(const poptrie_t *t) noexcept nogil:
    cdef uint64_t used = <uint64_t> t.nodes.used * t.nodes.item_bytes + <uint64_t> t.leaves.used * t.leaves.item_bytes
    cdef uint64_t gaps = t.nodes.free_items * t.nodes.item_bytes + t.leaves.free_items * t.leaves.item_bytes
    return t.leaking or (gaps > WASTE_MIN and gaps > used // 4)


cdef uint64_t poptrie_memory(const poptrie_t *t) noexcept nogil:
    cdef uint64_t direct = DIRECT * sizeof(uint32_t) if t.direct != NULL else 0
    return direct + <uint64_t> t.nodes.room * t.nodes.item_bytes + <uint64_t> t.leaves.room * t.leaves.item_bytes
