# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A table of prefixes for Python: the router's own structure by itself, for measurements, experiments and tests."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcmp

import ipaddress

from netstack.router.poptrie cimport (
    poptrie_answer, poptrie_commit, poptrie_free, poptrie_init, poptrie_load, poptrie_memory, poptrie_rebuild, poptrie_reclaim,
    poptrie_set, poptrie_unset, poptrie_wasteful,
)
from netstack.router.rib cimport place_t, prefix_mask, prefix_t, rib_find, rib_lower, rib_memory, rib_next
from netstack.wire.byte_order cimport load_be32, load_be64, store_be32, store_be64


cdef int prefix_parse(object network, int version, prefix_t *out) except -1:
    """A prefix from a network, its text, or an address (all of its bits).

    Raises
    ------
    ValueError
        Bits beyond the length are set, or it is of the other version.
    """
    cdef bytes packed
    cdef const uint8_t *raw
    if isinstance(network, str):
        network = ipaddress.ip_network(network)
    if network.version != version:
        raise ValueError(f"{network} is not of version {version}")
    packed = network.network_address.packed if hasattr(network, "prefixlen") else network.packed
    raw = <const uint8_t *> PyBytes_AS_STRING(packed)
    out.length = getattr(network, "prefixlen", network.max_prefixlen)
    out.hop = 0
    if version == 4:
        out.hi = <uint64_t> load_be32(raw) << 32
        out.lo = 0
    else:
        out.hi = load_be64(raw)
        out.lo = load_be64(raw + 8)
    return 0


cdef object prefix_network(const prefix_t *p, int version):
    """The network."""
    cdef uint8_t raw[16]
    if version == 4:
        store_be32(raw, <uint32_t> (p.hi >> 32))
        return ipaddress.IPv4Network((<bytes> raw[:4], p.length))
    store_be64(raw, p.hi)
    store_be64(raw + 8, p.lo)
    return ipaddress.IPv6Network((<bytes> raw[:16], p.length))


cdef int compare4(const void *a, const void *b) noexcept nogil:
    return memcmp(a, b, 5)


cdef int compare6(const void *a, const void *b) noexcept nogil:
    return memcmp(a, b, 17)


cdef bytes sorted_entries(object entries, int version):
    """Packed entries in order, checked.

    Raises
    ------
    ValueError
        A prefix with bits beyond its length, a length that cannot be, no answer, or the same prefix twice.
    """
    cdef bytes out = bytes(memoryview(entries))
    cdef uint8_t *raw = <uint8_t *> PyBytes_AS_STRING(out)       # ours alone: nobody has seen the copy
    cdef size_t width = 4 if version == 4 else 16, size = width + 4, n = len(out) // size, i
    cdef prefix_t p, masked
    cdef uint16_t hop
    if len(out) % size:
        raise ValueError(f"entries of {size} bytes each, not {len(out)} together")
    with nogil:
        qsort(raw, n, size, compare4 if version == 4 else compare6)
    for i in range(n):
        p.hi = <uint64_t> load_be32(raw + i * size) << 32 if version == 4 else load_be64(raw + i * size)
        p.lo = 0 if version == 4 else load_be64(raw + i * size + 8)
        p.length = raw[i * size + width]
        hop = (<uint16_t *> (raw + i * size + width + 2))[0]
        if p.length > width * 8 or hop == 0:
            raise ValueError(f"entry of length {p.length} and answer {hop}: at most {width * 8} bits, and not 0")
        masked = p
        prefix_mask(&masked, p.length)
        if masked.hi != p.hi or masked.lo != p.lo:
            raise ValueError(f"an entry of length {p.length} has bits set beyond it: {prefix_network(&masked, version)}?")
        if i and memcmp(raw + i * size, raw + (i - 1) * size, width + 1) == 0:
            raise ValueError(f"{prefix_network(&p, version)} twice")
    return out


