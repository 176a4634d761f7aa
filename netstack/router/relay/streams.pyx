"""TCP through the relay: see streams.pxd.

Bytes are held by the stack's buffers and the kernel's, never by the relay but for what one `send` of the kernel left over:
what one side does not take is not read from the other, so windows close from end to end. Urgent data goes on in line.
"""

from libc.errno cimport EACCES, EAGAIN, EHOSTUNREACH, EINPROGRESS, EINTR, ENETUNREACH, EPERM, ETIMEDOUT, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from netstack.address cimport address_is_v4, endpoint_t
from netstack.clock cimport NS_PER_S
from netstack.demux cimport demux_find, demux_hash
from netstack.driver cimport driver_adopt, driver_state
from netstack.ip.icmp cimport icmp_send_error
from netstack.ip.icmp6 cimport icmp6_send_error
from netstack.ip.interface cimport packet_copy
from netstack.link.link cimport frame_t
from netstack.pollers cimport poller_watch
from netstack.router.relay.flows cimport RELAY_TCP, flow_drop_sock, flow_end, flow_find, flow_new, flow_open, flow_queue
from netstack.router.relay.kernel cimport (
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, IPPROTO_TCP, MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_WR, SO_ERROR,
    SO_OOBINLINE, SOCK_STREAM, SOL_SOCKET, TCP_NODELAY, connect, getsockopt, kernel_name_t, recv, send, setsockopt,
    shutdown,
)
from netstack.router.relay.policy cimport POLICY_OURS, policy_judge
from netstack.router.relay.published cimport published_accept
from netstack.router.relay.state cimport (
    BAD_CHECKSUM, BYTES_IN, BYTES_OUT, FLOW_CALLING, FLOW_CONNECTING, FLOW_HANDSHAKE, FLOW_LISTENING, FLOW_OPEN, FLOW_REFUSED,
    NO_MEMORY, RELAY_SCRATCH, STREAMS_ABANDONED, STREAMS_DENIED, STREAMS_OPENED, STREAMS_PUBLISHED,
    STREAMS_PUBLISHED_REFUSED, STREAMS_REFUSED, STREAMS_RESET, STREAMS_TIMED_OUT, STREAMS_UNREACHABLE, SYN_BYTES,
)
from netstack.sock cimport EVENT_ERR, EVENT_HUP, EVENT_IN, EVENT_OUT, sock_t
from netstack.stack.core cimport stack_frame, stack_settle
from netstack.stack.sockets cimport (
    sock_accept, sock_local, sock_recv, sock_remote, sock_send, sock_setsockopt, sock_shutdown,
)
from netstack.tcp.buffers cimport send_room, send_tune
from netstack.tcp.tcb cimport ACK, MAX_BARE, RST, SYN, bare_t, tcb_t
from netstack.wire.byte_order cimport load_be16, load_be32
from netstack.wire.checksum cimport checksum_fold, checksum_pseudo
from netstack.wire.icmp cimport ICMP_CODE_HOST, ICMP_CODE_NET, ICMP_UNREACHABLE
from netstack.wire.icmp6 cimport ICMP6_ADDRESS, ICMP6_NO_ROUTE, ICMP6_PROHIBITED, ICMP6_UNREACHABLE

cdef enum:
    SHARE_BYTES = 256 << 10      # in each direction, before others have their turn
    CODE_PROHIBITED = 13         # RFC 1812 section 5.2.7.1

cdef int64_t HANDSHAKE_NS = <int64_t> 90 * NS_PER_S     # longer than our SYN,ACK is sent again (tcp_synack_retries)


# --- a stack connects -------------------------------------------------------------------------------------------------

