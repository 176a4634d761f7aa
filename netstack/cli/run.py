"""``netstack run``: an unmodified program on a stack of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from netstack.cli.bad_link import bad_link
from netstack.cli.inside import VARIABLE
from netstack.cli.published import published, with_published
from netstack.errors import NoRouterError
from netstack.router.client import ControlClient
from netstack.router.paths import NAME_VARIABLE, router_name

if TYPE_CHECKING:
    from netstack.link.emulation import Emulation

# Signals that mean the program, when it is a child of ours: a terminal sends the first two to both by itself.
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def command_line(program: tuple[str, ...]) -> list[str]:
    """What to execute: a script and ``-m module`` or ``-c code`` go to this interpreter, other programs are
    found.

    Raises
    ------
    click.ClickException
        There is no such program; exit code 127 as a shell's, or 126 when it may not be executed.
    """
    first = program[0]
    if first in ("-m", "-c"):
        return [sys.executable, *program]
    if first.endswith((".py", ".pyz")) or os.path.isdir(first):
        if not os.path.exists(first):
            raise _failure(f"{first}: no such file", 127)
        return [sys.executable, *program]
    found = shutil.which(first)
    if found is None:
        exists = os.path.exists(first)
        raise _failure(f"{first}: not executable", 126) if exists else _failure(f"{first}: not found", 127)
    return [found, *program[1:]]


def _failure(text: str, code: int) -> click.ClickException:
    error = click.ClickException(text)
    error.exit_code = code
    return error


def environment(router: dict[str, str], address: list[str] | None, mtu: int | None,
                pcap: str | None, stats: str | None, trace: str | None = None,
                dns: tuple[str, ...] = (), emulation: Emulation | None = None, mode: str = "library",
                block: list[str] | None = None) -> dict[str, str]:
    """The program's environment: every Python below it finds its router (``router``) and the startup
    module."""
    pcap = os.path.abspath(pcap) if pcap else None
    stats = os.path.abspath(stats) if stats else None
    trace = os.path.abspath(trace) if trace else None
    settings = {"first": True, "address": address, "block": block, "mtu": mtu, "pcap": pcap, "stats": stats,
                "trace": trace, "dns": dns or None, "mode": mode if mode != "library" else None,
                "emulation": {**emulation.settings, "seed": emulation.seed} if emulation else None}
    out = dict(os.environ)
    out[VARIABLE] = json.dumps({k: v for k, v in settings.items() if v is not None})
    out.update(router)
    startup = os.path.join(os.path.dirname(os.path.abspath(__file__)), "startup")
    out["PYTHONPATH"] = os.pathsep.join(p for p in (startup, out.get("PYTHONPATH")) if p)
    return out


def name_servers(context, parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """The option's values, each an address with or without a port."""
    from netstack.config import parse_server

    for value in values:
        try:
            parse_server(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return values


def block_texts(context, parameter, values: tuple[str, ...]) -> list[str] | None:
    """The option's values, each a block."""
    from netstack.errors import ConfigError
    from netstack.router.blocks import parse_block

    try:
        return [str(parse_block(value)) for value in values] or None
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


def run_beside(command: list[str], env: dict[str, str]) -> int:
    """Run the program as a child of this process, which holds its router. Its exit code, or minus its
    signal."""
    # Ctrl-C reaches both; what it means is the program's business.
    before = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGQUIT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    child = subprocess.Popen(command, env=env, preexec_fn=restore)  # noqa: PLW1509
    for number in _FORWARDED:
        signal.signal(number, lambda s, frame: child.send_signal(s))
    return child.wait()


def end(code: int) -> NoReturn:
    """End as the program did, for whoever waits for us."""
    if code < 0:
        with contextlib.suppress(OSError):                 # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def per_worker(path: str | None, number: int) -> str | None:
    return path and f"{path}.{number}"


def private_router(uplinks: tuple[str, ...]):
    """A router for one program, which ends with it."""
    from netstack.errors import NetstackError
    from netstack.router import Router

    try:
        return Router(uplinks=uplinks)
    except NetstackError as error:
        raise click.ClickException(getattr(error, "strerror", None) or str(error)) from error


def refuse_uplinks(uplinks: tuple[str, ...], name: str) -> None:
    if uplinks:
        raise click.UsageError(f"a router named {name!r} runs, and has its own uplinks: start it with them, or say "
                               "another --name to get a private router")


def run_on_cores(command: list[str], name: str, workers: int | None, address: list[str] | None, options: tuple,
                 uplinks: tuple[str, ...] = ()) -> int:
    """A worker on each core, behind the router of that name or a private one. Files of worker N end in ``.N``."""
    from netstack.cli.workers import addresses, cores, run_workers

    where = cores(workers)
    wanted = addresses(address, len(where))
    mtu, *files, dns, emulation = options

    def environments(router: dict[str, str]) -> list[dict[str, str]]:
        return [environment(router, each, mtu, *(per_worker(path, n) for path in files), dns, emulation)
                for n, each in enumerate(wanted)]

    try:
        with ControlClient(name) as control:
            control.ping()
    except NoRouterError:
        with private_router(uplinks) as router:
            print(f"netstack run: no router named {name!r} is running: these workers have a private one",
                  file=sys.stderr, flush=True)
            return run_workers(command, environments(router.environment()), where)
    refuse_uplinks(uplinks, name)
    return run_workers(command, environments({NAME_VARIABLE: name}), where)


def run_hybrid(command: list[str], name: str | None, options: tuple) -> None:
    """Become the program, which has the kernel's IP below it. Without the right to do so, say so here."""
    from netstack.errors import NetstackError
    from netstack.link.kernel_ip import KernelIp

    if name is not None:
        raise click.UsageError("--name needs a router: a hybrid stack has the kernel's IP below it")
    address, *_ = options
    try:
        KernelIp(address).close()
    except NetstackError as error:
        raise click.ClickException(getattr(error, "strerror", None) or str(error)) from error
    env = environment({}, *options, mode="hybrid")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, env)


