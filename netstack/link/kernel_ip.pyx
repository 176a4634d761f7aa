# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""TCP and UDP here, IP in the kernel (the paper's hybrid stack): packets through raw sockets, which need CAP_NET_RAW.

The kernel routes, finds neighbours, puts fragments together, and has the addresses. Raw sockets see every packet of a
transport, the kernel's own connections' too; `kernel_ports` holds our ports in the kernel, so that its TCP is silent there,
and lets the raw sockets show what goes to them only. Of ICMP they show errors and answers to pings. `kernel_input` and
`kernel_output` move the packets.
"""

import _socket                   # the kernel's sockets, also where `netstack.patch` has put ours in their place
import errno as errno_names
import os
import socket as kernel_socket
import struct
import weakref

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.unistd cimport close

from netstack.link.kernel_input cimport (
    kernel_arm, kernel_has_input, kernel_poll_fd, kernel_receive, kernel_release,
)
from netstack.link.kernel_output cimport (
    kernel_advance, kernel_claim, kernel_commit, kernel_flush, kernel_next_deadline, kernel_route,
)
from netstack.link.kernel_ports cimport (
    attach_nothing, filter_install, ports_close, ports_free, ports_hold, ports_init,
)
from netstack.link.kernel_state cimport (
    KERNEL_BATCH, KERNEL_PACKET, RAW_COUNT, RAW_ICMP4, RAW_ICMP6, RAW_TCP4, RAW_TCP6, RAW_UDP4, RAW_UDP6, kernel_ip_t,
)
from netstack.link.link cimport LINK_KERNEL_IP, MEDIA_IP, Link, link_t

from netstack.errors import LinkError
from netstack.link.kernel_addresses import kernel_addresses

cdef extern from "<sys/epoll.h>" nogil:
    cdef union epoll_data:
        uint32_t u32
    cdef struct epoll_event:
        uint32_t events
        epoll_data data
    int EPOLLIN, EPOLL_CTL_ADD, EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)

# <linux/icmp.h>, <linux/icmpv6.h>
SOL_RAW, ICMP_FILTER, ICMP6_FILTER = 255, 1, 1
ICMP_TYPES, ICMP6_TYPES = (0, 3, 11, 12), (1, 2, 3, 4, 129)      # errors, and answers to echo
RECEIVE_BUFFER = 8 << 20


class LinkPermissionError(LinkError, PermissionError):
    """This user may not open raw sockets."""


class LinkAddressError(LinkError, ValueError):
    """The kernel has no such address."""


# --- opening ----------------------------------------------------------------------------------------------------------

def _raw(family, protocol):
    """A raw socket of the kernel, non-blocking, its descriptor ours."""
    try:
        s = _socket.socket(family, kernel_socket.SOCK_RAW | kernel_socket.SOCK_NONBLOCK, protocol)
    except OSError as error:
        if error.errno in (errno_names.EPERM, errno_names.EACCES):
            raise LinkPermissionError(
                error.errno, "raw IP sockets need CAP_NET_RAW, which this process lacks: run as root, or give the "
                             "interpreter the capability (setcap cap_net_raw+ep)") from None
        raise
    return s.detach()


def _set(fd, *options):
    s = _socket.socket(fileno=os.dup(fd))
    try:
        for option in options:
            s.setsockopt(*option)
    finally:
        s.close()


def _more_room(fd):
    """As much as the kernel allows: what overflows is lost, as in any router's queue."""
    force = 33                                     # SO_RCVBUFFORCE
    try:
        _set(fd, (kernel_socket.SOL_SOCKET, force, RECEIVE_BUFFER))
    except OSError:
        _set(fd, (kernel_socket.SOL_SOCKET, kernel_socket.SO_RCVBUF, RECEIVE_BUFFER))


def _probe(family):
    try:
        s = _socket.socket(family, kernel_socket.SOCK_DGRAM)
    except OSError:
        return -1
    fd = s.detach()
    _set(fd, (kernel_socket.SOL_SOCKET, kernel_socket.SO_BROADCAST, 1))
    return fd