cdef bint whole(relay_t *r, packet_in_t *packet) noexcept nogil:
    """Is the segment's checksum good? A descriptor is not spent on damage."""
    cdef uint32_t length = packet.length - packet.header_length
    if checksum_fold(<uint64_t> checksum_pseudo(&packet.src, &packet.dst, RELAY_TCP, length)
                     + packet_copy(packet, packet.header_length, r.scratch, length)) == 0xffff:
        return True
    r.counts[<int> BAD_CHECKSUM] += 1
    return False


cdef void answer_reset(relay_t *r, packet_in_t *packet) noexcept nogil:
    """The RST for a SYN (RFC 9293 section 3.10.7.1)."""
    cdef const uint8_t *h = packet.header + packet.header_length
    cdef bare_t *b
    cdef uint32_t length = packet.length - packet.header_length - (h[12] >> 4) * 4
    if r.stack.tcp.bare_count >= MAX_BARE:
        return
    b = &r.stack.tcp.bare[r.stack.tcp.bare_count]
    r.stack.tcp.bare_count += 1
    memset(b, 0, sizeof(bare_t))
    b.src = packet.dst
    b.dst = packet.src
    b.sport = load_be16(h + 2)
    b.dport = load_be16(h)
    b.ack = load_be32(h + 4) + length + 1
    b.flags = RST | ACK
    b.interface = <uint8_t> packet.interface.index


cdef void answer_unreachable(relay_t *r, packet_in_t *packet, int error) noexcept nogil:
    cdef uint8_t code
    if address_is_v4(&packet.dst):
        code = ICMP_CODE_NET if error == ENETUNREACH else ICMP_CODE_HOST if error == EHOSTUNREACH else CODE_PROHIBITED
        icmp_send_error(packet, ICMP_UNREACHABLE, code, 0, r.stack.tcp.now_ns)
    else:
        code = ICMP6_NO_ROUTE if error == ENETUNREACH else ICMP6_ADDRESS if error == EHOSTUNREACH else ICMP6_PROHIBITED
        icmp6_send_error(packet, ICMP6_UNREACHABLE, code, 0, r.stack.tcp.now_ns)


cdef void refuse(relay_t *r, packet_in_t *packet, int error) noexcept nogil:
    """Tell the stack what the kernel said of its SYN."""
    if error == ETIMEDOUT:
        r.counts[<int> STREAMS_TIMED_OUT] += 1         # it knows by itself
    elif error in (ENETUNREACH, EHOSTUNREACH, EACCES, EPERM):
        r.counts[<int> STREAMS_UNREACHABLE] += 1
        answer_unreachable(r, packet, error)
    else:
        r.counts[<int> STREAMS_REFUSED] += 1
        answer_reset(r, packet)


cdef void keep_syn(flow_t *f, packet_in_t *packet) noexcept nogil:
    """A copy of a SYN, unless it carries something or came with extension headers: then it has to come again."""
    if packet.length <= SYN_BYTES and packet.header_bytes == packet.length and not packet.skipped and not packet.reassembled:
        memcpy(f.syn, packet.header, packet.length)
        f.syn_length = packet.length


cdef bint begin(relay_t *r, packet_in_t *packet, uint16_t sport, uint16_t dport) noexcept nogil:
    """A connection that is new. True: its SYN has been taken; False: the stack may answer it at once."""
    cdef kernel_name_t target
    cdef unsigned int length = 0
    cdef int verdict, error, one = 1
    cdef flow_t *f
    if not whole(r, packet):
        return True
    verdict = policy_judge(r, &packet.dst, dport, &target, &length)
    if verdict < 0:
        r.counts[<int> STREAMS_DENIED] += 1
        if verdict == POLICY_OURS:
            answer_reset(r, packet)
        else:
            answer_unreachable(r, packet, EACCES)
        return True
    f = flow_new(r, RELAY_TCP, &packet.src, sport, &packet.dst, dport)
    if f == NULL:
        answer_reset(r, packet)
        return True
    f.target = target
    f.target_length = length
    if flow_open(r, f, SOCK_STREAM, 0) != 0:
        answer_reset(r, packet)
        return True
    setsockopt(f.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))    # the stack has judged what is sent when
    setsockopt(f.fd, SOL_SOCKET, SO_OOBINLINE, &one, sizeof(one))
    keep_syn(f, packet)
    if connect(f.fd, &f.target.any, f.target_length) == 0:
        f.state = FLOW_HANDSHAKE
        return False
    error = errno
    if error != EINPROGRESS and error != EINTR:
        refuse(r, packet, error)
        flow_end(r, f, False)
        return True
    f.state = FLOW_CONNECTING
    return True


