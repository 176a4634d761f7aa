"""Sockets as flat records: no pointers, nothing of another process's business but what TCP_INFO says."""

from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset, strlen

from netstack.clock cimport NS_PER_MS
from netstack.sock cimport SF_ORPHAN, SF_V6, SOCK_TCP
from netstack.stack.tcp_info cimport cc_info_fill, linux_state, meminfo_fill, tcp_info_fill
from netstack.tcp.tcb cimport ESTABLISHED, LISTEN, TF_PERSIST, TIME_WAIT, tcb_t
from netstack.udp.endpoint cimport udp_endpoint_t


cdef inline uint32_t remaining_ms(int64_t deadline, int64_t now) noexcept nogil:
    return <uint32_t> ((deadline - now + NS_PER_MS - 1) // NS_PER_MS) if deadline > now else 0


cdef void report_timer(const tcb_t *tcb, report_t *r) noexcept nogil:
    cdef int64_t now = tcb.tcp.now_ns
    if tcb.rtx_deadline:
        r.timer = TIMER_PERSIST if tcb.flags & TF_PERSIST else TIMER_ON
        r.timer_ms = remaining_ms(tcb.rtx_deadline, now)
        r.retries = tcb.retries
    elif tcb.keepalive_deadline:
        r.timer = TIMER_KEEPALIVE
        r.timer_ms = remaining_ms(tcb.keepalive_deadline, now)
        r.retries = tcb.keepalive_probes


cdef void report_tcp(const stack_t *stack, const tcb_t *tcb, report_t *r) noexcept nogil:
    cdef tcp_info_t info
    cdef size_t n = strlen(tcb.cc_ops.name)
    r.orphan = 1 if tcb.sock.flags & SF_ORPHAN and tcb.parent == NULL else 0
    memcpy(r.local, &tcb.local, 16)
    memcpy(r.remote, &tcb.remote, 16)
    r.lport = tcb.lport
    r.rport = tcb.rport
    r.state = linux_state(tcb.state)
    memcpy(r.congestion, tcb.cc_ops.name, n if n < 16 else 16)
    if tcb.state == LISTEN:
        r.recv_queue = tcb.listener.accept_count
        r.send_queue = tcb.listener.backlog
    else:
        r.recv_queue = r.memory[0]
        r.send_queue = tcb.snd_len
        if tcb.state >= ESTABLISHED and tcb.snd_nxt - tcb.snd_una > tcb.snd_len:
            r.send_queue = tcb.snd_nxt - tcb.snd_una   # the FIN is a byte of it
    if tcb.state != TIME_WAIT:
        report_timer(tcb, r)
    r.cc_info_bytes = <uint8_t> cc_info_fill(tcb, r.cc_info)
    tcp_info_fill(stack, tcb, &info)
    memcpy(r.info, &info, sizeof(info))
    r.has_info = 1


cdef void report_socket(const stack_t *stack, const sock_t *sock, report_t *r) noexcept nogil:
    cdef const udp_endpoint_t *ep = <const udp_endpoint_t *> sock
    memset(r, 0, sizeof(report_t))
    r.size = sizeof(report_t)
    r.id = sock.id
    r.kind = sock.kind
    r.family = 10 if sock.flags & SF_V6 else 2
    meminfo_fill(sock, r.memory)
    if sock.kind == SOCK_TCP:
        report_tcp(stack, <const tcb_t *> sock, r)
        return
    memcpy(r.local, &ep.local, 16)
    memcpy(r.remote, &ep.remote, 16)
    r.lport = ep.lport
    r.rport = ep.rport
    r.state = 1 if ep.connected else 7                 # as Linux names them: ESTAB, UNCONN
    r.recv_queue = ep.queued_bytes


cdef inline uint32_t since_ms(int64_t then, int64_t now) noexcept nogil:
    cdef int64_t ms = (now - then) // NS_PER_MS
    return UINT32_MAX if then == 0 or ms >= UINT32_MAX else <uint32_t> ms if ms > 0 else 0


cdef void report_neighbor(const interface_t *ifc, const neighbor_t *n, int64_t now_ns, neighbor_report_t *r) noexcept nogil:
    memset(r, 0, sizeof(neighbor_report_t))
    r.size = sizeof(neighbor_report_t)
    r.interface = ifc.index + 1
    memcpy(r.address, &n.address, 16)
    memcpy(r.mac, n.mac, 6)
    r.state = n.state
    r.probes = n.probes
    r.queued = n.queued
    r.used_ms = since_ms(n.used_ns, now_ns)
    r.confirmed_ms = since_ms(n.confirmed_ns, now_ns)


cdef void report_request(const stack_t *stack, const request_t *request, report_t *r) noexcept nogil:
    memset(r, 0, sizeof(report_t))
    r.size = sizeof(report_t)
    r.kind = SOCK_TCP
    r.state = 3
    r.family = 10 if request.listener.sock.flags & SF_V6 else 2
    memcpy(r.local, &request.local, 16)
    memcpy(r.remote, &request.remote, 16)
    r.lport = request.lport
    r.rport = request.rport
    r.timer = TIMER_ON
    r.timer_ms = remaining_ms(request.deadline_ns, stack.tcp.now_ns)
    r.retries = request.retries


cdef void report_time_wait(const stack_t *stack, const tw_t *tw, report_t *r) noexcept nogil:
    memset(r, 0, sizeof(report_t))
    r.size = sizeof(report_t)
    r.kind = SOCK_TCP
    r.state = 6
    r.family = 2
    r.orphan = 1
    memcpy(r.local, &tw.local, 16)
    memcpy(r.remote, &tw.remote, 16)
    r.lport = tw.lport
    r.rport = tw.rport
    r.timer = TIMER_TIMEWAIT
    r.timer_ms = remaining_ms(tw.expires_ns, stack.tcp.now_ns)
