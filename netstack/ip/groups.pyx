# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Sets of sources, and how a group's filter becomes another one (RFC 3376 section 5.1, RFC 3810 section 6.1)."""

from netstack.address cimport address_equal


cdef bint set_has(const source_set_t *s, const address_t *a) noexcept nogil:
    cdef uint32_t i
    for i in range(s.count):
        if address_equal(&s.sources[i], a):
            return True
    return False


cdef void set_add(source_set_t *s, const address_t *a) noexcept nogil:
    if s.count < <uint32_t> GROUP_SOURCES and not set_has(s, a):
        s.sources[s.count] = a[0]
        s.count += 1


cdef void set_take(source_set_t *s, const address_t *a) noexcept nogil:
    cdef uint32_t i
    for i in range(s.count):
        if address_equal(&s.sources[i], a):
            s.count -= 1
            s.sources[i] = s.sources[s.count]
            return


cdef bint set_equal(const source_set_t *a, const source_set_t *b) noexcept nogil:
    cdef uint32_t i
    for i in range(a.count):
        if not set_has(b, &a.sources[i]):
            return False
    return a.count == b.count


cdef void note_changes(filter_t *f, const source_set_t *sources) noexcept nogil:
    """The mode stays: which sources come and go."""
    cdef uint32_t i
    for i in range(sources.count):
        if not set_has(&f.sources, &sources.sources[i]):
            set_take(&f.allow if f.exclude else &f.block, &sources.sources[i])
            set_add(&f.block if f.exclude else &f.allow, &sources.sources[i])
    for i in range(f.sources.count):
        if not set_has(sources, &f.sources.sources[i]):
            set_take(&f.block if f.exclude else &f.allow, &f.sources.sources[i])
            set_add(&f.allow if f.exclude else &f.block, &f.sources.sources[i])


cdef bint filter_change(filter_t *f, bint exclude, const source_set_t *sources) noexcept nogil:
    if f.exclude == exclude and set_equal(&f.sources, sources):
        return False
    if f.exclude != exclude:
        f.mode_changed = 1
        f.allow.count = f.block.count = 0
    elif not f.mode_changed:
        note_changes(f, sources)
    f.exclude = exclude
    f.sources = sources[0]
    return True


cdef void filter_reported(filter_t *f) noexcept nogil:
    f.mode_changed = 0
    f.allow.count = f.block.count = 0


cdef void filter_answer(filter_t *f, source_set_t *heard) noexcept nogil:
    cdef uint32_t i
    heard.count = 0
    for i in range(f.asked.count):
        if set_has(&f.sources, &f.asked.sources[i]) != (f.exclude != 0):
            set_add(heard, &f.asked.sources[i])
    f.asked.count = 0
