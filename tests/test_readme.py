"""What the README tells people to type works as it stands."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_snippet_runs(number):
    done = subprocess.run([sys.executable, "-c", blocks("python")[number]], cwd=ROOT, capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_test_command_is_the_one_ci_calls():
    assert blocks("sh")[1].strip() == "ci/test"
    assert "ci/test" in (ROOT / ".ci" / "run").read_text()


def test_shell_commands_of_use_it_run(tmp_path):
    """The block is run line by line with its own router name, the servers in the background."""
    env = {**os.environ, "NETSTACK_ROUTER": f"readme-{os.getpid()}", "PYTHONPATH": str(ROOT),
           "NETSTACK_RUNTIME_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    netstack = [sys.executable, "-m", "netstack"]
    router_line, server_line, client_line, ping_line, ps_line, ss_line = blocks("sh")[2].strip().splitlines()
    assert router_line.startswith("netstack router &") and server_line.startswith("netstack run ")
    (tmp_path / "netstack").write_text(f"#!/bin/sh\nexec {' '.join(netstack)} \"$@\"\n")
    (tmp_path / "python").write_text(f"#!/bin/sh\nexec {sys.executable} \"$@\"\n")
    for name in ("netstack", "python"):
        (tmp_path / name).chmod(0o755)
    env["PATH"] = f"{tmp_path}:{env['PATH']}"
    running = []

    def wait_until(line, expected):
        for _ in range(100):
            done = subprocess.run(line, shell=True, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
            if done.returncode == 0 and expected in done.stdout:
                return done.stdout
        raise AssertionError(f"{line}: {done.stdout} {done.stderr}")

    try:
        running.append(subprocess.Popen(["netstack", "router"], env=env, cwd=tmp_path))
        wait_until(ps_line, "")
        running.append(subprocess.Popen(server_line.split(), env=env, cwd=tmp_path, stderr=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL))
        wait_until(ps_line, "10.77.0.2")
        wait_until(client_line, "200")
        wait_until(ping_line, "4 received, 0% packet loss")
        assert "LISTEN" in wait_until(ss_line, ":8000")
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(20)
