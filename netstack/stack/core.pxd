"""A stack: the layers joined. No I/O, no clock, no threads; the caller holds whatever lock there is."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_t, endpoint_t
from netstack.counters cimport counters_t
from netstack.demux cimport demux_t
from netstack.ip.interface cimport interface_t
from netstack.ip.reassembly cimport reassembly_t
from netstack.ip.route cimport route_table_t
from netstack.ip.shared cimport ip_t
from netstack.link.link cimport Link, frame_t, link_t
from netstack.sock cimport event_list_t, sock_t
from netstack.stack.tracing cimport trace_t
from netstack.tcp.output cimport plan_t
from netstack.tcp.tcb cimport tcb_t, tcp_t

cdef enum:
    STACK_INTERFACES = 8         # one of them is the loopback


cdef struct stack_t:
    tcp_t tcp                    # what TCP shares: clock, timers, output list, events, secrets, settings, counters
    demux_t demux
    route_table_t routes
    ip_t ip                      # what interfaces share: settings, limits
    reassembly_t fragments
    uint32_t raw_count           # raw sockets
    interface_t *interfaces[STACK_INTERFACES]
    uint32_t interface_count
    tcb_t *last_tcb              # the connection of the segment before: often of this one too
    tcb_t *dead                  # released, to be freed when no list holds them
    uint64_t segments_by[2]      # TCP segments processed while 0 a caller, 1 the service thread drove the stack
    uint32_t driver              # index into segments_by, set by who drives
    uint32_t datagram_waiters    # datagram sockets that were told "full"
    sock_t **socks               # table of sockets, by sock_t.index
    uint32_t sock_count
    uint32_t sock_capacity
    uint32_t next_sock_id
    uint8_t bindv6only           # net.ipv6.bindv6only
    uint8_t auto_flowlabels      # net.ipv6.auto_flowlabels
    trace_t *trace               # what connections do is recorded there; NULL: it is not


# One pass: input from every link (at most budget frames each), timers due, output, flush. 1 when input is left.
cdef int stack_process(stack_t *stack, int64_t now_ns, int budget) noexcept nogil
# One frame, as if the interface's link had received it.
cdef void stack_frame(stack_t *stack, interface_t *ifc, const frame_t *frame) noexcept nogil
# Only timers and output; only output.
cdef void stack_advance(stack_t *stack, int64_t now_ns) noexcept nogil
cdef void stack_output(stack_t *stack) noexcept nogil
cdef int64_t stack_next_deadline(stack_t *stack) noexcept nogil      # caller's time; NEVER when there is none
cdef sock_t *stack_next_event(stack_t *stack) noexcept nogil         # pops; its events field says which; NULL: none
cdef void stack_init(stack_t *stack, const uint8_t *seed) noexcept nogil             # 32 bytes of seed
cdef void stack_destroy(stack_t *stack) noexcept nogil               # everything but the links
cdef interface_t *stack_add_interface(stack_t *stack, link_t *link) noexcept nogil  # NULL: no memory, or too many
cdef bint stack_is_local(const stack_t *stack, const address_t *a) noexcept nogil   # ours, or 127/8 and ::1
# Interface and next hop towards dst; -1: no route. Source address there, None of ours: False.
cdef int stack_route(const stack_t *stack, const address_t *dst, address_t *next_hop) noexcept nogil
cdef bint stack_source(const stack_t *stack, int interface, const address_t *dst, address_t *out) noexcept nogil
# Put an address on trial, or take it where there is no trial; 0 or -errno.
cdef int stack_add_address(stack_t *stack, interface_t *ifc, const address_t *a, uint8_t prefix_length) noexcept nogil
# Link-local addresses that came over the loopback get their interface's number back.
cdef void stack_rezone(const stack_t *stack, address_t *a) noexcept nogil
# The label of a flow's packets, 0 where IPv4 or the settings want none.
cdef uint32_t stack_flow_label(const stack_t *stack, const address_t *src, const address_t *dst, uint16_t sport,
                               uint16_t dport, uint8_t protocol) noexcept nogil
# The hop limit of packets that leave there: the socket's own, or where it has the default what a router said.
cdef uint8_t stack_hop_limit(const stack_t *stack, int interface, const address_t *dst, uint8_t chosen) noexcept nogil
cdef tcb_t *stack_new_tcb(stack_t *stack) noexcept nogil
cdef int stack_register(stack_t *stack, sock_t *sock) noexcept nogil                # into the table; 0 or -1: no memory
cdef void stack_unregister(stack_t *stack, sock_t *sock) noexcept nogil
cdef int stack_send_planned(stack_t *stack, tcb_t *tcb, const plan_t *plan, const uint8_t *data) noexcept nogil  # CLAIM_*
cdef int stack_tcb_output(stack_t *stack, tcb_t *tcb) noexcept nogil                # CLAIM_FULL: blocked
cdef void stack_flush(stack_t *stack) noexcept nogil
cdef void stack_resume(stack_t *stack, int64_t now_ns) noexcept nogil     # the way out is there again
cdef void stack_settle(stack_t *stack) noexcept nogil    # end of a call: output, what goes to ourselves, flush, reap
cdef void stack_reap(stack_t *stack) noexcept nogil
cdef uint32_t stack_link_mss(const stack_t *stack, const tcb_t *tcb) noexcept nogil
cdef void stack_set_now(stack_t *stack, int64_t now_ns) noexcept nogil
