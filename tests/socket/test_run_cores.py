"""`netstack run --addressing core`: a worker on each core, with a stack and an address of its own."""

import ast
import json
import os
import signal
import subprocess

import pytest

from tests.socket.test_run import LIMIT, RUN, env, router, run, script, started  # noqa: F401 - fixtures

CORES = sorted(os.sched_getaffinity(0))
MANY = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")

SAY = """
import os, socket, sys
s = socket.create_server(("", 80))
s.settimeout(60)
me = int(os.environ["NETSTACK_WORKER"])
own = socket.gethostbyname(socket.gethostname())
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    probe.connect(("10.88.0.1", 9))
    own = probe.getsockname()[0]
sys.stdout.write(repr((me, sorted(os.sched_getaffinity(0)), own)) + "\\n")
"""


def said(done):
    return sorted(ast.literal_eval(line) for line in done.stdout.splitlines())


def test_each_core_has_a_worker_a_stack_and_an_address(env, router):  # noqa: F811
    done = run("--addressing", "core", "--", script(env, SAY))
    assert done.returncode == 0 and done.stderr == "", done.stderr
    rows = said(done)
    assert [row[:2] for row in rows] == [(n, [core]) for n, core in enumerate(CORES)]
    assert len({address for _, _, address in rows}) == len(CORES), "all of them listen on port 80"


@MANY
def test_addresses_follow_the_one_asked_for(env, router):  # noqa: F811
    done = run("--addressing", "core", "--workers", "2", "--address", "10.88.3.4", "--", script(env, SAY))
    assert [address for _, _, address in said(done)] == ["10.88.3.4", "10.88.3.5"], done.stderr


MEET = """
import os, socket
me = int(os.environ["NETSTACK_WORKER"])
if me == 0:
    with socket.create_server(("10.77.0.100", 80)) as listener:
        listener.settimeout(60)
        s, (peer, _) = listener.accept()
        with s:
            s.settimeout(60)
            print(peer, s.recv(100).decode())
else:
    while True:
        s = socket.socket()
        s.settimeout(60)
        try:
            s.connect(("10.77.0.100", 80))
            break
        except ConnectionRefusedError:
            s.close()
        except OSError as error:
            if error.errno != 113:
                raise
            s.close()
    s.sendall(b"hello from the other core")
    s.close()
"""


@MANY
def test_workers_reach_each_other_through_a_private_router(env):  # noqa: F811
    done = run("--addressing", "core", "--workers", "2", "--address", "10.77.0.100", "--stats", env / "stats", "--",
               script(env, MEET))
    assert done.returncode == 0 and "private one" in done.stderr, done.stderr
    assert done.stdout == "10.77.0.101 hello from the other core\n"
    assert [json.loads((env / f"stats.{n}").read_text())["tcp_segments_in"] > 0 for n in (0, 1)] == [True, True]


@MANY
def test_a_worker_that_fails_takes_down_itself_alone(env, router):  # noqa: F811
    path = script(env, "import os, sys\nif os.environ['NETSTACK_WORKER'] == '0': sys.exit(7)\n"
                       "print('the other ends')\n")
    done = run("--addressing", "core", "--workers", "2", "--", path)
    assert done.returncode == 7 and done.stdout == "the other ends\n"


def test_a_signal_reaches_every_worker(env, router):  # noqa: F811
    path = script(env, "import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    with started("--addressing", "core", "--", path) as program:
        for _ in CORES:
            assert program.stdout.readline() == "up\n"
        program.send_signal(signal.SIGTERM)
        assert program.wait(LIMIT) == -signal.SIGTERM


@pytest.mark.parametrize("options, why", [
    (["--addressing", "core", "--workers", "100000"], "cores"), (["--addressing", "core", "--workers", "0"], "cores"),
    (["--workers", "1"], "--addressing core"), (["--addressing", "core", "--mode", "hybrid"], "router"),
    (["--addressing", "core", "--address", "10.0.0.300"], "10.0.0.300"),
])
def test_what_cannot_be_says_so(env, options, why):  # noqa: F811
    done = subprocess.run([*RUN, *options, "--", "-c", "pass"], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 2 and why in done.stderr and "Traceback" not in done.stderr
