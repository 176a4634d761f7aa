"""A stack: the layers joined. No I/O, no clock, no threads; the caller holds whatever lock there is."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_t, endpoint_t
from netstack.counters cimport counters_t
from netstack.demux cimport demux_t
from netstack.ip.interface cimport interface_t
from netstack.ip.route cimport route_table_t
from netstack.link.link cimport Link, link_t
from netstack.sock cimport event_list_t, sock_t
from netstack.tcp.tcb cimport tcb_t, tcp_t

cdef enum:
    STACK_INTERFACES = 8         # one of them is the loopback


cdef struct stack_t:
    tcp_t tcp                    # what TCP shares: clock, timers, output list, events, secrets, settings, counters
    demux_t demux
    route_table_t routes
    interface_t *interfaces[STACK_INTERFACES]
    uint32_t interface_count
    int64_t time_offset_ns       # stack time = caller's time + this; continuous over restore
    uint64_t segments_by[2]      # TCP segments processed while 0 a caller, 1 the service thread drove the stack
    uint32_t driver              # index into segments_by, set by who drives
    sock_t **socks               # table of sockets, by sock_t.index
    uint32_t sock_count
    uint32_t sock_capacity
    uint32_t next_sock_id


# One pass: input from every link (at most budget frames each), timers due, output, flush. 1 when input is left.
cdef int stack_process(stack_t *stack, int64_t now_ns, int budget) noexcept nogil
# Only timers and output; only output.
cdef void stack_advance(stack_t *stack, int64_t now_ns) noexcept nogil
cdef void stack_output(stack_t *stack) noexcept nogil
cdef int64_t stack_next_deadline(stack_t *stack) noexcept nogil      # caller's time; NEVER when there is none
cdef sock_t *stack_next_event(stack_t *stack) noexcept nogil         # pops; its events field says which; NULL: none
cdef void stack_set_now(stack_t *stack, int64_t now_ns) noexcept nogil
