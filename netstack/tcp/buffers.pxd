"""Send and receive buffers: rings indexed by sequence number, grown on demand, given back when empty."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.tcp.seq cimport seq_gt
from netstack.tcp.tcb cimport data_end, tcb_t, tcp_t


cdef inline uint32_t unsent_bytes(const tcb_t *tcb) noexcept nogil:
    return data_end(tcb) - tcb.snd_nxt if seq_gt(data_end(tcb), tcb.snd_nxt) else 0


cdef inline uint32_t unsent_mark(const tcb_t *tcb) noexcept nogil:
    """Bytes not yet sent at which a writer waits: TCP_NOTSENT_LOWAT, else the sysctl as it stands; 0: none."""
    return tcb.settings.notsent_lowat if tcb.settings.notsent_lowat else tcb.tcp.config.notsent_lowat


# --- send buffer: bytes snd_una .. snd_una + snd_len (behind the SYN)
cdef uint32_t send_room(const tcb_t *tcb) noexcept nogil
cdef bint send_writable(const tcb_t *tcb) noexcept nogil                                        # poll(2)'s answer
cdef void send_tune(tcb_t *tcb) noexcept nogil                                                  # a writer waits: is it the buffer?
cdef int send_reserve(tcb_t *tcb, uint32_t n) noexcept nogil                                    # 0, or -1: no memory
cdef void send_append(tcb_t *tcb, const uint8_t *data, uint32_t n) noexcept nogil               # after send_reserve
cdef uint32_t send_append_and_copy(tcb_t *tcb, uint8_t *to, const uint8_t *data, uint32_t n,
                                   bint stream) noexcept nogil        # fused; sum
cdef uint32_t send_copy_out(const tcb_t *tcb, uint32_t seq, uint8_t *to, uint32_t n,
                            bint stream) noexcept nogil               # sum
cdef void send_acknowledged(tcb_t *tcb, uint32_t n) noexcept nogil                              # moves snd_una's side
cdef void send_forget(tcb_t *tcb) noexcept nogil                                                # of a connection that is over
# --- receive buffer: bytes rcv_read .. rcv_nxt readable, ranges beyond
cdef int receive_reserve(tcb_t *tcb, uint32_t end) noexcept nogil                               # 0, or -1: no memory
cdef uint32_t receive_store_and_sum(tcb_t *tcb, uint32_t seq, const uint8_t *data, uint32_t n) noexcept nogil
cdef void receive_store(tcb_t *tcb, uint32_t seq, const uint8_t *data, uint32_t n) noexcept nogil
cdef uint32_t receive_take(tcb_t *tcb, uint8_t *to, uint32_t n, bint peek) noexcept nogil
cdef void receive_shrink(tcb_t *tcb) noexcept nogil                                             # when empty
cdef void receive_tune(tcb_t *tcb) noexcept nogil                                               # the application took data
cdef void buffers_free(tcb_t *tcb) noexcept nogil
cdef uint8_t *pool_get(tcp_t *tcp, uint32_t capacity) noexcept nogil                            # a power of two from 4 KiB
cdef void pool_put(tcp_t *tcp, uint8_t *p, uint32_t capacity) noexcept nogil
cdef void pool_free(tcp_t *tcp) noexcept nogil
