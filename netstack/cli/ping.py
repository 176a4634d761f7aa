"""``netstack ping``: echo requests from a stack of this process."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import struct
import sys
import time

import click


def make_host(name: str | None, tap: str | None, address: str | None):
    """The host to ping from: straight on a TAP, or attached to a router."""
    import netstack

    if tap is not None:
        if address is None:
            raise click.UsageError("--tap needs --address A.B.C.D/N")
        return netstack.Host(link=netstack.link.Tap(tap), address=address)
    return netstack.attach(name=name, address=address)


def echo_once(s: socket.socket, target: str, sequence: int, payload: bytes, timeout: float) -> float | None:
    """Send one request; seconds until its answer, None without one."""
    start = time.perf_counter()
    until = start + timeout
    s.sendto(struct.pack("!BBHHH", 8, 0, 0, 0, sequence & 0xFFFF) + payload, (target, 0))
    while True:
        left = until - time.perf_counter()
        if left <= 0:
            return None
        s.settimeout(left)
        try:
            data, _ = s.recvfrom(65535)
        except TimeoutError:
            return None
        if len(data) >= 8 and struct.unpack_from("!H", data, 6)[0] == sequence & 0xFFFF and data[8:] == payload:
            return time.perf_counter() - start


@click.command()
@click.argument("target")
@click.option("-c", "--count", default=4, show_default=True, help="How many requests.")
@click.option("-i", "--interval", default=1.0, show_default=True, help="Seconds between two.")
@click.option("-s", "--size", default=56, show_default=True, help="Payload bytes, 0 to 1400.")
@click.option("-W", "--timeout", default=1.0, show_default=True, help="Seconds to wait for an answer.")
@click.option("--name", help="The router to attach to.")
@click.option("--tap", help="Use this TAP device instead of a router.")
@click.option("--address", help="Our own address (with /N on a TAP).")
def command(target: str, count: int, interval: float, size: int, timeout: float, name: str | None, tap: str | None,
            address: str | None) -> None:
    """Send ICMP echo requests to TARGET from a stack of its own, without root."""
    from netstack.errors import NetstackError

    if not 0 <= size <= 1400:
        raise click.BadParameter("0 to 1400", param_hint="--size")
    payload = os.urandom(size)
    times: list[float] = []
    try:
        host = make_host(name, tap, address)
    except NetstackError as error:
        raise click.ClickException(str(error)) from error
    with contextlib.closing(host):
        with host.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as s:
            click.echo(f"PING {target} from {', '.join(host.addresses)}: {size} bytes")
            for sequence in range(1, count + 1):
                took = echo_once(s, target, sequence, payload, timeout)
                if took is None:
                    click.echo(f"no answer to {sequence}")
                else:
                    times.append(took)
                    click.echo(f"{size + 8} bytes from {target}: seq={sequence} time={took * 1e6:.0f} us")
                if sequence < count:
                    time.sleep(interval)
    lost = count - len(times)
    click.echo(f"{count} sent, {len(times)} answered, {100 * lost // count if count else 0} % lost")
    if times:
        click.echo(f"round trip min/median/max {min(times) * 1e6:.0f}/{statistics.median(times) * 1e6:.0f}/"
                   f"{max(times) * 1e6:.0f} us")
    sys.exit(1 if not times else 0)
