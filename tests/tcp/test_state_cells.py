"""Every state x segment cell of RFC 9293 section 3.10.7, with RFC 5961 (blind attacks) and RFC 1337 (TIME-WAIT).

A cell says what is answered, and behind ``>`` the new state if there is one:

    -    nothing
    A    an acknowledgement, <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>
    R    <SEQ=SEG.ACK><CTL=RST>
    Z    <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>
    S    <SEQ=ISS><ACK=RCV.NXT><CTL=SYN,ACK>

The states: no socket at all, LISTEN, SYN-SENT, SYN-RECEIVED (of a listener), ESTABLISHED, FIN-WAIT-1 (the FIN is not
acknowledged), FIN-WAIT-2, CLOSE-WAIT, CLOSING, LAST-ACK, TIME-WAIT. There are no timestamps on these connections.

In TIME-WAIT, as in Linux, whatever takes sequence numbers is acknowledged, and what takes none is not looked at: the
record that is left knows no send window. What comes on a SYN besides it is not taken.
"""

import pytest

from .tools import listen, new_peer, reach

STATES = {
    "NONE": "CLOSED", "LIST": "LISTEN", "SYNS": "SYN_SENT", "SYNR": "SYN_RCVD", "ESTB": "ESTABLISHED",
    "FIN1": "FIN_WAIT_1", "FIN2": "FIN_WAIT_2", "CLOW": "CLOSE_WAIT", "CLNG": "CLOSING", "LACK": "LAST_ACK",
    "TIMW": "TIME_WAIT",
}

# Where a segment lies: seq counts from RCV.NXT, ack from SND.UNA; "all" acknowledges everything that was sent.
SEGMENTS = {
    "SYN":                      dict(flags="S", seq=0),
    "SYN, as the first":        dict(flags="S", seq="irs"),
    "SYN beyond the window":    dict(flags="S", seq=70_000),
    "SYN,ACK":                  dict(flags="SA", seq=0, ack="all"),
    "SYN,ACK of nothing":       dict(flags="SA", seq=0, ack=-1),
    "SYN,FIN":                  dict(flags="SF", seq=0),
    "ACK, nothing new":         dict(flags="A", seq=0, ack=0),
    "ACK of all":               dict(flags="A", seq=0, ack="all"),
    "ACK of what is unsent":    dict(flags="A", seq=0, ack=5_000),
    "ACK far too old":          dict(flags="A", seq=0, ack=-70_000),
    "ACK, an old segment's":    dict(flags="A", seq=-100, ack=0),
    "ACK beyond the window":    dict(flags="A", seq=70_000, ack=0),
    "data":                     dict(flags="PA", seq=0, ack=0, length=100),
    "data and ACK of all":      dict(flags="PA", seq=0, ack="all", length=100),
    "data beyond a gap":        dict(flags="PA", seq=500, ack=0, length=100),
    "data, old":                dict(flags="PA", seq=-100, ack=0, length=100),
    "data beyond the window":   dict(flags="PA", seq=70_000, ack=0, length=100),
    "data, ACK of the unsent":  dict(flags="PA", seq=0, ack=5_000, length=100),
    "data without ACK":         dict(flags="P", seq=0, length=100),
    "FIN":                      dict(flags="FA", seq=0, ack=0),
    "FIN and ACK of all":       dict(flags="FA", seq=0, ack="all"),
    "FIN, sent again":          dict(flags="FA", seq=-1, ack=0),
    "FIN beyond a gap":         dict(flags="FA", seq=500, ack=0),
    "FIN without ACK":          dict(flags="F", seq=0),
    "RST":                      dict(flags="R", seq=0),
    "RST,ACK of all":           dict(flags="RA", seq=0, ack="all"),
    "RST,ACK of nothing":       dict(flags="RA", seq=0, ack=-1),
    "RST in the window":        dict(flags="R", seq=10),
    "RST, old":                 dict(flags="R", seq=-1),
    "RST beyond the window":    dict(flags="R", seq=70_000),
    "no flag at all":           dict(flags="", seq=0),
}

