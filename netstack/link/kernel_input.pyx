# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Packets out of the raw sockets of ``kernel_ip``.

A raw IPv4 socket shows the IP header, a raw IPv6 socket hides it: it is written again from what the kernel tells beside the
packet. Packets that never saw a wire, and those that the kernel joined (GRO), lack their transport's sum: the field holds
the sum of the pseudo header. It is completed here, and the stack checks every sum. Whoever could forge that could forge a
right sum.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from netstack.link.kernel_ports cimport ports_hold
from netstack.link.kernel_state cimport (
    KERNEL_BATCH, KERNEL_PACKET, RAW_COUNT, RAW_ICMP6, RAW_TCP6, RAW_UDP6, kernel_ip_t,
)
from netstack.link.link cimport frame_t, link_t
from netstack.wire.byte_order cimport load_be16, load_native16, load_native32, store_be16, store_be32, store_native16
from netstack.wire.checksum cimport (
    checksum_combine, checksum_finish, checksum_fold, checksum_partial, checksum_pseudo_ipv4, checksum_pseudo_ipv6,
)
from netstack.wire.ipv4 cimport IPV4_HEADER, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP
from netstack.wire.ipv6 cimport IPV6_HEADER, PROTOCOL_ICMPV6

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    cdef struct msghdr:
        void *msg_name
        unsigned int msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    cdef struct cmsghdr:
        int cmsg_level
        int cmsg_type
    int MSG_DONTWAIT, MSG_TRUNC
    cmsghdr *CMSG_FIRSTHDR(msghdr *m)
    cmsghdr *CMSG_NXTHDR(msghdr *m, cmsghdr *c)
    unsigned char *CMSG_DATA(cmsghdr *c)
    int recvmmsg(int fd, mmsghdr *messages, unsigned int n, int flags, void *timeout)

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in6_addr:
        uint8_t s6_addr[16]
    cdef struct sockaddr_in6:
        in6_addr sin6_addr
    cdef struct in6_pktinfo:
        in6_addr ipi6_addr
    int IPPROTO_IPV6, IPV6_PKTINFO, IPV6_HOPLIMIT, IPV6_TCLASS

cdef extern from "<sys/epoll.h>" nogil:
    cdef union epoll_data:
        uint32_t u32
    cdef struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_wait(int epfd, epoll_event *events, int n, int timeout_ms)

cdef enum:
    CONTROL_WORDS = 16           # of 8 bytes, beside a packet


cdef inline uint8_t *place(kernel_ip_t *k, int i) noexcept nogil:
    return k.input + <size_t> i * KERNEL_PACKET


cdef bint complete_sum(uint8_t *transport, uint32_t length, uint32_t pseudo, uint8_t protocol) noexcept nogil:
    """Write the sum of a packet that has that of its pseudo header only."""
    cdef uint32_t at = 16 if protocol == PROTOCOL_TCP else 6, total
    cdef uint16_t sum
    if protocol != PROTOCOL_TCP and protocol != PROTOCOL_UDP:
        return False
    if length < at + 2 or load_native16(transport + at) != checksum_fold(pseudo):
        return False
    total = checksum_partial(transport, length)
    if checksum_finish(checksum_combine(pseudo, total, 0)) == 0:
        return False                               # right as it stands
    sum = checksum_finish(total)
    store_native16(transport + at, sum if sum or protocol == PROTOCOL_TCP else 0xffff)
    return True


cdef uint32_t accept4(kernel_ip_t *k, uint8_t *p, uint32_t n) noexcept nogil:
    """The length of a packet that is for us, 0 for any other."""
    cdef uint32_t header
    cdef uint8_t protocol
    if n < IPV4_HEADER or p[0] >> 4 != 4:
        return 0
    header = <uint32_t> (p[0] & 15) << 2
    protocol = p[9]
    if header < IPV4_HEADER or n < header + 8 or load_be16(p + 2) != n:
        return 0
    if protocol == PROTOCOL_ICMP:
        return n
    if not ports_hold(&k.ports, protocol == PROTOCOL_UDP, load_be16(p + header + 2)):
        k.foreign += 1
        return 0
    k.completed += complete_sum(p + header, n - header, checksum_pseudo_ipv4(
        load_native32(p + 12), load_native32(p + 16), protocol, <uint16_t> (n - header)), protocol)
    return n


cdef uint32_t accept6(kernel_ip_t *k, uint8_t *p, uint32_t n, uint8_t protocol, msghdr *m) noexcept nogil:
    """Write the header that the kernel took off; the transport's part of n bytes lies behind it. 0: not for us."""
    cdef const sockaddr_in6 *source = <const sockaddr_in6 *> m.msg_name
    cdef cmsghdr *c = CMSG_FIRSTHDR(m)
    cdef uint32_t traffic_class = 0
    cdef bint known = False
    if n < 8 or n > 65535:
        return 0
    if protocol != PROTOCOL_ICMPV6 and not ports_hold(&k.ports, protocol == PROTOCOL_UDP, load_be16(p + IPV6_HEADER + 2)):
        k.foreign += 1
        return 0
    p[7] = 64
    while c != NULL:
        if c.cmsg_level == IPPROTO_IPV6 and c.cmsg_type == IPV6_PKTINFO:
            memcpy(p + 24, &(<const in6_pktinfo *> CMSG_DATA(c)).ipi6_addr, 16)
            known = True
        elif c.cmsg_level == IPPROTO_IPV6 and c.cmsg_type == IPV6_HOPLIMIT:
            p[7] = <uint8_t> (<const int *> CMSG_DATA(c))[0]
        elif c.cmsg_level == IPPROTO_IPV6 and c.cmsg_type == IPV6_TCLASS:
            traffic_class = <uint32_t> (<const int *> CMSG_DATA(c))[0] & 255
        c = CMSG_NXTHDR(m, c)
    if not known:
        return 0
    store_be32(p, <uint32_t> 6 << 28 | traffic_class << 20)
    store_be16(p + 4, <uint16_t> n)
    p[6] = protocol
    memcpy(p + 8, &source.sin6_addr, 16)
    k.completed += complete_sum(p + IPV6_HEADER, n, checksum_pseudo_ipv6(p + 8, p + 24, protocol, n), protocol)
    return IPV6_HEADER + n


