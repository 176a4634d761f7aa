"""A connection or listener as a record of a snapshot, and back."""

import struct

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, malloc
from libc.string cimport memcpy

from netstack.demux cimport demux_insert
from netstack.sock cimport SF_BOUND, SF_QUEUED_EVENT, SOCK_TCP
from netstack.stack.core cimport stack_new_tcb, stack_t
from netstack.stack.snapshot_format cimport MAX_DATA, MAX_RECORDS, Reader, need, pack, unpack
from netstack.tcp.buffers cimport receive_reserve, receive_store, send_append, send_reserve
from netstack.tcp.congestion.controller cimport congestion_default, congestion_find, congestion_reload
from netstack.tcp.ecn cimport ecn_reserve
from netstack.tcp.ranges cimport range_insert
from netstack.tcp.scoreboard cimport NONE, recovery_reserve, scoreboard_append, scoreboard_reserve, sent_at
from netstack.tcp.settings cimport settings_own
from netstack.tcp.tcb cimport (
    CC_UNSAVED, CE, ECN_ASKED, ECN_OFF, LISTEN, MAX_RECORD_ENDS, SENT_AGAIN, SENT_LISTED, SENT_LOST, SENT_SACKED,
    TF_IN_DEMUX, TF_OUTPUT, TF_SACK_OK, TIME_WAIT, TM_ORPHAN, congestion_ops_t, listener_t, range_t, receive_end,
    records_t, recovery_t, sent_t, tcb_t,
)
from netstack.tcp.timers cimport timer_update
from netstack.wire.tcp cimport ACCECN_FIELDS

from netstack.errors import SnapshotError

SENT_FORM = "<IIqQqqQIB"         # a segment in flight

cdef enum:
    NO_SIZE = 0xffffffff         # of no algorithm's state


# --- what is in flight ------------------------------------------------------------------------------------------------

cdef bytes sent_records(const tcb_t *tcb):
    """What is in flight, in the order of sequence numbers; then the order of sending, by number."""
    cdef list out = [struct.pack("<I", tcb.rec.sent_count)]
    cdef list order = []
    cdef uint32_t i, at = tcb.rec.order_first
    cdef sent_t *r
    for i in range(tcb.rec.sent_count):
        r = sent_at(tcb, i)
        out.append(struct.pack(SENT_FORM, r.start, r.end, r.sent_ns, r.delivered, r.delivered_ns, r.first_sent_ns, r.lost,
                               r.in_flight, r.flags & ~SENT_LISTED))
    while tcb.rec.sent_count and at != NONE:
        order.append((at - tcb.rec.sent_first) & (tcb.rec.sent_capacity - 1))
        at = tcb.rec.sent[at].later
    out.append(struct.pack(f"<I{len(order)}I", len(order), *order))
    return b"".join(out)


cdef object restore_sent(tcb_t *tcb, Reader r, int64_t shift):
    """Fill the scoreboard; the sums follow from the records, but for what duplicates stand for without SACK."""
    cdef uint32_t n = r.number("<I"), k, at = tcb.snd_una, sacked = tcb.rec.sacked, sacked_out = tcb.rec.sacked_out
    cdef sent_t *record
    cdef int64_t delivered_ns = tcb.rec.delivered_ns, first_sent_ns = tcb.rec.first_sent_ns
    tcb.rec.sacked = tcb.rec.sacked_out = 0
    if n > MAX_RECORDS:
        raise SnapshotError("an impossible number of segments in flight")
    for k in range(n):
        start, end, sent, delivered, delivered_at, first, lost, flight, flag = struct.unpack(
            SENT_FORM, r.take(struct.calcsize(SENT_FORM)))
        if start != at or not 0 < ((end - start) & 0xffffffff) <= MAX_DATA:
            raise SnapshotError("segments in flight that do not join")
        at = end
        need(scoreboard_reserve(tcb))
        record = scoreboard_append(tcb, start, end)
        record.sent_ns = sent + shift
        record.delivered = delivered
        record.delivered_ns = delivered_at + shift
        record.first_sent_ns = first + shift
        record.lost = lost
        record.in_flight = flight
        record.flags = flag | SENT_LISTED
    order = [r.number("<I") for _ in range(r.number("<I"))]
    if any(i >= n for i in order) or len(set(order)) != len(order):
        raise SnapshotError("an order of sending that names other segments")
    scoreboard_restore(tcb, order)
    tcb.rec.delivered_ns = delivered_ns
    tcb.rec.first_sent_ns = first_sent_ns
    if not tcb.flags & TF_SACK_OK:
        tcb.rec.sacked = sacked
        tcb.rec.sacked_out = sacked_out


