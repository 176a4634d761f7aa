"""What recovery costs, counted in records looked at: the same for a window of 10,000 segments as for one of 1,000.

The counters ``tcp_sack_steps`` and ``tcp_recovery_steps`` say how many records each event looked at, so nothing here
depends on the machine. An acknowledgement costs a few; a timeout, taking a reduction back and smaller segments look at
all of a window, once.
"""

import random

import pytest

from tests.support import scale

from .test_path_mtu import too_big
from .tools import MS, SO_SNDBUF, SOL_SOCKET, Session, new_peer

pytestmark = pytest.mark.unwatched        # the stack is given packets directly, for speed
SIZE = 256                                # payload of a segment
MANY = 10_000


class Window:
    """A connection with n segments in flight, the first of them at `una`, and more in its buffer."""

    def __init__(self, n, *, size=SIZE, sack=True, timestamps=False, rtt_ms=100, **sysctl):
        self.peer = new_peer(congestion_control="reno", timestamps=int(timestamps), early_retrans=0,
                             wmem="4096 8388608 8388608", **sysctl)
        server = self.peer.stack.socket()
        server.bind(("10.0.0.1", 80))
        server.listen()
        flow = self.peer.flow()
        flow.send("S", seq=0, window=65535, window_scale=8, sack_permitted=sack, mss=size + (12 if timestamps else 0),
                  **({"timestamp": (1, 0)} if timestamps else {}))
        self.peer.advance(rtt_ms * MS)
        answer = flow.receive()
        flow.send("A", seq=1, ack=1, **({"timestamp": (1, answer.timestamp[0])} if timestamps else {}))
        self.s = Session(self.peer, flow, server.accept()[0], server)
        self.s.sock.setsockopt(SOL_SOCKET, SO_SNDBUF, 4 << 20)
        self.n, self.size, self.rtt, self.timestamps = n, size, rtt_ms * MS, timestamps
        self.una = self.nxt = 1
        self.limit = n                    # segments that the peer's window lets fly
        self.stamp = 1
        self.echo = None
        for _ in range(100):
            self.fill()
            if self.flying == n:
                break
            self.wait()
            self.ack(self.nxt)
        assert self.flying == n, self.s.sock.info()
        self.wait()
        self.steps()

    @property
    def flying(self):
        return (self.nxt - self.una) // self.size

    def fill(self):
        try:
            while True:
                self.s.sock.send(bytes(1 << 16))
        except BlockingIOError:
            pass
        return self.drain()

    def drain(self):
        """(sequence number, payload length) of what leaves."""
        out = []
        while (output := self.peer.stack.pop_output()) is not None:
            data = bytes(output[0])
            head = 20 + (data[32] >> 4) * 4
            seq = int.from_bytes(data[24:28], "big") - self.s.flow.irs & 0xFFFFFFFF
            out.append((seq, len(data) - head))
            self.nxt = max(self.nxt, seq + len(data) - head)
            if self.timestamps:
                self.echo = int.from_bytes(data[44:48], "big")
        return out

    def wait(self, ns=None):
        self.peer.clock.now_ns += self.rtt if ns is None else ns
        self.peer.stack.advance(self.peer.clock.now_ns)

    def at(self, i):
        """Where segment i of the window begins."""
        return self.una + i * self.size

    def ack(self, ack, *blocks, echo=None, **fields):
        """Of what lies below *ack*; blocks are pairs of segment numbers."""
        fields["window"] = -(-self.limit * self.size >> 8)
        if blocks:
            fields["sack"] = tuple((self.at(a), self.at(b)) for a, b in blocks)
        if self.timestamps:
            self.stamp += 1
            fields["timestamp"] = (self.stamp, self.echo if echo is None else echo)
        self.peer.stack.input(self.s.flow.build("A", seq=1, ack=ack, **fields), self.peer.clock.now_ns)
        self.una = max(self.una, ack)

    def steps(self):
        """Records looked at since the last call."""
        c = self.peer.stack.counters()
        total = c["tcp_sack_steps"] + c["tcp_recovery_steps"]
        since, self.before = total - getattr(self, "before", 0), total
        return since

    def count(self, name):
        return self.peer.stack.counters()[name]


