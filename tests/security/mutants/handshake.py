"""Rows D1 to D3, E3 and F10."""

from tests.security.mutants import Mutant

LISTENER = "netstack/tcp/listener.pyx"
COOKIES = "netstack/tcp/syn_cookies.pyx"

MUTANTS = [
    Mutant("D1", "a full queue keeps everybody out", LISTENER,
           "        cookie = True\n", "        return DROP_TCP_BACKLOG\n",
           ("test_d1_a_flood_of_spoofed_syns_keeps_nobody_out_and_costs_less_than_a_mebibyte[8]",)),
    Mutant("D1", "half-open connections without number", LISTENER,
           "(tcp.config.syncookies == 2 or l.syn_count >= queue_limit(l))", "tcp.config.syncookies == 2",
           ("test_d1_a_flood_of_spoofed_syns_keeps_nobody_out_and_costs_less_than_a_mebibyte[8]",)),
    Mutant("D1", "a cookie forgets the window scale", COOKIES, "        r.flags |= RQ_WSCALE\n", "        pass\n",
           ("test_d1_a_flood_of_spoofed_syns_keeps_nobody_out_and_costs_less_than_a_mebibyte[8]",)),
    Mutant("D2", "any acknowledgement is a cookie", COOKIES, "    if index >= SIZES:\n        return COOKIE_FAILED\n",
           "    index &= SIZES - 1\n", ("test_d2_random_acknowledgements_open_nothing",)),
    Mutant("D2", "resets without limit", LISTENER, "return l.refused <= l.refused_limit", "return True",
           ("test_d2_random_acknowledgements_open_nothing",)),
    Mutant("D2", "cookies are looked for for ever", LISTENER,
           "l.overflow_ns == 0 or \\\n            tcp.now_ns - l.overflow_ns >= <int64_t> COOKIES_FOR_S * NS_PER_S:",
           "l.overflow_ns == 0:", ("test_d2_random_acknowledgements_open_nothing",)),
    Mutant("D3", "an accept queue without bound", LISTENER, "return l.accept_count > l.backlog", "return False"),
    Mutant("D3", "SYN,ACKs for ever", LISTENER, "expired = r.retries >= retry_limit(tcp, listener.listener)",
           "expired = False"),
    Mutant("E3", "Fast Open whatever is set", LISTENER, "if tcp.config.fastopen & 2:", "if True:"),
    Mutant("F10", "no cookie is recognised", LISTENER,
           "verdict = cookie_check(tcp, seg, &r)", "verdict = COOKIE_FAILED",
           ("test_f10_on_virtual_time_every_client_gets_in_within_a_second_of_its_syns[0]",)),
]
