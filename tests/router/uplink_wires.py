"""Uplinks without a kernel: the other end of a socket pair speaks Ethernet, as behind a TAP."""

from __future__ import annotations

import socket

from scapy.layers.inet import IP
from scapy.layers.l2 import ARP, Ether

from netstack.router.devices.device import FileDevice
from netstack.router.pool import pack_address

OURS = "02:00:00:00:00:01"       # the router's
THEIRS = "02:00:00:00:00:02"


class Wire:
    """An uplink of a `Lan`, and whoever is behind it."""

    def __init__(self, lan, address, **options):
        self.lan = lan
        near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.port = lan.forwarder.add_uplink(FileDevice(near.detach()), mac=bytes.fromhex(OURS.replace(":", "")),
                                             own=[address], **options)
        lan.forwarder.bind_local(pack_address(address.split("/")[0]))

    def send(self, *packets):
        """IP packets to the router."""
        for packet in packets:
            self.far.send(bytes(Ether(dst=OURS, src=THEIRS) / packet))

    def frames(self) -> list[Ether]:
        out = []
        while True:
            try:
                out.append(Ether(self.far.recv(65536)))
            except BlockingIOError:
                return out

    def exchange(self) -> tuple[list[str], list]:
        """Run the router and answer its questions: whom it asked for by ARP, and the IP packets it sent."""
        asked, packets = [], []
        while True:
            self.lan.run()
            frames = self.frames()
            if not frames:
                return asked, packets
            for frame in frames:
                if ARP in frame and frame[ARP].op == 1:
                    asked.append(frame[ARP].pdst)
                    self.far.send(bytes(Ether(dst=OURS, src=THEIRS) / ARP(
                        op=2, hwsrc=THEIRS, psrc=frame[ARP].pdst, hwdst=OURS, pdst=frame[ARP].psrc)))
                elif IP in frame:
                    packets.append(frame[IP])

    @property
    def counters(self):
        return {k: v for k, v in self.lan.forwarder.counters(self.port).items() if v}