def test_every_acknowledgement_of_a_long_loss_costs_the_same():
    """One hole at the front, then a block that grows by a segment at a time."""
    def cost(n):
        w = Window(n)
        for i in range(2, n, n // 500):
            w.ack(w.una, (1, i))
        w.drain()
        return w.steps() / n
    assert cost(MANY) <= 12 and cost(MANY) <= 1.5 * cost(1000)


def test_large_blocks_in_turn_are_not_looked_at_again():
    """Eight blocks of a tenth of the window each: four in one acknowledgement, the other four in the next."""
    w = Window(MANY)
    part = MANY // 10
    blocks = [(i * part + 1, (i + 1) * part) for i in range(8)]
    for _ in range(15):                   # links halve as they are followed
        w.ack(w.una, *blocks[:4])
        w.ack(w.una, *blocks[4:])
    assert w.steps() <= 8 * MANY
    for _ in range(scale(1000, 100)):
        for four in (blocks[:4], blocks[4:]):
            w.ack(w.una, *four)
            assert w.steps() <= 40


def test_any_order_of_arrival_costs_a_few_steps_a_segment():
    w = Window(MANY)
    order = random.Random(7).sample(range(1, MANY), 3000)
    for i in order:
        w.ack(w.una, (i, i + 1))
    w.drain()
    assert w.steps() <= 20 * len(order) + 4 * MANY


def test_what_waits_for_the_window_of_reordering_is_not_looked_at_again():
    """RFC 8985 section 6.2: reordering is known, so thousands sent before the newest arrival may still come."""
    w = Window(MANY)
    w.ack(w.una, (2, 3))
    w.ack(w.at(1), (0, 1))                # reordering: what lies below came late, and had been sent once
    w.ack(w.at(2))
    w.drain()
    w.wait()
    w.ack(w.una, (MANY - 1000, MANY - 999))
    assert MANY // 2 <= w.steps() <= 2 * MANY             # once: all that it overtook
    assert w.s.sock.tcp_info().lost == 0
    for i in range(MANY - 998, MANY - 900):
        w.ack(w.una, (MANY - 1000, i))
        assert w.steps() <= 40
    assert w.s.sock.tcp_info().lost == 0
    w.wait(60 * MS)
    assert w.s.sock.tcp_info().lost > MANY // 2           # and then it is too late for them


@pytest.mark.parametrize("sysctl", [{}, {"recovery": 0}], ids=["rack", "duplicates"])
def test_losses_all_over_the_window_are_found_and_sent_again_for_a_few_steps_each(sysctl):
    """Every tenth segment is lost, half of the retransmissions too."""
    def cost(n):
        rng = random.Random(3)
        w = Window(n, **sysctl)
        have = [i % 10 != 0 for i in range(n)]
        first, events = w.una, 0
        for turn in range(400):
            edge = 0
            while edge < n and have[edge]:
                edge += 1
            if edge == n:
                break
            ack = first + edge * SIZE
            runs, i = [], edge
            while i < n:
                if have[i]:
                    j = i
                    while j < n and have[j]:
                        j += 1
                    runs.append((first + i * SIZE, first + j * SIZE))
                    i = j
                else:
                    i += 1
            rng.shuffle(runs)
            for k in range(0, max(len(runs), 1), 3):
                w.ack(ack, *[((a - w.una) // SIZE, (b - w.una) // SIZE) for a, b in runs[k:k + 3] if a > ack])
                events += 1
            w.wait()
            for seq, _ in w.drain():
                events += 1
                i = (seq - first) // SIZE
                if i < n and (rng.random() < .5 or turn > 20):
                    have[i] = True
        assert all(have)
        return w.steps() / events
    assert cost(MANY) <= 60 and cost(MANY) <= 2 * cost(1000)


def test_without_sack_an_acknowledgement_costs_the_same():
    def cost(n):
        w = Window(n, sack=False)
        for _ in range(500):
            w.ack(w.una)                  # duplicates
        for _ in range(100):
            w.ack(w.at(1))                # one more is acknowledged
        w.drain()
        return max(w.steps() - n, 0) / 600            # the tree of what waits is made once for an array
    assert cost(MANY) <= 4 and cost(MANY) <= 1.5 * cost(1000) + 1


def test_taking_a_reduction_back_looks_at_the_window_once():
    """Eifel: the whole window seemed lost, and the echo says that the first came late."""
    w = Window(MANY, timestamps=True)
    early = w.echo
    w.ack(w.una, (MANY - 4, MANY))
    again = len(w.drain())
    assert w.s.sock.tcp_info().lost == MANY - 4 and again >= 1
    w.wait(2 * MS)
    w.steps()
    w.ack(w.at(again), echo=early)
    assert w.count("tcp_undos") == 1 and w.s.sock.tcp_info().lost == 0
    assert w.steps() <= 8 * MANY


def test_what_was_sent_twice_goes_back_to_its_place_in_the_order_of_sending():
    """All seem lost, some are sent again, the reduction is taken back: time finds what is due from the front."""
    w = Window(1000, timestamps=True)
    early = w.echo
    w.ack(w.una, (996, 1000))
    again = [(seq - w.una) // SIZE for seq, _ in w.drain()]
    assert again == list(range(len(again)))
    w.wait(2 * MS)
    w.ack(w.at(len(again)), echo=early)                   # the originals of all that went again came late
    assert w.count("tcp_undos") == 1 and w.s.sock.tcp_info().lost == 0
    w.wait(40 * MS)
    w.drain()
    w.ack(w.at(10))
    assert w.s.sock.tcp_info().lost > 900                 # the window of reordering is over for all of them
    assert w.drain()[0][0] == w.una and w.count("tcp_timeouts") == 0


def test_a_peer_that_reneges_costs_one_look_at_the_window():
    w = Window(MANY)
    w.ack(w.una, (1, MANY))
    w.drain()
    w.steps()
    w.ack(w.at(1))                        # and nothing of the rest
    w.wait(60 * MS)
    assert w.count("tcp_timeouts") == 1 and w.s.sock.tcp_info().lost >= MANY - 1
    assert w.una in [seq for seq, _ in w.drain()] and w.steps() <= 4 * MANY


def test_a_timeout_costs_one_look_at_the_window_and_each_retransmission_a_few_steps():
    w = Window(MANY)
    w.wait(400 * MS)
    sent = [seq for seq, _ in w.drain()]
    assert w.count("tcp_timeouts") == 1 and sent == [w.una] and w.steps() <= 4 * MANY
    got = 0
    for _ in range(10):
        w.wait()
        for seq in sent:
            w.ack(seq + SIZE)
        sent = [seq for seq, _ in w.drain()]
        got += len(sent)
    assert got >= 1000 and w.steps() <= 20 * got + 4 * MANY


def test_smaller_segments_look_at_the_window_once():
    """The path takes less: what is in flight is cut, in one pass, and the order of sending stays."""
    n = 2000
    w = Window(n, size=1400)
    w.steps()
    w.peer.received.clear()
    too_big(w.s, w.una, 800)
    again = [len(p.payload) for p in w.peer.received]
    assert len(again) > 1000 and max(again) == 760
    pieces = n * 2
    assert w.steps() <= 16 * pieces
    w.wait()
    for _ in range(60):
        w.ack(w.una + 20 * 1400)
        assert w.steps() <= 40 * 40
        w.drain()
    assert w.count("tcp_timeouts") == 0
