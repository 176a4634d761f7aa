"""64-byte messages between two Python processes: our rings, and what a Python user would reach for otherwise."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time

CPUS = sorted(os.sched_getaffinity(0))
MESSAGE = b"m" * 64
BATCH = 64
fork = multiprocessing.get_context("fork")


def pin(which):
    if len(CPUS) > which:
        os.sched_setaffinity(0, {CPUS[which]})


class Rings:
    """`rings.ring`, one each way: put, get, put_many, get_many; a waiting side spins before it sleeps."""

    def __init__(self):
        import rings

        self.there, self.back = rings.ring(1 << 20), rings.ring(1 << 20)

    def open(self, child):
        producer, consumer = (self.back[0], self.there[1]) if child else (self.there[0], self.back[1])
        if child:
            producer, consumer = producer.adopt(), consumer.adopt()
        producer.spin_us = consumer.spin_us = 1000
        self.send, self.receive = producer.put, consumer.get
        self.send_many, self.receive_many = producer.put_many, consumer.get_many


class Pipe:
    """`multiprocessing.Pipe`, send_bytes and recv_bytes."""

    def __init__(self):
        self.ends = fork.Pipe()

    def open(self, child):
        end = self.ends[child]
        self.send, self.receive = end.send_bytes, end.recv_bytes


class Zmq:
    """pyzmq over ipc, a PAIR socket each; a batch is one multipart message."""

    def __init__(self):
        self.url = f"ipc://{tempfile.mkdtemp(prefix='netstack-bench-')}/socket"

    def open(self, child):
        import zmq

        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PAIR)
        self.socket.sndhwm = self.socket.rcvhwm = 1000
        if child:
            self.socket.connect(self.url)
        else:
            self.socket.bind(self.url)
        self.send, self.receive = self.socket.send, self.socket.recv
        self.send_many, self.receive_many = self.socket.send_multipart, self.socket.recv_multipart


class FasterFifo:
    """faster-fifo, a queue each way; put_many and get_many for batches."""

    def __init__(self):
        import faster_fifo
        import faster_fifo_reduction  # noqa: F401

        def same(x):
            return x

        self.queues = [faster_fifo.Queue(max_size_bytes=1 << 20, loads=bytes, dumps=same) for _ in range(2)]

    def open(self, child):
        out, back = self.queues[child], self.queues[1 - child]
        self.send, self.receive = out.put, back.get
        self.send_many = out.put_many

        def receive_many():
            return back.get_many(max_messages_to_get=BATCH)

        self.receive_many = receive_many


KINDS = {"rings": Rings, "multiprocessing.Pipe": Pipe, "pyzmq ipc": Zmq, "faster-fifo": FasterFifo}


def child(kind, test, count, ready, done):
    pin(1)
    kind.open(1)
    ready.set()
    if test == "rtt":
        send, receive = kind.send, kind.receive
        for _ in range(count):
            send(receive())
    elif test == "one":
        receive = kind.receive
        for _ in range(count):
            receive()
    else:
        receive_many, got = kind.receive_many, 0
        while got < count:
            got += len(receive_many())
    done.send(time.monotonic())
    time.sleep(0.2)
    os._exit(0)


def once(name, test, count):
    """Seconds for *count* messages or round trips."""
    kind = KINDS[name]()
    ready, (done, told) = fork.Event(), fork.Pipe(False)
    process = fork.Process(target=child, args=(kind, test, count, ready, told))
    process.start()
    try:
        pin(0)
        kind.open(0)
        if not ready.wait(10):
            raise TimeoutError("the other process did not start")
        time.sleep(0.05)
        start = time.monotonic()
        if test == "rtt":
            send, receive = kind.send, kind.receive
            for _ in range(count):
                send(MESSAGE)
                receive()
        elif test == "one":
            send = kind.send
            for _ in range(count):
                send(MESSAGE)
        else:
            send_many, batch = kind.send_many, [MESSAGE] * BATCH
            for _ in range(count // BATCH):
                send_many(batch)
        if not done.poll(20):
            raise TimeoutError("the other process did not finish")
        return done.recv() - start
    finally:
        process.kill()
        process.join()
        if len(CPUS) > 1:
            os.sched_setaffinity(0, CPUS)


def run(which, test, seconds):
    """Measure one contestant for about *seconds*: M/s, or us a round trip."""
    try:
        KINDS[which]()
    except ImportError as error:
        return {"absent": str(error)}
    count = 2048
    took = once(which, test, count)
    count = max(2048, int(count * seconds / max(took, 1e-4)) // BATCH * BATCH)
    took = once(which, test, count)
    return {"value": took / count * 1e6 if test == "rtt" else count / took / 1e6, "count": count}
