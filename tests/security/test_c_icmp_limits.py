"""Row C12: the limits of ICMP errors tell an attacker nothing about ports (SAD DNS, CVE-2020-25705, CVE-2021-20322)."""

import math
import random

import pytest

from netstack.stack import Stack
from netstack.testing.packets import build_ipv4
from netstack.wire import udp
from tests.ip.fragments import US, S, sent
from tests.support import scale

ATTACKER, VICTIM = "10.0.0.66", "10.0.0.53"


def own_answer(seed: int, sources: list[str], open_ports: int) -> bool:
    """Spoofed datagrams to a thousand ports, of which some are open; does the attacker then get an error of his own?"""
    stack = Stack(addresses=US + "/24", seed=seed)
    stack.advance(S)
    rng = random.Random(seed)
    ports = rng.sample(range(1024, 60000), len(sources))
    for port in ports[:open_ports]:
        stack.socket("dgram").bind((US, port))
    for k, (src, port) in enumerate(zip(sources, rng.sample(ports, len(ports)), strict=True)):
        stack.input(build_ipv4(src, US, 17, udp.build(src, US, 53, port, b"x")), S + k * 1000)
    sent(stack)
    stack.input(build_ipv4(ATTACKER, US, 17, udp.build(ATTACKER, US, 53, 9, b"x")), stack.now_ns + 1000)
    return len(sent(stack)) == 1


def t_value(a: list[bool], b: list[bool]) -> float:
    """Welch's t of two samples."""
    def mean_var(x):
        m = sum(x) / len(x)
        return m, sum((v - m) ** 2 for v in x) / (len(x) - 1)

    (ma, va), (mb, vb) = mean_var(a), mean_var(b)
    spread = math.sqrt(va / len(a) + vb / len(b))
    return abs(ma - mb) / spread if spread else (0.0 if ma == mb else math.inf)


@pytest.mark.parametrize("case", ["one source, a thousand ports", "a thousand sources",
                                  "as many sources as the burst holds"])
def test_c12_a_scan_with_forged_sources_reveals_no_open_port(case):
    n = 26 if case.startswith("as many") else 1000
    sources = [VICTIM] * n if case.startswith("one") else [f"10.0.{1 + k // 250}.{k % 250}" for k in range(n)]
    trials = scale(1000, minimum=60)
    closed = [own_answer(2 * k, sources, 0) for k in range(trials)]
    opened = [own_answer(2 * k + 1, sources, 1) for k in range(trials)]
    assert t_value(closed, opened) < 3.5
    if case.startswith("one"):
        assert all(closed), "who has used up his own share takes nothing from others"


def test_c12_the_share_of_all_is_random():
    counts = set()
    for seed in range(40):
        stack = Stack(addresses=US + "/24", seed=seed)
        stack.advance(S)
        for k in range(60):
            src = f"10.0.1.{k}"
            stack.input(build_ipv4(src, US, 17, udp.build(src, US, 53, 9, b"x")), S)
        counts.add(len(sent(stack)))
    assert len(counts) > 8 and max(counts) <= 50
