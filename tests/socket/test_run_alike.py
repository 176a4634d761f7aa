"""A program under ``netstack run`` does as it does alone: exit codes, signals, streams, children."""

import os
import signal
import subprocess
import sys

import pytest

import netstack
from tests.socket.test_run import LIMIT, RUN, env, script  # noqa: F401 - env is a fixture

PROGRAMS = {
    "the end": "print('done')",
    "exit 0": "import sys; sys.exit()",
    "exit 3": "import sys; sys.exit(3)",
    "exit 256": "import sys; sys.exit(256)",
    "exit with words": "import sys; sys.exit('why')",
    "an exception": "raise LookupError('lost')",
    "os._exit": "import os; print('x', flush=True); os._exit(9)",
    "SIGKILL": "import os; os.kill(os.getpid(), 9)",
    "SIGABRT": "import os, signal; os.kill(os.getpid(), signal.SIGABRT)",
    "SIGINT": "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    "SIGPIPE": "import os, signal\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\nr, w = os.pipe()\nos.close(r)\n"
               "os.write(w, b'x')",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "standard input": "import sys; print(sys.stdin.read()[::-1], sys.stdin.isatty())",
    "bytes in and out": "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read() + bytes(range(256)))",
    "exit handlers": "import atexit; atexit.register(print, 'bye'); import socket; socket.socket().close()",
    "signals are at their defaults": "import signal; print([signal.getsignal(s) for s in "
                                     "(signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)])",
    "descriptors": "import os; print(sorted(int(fd) for fd in os.listdir('/proc/self/fd') if int(fd) < 3))",
    "the working directory": "import os; print(os.getcwd())",
    "arguments": "import sys; print(sys.argv)",
    "a shell below": "import subprocess, sys\nprint(subprocess.run('exit 4', shell=True).returncode, "
                     "subprocess.run(['cat'], input=b'y', capture_output=True).stdout)",
    "a pipe to nobody": "import os, sys\nr, w = os.pipe()\nos.dup2(w, 1)\nos.close(w)\nos.close(r)\n"
                        "print('x' * 100000, flush=True)",
}


PRIVATE, RUNNING = "a private router", "a router that runs"
# With a router the program takes the place of netstack run (execve): little can differ.
BOTH = ("exit 3", "SIGKILL", "KeyboardInterrupt", "standard input", "signals are at their defaults")


@pytest.fixture
def place(request, env):  # noqa: F811
    if request.param == PRIVATE:
        yield
        return
    with netstack.Router("10.88.0.0/16", "default"):
        yield


def outcome(command, folder):
    done = subprocess.run(command, input=b"input\n", capture_output=True, timeout=LIMIT, cwd=folder)
    lines = [line for line in done.stderr.decode().splitlines() if not line.startswith("netstack run: no router")]
    return done.returncode, done.stdout, lines[-1:]


@pytest.mark.parametrize("name, place", [*((name, PRIVATE) for name in PROGRAMS), *((name, RUNNING) for name in BOTH)],
                         indirect=["place"])
def test_it_ends_and_writes_as_alone(name, place, tmp_path):
    alone = outcome([sys.executable, "-c", PROGRAMS[name]], tmp_path)
    assert outcome([*RUN, "--", "-c", PROGRAMS[name]], tmp_path) == alone


@pytest.mark.parametrize("place", [PRIVATE, RUNNING], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_signals_reach_the_program_and_what_it_makes_of_them_counts(place, env, number):  # noqa: F811
    path = script(env, f"""
import signal, socket, sys
def told(number, frame):
    print("told", number, flush=True)
    sys.exit(5)
signal.signal({int(number)}, told)
listener = socket.create_server(("", 7))
print("ready", flush=True)
listener.accept()
""")
    with subprocess.Popen([*RUN, "--", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=True) as process:
        assert process.stdout.readline() == "ready\n"
        # Ctrl-C goes to the whole group, as a terminal sends it; the others to the process that was started.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        out, errors = process.communicate(timeout=LIMIT)
        assert out == f"told {int(number)}\n" and process.returncode == 5, errors


@pytest.mark.parametrize("place", [PRIVATE, RUNNING], indirect=True)
def test_standard_input_is_the_programs_while_it_runs(place, env):  # noqa: F811
    path = script(env, "import socket\nfor line in iter(input, 'end'):\n"
                       "    print(socket.gethostbyname(line), flush=True)\n")
    with subprocess.Popen([*RUN, "--", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for literal in ("10.1.2.3", "127.1"):
            process.stdin.write(literal + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == ("127.0.0.1\n" if literal == "127.1" else literal + "\n")
        process.stdin.write("end\n")
        process.stdin.flush()
        assert process.wait(LIMIT) == 0


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_have_stacks_of_their_own(env, method):  # noqa: F811
    path = script(env, f"""
import multiprocessing, socket
def child(queue, address):
    with socket.create_connection(address, 30) as s:
        queue.put((socket.socket.__module__, s.getsockname()[0], s.recv(100)))
if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    own = socket.gethostbyname(socket.gethostname())
    with socket.create_server((own, 7)) as listener:
        queue = context.Queue()
        process = context.Process(target=child, args=(queue, (own, 7)))
        process.start()
        connection, peer = listener.accept()
        with connection:
            connection.sendall(b"hello")
        module, address, data = queue.get(timeout=60)
        process.join()
        print(module, address == peer[0] != own, data, process.exitcode)
""")
    done = subprocess.run([*RUN, "--", path], capture_output=True, text=True, timeout=LIMIT)
    assert done.stdout == "netstack.socket True b'hello' 0\n", done.stderr


def test_a_python_below_a_shell_has_a_stack_too(env):  # noqa: F811
    path = script(env, "import subprocess, sys\ncode = 'import socket; print(socket.socket.__module__)'\n"
                       "subprocess.run(f'{sys.executable} -c \"{code}\"', shell=True)\n")
    done = subprocess.run([*RUN, "--", path], capture_output=True, text=True, timeout=LIMIT)
    assert done.stdout == "netstack.socket\n", done.stderr
