"""``netstack demo``: two unmodified programs, each with a TCP/IP stack and an address of its own, exchange a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import click

PROGRAMS = pathlib.Path(__file__).with_name("programs")
PORT = 8000
ECHO_PORT = 8007
ROUND_TRIPS = 5000
PATIENCE_S = 300.0


class Failure(click.ClickException):
    """A program of the demo failed; what it said is shown."""


def write_file(path: pathlib.Path, size: int, seed: int, progress: Callable[[int], None]) -> str:
    """Fill a file with bytes that follow from the seed; their SHA-256."""
    generator = random.Random(seed)
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        done = 0
        while done < size:
            block = generator.randbytes(min(1 << 20, size - done))
            digest.update(block)
            file.write(block)
            done += len(block)
            progress(done)
    return digest.hexdigest()


def listen_to_ctrl_c() -> None:
    """A shell starts what a script puts into the background with SIGINT ignored, and programs inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def background(command: list[str], log: pathlib.Path, env: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A program that runs while the block does, in the log's directory."""
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=log.parent,
                                   preexec_fn=listen_to_ctrl_c)  # noqa: PLW1509 - this process has one thread
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)             # as Ctrl-C: it ends in good order
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def foreground(command: list[str], log: pathlib.Path, env: dict[str, str],
               progress: Callable[[int], None] = lambda done: None) -> dict:
    """Run a program to its end, in the log's directory; the last line of JSON it printed."""
    last: dict = {}
    with open(log, "wb") as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, env=env,
                                   cwd=log.parent)
    deadline = time.monotonic() + PATIENCE_S
    assert process.stdout is not None
    try:
        for line in process.stdout:
            last = json.loads(line)
            progress(last.get("bytes", 0))
            if time.monotonic() > deadline:
                break
        code = process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        code = None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
    if code != 0:
        said = log.read_text(errors="replace")[-2000:]
        raise Failure(f"{' '.join(command)} ended with {code}:\n{said}")
    return last


class Stage:
    """One of the two ways the same programs are run: on stacks of their own, or on the kernel."""

    def __init__(self, directory: pathlib.Path, env: dict[str, str], router_name: str | None):
        self.directory = directory
        self.env = env
        self.router_name = router_name

    def command(self, who: str, *program: str, address: str | None = None) -> list[str]:
        if self.router_name is None:
            return [sys.executable, *program]
        wanted = ["--address", address] if address else []
        return [sys.executable, "-m", "netstack", "run", "--name", self.router_name, *wanted,
                "--stats", str(self.directory / f"{who}.json"), "--", sys.executable, *program]

    def log(self, who: str) -> pathlib.Path:
        return self.directory / f"{who}-{'kernel' if self.router_name is None else 'stack'}.log"

    def stats(self, who: str) -> dict[str, int]:
        return json.loads((self.directory / f"{who}.json").read_text())

    def transfer(self, server: str, client: str | None, port: int, progress: Callable[[int], None]) -> dict:
        serve = self.command("server", "-m", "http.server", "--bind", server, "--directory",
                             str(self.directory / "www"), str(port), address=server)
        fetch = self.command("client", str(PROGRAMS / "fetch.py"), f"http://{server}:{port}/file", address=client)
        with background(serve, self.log("server"), self.env):
            return foreground(fetch, self.log("client"), self.env, progress)

    def round_trip(self, server: str, client: str | None, port: int) -> float:
        serve = self.command("echo-server", str(PROGRAMS / "echo_server.py"), server, str(port), address=server)
        ask = self.command("echo-client", str(PROGRAMS / "echo_client.py"), server, str(port), str(ROUND_TRIPS),
                           address=client)
        with background(serve, self.log("echo-server"), self.env):
            return foreground(ask, self.log("echo-client"), self.env)["rtt_us"]


def free_kernel_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def kernel_loopback_works() -> bool:
    """In a network namespace ``lo`` may be down; then there is nothing to compare with."""
    try:
        with socket.socket() as a, socket.socket() as b:
            a.bind(("127.0.0.1", 0))
            a.listen()
            b.settimeout(1)
            b.connect(a.getsockname())
        return True
    except OSError:
        return False


