"""Rules R1 to R8 and R20 of security 2.3 with the router as the one who trusts nobody: memory, indices, records."""

import contextlib
import ctypes
import fcntl
import mmap
import os
import socket
import struct
import threading

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from netstack.router import Router, protocol
from netstack.router.attachment import _channel_of
from netstack.router.protocol import AttachReply, AttachRequest, Type
from rings.errors import RegionMismatch
from rings.shared_memory import (
    F_ADD_SEALS,
    F_GET_SEALS,
    F_SEAL_EXEC,
    F_SEAL_FUTURE_WRITE,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    SEALS,
)
from tests.router.conftest import backend, router, runtime  # noqa: F401
from tests.router.lan import Lan, put, take, wait_until
from tests.router.test_control import ended, hello
from tests.support import compile_c, descriptors, record_header, scale

A, B, C = "10.77.0.2", "10.77.0.3", "10.77.0.4"
CAPACITY = 1 << 18
TAIL, HEAD, DATA = 128, CAPACITY + 4096 + 128, 384      # of what a stack writes: its region begins with its tail


class Attached:
    """An attachment as messages and descriptors, without a stack: the router's memory, its own, four bells."""

    def __init__(self, router, **request):  # noqa: F811
        self.control = hello(router)
        self.control.send(protocol.pack(Type.ATTACH, 2, AttachRequest(**request).pack()))
        data, self.fds = protocol.receive(self.control, protocol.MAX_FDS)
        self.reply = AttachReply.unpack(protocol.unpack(data)[3])

    def close(self):
        protocol.close_fds(self.fds)
        self.control.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()


def udp(src, dst, payload=b""):
    return IP(src=src, dst=dst) / UDP(sport=1, dport=2) / Raw(payload)


def seals_of(fd):
    return fcntl.fcntl(fd, F_GET_SEALS) & ~F_SEAL_EXEC


def words_of(stack):
    """What a stack of a `Lan` may write, as 8-byte words."""
    return memoryview(stack.channel._regions[1].mapping).cast("Q")


def failed(lan):
    return lan.forwarder.failed()


# --- R1, R2, R20: whose memory it is

def test_r1_router_each_attachment_has_memory_of_its_own(router):  # noqa: F811
    with Attached(router) as first, Attached(router) as second:
        files = {(os.fstat(fd).st_dev, os.fstat(fd).st_ino) for each in (first, second) for fd in each.fds[:2]}
        assert len(files) == 4


def test_r20_router_memory_that_others_had_comes_zeroed(router):  # noqa: F811
    """Whatever one wrote anywhere: the next one's pages hold the constants of a ring and nothing else."""
    secret = b"what the one before had"
    for _ in range(3):
        with Attached(router) as stack:
            for fd in stack.fds[:2]:
                with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory:
                    assert secret not in memory
                    assert not any(memory[DATA:CAPACITY]) and not any(memory[CAPACITY + 4096 + DATA:])
            with mmap.mmap(stack.fds[1], 0) as memory:
                for at in range(DATA, len(memory) - len(secret), 64):
                    memory[at:at + len(secret)] = secret
        wait_until(lambda: not router.attachments())


# --- R3, R4: seals and sizes

def test_r3_router_memory_is_sealed_and_the_router_s_has_one_writer(runtime):  # noqa: F811
    with Router(backend="memfd", ring_capacity=CAPACITY) as router, Attached(router) as stack:  # noqa: F811
        of_router, own = stack.fds[:2]
        assert seals_of(of_router) == SEALS | F_SEAL_FUTURE_WRITE and seals_of(own) == SEALS
        again = os.open(f"/proc/self/fd/{of_router}", os.O_RDWR)
        for fd in (of_router, again):
            with pytest.raises(PermissionError):
                mmap.mmap(fd, 4096)
        os.close(again)
        for fd in (of_router, own):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, 0)
            with pytest.raises(PermissionError):
                fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK)


