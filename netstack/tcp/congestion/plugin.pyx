"""Between two reports a connection keeps its window; a loss cuts it at once by the class's ``beta``, a timeout to one segment.
When Python has not answered for four round trips, Reno goes on until it does."""

import logging
import math
from typing import NamedTuple

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from cpython.ref cimport Py_DECREF, Py_INCREF

from netstack.address cimport address_format
from netstack.clock cimport NS_PER_S
from netstack.tcp.congestion.controller cimport (
    CONGESTION_NAME, congestion_default, congestion_find, congestion_guard, congestion_register, congestion_set_rate,
    congestion_switch, tcb_of,
)
from netstack.tcp.congestion.reno cimport reno_after_idle, reno_on_ack
from netstack.tcp.tcb cimport (
    CA_CWR, CA_RECOVERY, CC_PACED, CC_UNSAVED, congestion_t, rate_sample_t, want_output,
)

log = logging.getLogger("netstack.congestion")

cdef enum:
    PATIENCE = 4                 # round trips until Reno stands in
    FULL = 1024
    NONSENSE_BITS = 40           # a window or a rate of 2^40 or more says nothing


class Connection(NamedTuple):
    """Whose algorithm an instance is.

    Attributes
    ----------
    local, remote : tuple of (str, int)
        Addresses and ports.
    mss : int
        Payload of a full segment, bytes.
    cwnd : int
        The window it begins with, bytes.
    """

    local: tuple
    remote: tuple
    mss: int
    cwnd: int


class Decision(NamedTuple):
    """What an algorithm wants; None leaves a value as it is.

    Attributes
    ----------
    cwnd, ssthresh : int or float, optional
        Bytes.
    pacing_rate : int or float, optional
        Bytes per second.
    """

    cwnd: float | None = None
    ssthresh: float | None = None
    pacing_rate: float | None = None


cdef class Report:
    """What happened to a connection since the report before.

    Attributes
    ----------
    now_ns, interval_ns : int
        The stack's clock, and how long the report covers.
    acks : int
        Acknowledgements in it.
    acked, sacked, lost, ce_bytes : int
        Bytes acknowledged cumulatively, selectively, found lost, and that met congestion (ECN).
    rtt_ns, min_rtt_ns, last_rtt_ns : int
        Mean, smallest and newest round trip in it; 0 when none was measured.
    base_rtt_ns, srtt_ns : int
        Smallest round trip of the last minutes, and the smoothed one; 0 before the first.
    delivery_rate : int
        Bytes per second: the best sample, or what was acknowledged over the interval.
    in_flight : int
        Bytes in the network at its end.
    losses, timeouts, ecn, undone : int
        Loss episodes, timeouts, windows with ECN echoed, and reductions that turned out spurious, in it.
    app_limited, cwnd_limited, in_recovery : bool
        The application had less to send than it might; the window is what held it back; fast recovery is on.
    cwnd, ssthresh, mss : int
        Bytes, as they stand.
    pacing_rate : int
        Bytes per second; 0 when not paced.
    """

    cdef report_t r

    @property
    def now_ns(self):
        return self.r.now_ns

    @property
    def interval_ns(self):
        return self.r.now_ns - self.r.start_ns

    @property
    def acks(self):
        return self.r.acks

    @property
    def acked(self):
        return self.r.acked

    @property
    def sacked(self):
        return self.r.sacked

    @property
    def lost(self):
        return self.r.lost

    @property
    def ce_bytes(self):
        return self.r.ce_bytes

    @property
    def rtt_ns(self):
        return self.r.rtt_sum_ns // self.r.rtt_count if self.r.rtt_count else 0

    @property
    def min_rtt_ns(self):
        return self.r.rtt_min_ns

    @property
    def last_rtt_ns(self):
        return self.r.rtt_last_ns

    @property
    def base_rtt_ns(self):
        return self.r.min_rtt_ns

    @property
    def srtt_ns(self):
        return self.r.srtt_ns

    @property
    def delivery_rate(self):
        cdef int64_t t = self.r.now_ns - self.r.start_ns
        if self.r.rate_interval_ns:
            return self.r.rate_delivered * NS_PER_S // <uint64_t> self.r.rate_interval_ns
        return (self.r.acked + self.r.sacked) * NS_PER_S // <uint64_t> t if t > 0 else 0

    @property
    def in_flight(self):
        return self.r.in_flight

    @property
    def losses(self):
        return self.r.losses

    @property
    def timeouts(self):
        return self.r.timeouts

    @property
    def ecn(self):
        return self.r.ecn

    @property
    def undone(self):
        return self.r.undone

    @property
    def app_limited(self):
        return bool(self.r.app_limited)

    @property
    def cwnd_limited(self):
        return bool(self.r.cwnd_limited)

    @property
    def in_recovery(self):
        return bool(self.r.in_recovery)

    @property
    def cwnd(self):
        return self.r.cwnd

    @property
    def ssthresh(self):
        return self.r.ssthresh

    @property
    def mss(self):
        return self.r.mss

    @property
    def pacing_rate(self):
        return self.r.pacing_rate

    def __repr__(self):
        return f"<Report {self.acked} acked, {self.losses} losses, rtt {self.rtt_ns / 1e6:.3f} ms, cwnd {self.cwnd}>"


