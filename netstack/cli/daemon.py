"""``netstack daemon``: the stack of many programs in a process of its own, in the foreground."""

from __future__ import annotations

import logging
import signal
import sys

import click

from netstack.cli.attaching import open_link
from netstack.cli.confining import DAEMON, NAMES, confining_options
from netstack.cli.router import expect_signals, wait_for_signal
from netstack.errors import NetstackError


def make_host(router: str | None, link: str | None, hybrid: bool, addresses: tuple[str, ...], gateway: str | None,
              mtu: int | None):
    """The host that the daemon serves: behind a router, on a device, or on the kernel's IP."""
    import netstack

    if sum((router is not None, link is not None, hybrid)) > 1:
        raise click.UsageError("--router, --link and --hybrid: one of them")
    if link is not None:
        if not addresses:
            raise click.UsageError("--link needs --address A/N")
        return netstack.Host(link=open_link(link), address=addresses, gateway=gateway, mtu=mtu)
    if gateway is not None:
        raise click.UsageError("--gateway needs --link")
    mode = "hybrid" if hybrid else "library"
    return netstack.attach(router, addresses or None, mode=mode, mtu=mtu)


@click.command("daemon")
@click.option("--name", metavar="DAEMON",
              help="Name under which programs find it. Default: $NETSTACK_DAEMON, or 'default'.")
@click.option("--router", metavar="ROUTER", help="The router to attach to. Default: $NETSTACK_ROUTER, or 'default'.")
@click.option("--link", metavar="tap:NAME|tun:NAME", help="Use this device instead of a router.")
@click.option("--hybrid", is_flag=True, help="Leave IP to the kernel instead (needs CAP_NET_RAW).")
@click.option("--address", multiple=True, metavar="A[/N]",
              help="An address of its own; with /N on a device. Repeatable.")
@click.option("--gateway", metavar="A", help="With --link: where packets for other networks go.")
@click.option("--mtu", type=click.IntRange(68, 65535), metavar="N", help="Largest packet in bytes.")
@click.option("--ring", default="256KiB", show_default=True, metavar="SIZE",
              help="Memory of each direction of a stream; a power of two.")
@click.option("--max-sockets", type=click.IntRange(1, 1 << 20), default=8192, show_default=True, metavar="N",
              help="Most sockets at a time, of all programs.")
@click.option("-q", "--quiet", is_flag=True, help="Log problems only.")
@confining_options
def command(name, router, link, hybrid, address, gateway, mtu, ring, max_sockets, quiet, become, confine) -> None:
    """Run a TCP/IP stack for other programs in the foreground.

    Programs use it unchanged: netstack run --mode daemon -- PROGRAM. They share its addresses, and see their own
    sockets only. Ends with SIGINT (Ctrl-C) or SIGTERM.

    \b
    netstack daemon &
    netstack run --mode daemon -- -m http.server 80
    """
    from netstack.daemon.server import Server, raised_descriptor_limit
    from netstack.router.paths import runtime_folder
    from netstack.units import size_bytes

    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S",
                        level=logging.WARNING if quiet else logging.INFO)
    with raised_descriptor_limit():
        try:
            host = make_host(router, link, hybrid, address, gateway, mtu)
            try:
                become(DAEMON)
                if not hybrid:                         # whose ports are sockets of the kernel, made as they are needed
                    confine(read=NAMES, write=[runtime_folder()])
                expected = expect_signals()
                server = Server(host, name, ring_bytes=size_bytes(ring), max_sockets=max_sockets)
            except BaseException:
                host.close()
                raise
        except (NetstackError, OSError, ValueError) as error:
            raise click.ClickException(getattr(error, "strerror", None) or str(error)) from error
        with server:
            number = wait_for_signal(expected)
            logging.getLogger("netstack.daemon").info("%s: ending", signal.Signals(number).name)
