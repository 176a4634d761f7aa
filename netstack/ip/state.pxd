"""An interface's state as bytes and back: what a snapshot of a stack holds of it.

Addresses, link and callbacks are not part of it: they are set up first, from the configuration. Times are kept as
what remains, so a state may be restored under another clock.
"""

from libc.stdint cimport int64_t

from netstack.ip.interface cimport interface_t


cdef bytes interface_save(const interface_t *ifc, int64_t now_ns)
# Into an initialised interface without neighbours. ValueError for bytes that are no such state.
cdef int interface_restore(interface_t *ifc, bytes data, int64_t now_ns) except -1
