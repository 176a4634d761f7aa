# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A sorted array in chunks; see ``rib.pxd``."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from netstack.wire.byte_order cimport load_be32, load_be64, store_be32, store_be64

cdef enum:
    CHUNK = 128          # entries
    MALLOC = 16          # bytes that an allocation costs beside its own


cdef void rib_init(rib_t *rib, uint32_t width) noexcept nogil:
    memset(rib, 0, sizeof(rib_t))
    rib.width = width
    rib.entry_bytes = width + 4


cdef void rib_free(rib_t *rib) noexcept nogil:
    cdef uint32_t i
    for i in range(rib.n_chunks):
        free(rib.chunks[i].entries)
    free(rib.chunks)
    rib_init(rib, rib.width)


# ---- entries

cdef inline void load(const rib_t *rib, const uint8_t *entry, prefix_t *out) noexcept nogil:
    if rib.width == 4:
        out.hi = <uint64_t> load_be32(entry) << 32
        out.lo = 0
    else:
        out.hi = load_be64(entry)
        out.lo = load_be64(entry + 8)
    out.length = entry[rib.width]
    memcpy(&out.hop, entry + rib.width + 2, 2)


cdef void rib_unpack(const rib_t *rib, const uint8_t *entry, prefix_t *out) noexcept nogil:
    load(rib, entry, out)


cdef inline void store(const rib_t *rib, uint8_t *entry, const prefix_t *p) noexcept nogil:
    if rib.width == 4:
        store_be32(entry, <uint32_t> (p.hi >> 32))
    else:
        store_be64(entry, p.hi)
        store_be64(entry + 8, p.lo)
    entry[rib.width] = <uint8_t> p.length
    entry[rib.width + 1] = 0
    memcpy(entry + rib.width + 2, &p.hop, 2)


cdef inline bint before(const rib_t *rib, const uint8_t *entry, const prefix_t *key) noexcept nogil:
    cdef prefix_t p
    load(rib, entry, &p)
    if p.hi != key.hi:
        return p.hi < key.hi
    if p.lo != key.lo:
        return p.lo < key.lo
    return p.length < key.length


# ---- finding

cdef place_t rib_lower(const rib_t *rib, const prefix_t *key) noexcept nogil:
    cdef place_t place
    cdef uint32_t low = 0, high = rib.n_chunks, middle
    cdef const chunk_t *chunk
    while low < high:                        # how many chunks begin before the key
        middle = (low + high) // 2
        if before(rib, rib.chunks[middle].entries, key):
            low = middle + 1
        else:
            high = middle
    place.chunk = low
    place.at = 0
    if low == 0:
        return place
    chunk = &rib.chunks[low - 1]
    low, high = 1, chunk.count
    while low < high:
        middle = (low + high) // 2
        if before(rib, chunk.entries + middle * rib.entry_bytes, key):
            low = middle + 1
        else:
            high = middle
    if low < chunk.count:
        place.chunk -= 1
        place.at = low
    return place


cdef bint rib_next(const rib_t *rib, place_t *place, prefix_t *out) noexcept nogil:
    if place.chunk == rib.n_chunks:
        return False
    load(rib, rib.chunks[place.chunk].entries + place.at * rib.entry_bytes, out)
    place.at += 1
    if place.at == rib.chunks[place.chunk].count:
        place.chunk += 1
        place.at = 0
    return True


cdef uint16_t rib_find(const rib_t *rib, const prefix_t *key) noexcept nogil:
    cdef place_t place = rib_lower(rib, key)
    cdef prefix_t p
    if rib_next(rib, &place, &p) and p.hi == key.hi and p.lo == key.lo and p.length == key.length:
        return p.hop
    return 0


cdef uint16_t rib_covering(const rib_t *rib, const prefix_t *key, uint32_t longest) noexcept nogil:
    cdef prefix_t p = key[0]
    cdef uint16_t hop
    cdef uint32_t length = longest
    while length:
        if rib.lengths[length]:
            prefix_mask(&p, length)
            hop = rib_find(rib, &p)
            if hop:
                return hop
        length -= 1
    return 0


# ---- changing

