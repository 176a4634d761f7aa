"""A judge of TCP traces that shares no code with the stack: what may one end say, given what it has heard? (RFC 9293)

It reads the segments of both directions as one end saw them, in their order, derives that end's states and variables
and complains where what the end sent contradicts them. It knows nothing of the application, of lost frames or of
memory, so it forbids rather than demands: the end may have ignored any segment, but it must never say what it cannot
know.

Sequence numbers inside are plain integers that count from each side's SYN, as in `netstack.testing.scripted_peer`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from netstack.testing.packets import TCP, flag_bits

MASK = 0xFFFFFFFF
HALF = 1 << 31
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, AE = 1, 2, 4, 8, 16, 32, 64, 128, 256
ACE = AE | CWR | ECE                   # RFC 9768: a field of three bits
CE = 3                                 # IP's codepoint (RFC 3168 section 5)
ACE_START = 5                          # RFC 9768 section 3.2.1
MSS_DEFAULT = 536                      # RFC 9293 section 3.7.1
MSS_FLOOR = 216                        # net.ipv4.tcp_min_snd_mss: a smaller offer is taken for this much
INITIAL_SEGMENTS = 10                  # RFC 6928
ACK_DELAY_MAX_NS = 500_000_000         # RFC 9293 section 3.8.6.3
KEPT = 1 << 20                         # acknowledged bytes of a stream that are kept at most twice

CLOSED, SYN_SENT, SYN_RCVD, ESTABLISHED = "CLOSED", "SYN_SENT", "SYN_RCVD", "ESTABLISHED"
FIN_WAIT_1, FIN_WAIT_2, CLOSING, TIME_WAIT = "FIN_WAIT_1", "FIN_WAIT_2", "CLOSING", "TIME_WAIT"
CLOSE_WAIT, LAST_ACK = "CLOSE_WAIT", "LAST_ACK"


class Segment(NamedTuple):
    """One TCP segment of a trace, as `netstack.testing.Recorder.segments` gives them (as bare tuples).

    ``connection`` names the four addresses and ports from the point of view of the end that is judged, the same for
    both directions. ``mss`` and ``wscale`` are -1 where the option is missing, so is ``tsval``.
    """

    t_ns: int
    out: bool
    connection: bytes
    flags: int
    seq: int
    ack: int
    window: int
    payload: bytes
    mss: int = -1
    wscale: int = -1
    sack_ok: bool = False
    tsval: int = -1
    tsecr: int = 0
    sack: tuple[tuple[int, int], ...] = ()
    fast_open: bool = False
    option_bytes: int = 0
    tos: int = 0
    sound: bool = True                 # both checksums right and the lengths possible


def segment_of(packet: Any) -> Segment | None:
    """A parsed packet of a log as a segment; None when it is no TCP segment, or a damaged one that came in."""
    out = packet.direction == "out"
    if packet.protocol != TCP or packet.sport is None:
        return None
    sound = bool(packet.ip_ok and packet.checksum_ok)
    if not sound and not out:
        return None
    local, remote = (packet.src, packet.dst) if out else (packet.dst, packet.src)
    ports = (packet.sport, packet.dport) if out else (packet.dport, packet.sport)
    tsval, tsecr = packet.timestamp or (-1, 0)
    return Segment(
        packet.t_ns, out, f"{local}:{ports[0]} {remote}:{ports[1]}".encode(), flag_bits(packet.flags), packet.seq,
        packet.ack, packet.window, bytes(packet.payload), -1 if packet.mss is None else packet.mss,
        -1 if packet.window_scale is None else packet.window_scale, bool(packet.sack_permitted), tsval, tsecr,
        tuple(packet.sack or ()), has_fast_open(packet.options), len(packet.options), packet.tos, sound)


def has_fast_open(options: bytes) -> bool:
    """Whether raw options hold a Fast Open cookie or a request for one (RFC 7413 section 4.1.1)."""
    at = 0
    while at < len(options) and options[at]:
        if options[at] == 1:
            at += 1
            continue
        if at + 1 >= len(options) or options[at + 1] < 2:
            return False
        if options[at] == 34 or options[at] == 254 and options[at + 2:at + 4] == b"\xf9\x89":
            return True
        at += options[at + 1]
    return False


class Violation(NamedTuple):
    """Something an end must not have said."""

    rule: str
    text: str
    t_ns: int
    segment: str

    def __str__(self) -> str:
        return f"{self.t_ns / 1e9:.9f} s: {self.rule}: {self.text}\n    {self.segment}"


class Ranges:
    """Disjoint half-open ranges, sorted."""

    __slots__ = ("ends", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Merge one in."""
        starts, ends = self.starts, self.ends
        i = bisect_left(ends, start)
        j = i
        while j < len(starts) and starts[j] <= end:
            start, end = min(start, starts[j]), max(end, ends[j])
            j += 1
        starts[i:j] = [start]
        ends[i:j] = [end]

    def covers(self, start: int, end: int) -> bool:
        i = bisect_left(self.ends, end)
        return i < len(self.starts) and self.starts[i] <= start

    def overlaps(self, start: int, end: int) -> bool:
        i = bisect_left(self.ends, start + 1)
        return i < len(self.starts) and self.starts[i] < end

    def absorb(self, nxt: int) -> int:
        """Where the run that contains or touches `nxt` ends; what lies below is forgotten."""
        starts, ends = self.starts, self.ends
        while starts and starts[0] <= nxt:
            nxt = max(nxt, ends[0])
            del starts[0], ends[0]
        return nxt


