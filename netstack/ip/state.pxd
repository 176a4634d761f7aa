"""An interface's state as bytes and back: what a snapshot of a stack holds of it.

Addresses, link and callbacks are not part of it: they are set up first, from the configuration. Times are kept as
what remains, so a state may be restored under another clock.
"""

from libc.stdint cimport int64_t, uint32_t

from netstack.ip.groups cimport filter_t
from netstack.ip.interface cimport interface_t
from netstack.ip.reassembly cimport reassembly_t
from netstack.ip.shared cimport ip_t


cdef bytes interface_save(const interface_t *ifc, int64_t now_ns)
# Into an initialised interface without neighbours. ValueError for bytes that are no such state.
cdef int interface_restore(interface_t *ifc, bytes data, int64_t now_ns) except -1

# Datagrams of which pieces wait; interfaces by their index.
cdef bytes fragments_save(const reassembly_t *r, int64_t now_ns)
cdef int fragments_restore(reassembly_t *r, bytes data, int64_t now_ns, interface_t **interfaces,
                           uint32_t interface_count) except -1
# Which hosts have had how many errors of late.
cdef bytes limits_save(const ip_t *ip, int64_t now_ns)
cdef int limits_restore(ip_t *ip, bytes data, int64_t now_ns) except -1
# Which sources of a group are heard; restore returns where what follows begins.
cdef bytes filter_save(const filter_t *f)
cdef Py_ssize_t filter_restore(filter_t *f, bytes data, Py_ssize_t at) except -1
cdef int64_t remaining(int64_t t_ns, int64_t now_ns) noexcept
cdef int64_t absolute(int64_t distance_ns, int64_t now_ns) noexcept
