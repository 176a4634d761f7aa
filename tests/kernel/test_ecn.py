"""ECN with the kernel at the other end, over a wire of our own that marks: the kernel's counters and TCP_INFO judge."""

import socket

import pytest

from netstack.reports import TcpInfo
from tests.kernel.test_features import DATA, sent
from tests.kernel.wires import OURS, meeting

pytestmark = pytest.mark.root
BOTH = pytest.mark.parametrize("who_connects", ["kernel", "ours"])
TCPI_OPT_ECN, TCPI_OPT_ECN_SEEN = 8, 16
QUEUE = {"rate": "40mbit", "queue": 1000, "mark": 15}


def kernel_info(s):
    return TcpInfo.parse(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 280))


def ip_counters(meet):
    with meet.kernel.entered(), open("/proc/thread-self/net/netstat") as f:
        lines = f.read().splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith("IpExt:"))
    return dict(zip(names, map(int, values), strict=True))


@BOTH
@pytest.mark.parametrize("kernels", [0, 1, 2])
@pytest.mark.parametrize("ours", [0, 1, 2])
def test_ecn_is_spoken_when_one_asks_and_the_other_answers(tmp_path, who_connects, kernels, ours):
    with meeting(tmp_path, kernel={"tcp_ecn": kernels}, ours={"net.ipv4.tcp_ecn": ours}) as meet:
        kernel, mine = meet.connected(who_connects)
        sent(kernel, mine, DATA[:100_000])
        sent(mine, kernel, DATA[:100_000])
        asks, answers = (kernels, ours) if who_connects == "kernel" else (ours, kernels)
        spoken = asks == 1 and answers >= 1
        assert bool(kernel_info(kernel).options & TCPI_OPT_ECN) == spoken
        assert mine.tcp_info().ecn_mode == (1 if spoken else 0)
        assert bool(mine.tcp_info().options & TCPI_OPT_ECN_SEEN) == spoken
        kernel.close()
        mine.close()
    ect = meet.tshark("ip.dsfield.ecn!=0 && tcp.len>0", "ip.src")
    assert {row[0] for row in ect} == ({meet.kernel.address, OURS} if spoken else set())
    assert not meet.tshark(f"ip.src=={OURS} && ip.dsfield.ecn!=0 && tcp.len==0")


@BOTH
def test_the_kernel_echoes_our_marks_and_we_slow_down_without_a_loss(tmp_path, who_connects):
    with meeting(tmp_path, kernel={"tcp_ecn": 1}, ours={"net.ipv4.tcp_ecn": 1}, delay="5ms") as meet:
        kernel, mine = meet.connected(who_connects)
        before = ip_counters(meet)["InCEPkts"]
        meet.wire.set(from_right=QUEUE)
        sent(mine, kernel, DATA * 4)
        stats = meet.wire.stats()["from_right"]
        seen = ip_counters(meet)["InCEPkts"] - before
        info = mine.tcp_info()
        kernel.close()
        mine.close()
    assert stats["marked"] > 10 and seen == stats["marked"]
    assert info.delivered_ce > 0 and info.total_retrans == 0
    cwr = meet.tshark(f"ip.src=={OURS} && tcp.flags.syn==0 && tcp.flags.cwr==1", "tcp.len", "ip.dsfield.ecn")
    assert cwr and all(int(length) > 0 and ecn == "2" for length, ecn in cwr)
    echoes = meet.tshark(f"ip.dst=={OURS} && tcp.flags.syn==0 && tcp.flags.ece==1")
    assert len(cwr) < len(echoes)


@BOTH
def test_we_echo_the_kernels_marks_until_it_says_that_it_has_slowed_down(tmp_path, who_connects):
    with meeting(tmp_path, kernel={"tcp_ecn": 1}, ours={"net.ipv4.tcp_ecn": 1}, delay="5ms") as meet:
        kernel, mine = meet.connected(who_connects)
        meet.wire.set(from_left=QUEUE)
        sent(kernel, mine, DATA * 4)
        stats = meet.wire.stats()["from_left"]
        theirs, ours = kernel_info(kernel), mine.tcp_info()
        kernel.close()
        mine.close()
    assert stats["marked"] > 10 and ours.received_ce == stats["marked"]
    assert theirs.delivered_ce > 0 and theirs.total_retrans == 0
    assert meet.tshark(f"ip.dst=={OURS} && tcp.flags.syn==0 && tcp.flags.cwr==1")


@BOTH
def test_accecn_counts_alike_at_both_ends(tmp_path, who_connects):
    """A kernel that lets tcp_ecn be 3; with others this cannot hold, which is no skipped test."""
    try:
        with meeting(tmp_path, kernel={"tcp_ecn": 3}, ours={"net.ipv4.tcp_ecn": 3}, delay="5ms") as meet:
            kernel, mine = meet.connected(who_connects)
            meet.wire.set(from_right=QUEUE, from_left=QUEUE)
            sent(mine, kernel, DATA * 2)
            sent(kernel, mine, DATA * 2)
            stats = meet.wire.stats()
            theirs, ours = kernel_info(kernel), mine.tcp_info()
            kernel.close()
            mine.close()
    except OSError as error:
        pytest.xfail(f"this kernel speaks no AccECN: {error}")
    assert theirs.ecn_mode == ours.ecn_mode == 2
    assert theirs.received_ce == stats["from_right"]["marked"] > 0
    assert ours.received_ce == stats["from_left"]["marked"] > 0
    assert theirs.total_retrans == ours.total_retrans == 0
