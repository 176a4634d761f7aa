"""A peer that is no stack: it sends the segments a test tells it to, with relative sequence numbers.

``flow.send("A", seq=1, ack=1, payload=b"x")`` counts from each side's initial sequence number, as packet
analysers show it: 0 is the SYN, 1 the first byte. What the stack answers comes back relative too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from netstack.testing import watching
from netstack.testing.checkers import Checker, check, is_tcp
from netstack.testing.clock import VirtualClock
from netstack.testing.packets import Packet, build_tcp, parse_packet

if TYPE_CHECKING:
    from netstack.stack import Stack

MAX_STEPS = 100_000


class ScriptedPeer:
    """The other end of a stack's link (media IP), played by the test.

    Parameters
    ----------
    stack : netstack.stack.Stack
        A stack made without links, so that ``input`` and ``pop_output`` are its link.
    address : str
        The peer's own address.
    stack_address : str
        The stack's address.
    clock : VirtualClock, optional
        The time the stack is told. A new one by default.

    Examples
    --------
    >>> peer = ScriptedPeer(stack, "10.0.0.2", "10.0.0.1")
    >>> flow = peer.flow(40000, 80)
    >>> flow.send("S", seq=0, mss=1460)
    >>> flow.expect(is_tcp(flags="SA", ack=1))
    """

    def __init__(self, stack: Stack, address: str = "10.0.0.2", stack_address: str = "10.0.0.1",
                 clock: VirtualClock | None = None) -> None:
        self.stack = stack
        self.address = address
        self.stack_address = stack_address
        self.clock = clock or VirtualClock()
        self.received: list[Packet] = []          # everything the stack sent and nobody took yet
        watch = watching.current()
        self._judge = None if watch is None else watch.judge(f"the stack of {stack_address}")
        self.stack.advance(self.clock.now_ns)

    def inject(self, packet: bytes) -> None:
        """Hand raw bytes to the stack now."""
        self.collect()
        watching.tell(self._judge, packet, self.clock.now_ns, "in")
        self.stack.input(packet, self.clock.now_ns)
        self.collect()

    def collect(self) -> list[Packet]:
        """Take what the stack has sent; it queues up in `received`."""
        while (output := self.stack.pop_output()) is not None:
            data, t_ns = output
            packet = parse_packet(bytes(data), t_ns, "out")
            watching.tell(self._judge, packet, t_ns, "out")
            self.received.append(packet)
        return self.received

    def advance(self, by: int | str) -> None:
        """Let time pass, from deadline to deadline, so that every timer fires at its own time."""
        until = self.clock.now_ns + VirtualClock(0).advance(by)
        for _ in range(MAX_STEPS):
            deadline = self.stack.next_deadline()
            if deadline is None or deadline > until:
                break
            self.clock.now_ns = max(deadline, self.clock.now_ns)
            self.stack.advance(self.clock.now_ns)
            self.collect()
        else:
            raise AssertionError(f"{MAX_STEPS} timers within {by}: a timer that rearms itself at once?")
        self.clock.now_ns = until
        self.stack.advance(until)
        self.collect()

    def take(self, checker: Checker | None = None) -> Packet | None:
        """The oldest packet (that passes the checker), removed; None when there is none."""
        self.collect()
        for i, packet in enumerate(self.received):
            if checker is None or checker(packet):
                return self.received.pop(i)
        return None

    def flow(self, port: int = 40000, stack_port: int = 80, *, iss: int = 1_000_000) -> Flow:
        """One connection between a port of this peer and one of the stack; ``iss``: our initial number."""
        return Flow(self, port, stack_port, iss)


class Flow:
    """One TCP connection of a `ScriptedPeer`. See there."""

    def __init__(self, peer: ScriptedPeer, port: int, stack_port: int, iss: int) -> None:
        self.peer = peer
        self.port = port
        self.stack_port = stack_port
        self.iss = iss
        self.irs: int | None = None               # the stack's initial sequence number, once its SYN was seen

    def send(self, flags: str | int = "A", *, seq: int = 0, ack: int | None = None, **fields: Any) -> None:
        """Send one segment; ``seq`` and ``ack`` (and SACK blocks) are relative. Other fields as `build_tcp`.

        Without ``ack`` the field on the wire is 0.
        """
        self.peer.inject(self.build(flags, seq=seq, ack=ack, **fields))

    def build(self, flags: str | int = "A", *, seq: int = 0, ack: int | None = None, **fields: Any) -> bytes:
        """The bytes `send` would send."""
        base = self.irs or 0
        if "sack" in fields:
            fields["sack"] = tuple((base + a & 0xFFFFFFFF, base + b & 0xFFFFFFFF) for a, b in fields["sack"])
        return build_tcp(
            self.peer.address, self.peer.stack_address, self.port, self.stack_port, flags,
            seq=self.iss + seq, ack=0 if ack is None else base + ack, **fields,
        )

    def _mine(self, packet: Packet) -> bool:
        ports = (packet.sport, packet.dport)
        return ports == (self.stack_port, self.port) and packet.dst == self.peer.address

    def receive(self) -> Packet | None:
        """The next segment of the stack on this connection, numbers relative; None when there is none."""
        self.peer.collect()
        for i, packet in enumerate(self.peer.received):
            if self._mine(packet):
                del self.peer.received[i]
                if "S" in packet.flags and packet.seq is not None:
                    self.irs = packet.seq
                return packet.relative(self.irs or 0, self.iss)
        return None

    def receive_all(self) -> list[Packet]:
        """All segments that are there."""
        out = []
        while (packet := self.receive()) is not None:
            out.append(packet)
        return out

    def expect(self, checker: Checker) -> Packet:
        """The next segment must pass; returns it.

        Raises
        ------
        AssertionError
            No segment, or one that differs; the message says in what.
        """
        return check(self.receive(), checker)

    def expect_nothing(self) -> None:
        """The stack has sent nothing (more) on this connection."""
        packet = self.receive()
        if packet is not None:
            raise AssertionError(f"expected no segment, got {packet}")

    def connect(self, *, window: int = 65535, **options: Any) -> Packet:
        """Handshake towards a listener of the stack. Options go into the SYN; returns the SYN+ACK."""
        options.setdefault("mss", 1460)
        self.send("S", seq=0, window=window, **options)
        answer = self.expect(is_tcp(flags="SA", ack=1))
        self.send("A", seq=1, ack=1, window=window, **self._stamp(answer, options))
        return answer

    def accept(self, *, window: int = 65535, **options: Any) -> Packet:
        """Answer a SYN of the stack's own connect. Options go into the SYN+ACK; returns the SYN."""
        options.setdefault("mss", 1460)
        syn = self.expect(is_tcp(flags="S"))
        self.send("SA", seq=0, ack=1, window=window, **options)
        self.expect(is_tcp(flags="A", ack=1))
        return syn

    @staticmethod
    def _stamp(answer: Packet, offered: dict[str, Any]) -> dict[str, Any]:
        """Echo the stack's timestamp when it uses them (RFC 7323 section 3.2); ours stands where the SYN's stood."""
        return {} if answer.timestamp is None else {"timestamp": (offered["timestamp"][0], answer.timestamp[0])}
