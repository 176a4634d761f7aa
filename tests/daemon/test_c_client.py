"""The client header by itself: a C program without Python, with and without sanitizers."""

import shutil
import subprocess
import threading

import pytest

from netstack.daemon.paths import socket_path
from tests.daemon.conftest import LIMIT
from tests.support import INCLUDE, ROOT


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
@pytest.mark.parametrize("flags", [["-O2"], ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]],
                         ids=["plain", "sanitized"])
def test_a_program_in_c_connects_waits_and_forks(daemon, host, tmp_path, flags):
    program = tmp_path / "client"
    subprocess.run(["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", *flags, *map(str, INCLUDE),
                    str(ROOT / "tests/daemon/client.c"), "-o", str(program), "-pthread"], check=True, timeout=120)
    with host.create_server(("127.0.0.1", 0)) as listener:
        def echo():
            s, _ = listener.accept()
            with s:
                while data := s.recv(1 << 16):
                    s.sendall(data)

        server = threading.Thread(target=echo)
        server.start()
        done = subprocess.run([program, socket_path(None), str(listener.getsockname()[1])], capture_output=True,
                              text=True, timeout=LIMIT)
        assert (done.returncode, done.stdout) == (0, "all is well\n"), done.stderr
        server.join(LIMIT)
        assert not server.is_alive()
