"""`netstack run`: unmodified programs on stacks of their own."""

import contextlib
import os
import select
import signal
import subprocess
import sys

import pytest

import netstack
from tests.support import ROOT

LIMIT = 60.0
RUN = [sys.executable, "-m", "netstack.cli.main", "run"]


@pytest.fixture
def env(tmp_path, monkeypatch):
    """A place of its own for control sockets, and netstack on the path."""
    folder = tmp_path / "runtime"
    folder.mkdir(0o700)
    monkeypatch.setenv("NETSTACK_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("NETSTACK_ROUTER", raising=False)
    return tmp_path


@pytest.fixture
def router(env):
    with netstack.Router("10.88.0.0/16", "default") as router:
        yield router


def run(*argv, **options):
    options = {"capture_output": True, "text": True, "timeout": LIMIT, **options}
    return subprocess.run([*RUN, *map(str, argv)], **options)


def script(folder, text: str):
    path = folder / "program.py"
    path.write_text(text)
    return path


@contextlib.contextmanager
def started(*argv, **options):
    process = subprocess.Popen([*RUN, *map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_script_keeps_its_arguments_input_output_and_exit_code(env):
    path = script(env, "import sys, socket\n"
                       "print(sys.argv[1:], sys.stdin.read(), socket.socket.__module__)\n"
                       "print('to stderr', file=sys.stderr)\nsys.exit(7)\n")
    done = run("--", path, "-a", "--b", input="the input")
    assert done.returncode == 7
    assert done.stdout == "['-a', '--b'] the input netstack.socket\n"
    assert done.stderr.splitlines() == [
        "netstack run: no router named 'default' is running: this program has a private one", "to stderr"]


def test_with_a_router_it_says_nothing_and_has_its_address(env, router):
    done = run("--address", "10.88.3.4", "--", "-c", "import socket\n"
               "print(socket.gethostbyname(socket.gethostname()))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "10.88.3.4\n", "")


def test_two_programs_talk_through_their_stacks(env, router):
    (env / "hello.txt").write_text("hello through two stacks")
    server = started("--address", "10.88.0.80", "--", "-m", "http.server", "80", cwd=env)
    with server as process:
        fetch = ("import time, urllib.request\n"
                 "opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))\n"
                 "for _ in range(200):\n"
                 "    try: print(opener.open('http://10.88.0.80/hello.txt', timeout=30).read().decode()); break\n"
                 "    except OSError: time.sleep(0.05)\n")
        done = run("--", "-c", fetch)
        assert done.stdout == "hello through two stacks\n", done.stderr
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) in (0, 1, -signal.SIGINT)


def test_threads_and_child_processes_of_the_program_have_stacks_too(env):
    path = script(env, """
import socket, subprocess, sys, threading
listener = socket.create_server(("", 7000))
own = socket.gethostbyname(socket.gethostname())

def serve():
    connection, address = listener.accept()
    connection.sendall(address[0].encode())
    connection.close()

thread = threading.Thread(target=serve)
thread.start()
child = "import socket, sys; s = socket.create_connection((sys.argv[1], 7000)); print(s.recv(100).decode())"
out = subprocess.run([sys.executable, "-c", child, own], capture_output=True, text=True)
thread.join()
print(own, out.stdout.strip(), out.stderr.strip())
""")
    done = run("--", path)
    own, child = done.stdout.split()
    assert own != child and own.startswith("10.77.") and child.startswith("10.77."), done.stderr


def test_a_signal_ends_the_program_as_it_would_alone(env):
    path = script(env, "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n")
    assert run("--", path).returncode == -signal.SIGTERM
    path = script(env, "import socket\nprint('waiting', flush=True)\n"
                       "socket.create_server(('', 99)).accept()\n")
    with started("--", path) as process:
        assert process.stdout.readline() == "waiting\n"
        process.terminate()
        assert process.wait(LIMIT) == -signal.SIGTERM


def test_a_forked_child_gets_a_stack_of_its_own(env):
    path = script(env, """
import os, socket
a = socket.create_server(("", 1))
pid = os.fork()
if pid == 0:
    try:
        a.accept()
    except OSError as e:
        print(type(e).__name__, flush=True)
    b = socket.create_server(("", 1))
    print(socket.gethostbyname(socket.gethostname()), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(socket.gethostbyname(socket.gethostname()))
""")
    error, child, parent = run("--", path).stdout.split()
    assert error == "ForkedError" and child != parent


@pytest.mark.parametrize("program, code", [("no-such-program", 127), ("missing.py", 127)])
def test_what_is_not_there(env, program, code):
    done = run("--", program)
    assert done.returncode == code and program in done.stderr and "Traceback" not in done.stderr


def test_a_capture_is_written(env):
    capture = env / "capture.pcapng"
    done = run("--pcap", capture, "--", "-c", "import socket\ns = socket.socket()\ns.settimeout(1)\n"
               "print(s.connect_ex(('10.77.0.1', 9)))")
    assert done.returncode == 0, done.stderr
    assert capture.read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"


def test_after_kill_9_of_the_peer_the_next_send_is_reset(env, router):
    path = script(env, "import socket, time\nl = socket.create_server(('', 5))\nprint('ready', flush=True)\n"
                       "c, _ = l.accept()\nc.recv(1)\nprint('connected', flush=True)\ntime.sleep(600)\n")
    with started("--address", "10.88.0.5", "--", path) as process:
        assert process.stdout.readline() == "ready\n"
        with netstack.attach(drain=1) as host:
            s = host.create_connection(("10.88.0.5", 5), timeout=LIMIT)
            s.sendall(b"!")
            assert process.stdout.readline() == "connected\n"
            process.kill()
            process.wait()
            s.sendall(b"x")                       # answered by the router
            assert select.select([s], [], [], LIMIT)[0]
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                s.sendall(b"x")
            s.close()


def test_without_a_router_attach_says_how_to_start_one(env):
    with pytest.raises(netstack.errors.NoRouterError, match="netstack router"):
        netstack.attach()
    assert os.environ.get("NETSTACK_ROUTER") is None