def run_demo(size: int, seed: int, pool: str, tell: Callable[[str, int, int], None]) -> dict:
    """The whole demonstration; what `--json` prints. *tell* hears (what, done, of how many) bytes."""
    import netstack

    result: dict = {"ok": False, "sha256_ok": False, "addresses": [], "bytes": size}
    with tempfile.TemporaryDirectory(prefix="netstack-demo-") as name, netstack.Router(pool=pool) as router:
        directory = pathlib.Path(name)
        (directory / "www").mkdir()
        digest = write_file(directory / "www" / "file", size, seed, lambda done: tell("make a file", done, size))
        # The programs run elsewhere, with this very package: a source tree in the current directory is not it.
        here = str(pathlib.Path(netstack.__file__).parents[1])
        path = os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH")) if p)
        env = {**os.environ, **router.environment(), "PYTHONPATH": path}
        stage = Stage(directory, env, router.name)
        first = router.address.rsplit(".", 1)[0]
        server, client = f"{first}.{2}", f"{first}.{3}"
        got = stage.transfer(server, client, PORT, lambda done: tell("two stacks", done, size))
        at_server, at_client = stage.stats("server"), stage.stats("client")
        totals = router.counters()
        result.update(
            addresses=[server, client],
            sha256_ok=got["sha256"] == digest and got["bytes"] == size,
            stack_payload_bytes=at_client["tcp_payload_in"],
            gbit_s=got["bytes"] * 8 / got["seconds"] / 1e9,
            rtt_us=stage.round_trip(server, client, ECHO_PORT),
            drops=sum(v for c in (at_server, at_client, totals) for k, v in c.items() if k.startswith("drop")),
            stacks={
                who: {"address": a, "packets_in": c["packets_in"], "packets_out": c["packets_out"],
                      "drops": sum(v for k, v in c.items() if k.startswith("drop")),
                      "retransmits": c["tcp_retransmits"]}
                for who, a, c in (("server", server, at_server), ("client", client, at_client))
            },
        )
        result["kernel_gbit_s"] = result["kernel_rtt_us"] = None
        if kernel_loopback_works():
            kernel = Stage(directory, dict(os.environ), None)
            got = kernel.transfer("127.0.0.1", None, free_kernel_port(),
                                  lambda done: tell("kernel loopback", done, size))
            result["kernel_gbit_s"] = got["bytes"] * 8 / got["seconds"] / 1e9
            result["kernel_rtt_us"] = kernel.round_trip("127.0.0.1", None, free_kernel_port())
    result["ok"] = result["sha256_ok"] and result["stack_payload_bytes"] >= size
    return result


def show(result: dict) -> None:
    """The result as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    stacks = Table(title="two processes, each with its own TCP/IP stack and address")
    for heading in ("process", "address", "packets in", "packets out", "retransmitted", "drops"):
        stacks.add_column(heading, justify="left" if heading in ("process", "address") else "right")
    for who, s in result["stacks"].items():
        stacks.add_row(who, s["address"], f"{s['packets_in']:,}", f"{s['packets_out']:,}", f"{s['retransmits']:,}",
                       f"{s['drops']:,}")
    console.print(stacks)
    speed = Table(title=f"{result['bytes']:,} bytes over HTTP, by the same programs")
    for heading in ("", "Gbit/s", "round trip of 64 bytes"):
        speed.add_column(heading, justify="left" if not heading else "right")
    speed.add_row("netstack, over shared memory", f"{result['gbit_s']:.1f}", f"{result['rtt_us']:.1f} us")
    if result["kernel_gbit_s"] is None:
        speed.add_row("kernel loopback", "lo is down", "")
    else:
        speed.add_row("kernel loopback", f"{result['kernel_gbit_s']:.1f}", f"{result['kernel_rtt_us']:.1f} us")
    console.print(speed)
    console.print("SHA-256 of the file: " + ("[green]equal[/]" if result["sha256_ok"] else "[red]WRONG[/]"))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option("--size", default=256, show_default=True, help="Size of the file, MiB.")
@click.option("--seed", default=1, show_default=True, help="The file's bytes follow from it.")
@click.option("--pool", default="10.77.0.0/16", show_default=True, help="Addresses of the private router.")
def command(as_json: bool, size: int, seed: int, pool: str) -> None:
    """Transfer a file between two unmodified programs, each with a TCP/IP stack and an address of its own.

    A private router runs in this process. The programs are `python -m http.server` and a client of urllib; afterwards
    they do the same over the kernel's loopback, for comparison.
    """
    if size < 1:
        raise click.BadParameter("at least 1 MiB", param_hint="--size")
    total = size << 20
    if as_json:
        result = run_demo(total, seed, pool, lambda what, done, of: None)
        click.echo(json.dumps(result))
    else:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        with Progress(TextColumn("{task.description:>16}"), BarColumn(), DownloadColumn(True), TransferSpeedColumn(),
                      transient=True) as bars:
            tasks: dict[str, int] = {}

            def tell(what: str, done: int, of: int) -> None:
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=of)
                bars.update(tasks[what], completed=done)

            result = run_demo(total, seed, pool, tell)
        show(result)
    if not result["ok"]:
        sys.exit(1)
