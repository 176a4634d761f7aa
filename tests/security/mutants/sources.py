"""Rows G1 to G5: sources that lie, what is answered, routers and redirects."""

from tests.security.mutants import Mutant

INTERFACE = "netstack/ip/interface.pyx"
IPV6 = "netstack/ip/ipv6.pyx"
ICMP = "netstack/ip/icmp.pyx"
ICMP6 = "netstack/ip/icmp6.pyx"
CORE = "netstack/stack/core.pyx"
SHARED = "netstack/ip/shared.pyx"
DISCOVERY = "netstack/ip/discovery.pyx"

MUTANTS = [
    Mutant("G1", "our own IPv4 addresses may be sources", INTERFACE,
           "if (ip.src_be == ifc.v4[i] and not ifc.shared) or ip.src_be == ifc.v4_broadcast[i]:",
           "if ip.src_be == ifc.v4_broadcast[i]:"),
    Mutant("G1", "our own IPv6 addresses may be sources", IPV6,
           "    if interface_index_of(ifc, &ip.src) >= 0 and not ifc.shared:\n        return DROP_IP_SOURCE\n", ""),
    Mutant("G1", "addresses of our other interfaces may be sources", CORE, "stack_is_local(stack, &packet.src)",
           "False",
           ("test_g1_another_of_our_addresses_is_no_source_either_on_any_interface",)),
    Mutant("G2", "martians may be sources", INTERFACE, "if ipv4_source_is_martian(ip.src_be):", "if False:"),
    Mutant("G2", "the broadcast of our network may be a source", INTERFACE,
           "if (ip.src_be == ifc.v4[i] and not ifc.shared) or ip.src_be == ifc.v4_broadcast[i]:",
           "if ip.src_be == ifc.v4[i]:"),
    Mutant("G2", "IPv6 groups may be sources", IPV6, "if address_is_multicast6(&ip.src) or (", "if ("),
    Mutant("G2", "::1 and IPv4 in disguise may be sources", IPV6,
           " or (ip.src.hi == 0 and not address_is_unspecified6(&ip.src)):", ":"),
    Mutant("G2", "who has no address may send anything", IPV6,
           "if address_is_unspecified6(&out.src) and (out.protocol != PROTOCOL_ICMPV6 or out.piece):", "if False:"),
    Mutant("G2", "a link-local source may have other bits set", IPV6,
           "        if not local_zeros(&ip.src):\n            return DROP_IP_SOURCE\n", ""),
    Mutant("G2", "a segment to a group is heard", CORE,
           "    if packet.broadcast:\n        return DROP_TCP_FLAGS                          # RFC 9293 MUST-57: "
           "silently\n", "",
           ("test_g2_a_segment_to_more_than_one_host_is_dropped_in_silence",)),
    Mutant("G3", "errors about broadcasts are sent", ICMP, "if packet.broadcast or not address_is_v4(&packet.src) or (",
           "if not address_is_v4(&packet.src) or ("),
    Mutant("G3", "errors about errors are sent", ICMP, "return type == ICMP_ECHO_REPLY or type == ICMP_ECHO_REQUEST",
           "return True"),
    Mutant("G3", "echoes to all are answered", ICMP,
           "if packet.interface.ip.config.echo_ignore_broadcasts or not own_v4(",
           "if not own_v4("),
    Mutant("G3", "errors about errors are sent over IPv6", ICMP6, " or about_an_error(about):", ":"),
    Mutant("G3", "errors about groups are sent over IPv6", ICMP6,
           "if about.broadcast and not (type == ICMP6_PARAMETER_PROBLEM and code == ICMP6_BAD_OPTION):", "if False:"),
    Mutant("G3", "echoes to groups are answered over IPv6", ICMP6,
           "if packet.broadcast and (packet.interface.conf.echo_ignore_multicast or not "
           "address_is_multicast6(&packet.dst)):",
           "if packet.broadcast and not address_is_multicast6(&packet.dst):"),
    Mutant("G4", "routers are heard unasked", DISCOVERY,
           "    if not ifc.conf.accept_ra:\n        return DROP_ND_IGNORED\n", ""),
    Mutant("G4", "a router needs no link-local address", DISCOVERY,
           "if length < ADVERTISEMENT or not address_is_link_local(&packet.src) or ", "if length < ADVERTISEMENT or "),
    Mutant("G4", "a router may be some hops away", "netstack/ip/ndp.pyx", "if packet.ttl != ND_HOP_LIMIT or p[1] != 0:",
           "if p[1] != 0:"),
    Mutant("G4", "redirects are followed unasked", DISCOVERY, "if not ifc.conf.accept_redirects or not address_equal(",
           "if not address_equal("),
    Mutant("G4", "redirects over IPv4 are errors like others", ICMP,
           "return icmp.type == ICMP_PARAMETER_PROBLEM and icmp.code <= 2",
           "return icmp.type == 5 or (icmp.type == ICMP_PARAMETER_PROBLEM and icmp.code <= 2)"),
    Mutant("G4", "anybody's redirects are followed", DISCOVERY,
           "not address_equal(&packet.src, &ifc.ip6.default_router) or \\\n", "\\\n",
           ("test_g4_a_redirect_is_believed_of_the_first_hop_only",)),
    Mutant("G4", "redirects turn packets away from their own link", DISCOVERY,
           " or not leads_to(ifc, &packet.src, &dst):", ":",
           ("test_g4_a_redirect_is_believed_of_the_first_hop_only",)),
    Mutant("G5", "errors to one host are not limited", SHARED, "if place.next_ns + wait > now_ns:", "if False:"),
    Mutant("G5", "resets to all hosts are not limited", CORE, "reset_may_send(&stack.ip, &seg.src, stack.tcp.now_ns)",
           "True"),
    Mutant("G5", "echoes cannot be switched off", ICMP,
           "    if packet.interface.ip.config.echo_ignore_all:\n        return DROP_ICMP_TYPE\n", ""),
    Mutant("G5", "echoes cannot be switched off over IPv6", ICMP6,
           "    if packet.interface.conf.echo_ignore_all:\n        return DROP_ICMP_TYPE\n", ""),
]
