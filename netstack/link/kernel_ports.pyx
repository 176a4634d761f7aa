# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Ports of the kernel held for a stack whose IP is the kernel's (``kernel_ip``).

A port of the stack is a port of the kernel's addresses too: the kernel must neither give it to another program nor answer
for it. A socket of the kernel holds it, which listens (TCP; one that is only bound does not keep the kernel from sending
a reset) or is bound (UDP), with a classic BPF filter that drops everything. The raw sockets see each packet all the same.

A port is held at every address and for both versions, more than a socket that is bound to one address needs: the kernel
says EADDRINUSE when any program has the port anywhere.
"""

from libc.errno cimport EINVAL, ENOMEM, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.unistd cimport close

from netstack.link.link cimport KEEPER_REUSEADDR

cdef extern from "<sys/socket.h>" nogil:
    cdef struct sockaddr:
        pass
    int AF_INET, AF_INET6, SOCK_STREAM, SOCK_DGRAM, SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET, SO_REUSEADDR, SO_ATTACH_FILTER
    int SO_LOCK_FILTER
    int socket(int family, int type, int protocol)
    int bind(int fd, const sockaddr *address, unsigned int length)
    int listen(int fd, int backlog)
    int setsockopt(int fd, int level, int option, const void *value, unsigned int length)

cdef extern from "<netinet/in.h>" nogil:
    cdef struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
    cdef struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
    int IPPROTO_IPV6, IPV6_V6ONLY
    uint16_t htons(uint16_t v)

cdef extern from "<linux/filter.h>" nogil:
    cdef struct sock_filter:
        uint16_t code
        uint8_t jt
        uint8_t jf
        uint32_t k
    cdef struct sock_fprog:
        unsigned short len
        sock_filter *filter
    int BPF_LD, BPF_LDX, BPF_H, BPF_B, BPF_ABS, BPF_IND, BPF_MSH, BPF_JMP, BPF_JEQ, BPF_K, BPF_RET

cdef enum:
    EVERYTHING = 0xffffffff      # what a filter returns to keep a whole packet


# --- filters ----------------------------------------------------------------------------------------------------------

cdef inline void instruction(sock_filter *at, int code, uint8_t jt, uint8_t jf, uint32_t k) noexcept nogil:
    at.code = <uint16_t> code
    at.jt = jt
    at.jf = jf
    at.k = k


cdef int attach(int fd, sock_filter *program, uint32_t n) noexcept nogil:
    cdef sock_fprog whole
    whole.len = <unsigned short> n
    whole.filter = program
    return -errno if setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &whole, sizeof(whole)) else 0


cdef int attach_nothing(int fd) noexcept nogil:
    cdef sock_filter program
    instruction(&program, BPF_RET | BPF_K, 0, 0, 0)
    return attach(fd, &program, 1)


cdef int attach_ports(int fd, bint v6, const filter_t *f) noexcept nogil:
    """Let through what goes to one of the ports. IPv4 raw sockets show the IP header, IPv6 ones the transport's."""
    cdef sock_filter program[FILTER_PORTS + 4]
    cdef uint32_t n = 0, i
    if f.everything:
        instruction(&program[0], BPF_RET | BPF_K, 0, 0, EVERYTHING)
        return attach(fd, program, 1)
    if v6:
        instruction(&program[0], BPF_LD | BPF_H | BPF_ABS, 0, 0, 2)
        n = 1
    else:
        instruction(&program[0], BPF_LDX | BPF_B | BPF_MSH, 0, 0, 0)
        instruction(&program[1], BPF_LD | BPF_H | BPF_IND, 0, 0, 2)
        n = 2
    for i in range(f.count):               # to the last instruction, over the rest and the one that drops
        instruction(&program[n + i], BPF_JMP | BPF_JEQ | BPF_K, <uint8_t> (f.count - i), 0, f.ports[i])
    n += f.count
    instruction(&program[n], BPF_RET | BPF_K, 0, 0, 0)
    instruction(&program[n + 1], BPF_RET | BPF_K, 0, 0, EVERYTHING)
    return attach(fd, program, n + 2)


cdef int filter_install(filter_t *f) noexcept nogil:
    cdef int r
    if f.raw4 >= 0:
        r = attach_ports(f.raw4, False, f)
        if r < 0:
            return r
    if f.raw6 >= 0:
        return attach_ports(f.raw6, True, f)
    return 0


cdef bint names(const filter_t *f, uint16_t port) noexcept nogil:
    cdef uint32_t i
    if f.everything:
        return True
    for i in range(f.count):
        if f.ports[i] == port:
            return True
    return False


