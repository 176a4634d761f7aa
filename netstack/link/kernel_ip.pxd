"""The kernel's IP as a link: raw sockets below a TCP and UDP of our own."""

from netstack.link.kernel_state cimport kernel_ip_t
from netstack.link.link cimport Link


cdef class KernelIp(Link):
    cdef kernel_ip_t state
    cdef readonly tuple addresses
    cdef void _close_all(self)
