/* Longest-prefix match by a compressed trie: the reader's half.
 *
 * After the idea of Poptrie (Asai and Ohara, SIGCOMM 2015). The first 18 bits of an address index an array; what
 * stands there is either the answer or the number of a node. A node takes six bits more: a bit of `vector` says that
 * there is a child node for those bits, otherwise a leaf, and a count of bits says which, since all children of a
 * node lie side by side, and so do its leaves. A leaf that equals the one before it is left out (`leafvec`).
 * Nodes of 24 bytes and leaves of two keep a million prefixes within the caches.
 *
 * Readers and the writer (netstack/router/poptrie.pyx) are kept apart by the caller's lock. No Python.h.
 */
#ifndef NETSTACK_POPTRIE_H
#define NETSTACK_POPTRIE_H

#include <stdint.h>

#define POPTRIE_DIRECT_BITS 18
#define POPTRIE_STRIDE 6
#define POPTRIE_NODE 0x80000000u /* in the array: the rest is a node's number, not an answer */

typedef struct poptrie_node {
    uint64_t vector;  /* bit i: the next six bits being i, a child node goes on */
    uint64_t leafvec; /* bit i: a leaf begins at i, and holds up to the next one */
    uint32_t base0;   /* the first leaf */
    uint32_t base1;   /* the first child */
} poptrie_node_t;

typedef struct poptrie_view {
    const uint32_t *direct; /* NULL: empty but for `fallback` */
    const poptrie_node_t *nodes;
    const uint16_t *leaves;
    uint16_t fallback; /* the answer of the prefix of length 0; 0: none */
    uint16_t popcnt;   /* the machine counts bits in one instruction */
} poptrie_view_t;

/* The answer of the longest prefix of an address, 0 without one. The address as a number of 128 bits, most
 * significant first; IPv4 stands in the upper 32. */
static inline __attribute__((always_inline)) uint16_t poptrie_walk_(const poptrie_view_t *v, uint64_t hi, uint64_t lo)
{
    if (v->direct == 0)
        return v->fallback;
    uint32_t at = v->direct[hi >> (64 - POPTRIE_DIRECT_BITS)];
    if (!(at & POPTRIE_NODE))
        return at ? (uint16_t)at : v->fallback;
    hi = hi << POPTRIE_DIRECT_BITS | lo >> (64 - POPTRIE_DIRECT_BITS);
    lo <<= POPTRIE_DIRECT_BITS;
    at &= ~POPTRIE_NODE;
    for (;;) {
        const poptrie_node_t *node = &v->nodes[at];
        unsigned slot = (unsigned)(hi >> (64 - POPTRIE_STRIDE));
        uint64_t upto = ((uint64_t)2 << slot) - 1; /* bits 0..slot; all for 63 */
        if (!(node->vector >> slot & 1)) {
            uint16_t leaf = v->leaves[node->base0 + (uint32_t)__builtin_popcountll(node->leafvec & upto) - 1];
            return leaf ? leaf : v->fallback;
        }
        at = node->base1 + (uint32_t)__builtin_popcountll(node->vector & upto) - 1;
        hi = hi << POPTRIE_STRIDE | lo >> (64 - POPTRIE_STRIDE);
        lo <<= POPTRIE_STRIDE;
    }
}

static inline uint16_t poptrie_find_portable(const poptrie_view_t *v, uint64_t hi, uint64_t lo)
{
    return poptrie_walk_(v, hi, lo);
}

#if defined(__x86_64__)
__attribute__((target("popcnt"))) static inline uint16_t poptrie_find_popcnt_(const poptrie_view_t *v, uint64_t hi,
                                                                              uint64_t lo)
{
    return poptrie_walk_(v, hi, lo);
}

static inline uint16_t poptrie_has_popcnt(void) { return __builtin_cpu_supports("popcnt") != 0; }

static inline uint16_t poptrie_find(const poptrie_view_t *v, uint64_t hi, uint64_t lo)
{
    return v->popcnt ? poptrie_find_popcnt_(v, hi, lo) : poptrie_find_portable(v, hi, lo);
}
#else
static inline uint16_t poptrie_has_popcnt(void) { return 1; } /* or what the compiler makes of it */

static inline uint16_t poptrie_find(const poptrie_view_t *v, uint64_t hi, uint64_t lo)
{
    return poptrie_find_portable(v, hi, lo);
}
#endif

#endif
