"""The lossy wire itself: nothing gets lost that it does not count, the dice repeat, delays are kept."""

import hashlib
import random
import socket
import threading
import time

import pytest

from bench import lossy
from tests.support import root_missing

DATA = random.Random(3).randbytes(300_000)


def moved(there, back):
    """What arrives of DATA over one connection."""
    with back.socket() as listener:
        listener.bind((back.address, lossy.FIRST_PORT))
        listener.listen()
        out = there.socket()
        out.connect((back.address, lossy.FIRST_PORT))
        into, _ = listener.accept()
    into.settimeout(60)

    def send():
        out.sendall(DATA)
        out.close()

    thread = threading.Thread(target=send)
    thread.start()
    got = b""
    while data := into.recv(1 << 16):
        got += data
    into.close()
    thread.join()
    return got


def ends(*kinds):
    if "kernel" in kinds and root_missing():
        pytest.skip(root_missing())
    return [lossy.KINDS[kind](f"10.9.1.{i}") for i, kind in enumerate(kinds, 1)]


@pytest.mark.parametrize("kinds", [("ours", "ours"), pytest.param(("kernel", "ours"), marks=pytest.mark.root),
                                   pytest.param(("ours", "kernel"), marks=pytest.mark.root),
                                   pytest.param(("kernel", "kernel"), marks=pytest.mark.root)], ids="-".join)
def test_every_packet_is_accounted_for(kinds):
    here, there = ends(*kinds)
    with lossy.network([here], [there], seed=4, loss=0.02, duplicate=0.02, reorder=0.02, delay="200us") as wire:
        got = moved(here, there)
        stats = wire.stats()
        assert here.dropped() == there.dropped() == 0
    assert hashlib.blake2b(got).digest() == hashlib.blake2b(DATA).digest()
    for way in ("from_left", "from_right"):
        s = stats[way]
        assert s["pushed"] + s["duplicated"] == s["delivered"] + s["lost"] + s["queue_dropped"] + s["held"]
    assert stats["from_left"]["lost"] > 0 and stats["from_left"]["duplicated"] > 0


def survivors(seed):
    """Which of 400 datagrams get through."""
    here, there = ends("ours", "ours")
    with lossy.network([here], [there], lanes=2, seed=seed, from_left={"loss": 0.3}) as wire:
        into = there.host.socket(socket.AF_INET, socket.SOCK_DGRAM)
        into.bind((there.address, 7))
        into.settimeout(30)
        out = here.host.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for number in range(400):
            out.sendto(number.to_bytes(2, "big"), (there.address, 7))
        deadline = time.monotonic() + 30
        while wire.stats()["from_left"]["pushed"] < 400 and time.monotonic() < deadline:
            time.sleep(0.001)
        wire.set(from_left={"loss": 0.0})
        out.sendto(b"end", (there.address, 7))
        return list(iter(lambda: into.recv(10), b"end"))


def test_the_same_seed_loses_the_same_packets():
    once = survivors(11)
    assert 200 < len(once) < 360
    assert survivors(11) == once != survivors(12)


def test_a_round_trip_takes_both_delays():
    here, there = ends("ours", "ours")
    with lossy.network([here], [there], from_left={"delay": "20ms"}, from_right={"delay": "10ms"}):
        with there.socket() as listener, here.socket() as s:
            listener.bind((there.address, 1))
            listener.listen()
            began = time.monotonic()
            s.connect((there.address, 1))
            assert time.monotonic() - began >= 0.03


def test_jain():
    assert lossy.jain([3, 3]) == 1 and lossy.jain([5, 0]) == 0.5 and lossy.jain([0, 0]) == 0