cdef bint stream_arrives(relay_t *r, packet_in_t *packet) noexcept nogil:
    cdef const uint8_t *h = packet.header + packet.header_length
    cdef uint16_t sport, dport
    cdef flow_t *f
    if packet.header_bytes < packet.header_length + 20 or h[13] & (SYN | ACK | RST) != SYN:
        return False
    sport = load_be16(h)
    dport = load_be16(h + 2)
    if (h[12] >> 4) * 4 < 20 or <uint32_t> (h[12] >> 4) * 4 > packet.length - packet.header_length or sport == 0 or dport == 0:
        return False
    f = flow_find(r, RELAY_TCP, &packet.src, sport, &packet.dst, dport)
    if f == NULL:
        return begin(r, packet, sport, dport)
    if f.state == FLOW_CONNECTING:
        return True                                    # sent again: the kernel is asked already
    if f.state == FLOW_REFUSED:
        refuse(r, packet, f.verdict)
        flow_end(r, f, False)
        return True
    return False


cdef void give_syn(relay_t *r, flow_t *f) noexcept nogil:
    """The SYN that was kept, as if it came now. Without one the next copy of it gets the answer."""
    cdef frame_t frame
    cdef uint8_t syn[SYN_BYTES]
    if f.syn_length == 0:
        return
    memcpy(syn, f.syn, f.syn_length)
    frame.head = syn
    frame.head_length = f.syn_length
    frame.body = NULL
    frame.body_length = 0
    stack_frame(r.stack, r.interface, &frame)          # may end f
    stack_settle(r.stack)


