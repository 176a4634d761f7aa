# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Packets into the raw sockets of ``kernel_ip``, and what the kernel says about where they go."""

from libc.errno cimport EAGAIN, EINTR, EMSGSIZE, ENETDOWN, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from netstack.link.kernel_state cimport KERNEL_BATCH, KERNEL_ROUTES, kernel_ip_t, route_t
from netstack.link.link cimport NEVER, link_t
from netstack.wire.byte_order cimport store_be16, store_be32, store_native16
from netstack.wire.checksum cimport checksum_combine, checksum_finish, checksum_partial, checksum_pseudo_ipv6
from netstack.wire.icmp cimport ICMP_UNREACHABLE
from netstack.wire.icmp6 cimport ICMP6_TOO_BIG
from netstack.wire.ipv4 cimport IPV4_HEADER, PROTOCOL_ICMP
from netstack.wire.ipv6 cimport IPV6_HEADER, PROTOCOL_ICMPV6

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    cdef struct sockaddr:
        uint16_t sa_family
    cdef struct msghdr:
        void *msg_name
        unsigned int msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
    cdef struct mmsghdr:
        msghdr msg_hdr
    int AF_INET, AF_INET6, AF_UNSPEC, MSG_DONTWAIT
    int sendmmsg(int fd, mmsghdr *messages, unsigned int n, int flags)
    int connect(int fd, const sockaddr *address, unsigned int length)
    int getsockname(int fd, sockaddr *address, unsigned int *length)
    int getsockopt(int fd, int level, int option, void *value, unsigned int *length)

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct in6_addr:
        uint8_t s6_addr[16]
    cdef struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    int IPPROTO_IP, IPPROTO_IPV6, IP_MTU, IPV6_MTU

cdef enum:
    RETRY_NS = 1000000           # a full kernel is tried again after this
    ROUTE_NS = 100000000         # a route is asked for again after this
    QUOTE = 576                  # of a packet that was too big


# --- asking the kernel ------------------------------------------------------------------------------------------------

cdef bint is_v4(const uint8_t *a) noexcept nogil:
    """An IPv4 address in its 16-byte form."""
    return (<const uint32_t *> a)[0] == 0 and (<const uint32_t *> a)[1] == 0 and a[8] | a[9] == 0 and a[10] & a[11] == 0xff


cdef bint names_a_link(const uint8_t *a) noexcept nogil:
    """A link-local address, or a group of the link."""
    return (a[0] == 0xfe and a[1] & 0xc0 == 0x80) or (a[0] == 0xff and a[1] & 15 == 2)


cdef void to_sockaddr6(const kernel_ip_t *k, const uint8_t *a, sockaddr_in6 *out) noexcept nogil:
    memset(out, 0, sizeof(sockaddr_in6))
    out.sin6_family = <uint16_t> AF_INET6
    memcpy(&out.sin6_addr, a, 16)
    if names_a_link(a):
        if a[0] == 0xfe:
            out.sin6_addr.s6_addr[2] = 0           # where the stack keeps the number of its interface
            out.sin6_addr.s6_addr[3] = 0
        out.sin6_scope_id = k.scope


cdef int ask(kernel_ip_t *k, const uint8_t *dst) noexcept nogil:
    """Connect the probe of the right version towards dst. Its descriptor, or -errno."""
    cdef sockaddr_in four
    cdef sockaddr_in6 six
    cdef sockaddr nowhere
    cdef bint v4 = is_v4(dst)
    cdef int fd = k.probe4 if v4 else k.probe6
    if fd < 0:
        return -ENETDOWN
    memset(&nowhere, 0, sizeof(nowhere))
    nowhere.sa_family = <uint16_t> AF_UNSPEC
    connect(fd, &nowhere, sizeof(nowhere))         # forget the source address of the time before
    if v4:
        memset(&four, 0, sizeof(four))
        four.sin_family = <uint16_t> AF_INET
        four.sin_port = 0xffff                     # any; nothing is sent
        memcpy(&four.sin_addr, dst + 12, 4)
        return fd if connect(fd, <const sockaddr *> &four, sizeof(four)) == 0 else -errno
    to_sockaddr6(k, dst, &six)
    six.sin6_port = 0xffff
    return fd if connect(fd, <const sockaddr *> &six, sizeof(six)) == 0 else -errno


