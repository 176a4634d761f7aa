"""What a stack answers at its doors: checks that need the layers joined."""

from scapy.all import ICMP, IP, UDP, raw

from netstack.config import InterfaceConfig, StackConfig
from netstack.stack import Stack


def test_a_damaged_datagram_to_a_closed_port_is_not_answered():
    stack = Stack(addresses="10.0.0.1", seed=1)
    good = raw(IP(src="10.0.0.9", dst="10.0.0.1") / UDP(sport=1000, dport=9) / b"payload")
    damaged = good[:-1] + bytes([good[-1] ^ 4])
    stack.input(damaged, 1)
    assert stack.pop_output() is None and stack.counters()["drop_udp_checksum"] == 1
    stack.input(good, 2)
    answer = IP(stack.pop_output()[0])
    assert answer[ICMP].type == 3 and answer[ICMP].code == 3


def test_an_address_of_another_interface_is_no_source_from_outside():
    config = StackConfig(interfaces=(InterfaceConfig(addresses=("10.0.0.1/24",)),
                                     InterfaceConfig(addresses=("10.1.0.1/24",))), seed=1)
    stack = Stack(config)
    stack.input(raw(IP(src="10.1.0.1", dst="10.0.0.1") / ICMP(type=8, id=1, seq=1)), 1, interface=0)
    assert stack.counters()["drop_ip_source"] == 1
    assert stack.pop_output(0) is None and stack.pop_output(1) is None