def is_python(program: str) -> bool:
    """Whether a program runs in Python, which needs no preload library: by its name, or its first line."""
    if re.match(r"(python|pypy)[\d.]*$", os.path.basename(os.path.realpath(program))):
        return True
    with contextlib.suppress(OSError), open(program, "rb") as file:
        return file.read(2) == b"#!" and b"python" in file.readline(256)
    return False


def preloaded(env: dict[str, str], control: str) -> dict[str, str]:
    """The environment of programs that are not Python: their libc calls go through the preload library.

    Raises
    ------
    click.ClickException
        The library was not built.
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    library = os.path.join(package, "preload", "netstack_preload.so")
    if not os.path.exists(library):
        raise _failure(f"{library}: not found; this installation cannot preload", 1)
    before = env.get("LD_PRELOAD")
    return {**env, "NETSTACK_DAEMON_SOCKET": control, "LD_PRELOAD": f"{library}:{before}" if before else library}


def run_through_daemon(command: list[str], name: str | None, options: tuple, preload: bool | None,
                       uplinks: tuple[str, ...] = ()) -> None:
    """Become the program, whose sockets are a daemon's. Without one: run it beside a private daemon and its router."""
    from netstack.daemon.paths import NAME_VARIABLE as DAEMON_VARIABLE
    from netstack.daemon.paths import daemon_name, socket_path
    from netstack.errors import NoDaemonError

    *rest, dns, emulation = options
    if any(rest) or emulation:
        raise click.UsageError("--address, --mtu, --pcap, --stats, --trace and bad links are the stack's, which is not "
                               "in the program: give them to the daemon, or its router")
    name = daemon_name(name)

    if preload is None:
        preload = not is_python(command[0])

    def variables(more: dict[str, str]) -> dict[str, str]:
        env = environment(more, None, None, None, None, None, dns, None, mode="daemon")
        return preloaded(env, socket_path(env[DAEMON_VARIABLE])) if preload else env

    try:
        from netstack.daemon.client import Client

        Client(name).close()
    except NoDaemonError:
        pass
    else:
        if uplinks:
            raise click.UsageError(f"the daemon {name!r} runs: its router has the uplinks")
        env = variables({DAEMON_VARIABLE: name, "NETSTACK_RUNTIME_DIR": os.path.dirname(socket_path(name))})
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(command[0], command, env)

    from netstack.daemon.server import Server
    from netstack.host import attach

    with private_router(uplinks) as router:
        private = f"run-{os.getpid()}"
        os.environ.update(router.environment())
        with Server(attach(router.name), private):
            print(f"netstack run: no daemon named {name!r} is running: this program has a private one",
                  file=sys.stderr, flush=True)
            code = run_beside(command, variables({DAEMON_VARIABLE: private, **router.environment()}))
    end(code)


@click.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--name", metavar="ROUTER", help="The router to join, or the daemon. Default: $NETSTACK_ROUTER, with "
                                               "--mode daemon $NETSTACK_DAEMON, or 'default'.")
@click.option("--mode", type=click.Choice(["library", "hybrid", "daemon"]), default="library", show_default=True,
              help="library: all of TCP/IP in the program, behind a router. hybrid: TCP and UDP in the program, with "
                   "the kernel's IP and its addresses below (needs CAP_NET_RAW). daemon: sockets alone, whose stack is "
                   "in a daemon (netstack daemon), with its addresses.")