cdef int kernel_route(link_t *self, const uint8_t *dst, uint8_t *src) noexcept nogil:
    """The address that the kernel would send from. Asked ten times a second at most while destinations are few."""
    cdef kernel_ip_t *k = <kernel_ip_t *> self.state
    cdef sockaddr_in6 name
    cdef unsigned int size = sizeof(name)
    cdef route_t *known = &k.routes[(dst[15] ^ dst[14] ^ dst[13]) & (KERNEL_ROUTES - 1)]
    cdef int fd
    if k.now_ns < known.until_ns and memcmp(dst, known.dst, 16) == 0:
        memcpy(src, known.src, 16)
        return 0
    fd = ask(k, dst)
    if fd < 0:
        return fd
    if getsockname(fd, <sockaddr *> &name, &size) < 0:
        return -errno
    if is_v4(dst):
        memset(src, 0, 10)
        src[10] = src[11] = 0xff
        memcpy(src + 12, &(<sockaddr_in *> &name).sin_addr, 4)
    else:
        memcpy(src, &name.sin6_addr, 16)
        if src[0] == 0xfe and src[1] & 0xc0 == 0x80:
            src[2] = 0
            src[3] = 1                             # the stack's number of this link
    memcpy(known.dst, dst, 16)
    memcpy(known.src, src, 16)
    known.until_ns = k.now_ns + ROUTE_NS
    return 0


cdef uint32_t path_mtu(kernel_ip_t *k, const uint8_t *dst, bint v4) noexcept nogil:
    """What the kernel says; 0: nothing."""
    cdef int mtu = 0, fd = ask(k, dst), r
    cdef unsigned int size = sizeof(mtu)
    if fd < 0:
        return 0
    if v4:
        r = getsockopt(fd, IPPROTO_IP, IP_MTU, &mtu, &size)
    else:
        r = getsockopt(fd, IPPROTO_IPV6, IPV6_MTU, &mtu, &size)
    return <uint32_t> mtu if r == 0 and mtu > 0 else 0


# --- out --------------------------------------------------------------------------------------------------------------

cdef void note_too_big(kernel_ip_t *k, const uint8_t *packet, uint32_t length) noexcept nogil:
    """The kernel's device carries less than we thought: tell the stack as a router would (RFC 1191, RFC 8201)."""
    cdef uint8_t dst[16]
    cdef uint32_t mtu, at, quoted
    cdef bint v4 = packet[0] >> 4 == 4
    cdef uint8_t *p = k.note
    k.too_big += 1
    if k.note_length:
        return                                     # one at a time: the next retransmission asks again
    memset(dst, 0, 16)
    if v4:
        dst[10] = dst[11] = 0xff
        memcpy(dst + 12, packet + 16, 4)
    else:
        memcpy(dst, packet + 24, 16)
    mtu = path_mtu(k, dst, v4)
    if mtu == 0 or mtu >= length:
        return
    quoted = length if length < QUOTE else QUOTE
    at = IPV4_HEADER if v4 else IPV6_HEADER
    memset(p, 0, at + 8)
    memcpy(p + at + 8, packet, quoted)
    if v4:
        p[0] = 0x45
        store_be16(p + 2, <uint16_t> (at + 8 + quoted))
        p[8] = 64
        p[9] = PROTOCOL_ICMP
        memcpy(p + 12, packet + 12, 4)             # from ourselves, as Linux does
        memcpy(p + 16, packet + 12, 4)
        store_native16(p + 10, checksum_finish(checksum_partial(p, at)))
        p[at] = ICMP_UNREACHABLE
        p[at + 1] = 4                              # fragmentation needed
        store_be16(p + at + 6, <uint16_t> (mtu if mtu < 65535 else 65535))
        store_native16(p + at + 2, checksum_finish(checksum_partial(p + at, 8 + quoted)))
    else:
        p[0] = 0x60
        store_be16(p + 4, <uint16_t> (8 + quoted))
        p[6] = PROTOCOL_ICMPV6
        p[7] = 64
        memcpy(p + 8, packet + 8, 16)
        memcpy(p + 24, packet + 8, 16)
        p[at] = ICMP6_TOO_BIG
        store_be32(p + at + 4, mtu)
        store_native16(p + at + 2, checksum_finish(checksum_combine(
            checksum_pseudo_ipv6(p + 8, p + 24, PROTOCOL_ICMPV6, 8 + quoted), checksum_partial(p + at, 8 + quoted), 0)))
    k.note_length = at + 8 + quoted


