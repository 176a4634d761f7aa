"""Round trips of asyncio programs with both ends in one loop: ours on two hosts, asyncio and uvloop on the kernel."""

import asyncio

import pytest

from bench.asyncio_programs import CLIENT, SERVER, Echo, Net, new_host

ROUND_TRIPS = 100


class Once(asyncio.Protocol):
    """Tells when as many bytes have come as it waits for."""

    def connection_made(self, transport):
        self.transport = transport

    def expect(self, size):
        self.left = size
        self.arrived = asyncio.get_running_loop().create_future()
        return self.arrived

    def data_received(self, data):
        self.left -= len(data)
        if not self.left:
            self.arrived.set_result(None)


class Ends:
    """A loop with an echo server and one connection to it."""

    def __init__(self, kind):
        if kind == "hosts":
            from netstack.link import channel_pair

            one, two = channel_pair()
            self.hosts = new_host(one, CLIENT, 50), new_host(two, SERVER, 50)
        elif kind == "uvloop":
            pytest.importorskip("uvloop")
            self.hosts = ()
        else:
            self.hosts = ()
        self.server, self.client = Net(kind, *self.hosts[1:]), Net(kind, *self.hosts[:1])
        self.loop = self.client.new_event_loop()
        self.loop.run_until_complete(self.open())

    async def open(self):
        self.listening = await asyncio.get_running_loop().create_server(Echo, sock=self.server.listener())
        self.client.address = self.server.address
        _, self.protocol = await asyncio.get_running_loop().create_connection(Once, sock=await self.client.connected())

    async def round_trips(self, message):
        for _ in range(ROUND_TRIPS):
            arrived = self.protocol.expect(len(message))
            self.protocol.transport.write(message)
            await arrived
        return self.protocol.left

    def close(self):
        self.protocol.transport.abort()
        self.listening.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        for host in self.hosts:
            host.close()


@pytest.mark.parametrize("size", [64, 64 << 10])
@pytest.mark.parametrize("kind", ["hosts", "asyncio", "uvloop"])
def test_a_hundred_round_trips(benchmark, kind, size):
    ends = Ends(kind)
    message = bytes(size)
    try:
        assert benchmark(lambda: ends.loop.run_until_complete(ends.round_trips(message))) == 0
    finally:
        ends.close()
