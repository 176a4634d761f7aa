"""A binary heap with one entry per connection, keyed by (deadline, socket id).

A deadline that moves later (every acknowledgement pushes the RTO) changes nothing here: the entry is corrected when it
reaches the top. Only an earlier deadline costs a sift. Ties break by socket id, so the order of firing depends on the
connections alone and not on the history of the heap: a restored stack fires as the original would have.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, realloc

from netstack.clock cimport NEVER
from netstack.tcp.tcb cimport timer_heap_t


cdef inline int64_t earliest(const tcb_t *tcb) noexcept nogil:
    cdef int64_t d = NEVER
    if tcb.rtx_deadline and tcb.rtx_deadline < d:
        d = tcb.rtx_deadline
    if tcb.ack_deadline and tcb.ack_deadline < d:
        d = tcb.ack_deadline
    if tcb.pace_deadline and tcb.pace_deadline < d:
        d = tcb.pace_deadline
    if tcb.state_deadline and tcb.state_deadline < d:
        d = tcb.state_deadline
    if tcb.keepalive_deadline and tcb.keepalive_deadline < d:
        d = tcb.keepalive_deadline
    return d


cdef inline bint before(const tcb_t *a, const tcb_t *b) noexcept nogil:
    if a.timer_deadline != b.timer_deadline:
        return a.timer_deadline < b.timer_deadline
    return a.sock.id < b.sock.id


cdef inline void place(timer_heap_t *heap, uint32_t i, tcb_t *tcb) noexcept nogil:
    heap.items[i] = tcb
    tcb.heap_index = i + 1


cdef void sift_up(timer_heap_t *heap, uint32_t i) noexcept nogil:
    cdef tcb_t *tcb = heap.items[i]
    cdef uint32_t parent
    while i > 0:
        parent = (i - 1) // 2
        if not before(tcb, heap.items[parent]):
            break
        place(heap, i, heap.items[parent])
        i = parent
    place(heap, i, tcb)


cdef void sift_down(timer_heap_t *heap, uint32_t i) noexcept nogil:
    cdef tcb_t *tcb = heap.items[i]
    cdef uint32_t child
    while True:
        child = 2 * i + 1
        if child >= heap.count:
            break
        if child + 1 < heap.count and before(heap.items[child + 1], heap.items[child]):
            child += 1
        if not before(heap.items[child], tcb):
            break
        place(heap, i, heap.items[child])
        i = child
    place(heap, i, tcb)


cdef void timer_update(tcb_t *tcb) noexcept nogil:
    """Make the heap know a deadline that became earlier; a later one is found out when its entry comes up.

    When the heap cannot grow the timer is lost for now; the next event of the connection tries again.
    """
    cdef int64_t d = earliest(tcb)
    cdef timer_heap_t *heap = &tcb.tcp.timers
    cdef tcb_t **items
    if tcb.heap_index:
        if d < tcb.timer_deadline:
            tcb.timer_deadline = d
            sift_up(heap, tcb.heap_index - 1)
        return
    if d == NEVER:
        return
    if heap.count == heap.capacity:
        items = <tcb_t **> realloc(heap.items, (heap.capacity * 2 + 16) * sizeof(tcb_t *))
        if items == NULL:
            return
        heap.items = items
        heap.capacity = heap.capacity * 2 + 16
    tcb.timer_deadline = d
    place(heap, heap.count, tcb)
    heap.count += 1
    sift_up(heap, heap.count - 1)


cdef void timer_remove(tcb_t *tcb) noexcept nogil:
    """Take the connection out of the heap."""
    cdef timer_heap_t *heap = &tcb.tcp.timers
    cdef uint32_t i
    cdef tcb_t *last
    if tcb.heap_index == 0:
        return
    i = tcb.heap_index - 1
    tcb.heap_index = 0
    heap.count -= 1
    if i == heap.count:
        return
    last = heap.items[heap.count]
    place(heap, i, last)
    sift_up(heap, i)
    sift_down(heap, last.heap_index - 1)


cdef void settle(timer_heap_t *heap) noexcept nogil:
    """Correct the entry at the top until it says the truth."""
    cdef tcb_t *tcb
    cdef int64_t d
    while heap.count:
        tcb = heap.items[0]
        d = earliest(tcb)
        if d == tcb.timer_deadline:
            return
        if d == NEVER:
            timer_remove(tcb)
        else:
            tcb.timer_deadline = d
            sift_down(heap, 0)


cdef int64_t timers_next(tcp_t *tcp) noexcept nogil:
    settle(&tcp.timers)
    return tcp.timers.items[0].timer_deadline if tcp.timers.count else NEVER


cdef tcb_t *timers_due(tcp_t *tcp, int64_t now_ns) noexcept nogil:
    settle(&tcp.timers)
    if tcp.timers.count and tcp.timers.items[0].timer_deadline <= now_ns:
        return tcp.timers.items[0]
    return NULL


cdef void timers_free(tcp_t *tcp) noexcept nogil:
    free(tcp.timers.items)
    tcp.timers.items = NULL
    tcp.timers.count = 0
    tcp.timers.capacity = 0
