"""A forwarding table of one IP version: longest-prefix match in a compressed trie, built from all prefixes (``rib``).

Reading is ``netstack/poptrie.h``. A change happens in three steps, so that readers are held up by a few stores only:
prepare (`poptrie_set`, ...: builds aside what is new), `poptrie_commit` (under the readers' lock), `poptrie_reclaim` (no
reader sees the old any more). One writer at a time; each prepare is followed by both others.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from netstack.router.rib cimport prefix_t, rib_t

cdef extern from "netstack/poptrie.h" nogil:
    enum:
        POPTRIE_DIRECT_BITS
        POPTRIE_STRIDE
    const uint32_t POPTRIE_NODE
    ctypedef struct poptrie_node_t:
        uint64_t vector
        uint64_t leafvec
        uint32_t base0
        uint32_t base1
    ctypedef struct poptrie_view_t:
        const uint32_t *direct
        const poptrie_node_t *nodes
        const uint16_t *leaves
        uint16_t fallback
        uint16_t popcnt
    uint16_t poptrie_find(const poptrie_view_t *v, uint64_t hi, uint64_t lo)
    uint16_t poptrie_has_popcnt()


cdef enum:
    CHANGE_NONE = 0
    CHANGE_DIRECT = 1            # a range of the array
    CHANGE_NODE = 2              # one node, and with it all below
    CHANGE_ALL = 3               # other arrays


cdef struct change_t:            # prepared, not yet seen by readers; after commit: what they saw before
    int kind
    uint32_t first               # of the array; or the node
    uint32_t n
    uint32_t *values
    poptrie_node_t node


cdef struct arena_t:             # nodes or leaves, handed out in blocks of 1..64
    void *memory
    uint32_t item_bytes
    uint32_t used                # from the beginning on; item 0 is nobody's
    uint32_t room
    uint64_t free_items          # of the used ones
    uint32_t free[65]            # blocks by size, each with the number of the next in its first bytes; 0: none


cdef struct poptrie_t:
    poptrie_view_t view          # what readers look at
    poptrie_view_t retired       # what they looked at before the commit
    rib_t rib
    uint32_t *direct             # the writer's
    arena_t nodes
    arena_t leaves
    change_t change
    uint16_t fallback
    bint leaking                 # memory was short in the middle of a change: blocks are lost until all is built anew


cdef void poptrie_init(poptrie_t *t, uint32_t width) noexcept nogil        # bytes of an address: 4 or 16
cdef void poptrie_free(poptrie_t *t) noexcept nogil
# Add a prefix or change its answer: the answer before (0: it is new); -1 without memory, and nothing has changed.
cdef int poptrie_set(poptrie_t *t, const prefix_t *prefix) noexcept nogil
# Remove a prefix: its answer; 0: not there; -1 without memory, and nothing has changed.
cdef int poptrie_unset(poptrie_t *t, const prefix_t *key) noexcept nogil
# Add many, packed as `rib_unpack` reads them, sorted and none of them there: 0, or -1 without memory (some may be there).
cdef int poptrie_load(poptrie_t *t, const uint8_t *entries, uint64_t n) noexcept nogil
cdef int poptrie_rebuild(poptrie_t *t) noexcept nogil                      # everything, in arrays without gaps
cdef void poptrie_commit(poptrie_t *t) noexcept nogil
cdef void poptrie_reclaim(poptrie_t *t) noexcept nogil
cdef bint poptrie_wasteful(const poptrie_t *t) noexcept nogil              # many gaps: time for `poptrie_rebuild`
cdef uint64_t poptrie_memory(const poptrie_t *t) noexcept nogil            # of what readers look at, bytes


cdef inline uint16_t poptrie_answer(const poptrie_t *t, uint64_t hi, uint64_t lo) noexcept nogil:
    return poptrie_find(&t.view, hi, lo)