cdef class PrefixTable:
    """Longest-prefix match for one IP version.

    Parameters
    ----------
    version : {4, 6}
    portable : bool
        Do without the machine's instruction that counts bits.
    """

    def __cinit__(self, int version=4, *, bint portable=False):
        if version not in (4, 6):
            raise ValueError(f"IP version {version}: 4 or 6")
        self.version = version
        poptrie_init(&self.table, 4 if version == 4 else 16)
        if portable:
            self.table.view.popcnt = 0

    def __dealloc__(self):
        poptrie_free(&self.table)

    cdef void settle(self) noexcept nogil:
        poptrie_commit(&self.table)
        poptrie_reclaim(&self.table)
        if poptrie_wasteful(&self.table) and poptrie_rebuild(&self.table) == 0:
            poptrie_commit(&self.table)
            poptrie_reclaim(&self.table)

    def set(self, network, uint16_t hop):
        """Add a prefix or change its answer (1 to 65,535); returns the answer before, 0 if it is new."""
        cdef prefix_t p
        prefix_parse(network, self.version, &p)
        if hop == 0:
            raise ValueError("the answer 0 is that of no prefix")
        p.hop = hop
        before = poptrie_set(&self.table, &p)
        if before < 0:
            raise MemoryError
        self.settle()
        return before

    def remove(self, network):
        """Remove a prefix; returns its answer.

        Raises
        ------
        KeyError
            It is not there.
        """
        cdef prefix_t p
        prefix_parse(network, self.version, &p)
        before = poptrie_unset(&self.table, &p)
        if before < 0:
            raise MemoryError
        if before == 0:
            raise KeyError(f"{network} is not in the table")
        self.settle()
        return before

    def load(self, entries):
        """Add many prefixes at once.

        Parameters
        ----------
        entries : buffer
            Of 8 bytes each (IPv6: 20), in any order: the address in network order, the length, a zero, and the answer in
            two bytes of the machine's order.

        Raises
        ------
        ValueError
            An entry that is none, is there twice, or is in the table.
        """
        cdef bytes packed = sorted_entries(entries, self.version)
        cdef const uint8_t *raw = <const uint8_t *> PyBytes_AS_STRING(packed)
        cdef size_t n = len(packed) // (8 if self.version == 4 else 20)
        cdef int status
        if len(self):
            raise ValueError("a table that has prefixes is not loaded again")
        with nogil:
            status = poptrie_load(&self.table, raw, n)
            if status == 0:
                self.settle()
        if status != 0:
            raise MemoryError

    def get(self, network):
        """The answer of exactly this prefix, 0 without one."""
        cdef prefix_t p
        prefix_parse(network, self.version, &p)
        return rib_find(&self.table.rib, &p)

    def find(self, address):
        """The answer of the longest prefix that has an address in it, 0 without one."""
        cdef prefix_t p
        prefix_parse(ipaddress.ip_address(address), self.version, &p)
        return poptrie_answer(&self.table, p.hi, p.lo)

    def find_many(self, addresses, hops):
        """The answers for many addresses, packed in network order, into a buffer of two bytes each."""
        cdef Py_buffer source, target
        cdef const uint8_t *a
        cdef uint16_t *out
        cdef Py_ssize_t i, n
        cdef int width = 4 if self.version == 4 else 16
        PyObject_GetBuffer(addresses, &source, PyBUF_SIMPLE)
        try:
            PyObject_GetBuffer(hops, &target, PyBUF_WRITABLE)
            try:
                n = source.len // width
                if source.len % width or target.len < 2 * n:
                    raise ValueError(f"{source.len} bytes of addresses, {target.len} bytes for answers")
                a = <const uint8_t *> source.buf
                out = <uint16_t *> target.buf
                with nogil:
                    if width == 4:
                        for i in range(n):
                            out[i] = poptrie_answer(&self.table, <uint64_t> load_be32(a + 4 * i) << 32, 0)
                    else:
                        for i in range(n):
                            out[i] = poptrie_answer(&self.table, load_be64(a + 16 * i), load_be64(a + 16 * i + 8))
            finally:
                PyBuffer_Release(&target)
        finally:
            PyBuffer_Release(&source)

    def items(self, after=None):
        """Prefixes with their answers, by address and then by length; only those behind `after`. The table may change
        meanwhile."""
        cdef prefix_t p, key
        cdef place_t place
        cdef bint more
        if after is None:
            key.hi = key.lo = 0
            key.length = 0
        else:
            prefix_parse(after, self.version, &key)
            key.length += 1
        while True:
            place = rib_lower(&self.table.rib, &key)
            more = rib_next(&self.table.rib, &place, &p)
            if not more:
                return
            yield prefix_network(&p, self.version), p.hop
            key = p
            key.length += 1

    def memory(self):
        """Bytes of what lookups read (``lookup``) and of all prefixes in order, which changes need (``prefixes``)."""
        return {"lookup": poptrie_memory(&self.table), "prefixes": rib_memory(&self.table.rib)}

    def __len__(self):
        return self.table.rib.count
