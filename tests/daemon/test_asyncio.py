"""Event loops on a daemon's sockets: by their readiness descriptors, the standard library's and ours alike."""

import asyncio
import os

import pytest

import netstack.aio
from tests.daemon.conftest import LIMIT


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, netstack.aio.new_event_loop])
def test_streams_carry_a_megabyte_there_and_back(host, loop):
    async def serve(reader, writer):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def main():
        server = await host.start_server(serve, "127.0.0.1", 0)
        reader, writer = await host.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        data = os.urandom(1 << 20)
        writer.write(data)
        writer.write_eof()
        assert await reader.read(-1) == data
        writer.close()
        server.close()

    runs = loop()
    try:
        runs.run_until_complete(asyncio.wait_for(main(), LIMIT))
    finally:
        runs.close()


def test_a_daemon_that_dies_ends_the_streams(daemon, host):
    async def main():
        connected = asyncio.get_running_loop().create_future()
        server = await host.start_server(lambda r, w: connected.set_result((r, w)), "127.0.0.1", 0)
        reader, writer = await host.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        await connected
        daemon.kill()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.transport.abort()
        connected.result()[1].transport.abort()
        server.close()

    asyncio.run(asyncio.wait_for(main(), LIMIT))
