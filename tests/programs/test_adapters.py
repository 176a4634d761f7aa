"""Libraries on one host by their own hooks: nothing is patched."""

import asyncio
import http.server

import pytest

import netstack
from tests.programs.conftest import BODY, LIMIT, SERVER, Pages, serving
from tests.programs.test_http import Running, loops, run


@pytest.fixture
def servers(wire, contexts):
    """``(http://..., https://...)``; the patch is gone when the test begins."""
    with wire.server.patch():
        plain = http.server.ThreadingHTTPServer((SERVER, 0), Pages)
        secure = http.server.ThreadingHTTPServer((SERVER, 0), Pages)
        secure.socket = contexts[1].wrap_socket(secure.socket, server_side=True)
    plain.daemon_threads = secure.daemon_threads = True
    with serving(plain), serving(secure):
        assert netstack.patched() == []
        yield f"http://{SERVER}:{plain.server_port}", f"https://{SERVER}:{secure.server_port}"


def test_requests(wire, servers, authority, tmp_path):
    requests = pytest.importorskip("requests")
    from netstack.adapters.requests import Adapter

    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with requests.Session() as session:
        session.trust_env = False
        for scheme in ("http://", "https://"):
            session.mount(scheme, Adapter(wire.client))
        for address in servers:
            for _ in range(3):
                assert session.get(address, timeout=LIMIT, verify=str(tmp_path / "ca.pem")).content == BODY
        with pytest.raises(requests.exceptions.SSLError):
            session.get(servers[1], timeout=LIMIT)
        with pytest.raises(requests.exceptions.ConnectionError, match="refused"):
            session.get(f"http://{SERVER}:1/", timeout=LIMIT)
        with pytest.raises(requests.exceptions.ConnectionError, match="resolve"):
            session.get("http://no-such-name.invalid/", timeout=LIMIT)


@loops()
def test_aiohttp(wire, servers, contexts, new_loop):
    aiohttp = pytest.importorskip("aiohttp")
    from netstack.adapters.aiohttp import connector

    async def main():
        async with aiohttp.ClientSession(connector=connector(wire.client)) as session:
            for address in servers:
                for _ in range(3):
                    async with session.get(address, ssl=contexts[0]) as answer:
                        assert await answer.read() == BODY
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get("http://no-such-name.invalid/")

    run(new_loop, main())


@loops()
def test_uvicorn_on_given_sockets(wire, new_loop):
    uvicorn = pytest.importorskip("uvicorn")
    from netstack.adapters.requests import pool_manager

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": BODY})

    listener = wire.server.create_server((SERVER, 8082))

    async def serve(running):
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))

        async def watch():
            while not server.started:
                await asyncio.sleep(0.005)
            running.ready.set()
            await running.stopping.wait()
            server.should_exit = True

        watching = asyncio.ensure_future(watch())
        await server._serve(sockets=[listener])
        await watching

    running = Running(new_loop, serve)
    try:
        with pool_manager(wire.client, timeout=LIMIT) as pool:
            for _ in range(3):
                assert pool.request("GET", f"http://{SERVER}:8082/").data == BODY
    finally:
        running.stop()
        listener.close()
