"""F9: the whole stack under mutants of live sessions, 5 million frames at full scale: nothing crashes, nothing leaks.

One stack is the victim, on IP or Ethernet media. An honest peer (another stack) speaks TCP both ways with it; between
the honest frames mutants are injected that read sequence numbers back from the victim's own output. When a session is
over, time runs until nothing is due any more, and the victim must hold no more than at its start. What a frame makes
the victim do is counted, in steps and not in time: it is bounded by what is in flight, whatever the frame says.

Run under sanitizers by ``ci/sanitize tests/fuzz``. ``NETSTACK_SEED=n`` runs one session alone.
"""

import os
import random
import resource

import pytest

from netstack.stack import Stack
from netstack.testing import VirtualClock, build_udp
from netstack.testing.packets import parse_packet
from tests.fuzz.mutations import ARP, ETHERNET, IPV4, Victim, invent, link_header, mutate, mutate_arp
from tests.support import scale

VICTIM, PEER = "10.0.0.1", "10.0.0.2"
FRAMES = 5_000_000
FRAMES_PER_SESSION = 1000
CHUNKS = 50
STEPS_PER_FRAME = 1000                 # records of the scoreboard looked at
PACKETS_PER_FRAME = 200                # sent in answer: a window of the smallest segments
PAUSES = (0, 0, 0, 0, 0, 2 * 10**9, 70 * 10**9)         # some of them outlast TIME-WAIT
FIXED_SEED = os.environ.get("NETSTACK_SEED")


class Session:
    """One victim, one honest peer, one attacker on the wire between them."""

    def __init__(self, seed):
        self.rng = random.Random(f"fuzz {seed}")
        self.clock = VirtualClock()
        sysctl = {"net.ipv4.tcp_timestamps": self.rng.randrange(2), "net.ipv4.tcp_sack": self.rng.randrange(2),
                  "net.ipv4.tcp_mtu_probing": self.rng.choice((0, 0, 1, 2)),
                  "net.ipv4.tcp_recovery": self.rng.choice((1, 1, 0))}
        self.ethernet = self.rng.random() < 0.4
        media = "ethernet" if self.ethernet else "ip"
        self.victim = Stack(addresses=(f"{VICTIM}/24",), seed=2 * seed, sysctl=sysctl, media=media)
        self.peer = Stack(addresses=(f"{PEER}/24",), seed=2 * seed + 1, media=media)
        self.macs = bytes(6), bytes(6)                    # of victim and peer, once heard
        for stack in (self.victim, self.peer):
            stack.advance(self.clock.now_ns)
        self.known = Victim()
        self.injected = 0
        self.spent = self.worst = 0, 0                    # steps and packets: up to now, and the most for one frame
        self.sockets = []
        self.listener = self.victim.socket()
        self.listener.bind((VICTIM, 80))
        self.listener.listen(16)
        udp = self.victim.socket("dgram")
        udp.bind((VICTIM, 5353))
        self.sockets.append(udp)
        self.base = len(self.victim.sockets())

    def run(self, frames):
        rng = self.rng
        there = self.peer.socket()
        there.connect_ex((VICTIM, 80))
        self.sockets.append(there)
        remote = self.peer.socket()
        remote.bind((PEER, 81))
        remote.listen()
        back = self.victim.socket()
        back.connect_ex((PEER, 81))
        self.sockets += [remote, back]
        for _ in range(100 * frames):                     # bounded: most turns inject several
            if self.injected >= frames:
                break
            self.exchange()
            self.talk()
            self.clock.advance(rng.choice((0, 0, 1000, 1_000_000, 50_000_000, 300_000_000, rng.choice(PAUSES))))
            for stack in (self.victim, self.peer):
                self.advance(stack)
            if rng.random() < 0.02:
                self.hang_up()
            if rng.random() < 0.01:
                data = self.victim.snapshot()
                assert Stack.restore(data, self.clock.now_ns).snapshot() == data
        self.finish()

    def advance(self, stack):
        stack.advance(self.clock.now_ns)

    def inject(self, packet):
        """An IP packet for the victim, with a link header where there is one."""
        frame = packet[:1500]
        if self.ethernet:
            frame = link_header(self.rng, *self.macs) + frame
        self.inject_frame(frame)

    def inject_frame(self, frame):
        if frame:
            self.injected += 1
            self.victim.input(frame, self.clock.now_ns)
            self.account()

    def account(self):
        """What the last frame cost."""
        now = self.victim.counters()
        steps, packets = now["tcp_sack_steps"], now["packets_out"]
        worst = max(self.worst[0], steps - self.spent[0]), max(self.worst[1], packets - self.spent[1])
        self.worst, self.spent = worst, (steps, packets)

    def attack(self, frame):
        """Mutants of an honest frame for the victim."""
        rng = self.rng
        for _ in range(rng.choice((0, 1, 2, 5))):
            if not self.ethernet:
                self.inject(mutate(rng, frame, self.known))
            elif frame[12:14] == IPV4:
                self.inject(mutate(rng, frame[ETHERNET:], self.known))
            else:
                self.inject_frame(mutate_arp(rng, frame))

    def overhear(self, frame):
        """The victim sent this."""
        if not self.ethernet:
            self.known.saw(frame)
            return
        self.macs = frame[6:12], self.macs[1]
        if frame[12:14] == IPV4:
            self.known.saw(frame[ETHERNET:])
        elif frame[12:14] == ARP:
            self.inject_frame(mutate_arp(self.rng, frame[6:12] * 2 + frame[12:]))

    def exchange(self):
        """Honest frames cross, some of them are lost; mutants of them and inventions come along."""
        rng = self.rng
        for _ in range(200):
            output = self.victim.pop_output()
            if output is None:
                break
            self.overhear(bytes(output[0]))
            if rng.random() < 0.95:
                self.peer.input(output[0], self.clock.now_ns)
        for _ in range(200):
            output = self.peer.pop_output()
            if output is None:
                break
            frame = bytes(output[0])
            if self.ethernet:
                self.macs = self.macs[0], frame[6:12]
            self.attack(frame)
            if rng.random() < 0.95:
                self.victim.input(frame, self.clock.now_ns)
            self.attack(frame)
        for _ in range(rng.choice((0, 1, 3))):
            self.inject(invent(rng, self.known, PEER, VICTIM, 80))

    def talk(self):
        """Applications on both sides read and write."""
        rng = self.rng
        try:
            self.sockets.append(self.listener.accept()[0])
        except BlockingIOError:
            pass
        for sock in self.sockets:
            try:
                if sock.state == "UDP":
                    sock.recvfrom(2000)
                elif sock.state != "LISTEN":
                    sock.recv(rng.choice((1, 1000, 65536)))
                    if rng.random() < 0.7:
                        sock.send(rng.randbytes(rng.choice((1, 100, 1448, 5000))))
                else:
                    self.sockets.append(sock.accept()[0])
            except OSError:
                pass

    def hang_up(self):
        """One of the connections is closed, half-closed or reset, and another may begin."""
        rng = self.rng
        streams = [s for s in self.sockets if s.state not in ("UDP", "LISTEN")]
        if streams:
            sock = rng.choice(streams)
            try:
                if rng.random() < 0.3:
                    sock.setsockopt(1, 13, (1).to_bytes(4, "little") + bytes(4))      # SO_LINGER 0: reset
                if rng.random() < 0.5:
                    sock.shutdown(rng.randrange(3))
            except OSError:
                pass
            if rng.random() < 0.7:
                self.sockets.remove(sock)
                sock.close()
        if rng.random() < 0.5:
            again = self.peer.socket()
            again.connect_ex((VICTIM, 80))
            self.sockets.append(again)

    def finish(self):
        """Close everything and let time run out: what is left must be what was there at the start."""
        for sock in self.sockets:
            sock.close()
        for _ in range(200):
            try:
                self.listener.accept()[0].close()
            except BlockingIOError:
                break
        for _ in range(20_000):
            deadline = self.victim.next_deadline()
            if deadline is None:
                break
            self.clock.now_ns = max(deadline, self.clock.now_ns)
            self.victim.advance(self.clock.now_ns)
            while self.victim.pop_output() is not None:
                pass
        left = self.victim.sockets()
        assert self.victim.next_deadline() is None and [s.state for s in left] == ["LISTEN"], left


