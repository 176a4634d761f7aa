"""NewReno's window (RFC 5681, RFC 3465 with L = 2); who retransmits what is ``tcp/recovery``."""

from netstack.tcp.tcb cimport congestion_ops_t, congestion_t

cdef congestion_ops_t reno_ops
