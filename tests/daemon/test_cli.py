"""`netstack daemon` and `netstack run --mode daemon`: programs do not change."""

import signal
import subprocess
import sys

import pytest

import netstack
from tests.daemon.conftest import LIMIT

CLI = [sys.executable, "-m", "netstack.cli.main"]
FETCH = ("import sys, time, urllib.request\n"
         "opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))\n"
         "for _ in range(200):\n"
         "    try: print(opener.open(sys.argv[1], timeout=30).read().decode()); break\n"
         "    except OSError: time.sleep(0.05)\n")


def run(*argv):
    return subprocess.run([*CLI, *argv], capture_output=True, text=True, timeout=LIMIT)


@pytest.fixture
def started(environment):
    """Start commands that run until the test is over."""
    processes = []

    def start(*argv, **options):
        processes.append(subprocess.Popen([*CLI, *argv], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                                          **options))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def command(started):
    with netstack.Router("10.88.0.0/16", "default"):
        process = started("daemon", "--address", "10.88.0.5")
        assert "daemon 'default': 10.88.0.5/16" in process.stderr.readline()
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0


def test_two_programs_of_one_daemon_share_its_address(command, started, tmp_path):
    (tmp_path / "hello.txt").write_text("hello through a daemon")
    started("run", "--mode", "daemon", "--", "-m", "http.server", "80", cwd=tmp_path)
    for address in ("10.88.0.5", "127.0.0.1"):
        done = run("run", "--mode", "daemon", "--", "-c", FETCH, f"http://{address}/hello.txt")
        assert done.stdout == "hello through a daemon\n", done.stderr


def test_a_stack_of_its_own_reaches_a_daemon_s_program(command, started, tmp_path):
    (tmp_path / "hello.txt").write_text("hello through a router")
    started("run", "--mode", "daemon", "--", "-m", "http.server", "80", cwd=tmp_path)
    done = run("run", "--", "-c", FETCH, "http://10.88.0.5/hello.txt")
    assert done.stdout == "hello through a router\n", done.stderr


ENDS_AT_ONCE = """
import logging, os, signal, sys
class Ends(logging.Handler):
    def emit(self, record):
        os.kill(os.getpid(), int(sys.argv[1]))
logging.getLogger(sys.argv[2]).addHandler(Ends())
from netstack.cli.main import main
main(sys.argv[3:])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("which", ["router", "daemon"])
def test_who_is_told_to_end_as_soon_as_it_says_that_it_runs_ends_in_order(environment, number, which):
    """The word comes after the handlers: else the program would be killed there, and leave its socket behind."""
    with netstack.Router("10.88.0.0/16", "default"):
        done = subprocess.run([sys.executable, "-c", ENDS_AT_ONCE, str(int(number)), f"netstack.{which}",
                               which, "--name", "short", "--no-confine"],
                              capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0 and "ending" in done.stderr, done.stderr
    assert not list(environment.glob("short*.sock"))


def test_without_a_daemon_the_program_has_a_private_one(environment):
    done = run("run", "--mode", "daemon", "--", "-c",
               "import socket\ns = socket.create_server(('', 0))\nc = socket.create_connection(s.getsockname())\n"
               "a, _ = s.accept()\nc.sendall(b'hi')\nprint(a.recv(9), type(c).__module__)\nraise SystemExit(7)")
    assert (done.returncode, done.stdout) == (7, "b'hi' netstack.socket\n")
    assert done.stderr == "netstack run: no daemon named 'default' is running: this program has a private one\n"


def test_what_is_the_stack_s_is_no_option_of_the_program(environment):
    done = run("run", "--mode", "daemon", "--address", "10.0.0.1", "--", "-c", "")
    assert done.returncode == 2
    assert "give them to the daemon" in " ".join(done.stderr.split())


def test_a_daemon_needs_a_network(environment):
    done = run("daemon")
    assert done.returncode == 1
    assert "no router named 'default'" in done.stderr