# --- folding: the packet path -----------------------------------------------------------------------------------------

cdef inline plugin_t *plugin_of(const congestion_t *cc) noexcept nogil:
    return (<plugin_t **> cc.extended)[0] if cc.extended != NULL else NULL


cdef void enqueue(plugin_t *p) noexcept nogil:
    cdef tcp_t *tcp = p.tcp
    if p.queued:
        return
    p.queued = 1
    p.next = NULL
    if tcp.plugin_first == NULL:
        tcp.plugin_first = p
    else:
        (<plugin_t *> tcp.plugin_last).next = p
    tcp.plugin_last = p


cdef void plugin_init(congestion_t *cc, int64_t now_ns) noexcept nogil:
    cdef tcb_t *tcb = tcb_of(cc)
    cdef plugin_t *p = <plugin_t *> calloc(1, sizeof(plugin_t))
    (<plugin_t **> cc.extended)[0] = p
    if p == NULL:
        return                                         # Reno, then
    p.tcb = tcb
    p.tcp = tcb.tcp
    p.kind = <const kind_t *> tcb.cc_ops
    p.local = tcb.local
    p.remote = tcb.remote
    p.lport = tcb.lport
    p.rport = tcb.rport
    p.report.start_ns = now_ns
    p.round_end = <uint32_t> cc.delivered


cdef void plugin_release(congestion_t *cc) noexcept nogil:
    cdef plugin_t *p = plugin_of(cc)
    if p != NULL:
        p.tcb = NULL
        enqueue(p)                                     # only who has the interpreter may free what Python made


cdef void plugin_load(congestion_t *cc, int64_t now_ns, int64_t shift_ns) noexcept nogil:
    plugin_init(cc, now_ns)


cdef void plugin_on_ack(congestion_t *cc, const rate_sample_t *rs) noexcept nogil:
    cdef plugin_t *p = plugin_of(cc)
    cdef report_t *r
    if p == NULL:
        reno_on_ack(cc, rs)
        return
    r = &p.report
    r.acks += 1
    r.acked += rs.acked
    r.sacked += rs.sacked
    r.lost += rs.lost
    r.ce_bytes += rs.ce_bytes
    r.now_ns = rs.now_ns
    r.in_flight = rs.in_flight
    r.app_limited |= rs.app_limited
    r.cwnd_limited |= rs.cwnd_limited
    r.in_recovery = rs.in_recovery
    if rs.rtt_ns > 0:
        r.rtt_last_ns = rs.rtt_ns
        r.rtt_sum_ns += rs.rtt_ns
        r.rtt_count += 1
        if r.rtt_min_ns == 0 or rs.rtt_ns < r.rtt_min_ns:
            r.rtt_min_ns = rs.rtt_ns
    if rs.interval_ns > 0 and (r.rate_interval_ns == 0 or
                               <double> rs.delivered * r.rate_interval_ns > <double> r.rate_delivered * rs.interval_ns):
        r.rate_delivered = rs.delivered
        r.rate_interval_ns = rs.interval_ns
    if p.kind.per_ack:
        enqueue(p)
    if <int32_t> (<uint32_t> cc.delivered - p.round_end) >= 0:
        p.round_end = <uint32_t> cc.delivered + rs.in_flight
        if p.queued and p.silent < 255:
            p.silent += 1
        enqueue(p)
    if p.silent >= PATIENCE:
        reno_on_ack(cc, rs)