@click.option("--address", metavar="A", multiple=True,
              help="An address wanted, 0.0.0.0 or :: for any of that version; repeatable. Default: one of each version "
                   "that the router chooses, or all of the kernel's.")
@click.option("--block", "blocks", metavar="/N", multiple=True, callback=block_texts,
              help="A block of the router's pool to have whole, one route for the router: /26 or /64 for any, "
                   "10.77.4.0/26 for that one; repeatable. The program's address is the first but one in it.")
@click.option("--mtu", type=click.IntRange(68, 65535), metavar="N", help="Largest packet in bytes.")
@click.option("--pcap", type=click.Path(dir_okay=False), metavar="FILE",
              help="Write a capture (pcapng), with the keys of the program's TLS connections: Wireshark shows what "
                   "they carry, and so does whoever gets the file.")
@click.option("--stats", type=click.Path(dir_okay=False), metavar="FILE", help="At the end, write the counters (JSON).")
@click.option("--trace", type=click.Path(dir_okay=False), metavar="FILE",
              help="At the end, write what connections did, for netstack plot.")
@click.option("--dns", multiple=True, metavar="SERVER", callback=name_servers,
              help="Ask this name server, through the program's own stack. Repeatable. Default: those of "
                   "/etc/resolv.conf that its network reaches.")
@click.option("--uplink", "uplinks", multiple=True, metavar="UPLINK",
              help="Way out of a private router, as of netstack router: with user, which needs no privilege, the "
                   "program reaches what you reach. Repeatable.")
@published
@click.option("--addressing", type=click.Choice(["process", "core"]), default="process", show_default=True,
              help="process: one program, whose processes have an address each. core: a worker pinned on each core, "
                   "with a stack and addresses of its own; --address is the first one's, the others follow it.")
@click.option("--workers", type=int, metavar="N", help="How many, with --addressing core. Default: one for each core.")
@click.option("--preload/--no-preload", default=None,
              help="With --mode daemon: give the sockets of libc to the daemon too (LD_PRELOAD), for programs in C. "
                   "Default: where PROGRAM is not Python.")
@bad_link("below the stack")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
def command(name, mode, address, blocks, mtu, pcap, stats, trace, dns, uplinks, publish, addressing, workers, preload,
            program, emulation) -> None:
    """Run PROGRAM with a TCP/IP stack of its own.

    PROGRAM is a Python script, -m MODULE, -c CODE, or any program that is written in Python. It needs no
    change: every IP socket that it, and every Python it starts, makes is the stack's. Without a router it
    gets a private one. With --mode daemon it may be a program in C as well.

    \b
    netstack run -- -m http.server 80
    netstack run --address 10.77.0.9 -- app.py --verbose
    netstack run --block /26 -- app.py
    netstack run --uplink user -- -m pip download requests
    netstack run --mode daemon -- curl http://10.77.0.9/
    """
    command = command_line(program)
    address = list(address) or None
    uplinks = with_published(uplinks, publish)
    if uplinks and mode == "hybrid":
        raise click.UsageError("--uplink is a router's: a hybrid stack has the kernel's IP below it")
    if blocks and (mode != "library" or addressing == "core"):
        raise click.UsageError("--block is for one program with a library stack behind a router")
    if addressing == "core":
        if mode != "library":
            raise click.UsageError("--addressing core needs a router, which is below a library stack only")
        options = mtu, pcap, stats, trace, dns, emulation
        end(run_on_cores(command, router_name(name), workers, address, options, uplinks))
    if workers is not None:
        raise click.UsageError("--workers needs --addressing core")
    if mode == "daemon":
        run_through_daemon(command, name, (address, mtu, pcap, stats, trace, dns, emulation), preload, uplinks)
    if preload:
        raise click.UsageError("--preload needs --mode daemon")
    if mode == "hybrid":
        run_hybrid(command, name, (address, mtu, pcap, stats, trace, dns, emulation))
    name = router_name(name)
    try:
        with ControlClient(name) as control:
            control.ping()
    except NoRouterError:
        pass
    else:
        refuse_uplinks(uplinks, name)
        env = environment({NAME_VARIABLE: name}, address, mtu, pcap, stats, trace, dns, emulation, block=blocks)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(command[0], command, env)

    with private_router(uplinks) as router:
        print(f"netstack run: no router named {name!r} is running: this program has a private one",
              file=sys.stderr, flush=True)
        code = run_beside(command, environment(router.environment(), address, mtu, pcap, stats, trace, dns,
                                               emulation, block=blocks))
    end(code)
