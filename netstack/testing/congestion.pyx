# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A congestion control by itself: no stack, no packets; acknowledgements are said to it, and its window read."""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from netstack.tcp.congestion.controller cimport (
    congestion_ack, congestion_ecn, congestion_find, congestion_idle, congestion_loss, congestion_recovered, congestion_rto,
    congestion_start, congestion_stop, congestion_switch, congestion_undo,
)
from netstack.tcp.tcb cimport CLOSED, congestion_ops_t, rate_sample_t, tcb_t, tcp_config_init, tcp_t


cdef class CongestionProbe:
    """The algorithm of one connection, inside the guard rails of the core.

    Parameters
    ----------
    name : str
        Which.
    mss : int
        Payload of a full segment, bytes.
    cwnd : int
        The window it begins with, segments.
    rtt_ns : int
        Round trip of the handshake; 0: not measured.
    hystart : int
        As ``net.ipv4.tcp_cubic_hystart``.
    now_ns : int
        Time at its start.

    Raises
    ------
    LookupError
        There is no such algorithm.
    """

    cdef tcb_t *tcb
    cdef tcp_t *tcp

    def __cinit__(self, str name, *, uint32_t mss=1000, uint32_t cwnd=10, int64_t rtt_ns=0, uint8_t hystart=2,
                  int64_t now_ns=1000000000):
        cdef bytes text = name.encode()
        self.tcp = <tcp_t *> calloc(1, sizeof(tcp_t))
        self.tcb = <tcb_t *> calloc(1, sizeof(tcb_t))
        if self.tcp == NULL or self.tcb == NULL:
            raise MemoryError
        tcp_config_init(&self.tcp.config)
        self.tcp.config.cubic_hystart = hystart
        self.tcp.now_ns = now_ns
        self.tcp.random[0] = 1
        self.tcb.state = CLOSED
        self.tcb.tcp = self.tcp
        self.tcb.rec = &self.tcp.idle
        self.tcb.settings = &self.tcp.defaults
        self.tcb.ecn = &self.tcp.no_ecn
        self.tcb.srtt_ns = rtt_ns
        self.tcb.cc.mss = mss
        self.tcb.cc_ops = congestion_find(<const char *> text)
        if self.tcb.cc_ops == NULL:
            raise LookupError(name)
        congestion_start(self.tcb, cwnd * mss)

    def __dealloc__(self):
        if self.tcb != NULL:
            if self.tcb.cc_ops != NULL:
                congestion_stop(self.tcb)
            free(self.tcb)
        free(self.tcp)

    def ack(self, uint32_t acked=0, *, int64_t now_ns=0, int64_t rtt_ns=0, uint32_t sacked=0, uint32_t lost=0,
            uint32_t ce_bytes=0, uint32_t in_flight=0, uint32_t prior_in_flight=0, uint32_t delivered=0,
            int64_t interval_ns=0, prior_delivered=0, uint32_t tx_in_flight=0, bint app_limited=False,
            bint cwnd_limited=True, bint in_recovery=False, bint ece=False):
        """An acknowledgement; the arguments are the fields of a rate sample, bytes and nanoseconds. Returns cwnd."""
        cdef rate_sample_t rs
        memset(&rs, 0, sizeof(rs))
        if now_ns:
            self.tcp.now_ns = now_ns
        rs.now_ns = self.tcp.now_ns
        rs.rtt_ns = rtt_ns
        rs.acked = acked
        rs.sacked = sacked
        rs.lost = lost
        rs.ce_bytes = ce_bytes
        rs.in_flight = in_flight
        rs.prior_in_flight = prior_in_flight if prior_in_flight else in_flight + acked
        rs.delivered = delivered
        rs.interval_ns = interval_ns
        rs.prior_delivered = prior_delivered
        rs.tx_in_flight = tx_in_flight
        rs.app_limited = app_limited
        rs.cwnd_limited = cwnd_limited
        rs.in_recovery = in_recovery
        rs.ece = ece
        self.tcb.cc.delivered += acked + sacked
        if rtt_ns:
            self.tcb.cc.srtt_ns = rtt_ns if self.tcb.srtt_ns == 0 else (7 * self.tcb.srtt_ns + rtt_ns) // 8
            self.tcb.srtt_ns = self.tcb.cc.srtt_ns
            if self.tcb.cc.min_rtt_ns == 0 or rtt_ns < self.tcb.cc.min_rtt_ns:
                self.tcb.cc.min_rtt_ns = rtt_ns
        congestion_ack(self.tcb, &rs)
        return self.tcb.cc.cwnd

    def loss(self, uint32_t in_flight=0):
        """A loss episode begins."""
        congestion_loss(self.tcb, in_flight)

    def rto(self, uint32_t in_flight=0):
        """The first timeout of an episode."""
        congestion_rto(self.tcb, in_flight)

    def ecn(self, uint32_t in_flight=0):
        """A window with ECE."""
        congestion_ecn(self.tcb, in_flight)

    def recovered(self):
        """The episode is over."""
        congestion_recovered(self.tcb)

    def undo(self):
        """The last reduction was spurious."""
        congestion_undo(self.tcb)

    def idle(self, int64_t idle_ns, int64_t rto_ns):
        """Data after a silence."""
        self.tcb.rto_ns = rto_ns
        self.tcp.now_ns += idle_ns
        congestion_idle(self.tcb, idle_ns)

    def switch(self, str name):
        """Go on with another algorithm."""
        cdef bytes text = name.encode()
        cdef const congestion_ops_t *ops = congestion_find(<const char *> text)
        if ops == NULL:
            raise LookupError(name)
        congestion_switch(self.tcb, ops)

    @property
    def name(self):
        return self.tcb.cc_ops.name.decode()

    @property
    def now_ns(self):
        return self.tcp.now_ns

    @property
    def cwnd(self):
        """Bytes."""
        return self.tcb.cc.cwnd

    @cwnd.setter
    def cwnd(self, uint32_t value):
        self.tcb.cc.cwnd = value
        self.tcb.cc_peak = value

    @property
    def ssthresh(self):
        """Bytes."""
        return self.tcb.cc.ssthresh

    @ssthresh.setter
    def ssthresh(self, uint32_t value):
        self.tcb.cc.ssthresh = value

    @property
    def cwnd_clamp(self):
        return self.tcb.cc.cwnd_clamp

    @cwnd_clamp.setter
    def cwnd_clamp(self, uint32_t value):
        self.tcb.cc.cwnd_clamp = value

    @property
    def pacing_rate(self):
        """Bytes per second; 0: not paced."""
        return self.tcb.cc.pacing_rate

    @property
    def clamped(self):
        """How often the core corrected the algorithm."""
        return self.tcp.counters.congestion_clamped

    @property
    def info(self):
        """What TCP_CC_INFO gives."""
        cdef uint8_t out[20]
        memset(out, 0, sizeof(out))
        if self.tcb.cc_ops.info == NULL:
            return b""
        return <bytes> out[:self.tcb.cc_ops.info(&self.tcb.cc, out)]