class Connection:
    """One connection as one end sees it.

    Attributes
    ----------
    state : str
        Of the end that is judged, by RFC 9293 section 3.3.2, as far as segments tell (LISTEN is CLOSED here).
    """

    def __init__(self, judge: StateChecker) -> None:
        self.judge = judge
        self.state = CLOSED
        self.iss: Any = None             # a number once our SYN is seen
        self.other_isses: list[int] = []       # of SYN,ACKs before: a cookie (RFC 4987) is a new number each time
        self.irs: Any = None             # and the peer's
        self.last_syn: Segment | None = None   # the last that came in, since our last SYN,ACK
        # what we send
        self.una = 0                           # acknowledged for certain
        self.una_before = self.una_at = 0      # and until when that was less: frames of a pass are seen before they act
        self.una_heard = 0                     # the highest acknowledgement heard, perhaps from a segment we ignored
        self.nxt = 0
        self.answered = False                  # the peer reacted to data of ours
        self.edge = 0                          # one past what the peer ever allowed
        self.fin: int | None = None
        self.stream = bytearray()
        self.base = 1                          # sequence number of its first byte
        self.my_syn: Any = None
        self.mss = MSS_DEFAULT
        self.peer_shift = self.my_shift = 0
        # what we receive
        self.rcv_nxt = 0                       # the most we can have received in order
        self.ranges = Ranges()                 # beyond
        self.repeats: deque[tuple[int, int]] = deque(maxlen=64)      # what came more than once (RFC 2883)
        self.newest: tuple[int, int] | None = None                   # the last piece that came beyond a gap
        self.texts = 0                         # segments with data heard since we last spoke
        self.rcv_edge = 0                      # one past what we ever offered
        self.fins: set[int] = set()            # where FINs said that the stream ends
        self.furthest = 0                      # one past the last byte heard, wherever it lay
        self.ends_twice = False                # there are bytes behind a FIN: which the end took shows in nothing
        self.peer_fin: int | None = None       # the one that we acknowledged
        self.acked = 0                         # our last acknowledgement number
        self.owed_since: int | None = None     # since when data in order, up to owed_to, waits for our acknowledgement
        self.owed_to = 0
        self.peer_syn: Any = None
        self.heard_acks: deque[int] = deque(maxlen=512)              # fields of segments heard: what a RST may answer
        self.heard_ends: deque[int] = deque(maxlen=512)
        self.stamps = self.sack = self.fast_open = False
        self.tsval: int | None = None
        self.tsecr: int | None = None
        self.heard_stamps: set[int] = set()
        self.newest_stamp: int | None = None
        self.stamps_went = 0                   # by how much it moved, in all
        # congestion notification
        self.ecn_asked = self.ecn_answered = 0     # flags of SYNs and SYN,ACKs, of either side, all that passed
        self.ecn_everywhere = False                # our SYN was ECT: all we send may be (RFC 8257 section 3.5)
        self.heard_ce = 0                          # packets
        self.heard_ece = False                     # since we last said CWR
        self.alarms = 0                            # duplicates heard since; three, SACK, or sending again are a loss
        # Those before the last CWR, until all that it covered is acknowledged: of several losses in a window each
        # may be found, and told, by itself.
        self.old_alarms = 0
        self.cwr_covers = 0
        self.reflects = 2                          # segments that may tell how a SYN,ACK came (RFC 9768 3.2.2.1)

    @property
    def embryonic(self) -> bool:
        """A listener's child that may not count as established yet: there may be no room for it."""
        return self.nxt <= 1 and self.my_syn is not None and bool(self.my_syn[3] & ACK)

    @property
    def over(self) -> bool:
        """Whether nothing is left to say on either side, as far as can be told."""
        return self.state in (CLOSED, TIME_WAIT) or bool(
            self.fin is not None and self.una_heard > self.fin and self.fins)

    # --- numbers ----------------------------------------------------------------------------------------------------

    def mine(self, number: int) -> int:
        """A number of our own sequence space, counted from our SYN."""
        return self.nxt + ((number - self.iss - self.nxt + HALF) & MASK) - HALF

    def theirs(self, number: int) -> int:
        return self.rcv_nxt + ((number - self.irs - self.rcv_nxt + HALF) & MASK) - HALF

    def complain(self, seg: Segment, rule: str, text: str) -> None:
        self.judge.complain(seg, rule, f"{text} (state {self.state}, SND.UNA {self.una}, SND.NXT {self.nxt}, allowed "
                            f"to {self.edge}; RCV.NXT {self.rcv_nxt}, offered to {self.rcv_edge})")

    # --- what comes in ----------------------------------------------------------------------------------------------

    def hear(self, seg: Segment) -> None:
        flags = seg[3]
        self.heard_acks.append(seg[5])
        self.heard_ends.append((seg[4] + len(seg[7]) + (flags & SYN > 0) + (flags & FIN)) & MASK)
        self.hear_congestion(seg, flags)
        if self.irs is not None and (seg[7] or flags & FIN):
            self.hear_again(seg)
        if flags & RST:
            self.hear_reset(seg)
            return
        if flags & SYN:
            self.hear_syn(seg)
            return
        if self.iss is None or self.irs is None:
            return
        if self.other_isses and flags & ACK and self.una < 1 and (seg[5] - self.iss) & MASK != 1:
            for iss in self.other_isses:       # one of the cookies before the last is what came back
                if (seg[5] - iss) & MASK == 1:
                    self.iss = iss
        seq = self.theirs(seg[4])
        end = seq + len(seg[7])
        fresh = True
        if self.stamps and seg[11] >= 0:
            self.heard_stamps.add(seg[11])
            newest = self.newest_stamp
            fresh = newest is None or (seg[11] - newest) & MASK < HALF
            if fresh:
                # Beyond half the circle "newer" depends on which of them the end took.
                self.stamps_went += 0 if newest is None else (seg[11] - newest) & MASK
                self.newest_stamp = seg[11]
        if not flags & ACK:
            return
        ack = self.mine(seg[5])
        # whether the end must have taken it, whatever it made of the segments before
        certain = fresh and self.stamps_went < HALF and (seg[11] >= 0 or not self.stamps) and \
            seq <= self.acked <= end and self.una <= ack <= self.nxt
        self.hear_ack(seg, ack, certain)
        if ack <= self.nxt and (seg[7] or flags & FIN):
            # with an acknowledgement that is too old it may have been refused (RFC 5961 section 5.2)
            self.hear_text(seg, seq, end, certain, fresh and ack >= self.una_heard)

    def hear_congestion(self, seg: Segment, flags: int) -> None:
        if flags & SYN:
            self.note_ecn(flags)
            if flags & ACK:
                self.reflects += 1
        elif flags & ECE:
            self.heard_ece = True
        if seg[16] & 3 == CE:
            self.heard_ce += 1

    def note_ecn(self, flags: int) -> None:
        """Of a SYN or SYN,ACK of either side. In a simultaneous open SYN,ACKs answer each other."""
        if flags & ACK:
            self.ecn_answered |= flags & ACE
        else:
            self.ecn_asked |= flags & ACE

    def hear_ack(self, seg: Segment, ack: int, certain: bool) -> None:
        if ack > self.nxt:
            return
        if ack > self.una_heard:
            self.una_heard = ack
            if ack >= self.cwr_covers:
                self.old_alarms = 0
        elif ack < self.nxt and not seg[7]:
            self.alarms += 1
        if seg[13]:
            self.alarms += 3
        if self.nxt > 1 and ack >= 1:
            self.answered = True
        edge = ack + (seg[6] << self.peer_shift)
        if edge > self.edge:
            self.edge = edge
        if self.una_heard >= 1 and self.state == SYN_RCVD:
            self.state = ESTABLISHED if self.fin is None else FIN_WAIT_1
        if certain and ack > self.una:
            if seg[0] != self.una_at:
                self.una_before, self.una_at = self.una, seg[0]
            self.una = ack
            if ack - self.base > 2 * KEPT:
                del self.stream[:ack - self.base - KEPT]
                self.base = ack - KEPT
        if self.fin is not None and self.una > self.fin:
            if self.state == FIN_WAIT_1:
                self.state = FIN_WAIT_2
            elif self.state == CLOSING:
                self.state = TIME_WAIT
            elif self.state == LAST_ACK:
                self.state = CLOSED

    def hear_again(self, seg: Segment) -> None:
        """What of a segment had been heard before: also one that is refused for another reason may be reported."""
        start = self.theirs(seg[4]) + (seg[3] & SYN > 0)
        end = start + len(seg[7]) + (seg[3] & FIN)
        if start < min(end, self.rcv_nxt):
            self.repeats.append((start, min(end, self.rcv_nxt)))
        if end > self.rcv_nxt and self.ranges.starts and self.ranges.overlaps(start, end):
            self.repeats.append((start, end))

    def hear_text(self, seg: Segment, seq: int, end: int, certain: bool, fresh: bool) -> None:
        # A FIN takes a number; whether it is the end shows when that is acknowledged. One that was acknowledged before,
        # as the SYN or a byte, is no FIN's.
        if end > seq and any(seq <= fin < end for fin in self.fins) or seg[3] & FIN and end < self.furthest:
            self.ends_twice = True
        self.furthest = max(self.furthest, end)
        if seg[3] & FIN and end >= max(self.acked, 1):
            self.fins.add(end)
            end += 1
        if self.peer_fin is not None:
            end = min(end, self.peer_fin + 1)  # nothing lies behind an end
        if end > self.rcv_edge + 1 and not seq <= self.rcv_nxt < self.rcv_edge:
            # What was never offered may be cut off, and its FIN with it; or taken, when it comes in order.
            end = max(self.rcv_edge + 1, seq)
        start = max(seq, self.rcv_nxt)
        self.newest = None
        self.texts += 1
        if start < end:
            if start > self.rcv_nxt:
                self.newest = (start, end) if fresh else None
                self.ranges.add(start, end)
            else:
                self.rcv_nxt = self.ranges.absorb(end) if self.ranges.starts else end
                if self.owed_since is None and certain and end <= self.rcv_edge and not self.fins and \
                        not self.embryonic and self.state in (ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2):
                    self.owed_since, self.owed_to = seg[0], end

    def hear_syn(self, seg: Segment) -> None:
        if seg[11] >= 0:
            self.heard_stamps.add(seg[11])
        if self.state == SYN_SENT:
            if seg[3] & ACK and (seg[5] - self.iss) & MASK not in range(1, self.nxt + 1):
                return
            self.take_syn(seg)
            if seg[3] & ACK:
                self.una = self.una_heard = self.mine(seg[5])
                self.edge = max(self.edge, self.una + seg[6])
                self.state = ESTABLISHED
            else:
                self.state = SYN_RCVD
        elif self.iss is None and self.irs is None and not seg[3] & ACK:
            self.take_syn(seg)
        elif self.state == SYN_RCVD and seg[3] & ACK and seg[4] == self.irs:
            self.hear_ack(seg, self.mine(seg[5]), True)               # of a simultaneous open
        self.last_syn = seg                    # perhaps of the next connection: our SYN,ACK will tell

    def take_syn(self, seg: Segment) -> None:
        self.peer_syn = seg
        self.irs = seg[4]
        self.rcv_nxt = 1
        self.acked = max(self.acked, 0)
        self.mss = max(seg[8] if seg[8] > 0 else MSS_DEFAULT, MSS_FLOOR)
        self.fast_open = self.fast_open or seg[14]
        self.edge = max(self.edge, 1 + seg[6])
        self.newest_stamp = seg[11] if seg[11] >= 0 else None
        if self.my_syn is not None:
            self.agree()
        if seg[7] and (seg[14] or self.fast_open):
            self.rcv_edge = max(self.rcv_edge, 1 + len(seg[7]))
            self.hear_text(seg, 1, 1 + len(seg[7]), False, True)

    def agree(self) -> None:
        """What both SYNs offer (RFC 7323 sections 2.2 and 3.2, RFC 2018 section 2)."""
        mine, peer = self.my_syn, self.peer_syn
        self.stamps = mine[11] >= 0 and peer[11] >= 0
        self.sack = mine[10] and peer[10]
        if mine[9] >= 0 and peer[9] >= 0:
            self.my_shift, self.peer_shift = min(mine[9], 14), min(peer[9], 14)
        else:
            self.my_shift = self.peer_shift = 0

    def hear_reset(self, seg: Segment) -> None:
        if self.state == SYN_SENT:
            if seg[3] & ACK and 0 < self.mine(seg[5]) <= self.nxt:
                self.state = CLOSED
        elif self.irs is not None and self.state not in (CLOSED, TIME_WAIT):
            at = self.theirs(seg[4])
            if at == self.rcv_nxt == self.acked:
                self.state = CLOSED

    # --- what goes out ----------------------------------------------------------------------------------------------

    def say(self, seg: Segment) -> None:
        self.speak(seg)
        self.texts = 0

    def speak(self, seg: Segment) -> None:
        flags = seg[3]
        if flags & SYN and flags & (FIN | RST) or flags & FIN and not flags & ACK:
            self.complain(seg, "flags", "a combination that means nothing")
        if flags & RST:
            self.say_reset(seg)
            return
        if flags & SYN:
            self.say_syn(seg)
            return
        if not flags & ACK:
            self.complain(seg, "ack flag", "every segment but the first SYN and some RSTs acknowledges (3.10.7.4)")
            return
        if self.iss is None or self.irs is None:
            if self.state != CLOSED or self.peer_syn is None:
                self.complain(seg, "handshake", "a segment of a connection that was never opened")
            return
        if self.state == CLOSED:
            if self.fin is None or self.una_heard <= self.fin or seg[7] or flags & FIN:
                self.complain(seg, "closed", "speaks after the connection is over")
                return
        elif self.state == SYN_SENT or (self.una_heard < 1 and not self.fast_open):
            if seg[7] or flags & FIN or self.state == SYN_SENT:
                self.complain(seg, "handshake", "speaks before its SYN is acknowledged")
                return
        seq = self.mine(seg[4])
        end = seq + len(seg[7])
        self.say_congestion(seg, end > self.nxt)
        if seg[7]:
            self.say_text(seg, seq, end)
        if flags & FIN:
            self.say_fin(seg, end)
        elif end == seq and seq != self.nxt and not self.una - 1 <= seq < max(self.una_heard, self.una):
            self.complain(seg, "sequence", f"an acknowledgement at {seq}, neither SND.NXT nor a probe below SND.UNA")
        self.say_ack(seg)
        if self.stamps:
            self.say_stamps(seg)
        elif seg[11] >= 0:
            self.complain(seg, "timestamps", "were not agreed (RFC 7323 section 3.2)")
        if seg[13]:
            self.say_sack(seg)

    def say_congestion(self, seg: Segment, fresh: bool) -> None:
        """RFC 3168 section 6.1, RFC 9768 section 3. fresh: there is data that was not sent before."""
        flags, codepoint = seg[3] & ACE, seg[16] & 3
        if not flags and not codepoint:
            return
        if not self.ecn_asked or not self.ecn_answered:
            self.complain(seg, "ecn", "was not agreed (RFC 3168 section 6.1.1)")
        elif self.ecn_answered == ECE:         # else AccECN, or both kinds of answer were seen
            if codepoint and not (fresh and seg[7]) and not self.ecn_everywhere:
                self.complain(seg, "ecn", "ECT on what is not new data (RFC 3168 sections 6.1.4 to 6.1.6)")
            if flags & ECE and not self.heard_ce:
                self.complain(seg, "ecn", "ECE although no CE came (RFC 3168 section 6.1.3)")
            if flags & CWR:
                if not (fresh and seg[7]):
                    self.complain(seg, "ecn", "CWR on what is not new data (RFC 3168 section 6.1.2)")
                elif not self.heard_ece and self.alarms < 3 and self.old_alarms < 3:
                    self.complain(seg, "ecn", "CWR after neither ECE nor a loss (RFC 3168 section 6.1.2)")
                self.heard_ece, self.old_alarms, self.alarms = False, self.alarms, 0
                self.cwr_covers = self.nxt
        elif self.ecn_answered & (CWR | AE) and not self.ecn_answered & ECE and self.heard_ce < 8:
            count = ((flags >> 6) - ACE_START) & 7
            if count > self.heard_ce and (self.reflects <= 0 or flags >> 6 not in (2, 3, 4, 6)):
                self.complain(seg, "ecn", f"counts {count} packets with CE, {self.heard_ce} came (RFC 9768 3.2.1)")
            if flags >> 6 in (2, 3, 4, 6):
                self.reflects -= 1

    def say_text(self, seg: Segment, seq: int, end: int) -> None:
        payload = seg[7]
        if len(payload) + seg[15] > self.mss:
            self.complain(seg, "mss", f"{len(payload)} bytes and {seg[15]} of options, the peer takes {self.mss}")
        if seq > self.nxt:
            self.complain(seg, "gap", f"begins at {seq}, bytes from {self.nxt} were never sent")
            return
        if seq < (self.una if seg[0] != self.una_at else self.una_before):
            self.complain(seg, "acknowledged", f"sends {seq}..{end} again, all below {self.una} is acknowledged")
        if end > self.edge and not (end - seq == 1 and seq == self.edge):
            self.complain(seg, "window", f"sends up to {end} (3.8.6)")
        if self.fin is not None and end > self.fin:
            self.complain(seg, "after fin", f"data up to {end} behind the FIN at {self.fin}")
            return
        # The acknowledgement of all may have come in the same pass, behind what called for this.
        again = seg[0] == self.una_at and end <= self.nxt
        if not again and self.state in (TIME_WAIT, FIN_WAIT_2) or (self.fin is None and self.state not in (
                ESTABLISHED, CLOSE_WAIT, SYN_RCVD, FIN_WAIT_1, CLOSED)):
            self.complain(seg, "state", "data in a state without any left to send")
        if seq < self.nxt:
            self.alarms += 3
            known = min(end, self.nxt)
            if seq >= self.base and self.stream[seq - self.base:known - self.base] != payload[:known - seq]:
                self.complain(seg, "other bytes", f"sends {seq}..{known} again with other contents")
        if end > self.nxt:
            self.stream += payload[self.nxt - seq:]
            self.nxt = end
            if not self.answered and end - 1 > (INITIAL_SEGMENTS + 1) * self.mss:     # one for a tail loss probe
                self.complain(seg, "initial window", f"{end - 1} bytes before the first acknowledgement (RFC 6928)")

    def say_fin(self, seg: Segment, at: int) -> None:
        if self.fin is None:
            if at != self.nxt:
                self.complain(seg, "fin", f"ends the stream at {at}, {self.nxt} is sent")
                return
            if at >= self.edge and self.edge > 0 and at != self.una_heard:
                self.complain(seg, "window", f"a FIN at {at} (3.8.6)")
            self.fin = at
            self.nxt = at + 1
            self.state = {ESTABLISHED: FIN_WAIT_1, SYN_RCVD: FIN_WAIT_1, CLOSE_WAIT: LAST_ACK}.get(
                self.state, self.state)
        elif at != self.fin:
            self.complain(seg, "fin", f"ends the stream at {at}, before at {self.fin}")

    def say_ack(self, seg: Segment) -> None:
        ack = self.theirs(seg[5])
        if ack > self.rcv_nxt:
            self.complain(seg, "ack", f"acknowledges {ack}, which it cannot have received (3.4)")
            return
        if ack < self.acked:
            self.complain(seg, "ack", f"acknowledges {ack}, before {self.acked} (3.4)")
            return
        self.acked = ack
        if self.peer_fin is None and ack - 1 in self.fins and not self.ends_twice:
            self.peer_fin = ack - 1
            self.state = {ESTABLISHED: CLOSE_WAIT, SYN_RCVD: CLOSE_WAIT, FIN_WAIT_1: CLOSING,
                          FIN_WAIT_2: TIME_WAIT}.get(self.state, self.state)
        if self.owed_since is not None and ack >= self.owed_to:
            self.owed_since = None
        edge = ack + (seg[6] << self.my_shift)
        if edge > self.rcv_edge:
            self.rcv_edge = edge
        elif edge < self.rcv_edge and self.peer_fin is None and self.state != CLOSED:
            self.complain(seg, "shrinks", f"takes back what it offered: {edge} (3.8.6)")

    def say_stamps(self, seg: Segment) -> None:
        tsval, tsecr = seg[11], seg[12]
        if tsval < 0:
            self.complain(seg, "timestamps", "are missing (RFC 7323 section 3.2)")
            return
        if self.tsval is not None and (tsval - self.tsval) & MASK >= HALF:
            self.complain(seg, "timestamps", f"run backwards: {tsval} after {self.tsval} (RFC 7323 section 5.4)")
        self.tsval = tsval
        if tsecr != self.tsecr:
            if tsecr not in self.heard_stamps:
                self.complain(seg, "timestamps", f"echoes {tsecr}, which it never heard (RFC 7323 section 4)")
            elif self.tsecr is not None and (tsecr - self.tsecr) & MASK >= HALF:
                self.complain(seg, "timestamps", f"echoes {tsecr} after {self.tsecr} (RFC 7323 section 4.3)")
            self.tsecr = tsecr

    def say_sack(self, seg: Segment) -> None:
        if not self.sack:
            self.complain(seg, "sack", "was not agreed (RFC 2018 section 2)")
            return
        ack = self.theirs(seg[5])
        blocks = [(self.theirs(a), self.theirs(b)) for a, b in seg[13]]
        first = 0
        for i, (start, end) in enumerate(blocks):
            if not start < end:
                self.complain(seg, "sack", f"block {start}..{end} is empty (RFC 2018 section 3)")
                return
            inside = i == 0 and any(a <= start and end <= b for a, b in blocks[1:])
            if i == 0 and (end <= ack or inside):
                first = 1
                if not any(a <= start and end <= b for a, b in self.repeats):
                    self.complain(seg, "sack", f"{start}..{end} is reported twice received (RFC 2883), it came once")
            elif start <= ack:
                self.complain(seg, "sack", f"block {start}..{end} does not lie above the acknowledgement {ack}")
            elif end > self.rcv_nxt and not self.ranges.covers(max(start, self.rcv_nxt), end):
                self.complain(seg, "sack", f"block {start}..{end} was not received (RFC 2018 section 3)")
        rest = sorted(blocks[first:])
        if any(b[0] < a[1] for a, b in zip(rest, rest[1:], strict=False)):
            self.complain(seg, "sack", f"blocks overlap: {rest}")
        newest = self.newest
        again = first or any(a <= blocks[0][0] and blocks[0][1] <= b for a, b in self.repeats)
        if newest is not None and self.texts == 1 and not again and any(
                a <= newest[0] and newest[1] <= b for a, b in blocks[1:]):
            self.complain(seg, "sack", f"the block with {newest[0]}..{newest[1]}, which came last, is not the first "
                          "(RFC 2018 section 4)")

    def say_syn(self, seg: Segment) -> None:
        flags = seg[3]
        self.fast_open = self.fast_open or seg[14]
        self.note_ecn(flags)
        self.ecn_everywhere = self.ecn_everywhere or seg[16] & 3 != 0
        asked = self.last_syn
        if flags & ACK and asked is not None and asked[4] != self.irs and seg[5] == (asked[4] + 1) & MASK and \
                self.state != SYN_SENT:
            self.judge.successor(asked, seg)
            return
        if flags & ACK and asked not in (None, self.peer_syn) and self.state == CLOSED and seg[4] == self.iss:
            self.judge.successor(asked, seg)   # in the same instant, so that even our number is the same
            return
        if self.over and not flags & ACK and self.iss is not None:
            self.judge.successor(seg)
            return
        if self.my_syn is None:
            if flags & ACK and self.peer_syn is None:
                self.complain(seg, "handshake", "answers a SYN that never came")
                return
            self.iss = seg[4]
            self.nxt = 1 + len(seg[7])
            self.stream += seg[7]
            self.state = SYN_RCVD if flags & ACK else SYN_SENT
        elif seg[4] != self.iss:
            if flags & ACK and asked is not None and self.over:
                self.judge.successor(asked, seg)                      # the same names and numbers once more
                return
            if flags & ACK and asked is not None and self.nxt <= 1:
                self.other_isses.append(self.iss)                     # a cookie made anew
                self.iss = seg[4]
            else:
                self.complain(seg, "isn", f"another initial sequence number, before {self.iss}")
        elif self.my_syn[8:11] != seg[8:11] and not (flags & ACK and not self.my_syn[3] & ACK):
            self.complain(seg, "options", "of a SYN that is sent again differ from the first")
        if self.nxt > 1 if flags & ACK else self.una >= 1:     # a listener may have had no room for that answer
            self.complain(seg, "syn", "sent again although it was acknowledged")
        self.my_syn = seg
        if seg[11] >= 0:
            self.tsval = seg[11]
        if self.peer_syn is not None:
            self.agree()
        if not flags & ACK:
            self.rcv_edge = max(self.rcv_edge, 1 + seg[6])
            return
        self.last_syn = None
        self.acked = max(self.acked, 1)
        ack = self.theirs(seg[5])
        if ack != 1 and not (self.fast_open and 1 <= ack <= self.rcv_nxt):
            self.complain(seg, "ack", f"the SYN is acknowledged by 1, not {ack}")
        self.rcv_edge = max(self.rcv_edge, ack + seg[6])
        peer = self.peer_syn
        if seg[9] >= 0 > peer[9] or seg[11] >= 0 > peer[11] or seg[10] and not peer[10]:
            self.complain(seg, "options", "a SYN,ACK answers only what was offered")

    def say_reset(self, seg: Segment) -> None:
        if seg[7]:
            self.complain(seg, "reset", "with data")
        answers = seg[4] in self.heard_acks and not seg[3] & ACK
        refuses = seg[4] == 0 and seg[3] & ACK and seg[5] in self.heard_ends
        if answers and (self.embryonic or self.state in (SYN_SENT, SYN_RCVD) and self.una < 1):
            return                             # to somebody else's segment; the connection goes on (3.10.7.3, 3.10.7.4)
        if answers or refuses:
            if self.state not in (SYN_SENT, TIME_WAIT) or answers:
                self.state = CLOSED
            return
        if self.iss is None:
            self.complain(seg, "reset", "answers nothing that was heard (3.10.7.1)")
            return
        if self.state == CLOSED:
            self.complain(seg, "reset", "of a connection that is over answers nothing that was heard (3.10.7.1)")
            return
        seq = self.mine(seg[4])
        if not self.una <= seq <= self.nxt:
            self.complain(seg, "reset", f"at {seq}, the peer would not believe it (RFC 5961 section 3)")
        if seg[3] & ACK and self.irs is not None and self.theirs(seg[5]) > self.rcv_nxt:
            self.complain(seg, "ack", f"acknowledges {self.theirs(seg[5])}, which it cannot have received (3.4)")
        self.state = CLOSED