cdef int let_through(kernel_ports_t *p, int udp, uint16_t port) noexcept nogil:
    """The raw sockets show what goes to a port from now on. Ports given back since the last change go out with it; one
    that the filter still names costs nothing until then, since `kernel_ip` looks at the port again."""
    cdef filter_t *f = &p.filters[udp]
    cdef uint32_t i, kept = 0
    cdef int each
    if names(f, port):
        if f.everything and p.count[udp] < FILTER_PORTS // 4:
            f.count = 0                    # few again: name them
            for each in range(PORTS):
                if p.held[udp][each]:
                    f.ports[f.count] = <uint16_t> each
                    f.count += 1
            f.everything = 0
            return filter_install(f)
        return 0
    for i in range(f.count):
        if p.held[udp][f.ports[i]]:
            f.ports[kept] = f.ports[i]
            kept += 1
    f.count = kept
    if kept == FILTER_PORTS:
        f.everything = 1
        f.count = 0
    else:
        f.ports[kept] = port
        f.count = kept + 1
    return filter_install(f)


# --- ports ------------------------------------------------------------------------------------------------------------

cdef int hold(kernel_ports_t *p, int udp, uint16_t port, bint reuse) noexcept nogil:
    """A descriptor of a socket that holds the port and says nothing; -errno: the kernel does not give it."""
    cdef sockaddr_in6 six
    cdef sockaddr_in four
    cdef int fd, r, on = 1, off = 0
    fd = socket(p.family, (SOCK_DGRAM if udp else SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)
    if fd < 0:
        return -errno
    r = attach_nothing(fd)                 # before anything can reach it
    if r == 0 and setsockopt(fd, SOL_SOCKET, SO_LOCK_FILTER, &on, sizeof(on)):
        r = -errno
    if r == 0 and reuse and not udp:       # past the kernel's own connections in TIME-WAIT, never past its listeners
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on))
    if r == 0 and p.family == AF_INET6:
        memset(&six, 0, sizeof(six))
        six.sin6_family = <uint16_t> AF_INET6
        six.sin6_port = htons(port)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off))
        r = -errno if bind(fd, <const sockaddr *> &six, sizeof(six)) else 0
    elif r == 0:
        memset(&four, 0, sizeof(four))
        four.sin_family = <uint16_t> AF_INET
        four.sin_port = htons(port)
        r = -errno if bind(fd, <const sockaddr *> &four, sizeof(four)) else 0
    if r == 0 and not udp and listen(fd, 1):
        r = -errno
    if r < 0:
        close(fd)
        return r
    return fd


cdef int ports_claim(port_keeper_t *keeper, int udp, uint16_t port, int flags) noexcept nogil:
    cdef kernel_ports_t *p = <kernel_ports_t *> keeper
    cdef int fd, r
    if port == 0:
        return -EINVAL
    if p.held[udp][port]:
        return 0
    fd = hold(p, udp, port, flags & KEEPER_REUSEADDR != 0)
    if fd < 0:
        return fd
    p.held[udp][port] = fd + 1
    p.count[udp] += 1
    r = let_through(p, udp, port)
    if r < 0:
        ports_release(keeper, udp, port)
        return r
    return 0


cdef void ports_release(port_keeper_t *keeper, int udp, uint16_t port) noexcept nogil:
    cdef kernel_ports_t *p = <kernel_ports_t *> keeper
    if p.held[udp] == NULL or not p.held[udp][port]:
        return
    close(p.held[udp][port] - 1)
    p.held[udp][port] = 0
    p.count[udp] -= 1


# --- life -------------------------------------------------------------------------------------------------------------

cdef int ports_init(kernel_ports_t *p) noexcept nogil:
    cdef int udp
    memset(p, 0, sizeof(kernel_ports_t))
    p.family = AF_INET
    p.keeper.claim = ports_claim
    p.keeper.release = ports_release
    for udp in range(2):
        p.filters[udp].raw4 = p.filters[udp].raw6 = -1
        p.held[udp] = <int *> calloc(PORTS, sizeof(int))     # pages that no port touches cost nothing
        p.keeper.users[udp] = <uint32_t *> calloc(PORTS, sizeof(uint32_t))
        if p.held[udp] == NULL or p.keeper.users[udp] == NULL:
            return -ENOMEM
    return 0


cdef void ports_close(kernel_ports_t *p) noexcept nogil:
    cdef int udp, port
    for udp in range(2):
        for port in range(PORTS):
            if p.count[udp] == 0:
                break
            ports_release(&p.keeper, udp, <uint16_t> port)


cdef void ports_free(kernel_ports_t *p) noexcept nogil:
    cdef int udp
    ports_close(p)
    for udp in range(2):
        free(p.held[udp])
        free(p.keeper.users[udp])
        p.held[udp] = NULL
        p.keeper.users[udp] = NULL
