"""The algorithms this build has, by the names that TCP_CONGESTION takes."""

from libc.string cimport strcmp

from netstack.tcp.congestion.reno cimport reno_ops


cdef const congestion_ops_t *congestion_find(const char *name) noexcept nogil:
    if strcmp(name, b"reno") == 0:
        return &reno_ops
    return NULL


cdef const congestion_ops_t *congestion_default() noexcept nogil:
    return &reno_ops
