"""What must hold between two events of a connection. Compiled in by NETSTACK_DEBUG=1, else nothing is left of it."""

from netstack.tcp.tcb cimport tcb_t, tcp_t

cdef extern from *:
    """
    #ifdef NETSTACK_DEBUG
    #define NETSTACK_CHECKED 1
    #else
    #define NETSTACK_CHECKED 0
    #endif
    """
    const bint NETSTACK_CHECKED


cdef void check_invariants(const tcb_t *tcb) noexcept nogil       # prints what does not hold, and aborts
cdef void check_shared(const tcp_t *tcp) noexcept nogil           # timer heap, output list, events
