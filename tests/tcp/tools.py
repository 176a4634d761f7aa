"""What the TCP tests share: a stack with a scripted peer, brought into any state; two stacks on a bad wire.

Sequence numbers are relative to each side's SYN, as `netstack.testing.ScriptedPeer` has them.
"""

from __future__ import annotations

import errno
import heapq
import random
from dataclasses import dataclass

from netstack.stack import Stack, StackSocket
from netstack.testing import Flow, ScriptedPeer, is_tcp, watching

A, B = "10.0.0.1", "10.0.0.2"          # the stack, the peer
MS, S = 10**6, 10**9                   # nanoseconds
MSG_PEEK, MSG_MORE = 2, 0x8000
SOL_SOCKET, SOL_TCP = 1, 6
SO_REUSEADDR, SO_ERROR, SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE, SO_LINGER = 2, 4, 7, 8, 9, 13
TCP_NODELAY, TCP_MAXSEG, TCP_CORK, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT = 1, 2, 3, 4, 5, 6
TCP_INFO, TCP_QUICKACK, TCP_USER_TIMEOUT = 11, 12, 18
SYNCHRONIZED = ("ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT", "CLOSING", "LAST_ACK")


def linger(seconds: int) -> bytes:
    """The value of SO_LINGER: on, that many seconds."""
    return (1).to_bytes(4, "little") + seconds.to_bytes(4, "little")


def new_peer(*, mtu: int = 1500, seed: int = 1, **sysctl: object) -> ScriptedPeer:
    """A stack at A and a scripted peer at B. Keywords are sysctls of net.ipv4 without the prefix ``tcp_``."""
    names = {name if "." in name else f"net.ipv4.tcp_{name}": value for name, value in sysctl.items()}
    return ScriptedPeer(Stack(addresses=A, mtu=mtu, seed=seed, sysctl=names), B, A)


def listen(peer: ScriptedPeer, port: int = 80, backlog: int = 128) -> StackSocket:
    server = peer.stack.socket()
    server.bind((A, port))
    server.listen(backlog)
    return server


@dataclass
class Session:
    """One connection: the stack's socket, the peer's side of it, and where both stand."""

    peer: ScriptedPeer
    flow: Flow
    sock: StackSocket
    server: StackSocket | None = None
    seq: int = 1                       # the next sequence number the peer sends
    ack: int = 1                       # one past the last the stack has sent

    @property
    def state(self) -> str:
        return self.sock.state

    def data(self, payload: bytes, **fields: object) -> None:
        """The next bytes from the peer, in order."""
        self.flow.send(fields.pop("flags", "PA"), seq=self.seq, ack=self.ack, payload=payload, **fields)
        self.seq += len(payload)

    def pure_ack(self, ack: int | None = None, **fields: object) -> None:
        if ack is not None:
            self.ack = ack
        self.flow.send("A", seq=self.seq, ack=self.ack, **fields)

    def fin(self, **fields: object) -> None:
        self.flow.send("FA", seq=self.seq, ack=self.ack, **fields)
        self.seq += 1

    def quiet(self) -> None:
        """Delayed acknowledgements out of the way, and nothing left to take."""
        self.peer.advance("50ms")
        self.flow.receive_all()

    def lengths(self) -> list[int]:
        """Payload sizes of the segments that are there."""
        return [len(p.payload) for p in self.flow.receive_all()]


def passive(peer: ScriptedPeer | None = None, *, port: int = 40000, window: int = 65535, **options: object) -> Session:
    """ESTABLISHED through a listener on port 80."""
    peer = peer or new_peer()
    server = listen(peer)
    flow = peer.flow(port)
    flow.connect(window=window, **options)
    sock, _ = server.accept()
    return Session(peer, flow, sock, server)


def dial(peer: ScriptedPeer, port: int = 9000) -> Session:
    """SYN-SENT: the SYN lies at the peer."""
    sock = peer.stack.socket()
    assert sock.connect_ex((B, port)) == errno.EINPROGRESS
    return Session(peer, peer.flow(port, sock.getsockname()[1]), sock)


def active(peer: ScriptedPeer | None = None, *, window: int = 65535, **options: object) -> Session:
    """ESTABLISHED by the stack's own connect."""
    s = dial(peer or new_peer())
    s.flow.accept(window=window, **options)
    return s


