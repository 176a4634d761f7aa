"""What an application asked of a connection beyond the stack's defaults.

Most ask for nothing and share one record of zeros; those that do have their own, which the connections of a listener share
with it until either is asked for something else.
"""

from libc.stdint cimport int64_t

from netstack.clock cimport NS_PER_MS, NS_PER_S
from netstack.tcp.tcb cimport settings_t, tcb_t

cdef settings_t *settings_own(tcb_t *tcb) noexcept nogil                     # to be written; NULL: no memory
cdef void settings_share(tcb_t *tcb, const tcb_t *other) noexcept nogil      # tcb has none of its own yet
cdef void settings_release(tcb_t *tcb) noexcept nogil


cdef inline int64_t keepalive_idle_ns(const tcb_t *tcb) noexcept nogil:
    cdef int64_t s = tcb.settings.keepalive_idle_s
    return (s if s else tcb.tcp.config.keepalive_time_s) * NS_PER_S


cdef inline int64_t keepalive_interval_ns(const tcb_t *tcb) noexcept nogil:
    cdef int64_t s = tcb.settings.keepalive_interval_s
    return (s if s else tcb.tcp.config.keepalive_intvl_s) * NS_PER_S


cdef inline unsigned int keepalive_count(const tcb_t *tcb) noexcept nogil:
    cdef unsigned int n = tcb.settings.keepalive_count
    return n if n else tcb.tcp.config.keepalive_probes


cdef inline int64_t fin_timeout_ns(const tcb_t *tcb) noexcept nogil:
    """How long an orphan stays in FIN-WAIT-2."""
    cdef int64_t ms = tcb.settings.linger2_ms
    if ms < 0:
        return 0
    return (ms if ms else tcb.tcp.config.fin_timeout_ms) * NS_PER_MS
