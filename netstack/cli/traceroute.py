"""``netstack traceroute``: the way of packets from a stack of this process, as traceroute(8) shows it.

Every probe has a socket of its own with one time to live, and its error queue (IP_RECVERR) says who gave up on the
packet and why. No raw socket and no root are needed, and answers cannot be taken for one another.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import click

from netstack.cli.attaching import Failure, family_option, find_target, host_from, on_a_host
from netstack.cli.complaints import listen, next_complaint

BASE_PORT = 33434                # traceroute(8)'s: nobody should listen there
AT_ONCE = 16                     # probes on their way, as traceroute(8)
HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}    # IP and UDP or ICMP header of a probe


class Way(NamedTuple):
    """What differs between the IP versions."""

    level: int
    hops: int                    # option: time to live
    protocol: int
    echo: int                    # type of an echo request
    exceeded: int                # ICMP type: time exceeded
    reached: tuple[int, int]     # type and code: port unreachable
    marks: dict[tuple[int, int], str]


WAYS = {
    socket.AF_INET: Way(socket.IPPROTO_IP, socket.IP_TTL, socket.IPPROTO_ICMP, 8, 11, (3, 3), {
        (3, 0): "!N", (3, 1): "!H", (3, 2): "!P", (3, 4): "!F", (3, 5): "!S", (3, 9): "!X", (3, 10): "!X",
        (3, 13): "!X"}),
    socket.AF_INET6: Way(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, socket.IPPROTO_ICMPV6, 128, 3, (1, 4), {
        (1, 0): "!N", (1, 1): "!X", (1, 2): "!S", (1, 3): "!H", (2, 0): "!F"}),
}


class Answer(NamedTuple):
    """What became of a probe.

    Attributes
    ----------
    address : str
        Who answered.
    took_s : float
    mark : str
        Why it went no further, as traceroute(8) writes it; empty for a hop, and for the target.
    last : bool
        There is nothing behind.
    """

    address: str
    took_s: float
    mark: str = ""
    last: bool = False


class Probe:
    """One packet of a given time to live, with a socket that hears what becomes of it."""

    def __init__(self, make_socket, family: int, to, ttl: int, number: int, icmp: bool, size: int, port: int) -> None:
        self.family, self.way, self.to = family, WAYS[family], to
        self.answer: Answer | None = None
        self.socket = make_socket(family, socket.SOCK_DGRAM, self.way.protocol if icmp else 0)
        try:
            self.socket.setblocking(False)
            self.socket.setsockopt(self.way.level, self.way.hops, ttl)
            listen(self.socket, family)
            self.socket.connect((to[0], 0 if icmp else port + number, *to[2:]))
            head = struct.pack("!BBHHH", self.way.echo, 0, 0, 0, number & 0xFFFF) if icmp else b""
            self.sent_at = time.perf_counter()
            self.socket.send(head + bytes(max(0, size - HEADERS[family])))
        except BaseException:
            self.socket.close()
            raise

    def _complaint(self, now: float) -> Answer | None:
        """What the oldest entry of the error queue makes of it."""
        c = next_complaint(self.socket, self.family)
        if c is None:
            return None
        took = now - self.sent_at
        if not c.icmp:
            return Answer(self.to[0], took, "!H", True)                # our own stack knows no way
        if c.type == self.way.exceeded:
            return Answer(c.address, took)
        if (c.type, c.code) == self.way.reached:
            return Answer(c.address, took, "" if c.address == self.to[0] else "!U", True)
        return Answer(c.address, took, self.way.marks.get((c.type, c.code), f"!<{c.type}-{c.code}>"), True)

    def look(self) -> bool:
        """Take what came, if anything."""
        now = time.perf_counter()
        self.answer = self._complaint(now)
        if self.answer is None:
            with contextlib.suppress(OSError):
                self.socket.recv(65535)                # an echo reply, or somebody listens there
                self.answer = Answer(self.to[0], now - self.sent_at, "", True)
        return self.answer is not None


class Trace:
    """Probes on their way, and the hops in their order.

    Parameters
    ----------
    make_probe : callable
        ``make_probe(ttl, number)`` sends one.
    first, most, queries : int
        The first and the last time to live, and probes for each.
    wait : float
        Seconds for an answer.
    """

    def __init__(self, make_probe: Callable[[int, int], Probe], first: int, most: int, queries: int,
                 wait: float) -> None:
        self.make_probe, self.wait, self.queries = make_probe, wait, queries
        self.todo = [(ttl, q) for ttl in range(first, most + 1) for q in range(queries)]
        self.end = most                                # the hop behind which there is nothing
        self.running: dict[int, tuple[Probe, tuple[int, int]]] = {}
        self.done: dict[tuple[int, int], Answer | None] = {}

    def _fill(self) -> None:
        while self.todo and len(self.running) < AT_ONCE and self.todo[0][0] <= self.end:
            key = self.todo.pop(0)
            try:
                probe = self.make_probe(key[0], len(self.done) + len(self.running))
            except OSError as error:
                raise Failure(f"send: {error.strerror}") from None
            self.running[probe.socket.fileno()] = probe, key

    def _finish(self, fd: int) -> None:
        probe, key = self.running.pop(fd)
        probe.socket.close()
        self.done[key] = probe.answer
        if probe.answer is not None and probe.answer.last:
            self.end = min(self.end, key[0])

    def _wait(self) -> None:
        now = time.perf_counter()
        poll = select.poll()
        for fd in self.running:
            poll.register(fd, select.POLLIN)
        oldest = min(probe.sent_at for probe, _ in self.running.values())
        for fd, _ in poll.poll(max(0, round((oldest + self.wait - now) * 1000) + 1)):
            if self.running[fd][0].look():
                self._finish(fd)
        now = time.perf_counter()
        for fd, (probe, _) in list(self.running.items()):
            if now - probe.sent_at >= self.wait:
                self._finish(fd)

    def hops(self) -> Iterator[tuple[int, list[Answer | None]]]:
        """``(time to live, answers)``, None for silence, up to the target."""
        ttl = self.todo[0][0]
        try:
            while ttl <= self.end:
                keys = [(ttl, q) for q in range(self.queries)]
                if all(key in self.done for key in keys):
                    yield ttl, [self.done[key] for key in keys]
                    ttl += 1
                    continue
                self._fill()
                self._wait()
        finally:
            for probe, _ in self.running.values():
                probe.socket.close()


def line(ttl: int, answers: list[Answer | None], name_of: Callable[[str], str]) -> str:
    """One hop: an address is written where it differs from the one before."""
    words, before = [f"{ttl:2d} "], None
    for answer in answers:
        if answer is None:
            words.append("*")
            continue
        if answer.address != before:
            words.append(f"{name_of(answer.address)} ")
            before = answer.address
        words.append(f"{answer.took_s * 1000:.3f} ms" + (f" {answer.mark}" if answer.mark else "") + " ")
    return " ".join(words).rstrip()


def namer(host, numeric: bool) -> Callable[[str], str]:
    """Writes addresses with their names; when no server answers, it asks no more."""
    asking = not numeric
    known: dict[str, str] = {}

    def name_of(address: str) -> str:
        nonlocal asking
        if asking and address not in known:
            try:
                name = host.resolver.getnameinfo((address, 0), socket.NI_NUMERICSERV)[0]
                known[address] = f"{name} ({address})"
            except OSError:
                asking = False
        return known.get(address, address)

    return name_of


@click.command()
@click.argument("target")
@click.option("-I", "--icmp", is_flag=True, help="Probe with echo requests instead of datagrams.")
@click.option("-n", "numeric", is_flag=True, help="Addresses only: ask nobody for names.")
@click.option("-f", "--first", type=click.IntRange(1, 255), default=1, show_default=True, help="The first hop to show.")
@click.option("-m", "--max-hops", type=click.IntRange(1, 255), default=30, show_default=True, help="The last one.")
@click.option("-q", "--queries", type=click.IntRange(1, 10), default=3, show_default=True, help="Probes for each hop.")
@click.option("-w", "--wait", type=click.FloatRange(0.001), default=5.0, show_default=True,
              help="Seconds for an answer.")
@click.option("-p", "--port", type=click.IntRange(1, 65000), default=BASE_PORT, show_default=True,
              help="Where datagrams go; one more for each.")
@click.option("-s", "--size", type=click.IntRange(28, 65000), default=60, show_default=True, help="Bytes of a packet.")
@family_option
@on_a_host
def command(target, icmp, numeric, first, max_hops, queries, wait, port, size, family, network) -> None:
    """Show the routers between a stack of its own and TARGET, without root.

    Options and output are those of traceroute(8).
    """
    if first > max_hops:
        raise click.UsageError("--first behind --max-hops")
    with host_from(network) as host:
        family, to = find_target(host, target, family)

        def make_probe(ttl: int, number: int) -> Any:
            return Probe(host.socket, family, to, ttl, number, icmp, size, port)

        click.echo(f"traceroute to {target} ({to[0]}), {max_hops} hops max, {size} byte packets")
        name_of = namer(host, numeric)
        for ttl, answers in Trace(make_probe, first, max_hops, queries, wait).hops():
            click.echo(line(ttl, answers, name_of))
