"""Socket options of the IP level for datagram, ping and raw sockets; the sysctls of IP and ICMP."""

from libc.stdint cimport uint8_t, uint32_t

from netstack.stack.core cimport stack_t
from netstack.udp.endpoint cimport udp_endpoint_t

# 0, -errno; -ENOPROTOOPT: none of these.
cdef int ip_option_set(stack_t *stack, udp_endpoint_t *ep, int level, int name, const uint8_t *value,
                       uint32_t n) noexcept nogil
# *size* is how many bytes *value* holds (it has room for 64) and how many were written.
cdef int ip_option_get(stack_t *stack, udp_endpoint_t *ep, int level, int name, uint8_t *value, uint32_t *size) noexcept nogil
cdef bint is_ip_sysctl(str name)
cdef int ip_sysctl_set(stack_t *stack, str name, object value) except -1     # ValueError: out of range
cdef object ip_sysctl_get(stack_t *stack, str name)
