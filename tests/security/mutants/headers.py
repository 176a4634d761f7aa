"""Rows A1 to A5, A9, A10, A12: lengths, options and extension headers of IP, ICMP and UDP."""

from tests.security.mutants import Mutant

IPV4 = "netstack/wire/ipv4.pxd"
IPV6 = "netstack/wire/ipv6.pxd"
UDP = "netstack/wire/udp.pxd"
INTERFACE = "netstack/ip/interface.pyx"
WALK = "netstack/ip/ipv6.pyx"
NDP = "netstack/ip/ndp.pyx"

TOTAL = "if out.total_length < out.header_length or out.total_length > available:"
IHL = "if out.header_length < IPV4_HEADER or out.header_length > available:"
OPTION = "if length < 2 or length > n - i:"
ULEN = "if out.length < UDP_HEADER or out.length > available:"

MUTANTS = [
    Mutant("A1", "a packet may be longer than its frame", IPV4, TOTAL, "if out.total_length < out.header_length:"),
    Mutant("A1", "a packet may be shorter than its header", IPV4, TOTAL, "if out.total_length > available:"),
    Mutant("A1", "an IPv6 packet may be longer than its frame", IPV6, "if out.total_length > available:", "if False:"),
    Mutant("A1", "the padding of the frame is payload", INTERFACE, "out.length = ip.total_length",
           "out.length = available",
           ("test_a1_every_total_length_is_held_to_the_frame_and_padding_is_cut_off",)),
    Mutant("A1", "the padding of the frame is payload of IPv6", WALK, "out.length = ip.total_length",
           "out.length = available",
           ("test_a1_every_total_length_is_held_to_the_frame_and_padding_is_cut_off",)),
    Mutant("A2", "a header may be shorter than 20 bytes", IPV4, IHL, "if out.header_length > available:"),
    Mutant("A2", "a header may be longer than the packet", IPV4, IHL, "if out.header_length < IPV4_HEADER:"),
    Mutant("A3", "an option of length 1 is taken", IPV4, OPTION, "if length < 1 or length > n - i:"),
    Mutant("A3", "an option may reach past the header", IPV4, OPTION, "if length < 2:"),
    Mutant("A3", "strict source routes are followed by nobody and dropped by nobody", IPV4,
           "if kind == IPV4_OPTION_LSRR or kind == IPV4_OPTION_SSRR:", "if kind == IPV4_OPTION_LSRR:"),
    Mutant("A4", "any number of headers is walked", WALK,
           "        if headers > MAX_EXTENSION_HEADERS:\n            return DROP_IP_EXTENSION\n", ""),
    Mutant("A4", "a header may be longer than the packet", WALK,
           "        if at + length > total:\n            return incomplete(out)\n", ""),
    Mutant("A4", "an option may reach past its header", WALK, "if length > end - at - 2:", "if False:"),
    Mutant("A4", "an option's length may lie behind its header", WALK, "if at + 2 > end:", "if False:"),
    Mutant("A5", "a routing header with segments left is passed over", WALK, "            if left:  ",
           "            if False:  "),
    Mutant("A5", "the jumbo payload option is passed over", WALK, "if type != OPTION_PADN and type >> 6:",
           "if type != OPTION_PADN and type != 0xc2 and type >> 6:"),
    Mutant("A5", "a first fragment may end before the transport's header does", WALK,
           "if at + transport_header(p, held, at, out.protocol) > total:", "if False:"),
    Mutant("A5", "a first fragment that ends within its headers is dropped in silence", WALK,
           "    if out.fragment.more:\n        return refuse(out, PROBLEM_CHAIN, 0)\n    return DROP_IP_EXTENSION",
           "    return DROP_IP_EXTENSION"),
    Mutant("A5", "a fragment of odd length is dropped in silence", WALK, "if out.fragment.more and length & 7:",
           "if False:"),
    Mutant("A5", "a fragment beyond the largest packet is dropped in silence", WALK,
           "if out.fragment.offset + length > IPV6_MAX_PAYLOAD:", "if False:"),
    Mutant("A9", "a message of IPv4 may be shorter than its header", "netstack/ip/icmp.pyx",
           "    if packet.length - packet.header_length < ICMP_HEADER:\n        return DROP_ICMP_LENGTH\n", ""),
    Mutant("A9", "a message of IPv6 may be shorter than its header", "netstack/ip/icmp6.pyx",
           "    if size < ICMP_HEADER:\n        return DROP_ICMP_LENGTH\n", ""),
    Mutant("A9", "the answer is as long as the frame", INTERFACE, "length[0] = packet.length - offset",
           "length[0] = frame.head_length - link_header - packet.skipped - offset + frame.body_length"),
    Mutant("A10", "a length below 8 is taken", UDP, ULEN, "if out.length > available:"),
    Mutant("A10", "a length beyond the packet is taken", UDP, ULEN, "if out.length < UDP_HEADER:"),
    Mutant("A10", "IPv6 needs no checksum", "netstack/stack/datagrams.pyx",
           "if not h.has_checksum and not address_is_v4(&packet.dst):", "if False:"),
    Mutant("A12", "an option of length 0 ends the walk", NDP,
           "        if size == 0 or size > length - at:\n            return False\n",
           "        if size == 0:\n            return True\n        if size > length - at:\n            return False\n",
           ("test_a12_an_option_of_length_0_or_beyond_the_message_drops_it_whole",)),
    Mutant("A12", "an option may reach past the message", NDP, "if size == 0 or size > length - at:", "if size == 0:",
           ("test_a12_an_option_of_length_0_or_beyond_the_message_drops_it_whole",)),
    Mutant("A12", "half an address of a name server is read", "netstack/ip/discovery.pyx",
           "if size < SERVERS_OPTION + 16 or (size - SERVERS_OPTION) % 16:", "if size < SERVERS_OPTION + 16:",
           ("test_a12_name_servers_of_even_length_are_none",)),
]
