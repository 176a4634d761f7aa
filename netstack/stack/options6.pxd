"""Options of level IPPROTO_IPV6, and the sysctls under net.ipv6."""

from libc.stdint cimport int32_t, uint8_t, uint32_t

from netstack.sock cimport sock_t
from netstack.stack.core cimport stack_t

cdef int ipv6_option_set(stack_t *stack, sock_t *sock, int name, int32_t v, const uint8_t *value, uint32_t n) noexcept nogil
cdef int ipv6_option_get(stack_t *stack, sock_t *sock, int name, int32_t *v) noexcept nogil
cdef bint sysctl6_known(str name)
cdef int sysctl6_set(stack_t *stack, str name, object value) except -1
cdef object sysctl6_get(stack_t *stack, str name)
