"""HTTP clients and servers of others, as they are."""

import asyncio
import threading

import pytest

import netstack
from tests.programs.conftest import BODY, LIMIT, SERVER


@pytest.fixture
def trust(authority, tmp_path):
    """The test's authority as a file."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def new_uvloop():
    pytest.importorskip("uvloop")
    from netstack.aio.uvloop import new_event_loop

    return new_event_loop()


def loops():
    return pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, netstack.aio.new_event_loop, new_uvloop],
                                   ids=["asyncio's loop", "own loop", "own uvloop"])


def run(new_loop, coroutine):
    loop = new_loop()
    try:
        return loop.run_until_complete(asyncio.wait_for(coroutine, LIMIT))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_http_client(web, contexts, secure):
    """One connection for several requests, by name of the class: http.client against http.server."""
    import http.client
    import urllib.parse

    port = urllib.parse.urlsplit(web[secure]).port
    if secure:
        connection = http.client.HTTPSConnection(SERVER, port, timeout=LIMIT, context=contexts[0])
    else:
        connection = http.client.HTTPConnection(SERVER, port, timeout=LIMIT)
    kept = None
    for method, data in (("GET", None), ("POST", BODY), ("POST", BODY[:1]), ("GET", None)):
        connection.request(method, "/", data)
        assert connection.getresponse().read() == (BODY if data is None else data)
        kept = kept or connection.sock
        assert connection.sock is kept
    connection.close()


def test_urllib(web, contexts):
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}),
                                         urllib.request.HTTPSHandler(context=contexts[0]))
    for address in web:
        assert opener.open(address, timeout=LIMIT).read() == BODY


def test_requests(web, trust):
    requests = pytest.importorskip("requests")
    with requests.Session() as session:
        session.trust_env = False
        for address in web:
            for _ in range(3):
                assert session.get(address, timeout=LIMIT, verify=trust).content == BODY
            assert session.post(address, data=BODY, timeout=LIMIT, verify=trust).content == BODY
        with pytest.raises(requests.exceptions.ConnectionError, match="refused"):
            session.get(f"http://{SERVER}:1/", timeout=LIMIT)


def test_urllib3(web, trust):
    urllib3 = pytest.importorskip("urllib3")
    with urllib3.PoolManager(ca_certs=trust, timeout=LIMIT, maxsize=2) as pool:
        for address in web:
            for _ in range(3):
                assert pool.request("GET", address).data == BODY
            streamed = pool.request("GET", address, preload_content=False)
            assert b"".join(streamed.stream(1000)) == BODY
            streamed.release_conn()


def test_httpx(web, contexts):
    httpx = pytest.importorskip("httpx")
    with httpx.Client(trust_env=False, verify=contexts[0], timeout=LIMIT) as client:
        for address in web:
            for _ in range(3):
                assert client.get(address).content == BODY


@loops()
def test_httpx_async(web, contexts, new_loop):
    httpx = pytest.importorskip("httpx")

    async def main():
        async with httpx.AsyncClient(trust_env=False, verify=contexts[0], timeout=LIMIT) as client:
            for address in web:
                answers = await asyncio.gather(*(client.get(address) for _ in range(5)))
                assert all(answer.content == BODY for answer in answers)

    run(new_loop, main())


@loops()
def test_aiohttp_client(web, contexts, new_loop):
    aiohttp = pytest.importorskip("aiohttp")

    async def main():
        connector = aiohttp.TCPConnector(resolver=aiohttp.ThreadedResolver())
        async with aiohttp.ClientSession(connector=connector) as session:
            for address in web:
                for _ in range(3):
                    async with session.get(address, ssl=contexts[0]) as answer:
                        assert await answer.read() == BODY

    run(new_loop, main())


class Running:
    """An asyncio program in a thread with a loop of its own; `stop` ends it."""

    def __init__(self, new_loop, main):
        self.ready = threading.Event()
        self.failed = []
        self.loop = new_loop()
        self.thread = threading.Thread(target=self._run, args=(main,), daemon=True)
        self.thread.start()
        assert self.ready.wait(LIMIT), self.failed

    def _run(self, main):
        async def body():
            self.stopping = asyncio.Event()
            await main(self)

        try:
            self.loop.run_until_complete(body())
        except BaseException as error:  # noqa: BLE001 - raised again by stop
            self.failed.append(error)
        finally:
            self.ready.set()
            self.loop.close()

    def stop(self):
        self.loop.call_soon_threadsafe(self.stopping.set)
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()
        if self.failed:
            raise self.failed[0]


@loops()
def test_aiohttp_server(wire, contexts, new_loop):
    aiohttp = pytest.importorskip("aiohttp")
    from aiohttp import web

    async def page(request):
        return web.Response(body=(await request.read()) or BODY)

    async def chat(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data.upper())
        return socket

    async def serve(running):
        app = web.Application()
        app.router.add_get("/", page)
        app.router.add_get("/chat", chat)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, SERVER, 8080).start()
        await web.TCPSite(runner, SERVER, 8443, ssl_context=contexts[1]).start()
        running.ready.set()
        await running.stopping.wait()
        await runner.cleanup()

    async def client():
        connector = aiohttp.TCPConnector(resolver=aiohttp.ThreadedResolver())
        async with aiohttp.ClientSession(connector=connector) as session:
            for address in (f"http://{SERVER}:8080/", f"https://{SERVER}:8443/"):
                async with session.get(address, ssl=contexts[0]) as answer:
                    assert await answer.read() == BODY
            async with session.ws_connect(f"http://{SERVER}:8080/chat") as socket:
                await socket.send_str("word")
                assert await socket.receive_str() == "WORD"

    with wire.server.patch():
        running = Running(new_loop, serve)
    try:
        with wire.client.patch():
            run(new_loop, client())
    finally:
        running.stop()


@loops()
def test_uvicorn(wire, new_loop):
    uvicorn = pytest.importorskip("uvicorn")
    httpx = pytest.importorskip("httpx")

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": BODY})

    async def serve(running):
        server = uvicorn.Server(uvicorn.Config(app, host=SERVER, port=8081, log_level="warning", lifespan="off"))

        async def watch():
            while not server.started:
                await asyncio.sleep(0.005)
            running.ready.set()
            await running.stopping.wait()
            server.should_exit = True

        watching = asyncio.ensure_future(watch())
        await server._serve()
        await watching

    with wire.server.patch():
        running = Running(new_loop, serve)
    try:
        with wire.client.patch(), httpx.Client(trust_env=False, timeout=LIMIT) as client:
            for _ in range(3):
                assert client.get(f"http://{SERVER}:8081/").content == BODY
    finally:
        running.stop()
