"""Looking on at an attachment: `Capture` reads the copies that a router makes of its packets (``netstack capture``)."""

from __future__ import annotations

import select
import struct
import time
from typing import NamedTuple

from netstack.router import protocol
from netstack.router.client import ControlClient
from netstack.router.protocol import Type

HEAD = struct.Struct("=QQII")  # mirror.pxd
BATCH = 256  # records taken before their room is given back


class Packet(NamedTuple):
    """One packet.

    Attributes
    ----------
    time_ns : int
        When it passed, since 1970.
    direction : int
        1 to the stack, 2 from it: as pcapng says it.
    length : int
        Its bytes, of which `data` are the first.
    missed : int
        How many packets were not captured just before it.
    data : bytes
    """

    time_ns: int
    direction: int
    length: int
    missed: int
    data: bytes


class Capture:
    """The packets of one attachment, until it or the router ends, or `stop`.

    Parameters
    ----------
    client : ControlClient
        A connection of its own, which has no other capture.
    ident : int
        The attachment: `AttachmentInfo.id`.
    snap_length : int
        Bytes kept of each packet.
    ring_capacity : int
        Bytes of packets that wait to be read; a power of two from 256 KiB. When they are full, packets pass unseen.

    Attributes
    ----------
    ended : bool
        Nothing more will come.
    missed : int
        Packets that passed and were not captured, as far as is known.

    Raises
    ------
    RouterError
        There is no such attachment, somebody captures there already, or this user may not.
    """

    def __init__(self, client: ControlClient, ident: int, *, snap_length: int = 65535, ring_capacity: int = 4 << 20):
        from rings.channel import Channel, ChannelLayout

        self._client = client
        request = protocol.CAPTURE.pack(ident, ring_capacity, snap_length)
        body, fds = client.request(Type.CAPTURE, request, protocol.MAX_FDS)
        capacity, generation, _, _ = protocol.CAPTURE_REPLY.unpack_from(body)
        layout = ChannelLayout(side="b", backend="memfd", capacity=capacity, generation=generation,
                               single_writer=(True, False))
        self._channel = Channel.attach(fds, layout)
        self._wall_offset_ns = time.time_ns() - time.monotonic_ns()
        self._seen_missed = 0
        self.missed = 0
        self.ended = False

    def read(self) -> list[Packet]:
        """What has come, oldest first; empty if nothing has. Sets `ended` once there will be no more."""
        from rings.errors import RingClosed, RingDamaged

        out: list[Packet] = []
        rx = self._channel.rx
        while not self.ended and len(out) < BATCH:
            try:
                record = rx.peek_record()
            except RingClosed:
                self.ended = True
                break
            except RingDamaged:
                continue
            if record is None:
                break
            _, head, body = record
            now_ns, missed, length, direction = HEAD.unpack(head)
            when_ns = now_ns + self._wall_offset_ns
            out.append(Packet(when_ns, direction, length, missed - self._seen_missed, bytes(body)))
            self._seen_missed = missed
            del record, head, body
        self.missed = max(self.missed, self._seen_missed)
        if not self.ended:
            self._channel.release()
        return out

    def wait(self, seconds: float) -> None:
        """Let some time pass; shorter when the router ends."""
        ready, _, _ = select.select([self._client.socket], [], [], seconds)
        if ready:                                # it sends nothing unasked: that is its end
            self.ended = self.ended or not self._channel.rx.has_data

    def stop(self) -> None:
        """End the capture at the router: what was captured until now can still be read."""
        from netstack.errors import RouterError

        try:
            body, _ = self._client.request(Type.CAPTURE, protocol.CAPTURE.pack(0, 0, 0))
        except RouterError:
            return                               # gone, and the capture with it
        self.missed = protocol.CAPTURE_REPLY.unpack_from(body)[3]

    def close(self) -> None:
        """End it, and forget what was not read. Closing twice is allowed."""
        if not self.ended:
            self.stop()
        self.ended = True
        self._channel.close()

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()