cdef void read_from(kernel_ip_t *k, int which) noexcept nogil:
    """Add what a raw socket has to the batch, as far as there is room."""
    cdef mmsghdr messages[KERNEL_BATCH]
    cdef iovec parts[KERNEL_BATCH]
    cdef sockaddr_in6 sources[KERNEL_BATCH]
    cdef uint64_t control[KERNEL_BATCH][CONTROL_WORDS]
    cdef bint six = which >= RAW_TCP6
    cdef uint32_t offset = IPV6_HEADER if six else 0, length
    cdef uint8_t protocol = PROTOCOL_TCP
    cdef int room = KERNEL_BATCH - k.filled, first = k.filled, i, n
    if room <= 0:
        return
    memset(messages, 0, <size_t> room * sizeof(mmsghdr))
    for i in range(room):
        parts[i].iov_base = place(k, first + i) + offset
        parts[i].iov_len = KERNEL_PACKET - offset
        messages[i].msg_hdr.msg_iov = &parts[i]
        messages[i].msg_hdr.msg_iovlen = 1
        if six:
            messages[i].msg_hdr.msg_name = &sources[i]
            messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_in6)
            messages[i].msg_hdr.msg_control = control[i]
            messages[i].msg_hdr.msg_controllen = 8 * CONTROL_WORDS
    n = recvmmsg(k.raw[which], messages, <unsigned int> room, MSG_DONTWAIT, NULL)
    if n < 0:
        if errno != EAGAIN and errno != EINTR:
            k.last_error = errno
        return
    if which == RAW_UDP6:
        protocol = PROTOCOL_UDP
    elif which == RAW_ICMP6:
        protocol = PROTOCOL_ICMPV6
    for i in range(n):
        if messages[i].msg_hdr.msg_flags & MSG_TRUNC:
            k.truncated += 1
            continue
        if six:
            length = accept6(k, place(k, first + i), messages[i].msg_len, protocol, &messages[i].msg_hdr)
        else:
            length = accept4(k, place(k, first + i), messages[i].msg_len)
        if length == 0:
            continue
        if k.filled != first + i:                  # close the gap that a packet of others left
            memcpy(place(k, k.filled), place(k, first + i), length)
        k.lengths[k.filled] = length
        k.filled += 1


cdef void fill(kernel_ip_t *k) noexcept nogil:
    """Read ahead. Requires: everything read before was taken."""
    cdef epoll_event events[RAW_COUNT]
    cdef int i, n
    k.filled = 0
    k.taken = 0
    if k.epoll_fd < 0:
        return
    n = epoll_wait(k.epoll_fd, events, RAW_COUNT, 0)
    for i in range(n):
        read_from(k, <int> events[i].data.u32)


cdef int kernel_receive(link_t *self, frame_t *frames, int n) noexcept nogil:
    cdef kernel_ip_t *k = <kernel_ip_t *> self.state
    cdef int i, got = 0
    if n > 0 and k.note_length and not k.note_shown:
        frames[0].head = k.note
        frames[0].head_length = k.note_length
        frames[0].body = NULL
        frames[0].body_length = 0
        k.note_shown = 1
        return 1
    if k.taken == k.filled and not k.shown:
        fill(k)
    got = k.filled - k.taken
    if got > n:
        got = n
    for i in range(got):
        frames[i].head = place(k, k.taken + i)
        frames[i].head_length = k.lengths[k.taken + i]
        frames[i].body = NULL
        frames[i].body_length = 0
    k.taken += got
    k.shown = got > 0
    return got


cdef void kernel_release(link_t *self) noexcept nogil:
    cdef kernel_ip_t *k = <kernel_ip_t *> self.state
    k.shown = 0
    if k.note_shown:
        k.note_shown = 0
        k.note_length = 0


cdef int kernel_has_input(link_t *self) noexcept nogil:
    cdef kernel_ip_t *k = <kernel_ip_t *> self.state
    if k.taken == k.filled and not k.shown:
        fill(k)
    return k.taken != k.filled or k.note_length != 0


cdef int kernel_arm(link_t *self, uint32_t kind) noexcept nogil:
    cdef kernel_ip_t *k = <kernel_ip_t *> self.state
    return k.taken != k.filled or k.note_length != 0


cdef int kernel_poll_fd(link_t *self, uint32_t kind) noexcept nogil:
    return (<kernel_ip_t *> self.state).epoll_fd
