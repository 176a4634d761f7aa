"""`netstack run --mode daemon` for programs that are not Python: libc's sockets are the daemon's."""

import hashlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import netstack
from netstack.daemon.paths import socket_path
from tests.daemon.conftest import LIMIT, Daemon
from tests.daemon.test_cli import CLI
from tests.support import SANITIZED, compile_c

LIBRARY = Path(netstack.__file__).parent / "preload/netstack_preload.so"
DAEMON = "10.88.0.5"
SERVER = "10.88.0.6"

pytestmark = pytest.mark.skipif(SANITIZED, reason="a sanitizer's runtime is preloaded already")

needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
needs_nc = pytest.mark.skipif(not shutil.which("nc"), reason="needs nc")

ASYNCIO = """
import asyncio, sys

async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()

async def once(port, n):
    reader, writer = await asyncio.open_connection(sys.argv[1], port)
    out = bytes(n) + b"end"
    writer.write(out)
    writer.write_eof()
    assert await reader.read() == out if n < 1000 else (await reader.readexactly(n + 3)) == out
    writer.close()

async def main():
    server = await asyncio.start_server(echo, sys.argv[1], 0)
    port = server.sockets[0].getsockname()[1]
    await asyncio.gather(*(once(port, 10 ** i) for i in range(7)))
    server.close()
    print("all is well")

asyncio.run(main())
"""


@pytest.fixture
def preloaded(daemon):
    """The environment in which any program's sockets are the daemon's."""
    return {**os.environ, "LD_PRELOAD": str(LIBRARY), "NETSTACK_DAEMON_SOCKET": socket_path(None)}


@pytest.fixture
def network(environment):
    """A router and a daemon behind it."""
    with netstack.Router("10.88.0.0/16", "default"):
        process = subprocess.Popen([*CLI, "daemon", "--address", DAEMON], stderr=subprocess.PIPE, text=True)
        try:
            assert f"daemon 'default': {DAEMON}/16" in process.stderr.readline()
            yield
        finally:
            process.terminate()
            process.communicate()


