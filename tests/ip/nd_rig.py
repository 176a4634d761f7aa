"""A stack on an Ethernet in virtual time and what its neighbours say to it; scapy makes and reads frames."""

from __future__ import annotations

import ipaddress

from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether

from netstack.stack import Stack
from netstack.testing.packets import checksum

S = 1_000_000_000
US, PEER, OTHER = "fd00::1", "fd00::2", "fd00::3"
OUR_MAC, PEER_MAC, EVIL_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:66"
ROUTER, ROUTER_MAC = "fe80::99", "02:00:00:00:00:99"


def solicited_node(address: str) -> str:
    tail = ipaddress.IPv6Address(address).packed[13:]
    return str(ipaddress.IPv6Address(bytes.fromhex("ff0200000000000000000001ff") + tail))


def group_mac(group: str) -> str:
    return "33:33:" + ipaddress.IPv6Address(group).packed[12:].hex(":")


def sum_is_right(packet) -> bool:
    """Of an ICMPv6 message, by six lines of our own."""
    data = bytes(packet[IPv6])
    next_header, at = data[6], 40
    while next_header in (0, 43, 60):
        next_header, at = data[at], at + 8 * (data[at + 1] + 1)
    length = len(data) - at
    return checksum(data[8:40] + length.to_bytes(4, "big") + b"\0\0\0\x3a" + data[at:]) == 0


class Link:
    """The stack, the time, and the frames that left it since the last look."""

    def __init__(self, addresses=(f"{US}/64",), *, settle=True, seed=1, links=None, **sysctl):
        sysctl = {f"net.ipv6.conf.all.{k}": v for k, v in sysctl.items()}
        self.stack = Stack(media="ethernet", addresses=addresses, mac=OUR_MAC, seed=seed, sysctl=sysctl)
        self.now = S
        self.times: list[int] = []
        self.stack.advance(self.now)
        if settle:
            self.run(4)
            self.take()

    def take(self):
        """Every frame sent so far, parsed, each with a right sum and the right MAC of its group."""
        out = []
        while (item := self.stack.pop_output()) is not None:
            frame = Ether(item[0])
            assert frame.src == OUR_MAC
            if frame.type == 0x86DD:
                assert frame[IPv6].nh not in (0, 58) or sum_is_right(frame), frame.show2(dump=True)
                if frame[IPv6].dst.startswith("ff"):
                    assert frame.dst == group_mac(frame[IPv6].dst)
            self.times.append(item[1])
            out.append(frame)
        return out

    def run(self, seconds):
        """Let time pass, timers firing at their own times."""
        end = self.now + int(seconds * S)
        while (deadline := self.stack.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.stack.advance(self.now)
        self.now = end
        self.stack.advance(end)

    def give(self, packet, *, src=PEER_MAC, dst=None):
        """A packet from the neighbour; what was answered at once."""
        if dst is None:
            dst = group_mac(packet[IPv6].dst) if packet[IPv6].dst.startswith("ff") else OUR_MAC
        self.stack.input(bytes(Ether(src=src, dst=dst) / packet), self.now)
        return self.take()

    def drops(self):
        return {k: v for k, v in self.stack.counters().items() if k.startswith("drop_")}

    def dropped(self, packet, reason, **frame):
        """The packet is dropped for that reason and nothing is said."""
        before = self.stack.counters().get(f"drop_{reason}", 0)
        assert self.give(packet, **frame) == []
        assert self.stack.counters().get(f"drop_{reason}", 0) == before + 1, self.drops()

    def send(self, data=b"x", to=PEER, port=9):
        s = self.stack.socket("dgram", family=10)
        try:
            s.sendto(data, (to, port))
        finally:
            s.close()
        return self.take()

    def known(self, address=PEER, mac=PEER_MAC):
        """Have the neighbour answer our question."""
        sent = self.send(to=address)
        assert sent and ICMPv6ND_NS in sent[0]
        sent = self.give(advertisement(address, mac), src=mac)
        assert [f.dst for f in sent] == [mac]
        return self


def solicitation(target=US, src=PEER, mac: str | None = PEER_MAC, dst=None, **ip):
    p = IPv6(src=src, dst=dst or solicited_node(target), hlim=255, **ip) / ICMPv6ND_NS(tgt=target)
    return p / ICMPv6NDOptSrcLLAddr(lladdr=mac) if mac else p


def advertisement(target=PEER, mac: str | None = PEER_MAC, dst=US, src=None, R=0, S=1, O=1):  # noqa: E741
    p = IPv6(src=src or target, dst=dst, hlim=255) / ICMPv6ND_NA(tgt=target, R=R, S=S, O=O)
    return p / ICMPv6NDOptDstLLAddr(lladdr=mac) if mac else p
