"""Time inside is int64 nanoseconds of whatever clock the caller has; no layer reads one."""

from libc.stdint cimport int64_t

cdef extern from "<stdint.h>" nogil:
    const int64_t NEVER "INT64_MAX"          # a deadline that does not come

cdef enum:
    NS_PER_MS = 1000000
    NS_PER_S = 1000000000