@pytest.fixture
def site(network, tmp_path):
    """A web server on a stack of its own; the hash of what it has at /file."""
    content = random.Random(6).randbytes(5_000_000)
    (tmp_path / "file").write_bytes(content)
    process = subprocess.Popen([*CLI, "run", "--address", SERVER, "--", "-m", "http.server", "80"], cwd=tmp_path,
                               env={**os.environ, "PYTHONUNBUFFERED": "1"},
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert "Serving" in process.stdout.readline()
        yield hashlib.sha256(content).hexdigest()
    finally:
        process.kill()
        process.communicate()


def run(*argv, **options):
    return subprocess.run([*CLI, "run", "--mode", "daemon", *argv], capture_output=True, timeout=LIMIT, **options)


@needs_gcc
@pytest.mark.parametrize("source", ["preload", "preload_readiness", "preload_exec"])
def test_a_program_in_c_sees_what_it_would_see_of_a_kernel(preloaded, tmp_path, source):
    """The same programs pass on the kernel's own sockets."""
    program = compile_c(f"tests/daemon/{source}.c", tmp_path, "-Wno-unused-result")
    for address, env in (("127.0.0.1", None), ("10.0.0.1", preloaded)):
        done = subprocess.run([program, address], env=env, capture_output=True, text=True, timeout=2 * LIMIT)
        assert (done.returncode, done.stdout) == (0, "all is well\n"), f"{address}: {done.stderr}"


REJOINS = """
import errno, socket, sys

def listen():
    s = socket.socket()
    s.bind(("10.0.0.1", 0))
    s.listen()
    return s

first = listen()
client = socket.create_connection(first.getsockname())
print("ready", flush=True)
sys.stdin.readline()
try:
    client.recv(1)
except ConnectionResetError:
    print("reset", flush=True)
second = listen()
with socket.create_connection(second.getsockname()) as again:
    again.sendall(b"word")
    print(second.accept()[0].recv(10).decode(), flush=True)
try:
    first.accept()
except OSError as e:
    print(errno.errorcode[e.errno])
"""


def test_a_program_goes_on_with_a_new_daemon_when_the_old_one_died(preloaded, daemon):
    child = subprocess.Popen([sys.executable, "-I", "-c", REJOINS], env=preloaded, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n"
        daemon.kill()
        after = Daemon()
        try:
            said, _ = child.communicate("go on\n", timeout=LIMIT)
        finally:
            after.close()
    finally:
        child.kill()
        child.communicate()
    assert said.split() == ["reset", "word", "ECONNRESET"]


@needs_gcc
def test_the_daemon_has_no_socket_left_of_a_program_that_ended(preloaded, daemon, tmp_path):
    program = compile_c("tests/daemon/preload.c", tmp_path, "-Wno-unused-result")
    subprocess.run([program, "10.0.0.1"], env=preloaded, timeout=2 * LIMIT, check=True, stdout=subprocess.DEVNULL)
    daemon.until(lambda state: state == (0, 0, 0, 0))


@pytest.mark.parametrize("address", ["10.0.0.1", "::1"])
def test_an_interpreter_without_netstack_runs_an_event_loop(preloaded, address):
    done = subprocess.run([sys.executable, "-I", "-c", ASYNCIO, address], env=preloaded, capture_output=True,
                          text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all is well\n"


@needs_curl
def test_curl_fetches_a_file_from_another_stack(site):
    done = run("--", "curl", "-sS", "--max-time", "25", f"http://{SERVER}/file")
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).hexdigest() == site


@needs_curl
def test_curl_fetches_several_files_at_once_by_a_shell(site, tmp_path):
    """The variables go through the shell, whose children are preloaded too."""
    names = [str(tmp_path / f"got{i}") for i in range(4)]
    urls = " ".join(f"-o {name} http://{SERVER}/file" for name in names)
    done = run("--preload", "--", "sh", "-c", f"curl -sS --parallel --max-time 25 {urls}")
    assert done.returncode == 0, done.stderr
    assert {hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in names} == {site}


@needs_curl
def test_a_refusal_is_the_program_s_own_to_tell(network):
    done = run("--", "curl", "-sS", "--max-time", "25", f"http://{DAEMON}:81/")
    assert done.returncode == 7, done.stderr               # CURLE_COULDNT_CONNECT


@needs_nc
def test_nc_listens_and_calls(network, tmp_path):
    data = b"over the stack " * 10000
    with open(tmp_path / "heard", "wb") as heard:
        server = subprocess.Popen([*CLI, "run", "--mode", "daemon", "--", "nc", "-v", "-l", "5000"], stdout=heard,
                                  stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        assert b"Listening" in server.stderr.readline()
        done = run("--", "nc", "-N", DAEMON, "5000", input=data)
        assert done.returncode == 0, done.stderr
        server.communicate(timeout=LIMIT)
        assert (tmp_path / "heard").read_bytes() == data
    finally:
        server.kill()
        server.communicate()


def test_python_programs_are_not_preloaded(network):
    done = run("--", sys.executable, "-c", "import os; print(os.environ.get('LD_PRELOAD', 'nothing'))")
    assert done.stdout == b"nothing\n", done.stderr


def test_without_the_daemon_a_preloaded_program_has_no_network(environment):
    program = "import socket\ntry: socket.socket()\nexcept OSError as e: print(e.strerror)"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=LIMIT,
                          env={**os.environ, "LD_PRELOAD": str(LIBRARY), "NETSTACK_DAEMON_SOCKET": "/nowhere/at/all"})
    assert done.stdout == "Network is down\n"
    assert done.stderr == "netstack: the daemon cannot be joined: ENOENT\n"


def test_the_option_needs_a_daemon():
    done = subprocess.run([*CLI, "run", "--preload", "--", "true"], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 2
    assert "--preload needs --mode daemon" in done.stderr
