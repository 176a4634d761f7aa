"""Buffers that a stream lends to the stack once much came at a time: the same bytes whoever reads them, and an end."""

import asyncio
import gc
import random
import warnings

import pytest

from tests.aio.test_streams import port_of

BIG = 64 << 10


class Ends:
    """A server's protocol and the transport of its client."""

    def __init__(self, net, factory):
        self.net, self.factory = net, factory

    async def __aenter__(self):
        self.server = await self.net.create_server(self.make, self.net.address, 0)
        self.client, _ = await self.net.create_connection(asyncio.Protocol, self.net.address, port_of(self.server))
        while not hasattr(self, "protocol") or not self.protocol.connected:
            await asyncio.sleep(0)
        self.stream = getattr(self.protocol.transport, "_stream", None)      # the kernel's transport has none
        return self

    def make(self):
        self.protocol = self.factory()
        return self.protocol

    async def lending(self):
        """Send until the stream lends."""
        while True:
            before = self.protocol.got
            self.client.write(bytes(BIG))
            await self.until(before + BIG)
            if self.stream is None or self.stream.lends:
                return

    async def until(self, n):
        while self.protocol.got < n:
            await asyncio.sleep(0)

    async def __aexit__(self, *_):
        self.client.abort()
        self.server.close()
        await self.server.wait_closed()
        if not self.protocol.transport.is_closing():
            self.protocol.transport.abort()
        await asyncio.sleep(0)


class Taker(asyncio.Protocol):
    connected = ended = False
    lost = "not yet"

    def __init__(self):
        self.data = bytearray()

    @property
    def got(self):
        return len(self.data)

    def connection_made(self, transport):
        self.transport, self.connected = transport, True

    def data_received(self, data):
        assert type(data) is bytes and data
        self.data += data

    def eof_received(self):
        self.ended = True

    def connection_lost(self, error):
        self.lost = error


class Filler(asyncio.BufferedProtocol):
    """Into a small buffer of its own."""

    def __init__(self):
        self.data, self.space = bytearray(), bytearray(5000)

    def get_buffer(self, hint):
        return self.space

    def buffer_updated(self, n):
        self.data += self.space[:n]


def test_messages_of_any_size_arrive_as_they_were(net):
    dice = random.Random(11)

    async def main():
        async with Ends(net, Taker) as ends:
            await ends.lending()
            sent = bytes(ends.protocol.data)
            for _ in range(60):
                message = dice.randbytes(dice.choice((1, 100, 16 << 10, BIG - 1, BIG, BIG + 1, 200_000)))
                ends.client.write(message)
                sent += message
                if dice.random() < 0.5:
                    await ends.until(len(sent))
            await ends.until(len(sent))
            assert ends.protocol.data == sent

    net.run(main())


def test_what_came_before_another_protocol_goes_to_that_one(net):
    async def main():
        async with Ends(net, Taker) as ends:
            await ends.lending()
            taken = ends.protocol.got
            ends.client.write(b"x" * BIG)
            new = Filler()
            ends.protocol.transport.set_protocol(new)
            while len(new.data) < BIG:
                await asyncio.sleep(0)
            assert new.data == b"x" * BIG and ends.protocol.got == taken

    net.run(main())


def test_a_paused_stream_keeps_what_came_into_its_buffer(net):
    async def main():
        async with Ends(net, Taker) as ends:
            await ends.lending()
            before = ends.protocol.got
            ends.protocol.transport.pause_reading()
            ends.client.write(b"y" * BIG)
            for _ in range(50):
                await asyncio.sleep(0.001)
            assert ends.protocol.got == before
            ends.protocol.transport.resume_reading()
            await ends.until(before + BIG)
            assert ends.protocol.data[before:] == b"y" * BIG

    net.run(main())


def test_the_end_comes_behind_the_bytes(net):
    async def main():
        async with Ends(net, Taker) as ends:
            await ends.lending()
            before = ends.protocol.got
            ends.client.write(b"z" * BIG)
            ends.client.write_eof()
            while not ends.protocol.ended:
                await asyncio.sleep(0)
            assert ends.protocol.got == before + BIG and (ends.stream is None or not ends.stream.lends)

    net.run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_closed_transport_has_its_buffer_back(net, how):
    async def main():
        async with Ends(net, Taker) as ends:
            await ends.lending()
            for _ in range(3):                         # more is on its way into it
                ends.client.write(bytes(BIG))
            getattr(ends.protocol.transport, how)()
            assert ends.stream is None or not ends.stream.lends
            while ends.protocol.lost == "not yet":
                await asyncio.sleep(0)

    net.run(main())


def test_a_forgotten_transport_ends_its_loan(net):
    """The memory goes back to the interpreter while the peer still sends into the connection."""
    async def main():
        async with Ends(net, Taker) as ends:
            await ends.lending()
            transport = ends.protocol.transport
            if ends.stream is None:
                return
            transport._watch.close()                   # nothing of the loop holds it any more
            ends.protocol.transport = ends.stream = None
            ends.protocol.__class__ = type("Gone", (Taker,), {})
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                del transport
                gc.collect()
            assert any(issubclass(w.category, ResourceWarning) for w in warned)
            ends.client.write(b"\1" * BIG)
            filler = [bytes(BIG) for _ in range(64)]
            await asyncio.sleep(0.01)
            assert not any(map(any, filler))
            ends.protocol.transport = ends.client

    net.run(main())
