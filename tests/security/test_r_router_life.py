"""Rules R9 to R18 of security 2.3 with the router as the one who trusts nobody: bounds, bells, ends, control socket."""

import contextlib
import logging
import os
import pathlib
import select
import signal
import stat
import subprocess
import sys
import time

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Raw

import netstack.router.control
from netstack.errors import AddressTakenError
from netstack.log_limit import BURST, LogLimit
from netstack.router import Router, protocol
from netstack.router.protocol import AttachRequest, Type
from rings import shared_memory
from tests.router.conftest import backend, router, runtime  # noqa: F401
from tests.router.lan import Lan, put, take, wait_until
from tests.router.test_control import connect, ended, hello
from tests.router.test_hostile import Bystanders
from tests.security.rig import epoll_events
from tests.security.test_r_router_memory import CAPACITY, HEAD, TAIL, Attached
from tests.support import ROOT, descriptors

A, B, C = "10.77.0.2", "10.77.0.3", "10.77.0.4"
BATCH = 64                       # packets of one port before the next has its turn
SLEEP = TAIL + 128               # sleep words stand a line pair behind their index
SPACE_SLEEP = HEAD + 128
POISON = 1 << 60


def udp(src, dst, payload=b""):
    return IP(src=src, dst=dst) / UDP(sport=1, dport=2) / Raw(payload)


def goes_on(others, packets=20):
    before = others.count
    wait_until(lambda: others.problem or others.count > before + packets, 60)


# --- R9, R12: what one stack can cost

