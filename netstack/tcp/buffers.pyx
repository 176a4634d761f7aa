"""Byte rings whose index is the sequence number itself.

A byte with sequence number s lies at s & (capacity - 1), so neither ring has a head or tail of its own to keep right, and
out-of-order data goes straight to its final place. Capacities are powers of two from 4 KiB; a connection that holds no
data holds no buffer. Buffers given back wait in a small pool, so that short silences cost no malloc.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from netstack.tcp.tcb cimport TM_RCVBUF_SET, TM_SNDBUF_SET, receive_end
from netstack.wire.checksum cimport (
    checksum_and_copy, checksum_and_copy2, checksum_and_copy2_nt, checksum_and_copy_nt, checksum_combine, copy_bytes,
)

cdef enum:
    SMALLEST = 4096              # bytes
    POOL_SIZES = 12              # 4 KiB .. 8 MiB
    POOL_BYTES = 4194304         # kept at most


cdef uint8_t *pool_get(tcp_t *tcp, uint32_t capacity) noexcept nogil:
    """NULL: no memory, or more than tcp_mem allows."""
    cdef int i = 0
    cdef void *p
    if tcp.buffer_bytes + capacity > tcp.config.mem_max:
        return NULL
    while (<uint32_t> SMALLEST << i) < capacity:
        i += 1
    if i < POOL_SIZES and tcp.pool.free[i] != NULL:
        p = tcp.pool.free[i]
        tcp.pool.free[i] = (<void **> p)[0]
        tcp.pool.bytes -= capacity
    else:
        p = malloc(capacity)
    if p != NULL:
        tcp.buffer_bytes += capacity
    return <uint8_t *> p


cdef void pool_put(tcp_t *tcp, uint8_t *p, uint32_t capacity) noexcept nogil:
    cdef int i = 0
    if p == NULL:
        return
    tcp.buffer_bytes -= capacity
    while (<uint32_t> SMALLEST << i) < capacity:
        i += 1
    if i >= POOL_SIZES or tcp.pool.bytes + capacity > POOL_BYTES:
        free(p)
        return
    (<void **> p)[0] = tcp.pool.free[i]
    tcp.pool.free[i] = p
    tcp.pool.bytes += capacity


cdef void pool_free(tcp_t *tcp) noexcept nogil:
    """Give the whole stock back to the allocator."""
    cdef int i
    cdef void *p
    for i in range(POOL_SIZES):
        while tcp.pool.free[i] != NULL:
            p = tcp.pool.free[i]
            tcp.pool.free[i] = (<void **> p)[0]
            free(p)
    tcp.pool.bytes = 0


cdef uint32_t power_of_two(uint32_t n) noexcept nogil:
    cdef uint32_t c = SMALLEST
    while c < n:
        c *= 2
    return c


cdef void ring_copy(uint8_t *ring, uint32_t capacity, uint32_t seq, const uint8_t *data, uint32_t n) noexcept nogil:
    cdef uint32_t at = seq & (capacity - 1), first = capacity - at
    if first >= n:
        copy_bytes(ring + at, data, n)
    else:
        copy_bytes(ring + at, data, first)
        copy_bytes(ring, data + first, n - first)


cdef void ring_move(uint8_t *to, uint32_t to_capacity, const uint8_t *ring, uint32_t capacity,
                    uint32_t seq, uint32_t n) noexcept nogil:
    """Copy n bytes at seq from one ring into another, larger one."""
    cdef uint32_t at = seq & (capacity - 1), first = capacity - at
    if first > n:
        first = n
    ring_copy(to, to_capacity, seq, ring + at, first)
    if n > first:
        ring_copy(to, to_capacity, seq + first, ring, n - first)


# --- send buffer ------------------------------------------------------------------------------------------------------

cdef uint32_t send_room(const tcb_t *tcb) noexcept nogil:
    """Bytes the application may still put in."""
    cdef uint32_t room = tcb.snd_wanted - tcb.snd_len if tcb.snd_len < tcb.snd_wanted else 0
    cdef uint32_t lowat = unsent_mark(tcb), unsent
    if lowat:
        unsent = unsent_bytes(tcb)
        if unsent >= lowat:
            return 0
        if room > lowat - unsent:
            room = lowat - unsent
    return room


cdef bint send_writable(const tcb_t *tcb) noexcept nogil:
    """A third of the buffer is free, and less than half of TCP_NOTSENT_LOWAT waits to be sent."""
    cdef uint32_t lowat = unsent_mark(tcb)
    if lowat and 2 * <uint64_t> unsent_bytes(tcb) >= lowat:
        return False
    return tcb.snd_len < tcb.snd_wanted and 3 * <uint64_t> (tcb.snd_wanted - tcb.snd_len) >= tcb.snd_wanted


cdef void send_tune(tcb_t *tcb) noexcept nogil:
    """Let the send buffer hold twice what the network holds, while it is all in flight and both windows would take more:
    then the buffer is what limits. Up to tcp_wmem, unless the application chose a size."""
    cdef uint32_t window = tcb.cc.cwnd if tcb.cc.cwnd < tcb.snd_wnd else tcb.snd_wnd, most = tcb.tcp.config.wmem_max
    if tcb.modes & TM_SNDBUF_SET or unsent_bytes(tcb) or tcb.snd_wanted >= most or window <= tcb.snd_wanted // 2:
        return
    tcb.snd_wanted = 2 * window if window < most // 2 else most


cdef int send_reserve(tcb_t *tcb, uint32_t n) noexcept nogil:
    """Make room for n more bytes. Grows by powers of two, never beyond what holds sndbuf."""
    cdef uint32_t capacity
    cdef uint8_t *p
    if tcb.snd_len + n <= tcb.snd_cap:
        return 0
    capacity = power_of_two(tcb.snd_len + n)
    p = pool_get(tcb.tcp, capacity)
    if p == NULL:
        return -1
    if tcb.snd_len:
        ring_move(p, capacity, tcb.snd_buf, tcb.snd_cap, tcb.snd_una, tcb.snd_len)
    pool_put(tcb.tcp, tcb.snd_buf, tcb.snd_cap)
    tcb.snd_buf = p
    tcb.snd_cap = capacity
    return 0


cdef void send_append(tcb_t *tcb, const uint8_t *data, uint32_t n) noexcept nogil:
    ring_copy(tcb.snd_buf, tcb.snd_cap, tcb.snd_una + tcb.snd_len, data, n)
    tcb.snd_len += n


cdef uint32_t copy2_streaming(uint8_t *to, uint8_t *too, const uint8_t *data, uint32_t n) noexcept nogil:
    """Stored past the caches at *to*, from its next line on, and plainly at *too*."""
    cdef uint32_t head = <uint32_t> (-<size_t> to & 63), total
    if head == 0:
        return checksum_and_copy2_nt(to, too, data, n)
    if head >= n:
        return checksum_and_copy2(to, too, data, n)
    total = checksum_and_copy2(to, too, data, head)
    return checksum_combine(total, checksum_and_copy2_nt(to + head, too + head, data + head, n - head), head)


cdef uint32_t send_append_and_copy(tcb_t *tcb, uint8_t *to, const uint8_t *data, uint32_t n, bint stream) noexcept nogil:
    """The fused pass: read the user's bytes once, store them in the link's memory and here, and sum them.

    stream: the link asks for stores past the caches.
    """
    cdef uint32_t at = (tcb.snd_una + tcb.snd_len) & (tcb.snd_cap - 1), first = tcb.snd_cap - at, total
    tcb.snd_len += n
    if first >= n:
        if stream:
            return copy2_streaming(to, tcb.snd_buf + at, data, n)
        return checksum_and_copy2(to, tcb.snd_buf + at, data, n)
    total = checksum_and_copy2(to, tcb.snd_buf + at, data, first)
    if stream:
        return checksum_combine(total, copy2_streaming(to + first, tcb.snd_buf, data + first, n - first), first)
    return checksum_combine(total, checksum_and_copy2(to + first, tcb.snd_buf, data + first, n - first), first)


cdef uint32_t send_copy_out(const tcb_t *tcb, uint32_t seq, uint8_t *to, uint32_t n, bint stream) noexcept nogil:
    """Bytes at seq into the link's memory, summed in the same pass."""
    cdef uint32_t at = seq & (tcb.snd_cap - 1), first = tcb.snd_cap - at, total
    if first >= n:
        if stream and not <size_t> to & 63:
            return checksum_and_copy_nt(to, tcb.snd_buf + at, n)
        return checksum_and_copy(to, tcb.snd_buf + at, n)
    total = checksum_and_copy(to, tcb.snd_buf + at, first)
    return checksum_combine(total, checksum_and_copy(to + first, tcb.snd_buf, n - first), first)