class StateChecker:
    """Judges one end by its trace.

    Attributes
    ----------
    violations : list of Violation
        What it said and must not have.
    connections : dict
        `Connection` by name; of several incarnations the last.

    Examples
    --------
    >>> pair = Pair(seed=1, loss=0.1, log=True)
    >>> pair.transfer(100_000)
    >>> judge = StateChecker()
    >>> judge.read(pair.a.log.segments())
    >>> judge.violations
    []
    """

    def __init__(self) -> None:
        self.connections: dict[bytes, Connection] = {}
        self.violations: list[Violation] = []
        self.segments = 0

    def complain(self, seg: Segment, rule: str, text: str) -> None:
        """Note a violation."""
        shown = Segment(*seg)._replace(payload=f"<{len(seg[7])} bytes>".encode())
        self.violations.append(Violation(rule, text, seg[0], str(shown)))

    def successor(self, *segments: Segment) -> None:
        """These open the next connection of the same name."""
        self.connections[segments[0][2]] = Connection(self)
        self.read(segments)
        self.segments -= len(segments)

    def read(self, segments: Iterable[Segment]) -> None:
        """Go through segments in the order in which the end saw them."""
        connections = self.connections
        for seg in segments:
            self.segments += 1
            connection = connections.get(seg[2])
            if connection is None:
                connection = connections[seg[2]] = Connection(self)
            owed = connection.owed_since
            if owed is not None and seg[0] - owed > ACK_DELAY_MAX_NS:
                if connection.state not in (CLOSED, TIME_WAIT):
                    connection.complain(seg, "delay", f"data of {owed / 1e9:.9f} s is not acknowledged (3.8.6.3)")
                connection.owed_since = None
            if not seg[17]:
                self.complain(seg, "checksum", "is wrong, or a length is")
            elif seg[1]:
                connection.say(seg)
            else:
                connection.hear(seg)

    def report(self, limit: int = 5) -> str:
        """The first violations as text; empty when there is none."""
        shown = "\n".join(str(v) for v in self.violations[:limit])
        more = len(self.violations) - limit
        return shown + (f"\n... and {more} more" if more > 0 else "")
