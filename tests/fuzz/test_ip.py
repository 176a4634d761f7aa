"""The parsers below the transports under mutants of valid frames: nothing crashes, nothing is kept.

One target for each parser (ARP, ICMP, IGMP, IPv4 pieces; extension headers, ICMPv6, neighbour discovery, MLD, IPv6
pieces), and the whole IP input of each version over both media: 17 million frames at full scale. A mutant breaks a
frame in a few places and mostly keeps lengths and checksums right. Everything the stack sends is judged
(`netstack.testing.FuzzLink`); afterwards time runs until the stack holds what it held before.

``ci/sanitize tests/fuzz`` runs it under sanitizers; ``NETSTACK_SEED=n`` runs one session alone.
"""

import os
import socket
import struct
from typing import Any

import pytest

from netstack.config import StackConfig
from netstack.stack import Stack
from netstack.testing import FuzzLink
from tests.fuzz import ip_frames as frames
from tests.fuzz.ip_frames import GROUP, GROUP6, OTHER, OTHER6, PEER, PEER6, PEER_PORT, UDP_PORT, VICTIM, VICTIM6
from tests.support import scale

FRAMES_PER_SESSION = 20_000
BURST = 1000                     # frames between two looks at the sockets
ANSWERS = 110                    # sent at once: 65,535 bytes in the smallest pieces, and timers that were due
PARSER, INPUT = 1_000_000, 2_000_000
FIXED_SEED = os.environ.get("NETSTACK_SEED")
SYSCTL = {f"net.ipv6.conf.all.{name}": 1 for name in ("accept_ra", "accept_redirects")}
FRAGMENTS: dict[str, Any] = {"calm": 2, "number_at": 4}      # the identification of IPv4
FRAGMENTS6: dict[str, Any] = {"calm": 2, "number_at": 46}    # and of the header behind that of IPv6
TARGETS: dict[str, tuple[Any, str, int, dict[str, Any]]] = {
    "arp": (frames.arp, "ethernet", PARSER, {}),
    "icmp": (frames.icmp, "ip", PARSER, {}),
    "igmp": (frames.igmp, "ethernet", PARSER, {}),
    "fragments": (frames.fragments, "ip", PARSER, FRAGMENTS),
    "extensions": (frames.extensions, "ip", PARSER, {}),
    "icmp6": (frames.icmp6, "ip", PARSER, {}),
    "nd": (frames.nd, "ethernet", PARSER, {}),
    "mld": (frames.mld, "ethernet", PARSER, {}),
    "fragments6": (frames.fragments6, "ip", PARSER, FRAGMENTS6),
    "udplite": (frames.udplite, "ip", PARSER, {}),
    "ipv4-ethernet": (lambda: frames.ipv4() + frames.arp(), "ethernet", INPUT, {}),
    "ipv4-ip": (frames.ipv4, "ip", INPUT, {}),
    "ipv6-ethernet": (frames.ipv6, "ethernet", INPUT, {}),
    "ipv6-ip": (frames.ipv6, "ip", INPUT, {}),
}
ICMP_ERRORS = ("drop_icmp_length drop_icmp_checksum drop_icmp_type drop_icmp_embedded icmp_out icmp_errors_in"
               " ip_pmtu_lowered")
PIECES = ("ip_reassembled ip_fragments_out drop_fragment_overlap drop_fragment_length drop_fragment_duplicate"
          " drop_fragment_timeout")
# What mutants of a target must have caused, so that it is known how deep they reach.
REACHED = {
    "arp": "drop_arp_malformed drop_arp_unsolicited address_conflicts packets_out",
    "icmp": ICMP_ERRORS,
    "igmp": "drop_igmp igmp_out drop_ip_options drop_ip_total_length",
    "fragments": PIECES + " drop_fragment_tiny",
    "extensions": "ip6_extension_headers drop_ip_extension udp_in icmp_out tcp_resets_out drop_fragment_overlap",
    "icmp6": ICMP_ERRORS,
    "nd": "drop_nd_invalid drop_nd_unsolicited drop_nd_ignored packets_out nd_conflicts",
    "mld": "drop_mld_invalid drop_nd_ignored packets_out drop_ip_extension",
    "fragments6": PIECES,
    "udplite": "drop_udplite_coverage drop_udp_length drop_udp_checksum drop_udp_no_port udplite_in udplite_out"
               " icmp_out icmp_errors_in ip_reassembled",
    "ipv4-ethernet": "drop_ip_checksum drop_ip_total_length drop_ip_source drop_ip_destination drop_udp_no_port"
                     " drop_link_type drop_link_not_ours drop_tcp_no_port drop_ip_protocol tcp_resets_out",
    "ipv4-ip": "drop_ip_version drop_ip_header_length drop_link_malformed drop_multicast udp_in raw_in",
    "ipv6-ethernet": "drop_ip_extension drop_ip_total_length drop_ip_source drop_ip_destination udp_in"
                     " drop_link_not_ours",
    "ipv6-ip": "drop_ip_version drop_nd_on_channel drop_udp_no_port tcp_resets_out drop_ip_protocol raw_in",
}


def option(sock, level, name, value):
    sock.setsockopt(level, name, value)
    return sock