cdef void send_acknowledged(tcb_t *tcb, uint32_t n) noexcept nogil:
    """n bytes of data are the peer's now. The caller moves ``snd_una``."""
    tcb.snd_len -= n
    if tcb.snd_len == 0:
        pool_put(tcb.tcp, tcb.snd_buf, tcb.snd_cap)
        tcb.snd_buf = NULL
        tcb.snd_cap = 0


cdef void send_forget(tcb_t *tcb) noexcept nogil:
    """Nothing of it will be sent any more."""
    pool_put(tcb.tcp, tcb.snd_buf, tcb.snd_cap)
    tcb.snd_buf = NULL
    tcb.snd_cap = 0
    tcb.snd_len = 0


# --- receive buffer ---------------------------------------------------------------------------------------------------

cdef int receive_reserve(tcb_t *tcb, uint32_t end) noexcept nogil:
    """Make the ring hold everything from ``rcv_read`` to sequence number *end*."""
    cdef uint32_t need = end - tcb.rcv_read, capacity, held
    cdef uint8_t *p
    if need <= tcb.rcv_cap:
        return 0
    capacity = power_of_two(need)
    p = pool_get(tcb.tcp, capacity)
    if p == NULL:
        return -1
    if tcb.rcv_cap:
        held = receive_end(tcb) - tcb.rcv_read
        if tcb.range_count:
            held = tcb.ranges[tcb.range_count - 1].end - tcb.rcv_read
        ring_move(p, capacity, tcb.rcv_buf, tcb.rcv_cap, tcb.rcv_read, held)
        pool_put(tcb.tcp, tcb.rcv_buf, tcb.rcv_cap)
    tcb.rcv_buf = p
    tcb.rcv_cap = capacity
    return 0


