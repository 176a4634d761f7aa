"""The kernel's sockets as C sees them: what the relay calls, and addresses there and here."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from netstack.address cimport address_from_v4, address_is_v4, address_t, address_v4
from netstack.wire.byte_order cimport be16_to_host, host_to_be16

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr:
        uint16_t sa_family
    struct linger:
        int l_onoff
        int l_linger
    struct msghdr:
        void *msg_name
        unsigned int msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *m)
    cmsghdr *CMSG_NXTHDR(msghdr *m, cmsghdr *c)
    uint8_t *CMSG_DATA(cmsghdr *c)
    size_t CMSG_LEN(size_t n)
    int AF_INET, AF_INET6, SOCK_STREAM, SOCK_DGRAM, SOCK_CLOEXEC, SOCK_NONBLOCK
    int SOL_SOCKET, SO_ERROR, SO_LINGER, SO_OOBINLINE, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_ERRQUEUE, SHUT_WR
    int socket(int family, int type, int protocol)
    int connect(int fd, const sockaddr *address, unsigned int length)
    int accept4(int fd, sockaddr *address, unsigned int *length, int flags)
    int shutdown(int fd, int how)
    int setsockopt(int fd, int level, int name, const void *value, unsigned int length)
    int getsockopt(int fd, int level, int name, void *value, unsigned int *length)
    ssize_t send(int fd, const void *data, size_t n, int flags)
    ssize_t recv(int fd, void *data, size_t n, int flags)
    ssize_t sendto(int fd, const void *data, size_t n, int flags, const sockaddr *to, unsigned int length)
    ssize_t recvfrom(int fd, void *data, size_t n, int flags, sockaddr *src, unsigned int *length)
    ssize_t recvmsg(int fd, msghdr *message, int flags)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    int IPPROTO_IP, IPPROTO_IPV6, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP
    int IP_TTL, IP_RECVERR, IPV6_UNICAST_HOPS, IPV6_RECVERR, IPV6_V6ONLY

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY

cdef extern from * nogil:
    """
    #include <time.h>
    #include <linux/errqueue.h>
    """
    struct sock_extended_err:
        uint32_t ee_errno
        uint8_t ee_origin
        uint8_t ee_type
        uint8_t ee_code
        uint32_t ee_info
    enum:
        SO_EE_ORIGIN_ICMP
        SO_EE_ORIGIN_ICMP6

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void *ptr
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL
    unsigned int EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLLET
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int most, int timeout)


cdef union kernel_name_t:        # a struct sockaddr of either family
    sockaddr any
    sockaddr_in v4
    sockaddr_in6 v6


cdef inline unsigned int name_write(kernel_name_t *name, const address_t *a, uint16_t port) noexcept nogil:
    """The kernel's form of an address and a port in host order; its length."""
    memset(name, 0, sizeof(kernel_name_t))
    if address_is_v4(a):
        name.v4.sin_family = <uint16_t> AF_INET
        name.v4.sin_port = host_to_be16(port)
        name.v4.sin_addr.s_addr = address_v4(a)
        return sizeof(sockaddr_in)
    name.v6.sin6_family = <uint16_t> AF_INET6
    name.v6.sin6_port = host_to_be16(port)
    memcpy(name.v6.sin6_addr.s6_addr, a, 16)
    return sizeof(sockaddr_in6)


cdef inline bint name_read(const kernel_name_t *name, address_t *a, uint16_t *port) noexcept nogil:
    """False: of neither family."""
    if name.any.sa_family == AF_INET:
        address_from_v4(a, name.v4.sin_addr.s_addr)
        port[0] = be16_to_host(name.v4.sin_port)
        return True
    if name.any.sa_family == AF_INET6:
        memcpy(a, name.v6.sin6_addr.s6_addr, 16)
        port[0] = be16_to_host(name.v6.sin6_port)
        return True
    return False