cdef object scoreboard_restore(tcb_t *tcb, list order):
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t i, k, last = NONE
    cdef sent_t *record
    rec.order_first = NONE
    for i in range(rec.sent_count):
        record = sent_at(tcb, i)
        record.flags &= ~<uint8_t> SENT_LISTED
        if record.flags & SENT_SACKED:
            rec.sacked += record.end - record.start
            rec.sacked_out += 1
            record.later = rec.sent_first + i + 1
        if record.flags & SENT_LOST:
            if record.flags & SENT_SACKED:
                raise SnapshotError("a segment both lost and arrived")
            rec.lost += record.end - record.start
            rec.lost_out += 1
            if not record.flags & SENT_AGAIN:
                rec.waiting += 1
        if record.flags & SENT_AGAIN:
            rec.again += record.end - record.start
            rec.again_out += 1
    for i in order:
        k = (rec.sent_first + i) & (rec.sent_capacity - 1)
        record = &rec.sent[k]
        if record.flags & SENT_SACKED or record.flags & (SENT_LOST | SENT_AGAIN) == SENT_LOST:
            raise SnapshotError("an order of sending with a segment that is in flight no more")
        record.earlier = last
        record.later = NONE
        record.flags |= SENT_LISTED
        if last == NONE:
            rec.order_first = k
        else:
            rec.sent[last].later = k
        last = k
    rec.order_last = last


# --- connections ------------------------------------------------------------------------------------------------------

cdef bytes ring_bytes(const uint8_t *ring, uint32_t capacity, uint32_t seq, uint32_t n):
    cdef uint32_t at, first
    if n == 0:
        return b""
    at = seq & (capacity - 1)
    first = capacity - at
    if first >= n:
        return (<const char *> ring)[at:at + n]
    return (<const char *> ring)[at:capacity] + (<const char *> ring)[:n - first]


cdef bytes tcp_record(const tcb_t *tcb):
    """One connection or listener: fields, congestion control, lists it heads, ranges, both buffers."""
    cdef list out = [pack("tcp", tcb)]
    cdef uint32_t i, held, k
    cdef const tcb_t *child
    k = tcb.cc_ops.extended_size if tcb.cc.extended != NULL else 0
    out.append(struct.pack("<16sI", (<bytes> tcb.cc_ops.name)[:16], k))
    out.append(bytes(k) if not k or tcb.cc_ops.flags & CC_UNSAVED else (<const char *> tcb.cc.extended)[:k])
    out.append(b"\1" + pack("settings", tcb.settings) if tcb.settings.users else b"\0")
    out.append(b"\1" + pack("ecn", tcb.ecn) if tcb.ecn != &tcb.tcp.no_ecn else b"\0")
    k = tcb.records.count if tcb.records != NULL else 0
    out.append(struct.pack("<I", k) + ((<const char *> tcb.records.ends)[:4 * k] if k else b""))
    if tcb.listener != NULL:
        accept = []
        child = tcb.listener.accept_first
        while child != NULL:
            accept.append(child.sock.id)
            child = child.sibling
        out.append(b"\1")
        out.append(pack("listener", tcb.listener))
        resets = [tcb.listener.resets[(tcb.listener.reset_first + i) % tcb.listener.reset_capacity] - tcb.tcp.now_ns
                  for i in range(tcb.listener.reset_count)]
        out.append(struct.pack(f"<I{len(accept)}II{len(resets)}q", len(accept), *accept, len(resets), *resets))
    else:
        out.append(b"\0")
    out.append(struct.pack("<H", tcb.range_count))
    for i in range(tcb.range_count):
        out.append(struct.pack("<II", tcb.ranges[i].start, tcb.ranges[i].end))
    out.append(ring_bytes(tcb.snd_buf, tcb.snd_cap, tcb.snd_una, tcb.snd_len))   # as many as the field snd_len says
    held = receive_end(tcb) - tcb.rcv_read if tcb.rcv_cap else 0
    out.append(struct.pack("<I", held))
    out.append(ring_bytes(tcb.rcv_buf, tcb.rcv_cap, tcb.rcv_read, held))
    for k in range(tcb.range_count):
        out.append(ring_bytes(tcb.rcv_buf, tcb.rcv_cap, tcb.ranges[k].start, tcb.ranges[k].end - tcb.ranges[k].start))
    if tcb.rec == &tcb.tcp.idle:
        out.append(b"\0")
    else:
        out.append(b"\1")
        out.append(pack("recovery", tcb.rec))
        out.append(sent_records(tcb))
    return b"".join(out)