class Session:
    """One victim with sockets of every kind, and the link that attacks it."""

    def __init__(self, target, seed):
        made, media, _, how = TARGETS[target]
        templates = made()
        self.link = FuzzLink(templates if media == "ethernet" else frames.without_link(templates), seed, media=media,
                             **how)
        config = StackConfig(media=media, addresses=(f"{VICTIM}/24", f"{VICTIM6}/64"), seed=seed, sysctl=SYSCTL,
                             **({"mac": frames.VICTIM_MAC} if media == "ethernet" else {}))
        self.stack = Stack(config, links=[self.link])
        if seed % 2:
            self.link.settle(self.stack, 5)              # else the addresses are still on trial
        self.before = self.held()
        self.sockets = self.open()
        self.turn = 0

    def held(self):
        return {**self.stack.memory(), "sockets": self.stack.socket_count}

    def open(self):
        everywhere = socket.inet_pton(socket.AF_INET6, GROUP6) + struct.pack("=I", 1)
        datagrams = option(self.stack.socket("dgram", socket.AF_INET6), 41, 20, everywhere)
        option(datagrams, 0, 35, socket.inet_aton(GROUP) + socket.inet_aton(VICTIM))
        option(datagrams, 0, 11, 1)                      # IP_RECVERR
        datagrams.bind(("::", UDP_PORT))
        connected = self.stack.socket("dgram")
        connected.connect((PEER, PEER_PORT))
        listener = self.stack.socket("stream", socket.AF_INET6)
        listener.bind(("::", frames.TCP_PORT))
        listener.listen(4)
        ping = self.stack.socket("dgram", protocol=socket.IPPROTO_ICMP)
        ping6 = self.stack.socket("dgram", socket.AF_INET6, socket.IPPROTO_ICMPV6)
        raws = [self.stack.socket(socket.SOCK_RAW, family, protocol) for family, protocol in (
            (socket.AF_INET, 1), (socket.AF_INET, 200), (socket.AF_INET6, 200))]
        lite = option(self.stack.socket("dgram", socket.AF_INET6, socket.IPPROTO_UDPLITE), 136, 11, 12)
        option(lite, 136, 10, 9)                         # UDPLITE_RECV_CSCOV, UDPLITE_SEND_CSCOV
        option(lite, 0, 11, 1)
        lite.bind(("::", UDP_PORT))
        return [datagrams, connected, listener, ping, ping6, lite, *raws]

    def talk(self):
        """The victim's programs read, and send, so that errors and neighbours have something to be about."""
        datagrams, connected, listener, ping, ping6, lite, *raws = self.sockets
        for sock in (datagrams, connected, ping, ping6, lite, *raws):
            for flags in (0, 0x2000):                    # MSG_ERRQUEUE
                for _ in range(300):
                    try:
                        sock.recvmsg(100, 200, flags)
                    except BlockingIOError:
                        break
                    except OSError:
                        continue
        self.turn += 1
        large = PEER6 if self.turn % 2 else f"::ffff:{PEER}"
        for sock, data, to in (
                (datagrams, b"x", (OTHER6, PEER_PORT)), (datagrams, b"x", (f"::ffff:{OTHER}", PEER_PORT)),
                (datagrams, bytes(1400), (large, PEER_PORT)), (lite, bytes(100), (large, PEER_PORT)),
                (ping, b"\x08" + bytes(7), (PEER, 0)), (ping6, b"\x80" + bytes(7), (PEER6, 0))):
            try:
                sock.sendto(data, to)
            except OSError:
                continue
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            pass

    def run(self, count):
        for _ in range(count // BURST):
            self.talk()
            self.link.attack(self.stack, BURST)
        return self

    def finish(self):
        """What is left when everything has been closed and the longest timer is over."""
        for sock in self.sockets:
            sock.close()
        self.link.settle(self.stack, 3600)
        left = self.held()
        for name in ("pool", "demux"):                   # kept to be used again, and a table that does not shrink
            left[name] = self.before[name]
        assert left == self.before
        assert len(self.stack.neighbors()) <= 512


def sessions(target):
    count = scale(TARGETS[target][2] // FRAMES_PER_SESSION)
    return [int(FIXED_SEED)] if FIXED_SEED else range(count)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", TARGETS)
def test_mutants_crash_nothing_and_leave_nothing(target):
    for seed in sessions(target):
        try:
            session = Session(target, seed)
            session.run(FRAMES_PER_SESSION)
            session.finish()
        except BaseException as error:
            raise AssertionError(f"session {seed}, replay with NETSTACK_SEED={seed}: {error!r}") from error
        assert session.link.injected == FRAMES_PER_SESSION == session.stack.counters()["packets_in"]
        assert session.link.worst <= ANSWERS, (seed, session.link.worst)


@pytest.mark.parametrize("target", REACHED)
def test_the_mutants_reach_deep(target):
    seen: dict[str, int] = {}
    for seed in range(2):
        for name, count in Session(target, seed).run(FRAMES_PER_SESSION).stack.counters().items():
            seen[name] = seen.get(name, 0) + count
    assert [name for name in REACHED[target].split() if not seen.get(name)] == [], seen


def test_the_same_seed_gives_the_same_frames():
    def run():
        session = Session("ipv4-ethernet", 3).run(2000)
        return session.link.last, session.link.sent, session.stack.counters(), session.stack.snapshot()

    assert run() == run()


def test_a_stack_that_sends_nonsense_is_found_out():
    """The judge of what is sent, on a stack whose program gives it a datagram with a wrong sum to send as it is."""
    link = FuzzLink(frames.without_link(frames.icmp()), 1)
    stack = Stack(StackConfig(addresses=(f"{VICTIM}/24",), seed=1), links=[link])
    raw = stack.socket(socket.SOCK_RAW, socket.AF_INET, 17)
    raw.sendto(bytes([0, 9, 0, 9, 0, 9, 1, 1, 0]), (PEER, 0))
    with pytest.raises(AssertionError, match="a wrong checksum"):
        link.attack(stack, 1)