@pytest.mark.parametrize("kind", [1, 3])
def test_r9_router_a_round_takes_a_batch_whatever_is_in_a_ring(kind):
    """Thousands of the shortest records that there can be: empty, packets or not."""
    lan = Lan()
    hostile, honest, other = lan.stack(A), lan.stack(B), lan.stack(C)
    records = 0
    while put(hostile.channel, b"", kind=kind):
        records += 1
    hostile.channel.flush()
    honest.send(udp(B, C))
    assert records > 4000
    for n in range(1, 1 + records // BATCH):
        assert lan.forwarder.run_once() <= BATCH + 1
        assert hostile.counters["in_packets"] == n * BATCH
    assert len(other.received()) == 1


def test_r12_router_a_stack_that_does_not_read_costs_a_bounded_queue_and_nobody_time():
    lan = Lan(queue_limit=50_000)
    sender, stalled, other = lan.stack(A), lan.stack(B), lan.stack(C)
    for _ in range(200):
        sender.send(udp(A, B, bytes(8000)), udp(A, C))
        lan.run()
        assert lan.forwarder.queue_bytes(stalled.port) <= 50_000
    assert len(other.received()) == 200
    dropped = stalled.counters["drop_out_queue_full"]
    assert dropped > 100 and stalled.counters["out_packets"] + stalled.counters["queued"] + dropped == 200


# --- R10, R11: bells

def test_r10_router_its_own_bell_is_never_read_and_never_written(router):  # noqa: F811
    """The count is what stacks rang: it was made by the router, which only sleeps on it."""
    with Attached(router) as stack:
        ident = stack.reply.id
        for n in range(1, 6):
            os.eventfd_write(stack.fds[2], 1)
            wait_until(lambda: router.counters(ident)["wakes"] == n)  # noqa: B023
        assert os.eventfd_read(stack.fds[2]) == 5


def test_r10_router_a_bell_that_cannot_take_more_makes_nobody_wait(router):  # noqa: F811
    """Every bell of the stack made to block and full; then it asks to be woken, over and over, and does not listen."""
    with Bystanders(router) as others, router.attach() as stack, contextlib.ExitStack() as undo:
        channel = stack.link.channel
        full = channel.peer_doorbells[1].fd
        os.set_blocking(full, False)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(full)
        os.eventfd_write(full, 2**64 - 2)
        for bell in (*channel.doorbells.values(), *channel.peer_doorbells.values()):
            os.set_blocking(bell.fd, True)
            undo.callback(os.set_blocking, bell.fd, False)       # or our own farewell would wait
        if router.backend == "memfd":          # what a stranger is woken by, he cannot make the router wait with
            assert all(stat.S_ISSOCK(os.fstat(bell.fd).st_mode) for bell in channel.doorbells.values())
        ping = IP(src=stack.address, dst="10.77.0.1") / ICMP()
        words = memoryview(channel._regions[1].mapping).cast("Q")
        sequence = 4

        def kicked():
            nonlocal sequence
            sequence += 4
            words[SPACE_SLEEP // 8] = sequence | 1       # asleep, once more
            put(channel, ping)
            channel.tx.flush()
            while take(channel) is not None:
                pass
            return router.counters(stack.id)["kicks"] > 500

        wait_until(kicked, 120)
        words.release()
        goes_on(others)


def test_r11_router_a_storming_bell_is_heard_now_and_then(router):  # noqa: F811
    """64 times in vain, then 10 ms not at all, as often as it takes; its packets still go through."""
    with Bystanders(router) as others, router.attach() as noisy:
        bell = noisy.link.channel.peer_doorbells[1]
        goes_on(others)
        began, rung, muted = time.monotonic(), 0, False
        while router.counters(noisy.id)["spurious"] < 64 or rung < 20_000 or not muted:
            bell.kick()
            rung += 1
            muted = muted or not epoll_events(noisy.id) & select.EPOLLIN
            assert muted or router.counters(noisy.id)["spurious"] < 100 * 64
        passed = time.monotonic() - began
        assert router.counters(noisy.id)["wakes"] <= BATCH * (passed / 0.010 + 2)
        put(noisy.link.channel, IP(src=noisy.address, dst="10.77.0.1") / ICMP())
        noisy.link.channel.flush()
        wait_until(lambda: take(noisy.link.channel))
        goes_on(others)


# --- R13, R14: ends

def stop_the_clock(name, monkeypatch, caplog):
    """Of the limit on a logger's warnings, which begins anew: what may pass at once, passes, and nothing after it."""
    [limit] = [f for f in logging.getLogger(name).filters if isinstance(f, LogLimit)]
    monkeypatch.setattr(limit, "_clock", lambda: 0.0)
    monkeypatch.setattr(limit, "_kinds", {})
    caplog.set_level(logging.WARNING, name)


def test_r13_router_poison_ends_that_attachment_is_counted_and_told_now_and_then(router, caplog, monkeypatch):  # noqa: F811
    stop_the_clock("netstack.router", monkeypatch, caplog)
    with Bystanders(router) as others:
        with Attached(router):
            pass
        wait_until(lambda: len(router.attachments()) == 2)
        before = len(descriptors())
        for _ in range(3 * BURST):
            hostile = router.attach()
            channel = hostile.link.channel
            memoryview(channel._regions[1].mapping).cast("Q")[TAIL // 8] = POISON
            bell = channel.peer_doorbells[1]
            wait_until(lambda: bell.kick() or len(router.attachments()) == 2, 60)  # noqa: B023
            hostile.close()
            bell = channel = None                # a doorbell is open while somebody has it
        wait_until(lambda: len(descriptors()) <= before and len(router.attachments()) == 2)
        goes_on(others)
    assert 1 <= len([r for r in caplog.records if "its ring" in r.getMessage()]) <= BURST
    assert router.endings()["poisoned"] >= 1


def test_r13_a_limited_log_tells_how_much_it_left_out():
    now = 0.0
    limit = LogLimit(lambda: now)

    def passes(text, level=logging.WARNING):
        record = logging.LogRecord("x", level, "", 0, text, ("y",), None)
        return record.getMessage() if limit.filter(record) else None

    assert [passes("a %s") for _ in range(BURST + 2)] == ["a y"] * BURST + [None] * 2
    assert passes("b %s") == "b y" and passes("a %s", logging.INFO) == "a y"
    now = 1.0
    assert passes("a %s") == "a y (and 2 more of the kind)" and passes("a %s") is None
    now = 1000.0
    assert [passes("a %s") for _ in range(BURST + 1)] == [
        "a y (and 1 more of the kind)", *["a y"] * (BURST - 1), None]


CHILD = """
import os, sys
from netstack.router import attach
a = attach()
if len(sys.argv) > 1 and os.fork() == 0:       # who keeps everything open
    sys.stdin.read()
    os._exit(0)
print(a.address, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("orphan", [[], ["and a child"]], ids=["alone", "its child lives"])
def test_r14_router_all_of_a_killed_stack_comes_back(router, orphan):  # noqa: F811
    """By the end of its control socket, or of the process where somebody else holds that."""
    with router.attach() as peer:
        with Attached(router):
            pass
        wait_until(lambda: len(router.attachments()) == 1)
        before = len(descriptors())
        with subprocess.Popen([sys.executable, "-c", CHILD, *orphan], cwd=ROOT, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True,
                              env={**os.environ, **router.environment()}) as victim:
            address = victim.stdout.readline().strip()
            before += 2                         # of the pipes
            victim.send_signal(signal.SIGKILL)
            wait_until(lambda: len(router.attachments()) == 1 and len(descriptors()) <= before)
            put(peer.link.channel, udp(peer.address, address))
            peer.link.channel.flush()
            reply = IP(wait_until(lambda: take(peer.link.channel)))
            assert reply[ICMP].type == 3        # nobody has the address
            with router.attach(address):
                pass


# --- R15: the control socket

def test_r15_router_a_silent_connection_ends_after_a_second(router):  # noqa: F811
    sock = connect(router)
    assert ended(sock)
    sock.close()
    assert netstack.router.control.HANDSHAKE_NS == 10**9


HELLO = protocol.pack(Type.HELLO, 1, bytes(8))


@pytest.mark.parametrize("message", [
    HELLO[:-1], HELLO + b"x", b"NSRX" + HELLO[4:], HELLO[:4] + b"\x02\x00" + HELLO[6:],
    HELLO[:6] + b"\x63\x00" + HELLO[8:],
    protocol.pack(Type.ATTACH, 1, AttachRequest().pack()),
], ids=["short", "long", "magic", "version", "type", "ATTACH first"])
def test_r15_router_a_message_that_is_none_ends_the_connection(router, message):  # noqa: F811
    sock = connect(router)
    sock.send(message)
    assert ended(sock)
    sock.close()


def test_r15_router_who_does_not_read_is_cut_off(router):  # noqa: F811
    with Bystanders(router) as others, hello(router) as sock:
        sock.setblocking(False)
        sent = 0
        try:
            while sent < 100_000:
                try:
                    sock.send(protocol.pack(Type.PING, 1))
                    sent += 1
                except BlockingIOError:
                    time.sleep(0.001)
        except OSError:
            pass
        assert 0 < sent < 100_000
        goes_on(others)


def test_r15_router_only_its_users_find_and_reach_the_socket(router, runtime):  # noqa: F811
    assert stat.S_IMODE(os.stat(runtime).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(router.path).st_mode) == 0o600


def turned_away(router):  # noqa: F811
    """Whether a connection ends without an answer to its HELLO."""
    with connect(router) as sock:
        try:
            sock.send(HELLO)
        except OSError:
            return True
        return ended(sock)


def test_r15_router_another_user_gets_a_part_of_the_places(runtime, monkeypatch):  # noqa: F811
    """Of connections as of attachments: the router's own user always finds room."""
    users = iter([])
    monkeypatch.setattr(netstack.router.control, "credentials", lambda sock: (os.getpid(), next(users, os.geteuid())))
    with Router(backend="memfd", ring_capacity=CAPACITY, max_attachments=8, allowed_uids=[4242]) as router:  # noqa: F811
        users = iter([4242] * 100)
        socks = [hello(router) for _ in range(20)]       # a quarter of the 2 * 8 + 64 that there may be
        assert turned_away(router)
        statuses = []
        for sock in socks[:3]:
            sock.send(protocol.pack(Type.ATTACH, 2, AttachRequest().pack()))
            data, fds = protocol.receive(sock, protocol.MAX_FDS)
            protocol.close_fds(fds)
            statuses.append(protocol.unpack(data)[2] == 0)
        assert statuses == [True, True, False]           # a quarter of 8
        users = iter([])
        with router.attach():
            assert len(router.attachments()) == 3
        users = iter([4242] * 100)
        socks.pop().close()
        wait_until(lambda: len(router._control._connections) <= 19)
        hello(router).close()
        users = iter([4243])
        assert turned_away(router)
        for sock in socks:
            sock.close()


# --- R16, R17: names

def names():
    return {entry for entry in os.listdir(shared_memory.SHM_FOLDER) if shared_memory.NAME.fullmatch(entry)}


def test_r16_router_attachments_have_no_names(router):  # noqa: F811
    before = names()
    with Attached(router) as stack:
        new = names() - before
        wait_until(lambda: not new & names(), 60)        # others' names, which come and go meanwhile, go
        for fd in stack.fds[:2]:
            status = os.fstat(fd)
            assert status.st_nlink == 0 and (router.backend == "memfd"
                                               or stat.S_IMODE(status.st_mode) == 0o600)


def test_r16_router_a_name_that_somebody_has_already_is_not_used(monkeypatch):
    """128 random bits; should they be another's all the same, that is an error, and his is not opened."""
    lengths = []
    monkeypatch.setattr(shared_memory.secrets, "token_hex", lambda n: lengths.append(n) or f"{os.getpid():032x}")
    squatted = pathlib.Path(shared_memory.SHM_FOLDER, f"ns-{os.getpid():032x}")
    squatted.write_bytes(b"what somebody put there")
    try:
        with pytest.raises(Exception, match="exists"):
            shared_memory.create(4096, "posix").close()
        assert squatted.read_bytes() == b"what somebody put there" and lengths == [16]
    finally:
        squatted.unlink()
    with shared_memory.create(4096, "posix", named=True) as region:
        assert stat.S_IMODE(os.fstat(region.fd).st_mode) == 0o600
        assert squatted.exists()
    assert not squatted.exists()


LEAVES = """
import os, sys
from rings import shared_memory
regions = [shared_memory.create(4096, "posix", named=True)]
print(regions[0].name, flush=True)
sys.stdin.read()
"""


def test_r17_router_the_next_one_removes_what_the_dead_left(runtime, monkeypatch):  # noqa: F811
    """Names whose makers were killed before they had unlinked them; not those of the living."""
    now = time.time
    makers = [subprocess.Popen([sys.executable, "-c", LEAVES], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True) for _ in range(2)]
    dead, living = (maker.stdout.readline().strip().lstrip("/") for maker in makers)
    try:
        makers[0].kill()
        makers[0].wait()
        assert {dead, living} <= names()
        monkeypatch.setattr(shared_memory.time, "time", lambda: now() + 60)
        with Router(ring_capacity=CAPACITY):
            assert dead not in names() and living in names()
    finally:
        for maker in makers:
            maker.kill()
            maker.communicate()
        shared_memory.sweep()


# --- R18: coming back

def test_r18_router_an_address_waits_for_its_owner_s_token(router):  # noqa: F811
    """Ten seconds after his death nobody else gets it, neither without the token nor with another."""
    code = CHILD.replace("attach()", "attach(hold=True)").replace("a.address", "a.address, a.token.hex()")
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True, env={**os.environ, **router.environment()}) as owner:
        address, token = owner.stdout.readline().split()
        owner.kill()
        owner.wait()
    wait_until(lambda: not router.attachments())
    assert len(token) == 32
    for other in (None, bytes(16), bytes.fromhex(token)[::-1]):
        with pytest.raises(AddressTakenError):
            router.attach(address, **({"token": other} if other else {}))
    with router.attach(address, token=bytes.fromhex(token)) as back:
        assert back.address == address
    assert netstack.router.pool.HOLD_NS == 10 * 10**9