cdef uint32_t cut(congestion_t *cc) noexcept nogil:
    cdef const kind_t *kind = <const kind_t *> tcb_of(cc).cc_ops
    cdef uint32_t window = <uint32_t> (<uint64_t> cc.cwnd * kind.beta // FULL)
    return window if window > 2 * cc.mss else 2 * cc.mss


cdef void plugin_on_loss(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil:
    cdef plugin_t *p = plugin_of(cc)
    cc.ssthresh = cut(cc)
    cc.cwnd = cc.ssthresh
    if p != NULL:
        p.report.losses += 1
        p.report.now_ns = now_ns
        enqueue(p)


cdef void plugin_on_rto(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil:
    cdef plugin_t *p = plugin_of(cc)
    cc.ssthresh = cut(cc)
    cc.cwnd = cc.mss
    if p != NULL:
        p.report.timeouts += 1
        p.report.now_ns = now_ns
        enqueue(p)


cdef void plugin_on_ecn(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil:
    cdef plugin_t *p = plugin_of(cc)
    cc.ssthresh = cut(cc)
    cc.cwnd = cc.ssthresh
    if p != NULL:
        p.report.ecn += 1
        p.report.now_ns = now_ns
        enqueue(p)


cdef void plugin_undo(congestion_t *cc, int64_t now_ns) noexcept nogil:
    cdef plugin_t *p = plugin_of(cc)
    cdef tcb_t *tcb = tcb_of(cc)
    if cc.cwnd < tcb.cc_prior_cwnd:
        cc.cwnd = tcb.cc_prior_cwnd
    if cc.ssthresh < tcb.cc_prior_ssthresh:
        cc.ssthresh = tcb.cc_prior_ssthresh
    if p != NULL:
        p.report.undone += 1
        p.report.now_ns = now_ns
        enqueue(p)


# --- asking Python ----------------------------------------------------------------------------------------------------

cdef plugin_t *plugin_take(tcp_t *tcp, report_t *out) noexcept nogil:
    cdef plugin_t *p = <plugin_t *> tcp.plugin_first
    cdef congestion_t *cc
    if p == NULL:
        return NULL
    tcp.plugin_first = p.next
    if p.next == NULL:
        tcp.plugin_last = NULL
    p.queued = 0
    p.silent = 0
    if p.tcb == NULL:
        return p
    cc = &p.tcb.cc
    out[0] = p.report
    out.cwnd = cc.cwnd
    out.ssthresh = cc.ssthresh
    out.mss = cc.mss
    out.pacing_rate = cc.pacing_rate
    out.srtt_ns = cc.srtt_ns
    out.min_rtt_ns = cc.min_rtt_ns
    memset(&p.report, 0, sizeof(report_t))
    p.report.start_ns = out.now_ns
    p.report.now_ns = out.now_ns
    p.report.in_recovery = out.in_recovery
    return p


cdef str name_of(const plugin_t *p):
    return f"{address_format(&p.local)}:{p.lport} -> {address_format(&p.remote)}:{p.rport}"


cdef uint64_t quantity(object value, uint32_t *nonsense) except? 0:
    """A number of bytes; 0 what is not positive, 2^40 what is beyond all links. NaN counts and means: as it was."""
    cdef double d
    if isinstance(value, int):
        d = 0.0 if value <= 0 else (2.0 ** NONSENSE_BITS if value >> NONSENSE_BITS else float(value))
    else:
        d = value
    if math.isnan(d):
        nonsense[0] += 1
        return 0
    if d < 1.0:
        return 1                                       # the guard rails make a segment of it, and count
    if d >= <double> (<uint64_t> 1 << NONSENSE_BITS):
        return <uint64_t> 1 << NONSENSE_BITS
    return <uint64_t> d


cdef bint plugin_decide(plugin_t *p, const report_t *r, decision_t *out):
    cdef Report report = Report.__new__(Report)
    cdef uint64_t n
    memset(out, 0, sizeof(decision_t))
    out.earned = r.acked + r.sacked
    report.r = r[0]
    try:
        if p.instance == NULL:
            instance = start(p, r)
            Py_INCREF(instance)
            p.instance = <PyObject *> instance
        said = (<object> p.instance).on_report(report)
        if said is None:
            return True
        if not isinstance(said, tuple):
            said = Decision(said)
        cwnd, ssthresh, pacing_rate = said
        if cwnd is not None:
            n = quantity(cwnd, &out.nonsense)
            out.cwnd = <uint32_t> (n if n < 0xffffffff else 0xffffffff)
        if ssthresh is not None:
            n = quantity(ssthresh, &out.nonsense)
            out.ssthresh = <uint32_t> (n if n < (1 << 30) else 1 << 30)
        if pacing_rate is not None:
            out.pacing_rate = quantity(pacing_rate, &out.nonsense)
        return True
    except Exception:
        log.exception("congestion control %s failed on %s: it goes on with %s", p.kind.ops.name.decode(), name_of(p),
                      congestion_default().name.decode())
        return False


cdef object start(const plugin_t *p, const report_t *r):
    """An instance for a connection."""
    return (<object> p.kind.algorithm)(Connection(
        (address_format(&p.local), p.lport), (address_format(&p.remote), p.rport), r.mss, r.cwnd))


cdef void plugin_apply(plugin_t *p, const decision_t *d) noexcept nogil:
    """Through the guard rails: growth is paid for by what the report covered."""
    cdef tcb_t *tcb = p.tcb
    cdef uint32_t before
    if tcb == NULL:
        return
    tcb.tcp.counters.congestion_clamped += d.nonsense
    before = tcb.cc.cwnd
    if d.ssthresh:
        tcb.cc.ssthresh = d.ssthresh
    if d.cwnd and (tcb.rec.state == CA_CWR or tcb.rec.state == CA_RECOVERY):
        if d.cwnd < tcb.cc_peak:
            tcb.cc.ssthresh = d.cwnd                   # where recovery, which regulates the window, will leave it
        congestion_guard(tcb, before, d.earned)
    elif d.cwnd or d.ssthresh:
        if d.cwnd:
            tcb.cc.cwnd = d.cwnd
        congestion_guard(tcb, before, d.earned)
    if d.pacing_rate:
        tcb.cc.pacing_rate = d.pacing_rate
        congestion_set_rate(tcb)
    want_output(tcb)


cdef void plugin_fail(plugin_t *p) noexcept nogil:
    cdef tcb_t *tcb = p.tcb
    cdef const congestion_ops_t *ops = congestion_default()
    if tcb == NULL:
        return
    tcb.tcp.counters.congestion_fallbacks += 1
    congestion_switch(tcb, ops)
    want_output(tcb)


cdef void plugin_discard(plugin_t *p):
    if p.instance != NULL:
        Py_DECREF(<object> p.instance)
    free(p)


cdef void plugins_run(tcp_t *tcp):
    cdef report_t report
    cdef decision_t decision
    cdef plugin_t *p
    cdef plugin_t *last = <plugin_t *> tcp.plugin_last
    while True:
        p = plugin_take(tcp, &report)
        if p == NULL:
            return
        if p.tcb == NULL:
            plugin_discard(p)
        elif plugin_decide(p, &report, &decision):
            plugin_apply(p, &decision)
        else:
            plugin_fail(p)
        if p == last:
            break                                      # what joined meanwhile has its turn next time


cdef void plugins_drop(tcp_t *tcp):
    cdef report_t report
    cdef plugin_t *p
    while True:
        p = plugin_take(tcp, &report)
        if p == NULL:
            return
        p.tcb = NULL
        plugin_discard(p)


# --- registration -----------------------------------------------------------------------------------------------------

watchers = []     # called when there is a class: who serves connections without a Stack's own calls starts then
classes = {}      # by name, for as long as the process lives


def register_class(str name, algorithm, double beta, bint per_ack):
    """Make a class known by name; see `netstack.congestion.register`."""
    cdef bytes text = name.encode()
    cdef kind_t *kind
    if not 1 <= len(text) < CONGESTION_NAME or not text.isascii() or b"\0" in text or b" " in text:
        raise ValueError(f"congestion control {name!r}: a name has 1 to 15 ASCII characters, none a space")
    if not 0.0 < beta < 1.0:
        raise ValueError(f"congestion control {name!r}: beta is {beta}, not between 0 and 1")
    if name in classes:
        replace(name, algorithm, beta, per_ack)
        return
    kind = <kind_t *> calloc(1, sizeof(kind_t))
    if kind == NULL:
        raise MemoryError
    memcpy(kind.name, <const char *> text, len(text))
    kind.ops.name = kind.name
    kind.ops.flags = CC_PACED | CC_UNSAVED
    kind.ops.extended_size = sizeof(plugin_t *)
    kind.ops.init = plugin_init
    kind.ops.release = plugin_release
    kind.ops.on_ack = plugin_on_ack
    kind.ops.on_loss = plugin_on_loss
    kind.ops.on_rto = plugin_on_rto
    kind.ops.on_ecn = plugin_on_ecn
    kind.ops.undo = plugin_undo
    kind.ops.after_idle = reno_after_idle
    kind.ops.load = plugin_load
    kind.algorithm = <PyObject *> algorithm
    kind.beta = <uint32_t> (beta * FULL)
    kind.per_ack = per_ack
    try:
        congestion_register(&kind.ops)
    except BaseException:
        free(kind)
        raise
    classes[name] = [algorithm]
    for watcher in watchers:
        watcher()


cdef object replace(str name, object algorithm, double beta, bint per_ack):
    """Connections that begin from now on get the new class; those under way keep the instance they have."""
    cdef bytes text = name.encode()
    cdef kind_t *kind = <kind_t *> congestion_find(<const char *> text)
    classes[name].append(algorithm)                    # the old one stays: an instance may still be made of it
    kind.algorithm = <PyObject *> algorithm
    kind.beta = <uint32_t> (beta * FULL)
    kind.per_ack = per_ack


def is_known(bytes name):
    """Whether there is an algorithm of that name."""
    return congestion_find(<const char *> name) != NULL