cdef uint32_t receive_store_and_sum(tcb_t *tcb, uint32_t seq, const uint8_t *data, uint32_t n) noexcept nogil:
    """Payload from the link's memory to its place, summed in the same pass; each source byte is read once."""
    cdef uint32_t at = seq & (tcb.rcv_cap - 1), first = tcb.rcv_cap - at, total
    if first >= n:
        return checksum_and_copy(tcb.rcv_buf + at, data, n)
    total = checksum_and_copy(tcb.rcv_buf + at, data, first)
    return checksum_combine(total, checksum_and_copy(tcb.rcv_buf, data + first, n - first), first)


cdef void receive_store(tcb_t *tcb, uint32_t seq, const uint8_t *data, uint32_t n) noexcept nogil:
    ring_copy(tcb.rcv_buf, tcb.rcv_cap, seq, data, n)


cdef uint32_t receive_take(tcb_t *tcb, uint8_t *to, uint32_t n, bint peek) noexcept nogil:
    """Readable bytes to the application, at most n; how many."""
    cdef uint32_t available = receive_end(tcb) - tcb.rcv_read, at, first
    if n > available:
        n = available
    if n == 0:
        return 0
    at = tcb.rcv_read & (tcb.rcv_cap - 1)
    first = tcb.rcv_cap - at
    if first >= n:
        copy_bytes(to, tcb.rcv_buf + at, n)
    else:
        copy_bytes(to, tcb.rcv_buf + at, first)
        copy_bytes(to + first, tcb.rcv_buf, n - first)
    if not peek:
        tcb.rcv_read += n
        receive_shrink(tcb)
    return n


cdef void receive_tune(tcb_t *tcb) noexcept nogil:
    """Dynamic right-sizing (Fisk and Feng): the window becomes twice what the application took in the last round trip, and
    leaves room for a sender in slow start. It only grows, up to tcp_rmem, unless the application chose a size."""
    cdef int64_t now = tcb.tcp.now_ns, rtt = tcb.rcv_rtt_ns if tcb.rcv_rtt_ns else tcb.srtt_ns
    cdef uint32_t taken = tcb.rcv_read - tcb.tune_seq, most = tcb.tcp.config.rmem_max
    cdef uint64_t window
    if now - tcb.tune_ns < rtt or rtt == 0:
        return
    if taken > tcb.tune_space and tcb.tune_ns:
        if tcb.tcp.config.moderate_rcvbuf and not tcb.modes & TM_RCVBUF_SET:
            window = 2 * <uint64_t> taken + 16 * tcb.mss
            if tcb.tune_space:
                window += 2 * (window * (taken - tcb.tune_space) // tcb.tune_space)
            if window > most:
                window = most
            if window > tcb.rcv_wanted:
                tcb.rcv_wanted = <uint32_t> window
        tcb.tune_space = taken
    tcb.tune_seq = tcb.rcv_read
    tcb.tune_ns = now


cdef void receive_shrink(tcb_t *tcb) noexcept nogil:
    if tcb.rcv_cap and tcb.rcv_read == receive_end(tcb) and tcb.range_count == 0:
        pool_put(tcb.tcp, tcb.rcv_buf, tcb.rcv_cap)
        tcb.rcv_buf = NULL
        tcb.rcv_cap = 0


cdef void buffers_free(tcb_t *tcb) noexcept nogil:
    pool_put(tcb.tcp, tcb.snd_buf, tcb.snd_cap)
    pool_put(tcb.tcp, tcb.rcv_buf, tcb.rcv_cap)
    tcb.snd_buf = NULL
    tcb.rcv_buf = NULL
    tcb.snd_cap = 0
    tcb.rcv_cap = 0
    tcb.snd_len = 0
    free(tcb.ranges)
    tcb.ranges = NULL
    tcb.range_count = 0
    tcb.range_capacity = 0
