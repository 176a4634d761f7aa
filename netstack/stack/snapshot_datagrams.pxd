"""Datagram and raw sockets in a snapshot."""

from libc.stdint cimport int64_t

from netstack.stack.core cimport stack_t
from netstack.stack.snapshot_format cimport Reader
from netstack.udp.endpoint cimport udp_endpoint_t


cdef bytes datagram_record(const udp_endpoint_t *ep)
cdef object restore_datagram(stack_t *c, Reader r, list plan, int64_t shift)
