"""Sockets and neighbours as flat records: what `Stack.sockets` and `Stack.neighbors` are made from, and what ``netstack ss``
and ``netstack neigh`` are sent."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from netstack.address cimport address_t
from netstack.demux cimport tw_t
from netstack.ip.interface cimport interface_t
from netstack.ip.neighbor cimport neighbor_t
from netstack.sock cimport sock_t
from netstack.stack.core cimport stack_t
from netstack.stack.tcp_info cimport tcp_info_t
from netstack.tcp.tcb cimport request_t

cdef enum:                       # report_t.timer
    TIMER_NONE = 0
    TIMER_ON = 1                 # retransmission
    TIMER_KEEPALIVE = 2
    TIMER_TIMEWAIT = 3
    TIMER_PERSIST = 4


cdef struct report_t:
    # Host byte order, no padding but cc_info's: `netstack.reports.REPORT` reads it.
    uint32_t size                # of the whole; a later version may append
    uint32_t id                  # sock_t.id; 0: a TIME-WAIT record
    uint16_t lport
    uint16_t rport
    uint8_t kind                 # SOCK_*
    uint8_t state                # Linux's number
    uint8_t family               # 2 or 10
    uint8_t orphan
    uint8_t timer
    uint8_t retries
    uint8_t cc_info_bytes
    uint8_t has_info
    uint32_t recv_queue
    uint32_t send_queue
    uint32_t timer_ms
    uint8_t local[16]
    uint8_t remote[16]
    char congestion[16]
    uint32_t memory[9]
    uint8_t cc_info[20]
    uint8_t info[280]            # tcp_info_t; bytes, so that nothing pads


cdef struct neighbor_report_t:
    # As report_t: `netstack.reports.NEIGHBOR` reads it.
    uint32_t size
    uint32_t interface           # its number: index + 1
    uint8_t address[16]
    uint8_t mac[6]
    uint8_t state                # NEIGHBOR_*
    uint8_t probes
    uint32_t queued              # packets that wait for it
    uint32_t used_ms             # since it was used; UINT32_MAX: never
    uint32_t confirmed_ms        # since it answered; UINT32_MAX: never


cdef void report_neighbor(const interface_t *ifc, const neighbor_t *n, int64_t now_ns, neighbor_report_t *r) noexcept nogil
cdef void report_socket(const stack_t *stack, const sock_t *sock, report_t *r) noexcept nogil
cdef void report_request(const stack_t *stack, const request_t *request, report_t *r) noexcept nogil
cdef void report_time_wait(const stack_t *stack, const tw_t *tw, report_t *r) noexcept nogil
