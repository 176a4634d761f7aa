"""Connections and listeners in a snapshot."""

from libc.stdint cimport int64_t

from netstack.stack.core cimport stack_t
from netstack.stack.snapshot_format cimport Reader
from netstack.tcp.tcb cimport tcb_t


cdef bytes tcp_record(const tcb_t *tcb)
# *families* gets the ids in a listener's accept queue, for when all sockets are there.
cdef tcb_t *restore_tcp(stack_t *c, Reader r, dict plans, int64_t shift, dict families) except NULL
