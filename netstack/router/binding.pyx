# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Whose an address is: control's half of ``table``. What each call means says `Forwarder`, whose methods they are."""

from libc.stdint cimport uint32_t, uint64_t

from netstack.address cimport address_equal, address_format, address_parse, address_t
from netstack.errors import ConfigError
from netstack.router.port cimport MAX_PORT_ADDRESSES, port_t
from netstack.router.state cimport enter, forwarder_t, leave
from netstack.router.table cimport (
    ENTRY_ACTIVE, ENTRY_COMMIT, ENTRY_DEAD, ENTRY_HOLD, ENTRY_LOCAL, ENTRY_SHARED, entry_t, table_find, table_insert,
    table_remove,
)


cdef entry_t *address_change(forwarder_t *f, object address, uint32_t state) except NULL:
    """Under the lock: the entry of an address in a new state, without a port."""
    cdef address_t a
    cdef entry_t *e
    address_parse(address, &a)
    e = table_insert(&f.table, &a)
    if e == NULL:
        raise MemoryError
    e.port = NULL
    e.state = state
    return e


cdef int address_bind_local(forwarder_t *f, object address) except -1:
    with nogil:
        enter(f)
    try:
        address_change(f, address, ENTRY_LOCAL)
    finally:
        leave(f)
    return 0


cdef int address_bind(forwarder_t *f, port_t *port, object address, uint32_t epoch, bint commit) except -1:
    cdef port_t *before
    cdef address_t a
    cdef entry_t *e
    cdef int i
    address_parse(address, &a)
    if port.n_addresses == MAX_PORT_ADDRESSES:
        raise ConfigError(f"an attachment has at most {MAX_PORT_ADDRESSES} addresses")
    with nogil:
        enter(f)
    try:
        e = table_find(&f.table, &a)
        before = <port_t *> e.port if e != NULL else NULL
        if before != NULL and before != port:
            for i in range(before.n_addresses):
                if address_equal(&before.addresses[i], &a):
                    before.epochs[i] = 0
        e = address_change(f, address, ENTRY_COMMIT if commit else ENTRY_ACTIVE)
        e.port = port
        e.epoch = epoch
        for i in range(port.n_addresses):
            if address_equal(&port.addresses[i], &a):
                break
        else:
            i = port.n_addresses
            port.n_addresses += 1
        port.addresses[i] = a
        port.epochs[i] = epoch
    finally:
        leave(f)
    return 0


cdef int address_set_state(forwarder_t *f, object address, str state) except -1:
    cdef address_t a
    cdef entry_t *e
    cdef dict states = {"dead": ENTRY_DEAD, "hold": ENTRY_HOLD, "commit": ENTRY_COMMIT, "active": ENTRY_ACTIVE}
    cdef uint32_t wanted = states[state]
    address_parse(address, &a)
    with nogil:
        enter(f)
    try:
        e = table_find(&f.table, &a)
        if e == NULL:
            raise KeyError(f"{address_format(&a)} is not in the table")
        if wanted in (ENTRY_ACTIVE, ENTRY_COMMIT) and e.port == NULL:
            raise ValueError(f"{address_format(&a)} has no port")
        e.state = wanted
    finally:
        leave(f)
    return 0


cdef int address_hold(forwarder_t *f, object address, uint32_t epoch) except -1:
    cdef entry_t *e
    with nogil:
        enter(f)
    try:
        e = address_change(f, address, ENTRY_HOLD)
        e.epoch = epoch
    finally:
        leave(f)
    return 0


cdef int address_forget(forwarder_t *f, object address) except -1:
    cdef address_t a
    cdef entry_t *e
    address_parse(address, &a)
    with nogil:
        enter(f)
        e = table_find(&f.table, &a)
        if e != NULL:
            table_remove(&f.table, e)
        leave(f)
    return 0


cdef dict address_entries(forwarder_t *f):
    cdef dict names = {ENTRY_ACTIVE: "active", ENTRY_LOCAL: "local", ENTRY_DEAD: "dead", ENTRY_HOLD: "hold",
                       ENTRY_COMMIT: "commit", ENTRY_SHARED: "shared"}
    cdef dict out = {}
    cdef uint64_t i
    cdef entry_t *e
    with nogil:
        enter(f)
    for i in range(f.table.mask + 1):
        e = &f.table.entries[i]
        if e.state:
            out[address_format(&e.address)] = (
                names[e.state], (<port_t *> e.port).id if e.port != NULL else None, e.epoch)
    leave(f)
    return out
