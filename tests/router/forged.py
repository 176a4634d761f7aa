"""A TCP by hand, and what it can do wrong: how it writes IP packets and hears them is its user's."""

from __future__ import annotations

from netstack.testing.packets import build_tcp, parse_packet
from tests.router.lan import put, take, wait_until

PORT, OWN_PORT = 7, 40000                  # the server's, and its own


def address_of(host) -> str:
    return host.addresses[0].split("/")[0]


class Forged:
    """One connection, opened by this end.

    Parameters
    ----------
    address, server : str
        The two ends.
    write : callable
        Sends an IP packet.
    read : callable
        The next IP packet for `address`, None without one.
    """

    def __init__(self, address, server, write, read):
        self.address, self.server = address, server
        self.write, self.read = write, read
        self.seq = self.ack = 1000                           # next of this end; what came is acknowledged up to there
        self.send("S", window_scale=0, mss=1400)
        answer = self.hear(lambda p: p.flags == "SA")
        self.seq, self.ack = self.seq + 1, answer.seq + 1
        self.shift = answer.window_scale or 0                # of the windows that the server offers
        self.send("A")

    def send(self, flags, payload=b"", **options):
        self.write(self.segment(flags, payload, **options))
        self.seq += len(payload)

    def segment(self, flags, payload=b"", **options):
        return build_tcp(self.address, self.server, OWN_PORT, PORT, flags, payload=payload,
                         **{"seq": self.seq, "ack": self.ack, "window": 60000, **options})

    def next(self):
        """What came, parsed; None: nothing."""
        raw = self.read()
        return parse_packet(raw) if raw else None

    def edge(self, packet):
        """What the server allows to be sent, as a number like `seq`."""
        return packet.ack + (packet.window << self.shift)

    def hear(self, wanted):
        """Wait for a packet like this; the others are passed over."""
        def look():
            packet = self.next()
            return packet if packet is not None and wanted(packet) else None

        return wait_until(look)


def attached(attachment, server) -> Forged:
    """One in an attachment of this process."""
    def write(packet):
        assert put(attachment.link.channel, packet)
        attachment.link.channel.flush()

    return Forged(attachment.address, server, write, lambda: take(attachment.link.channel))


# ---- misdeeds, each just enough to be found; the server has sent a thousand bytes

def acknowledge_early(forged) -> None:
    """Three acknowledgements, each beyond the one before, of data that the server has not sent yet."""
    forged.hear(lambda p: p.payload)
    for n in range(1, 4):
        forged.send("A", ack=forged.ack + 100_000 + n)


def divide(forged) -> None:
    """An acknowledgement for each byte: more than there were segments, even if somebody on the way had cut them."""
    forged.hear(lambda p: p.payload)
    for n in range(1, 41):
        forged.send("A", ack=forged.ack + n)


def overrun(forged) -> None:
    """Eight segments beyond any window that the server offered."""
    forged.hear(lambda p: p.payload)
    for _ in range(8):
        forged.send("A", bytes(1000), seq=forged.seq + (1 << 30))
