"""Any segment in any state: whatever a peer sends near the edges of the windows, bytes stay right and nothing breaks.

The byte at relative sequence number n is ``n * 7 + n // 256 & 255`` in both directions, so each delivered and each sent
byte says whether it is at its place. On a debug build the invariants are checked after each event.
"""

import random

import pytest

from .tools import (
    SO_RCVBUF,
    SOL_SOCKET,
    SOL_TCP,
    SYNCHRONIZED,
    TCP_CORK,
    TCP_NODELAY,
    TCP_QUICKACK,
    new_peer,
    reach,
)

STATES = ("SYN_SENT", "SYN_RCVD", *SYNCHRONIZED, "TIME_WAIT")
FLAGS = ("A", "PA", "FA", "FPA", "S", "SA", "R", "RA", "", "F", "P", "UA", "SFA", "SR", "AEC", "SAEC", "SFRPAUEC")
WINDOWS = (0, 1, 100, 1000, 5000, 65535)


def stream(start: int, size: int) -> bytes:
    return bytes((n * 7 + n // 256) & 255 for n in range(start, start + size))


class Storm:
    """Random segments, calls and time against one connection."""

    def __init__(self, seed: int, state: str) -> None:
        self.chance = chance = random.Random(seed)
        options = {}
        if chance.random() < .5:
            options["timestamp"] = (1000, 0)
        if chance.random() < .5:
            options["sack_permitted"] = True
        if chance.random() < .5:
            options["window_scale"] = chance.choice((0, 2, 14))
        buffer = chance.choice((4096, 8192, 100_000))
        peer = new_peer(**{"net.core.rmem_default": buffer})
        self.s = reach(state, peer, **({} if state == "SYN_SENT" else options))
        self.stamps = "timestamp" in options
        self.read = self.written = 1
        self.sock = self.s.sock if self.s.sock is not self.s.server else None

    def edges(self) -> tuple[int, int, int, int]:
        """RCV.NXT, the right edge, SND.UNA, SND.NXT; guesses where there is no connection to ask."""
        if self.sock is None or self.sock.closed or self.sock.state in ("CLOSED", "SYN_SENT", "LISTEN"):
            return 1, 65536, 1, 1
        info = self.sock.info()
        irs = self.s.flow.irs or 0
        return ((info["rcv_nxt"] - self.s.flow.iss) & 0xFFFFFFFF, (info["rcv_adv"] - self.s.flow.iss) & 0xFFFFFFFF,
                (info["snd_una"] - irs) & 0xFFFFFFFF, (info["snd_nxt"] - irs) & 0xFFFFFFFF)

    def segment(self) -> None:
        chance, flow = self.chance, self.s.flow
        nxt, edge, una, top = self.edges()
        seq = chance.choice((nxt, nxt, nxt, nxt - 1, nxt + 1, edge, edge - 1, edge + 1, nxt + chance.randrange(6000),
                             nxt - chance.randrange(3000), chance.randrange(1 << 32), 0))
        ack = chance.choice((top, top, top, una, una, una - 1, una + 1, top + 1, top - 1, una + chance.randrange(4000),
                             chance.randrange(1 << 32), una - 70_000))
        size = chance.choice((0, 0, 0, 1, 2, 10, 500, 1460, 4000))
        # mostly what the protocol expects, so that the connection lives long enough to be worth it
        flags = chance.choice(FLAGS if chance.random() < .15 else ("A", "PA"))
        if "S" in flags and (self.sock is None or not self.sock.closed and self.sock.state == "SYN_SENT"):
            seq = 0                                     # a SYN that counts says where the stream begins
        if not 1 <= seq < 1 << 20:
            size = 0
        fields = {"window": chance.choice(WINDOWS), "payload": stream(seq, size)}
        if self.stamps and chance.random() < .9:
            fields["timestamp"] = (chance.choice((1000, 1000, 1001, 999, 5000, chance.randrange(1 << 32)))
                                   if chance.random() < .1 else 1000, chance.randrange(1 << 32))
        if chance.random() < .2:
            fields["sack"] = tuple((una + chance.randrange(-5000, 5000), una + chance.randrange(-5000, 5000))
                                   for _ in range(chance.randrange(1, 3)))
        if "S" in flags:
            fields["mss"] = chance.choice((None, 0, 8, 536, 65535))
            fields["window_scale"] = chance.choice((None, 0, 14))
        if "F" in flags and chance.random() < .7:
            return
        flow.send(flags, seq=seq, ack=ack & 0xFFFFFFFF if "A" in flags else None, **fields)

    def call(self) -> None:
        chance, sock = self.chance, self.sock
        if sock is None:
            try:
                self.sock, _ = self.s.server.accept()
            except BlockingIOError:
                pass
            return
        if sock.closed:
            return
        act = chance.randrange(40)
        try:
            if act < 15:
                data = sock.recv(chance.choice((1, 100, 5000)))
                assert data == stream(self.read, len(data)), f"wrong bytes at {self.read}"
                self.read += len(data)
            elif act < 35:
                self.written += sock.send(stream(self.written, chance.choice((1, 100, 1460, 8000))))
            elif act == 35:
                sock.setsockopt(SOL_TCP, chance.choice((TCP_NODELAY, TCP_CORK, TCP_QUICKACK)), chance.randrange(2))
            elif act == 36:
                sock.setsockopt(SOL_SOCKET, SO_RCVBUF, chance.choice((1000, 4000, 50_000)))
            elif act == 37 and chance.random() < .2:
                sock.shutdown(chance.randrange(3))
            elif act == 38 and chance.random() < .1:
                sock.close()
        except BlockingIOError:
            pass
        except OSError as error:
            assert error.errno in (32, 104, 107, 110, 111), error

    def output(self) -> None:
        for p in self.s.flow.receive_all():
            if p.payload and p.seq < 1 << 24:
                assert p.payload == stream(p.seq, len(p.payload)), f"wrong bytes sent at {p.seq}"
            assert len(p.payload) <= 1460 and p.checksum_ok

    def run(self, steps: int) -> None:
        for _ in range(steps):
            act = self.chance.randrange(10)
            if act < 6:
                self.segment()
            elif act < 9:
                self.call()
            else:
                self.s.peer.advance(self.chance.choice((1000, 10**6, 50 * 10**6, 10**9)))
            self.output()
        stack = self.s.peer.stack
        if self.sock is not None:
            self.sock.close()
        self.s.server.close() if self.s.server is not None else None
        self.s.peer.advance("4000s")
        assert stack.socket_count == 0 and stack.next_deadline() is None, stack.sockets()


@pytest.mark.parametrize("state", STATES)
def test_bytes_stay_right_whatever_the_peer_sends(state, scale):
    for seed in range(scale(300, 20)):
        storm = Storm(seed, state)
        try:
            storm.run(150)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, state {state}: {error}") from error
