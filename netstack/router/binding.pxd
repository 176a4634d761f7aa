"""Whose an address is, as control changes it."""

from libc.stdint cimport uint32_t

from netstack.router.port cimport port_t
from netstack.router.state cimport forwarder_t
from netstack.router.table cimport entry_t


cdef entry_t *address_change(forwarder_t *f, object address, uint32_t state) except NULL     # under the lock
cdef int address_bind_local(forwarder_t *f, object address) except -1
cdef int address_bind(forwarder_t *f, port_t *port, object address, uint32_t epoch, bint commit) except -1
cdef int address_set_state(forwarder_t *f, object address, str state) except -1
cdef int address_hold(forwarder_t *f, object address, uint32_t epoch) except -1
cdef int address_forget(forwarder_t *f, object address) except -1
cdef dict address_entries(forwarder_t *f)