cdef void connected(relay_t *r, flow_t *f) noexcept nogil:
    """The kernel has an answer."""
    cdef int error = 0
    cdef unsigned int n = sizeof(error)
    if getsockopt(f.fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0:
        error = errno
    f.used_ns = r.stack.tcp.now_ns
    f.verdict = error
    f.state = FLOW_REFUSED if error else FLOW_HANDSHAKE
    if error == ETIMEDOUT or (error and f.syn_length == 0):
        r.counts[<int> STREAMS_TIMED_OUT if error == ETIMEDOUT else <int> STREAMS_UNREACHABLE] += 1
        flow_end(r, f, False)
        return
    f.writable = 1
    f.readable = 1
    give_syn(r, f)


cdef void streams_accept(relay_t *r) noexcept nogil:
    cdef sock_t *sock
    cdef endpoint_t near, far
    cdef flow_t *f
    while sock_accept(r.stack, r.listener.sock, &sock) == 0:
        f = NULL
        if sock_remote(r.stack, sock, &near) == 0 and sock_local(r.stack, sock, &far) == 0:
            f = flow_find(r, RELAY_TCP, &near.address, near.port, &far.address, far.port)
        if f == NULL or f.state != FLOW_HANDSHAKE:
            flow_drop_sock(r, sock, True)                         # its flow was given up meanwhile
            continue
        r.counts[<int> STREAMS_OPENED] += 1
        open_flow(r, f, sock)


cdef void open_flow(relay_t *r, flow_t *f, sock_t *sock) noexcept nogil:
    cdef int one = 1
    if f.o.sock == NULL:
        driver_adopt(r.driver, &f.o, sock)
    sock_setsockopt(r.stack, sock, IPPROTO_TCP, TCP_NODELAY, <const uint8_t *> &one, sizeof(one))
    f.state = FLOW_OPEN
    f.used_ns = r.stack.tcp.now_ns
    stream_pump(r, f)


# --- published ports: their connections (`published`) ---------------------------------------------------------------

cdef void called(relay_t *r, flow_t *f) noexcept nogil:
    """The stack has an answer to a connection of a published port."""
    cdef uint32_t state = driver_state(r.driver, &f.o)
    if state & (EVENT_ERR | EVENT_HUP):
        r.counts[<int> STREAMS_PUBLISHED_REFUSED] += 1
        flow_end(r, f, True)
    elif state & EVENT_OUT:
        r.counts[<int> STREAMS_PUBLISHED] += 1
        f.readable = f.writable = 1
        open_flow(r, f, f.o.sock)
    else:
        poller_watch(&r.poller, &f.o, EVENT_OUT)


# --- bytes ------------------------------------------------------------------------------------------------------------

cdef void broken(relay_t *r, flow_t *f) noexcept nogil:
    r.counts[<int> STREAMS_RESET] += 1
    flow_end(r, f, True)


cdef int into_stack(relay_t *r, flow_t *f) noexcept nogil:
    """From the kernel, as much as the stack's buffer takes. 1: the share was used up; -1: the connection is broken."""
    cdef tcb_t *tcb = <tcb_t *> f.o.sock
    cdef uint32_t room
    cdef uint64_t budget = SHARE_BYTES
    cdef ssize_t n
    while f.readable and not f.in_over and budget:
        room = send_room(tcb)
        if room == 0:
            send_tune(tcb)
            room = send_room(tcb)
        if room == 0:
            return 0
        n = recv(f.fd, r.scratch, min(<uint64_t> room, <uint64_t> RELAY_SCRATCH, budget), MSG_DONTWAIT)
        if n < 0 and (errno == EAGAIN or errno == EINTR):
            f.readable = errno == EINTR
            continue
        if n < 0:
            return -1
        if n == 0:
            f.in_over = 1
            sock_shutdown(r.stack, f.o.sock, 1)
            return 0
        if sock_send(r.stack, f.o.sock, r.scratch, <size_t> n, 0) != n:
            return -1                                  # there was room: it is over, or memory is short
        r.counts[<int> BYTES_IN] += <uint64_t> n
        budget -= <uint64_t> n
    return budget == 0


cdef bint write_waiting(relay_t *r, flow_t *f) noexcept nogil:
    """What the kernel did not take before. False: the connection is broken."""
    cdef ssize_t n
    while f.waiting != NULL and f.writable:
        n = send(f.fd, f.waiting + f.waiting_at, f.waiting_end - f.waiting_at, MSG_DONTWAIT | MSG_NOSIGNAL)
        if n < 0 and errno != EAGAIN and errno != EINTR:
            return False
        if n < 0:
            f.writable = errno == EINTR
            continue
        r.counts[<int> BYTES_OUT] += <uint64_t> n
        f.waiting_at += <uint32_t> n
        if f.waiting_at == f.waiting_end:
            free(f.waiting)
            f.waiting = NULL
    return True


cdef int out_of_stack(relay_t *r, flow_t *f) noexcept nogil:
    """To the kernel, as much as it takes. 1: the share was used up; -1: the connection is broken."""
    cdef uint64_t budget = SHARE_BYTES
    cdef ssize_t n, sent
    if not write_waiting(r, f):
        return -1
    while f.waiting == NULL and f.writable and not f.out_over and budget:
        n = sock_recv(r.stack, f.o.sock, r.scratch, min(<uint64_t> RELAY_SCRATCH, budget), 0)
        if n == -EAGAIN:
            return 0
        if n < 0:
            return -1
        if n == 0:
            f.out_over = 1
            shutdown(f.fd, SHUT_WR)
            return 0
        budget -= <uint64_t> n
        sent = send(f.fd, r.scratch, <size_t> n, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0 and errno != EAGAIN and errno != EINTR:
            return -1
        if sent < 0:
            sent = 0
        r.counts[<int> BYTES_OUT] += <uint64_t> sent
        if sent < n:
            f.writable = 0
            f.waiting = <uint8_t *> malloc(<size_t> (n - sent))
            if f.waiting == NULL:
                r.counts[<int> NO_MEMORY] += 1
                return -1
            memcpy(f.waiting, r.scratch + sent, <size_t> (n - sent))
            f.waiting_at = 0
            f.waiting_end = <uint32_t> (n - sent)
    return budget == 0


cdef void stream_pump(relay_t *r, flow_t *f) noexcept nogil:
    cdef uint32_t state, interest = 0
    cdef int into, out
    if f.state == FLOW_CALLING:
        called(r, f)
        return
    if f.state == FLOW_LISTENING:
        published_accept(r, f)
        return
    if f.state != FLOW_OPEN:
        return
    into = into_stack(r, f)
    out = out_of_stack(r, f) if into >= 0 else -1
    if into < 0 or out < 0:
        broken(r, f)
        return
    if f.in_over and f.out_over and f.waiting == NULL:
        flow_end(r, f, False)
        return
    if into or out:
        flow_queue(r, f)
    state = driver_state(r.driver, &f.o)
    if state & EVENT_ERR:
        broken(r, f)
        return
    if f.waiting == NULL and f.writable and not f.out_over:
        interest |= EVENT_IN
    if f.readable and not f.in_over:
        interest |= EVENT_OUT
    if state & EVENT_HUP and not (interest & EVENT_IN and state & EVENT_IN):
        interest = 0                                   # a hang-up stays one: the kernel's side says when to go on
    poller_watch(&r.poller, &f.o, interest)


cdef bint failed(flow_t *f) noexcept nogil:
    """Whether the kernel's side broke off behind its end of file, where no read would tell."""
    cdef int error = 0
    cdef unsigned int n = sizeof(error)
    return f.in_over and getsockopt(f.fd, SOL_SOCKET, SO_ERROR, &error, &n) == 0 and error != 0


cdef void stream_ready(relay_t *r, flow_t *f, uint32_t events) noexcept nogil:
    if f.state == FLOW_CONNECTING:
        if events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
            connected(r, f)
        return
    if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        f.readable = 1
    if events & (EPOLLOUT | EPOLLHUP | EPOLLERR):
        f.writable = 1
    if f.state == FLOW_OPEN and events & EPOLLERR and failed(f):
        broken(r, f)
    elif f.state == FLOW_OPEN or f.state == FLOW_LISTENING:
        stream_pump(r, f)


# --- time -------------------------------------------------------------------------------------------------------------

cdef bint half_open(relay_t *r, const flow_t *f) noexcept nogil:
    """Whether the stack's handshake is still under way, or done and about to be accepted."""
    return demux_find(&r.stack.demux, demux_hash(&r.stack.tcp, &f.far, &f.near, f.far_port, f.near_port), &f.far, &f.near,
                      f.far_port, f.near_port) != NULL


cdef void streams_sweep(relay_t *r) noexcept nogil:
    cdef flow_t *f = r.streams.first
    cdef flow_t *after
    cdef int64_t now = r.stack.tcp.now_ns
    while f != NULL:
        after = f.all.next
        if f.state == FLOW_HANDSHAKE and (now - f.used_ns > HANDSHAKE_NS or
                                          (f.syn_length and now - f.used_ns > NS_PER_S and not half_open(r, f))):
            r.counts[<int> STREAMS_ABANDONED] += 1
            flow_end(r, f, True)
        f = after
    f = r.published.first
    while f != NULL:
        after = f.all.next
        if f.state == FLOW_LISTENING and f.readable:
            published_accept(r, f)
        f = after
