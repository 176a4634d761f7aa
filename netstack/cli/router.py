"""``netstack router``: a router in the foreground."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import sys
from typing import Any

import click

from netstack.cli.bad_link import bad_link
from netstack.cli.confining import CAP_NET_BIND_SERVICE, NAMES, ROUTER, SHARED_MEMORY, confining_options
from netstack.cli.limits import limits
from netstack.cli.published import published, with_published
from netstack.errors import NetstackError
from netstack.router.greedy import POLICIES

log = logging.getLogger("netstack.router")


def raise_descriptor_limit() -> None:
    """A router needs eight descriptors for each stack: take what the hard limit gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            pass


def what_it_needs(backend: str, metrics: str | None, *, relays: bool) -> dict[str, Any]:
    """Files, address families and capabilities of a router; `relays`: it has the uplink ``user``."""
    from netstack.router.metrics import unix_path
    from netstack.router.paths import runtime_folder

    write = [runtime_folder()]
    if backend == "posix":
        write.append(SHARED_MEMORY)
    if path := unix_path(metrics):
        write.append(os.path.dirname(os.path.abspath(path)))
    network = relays or (metrics is not None and not path)
    return {"write": write, "families": (socket.AF_INET, socket.AF_INET6) if network else (),
            "read": NAMES if relays else (), "capabilities": (CAP_NET_BIND_SERVICE,) if relays else ()}


def expect_signals() -> int:
    """From now on SIGINT and SIGTERM end nothing by themselves: the descriptor for `wait_for_signal`. It comes before
    anybody can see that we run, who may end us at once.
    """
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(read, True)
    signal.set_wakeup_fd(write)
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: None)
    return read


def wait_for_signal(expected: int) -> int:
    """Sleep until SIGINT or SIGTERM came, of which `expect_signals` tells; returns which."""
    while True:
        for number in os.read(expected, 64):
            if number in (signal.SIGINT, signal.SIGTERM):
                return number


@click.command()
@click.option("--name", default=None, help="Name under which stacks find it (default: 'default').")
@click.option(
    "--pool",
    "pools",
    multiple=True,
    metavar="CIDR[,addressing=MODE]",
    help="Addresses it hands out, IPv4 or IPv6; the first is its own. Repeatable. Default: 10.77.0.0/16 and a private "
         "IPv6 network of this machine's and the name's, which it tells at the start.",
)
@click.option(
    "--uplink",
    "uplinks",
    multiple=True,
    metavar="user[,loopback=A]... | router:NAME,block=/N | (tap|tun|packet|xdp):NAME[,address=A/N][,gateway=A]"
            "[,delay=TIME]...",
    help="Way to the outside: user, over the kernel's sockets, needs no privilege; router: a block of that one's is "
         "the pool. With delay, jitter, rate, loss, queue, seed a bad one. Repeatable.",
)
@published
@click.option(
    "--route",
    "routes",
    multiple=True,
    metavar="CIDR[,via=GATEWAY],dev=UPLINK",
    help="What another uplink than the first leads to; the longest prefix decides. Repeatable.",
)
@click.option(
    "--backend",
    type=click.Choice(["posix", "memfd"]),
    default="posix",
    show_default=True,
    help="Memory of the rings: posix for stacks of one owner, memfd (sealed) for strangers.",
)
@click.option("--distrust", is_flag=True, help="The same as --backend memfd.")
@click.option(
    "--mtu",
    type=click.IntRange(576, 65535),
    default=65535,
    show_default=True,
    help="Largest packet between stacks, bytes.",
)
@click.option(
    "--ring",
    "ring_capacity",
    default=None,
    metavar="SIZE",
    help="Memory of each ring, e.g. 256KiB; a power of two (default: twice the L2 cache).",
)
@click.option(
    "--max",
    "max_attachments",
    type=click.IntRange(1, 65000),
    default=1024,
    show_default=True,
    help="Most stacks at a time.",
)
@click.option(
    "--fair/--no-fair",
    default=True,
    help="Where --rate makes packets wait: a queue for each stack that sends, or one for all (default: fair).",
)
@click.option("--codel", is_flag=True, help="Let no packet wait there for long (RFC 8289).")
@limits("what each stack sends", prefix="limit-")
@click.option(
    "--greedy",
    type=click.Choice(POLICIES),
    default="off",
    show_default=True,
    help="TCPs that misbehave: count and log them, mark their packets (ECN), clamp their windows, give them a small "
         "share of each queue (penalty), detach who did what no mistake explains; off: watch nobody. Watching costs "
         "the router time for each segment.",
)
@click.option(
    "--addressing",
    type=click.Choice(["process", "interface"]),
    default="process",
    show_default=True,
    help="Of pools that say nothing else. process: an address for each stack. interface: one for all that ask for "
         "none, which claim their ports.",
)
@click.option(
    "--metrics",
    default=None,
    metavar="ADDR",
    help="Serve the counters to Prometheus at unix:PATH, HOST:PORT or :PORT (of 127.0.0.1).",
)
@click.option("-q", "--quiet", is_flag=True, help="Log problems only.")
@confining_options
@bad_link("between each stack and the router")
def command(name, pools, uplinks, publish, routes, backend, distrust, mtu, ring_capacity, max_attachments, fair,
            codel, limit, greedy, addressing, metrics, quiet, emulation, become, confine):
    """Run a router in the foreground: it gives each stack an address and forwards between them.

    Ends with SIGINT (Ctrl-C) or SIGTERM.
    """
    from netstack.router.opener import OPENED, Opener
    from netstack.router.paths import router_name
    from netstack.router.router import Router
    from netstack.router.uplinks import UplinkConfig
    from netstack.units import size_bytes

    logging.basicConfig(
        stream=sys.stderr,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        level=logging.WARNING if quiet else logging.INFO,
    )
    raise_descriptor_limit()
    backend = "memfd" if distrust else backend
    try:
        texts = with_published(uplinks, publish)
        configs = [UplinkConfig.parse(text) for text in texts]
        devices = [config for config in configs if config.kind in OPENED]
        opener = Opener(devices) if devices else None
        become(ROUTER)
        kinds = {config.kind for config in configs}
        confine(**what_it_needs(backend, metrics, relays="user" in kinds))
        expected = expect_signals()
        router = Router(
            pools or None,
            router_name(name),
            uplinks=texts,
            routes=routes,
            backend=backend,
            mtu=mtu,
            ring_capacity=None if ring_capacity is None else size_bytes(ring_capacity),
            max_attachments=max_attachments,
            emulation=emulation,
            fair=fair,
            codel=codel,
            limit=limit,
            greedy=greedy,
            addressing=addressing,
            metrics=metrics,
            **({"opening": opener.open} if opener else {}),
        )
    except (NetstackError, OSError, ValueError) as error:
        raise click.ClickException(getattr(error, "strerror", None) or str(error)) from error
    with router:
        number = wait_for_signal(expected)
        log.info("%s: ending", signal.Signals(number).name)
    if opener is not None:
        opener.close()