CELLS = """
                          NONE  LIST    SYNS    SYNR    ESTB    FIN1    FIN2    CLOW  CLNG    LACK    TIMW
SYN                       Z     S>SYNR  S>SYNR  A       A       A       A       A     A       A       A
SYN, as the first         Z     S>SYNR  S>SYNR  S       A       A       A       A     A       A       A
SYN beyond the window     Z     S>SYNR  S>SYNR  A       A       A       A       A     A       A       S>SYNR
SYN,ACK                   R     R       A>ESTB  A       A       A       A       A     A       A       A
SYN,ACK of nothing        R     R       R       A       A       A       A       A     A       A       A
SYN,FIN                   Z     -       S>SYNR  A       A       A       A       A     A       A       A
ACK, nothing new          R     R       R       R       -       -       -       -     -       -       -
ACK of all                R     R       -       ->ESTB  -       ->FIN2  -       -     ->TIMW  ->NONE  -
ACK of what is unsent     R     R       R       R       A       A       A       A     A       A       -
ACK far too old           R     R       R       R       A       A       A       A     A       A       -
ACK, an old segment's     R     R       R       A       A       A       A       A     A       A       A
ACK beyond the window     R     R       R       A       A       A       A       A     A       A       A
data                      R     R       R       R       A       A       A       -     -       -       A
data and ACK of all       R     R       -       A>ESTB  A       A>FIN2  A       -     ->TIMW  ->NONE  A
data beyond a gap         R     R       R       R       A       A       A       -     -       -       A
data, old                 R     R       R       A       A       A       A       A     A       A       A
data beyond the window    R     R       R       A       A       A       A       A     A       A       A
data, ACK of the unsent   R     R       R       R       A       A       A       A     A       A       A
data without ACK          Z     -       -       -       -       -       -       -     -       -       -
FIN                       R     R       R       R       A>CLOW  A>CLNG  A>TIMW  -     -       -       A
FIN and ACK of all        R     R       -       A>CLOW  A>CLOW  A>TIMW  A>TIMW  -     ->TIMW  ->NONE  A
FIN, sent again           R     R       R       A       A       A       A       A     A       A       A
FIN beyond a gap          R     R       R       R       A       A       A       -     -       -       A
FIN without ACK           Z     -       -       -       -       -       -       -     -       -       -
RST                       -     -       -       ->LIST  ->NONE  ->NONE  ->NONE  ->NONE ->NONE ->NONE  -
RST,ACK of all            -     -       ->NONE  ->LIST  ->NONE  ->NONE  ->NONE  ->NONE ->NONE ->NONE  -
RST,ACK of nothing        -     -       -       ->LIST  ->NONE  ->NONE  ->NONE  ->NONE ->NONE ->NONE  -
RST in the window         -     -       -       A       A       A       A       A     A       A       -
RST, old                  -     -       -       -       -       -       -       -     -       -       -
RST beyond the window     -     -       -       -       -       -       -       -     -       -       -
no flag at all            Z     -       -       -       -       -       -       -     -       -       -
"""


def cells():
    """(state, segment, expected) of each cell."""
    header, *rows = CELLS.strip("\n").splitlines()
    for row in rows:
        name, values = row[:26].strip(), row[26:].split()
        assert len(values) == len(STATES), name
        for state, value in zip(header.split(), values, strict=True):
            yield pytest.param(state, name, value, id=f"{STATES[state]}-{name}")


def test_the_table_is_whole():
    assert len(list(cells())) == len(STATES) * len(SEGMENTS) == 341
    assert {p.values[1] for p in cells()} == set(SEGMENTS)


class Cell:
    """A connection in a state, and what is asked of it."""

    def __init__(self, state):
        self.listens = state in ("LIST", "SYNR")        # a connection that ends leaves the listener alone
        if state in ("NONE", "LIST"):
            self.peer = new_peer()
            if state == "LIST":
                self.server = listen(self.peer)
            self.flow = self.peer.flow()
            self.una = self.top = self.nxt = 1
            return
        self.s = reach(STATES[state])
        self.peer, self.flow = self.s.peer, self.s.flow
        self.nxt = self.s.seq
        self.una, self.top = {"SYNS": (0, 1), "SYNR": (0, 1), "ESTB": (1, 1), "CLOW": (1, 1), "FIN2": (2, 2),
                              "TIMW": (2, 2)}.get(state, (1, 2))

    def send(self, flags, seq, ack=None, length=0):
        """The segment; its numbers on the wire as (end of it, acknowledgement), relative."""
        seq = 0 if seq == "irs" else self.nxt + seq
        if ack is not None:
            ack = self.top if ack == "all" else self.una + ack
        self.flow.send(flags, seq=seq, ack=ack, payload=bytes(length), **({"mss": 1460} if "S" in flags else {}))
        return seq + length + ("S" in flags) + ("F" in flags), ack

    def state(self):
        """The short name of the connection's state; of one that was reset NONE, or LIST where a listener is left."""
        known = self.peer.stack.sockets()
        names = {s.state for s in known if s.rport == self.flow.port} - {"CLOSED"}
        if len(names) > 1:
            names.remove("TIME_WAIT")                   # the old socket beside a new connection of the same names
        for name in names:
            return next(short for short, long in STATES.items() if long == name)
        return "LIST" if self.listens and any(s.state == "LISTEN" for s in known) else "NONE"


@pytest.mark.parametrize("state, name, expected", cells())
def test_cell(state, name, expected):
    answer, _, then = expected.partition(">")
    cell = Cell(state)
    end, ack = cell.send(**SEGMENTS[name])
    answers = cell.flow.receive_all()
    assert cell.state() == (then or state)
    if answer == "-":
        assert answers == []
        return
    (got,) = answers
    assert got.payload == b"" and got.flags == {"A": "A", "R": "R", "Z": "RA", "S": "SA"}[answer]
    if answer == "A":
        taken = 0
        if then or state in ("ESTB", "FIN1", "FIN2"):
            segment = SEGMENTS[name]
            in_order = segment["seq"] == 0 and "S" not in segment["flags"] and segment.get("ack") in (0, "all")
            taken = segment.get("length", 0) + ("F" in segment["flags"]) if in_order else 0
        first = 1 if state == "SYNS" else cell.nxt      # there RCV.NXT begins behind the SYN
        assert (got.seq, got.ack) == (cell.top, first + taken)
    elif answer == "R":
        assert got.seq & 0xFFFFFFFF == (ack if cell.flow.irs else ack + 0) & 0xFFFFFFFF
    elif answer == "Z":
        assert (got.ack, got.seq) == (end, 0)
    else:
        begin = end - 1 - ("F" in SEGMENTS[name]["flags"])
        assert got.ack == begin + 1 and (state == "TIMW" or got.seq == 0)
