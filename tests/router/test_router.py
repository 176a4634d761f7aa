"""Routers and their clients: attaching, being refused, ending, dying."""

import os
import random
import select
import signal
import subprocess
import sys
import threading

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Raw

from netstack.errors import AddressTakenError, ConfigError, NoRouterError, PoolEmptyError, RouterError
from netstack.router import ControlClient, Router, attach
from tests.faults.test_no_descriptors import Allowed
from tests.router.lan import parsed, put, take, wait_until
from tests.support import ROOT, descriptors


def send(attachment, packet):
    assert put(attachment.link.channel, packet)
    attachment.link.channel.flush()


def receive(attachment):
    return parsed(wait_until(lambda: take(attachment.link.channel)))


def settled(router, connections: int = 0):
    """The control thread has noticed the end of all connections but these."""
    wait_until(lambda: len(router._control._connections) == connections)


def shared_memory() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if name.startswith("ns-")}


def test_two_stacks_talk(router):
    with router.attach() as a, router.attach() as b:
        assert (a.address, b.address, a.router_address, a.prefix_lengths[0]) == (
            "10.77.0.2",
            "10.77.0.3",
            "10.77.0.1",
            16,
        )
        for i in range(200):
            send(a, IP(src=a.address, dst=b.address) / UDP() / Raw(i.to_bytes(2, "big")))
            got = receive(b)
            assert got.ttl == 63 and bytes(got[UDP].payload) == i.to_bytes(2, "big")
            send(b, IP(src=b.address, dst=a.address) / UDP() / Raw(b"back"))
            assert receive(a).src == b.address


def test_packet_of_64_kib_through_the_smallest_ring(router):
    with router.attach() as a, router.attach() as b:
        payload = random.Random(5).randbytes(65507)
        send(a, IP(src=a.address, dst=b.address) / UDP() / Raw(payload))
        assert bytes(receive(b)[UDP].payload) == payload


def test_attachments_are_listed(router):
    assert router.attachments() == []
    with router.attach("10.77.5.5", mtu=9000) as a:
        [info] = router.attachments()
        assert (info.pid, info.uid, info.mtu, info.id) == (os.getpid(), os.geteuid(), 9000, a.id)
        assert "pytest" in info.command or "python" in info.command
        assert router.address_of(os.getpid()) == ["10.77.5.5"]
        with ControlClient(router.name) as client:
            assert [i.id for i in client.attachments()] == [a.id]
            assert client.counters(a.id)["in_packets"] == 0
            client.ping()
    assert wait_until(lambda: router.attachments() == [])


def test_several_addresses(router):
    with router.attach(address=["10.77.3.1", "10.77.3.2"]) as a, router.attach() as b:
        assert a.addresses == ("10.77.3.1", "10.77.3.2")
        for address in a.addresses:
            send(a, IP(src=address, dst=b.address) / UDP())
            assert receive(b).src == address


@pytest.mark.serial                      # others have shared memory of their own meanwhile
def test_closing_gives_everything_back(router):
    router.attach().close()
    settled(router)
    before, memory = descriptors(), shared_memory()
    for _ in range(20):
        with router.attach(), router.attach():
            pass
    assert router.attachments() == []
    settled(router)
    assert descriptors() == before
    assert shared_memory() == memory


def test_closed_address_answers_with_a_reset(router):
    with router.attach() as a:
        with router.attach() as b:
            address = b.address
        send(a, IP(src=a.address, dst=address) / TCP(flags="A", ack=9))
        assert receive(a)[TCP].flags == "R"


# ---- errors


def test_no_router_says_how_to_start_one(runtime):
    with pytest.raises(NoRouterError, match="netstack router") as caught:
        attach()
    assert isinstance(caught.value, ConnectionRefusedError)
    with pytest.raises(NoRouterError, match="--name other"):
        attach("other")


def test_socket_of_a_dead_router_is_no_router(runtime):
    with Router(name="gone") as router:
        path = router.path
        os.link(path, path + ".kept")
    os.rename(path + ".kept", path)
    with pytest.raises(NoRouterError):
        attach("gone")
    with Router(name="gone") as router:  # a new one takes the name over
        router.attach().close()


def test_second_router_of_a_name_refuses(runtime):
    with Router(name="one") as first:
        with pytest.raises(RouterError, match="running already"):
            Router(name="one")
        first.attach().close()
    Router(name="one").close()


