"""``netstack ping``: echo requests from a stack of this process, reported as ping(8) reports them."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import struct
import sys
import time

import click

from netstack.cli.attaching import Failure, family_option, find_target, host_from, on_a_host
from netstack.cli.complaints import listen, next_complaint

ECHO = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}       # request and reply: RFC 792, RFC 4443
HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}                # IP and ICMP headers of a request
HOPS = {socket.AF_INET: (socket.IPPROTO_IP, 2), socket.AF_INET6: (socket.IPPROTO_IPV6, 52)}    # IP_TTL, IPV6_HOPLIMIT
RECEIVE_HOPS = {socket.AF_INET: (socket.IPPROTO_IP, 12), socket.AF_INET6: (socket.IPPROTO_IPV6, 51)}     # linux/in.h
PROTOCOLS = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}


class Statistics:
    """Counts, and the times of the answers as ping(8) sums them up."""

    def __init__(self) -> None:
        self.sent = self.received = self.duplicates = self.errors = 0
        self.times: list[float] = []

    def lines(self, target: str, elapsed_s: float) -> list[str]:
        """The closing lines."""
        counts = f"{self.sent} packets transmitted, {self.received} received"
        if self.duplicates:
            counts += f", +{self.duplicates} duplicates"
        if self.errors:
            counts += f", +{self.errors} errors"
        lost = 100 * (self.sent - self.received) / self.sent if self.sent else 0.0
        out = [f"--- {target} ping statistics ---", f"{counts}, {lost:.6g}% packet loss, time {elapsed_s * 1000:.0f}ms"]
        if self.times:
            mean = sum(self.times) / len(self.times)
            deviation = math.sqrt(max(0.0, sum(t * t for t in self.times) / len(self.times) - mean * mean))
            values = "/".join(f"{1000 * t:.3f}" for t in (min(self.times), mean, max(self.times), deviation))
            out.append(f"rtt min/avg/max/mdev = {values} ms")
        return out


class Pinger:
    """Sends requests at an interval and takes the answers as they come.

    Parameters
    ----------
    s : socket
        A ping socket of the host.
    family : int
    to : tuple
        The target.
    size : int
        Payload bytes.
    show : callable
        Gets each line.
    """

    def __init__(self, s, family: int, to, size: int, show) -> None:
        self.s, self.family, self.to, self.show = s, family, to, show
        self.payload = os.urandom(size)
        self.statistics = Statistics()
        self._sent_at: dict[int, float] = {}
        self._answered: set[int] = set()

    def send(self) -> None:
        """One request."""
        sequence = (self.statistics.sent + 1) & 0xFFFF
        self.statistics.sent += 1
        self._sent_at[sequence] = time.perf_counter()
        self._answered.discard(sequence)
        try:
            self.s.sendto(struct.pack("!BBHHH", ECHO[self.family][0], 0, 0, 0, sequence) + self.payload, self.to)
        except OSError as error:
            self.statistics.errors += 1
            self.show(f"ping: send {self.to[0]}: {error.strerror}")

    def take(self, until: float) -> bool:
        """Wait for one answer until then; False when none came."""
        left = until - time.perf_counter()
        if left <= 0:
            return False
        self.s.settimeout(left)
        try:
            data, ancillary, _, sender = self.s.recvmsg(65535, 256)
        except TimeoutError:
            return False
        except OSError as error:
            self.complain(error)
            return True
        now = time.perf_counter()
        if len(data) < 8 or data[0] != ECHO[self.family][1]:
            return True
        sequence, = struct.unpack_from("!H", data, 6)
        start = self._sent_at.get(sequence)
        if start is None:
            return True
        hops = next((f" ttl={int.from_bytes(value, sys.byteorder)}" for level, kind, value in ancillary
                     if (level, kind) in HOPS.values() and len(value) == 4), "")
        text = f"{len(data)} bytes from {sender[0]}: icmp_seq={sequence}{hops} time={1000 * (now - start):.3g} ms"
        if data[8:] != self.payload:
            text += " (wrong data!)"
        if sequence in self._answered:
            self.statistics.duplicates += 1
            text += " (DUP!)"
        else:
            self._answered.add(sequence)
            self.statistics.received += 1
            self.statistics.times.append(now - start)
        self.show(text)
        return True

    def complain(self, error: OSError) -> None:
        """Show what was said about a request."""
        self.statistics.errors += 1
        complaint = next_complaint(self.s, self.family)
        if complaint is None or not complaint.icmp:
            self.show(f"ping: {error.strerror}")
            return
        about = ""
        if len(complaint.quoted) >= 8:
            about = f" icmp_seq={struct.unpack_from('!H', complaint.quoted, 6)[0]}"
        self.show(f"From {complaint.address}{about} {complaint.text}")

    @property
    def outstanding(self) -> bool:
        return self.statistics.received + self.statistics.errors < self.statistics.sent

    def run(self, count: int | None, interval: float, wait: float, deadline: float | None) -> None:
        """Until ``count`` requests are answered or given up, or ``deadline`` seconds are over."""
        begin = time.perf_counter()
        end = math.inf if deadline is None else begin + deadline
        following = begin
        while time.perf_counter() < end:
            if count is not None and self.statistics.sent >= count:
                last = min(end, time.perf_counter() + wait)
                while self.outstanding and self.take(last):
                    pass
                return
            now = time.perf_counter()
            if now >= following:
                self.send()
                following = max(following + interval, now)
                if count == self.statistics.sent:
                    continue
            self.take(min(following, end))


@click.command()
@click.argument("target")
@click.option("-c", "--count", type=click.IntRange(1), help="How many requests. Default: until Ctrl-C.")
@click.option("-i", "--interval", type=click.FloatRange(0), default=1.0, show_default=True, help="Seconds between two.")
@click.option("-s", "--size", type=click.IntRange(0, 65507), default=56, show_default=True, help="Payload bytes.")
@click.option("-t", "--ttl", type=click.IntRange(1, 255), help="Time to live, or hop limit.")
@click.option("-W", "--timeout", type=click.FloatRange(0), default=10.0, show_default=True,
              help="Seconds to wait for the last answer.")
@click.option("-w", "--deadline", type=click.FloatRange(0), help="Seconds after which it ends in any case.")
@click.option("-q", "--quiet", is_flag=True, help="Only the sum at the end.")
@family_option
@on_a_host
def command(target, count, interval, size, ttl, timeout, deadline, quiet, family, network) -> None:
    """Send ICMP echo requests to TARGET from a stack of its own, without root.

    Options, output and exit code are those of ping(8): 0 when anything answered, 1 when nothing did, 2 for other
    errors.
    """
    with host_from(network) as host:
        family, to = find_target(host, target, family)
        try:
            s = host.socket(family, socket.SOCK_DGRAM, PROTOCOLS[family])
        except OSError as error:
            raise Failure(f"{target}: {error.strerror}") from None
        with s:
            listen(s, family)
            with contextlib.suppress(OSError):
                s.setsockopt(*RECEIVE_HOPS[family], 1)
            if ttl is not None:
                level, option = ((socket.IPPROTO_IP, socket.IP_TTL) if family == socket.AF_INET else
                                 (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS))
                s.setsockopt(level, option, ttl)
            click.echo(f"PING {target} ({to[0]}) {size}({size + HEADERS[family]}) bytes of data.")
            pinger = Pinger(s, family, to, size, (lambda line: None) if quiet else click.echo)
            begin = time.perf_counter()
            try:
                pinger.run(count, interval, timeout, deadline)
            except KeyboardInterrupt:
                click.echo()
            click.echo()
            for line in pinger.statistics.lines(target, time.perf_counter() - begin):
                click.echo(line)
    received = pinger.statistics.received
    sys.exit(1 if not received or (deadline is not None and count is not None and received < count) else 0)
