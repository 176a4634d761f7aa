"""A stack by somebody else: speaks the attach protocol as docs/attach_protocol.md tells it, with IP packets by scapy.
It shares no line with netstack or rings."""

from __future__ import annotations

import array
import mmap
import os
import select
import socket
import struct
import time

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Raw

MASK = 2**64 - 1


class Foreign:
    """An attachment, and enough of ICMP, UDP and TCP to talk to others.

    Parameters
    ----------
    path : str
        The router's control socket.
    """

    def __init__(self, path: str):
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(20)
        self.control.connect(path)
        self.sequence = 0
        self.ask(1, struct.pack("<Q", 0))
        reply, fds = self.ask(2, struct.pack("<QQIH2x16s128s", 0, 0, 0, 0, b"", b""))
        (self.id, _, self.capacity, _, _, self.mtu, self.backend, n_fds, n) = struct.unpack_from("<QQQQIIHHH", reply)
        assert n_fds == len(fds) == 6 and n >= 1
        self.token, self.address = reply[72:88], socket.inet_ntop(socket.AF_INET, reply[100:104])
        size = self.capacity + 8192
        self.theirs = mmap.mmap(fds[0], size, mmap.MAP_SHARED, mmap.PROT_READ)
        self.mine = mmap.mmap(fds[1], size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        for fd in fds[:2]:
            os.close(fd)
        self.router_bell, self.bell = fds[2], fds[4]
        self.bells = fds[2:]
        self.tail = self.head = self.naps = 0
        self.consumer = self.capacity + 4096             # where the words of a consumer are

    def ask(self, kind: int, body: bytes = b"") -> tuple[bytes, list[int]]:
        self.sequence += 1
        self.control.send(struct.pack("<4sHHIi", b"NSRT", 1, kind, self.sequence, 0) + body.ljust(496, b"\0"))
        data, ancillary, _, _ = self.control.recvmsg(512, socket.CMSG_SPACE(32))
        magic, version, answered, sequence, status = struct.unpack_from("<4sHHIi", data)
        assert (magic, version, answered, sequence) == (b"NSRT", 1, kind, self.sequence)
        if status:
            raise OSError(status, data[16:].rstrip(b"\0").decode())
        fds = array.array("i")
        for _, _, payload in ancillary:
            fds.frombytes(payload)
        return data[16:], list(fds)

    # --- rings

    def put(self, packet: bytes) -> None:
        """One packet into the ring, all of it as the body of a record."""
        span = -(-(8 + len(packet)) // 64) * 64
        left = self.capacity - self.tail % self.capacity
        room = span if span <= left else left + span
        while self.tail + room - struct.unpack_from("<Q", self.theirs, self.consumer + 128)[0] > self.capacity:
            time.sleep(0.001)
        if span > left:
            self.record(left, 0, b"")
        self.record(8 + len(packet), 1, packet)
        struct.pack_into("<Q", self.mine, 128, self.tail)
        os.write(self.router_bell, struct.pack("<Q", 1))

    def record(self, length: int, kind: int, body: bytes) -> None:
        fields = length | 2 << 32 | kind << 40
        check = fields * 0x91B7584A2265B1F5 + self.tail * 0xCD613E30D8F16ADF + 0x5BD1E995A7C6F04B & MASK
        at = 384 + self.tail % self.capacity
        self.mine[at + 8 : at + 8 + len(body)] = body
        struct.pack_into("<Q", self.mine, at, fields | check >> 52 << 52)
        self.tail += -(-length // 64) * 64

    def take(self, seconds: float = 20.0) -> bytes | None:
        """The next packet; None: none came in time."""
        until = time.monotonic() + seconds
        while True:
            tail = struct.unpack_from("<Q", self.theirs, 128)[0]
            if tail != self.head:
                at = 384 + self.head % self.capacity
                (header,) = struct.unpack_from("<Q", self.theirs, at)
                length, body_at = header & 0xFFFFFFFF, (header >> 32 & 0xFF) * 4
                kind, head_length = header >> 40 & 3, header >> 42 & 0x3FF
                packet = self.theirs[at + 8 : at + 8 + head_length] + self.theirs[at + body_at : at + length]
                self.head += -(-length // 64) * 64
                struct.pack_into("<Q", self.mine, self.consumer + 128, self.head)
                if kind == 1:
                    return packet
                continue
            if time.monotonic() > until:
                return None
            self.naps += 1
            struct.pack_into("<Q", self.mine, self.consumer + 256, self.naps << 2 | 1)
            if struct.unpack_from("<Q", self.theirs, 128)[0] == tail:
                if select.select([self.bell], [], [], 0.05)[0]:
                    os.read(self.bell, 8)
            struct.pack_into("<Q", self.mine, self.consumer + 256, self.naps << 2)

    def send(self, packet) -> None:
        self.put(bytes(packet))

    def receive(self, layer, seconds: float = 20.0):
        """The next packet that has this layer; what others send is passed over."""
        until = time.monotonic() + seconds
        while (data := self.take(until - time.monotonic())) is not None:
            packet = IP(data)
            if layer in packet:
                return packet
        raise TimeoutError(f"no {layer.__name__} within {seconds} s")

    # --- protocols

    def ping(self, address: str, payload: bytes = b"foreign") -> bytes:
        self.send(IP(src=self.address, dst=address) / ICMP(id=7) / Raw(payload))
        reply = self.receive(ICMP)
        assert reply[ICMP].type == 0 and reply.src == address
        return bytes(reply[ICMP].payload)

    def datagram(self, address: str, port: int, payload: bytes) -> bytes:
        """Send, and return the answer."""
        self.send(IP(src=self.address, dst=address) / UDP(sport=4000, dport=port) / Raw(payload))
        return bytes(self.receive(UDP)[UDP].payload)

    def exchange(self, address: str, port: int, data: bytes, sport: int = 5000) -> bytes:
        """A TCP connection: send the data in segments of 1000 bytes, one at a time, and return what came back."""
        there = IP(src=self.address, dst=address)
        seq, ack, got, finished = 1000, 0, b"", False
        self.send(there / TCP(sport=sport, dport=port, flags="S", seq=seq, window=65535))
        answer = self.receive(TCP)[TCP]
        assert answer.flags == "SA" and answer.ack == seq + 1
        seq, ack = seq + 1, answer.seq + 1
        first = seq

        def heard(segment):
            nonlocal ack, got, finished
            assert "R" not in segment.flags, "reset"
            payload = bytes(segment.payload)
            if segment.seq == ack:
                got += payload
                ack += len(payload) + (1 if "F" in segment.flags else 0)
                finished |= "F" in segment.flags
            if payload or "F" in segment.flags:
                self.send(there / TCP(sport=sport, dport=port, flags="A", seq=seq, ack=ack, window=65535))
            return segment.ack

        for at in range(0, len(data), 1000):
            part = data[at : at + 1000]
            header = TCP(sport=sport, dport=port, flags="PA", seq=first + at, ack=ack, window=65535)
            self.send(there / header / Raw(part))
            seq = first + at + len(part)
            while heard(self.receive(TCP)[TCP]) < seq:
                pass
        self.send(there / TCP(sport=sport, dport=port, flags="FA", seq=seq, ack=ack, window=65535))
        seq += 1
        acknowledged = 0
        while not finished or acknowledged < seq:
            acknowledged = max(acknowledged, heard(self.receive(TCP)[TCP]))
        return got

    def close(self) -> None:
        self.ask(3)
        self.control.close()
        self.theirs.close()
        self.mine.close()
        for fd in self.bells:
            os.close(fd)