def sealed(size, seals, content=b""):
    fd = os.memfd_create("other", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    os.pwrite(fd, content, 0)
    fcntl.fcntl(fd, F_ADD_SEALS, seals)
    return fd


@pytest.mark.parametrize("which, seals", [
    (0, 0), (0, SEALS), (0, F_SEAL_SEAL | F_SEAL_GROW | F_SEAL_FUTURE_WRITE), (0, SEALS | 0x8),
    (1, 0), (1, F_SEAL_SEAL), (1, F_SEAL_SHRINK | F_SEAL_GROW), (1, SEALS | F_SEAL_FUTURE_WRITE),
])
def test_r3_router_a_stack_refuses_memory_with_other_seals(runtime, which, seals):  # noqa: F811
    with Router(backend="memfd", ring_capacity=CAPACITY) as router, Attached(router) as stack:  # noqa: F811
        fds = [os.dup(fd) for fd in stack.fds]
        os.close(fds[which])
        size = os.fstat(stack.fds[which]).st_size        # what is in it is all right
        fds[which] = sealed(size, seals, os.pread(stack.fds[which], size, 0))
        with pytest.raises(RegionMismatch, match="seals"):
            _channel_of(stack.reply, fds)


@pytest.mark.parametrize("off", [-4096, 4096])
def test_r3_router_a_stack_refuses_memory_of_another_size(router, backend, off):  # noqa: F811
    with Attached(router) as stack:
        fds = [os.dup(fd) for fd in stack.fds]
        os.close(fds[1])
        fds[1] = sealed(os.fstat(stack.fds[1]).st_size + off, SEALS)
        with pytest.raises(RegionMismatch, match="bytes where"):
            _channel_of(stack.reply, fds)


def test_r4_router_every_page_is_there_from_the_beginning(router):  # noqa: F811
    with Attached(router) as stack:
        for fd in stack.fds[:2]:
            status = os.fstat(fd)
            assert status.st_blocks * 512 >= status.st_size == CAPACITY + 2 * 4096


def test_r4_router_sizes_in_the_memory_are_not_believed():
    """The constants of both rings are overwritten, and the rings go on for more than a lap with those agreed on."""
    lan = Lan()
    hostile, other = lan.stack(A), lan.stack(B)
    words = words_of(hostile)
    for at in (0, (CAPACITY + 4096) // 8):
        words[at:at + 4] = memoryview(struct.pack("<4Q", 1, 2, 4096, 3)).cast("B").cast("Q")
    del words
    for i in range(400):
        hostile.send(udp(A, B, i.to_bytes(1000, "big")))
        other.send(udp(B, A, i.to_bytes(1000, "big")))
        lan.run()
        for there in (hostile, other):
            assert [int.from_bytes(bytes(p[Raw]), "big") for p in there.received()] == [i]
    assert failed(lan) == []


# --- R5: indices

FAR = 1 << 60


@pytest.mark.parametrize("step", [
    lambda tail: tail + CAPACITY + 64, lambda tail: tail + FAR, lambda tail: tail - 64, lambda tail: tail + 8,
    lambda tail: (1 << 64) - 64, lambda tail: 0,
], ids=["one slot more than a full ring", "far away", "behind", "between slots", "the last one", "the first one"])
def test_r5_router_an_impossible_tail_ends_that_attachment_alone(step):
    lan = Lan()
    hostile, honest, other = lan.stack(A), lan.stack(B), lan.stack(C)
    hostile.send(*[udp(A, C)] * 3)
    lan.run()
    words = words_of(hostile)
    words[TAIL // 8] = step(words[TAIL // 8])
    honest.send(udp(B, C))
    lan.run()
    assert failed(lan) == [(hostile.port, "poisoned")]
    assert len(other.received()) == 4
    honest.send(udp(B, A), udp(B, C))
    lan.run()
    assert len(other.received()) == 1 and honest.drops() == {}


@pytest.mark.parametrize("step", [
    lambda head: head + 64 * CAPACITY, lambda head: head + FAR, lambda head: 64, lambda head: (1 << 64) - 64,
], ids=["more than was sent", "far away", "behind", "the last one"])
def test_r5_router_an_impossible_head_ends_that_attachment_alone(step):
    lan = Lan(queue_limit=1 << 18)
    hostile, honest, other = lan.stack(A), lan.stack(B), lan.stack(C)
    large = udp(B, A, bytes(8000))
    for _ in range(64):                       # a lap and more, so that the router has seen its head move
        honest.send(large)
        lan.run()
        assert len(hostile.received()) == 1
    words = words_of(hostile)
    words[HEAD // 8] = step(words[HEAD // 8])
    del words
    for _ in range(64):                       # the router looks at the head when the room that it knows of is used up
        honest.send(large)
        lan.run()
    assert failed(lan) == [(hostile.port, "poisoned")]
    honest.send(udp(B, C))
    lan.run()
    assert len(other.received()) == 1


def test_r5_router_its_own_indices_are_private():
    """What it publishes, it does not read again: nonsense written over it (as posix memory allows) is nothing to it."""
    lan = Lan()
    stack, other = lan.stack(A), lan.stack(B)
    words = memoryview(stack.channel._regions[0].mapping).cast("Q")
    for i in range(200):
        other.send(udp(B, A, bytes(900)))
        stack.send(udp(A, B, bytes(900)))
        lan.run()
        assert len(stack.received()) == len(other.received()) == 1
        words[TAIL // 8] = FAR + i            # the tail of what it sends; the next packet publishes the right one
    assert failed(lan) == []


# --- R6: records

def place(stack, length, kind=1, body_at=8, head_length=0, spans=None, before=0):
    """A record with a header of one's own, `before` bytes of good records in front of it, and the tail behind it."""
    lan = stack.lan
    if before:
        while before > 0:
            part = min(before, 32768)
            assert put(stack.channel, bytes(part - 64), kind=3, split=0)
            before -= part
        stack.channel.flush()
        lan.run()
    words = words_of(stack)
    tail = words[TAIL // 8]
    words[(DATA + tail % CAPACITY) // 8] = record_header(tail, length, kind, body_at, head_length)
    words[TAIL // 8] = tail + (spans or (length + 63) // 64 * 64 or 64)
    return tail


RECORDS = {
    "no length": {"length": 0},
    "shorter than its header": {"length": 7},
    "longer than what is published": {"length": 200, "spans": 64},
    "of four gigabytes": {"length": 0xFFFFFFFF, "spans": 64},
    "beyond the end of the ring": {"length": 32768, "before": CAPACITY - 4096},
    "padding that does not reach the end": {"length": 64, "kind": 0},
    "a reference, where there is nothing to refer to": {"length": 16, "kind": 2, "body_at": 0},
    "a body inside the head": {"length": 200, "body_at": 16, "head_length": 100},
    "a body behind the end": {"length": 100, "body_at": 200},
    "a body in the header": {"length": 100, "body_at": 4},
}


@pytest.mark.parametrize("what", RECORDS)
def test_r6_router_an_impossible_record_ends_that_attachment_alone(what):
    lan = Lan()
    hostile, honest, other = lan.stack(A), lan.stack(B), lan.stack(C)
    place(hostile, **RECORDS[what])
    honest.send(udp(B, C))
    lan.run()
    assert failed(lan) == [(hostile.port, "poisoned")]
    assert len(other.received()) == 1


@pytest.mark.parametrize("length", [*range(20), 65536, 65556, 100_000])
@pytest.mark.parametrize("version", [4, 6])
def test_r6_router_what_no_ip_packet_is_as_long_as_goes_nowhere(length, version):
    """Lengths beyond 65,535 whose low 16 bits agree with the header's, too."""
    lan = Lan("10.77.0.0/16", "fd77::/64", router=("10.77.0.1", "fd77::1"))
    sender, other = lan.stack(A, "fd77::2"), lan.stack(B, "fd77::3")
    if version == 4:
        header = bytes(IP(src=A, dst=B, len=length & 0xFFFF))
    else:
        header = struct.pack("!IHBB", 6 << 28, length - 40 & 0xFFFF, 59, 64) + b"".join(
            socket.inet_pton(socket.AF_INET6, a) for a in ("fd77::2", "fd77::3"))
    sender.send((header + bytes(max(0, length - len(header))))[:length], split=min(length, 900) if version == 4 else 0)
    lan.run()
    assert other.received() == [] and sum(sender.drops().values()) == 1 and failed(lan) == []


# --- R7, R8: while the stack writes

WORKERS = r"""
#include "rings/spsc_ring.h"

/* Two values, in turn, into a word of each of `slots` places, until told to stop. */
void flip(uint32_t *first, uint64_t step, uint64_t slots, uint32_t a, uint32_t b, _Atomic int *stop)
{
	for (uint32_t value = a; !*stop; value ^= a ^ b)
		for (uint64_t i = 0; i < slots; i++)
			*(volatile uint32_t *)((uint8_t *)first + i * step) = value;
}

/* What was released is overwritten at once, until told to stop; `done` follows. */
void reuse(uint8_t *data, uint64_t capacity, _Atomic uint64_t *head, _Atomic uint64_t *done, _Atomic int *stop)
{
	uint64_t at = *done;

	while (!*stop) {
		uint64_t now = *head;
		for (; at != now; at += 64)
			memset(data + (at & (capacity - 1)) + 8, 0xee, 56);
		*done = at;
	}
}
"""


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    (folder / "workers.c").write_text(WORKERS)
    library = ctypes.CDLL(compile_c(folder / "workers.c", folder, "-shared", "-fPIC", name="workers.so"))
    library.flip.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32,
                             ctypes.c_void_p]
    library.reuse.argtypes = [ctypes.c_void_p, ctypes.c_uint64, *[ctypes.c_void_p] * 3]
    return library


def drain(stack):
    """What arrived, as bytes."""
    return list(iter(lambda: take(stack.channel), None))


@contextlib.contextmanager
def beside(call, *arguments):
    """A C function runs in another thread, without the interpreter, until the block is over."""
    stop = ctypes.c_int(0)
    thread = threading.Thread(target=call, args=(*arguments, ctypes.addressof(stop)))
    thread.start()
    try:
        yield
    finally:
        stop.value = 1
        thread.join()


def test_r7_router_works_on_a_copy_of_a_header():
    """The hop that it takes off is written where the stack cannot read or change it: in private memory."""
    lan = Lan()
    stack, other = lan.stack(A), lan.stack(B)
    packet = bytes(udp(A, B, bytes(range(100))))
    memory = memoryview(stack.channel._regions[1].mapping)[DATA + 8:DATA + 8 + len(packet)]
    assert put(stack.channel, packet)
    stack.channel.flush()
    lan.run()
    [passed] = drain(other)
    assert passed[8] == packet[8] - 1 and bytes(memory) == packet
    del memory


def test_r7_router_a_source_that_changes_while_it_is_looked_at(workers):
    """Between its own address and another's with the same checksum: what passes has its own, whichever was read."""
    own, others = "10.77.1.2", "10.78.1.1"
    lan = Lan("10.76.0.0/14", router="10.76.0.1")
    hostile, victim, sink = lan.stack(own), lan.stack(others), lan.stack(C)
    packet = bytes(udp(own, C))
    memory = (ctypes.c_char * 1).from_buffer(hostile.channel._regions[1].mapping)
    seen = batches = 0
    values = [int.from_bytes(socket.inet_aton(a), "little") for a in (own, others)]
    with beside(workers.flip, ctypes.addressof(memory) + DATA + 8 + 12, 64, CAPACITY // 64, *values):
        def a_batch():
            nonlocal seen, batches
            for _ in range(64):
                assert put(hostile.channel, packet)
            hostile.channel.flush()
            lan.run()
            passed = drain(sink)
            assert {p[12:16] for p in passed} <= {socket.inet_aton(own)}
            seen += len(passed)
            batches += 1
            return batches >= scale(3000, 300) and seen and hostile.drops()

        wait_until(a_batch, 120)
    del memory
    assert hostile.drops().keys() == {"in_spoofed"} and not victim.received()


def test_r8_router_nothing_is_read_after_it_was_released(workers):
    """Whatever lies where a packet was, the packet is what it was, also where it waits in the router."""
    lan = Lan(queue_limit=1 << 20)
    sender, reader = lan.stack(A, capacity=CAPACITY), lan.stack(B)
    memory = (ctypes.c_char * 1).from_buffer(sender.channel._regions[1].mapping)
    theirs = (ctypes.c_char * 1).from_buffer(sender.channel._regions[0].mapping)
    packet, seen = bytes(udp(A, B, bytes(range(200)) * 150)), 0
    done = ctypes.c_uint64(0)
    head = memoryview(sender.channel._regions[0].mapping).cast("Q")[HEAD // 8:HEAD // 8 + 1]
    with beside(workers.reuse, ctypes.addressof(memory) + DATA, CAPACITY, ctypes.addressof(theirs) + HEAD,
                ctypes.addressof(done)):
        for _ in range(scale(1000, 100)):
            for _ in range(12):               # more than the reader's ring takes: some wait in private memory
                if put(sender.channel, packet):
                    sender.channel.flush()
                    lan.run()
                wait_until(lambda: done.value == head[0])
            got = drain(reader)
            lan.run()
            got += drain(reader)
            assert all(p[20:] == packet[20:] for p in got)
            seen += len(got)
    head.release()
    del memory, theirs
    assert seen >= scale(1000, 100) and reader.counters["queued_total"] > 0


def test_r2_router_a_message_with_descriptors_ends_the_connection(router):  # noqa: F811
    """One, and as many as fit: none is left in the router."""
    before = len(descriptors())
    for count in (1, 253):
        sock = hello(router)
        read, write = os.pipe()
        socket.send_fds(sock, [protocol.pack(Type.PING, 2)], [write] * count)
        assert ended(sock)
        os.close(write)
        assert os.read(read, 1) == b"", "no copy of it is left"
        os.close(read)
        sock.close()
    wait_until(lambda: len(descriptors()) == before)