cdef object restore_extras(tcb_t *tcb, Reader r, dict plans, int64_t shift):
    """What only some connections have: settings of their own, state of ECN, ends of records."""
    cdef bytes raw
    cdef uint32_t n
    if r.number("<B"):
        need(settings_own(tcb) != NULL)
        unpack(r, plans["settings"], tcb.settings, shift)
        if tcb.settings.fast_open_key_count > 2:
            raise SnapshotError("a listener with an impossible number of keys")
    if r.number("<B"):
        need(ecn_reserve(tcb))
        unpack(r, plans["ecn"], tcb.ecn, shift)
    elif tcb.ecn_mode != ECN_OFF:
        raise SnapshotError("a connection without the state of its ECN")
    if tcb.ecn_mode > ECN_ASKED or tcb.ecn.estimate > CE or tcb.ecn.option_least > ACCECN_FIELDS:
        raise SnapshotError("a connection with an impossible kind of ECN")
    n = r.number("<I")
    if n > MAX_RECORD_ENDS:
        raise SnapshotError("a connection with too many ends of records")
    if n:
        raw = r.take(4 * n)
        tcb.records = <records_t *> malloc(sizeof(records_t))
        need(tcb.records != NULL)
        tcb.records.count = n
        memcpy(tcb.records.ends, <const char *> raw, 4 * n)


cdef tcb_t *restore_tcp(stack_t *c, Reader r, dict plans, int64_t shift, dict families) except NULL:
    cdef tcb_t *tcb = stack_new_tcb(c)
    cdef uint32_t i, length, held
    cdef bytes raw, extended
    cdef range_t duplicate
    cdef const congestion_ops_t *ops
    need(tcb != NULL)
    unpack(r, plans["tcp"], tcb, shift)
    if tcb.route_interface != 255 and tcb.route_interface > c.interface_count or tcb.state > TIME_WAIT:
        raise SnapshotError("a connection with an impossible interface or state")
    tcb.sock.kind = SOCK_TCP
    tcb.sock.flags &= ~<uint8_t> (SF_QUEUED_EVENT | SF_BOUND)
    length = tcb.snd_len
    if length > MAX_DATA:
        raise SnapshotError("a send buffer of impossible size")
    tcb.snd_len = 0
    raw = r.take(16)
    ops = congestion_find(raw.rstrip(b"\0"))
    extended = r.take(r.number("<I"))
    tcb.cc_ops = ops if ops != NULL else congestion_default()
    if tcb.modes & TM_ORPHAN:
        c.tcp.orphans += 1
    congestion_reload(tcb, <const char *> extended, <uint32_t> len(extended) if ops != NULL else NO_SIZE, shift)
    restore_extras(tcb, r, plans, shift)
    if r.number("<B"):
        tcb.listener = <listener_t *> calloc(1, sizeof(listener_t))
        need(tcb.listener != NULL)
        unpack(r, plans["listener"], tcb.listener, shift)
        families[tcb.sock.id] = [r.number("<I") for _ in range(r.number("<I"))]
        resets = [r.number("<q") for _ in range(r.number("<I"))]
        if len(resets) > tcb.settings.fast_open_max:
            raise SnapshotError("more resets remembered than Fast Open has places")
        if resets:
            tcb.listener.resets = <int64_t *> calloc(tcb.settings.fast_open_max, sizeof(int64_t))
            need(tcb.listener.resets != NULL)
            tcb.listener.reset_capacity = tcb.settings.fast_open_max
            tcb.listener.reset_count = <uint32_t> len(resets)
            for k, until in enumerate(resets):
                tcb.listener.resets[k] = c.tcp.now_ns + until
    elif tcb.state == LISTEN:
        raise SnapshotError("a listener without a queue")
    ranges = [(r.number("<I"), r.number("<I")) for _ in range(r.number("<H"))]
    raw = r.take(length)
    if length:
        need(send_reserve(tcb, length) == 0)
        send_append(tcb, <const uint8_t *> <const char *> raw, length)
    held = r.number("<I")
    if held > MAX_DATA:
        raise SnapshotError("a receive buffer of impossible size")
    raw = r.take(held)
    recent = [tcb.sack_recent[k] for k in range(3)]
    duplicate = tcb.duplicate
    if held:
        need(receive_reserve(tcb, tcb.rcv_read + held) == 0)
        receive_store(tcb, tcb.rcv_read, <const uint8_t *> <const char *> raw, held)
    for start, end in ranges:
        length = (<uint32_t> end) - (<uint32_t> start)
        if length > MAX_DATA:
            raise SnapshotError("an out-of-order range of impossible size")
        raw = r.take(length)
        need(receive_reserve(tcb, end) == 0)
        need(range_insert(tcb, start, end) == 0)
        receive_store(tcb, start, <const uint8_t *> <const char *> raw, length)
    for k in range(3):
        tcb.sack_recent[k] = recent[k]
    tcb.duplicate = duplicate
    if r.number("<B"):
        need(recovery_reserve(tcb))
        unpack(r, plans["recovery"], tcb.rec, shift)
        restore_sent(tcb, r, shift)
    if tcb.flags & TF_IN_DEMUX:
        need(demux_insert(&c.demux, tcb) == 0)
    tcb.flags &= ~TF_OUTPUT
    timer_update(tcb)
    return tcb
