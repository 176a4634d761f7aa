"""Rings from Python: one by one, batched, there and back; and peers that do the same.

Two processes. An operation that moves many messages counts them in ``extra_info["messages"]``.
"""

import contextlib
import multiprocessing
import os
import signal

import pytest

import rings

COUNT = 20_000
MESSAGE = b"x" * 64


@contextlib.contextmanager
def child(function, *arguments):
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments)
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def drain(consumer, answers, many):
    """Takes COUNT messages, answers once, for ever."""
    consumer, answers = consumer.adopt(), answers.adopt()
    while True:
        left = COUNT
        while left:
            if many:
                left -= len(consumer.get_many(min(256, left)))
            else:
                consumer.get()
                left -= 1
        answers.put(b"done")


@pytest.mark.parametrize("backend", ["posix", "memfd"])
@pytest.mark.parametrize("many", [False, True], ids=["one_by_one", "batched"])
def test_64_bytes(benchmark, backend, many):
    producer, consumer = rings.ring(1 << 20, backend)
    answers, done = rings.ring(4096, backend)
    batch = [MESSAGE] * 100

    def send():
        if many:
            for _ in range(COUNT // len(batch)):
                producer.put_many(batch)
        else:
            put = producer.put
            for _ in range(COUNT):
                put(MESSAGE)
        done.get()

    benchmark.extra_info["messages"] = COUNT
    with child(drain, consumer, answers, many):
        benchmark(send)
    for end in (producer, consumer, answers, done):
        end.close()


def echo(consumer, producer):
    consumer, producer = consumer.adopt(), producer.adopt()
    get, put = consumer.get, producer.put
    while True:
        put(get())


def test_round_trip_spinning(benchmark):
    there, here = rings.ring(1 << 16), rings.ring(1 << 16)
    put, get = there[0].put, here[1].get

    def round_trip():
        put(MESSAGE)
        get()

    with child(echo, there[1], here[0]):
        benchmark(round_trip)
    for end in (*there, *here):
        end.close()


def pipe_drain(receive, answer):
    while True:
        for _ in range(COUNT):
            receive.recv_bytes()
        answer.send_bytes(b"done")


def test_64_bytes_by_multiprocessing_pipe(benchmark):
    receive, send_end = multiprocessing.Pipe(duplex=False)
    done, answer = multiprocessing.Pipe(duplex=False)

    def send():
        for _ in range(COUNT):
            send_end.send_bytes(MESSAGE)
        done.recv_bytes()

    benchmark.extra_info["messages"] = COUNT
    with child(pipe_drain, receive, answer):
        benchmark.pedantic(send, rounds=5)
    for end in (receive, send_end, done, answer):
        end.close()
