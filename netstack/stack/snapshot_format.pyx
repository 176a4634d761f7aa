"""Structures into bytes and back, field by field, as the tables say."""

import struct

from libc.stdint cimport int64_t
from libc.string cimport memcpy

from netstack.stack.snapshot_fields cimport tables

from netstack.errors import SnapshotError

cdef dict TABLES = tables()


cdef bytes pack(str table, const void *p):
    """The fields of a structure one behind the other."""
    cdef list out = []
    for _, offset, size, _ in TABLES[table]:
        out.append((<const char *> p)[<size_t> offset:<size_t> offset + <size_t> size])
    return b"".join(out)


cdef dict field_sizes():
    return {table: [[name, size] for name, _, size, _ in fields] for table, fields in TABLES.items()}


cdef class Reader:
    """Bytes of a snapshot, never read past their end."""

    def __init__(self, bytes data):
        self.data = data
        self.at = 0

    cdef bytes take(self, Py_ssize_t n):
        cdef bytes out
        if n < 0 or n > len(self.data) - self.at:
            raise SnapshotError("the snapshot ends too early")
        out = self.data[self.at:self.at + n]
        self.at += n
        return out

    cdef object number(self, str form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]


cdef object unpack(Reader reader, list plan, void *p, int64_t shift):
    """Read fields as *plan* says: (offset or -1, size, is it a time). Times move by *shift*."""
    cdef bytes raw
    cdef int64_t t
    for offset, size, is_time in plan:
        raw = reader.take(size)
        if offset < 0:
            continue
        memcpy(<char *> p + <size_t> offset, <const char *> raw, <size_t> size)
        if is_time:
            memcpy(&t, <const char *> raw, 8)
            if t:
                t += shift
                if t == 0:
                    t = 1
                memcpy(<char *> p + <size_t> offset, &t, 8)


cdef dict plans_of(dict header):
    """How to read each structure of this snapshot into ours, by the names both know."""
    out = {}
    for table, fields in TABLES.items():
        ours = {name: (offset, size, is_time) for name, offset, size, is_time in fields}
        plan = []
        for name, size in header["fields"][table]:
            known = ours.get(name)
            if known is None:
                plan.append((-1, size, False))
            elif known[1] != size:
                raise SnapshotError(f"field {table}.{name} has {size} bytes in the snapshot and {known[1]} here")
            else:
                plan.append(known)
        out[table] = plan
    return out


cdef object need(bint ok):
    if not ok:
        raise MemoryError("no memory to restore the snapshot")
