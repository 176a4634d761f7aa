"""A process that scribbles over everything it may write, while the router runs (security F5, scaled)."""

import os
import random
import subprocess
import sys
import threading

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Raw

from netstack.router import Router
from tests.router.lan import parsed, put, take, wait_until
from tests.support import record_header

WORDS = {"index": 128, "sleep": 256, "bell": 264, "closed": 268}


@pytest.fixture
def router(runtime, backend):
    with Router(backend=backend, ring_capacity=1 << 18) as router:
        yield router
        assert router.check_conservation() == []


class Bystanders:
    """Two stacks that exchange numbered packets for as long as the block lasts; none may be lost."""

    def __init__(self, router):
        self.a, self.b = router.attach(), router.attach()
        self.count = 0
        self.problem = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            while not self.stop.is_set():
                number = self.count.to_bytes(4, "big")
                assert put(
                    self.a.link.channel, IP(src=self.a.address, dst=self.b.address) / ICMP() / Raw(number)
                )
                self.a.link.channel.flush()
                got = parsed(wait_until(lambda: take(self.b.link.channel)))
                assert bytes(got[ICMP].payload) == number
                self.count += 1
        except BaseException as error:
            self.problem = error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc_info):
        wait_until(lambda: self.problem or self.count > 5)
        self.stop.set()
        self.thread.join(30)
        self.a.close()
        self.b.close()
        assert self.problem is None and not self.thread.is_alive()


def words_of(attachment):
    """What the stack may write of its rings: a view of 8-byte words, and where its parts begin."""
    region = attachment.link.channel._regions[1]
    return memoryview(region.mapping).cast("Q"), (region.size - 4096) // 8


def scribble(attachment, rng, count: int):
    words, consumer = words_of(attachment)
    channel = attachment.link.channel
    bells = channel.peer_doorbells
    packet = bytes(IP(src=attachment.address, dst="10.77.0.2") / UDP() / Raw(bytes(50)))
    for _ in range(count):
        what = rng.random()
        value = rng.choice(
            [
                0,
                1,
                63,
                64,
                65,
                2**31,
                2**32 - 1,
                2**63,
                2**64 - 1,
                rng.getrandbits(18) & ~63,
                rng.getrandbits(64),
                record_header(64 * rng.randrange(64), rng.choice([8, 64, 80, 4096]), rng.randrange(4), 8, 64),
            ]
        )
        if what < 0.3:
            words[rng.randrange(48, 48 + 4096)] = value  # record headers and payloads
        elif what < 0.4:
            words[rng.choice([0, consumer]) + rng.choice(list(WORDS.values())) // 8] = value
        elif what < 0.45:
            words[rng.choice([0, consumer]) + rng.randrange(4)] = value  # the constants
        elif what < 0.6:
            bells[rng.choice([1, 2])].kick()
        elif what < 0.95:
            try:
                put(channel, packet)
                channel.flush()
            except Exception:  # our own end may be poisoned by now
                return
        else:
            take_quietly(channel)


def take_quietly(channel):
    try:
        take(channel)
    except Exception:  # poisoned or closed by the router: that is what we are here for
        pass


@pytest.mark.timeout(600)
def test_random_bytes_over_its_rings_hurt_only_the_one_who_writes_them(router, scale):
    rng = random.Random(77)
    with Bystanders(router):
        for _ in range(scale(400)):
            hostile = router.attach()
            control = hostile._control
            scribble(hostile, rng, 400)
            control.close()  # no goodbye: its memory is what it made of it
        wait_until(lambda: len(router.attachments()) == 2)


def test_poisoned_stack_is_cut_off_by_the_router(router):
    with Bystanders(router):
        hostile = router.attach()
        words, _ = words_of(hostile)
        words[128 // 8] = 1 << 60
        hostile.link.channel.peer_doorbells[1].kick()
        wait_until(lambda: len(router.attachments()) == 2)
        del words
        hostile.close()


def test_sleeper_of_a_kind_that_there_is_not(router):
    with Bystanders(router):
        hostile = router.attach()
        words, consumer = words_of(hostile)
        words[256 // 8] = words[consumer + 256 // 8] = 2**64 - 1
        del words
        hostile._control.close()
        wait_until(lambda: len(router.attachments()) == 2)


def test_doorbell_storm_is_muted_and_hurts_nobody(router):
    """R11: a doorbell that rings without packets is not listened to; its packets still go through."""
    with Bystanders(router) as others:
        with router.attach() as noisy:
            bell = noisy.link.channel.peer_doorbells[1]
            before = others.count
            while others.count < before + 20 or router.counters(noisy.id)["spurious"] < 64:
                bell.kick()
            wakes = router.counters(noisy.id)["wakes"]
            put(noisy.link.channel, IP(src=noisy.address, dst="10.77.0.1") / ICMP())
            noisy.link.channel.flush()
            assert parsed(wait_until(lambda: take(noisy.link.channel))).src == "10.77.0.1"
            assert wakes > 0


TRUNCATE = """
import os, sys
import netstack.router.client
attachment = netstack.router.client.attach()
print(attachment.address, flush=True)
fds, _ = attachment.link.channel.export()
try:
    os.ftruncate(fds[int(sys.argv[1])], int(sys.argv[2]))
except PermissionError:
    print("refused", flush=True)
else:
    print("truncated", flush=True)
os.write(fds[2], (1).to_bytes(8, sys.byteorder))    # the router sleeps on it
sys.stdin.read()
os._exit(0)
"""


@pytest.mark.parametrize("side", [0, 1], ids=["router's", "its own"])
@pytest.mark.parametrize("kept", [0, 4096])
def test_stack_that_truncates_memory_is_cut_off_alone(router, backend, side, kept):
    """posix memory cannot be protected against it: the router loses this attachment and nothing else."""
    with Bystanders(router) as others:
        hostile = subprocess.Popen(
            [sys.executable, "-c", TRUNCATE, str(side), str(kept)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **router.environment()},
        )
        with hostile:
            try:
                address = hostile.stdout.readline().strip()
                if backend == "memfd":
                    assert hostile.stdout.readline() == "refused\n"
                    before = others.count
                    wait_until(lambda: others.count > before + 20)
                    assert len(router.attachments()) == 3
                else:
                    assert hostile.stdout.readline() == "truncated\n"
                    with router.attach() as sender:  # whoever sends there makes the router touch it
                        packet = IP(src=sender.address, dst=address) / UDP() / Raw(bytes(1000))

                        def noticed():
                            put(sender.link.channel, packet)
                            sender.link.channel.flush()
                            take(sender.link.channel)
                            return router.endings()

                        assert wait_until(noticed) == {"truncated": 1}
                    assert len(router.attachments()) == 2
                before = others.count
                wait_until(lambda: others.count > before + 20)
            finally:
                hostile.kill()
