"""Every frame of a link into a pcapng or pcap file."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from netstack.link.tee cimport tee_t
from netstack.link.wrapper cimport Wrapper


cdef struct pcap_t:
    tee_t tee                    # first
    int fd                       # -1: closed
    int error                    # errno of the write that ended the capture, or 0
    uint8_t classic              # pcap instead of pcapng
    uint32_t snap_length         # bytes kept of each frame
    int64_t wall_offset_ns       # time told + this = nanoseconds since 1970
    int64_t written_ns           # when the buffer last went out
    uint64_t frames
    uint64_t missed              # frames not written because of an error
    uint8_t *buffer
    uint32_t used
    uint32_t capacity
    int keys_fd                  # the key log; -1: none
    int64_t keys_at              # its bytes up to here are in the file
    int64_t place_at             # where the file has a place for them
    int64_t place_end


cdef class PcapWriter(Wrapper):
    cdef pcap_t state
    cdef readonly object path
    cdef bint owns_fd
    cdef object file
    cdef int pid
