"""What our TCP and the kernel's agree on, and what then goes over the wire: tshark and the kernel's counters judge."""

import hashlib
import random
import threading

import pytest

from tests.kernel.wires import KERNEL, OURS, meeting
from tests.support import scale

pytestmark = pytest.mark.root
BOTH = pytest.mark.parametrize("who_connects", ["kernel", "ours"])
DATA = random.Random(8).randbytes(1_000_000)


def sent(out, into, data=DATA):
    """Send everything; whether it arrived unchanged. Neither side is closed."""
    failure = []

    def send():
        try:
            out.sendall(data)
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    got, digest = 0, hashlib.blake2b()
    while got < len(data):
        piece = into.recv(1 << 16)
        assert piece, f"end of file after {got} bytes"
        got += len(piece)
        digest.update(piece)
    thread.join(60)
    assert not failure and not thread.is_alive()
    assert digest.digest() == hashlib.blake2b(data).digest()


def both_ways(kernel, ours, data=DATA):
    sent(kernel, ours, data)
    sent(ours, kernel, data)


# --- what the SYNs agree on

OPTIONS = {"timestamps": ("tcp.options.timestamp.tsval", "net.ipv4.tcp_timestamps"),
           "sack": ("tcp.options.sack_perm", "net.ipv4.tcp_sack"),
           "window_scaling": ("tcp.options.wscale.shift", "net.ipv4.tcp_window_scaling")}


@BOTH
@pytest.mark.parametrize("without", ["nothing", *OPTIONS])
@pytest.mark.parametrize("whose", ["kernel", "ours"])
def test_an_option_is_used_when_both_offer_it_and_by_nobody_otherwise(tmp_path, who_connects, without, whose):
    off = {} if without == "nothing" else {f"tcp_{without}": 0}
    settings = {"kernel": off} if whose == "kernel" else {"ours": {f"net.ipv4.{k}": v for k, v in off.items()}}
    with meeting(tmp_path, **settings) as meet:
        kernel, ours = meet.connected(who_connects)
        both_ways(kernel, ours, DATA[:300_000])
        kernel.close()
        ours.close()
    client = KERNEL if who_connects == "kernel" else OURS
    for name, (field, _) in OPTIONS.items():
        syn, = meet.tshark(f"tcp.flags.syn==1 && tcp.flags.ack==0 && ip.src=={client}", field)
        answer, = meet.tshark("tcp.flags.syn==1 && tcp.flags.ack==1", field)
        offered = name != without or whose != who_connects
        assert bool(syn[0]) == offered, name
        assert bool(answer[0]) == (name != without), name
    later = "tcp.flags.syn==0 && tcp.flags.reset==0"
    assert bool(meet.tshark(f"{later} && tcp.options.timestamp.tsval")) == (without != "timestamps")
    if without != "timestamps":
        assert not meet.tshark(f"{later} && !tcp.options.timestamp.tsval")
    if without == "window_scaling":
        assert {r[0] for r in meet.tshark(f"{later} && ip.src=={OURS}", "tcp.window_size_scalefactor")} <= {"-2", "1"}


# --- selective acknowledgements

def test_the_kernel_believes_our_sack_blocks_and_sends_only_what_is_missing(tmp_path):
    with meeting(tmp_path, seed=3) as meet:
        kernel, ours = meet.connected("kernel")
        meet.wire.set(from_left={"loss": 0.02})
        sent(kernel, ours, DATA * scale(30, 3))
        meet.wire.set(from_left={"loss": 0.0})
        counters = meet.kernel_counters()
        lost = meet.wire.stats()["from_left"]["lost"]
        kernel.close()
        ours.close()
    assert counters["TCPSackRecovery"] > 0 and counters["TCPSACKDiscard"] == 0
    assert counters["RetransSegs"] <= 2 * lost + 10
    blocks = meet.tshark(f"ip.src=={OURS} && tcp.options.sack.count", "tcp.ack_raw", "tcp.options.sack_le",
                         "tcp.options.sack_re")
    assert blocks
    for ack, lefts, rights in blocks:
        ranges = [(int(a), int(b)) for a, b in zip(lefts.split(","), rights.split(","), strict=True)]
        assert all((b - a) % 2**32 < 2**31 for a, b in ranges)
        assert all((a - int(ack)) % 2**32 < 2**31 for a, _ in ranges[1:])           # the first may be a D-SACK


def test_we_send_only_what_the_kernel_has_not_got(tmp_path):
    with meeting(tmp_path, seed=4) as meet:
        kernel, ours = meet.connected("ours")
        meet.wire.set(from_right={"loss": 0.02})
        sent(ours, kernel, DATA * scale(30, 3))
        meet.wire.set(from_right={"loss": 0.0})
        lost = meet.wire.stats()["from_right"]["lost"]
        counters = meet.ours.host.counters()
        kernel.close()
        ours.close()
    assert lost <= counters["tcp_retransmits"] <= 2 * lost + 10


def test_the_kernel_reads_our_duplicate_sacks(tmp_path):
    """It finds them dubious, since it had sent nothing twice: well-formed all the same."""
    with meeting(tmp_path, seed=5) as meet:
        kernel, ours = meet.connected("kernel")
        meet.wire.set(from_left={"duplicate": 0.1})
        sent(kernel, ours)
        counters = meet.kernel_counters()
        kernel.close()
        ours.close()
    dubious = sum(n for name, n in counters.items() if name.startswith("TCPDSACKIgnored"))
    assert counters["TCPDSACKRecv"] > 10 and counters["TCPSACKDiscard"] == dubious