cdef class KernelIp(Link):
    """The kernel's IP, IPv4 and IPv6, as a link: its addresses, its routes, its neighbours.

    Parameters
    ----------
    addresses : iterable of str, optional
        Which of the kernel's addresses to use; all of those that are no loopback's by default.

    Attributes
    ----------
    addresses : tuple of str
        Those, with prefix length, for the `Host` on this link.

    Raises
    ------
    LinkPermissionError
        The process lacks CAP_NET_RAW.
    LinkAddressError
        The kernel has no such address.

    Notes
    -----
    Addresses and mtu are those of the moment. Sockets of the kernel are made in the network namespace of the thread that
    calls; one thread that left it would hold ports elsewhere.
    """

    def __cinit__(self, *args, **kwargs):
        cdef int i
        for i in range(RAW_COUNT):
            self.state.raw[i] = -1
        self.state.out4 = self.state.out6 = self.state.probe4 = self.state.probe6 = self.state.epoll_fd = -1
        if ports_init(&self.state.ports) < 0:
            raise MemoryError("no memory for the table of ports")

    def __init__(self, addresses=None):
        cdef kernel_ip_t *k = &self.state
        cdef link_t *link = &self.link
        if k.epoll_fd >= 0:
            raise RuntimeError("this link is open already")
        found = kernel_addresses()
        self.addresses = found.choose(addresses)
        link.mtu = max(576, min(found.mtu, 65535))
        k.scope = found.scope
        k.input = <uint8_t *> malloc(<size_t> KERNEL_BATCH * KERNEL_PACKET)
        k.output = <uint8_t *> malloc(<size_t> KERNEL_BATCH * link.mtu)
        if k.input == NULL or k.output == NULL:
            raise MemoryError("no memory for packets")
        try:
            self._open(found.ipv6)
        except BaseException:
            self.close()
            raise
        link.dead = 0
        link.state = k
        link.media = MEDIA_IP
        link.capabilities = LINK_KERNEL_IP
        link.ports = &k.ports.keeper
        link.route = kernel_route
        link.claim = kernel_claim
        link.commit = kernel_commit
        link.flush = kernel_flush
        link.receive = kernel_receive
        link.release = kernel_release
        link.next_deadline = kernel_next_deadline
        link.advance = kernel_advance
        link.arm = kernel_arm
        link.poll_fd = kernel_poll_fd
        link.has_input = kernel_has_input
        _links.add(self)

    def _open(self, bint ipv6):
        cdef kernel_ip_t *k = &self.state
        cdef int i, r
        four, six = kernel_socket.AF_INET, kernel_socket.AF_INET6
        ip, ip6 = kernel_socket.IPPROTO_IP, kernel_socket.IPPROTO_IPV6
        tcp, udp = kernel_socket.IPPROTO_TCP, kernel_socket.IPPROTO_UDP
        k.raw[RAW_TCP4] = _raw(four, tcp)
        k.raw[RAW_UDP4] = _raw(four, udp)
        k.raw[RAW_ICMP4] = _raw(four, kernel_socket.IPPROTO_ICMP)
        k.out4 = _raw(four, kernel_socket.IPPROTO_RAW)
        k.probe4 = _probe(four)
        wanted = 0xFFFFFFFF & ~sum([1 << t for t in ICMP_TYPES])
        _set(k.raw[RAW_ICMP4], (SOL_RAW, ICMP_FILTER, struct.pack("=I", wanted)))
        _set(k.out4, (kernel_socket.SOL_SOCKET, kernel_socket.SO_BROADCAST, 1), (ip, kernel_socket.IP_MULTICAST_LOOP, 0))
        if ipv6:
            k.ports.family = six
            k.raw[RAW_TCP6] = _raw(six, tcp)
            k.raw[RAW_UDP6] = _raw(six, udp)
            k.raw[RAW_ICMP6] = _raw(six, kernel_socket.IPPROTO_ICMPV6)
            k.out6 = _raw(six, kernel_socket.IPPROTO_RAW)
            k.probe6 = _probe(six)
            blocked = bytearray(b"\xff" * 32)      # a bit for each type, in 32-bit words of the machine
            for t in ICMP6_TYPES:
                word, = struct.unpack_from("=I", blocked, t // 32 * 4)
                struct.pack_into("=I", blocked, t // 32 * 4, word & ~(1 << t % 32))
            _set(k.raw[RAW_ICMP6], (kernel_socket.IPPROTO_ICMPV6, ICMP6_FILTER, bytes(blocked)))
            for i in (RAW_TCP6, RAW_UDP6, RAW_ICMP6):
                _set(k.raw[i], *[(ip6, option, 1) for option in (
                    kernel_socket.IPV6_RECVPKTINFO, kernel_socket.IPV6_RECVHOPLIMIT, kernel_socket.IPV6_RECVTCLASS)])
            _set(k.out6, (ip6, kernel_socket.IPV6_MULTICAST_LOOP, 0))
        k.ports.filters[0].raw4, k.ports.filters[0].raw6 = k.raw[RAW_TCP4], k.raw[RAW_TCP6]
        k.ports.filters[1].raw4, k.ports.filters[1].raw6 = k.raw[RAW_UDP4], k.raw[RAW_UDP6]
        for i in range(2):
            r = filter_install(&k.ports.filters[i])
            if r < 0:
                raise LinkError(-r, f"no packet filter: {os.strerror(-r)}")
        for i in (k.out4, k.out6):
            if i >= 0:
                r = attach_nothing(i)              # it only sends
                if r < 0:
                    raise LinkError(-r, f"no packet filter: {os.strerror(-r)}")
        k.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if k.epoll_fd < 0:
            raise OSError(errno, os.strerror(errno))
        for i in range(RAW_COUNT):
            if k.raw[i] >= 0:
                _more_room(k.raw[i])
                watch(k.epoll_fd, k.raw[i], i)

    def fileno(self):
        """A descriptor that is readable while packets wait; -1 when closed."""
        return self.state.epoll_fd

    def holds(self, port, udp=False):
        """Whether a port is held in the kernel for the stack."""
        return bool(ports_hold(&self.state.ports, udp, port))

    def stats(self):
        """What happened so far, by name: packets the kernel refused (``dropped``, of them ``too_big``), those that lacked
        their sum (``completed``), those for ports of others (``foreign``), those larger than a packet can be
        (``truncated``); and how many ports are held (``tcp_ports``, ``udp_ports``)."""
        cdef kernel_ip_t *k = &self.state
        return {"dropped": k.dropped, "too_big": k.too_big, "completed": k.completed, "foreign": k.foreign,
                "truncated": k.truncated, "tcp_ports": k.ports.count[0], "udp_ports": k.ports.count[1]}

    def close(self):
        """Close the sockets; the ports are the kernel's again. Closing twice is allowed."""
        self.link.dead = 1
        self._close_all()

    cdef void _close_all(self):
        cdef kernel_ip_t *k = &self.state
        cdef int i
        ports_close(&k.ports)
        for i in range(2):
            k.ports.filters[i].raw4 = k.ports.filters[i].raw6 = -1
        for i in range(RAW_COUNT):
            close_one(&k.raw[i])
        close_one(&k.out4)
        close_one(&k.out6)
        close_one(&k.probe4)
        close_one(&k.probe6)
        close_one(&k.epoll_fd)

    def __dealloc__(self):
        self._close_all()
        ports_free(&self.state.ports)
        free(self.state.input)
        free(self.state.output)


cdef void close_one(int *fd) noexcept nogil:
    if fd[0] >= 0:
        close(fd[0])
        fd[0] = -1


cdef int watch(int poll, int fd, int number) except -1:
    cdef epoll_event event
    memset(&event, 0, sizeof(event))
    event.events = EPOLLIN
    event.data.u32 = <uint32_t> number
    if epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) < 0:
        raise OSError(errno, os.strerror(errno))
    return 0


_links = weakref.WeakSet()


def _in_child():
    """The sockets are the parent's: a child that kept them open would hold the parent's ports behind its back."""
    cdef KernelIp link
    for link in list(_links):
        link.link.dead = 1
        link._close_all()
    _links.clear()


os.register_at_fork(after_in_child=_in_child)

