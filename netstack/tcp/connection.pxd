"""What happens to a connection as a whole: opened, established, closed, aborted; and what the application asks of it."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from netstack.tcp.tcb cimport request_t, segment_t, tcb_t, tcp_t

cdef enum:
    ISN_STEP = 65537             # how far above its forerunner a connection begins: beyond any unscaled window


cdef void connection_open(tcb_t *tcb, uint32_t link_mss) noexcept nogil        # active; the four names are set
cdef void connection_from_request(tcb_t *child, const request_t *r) noexcept nogil                   # passive: in SYN-RECEIVED
cdef void connection_raise_isn(tcb_t *tcb, uint32_t last) noexcept nogil       # begin above that sequence number
cdef void connection_options(tcb_t *tcb, const segment_t *seg, uint32_t link_mss) noexcept nogil
cdef void connection_established(tcb_t *tcb) noexcept nogil
cdef void connection_abort(tcb_t *tcb, int32_t error, bint reset) noexcept nogil
cdef void connection_time_wait(tcb_t *tcb) noexcept nogil
cdef void connection_finished(tcb_t *tcb) noexcept nogil                       # reached CLOSED in good order
cdef void connection_close(tcb_t *tcb) noexcept nogil                          # the application's close
cdef void connection_shutdown_write(tcb_t *tcb) noexcept nogil
cdef void connection_consumed(tcb_t *tcb) noexcept nogil                       # the application read something
cdef uint32_t connection_poll(const tcb_t *tcb) noexcept nogil                 # EVENT_*
cdef void lent_drain(tcb_t *tcb) noexcept nogil
cdef void leave(tcb_t *tcb) noexcept nogil                                     # CLOSED, out of every list of TCP
cdef uint8_t window_shift(const tcb_t *tcb) noexcept nogil                     # what our SYN offers
cdef uint32_t receive_space(const tcb_t *tcb) noexcept nogil                   # what the window may say
cdef int bare_reserve(tcp_t *tcp) noexcept nogil                               # room for one segment of ours; -1: no memory
cdef void keepalive_start(tcb_t *tcb) noexcept nogil
cdef void queue_bare(tcp_t *tcp, const segment_t *seg, uint32_t seq, uint32_t ack, uint8_t flags) noexcept nogil
cdef uint16_t receive_window_field(tcb_t *tcb, bint syn) noexcept nogil        # the field to send; moves rcv_adv
