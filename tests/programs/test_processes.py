"""Servers and clients unchanged, each in a process and on a stack of its own: `netstack run`, a router between them.

The server's link loses 2 % of the packets each way.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import netstack
from netstack.daemon.paths import socket_path
from tests.support import ROOT, SANITIZED

LIMIT = 60.0
CLIENT, SERVER = "10.7.8.3", "10.7.8.2"
CLI = [sys.executable, "-m", "netstack"]
LOSSY = ("--loss", "2%", "--seed", "7")

ECHO = {
    "trio": """
import trio

async def echo(stream):
    async for data in stream:
        await stream.send_all(data)

async def serve():
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_tcp, echo, 7000)
        print("ready", flush=True)

async def ask():
    stream = await trio.open_tcp_stream(SERVER, 7000)
    async with stream, trio.open_nursery() as nursery:
        async def send():
            await stream.send_all(DATA)
            await stream.send_eof()
        nursery.start_soon(send)
        got = b"".join([data async for data in stream])
    assert got == DATA

main = trio.run
""",
    "anyio": """
import anyio

async def echo(stream):
    async with stream:
        async for data in stream:
            await stream.send(data)

async def serve():
    listener = await anyio.create_tcp_listener(local_port=7000)
    print("ready", flush=True)
    await listener.serve(echo)

async def ask():
    async with await anyio.connect_tcp(SERVER, 7000) as stream, anyio.create_task_group() as group:
        async def send():
            await stream.send(DATA)
            await stream.send_eof()
        group.start_soon(send)
        got = b"".join([data async for data in stream])
    assert got == DATA

def main(body):
    anyio.run(body, backend=BACKEND)
""",
    "curio": """
import curio

async def echo(client, address):
    async with client:
        while data := await client.recv(65536):
            await client.sendall(data)

async def serve():
    listener = curio.tcp_server_socket("", 7000)
    print("ready", flush=True)
    await curio.network.run_server(listener, echo)

async def ask():
    client = await curio.open_connection(SERVER, 7000)
    async with client:
        async def send():
            await client.sendall(DATA)
            await client.shutdown(1)
        task = await curio.spawn(send)
        got = b""
        while data := await client.recv(65536):
            got += data
        await task.join()
    assert got == DATA

main = curio.run
""",
}
ECHO_PROGRAM = """
import random, sys
BACKEND, SERVER = sys.argv[2], sys.argv[3]
DATA = random.Random(1).randbytes(300_000)
{library}
main(serve if sys.argv[1] == "serve" else ask)
print("done")
"""

APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"spoken", scope["http_version"].encode())]})
    await send({"type": "http.response.body", "body": body[::-1]})
"""

HTTP_CLIENT = """
import random, ssl, sys
import httpx
url, ca, two = sys.argv[1], sys.argv[2], sys.argv[3] == "2"
data = random.Random(1).randbytes(100_000)
with httpx.Client(trust_env=False, http2=two, timeout=50, verify=ssl.create_default_context(cafile=ca)) as client:
    for _ in range(4):
        answer = client.post(url, content=data)
        assert answer.content == data[::-1]
print(answer.headers["spoken"])
"""