def reach(state: str, peer: ScriptedPeer | None = None, **options: object) -> Session:
    """A connection in that state; everything the stack sent on the way is taken."""
    if state == "SYN_SENT":
        s = dial(peer or new_peer())
        s.flow.expect(is_tcp(flags="S"))
        s.seq, s.ack = 0, 1
        return s
    if state == "SYN_RCVD":
        peer = peer or new_peer()
        server = listen(peer)
        flow = peer.flow()
        flow.send("S", seq=0, mss=1460, **options)
        flow.expect(is_tcp(flags="SA", ack=1))
        return Session(peer, flow, server, server)
    s = passive(peer, **options)
    if state == "ESTABLISHED":
        return s
    if state in ("CLOSE_WAIT", "LAST_ACK"):
        s.fin()
        s.flow.expect(is_tcp(flags="A", ack=2))
        if state == "LAST_ACK":
            s.sock.shutdown(1)
            s.flow.expect(is_tcp(flags="FA", seq=1, ack=2))
            s.ack = 1                   # the FIN is not acknowledged
    else:
        s.sock.shutdown(1)
        s.flow.expect(is_tcp(flags="FA", seq=1, ack=1))
        if state == "CLOSING":
            s.fin()
            s.flow.expect(is_tcp(flags="A", seq=2, ack=2))
        elif state in ("FIN_WAIT_2", "TIME_WAIT"):
            s.pure_ack(2)
            if state == "TIME_WAIT":
                s.fin()
                s.flow.expect(is_tcp(flags="A", seq=2, ack=2))
    s.flow.expect_nothing()
    assert s.state == state
    return s


def states(stack: Stack) -> list[str]:
    """State names of everything the stack still knows, sorted."""
    return sorted(s.state for s in stack.sockets())


class Wire:
    """Two stacks and a wire between them that loses, repeats, reorders and corrupts, from a seed.

    The impairments are plain Python here on purpose: the stream must survive a second opinion's wire too.
    """

    def __init__(self, seed: int, *, loss: float = 0, duplicate: float = 0, reorder: float = 0, corrupt: float = 0,
                 delay_ns: int = 5 * MS, mtu: int = 1500, sysctl: dict[str, object] | None = None) -> None:
        self.random = random.Random(seed)
        self.rates = (loss, duplicate, reorder, corrupt)
        self.delay_ns = delay_ns
        self.now_ns = S
        self.stacks = (Stack(addresses=A, seed=seed, mtu=mtu, sysctl=sysctl or {}),
                       Stack(addresses=B, seed=seed + 1, mtu=mtu, sysctl=sysctl or {}))
        self.flying: list[tuple[int, int, int, bytes]] = []
        self.sent = 0
        watch = watching.current()
        self.judges = [watch.judge(f"stack {name} of wire {seed}") if watch else None for name in (A, B)]
        for stack in self.stacks:
            stack.advance(self.now_ns)

    def _launch(self, to: int, packet: bytes, at_ns: int) -> None:
        loss, duplicate, reorder, corrupt = self.rates
        chance = self.random.random
        for _ in range(2 if chance() < duplicate else 1):
            if chance() < loss:
                continue
            data = bytearray(packet)
            if chance() < corrupt:
                bit = self.random.randrange(len(data) * 8)
                data[bit // 8] ^= 1 << bit % 8
            late = self.random.randrange(3 * self.delay_ns) if chance() < reorder else 0
            self.sent += 1
            heapq.heappush(self.flying, (at_ns + self.delay_ns + late, self.sent, to, bytes(data)))

    def collect(self) -> None:
        for i, stack in enumerate(self.stacks):
            while (output := stack.pop_output()) is not None:
                watching.tell(self.judges[i], bytes(output[0]), output[1], "out")
                self._launch(1 - i, bytes(output[0]), output[1])

    def step(self, until_ns: int = 1 << 62) -> bool:
        """Go on to the next thing that happens; False when nothing will by then."""
        self.collect()
        times = [t for stack in self.stacks if (t := stack.next_deadline()) is not None]
        if self.flying:
            times.append(self.flying[0][0])
        if not times or min(times) > until_ns:
            return False
        self.now_ns = max(self.now_ns, min(times))
        if self.flying and self.flying[0][0] <= self.now_ns:
            _, _, to, data = heapq.heappop(self.flying)
            watching.tell(self.judges[to], data, self.now_ns, "in")
            self.stacks[to].input(data, self.now_ns)
        else:
            for stack in self.stacks:
                stack.advance(self.now_ns)
        self.collect()
        return True

    def run(self, seconds: float) -> None:
        """Until nothing happens any more, or that much time has passed."""
        until = self.now_ns + int(seconds * S)
        while self.step(until):
            pass
        self.now_ns = until

    def until(self, condition, limit_steps: int = 200_000) -> None:
        for _ in range(limit_steps):
            if condition():
                return
            if not self.step():
                break
        assert condition(), f"nothing goes on at {self.now_ns / S:.3f} s"

    def connect(self, port: int = 80) -> tuple[StackSocket, StackSocket]:
        """``(client on the first stack, accepted socket on the second)``."""
        server = self.stacks[1].socket()
        server.bind((B, port))
        server.listen()
        client = self.stacks[0].socket()
        assert client.connect_ex((B, port)) == errno.EINPROGRESS
        accepted: list[StackSocket] = []

        def there() -> bool:
            if not accepted:
                try:
                    accepted.append(server.accept()[0])
                except BlockingIOError:
                    return False
            return client.state == "ESTABLISHED"

        self.until(there)
        server.close()
        return client, accepted[0]
