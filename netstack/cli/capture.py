"""``netstack capture``: the packets of an attachment into a file that Wireshark opens."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, BinaryIO

import click

from netstack.cli.ps import describe
from netstack.errors import NetstackError

if TYPE_CHECKING:
    from netstack.router.capture import Packet

PAUSE_S = 0.005            # between two looks at an empty ring


def find_attachment(infos, target: str) -> dict:
    """The one attachment of an address, a process or a number of ``netstack ps --json``."""
    rows = [describe(info) for info in infos]
    plain = target.strip("[]")
    found = [row for row in rows if plain in row["addresses"]]
    if not found and plain.isdecimal():
        found = [row for row in rows if row["pid"] == int(plain)] or [row for row in rows if row["id"] == int(plain)]
    if not found:
        raise click.ClickException(f"{target}: no attachment has that address, process or number: see `netstack ps`")
    if len(found) > 1:
        names = ", ".join((row["addresses"] or [str(row["id"])])[0] + f" (number {row['id']})" for row in found)
        raise click.ClickException(f"{target} has {len(found)} attachments: name one of {names}")
    return found[0]


class Output:
    """A capture file: written as packets come, or (`last_bytes`) the newest at the end.

    Parameters
    ----------
    file : binary file
    header : bytes
    last_bytes : int or None
        Keep the newest packets that fit, in memory, until `finish`.
    """

    def __init__(self, file: BinaryIO, header: bytes, last_bytes: int | None):
        self._file = file
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._last_bytes = last_bytes
        self.packets = 0
        self.bytes = len(header)
        file.write(header)
        file.flush()

    def add(self, packet: Packet) -> None:
        from netstack.link import pcapng

        self.packets += 1
        data = pcapng.packet(packet.time_ns, packet.direction, packet.length, packet.data, packet.missed)
        self.bytes += len(data)
        if self._last_bytes is None:
            self._file.write(data)
            return
        self._kept.append(data)
        self._kept_bytes += len(data)
        while self._kept_bytes > self._last_bytes:
            self._kept_bytes -= len(self._kept.popleft())
            self.packets -= 1

    def flush(self) -> None:
        self._file.flush()

    def finish(self, seen: int, missed: int) -> None:
        from netstack.link import pcapng

        self._file.writelines(self._kept)
        self._kept.clear()
        self._file.write(pcapng.statistics(time.time_ns(), seen + missed, missed))
        self._file.flush()


@contextlib.contextmanager
def opened(path: str):
    if path == "-":
        yield sys.stdout.buffer
        return
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)   # others' packets are in it
    with open(fd, "wb") as file:
        yield file


def record(capture, output: Output, count: int | None, until: float | None, limit: int | None, stopping) -> int:
    """Until something ends it: how many packets were seen."""
    seen = 0
    stopped = False
    while not capture.ended:
        packets = capture.read()
        for packet in packets:
            if count is not None and seen == count:
                break
            seen += 1
            output.add(packet)
            if limit is not None and output.bytes >= limit:
                count = seen
        if count is not None and seen >= count:
            break
        if packets:
            continue
        output.flush()
        if not stopped and (stopping() or (until is not None and time.monotonic() >= until)):
            capture.stop()         # what is in the ring is still read, then it ends
            stopped = True
            continue
        capture.wait(PAUSE_S)
    return seen


@click.command()
@click.argument("target", metavar="ADDRESS|PID|NUMBER")
@click.option("-w", "--write", "path", required=True, metavar="FILE", help="The file (pcapng); - is the output.")
@click.option("--name", default=None, help="The router (default: $NETSTACK_ROUTER, or 'default').")
@click.option("-c", "--count", type=click.IntRange(1), metavar="N", help="End after N packets.")
@click.option("--duration", metavar="TIME", help="End after that time, 10s for example.")
@click.option("--limit", metavar="SIZE", help="End when the file has that size.")
@click.option("--last", metavar="SIZE", help="Keep the newest SIZE of packets in memory and write them at the end.")
@click.option("-s", "--snap", type=click.IntRange(1, 65535), default=65535, show_default=True, metavar="BYTES",
              help="Keep so many bytes of each packet.")
@click.option("--buffer", "buffer_size", default="4MiB", show_default=True, metavar="SIZE",
              help="Ring between the router and this program: a power of two from 256KiB to 64MiB.")
def command(target, path, name, count, duration, limit, last, snap, buffer_size):
    """Capture the packets between an attachment and its router, into a file that Wireshark opens.

    Only the router's owner may. Packets wait for nobody: those that come faster than they are written are counted as
    missed, in the file too. Ends with Ctrl-C, --count, --duration, --limit, or with the attachment.

    \b
    netstack capture 10.77.0.2 -w web.pcapng
    netstack capture 10.77.0.2 -w - | wireshark -k -i -
    """
    from netstack.link import pcapng
    from netstack.router.capture import Capture
    from netstack.router.client import ControlClient
    from netstack.units import duration_ns, size_bytes

    try:
        until_s = None if duration is None else duration_ns(duration) / 1e9
        limit_bytes, last_bytes = (None if each is None else size_bytes(each) for each in (limit, last))
        capacity = size_bytes(buffer_size)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if last is not None and limit is not None:
        raise click.UsageError("--last has a size already: leave --limit out")
    stop: list[int] = []
    try:
        with ControlClient(name) as client:
            row = find_attachment(client.attachments(), target)
            what = (row["addresses"] or [str(row["id"])])[0]
            header = pcapng.file_header(pcapng.LINKTYPE_RAW, snap, what,
                                        f"router {client.name}, process {row['pid']}: {row['command']}")
            with Capture(client, row["id"], snap_length=snap, ring_capacity=capacity) as capture, opened(path) as file:
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, lambda number, _: stop.append(number))
                output = Output(file, header, last_bytes)
                click.echo(f"capturing at {what}, process {row['pid']}; Ctrl-C ends", err=True)
                until = None if until_s is None else time.monotonic() + until_s
                seen = record(capture, output, count, until, limit_bytes, lambda: bool(stop))
                missed = capture.missed
                output.finish(seen, missed)
    except BrokenPipeError:
        raise                      # nobody reads: click ends the program quietly
    except (NetstackError, OSError) as error:
        raise click.ClickException(getattr(error, "strerror", None) or str(error)) from error
    click.echo(f"{output.packets} packets captured, {missed} missed", err=True)