REDIS_CLIENT = """
import asyncio, sys
import redis, redis.asyncio
with redis.Redis(host=sys.argv[1], port=int(sys.argv[2]), socket_timeout=50) as client:
    assert client.ping()
    client.set("key", b"v" * 100_000)
    assert client.get("key") == b"v" * 100_000
    with client.pipeline() as pipe:
        for i in range(100):
            pipe.rpush("list", i)
        pipe.execute()
    assert client.lrange("list", 0, -1) == [b"%d" % i for i in range(100)]
    with client.pubsub() as listener:
        listener.subscribe("news")
        assert listener.get_message(timeout=50)["type"] == "subscribe"
        client.publish("news", "word")
        assert listener.get_message(timeout=50)["data"] == b"word"

async def main():
    async with redis.asyncio.Redis(host=sys.argv[1], port=int(sys.argv[2]), socket_timeout=50) as client:
        await asyncio.gather(*(client.incr("counter") for _ in range(50)))
        return int(await client.get("counter"))

print(asyncio.run(main()))
"""


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A router."""
    monkeypatch.setenv("NETSTACK_RUNTIME_DIR", str(tmp_path))
    paths = [str(tmp_path), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    for name in ("NETSTACK_ROUTER", "NETSTACK_DAEMON"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "pages.py").write_text(APP)
    with netstack.Router("10.7.8.0/24", "default") as router:
        yield router


@contextlib.contextmanager
def running(argv, until, **options):
    """A server, once it has printed ``until``."""
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    try:
        said = ""
        while until not in said:
            line = server.stdout.readline()
            assert line, f"it ended: {said}"
            said += line
        threading.Thread(target=server.stdout.read, daemon=True).start()
        yield server
    finally:
        server.kill()
        server.wait()


def serving(*argv, until):
    return running([*CLI, "run", "--address", SERVER, *LOSSY, "--", *argv], until)


def asked(*argv):
    """What a client prints."""
    done = subprocess.run([*CLI, "run", "--address", CLIENT, "--", *argv], capture_output=True, text=True,
                          timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("library, backend", [("trio", "-"), ("anyio", "asyncio"), ("anyio", "trio"), ("curio", "-")])
def test_an_echo_server_and_its_client(network, library, backend):
    pytest.importorskip(library)
    if backend != "-":
        pytest.importorskip(backend)
    program = ECHO_PROGRAM.format(library=ECHO[library])
    with serving("-c", program, "serve", backend, SERVER, until="ready"):
        assert asked("-c", program, "ask", backend, SERVER) == "done\n"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    trustme = pytest.importorskip("trustme")
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca"))
    certificate = authority.issue_cert(SERVER)
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert"))
    certificate.private_key_pem.write_to_path(str(folder / "key"))
    return folder


@pytest.mark.parametrize("worker", ["asyncio", "trio"])
@pytest.mark.parametrize("version", ["1.1", "2"])
def test_hypercorn(network, certificates, worker, version):
    with netstack.Host(address="10.7.9.1/24") as host, host.socket() as s:
        try:
            s.set_inheritable(True)
        except OSError:
            pytest.skip("hypercorn lets its sockets be inherited, which a stack's are not")
    for name in ("hypercorn", "httpx", worker, *(["h2"] if version == "2" else [])):
        pytest.importorskip(name)
    with serving("-m", "hypercorn", "-w", "0", "-k", worker, "--bind", "0.0.0.0:443", "--certfile",
                 str(certificates / "cert"), "--keyfile", str(certificates / "key"), "pages:app", until="Running on"):
        assert asked("-c", HTTP_CLIENT, f"https://{SERVER}/", str(certificates / "ca"), version) == f"{version}\n"


@pytest.mark.parametrize("loop", ["asyncio", "netstack.aio.uvloop:new_event_loop"])
@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_uvicorn(network, certificates, loop, http):
    for name in ("uvicorn", "httpx", http, *(["uvloop"] if "uvloop" in loop else [])):
        pytest.importorskip(name)
    with serving("-m", "uvicorn", "--host", "0.0.0.0", "--port", "443", "--loop", loop, "--http", http,
                 "--ssl-certfile", str(certificates / "cert"), "--ssl-keyfile", str(certificates / "key"), "pages:app",
                 until="running on"):
        assert asked("-c", HTTP_CLIENT, f"https://{SERVER}/", str(certificates / "ca"), "1") == "1.1\n"


@pytest.mark.skipif(not shutil.which("redis-server"), reason="needs redis-server")
@pytest.mark.skipif(SANITIZED, reason="a sanitizer's runtime is preloaded already")
def test_redis_py_and_a_real_redis_server_on_a_daemon_s_stack(network):
    pytest.importorskip("redis")
    library = Path(netstack.__file__).parent / "preload/netstack_preload.so"
    with running([*CLI, "daemon", "--address", SERVER], "daemon 'default'"):
        env = {**os.environ, "LD_PRELOAD": str(library), "NETSTACK_DAEMON_SOCKET": socket_path(None)}
        with running(["redis-server", "--port", "6379", "--bind", "0.0.0.0", "--save", "", "--protected-mode", "no"],
                     "Ready to accept", env=env):
            done = subprocess.run([*CLI, "run", "--address", CLIENT, *LOSSY, "--", "-c", REDIS_CLIENT, SERVER, "6379"],
                                  capture_output=True, text=True, timeout=LIMIT)
    assert done.stdout == "50\n", done.stderr
