"""Ports of the kernel held for a stack whose IP is the kernel's, and the filters that go with them."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from netstack.link.link cimport port_keeper_t

cdef enum:
    PORTS = 65536
    FILTER_PORTS = 200           # so many ports a filter names; beyond, it lets every port through


cdef struct filter_t:
    # What the raw sockets of one transport let through.
    int raw4                     # descriptors; -1: none
    int raw6
    uint16_t ports[FILTER_PORTS] # those the filter in the kernel names, the newest last
    uint32_t count
    uint8_t everything           # the filter names none and lets all through


cdef struct kernel_ports_t:
    port_keeper_t keeper         # first: what the stack calls
    int *held[2]                 # by port: descriptor of the socket that holds it, plus 1; [0] TCP, [1] UDP
    uint32_t count[2]
    filter_t filters[2]
    int family                   # AF_INET6 where the kernel has IPv6, else AF_INET


cdef int ports_init(kernel_ports_t *p) noexcept nogil            # 0, or -ENOMEM; the filters' descriptors are set after it
cdef void ports_close(kernel_ports_t *p) noexcept nogil          # every port goes back to the kernel
cdef void ports_free(kernel_ports_t *p) noexcept nogil
cdef int filter_install(filter_t *f) noexcept nogil              # 0 or -errno
cdef int attach_nothing(int fd) noexcept nogil                   # a filter that drops everything: 0 or -errno

cdef inline bint ports_hold(const kernel_ports_t *p, int udp, uint16_t port) noexcept nogil:
    return p.held[udp][port] != 0