cdef inline uint8_t *waiting(kernel_ip_t *k, uint32_t mtu, uint32_t i) noexcept nogil:
    return k.output + <size_t> ((k.out_first + i) % KERNEL_BATCH) * mtu


cdef void send_waiting(link_t *self) noexcept nogil:
    """Hand packets to the kernel, one system call for a run of one version, until none waits or it has no room."""
    cdef kernel_ip_t *k = <kernel_ip_t *> self.state
    cdef mmsghdr messages[KERNEL_BATCH]
    cdef iovec parts[KERNEL_BATCH]
    cdef sockaddr_in6 to[KERNEL_BATCH]
    cdef sockaddr_in *four
    cdef uint8_t *p
    cdef uint32_t n, i, length
    cdef uint8_t version
    cdef int sent, fd
    k.blocked = 0
    while k.out_count:
        version = waiting(k, self.mtu, 0)[0] >> 4
        fd = k.out4 if version == 4 else k.out6
        memset(messages, 0, k.out_count * sizeof(mmsghdr))
        n = 0
        while n < k.out_count:
            p = waiting(k, self.mtu, n)
            if p[0] >> 4 != version:
                break
            parts[n].iov_base = p
            parts[n].iov_len = k.out_lengths[(k.out_first + n) % KERNEL_BATCH]
            messages[n].msg_hdr.msg_iov = &parts[n]
            messages[n].msg_hdr.msg_iovlen = 1
            messages[n].msg_hdr.msg_name = &to[n]
            if version == 4:
                four = <sockaddr_in *> &to[n]
                memset(four, 0, sizeof(sockaddr_in))
                four.sin_family = <uint16_t> AF_INET
                memcpy(&four.sin_addr, p + 16, 4)
                messages[n].msg_hdr.msg_namelen = sizeof(sockaddr_in)
            else:
                to_sockaddr6(k, p + 24, &to[n])
                messages[n].msg_hdr.msg_namelen = sizeof(sockaddr_in6)
            n += 1
        sent = sendmmsg(fd, messages, n, MSG_DONTWAIT)
        if sent < 0 and errno == EINTR:
            continue
        if sent < 0 and (errno == EAGAIN or errno == ENOBUFS or errno == ENOMEM):
            k.blocked = 1
            k.retry_ns = k.now_ns + RETRY_NS
            return
        if sent < 0:
            k.last_error = errno
            k.dropped += 1
            length = k.out_lengths[k.out_first]
            if errno == EMSGSIZE:
                note_too_big(k, waiting(k, self.mtu, 0), length)
            sent = 1
        k.out_first = (k.out_first + <uint32_t> sent) % KERNEL_BATCH
        k.out_count -= <uint32_t> sent


cdef int kernel_claim(link_t *self, uint32_t head_length, uint32_t body_length,
                      uint8_t **head, uint8_t **body) noexcept nogil:
    cdef kernel_ip_t *k = <kernel_ip_t *> self.state
    cdef uint8_t *p
    if self.dead or head_length > self.mtu or body_length > self.mtu - head_length:
        return -1
    if k.out_count == KERNEL_BATCH:
        send_waiting(self)
        if k.out_count == KERNEL_BATCH:
            return -1
    k.claimed = head_length + body_length
    p = waiting(k, self.mtu, k.out_count)
    head[0] = p
    body[0] = p + head_length
    return 0


cdef void kernel_commit(link_t *self, int64_t now_ns) noexcept nogil:
    cdef kernel_ip_t *k = <kernel_ip_t *> self.state
    k.now_ns = now_ns
    k.out_lengths[(k.out_first + k.out_count) % KERNEL_BATCH] = k.claimed
    k.out_count += 1


cdef void kernel_flush(link_t *self) noexcept nogil:
    if (<kernel_ip_t *> self.state).out_count:
        send_waiting(self)


cdef int64_t kernel_next_deadline(link_t *self) noexcept nogil:
    cdef kernel_ip_t *k = <kernel_ip_t *> self.state
    return k.retry_ns if k.blocked else NEVER


cdef void kernel_advance(link_t *self, int64_t now_ns) noexcept nogil:
    cdef kernel_ip_t *k = <kernel_ip_t *> self.state
    k.now_ns = now_ns
    if k.blocked and now_ns >= k.retry_ns:
        send_waiting(self)
