"""Socket options by Linux numbers; settings by Linux sysctl names."""

from libc.stdint cimport uint8_t, uint32_t

from netstack.sock cimport sock_t
from netstack.stack.core cimport stack_t


cdef int option_set(stack_t *stack, sock_t *sock, int level, int name, const uint8_t *value, uint32_t n) noexcept nogil
cdef int option_get(stack_t *stack, sock_t *sock, int level, int name, uint8_t *value, uint32_t *n) noexcept nogil
cdef int sysctl_set(stack_t *stack, str name, object value) except -1
cdef object sysctl_get(stack_t *stack, str name)