def test_taken_address_and_its_token(router):
    with router.attach("10.77.1.1") as a, router.attach() as peer:
        with pytest.raises(AddressTakenError, match="10.77.1.1 is taken"):
            router.attach("10.77.1.1")
        with pytest.raises(AddressTakenError):
            router.attach("10.77.1.1", token=bytes(15) + b"1")
        with router.attach("10.77.1.1", token=a.token) as again:
            assert again.epoch == a.epoch + 1
            send(a, IP(src="10.77.1.1", dst=peer.address) / UDP() / Raw(b"old"))
            wait_until(lambda: router.counters(a.id)["drop_in_old_epoch"] == 1)
            send(again, IP(src="10.77.1.1", dst=peer.address) / UDP() / Raw(b"new"))
            assert bytes(receive(peer)[UDP].payload) == b"new"
            a.close()
            send(peer, IP(src=peer.address, dst="10.77.1.1") / UDP() / Raw(b"to the new one"))
            assert bytes(receive(again)[UDP].payload) == b"to the new one"


def test_empty_pool(runtime):
    with Router("10.0.0.0/30") as router:
        with router.attach() as a:
            with pytest.raises(PoolEmptyError, match="larger pool"):
                router.attach()
        assert wait_until(lambda: not router.attachments())
        with router.attach() as b:
            assert b.address == a.address == "10.0.0.2" and b.epoch == a.epoch + 1


def test_address_outside_the_pool(router):
    with pytest.raises(RouterError, match="not in the pool"):
        router.attach("192.0.2.1")
    with pytest.raises(RouterError, match="never leased"):
        router.attach("10.77.0.1")
    assert router.attachments() == []


def test_more_stacks_than_allowed(runtime):
    with Router(max_attachments=2) as router, router.attach(), router.attach():
        with pytest.raises(RouterError, match="2 stacks are attached"):
            router.attach()


@pytest.mark.parametrize(
    "options, why",
    [
        ({"backend": "sysv"}, "memfd"),
        ({"mtu": 100}, "mtu"),
        ({"ring_capacity": 1000}, "power of two"),
        ({"pool": "10.0.0.0/31"}, "pool"),
        ({"uplinks": ["wire:x"]}, "tap:NAME"),
        ({"name": "a/b"}, "name"),
        ({"allowed_uids": [1]}, "memfd"),
        ({"uplinks": ["tap:x,gateway=10.0.0.1"]}, "prefix length"),
        ({"max_attachments": 0}, "max_attachments"),
        ({"uplinks": ["tap:x,colour=blue"]}, "colour"),
    ],
)
def test_settings_that_cannot_be(runtime, options, why):
    with pytest.raises(ConfigError, match=why):
        Router(**options)


@pytest.mark.parametrize("options", [{"mtu": 100}, {"ring_capacity": 300_000}, {"ring_capacity": 1 << 40}])
def test_wishes_that_cannot_be_granted(router, options):
    with pytest.raises(RouterError):
        router.attach(**options)
    assert router.attachments() == []
    router.attach().close()


def test_folder_that_others_may_enter_is_refused(runtime):
    os.chmod(runtime, 0o755)
    try:
        with pytest.raises(RouterError, match="0700"):
            Router()
    finally:
        os.chmod(runtime, 0o700)


def test_no_descriptors_left_is_an_error_and_not_the_end(runtime):
    with Router(ring_capacity=1 << 18) as router:
        router.attach().close()
        settled(router)
        before = descriptors()
        kept = []
        try:
            for room in range(30):  # fail at every step
                with Allowed(room):
                    try:
                        kept.append(router.attach(timeout=0.3))
                        break
                    except OSError:
                        pass
            assert room >= 6
        finally:
            for attachment in kept:
                attachment.close()
        # connections that waited are accepted and end only now
        wait_until(lambda: descriptors() == before)
        router.attach().close()


# ---- endings


def test_stack_sees_the_router_close(router):
    a = router.attach()
    router.close()
    fd = a.link.channel.fileno()
    assert select.select([fd], [], [], 20)[0], "whoever sleeps on the doorbell wakes"
    a.close()


CHILD = """
import os, sys, threading
from netstack.router import attach
from tests.router.lan import put
a = attach({options})
print(a.address, flush=True)
{body}
"""