def sessions(chunk):
    if FIXED_SEED:
        return [int(FIXED_SEED)] if chunk == 0 else []
    count = scale(FRAMES // FRAMES_PER_SESSION, CHUNKS)
    return range(chunk * count // CHUNKS, (chunk + 1) * count // CHUNKS)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_f9_mutants_of_live_sessions_crash_nothing_and_leave_nothing(chunk):
    for seed in sessions(chunk):
        session = Session(seed)
        try:
            session.run(FRAMES_PER_SESSION)
        except BaseException as error:
            raise AssertionError(f"session {seed}, replay with NETSTACK_SEED={seed}: {error!r}") from error
        assert session.injected >= FRAMES_PER_SESSION
        assert session.worst[0] <= STEPS_PER_FRAME and session.worst[1] <= PACKETS_PER_FRAME, (seed, session.worst)


def test_f9_the_mutants_reach_deep():
    """The counters of a few sessions show that mutants hit windows, states and every parser."""
    seen = {}
    for seed in range(8):
        session = Session(seed)
        session.run(2000)
        for name, count in session.victim.counters().items():
            seen[name] = seen.get(name, 0) + count
    for name in (
        "drop_ip_checksum", "drop_ip_total_length", "ip_fragments_in", "drop_tcp_checksum", "drop_tcp_length",
        "drop_tcp_sequence", "drop_tcp_no_port", "drop_udp_no_port", "drop_icmp_type", "tcp_out_of_order",
        "tcp_challenge_acks", "tcp_resets_in", "tcp_resets_out", "tcp_passive_opens", "icmp_in", "udp_in",
        "drop_arp_malformed", "drop_arp_unsolicited", "drop_link_not_ours", "drop_link_type",
    ):
        assert seen.get(name), f"no mutant caused {name}: {seen}"


def test_f9_memory_does_not_grow_with_frames():
    """The same sessions again and again: the resident set stays where it was."""
    for _ in range(3):
        Session(1).run(500)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(10):
        Session(1).run(500)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8192       # KiB


@pytest.mark.parametrize("length", [0, 1, 19, 20, 27, 28, 39, 40, 60, 1500])
def test_f9_every_length_of_every_first_byte(length):
    """Short and strange frames without any session."""
    stack = Stack(addresses=(f"{VICTIM}/24",), seed=1)
    rng = random.Random(length)
    base = build_udp(PEER, VICTIM, 1, 2, bytes(1472))
    for first in range(256):
        for frame in (bytes((first,)) * length, base[:length], bytes((first,)) + base[1:length], rng.randbytes(length)):
            if frame:
                stack.input(frame[:1500], 10**9 + first)
    while (out := stack.pop_output()) is not None:
        parse_packet(out[0])
    assert stack.sockets() == []
