"""Life of the settings of a connection: counted, copied when one of several that share them is to be written."""

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy


cdef settings_t *settings_own(tcb_t *tcb) noexcept nogil:
    cdef settings_t *own
    if tcb.settings.users == 1:
        return tcb.settings
    own = <settings_t *> malloc(sizeof(settings_t))
    if own == NULL:
        return NULL
    memcpy(own, tcb.settings, sizeof(settings_t))
    settings_release(tcb)
    own.users = 1
    tcb.settings = own
    return own


cdef void settings_share(tcb_t *tcb, const tcb_t *other) noexcept nogil:
    tcb.settings = other.settings
    if tcb.settings.users:
        tcb.settings.users += 1


cdef void settings_release(tcb_t *tcb) noexcept nogil:
    cdef settings_t *settings = tcb.settings
    tcb.settings = &tcb.tcp.defaults
    if settings.users:                     # the defaults have none: nobody counts them
        settings.users -= 1
        if settings.users == 0:
            free(settings)