def child(router, body: str, options: str = "") -> tuple[subprocess.Popen, str]:
    """A process of its own that attaches and then does something; and its address."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(body=body, options=options)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **router.environment()},
    )
    address = process.stdout.readline().strip()
    assert address, process.wait(20)
    return process, address


def end(process):
    process.kill()
    process.wait(20)
    process.stdout.close()


def test_router_killed_marks_links_dead(runtime):
    code = (
        "import time; from netstack.router import Router\n"
        "r = Router(name='k'); print('up', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "up\n"
        from netstack.testing.link_driver import LinkDriver

        a = attach("k")
        assert not LinkDriver(a.link).dead
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: LinkDriver(a.link).dead)
        a.close()
        process.wait(20)                   # its sockets do not all close at one moment
        with pytest.raises(NoRouterError):
            attach("k")
    finally:
        end(process)


def test_killed_process_is_forgotten_at_once(router):
    with router.attach() as peer:
        process, address = child(router, "threading.Event().wait(60)")
        try:
            assert router.address_of(process.pid)[0] == address
        finally:
            end(process)
        wait_until(lambda: len(router.attachments()) == 1)
        send(peer, IP(src=peer.address, dst=address) / TCP(flags="PA", ack=5))
        assert receive(peer)[TCP].flags == "R"


def test_forked_child_does_not_keep_its_parents_attachment_alive(router):
    body = """
if os.fork() == 0:
    threading.Event().wait(60)
    os._exit(0)
threading.Event().wait(60)
"""
    process, _ = child(router, body)
    children = wait_until(lambda: open(f"/proc/{process.pid}/task/{process.pid}/children").read().split())
    try:
        end(process)
        wait_until(lambda: not router.attachments())
    finally:
        os.kill(int(children[0]), signal.SIGKILL)


def test_held_address_comes_back_with_its_token(router):
    with router.attach() as peer:
        process, address = child(
            router, "print(a.token.hex(), flush=True); threading.Event().wait(60)", "hold=True"
        )
        token = bytes.fromhex(process.stdout.readline())
        end(process)
        wait_until(lambda: len(router.attachments()) == 1)
        send(peer, IP(src=peer.address, dst=address) / TCP(flags="A"))
        wait_until(lambda: router.counters(peer.id)["drop_in_held"] == 1)
        with pytest.raises(AddressTakenError, match="held"):
            router.attach(address)
        with router.attach(address, token=token) as again:
            assert again.epoch == 2
            send(peer, IP(src=peer.address, dst=address) / UDP())
            assert receive(again).dst == address
        assert take(peer.link.channel) is None, "nobody answered for the address while it was held"


BUSY = """
packet = bytes.fromhex("{packet}")
while True:
    put(a.link.channel, packet)
    a.link.channel.flush()
"""


def busy_packet(address: str, size: int) -> str:
    """To an address nobody has: such packets must not mix with the bystander's."""
    return bytes(IP(src=address, dst="10.77.200.200") / UDP() / Raw(bytes(size))).hex()


@pytest.mark.serial                      # as above
@pytest.mark.timeout(600)
def test_processes_killed_at_random_times_leave_nothing(router, scale):
    """200 kill -9 of attached, sending processes; a bystander's packets all arrive meanwhile."""
    rng = random.Random(20)
    count = scale(100)
    with router.attach() as a, router.attach() as b:
        end(child(router, "pass")[0])
        settled(router, 2)
        before, memory = descriptors(), shared_memory()
        stop = threading.Event()
        sent = []

        def bystander():
            while not stop.is_set():
                send(a, IP(src=a.address, dst=b.address) / ICMP() / Raw(len(sent).to_bytes(4, "big")))
                sent.append(len(sent))
                assert bytes(receive(b)[ICMP].payload) == sent[-1].to_bytes(4, "big")

        thread = threading.Thread(target=bystander)
        thread.start()
        try:
            for i in range(count):
                packet = busy_packet(
                    f"10.77.{100 + i // 200}.{i % 200 + 1}", rng.choice([0, 100, 1400, 20000])
                )
                process, _ = child(
                    router, BUSY.format(packet=packet), f"address='10.77.{100 + i // 200}.{i % 200 + 1}'"
                )
                enough = router.counters()["in_packets"] + rng.randrange(500)
                wait_until(lambda enough=enough: router.counters()["in_packets"] >= enough)
                end(process)
            settled(router, 2)
        finally:
            stop.set()
            thread.join(30)
        assert not thread.is_alive() and len(sent) > 10
        assert descriptors() == before
        assert shared_memory() == memory
        counters = router.counters()
        assert counters["drop_in_malformed"] == 0 and counters["forwarded"] >= len(sent)
    assert len(router.reclaim_times_ns()) >= count
