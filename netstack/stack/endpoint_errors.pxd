"""ICMP errors find the datagram, ping and raw sockets they concern."""

from netstack.ip.icmp cimport icmp_message_t
from netstack.stack.core cimport stack_t

# False: no socket here sent what the message is about.
cdef bint endpoint_icmp_error(stack_t *stack, const icmp_message_t *m) noexcept nogil
