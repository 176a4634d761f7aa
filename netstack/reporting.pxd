"""The driver's half of ``netstack ss`` and ``netstack neigh``: its service thread answers who asks what there is.

A connection to the host's socket (AF_UNIX, SOCK_SEQPACKET, in the user's folder) is the question. The answer: one packet
with a `report_head_t`, packets of whole `report_t` records, a `report_mark_t`, packets of whole `neighbor_report_t`
records, end of file. Only a process of the same user is answered. The records are taken a batch at a time under the stack's lock; whoever reads them slowly is waited for, outside of it, with
the descriptor among those that the service thread sleeps on, and is cut off after a second.
"""

from libc.stdint cimport uint32_t, uint64_t

from netstack.driver cimport driver_t, reporting_t

cdef enum:
    REPORT_MAGIC = 0x314b534e    # "NSK1" in memory
    REPORT_BATCH = 48            # records in a packet: about 20 KiB
    NEIGHBOR_BATCH = 256         # about 11 KiB
    NEIGHBOR_MAGIC = 0x4749454e  # "NEIG"

cdef enum:                       # report_cursor_t.section
    REPORT_SOCKETS = 0
    REPORT_MARK = 1
    REPORT_NEIGHBORS = 2


cdef struct report_head_t:
    uint32_t magic
    uint32_t record_bytes        # sizeof(report_t) there
    uint32_t sockets             # how many there were
    uint32_t time_wait
    uint64_t segments_in
    uint64_t segments_out


cdef struct report_mark_t:
    # Between the sockets and the neighbours; shorter than any record.
    uint32_t magic
    uint32_t record_bytes        # sizeof(neighbor_report_t) there


cdef void reporting_init(reporting_t *r, int listening) noexcept nogil       # -1: nobody can ask
cdef void reporting_close(reporting_t *r) noexcept nogil
# Go on with the answer, or begin one. Lock held on entry and exit, given away in between.
cdef void reporting_step(driver_t *d) noexcept nogil
