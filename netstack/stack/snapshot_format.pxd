"""Structures into bytes and back, field by field."""

from libc.stdint cimport int64_t

cdef enum:
    MAX_RECORDS = 1 << 22
    MAX_DATA = 1 << 30           # bytes of one buffer


cdef class Reader:
    cdef bytes data
    cdef Py_ssize_t at

    cdef bytes take(self, Py_ssize_t n)         # raises SnapshotError where there are not as many
    cdef object number(self, str form)          # of one form of `struct`


cdef bytes pack(str table, const void *p)
cdef dict field_sizes()                         # for the header: structure -> [[name, size]]
cdef dict plans_of(dict header)                 # structure -> what `unpack` is to do
cdef object unpack(Reader reader, list plan, void *p, int64_t shift)
cdef object need(bint ok)                       # raises MemoryError
