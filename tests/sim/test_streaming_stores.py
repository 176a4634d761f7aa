"""Bytes written past the caches into a channel arrive like any others, whatever the sizes of the writes."""

import errno
import random

import pytest

from netstack.link import channel_pair
from netstack.stack import Stack

SERVER = ("10.0.0.2", 80)


@pytest.mark.parametrize("mtu", [1500, 9000, 65535])
@pytest.mark.parametrize("backend", ["posix", "memfd"])
def test_a_stream_over_a_channel_is_whole(mtu, backend):
    # The first 192 KiB of large bodies already include a trial of streaming stores.
    chance = random.Random(mtu)
    one, two = channel_pair(backend=backend, mtu=mtu, capacity=1 << 20)
    a = Stack(links=[one], addresses="10.0.0.1/24", mtu=mtu, seed=1)
    b = Stack(links=[two], addresses="10.0.0.2/24", mtu=mtu, seed=2)
    listener = b.socket()
    listener.bind(SERVER)
    listener.listen()
    client = a.socket()
    assert client.connect_ex(SERVER) == errno.EINPROGRESS
    now = 1_000_000_000
    for _ in range(3):
        now += 1000
        a.process(now)
        b.process(now)
    server, _ = listener.accept()
    data = chance.randbytes(3 << 20)
    sent, got = 0, bytearray()
    for _ in range(20_000):
        if sent < len(data):
            size = chance.choice((1, 100, 700, 1448, 5000, 65483, 100_001, 262_144))
            try:
                sent += client.send(data[sent:sent + size])
            except BlockingIOError:
                pass
        now += 10_000
        b.process(now)
        try:
            got += server.recv(1 << 20)
        except BlockingIOError:
            pass
        a.process(now)
        if len(got) == len(data):
            break
        now = max(now, min(a.next_deadline() or now, b.next_deadline() or now))
    assert got == data
    assert b.counters()["tcp_payload_in"] == len(data)
    assert "drop_tcp_checksum" not in b.counters()
    one.close()
    two.close()