cdef int insert_chunk(rib_t *rib, uint32_t at) noexcept nogil:
    """Room for a chunk at this index, with memory for its entries."""
    cdef chunk_t *chunks
    cdef uint32_t capacity
    cdef uint8_t *entries
    if rib.n_chunks == rib.capacity:
        capacity = rib.capacity + rib.capacity // 8 + 8
        chunks = <chunk_t *> realloc(rib.chunks, capacity * sizeof(chunk_t))
        if chunks == NULL:
            return -1
        rib.chunks = chunks
        rib.capacity = capacity
    entries = <uint8_t *> malloc(CHUNK * rib.entry_bytes)
    if entries == NULL:
        return -1
    memmove(&rib.chunks[at + 1], &rib.chunks[at], (rib.n_chunks - at) * sizeof(chunk_t))
    rib.chunks[at].entries = entries
    rib.chunks[at].count = 0
    rib.n_chunks += 1
    return 0


cdef void remove_chunk(rib_t *rib, uint32_t at) noexcept nogil:
    free(rib.chunks[at].entries)
    rib.n_chunks -= 1
    memmove(&rib.chunks[at], &rib.chunks[at + 1], (rib.n_chunks - at) * sizeof(chunk_t))


cdef int rib_set(rib_t *rib, const prefix_t *prefix) noexcept nogil:
    cdef place_t place = rib_lower(rib, prefix)
    cdef place_t following = place
    cdef prefix_t p
    cdef chunk_t *chunk
    cdef uint32_t half, size = rib.entry_bytes
    if rib_next(rib, &following, &p) and p.hi == prefix.hi and p.lo == prefix.lo and p.length == prefix.length:
        store(rib, rib.chunks[place.chunk].entries + place.at * size, prefix)
        return p.hop
    if place.at == 0 and place.chunk:        # before a chunk is behind the one before it
        place.chunk -= 1
        place.at = rib.chunks[place.chunk].count
    if rib.n_chunks == 0 and insert_chunk(rib, 0) != 0:
        return -1
    if rib.chunks[place.chunk].count == CHUNK:
        if insert_chunk(rib, place.chunk + 1) != 0:
            return -1
        chunk = &rib.chunks[place.chunk]
        # What comes in order begins a new chunk, so that a sorted load fills them all.
        half = CHUNK if place.at == CHUNK else CHUNK // 2
        memcpy(chunk[1].entries, chunk.entries + half * size, (CHUNK - half) * size)
        chunk[1].count = CHUNK - half
        chunk.count = half
        if place.at >= half:
            place.chunk += 1
            place.at -= half
    chunk = &rib.chunks[place.chunk]
    memmove(chunk.entries + (place.at + 1) * size, chunk.entries + place.at * size, (chunk.count - place.at) * size)
    store(rib, chunk.entries + place.at * size, prefix)
    chunk.count += 1
    rib.count += 1
    rib.lengths[prefix.length] += 1
    return 0


cdef void merge(rib_t *rib, uint32_t at) noexcept nogil:
    """Join a chunk with the one behind it if both are half empty together."""
    cdef chunk_t *chunk
    if at + 1 >= rib.n_chunks:
        return
    chunk = &rib.chunks[at]
    if chunk.count + chunk[1].count > CHUNK // 2:
        return
    memcpy(chunk.entries + chunk.count * rib.entry_bytes, chunk[1].entries, chunk[1].count * rib.entry_bytes)
    chunk.count += chunk[1].count
    remove_chunk(rib, at + 1)


cdef uint16_t rib_remove(rib_t *rib, const prefix_t *key) noexcept nogil:
    cdef place_t place = rib_lower(rib, key)
    cdef place_t following = place
    cdef prefix_t p
    cdef chunk_t *chunk
    cdef uint32_t size = rib.entry_bytes
    if not rib_next(rib, &following, &p) or p.hi != key.hi or p.lo != key.lo or p.length != key.length:
        return 0
    chunk = &rib.chunks[place.chunk]
    chunk.count -= 1
    memmove(chunk.entries + place.at * size, chunk.entries + (place.at + 1) * size, (chunk.count - place.at) * size)
    rib.count -= 1
    rib.lengths[p.length] -= 1
    if chunk.count == 0:
        remove_chunk(rib, place.chunk)
    else:
        merge(rib, place.chunk)
        if place.chunk:
            merge(rib, place.chunk - 1)
    return p.hop


cdef uint64_t rib_memory(const rib_t *rib) noexcept nogil:
    return <uint64_t> rib.n_chunks * (CHUNK * rib.entry_bytes + MALLOC) + rib.capacity * sizeof(chunk_t)
