"""``netstack proxy``: programs that cannot have a stack use one through a SOCKS5 proxy."""

from __future__ import annotations

import asyncio
import ipaddress
import signal

import click

from netstack.cli.attaching import Failure, host_from, on_a_host


def _place(text: str) -> tuple[str, int]:
    """``(address, port)`` of ADDRESS:PORT or [ADDRESS]:PORT."""
    address, colon, port = text.rpartition(":")
    address = address.removeprefix("[").removesuffix("]") if address.startswith("[") else address
    try:
        ipaddress.ip_address(address)
        number = int(port)
        if not colon or not 0 <= number < 65536:
            raise ValueError
    except ValueError:
        raise click.BadParameter("write ADDRESS:PORT or [ADDRESS]:PORT", param_hint="--socks") from None
    return address, number


@click.command("proxy")
@click.option("--socks", default="127.0.0.1:1080", show_default=True, metavar="ADDRESS:PORT",
              help="Where to listen on the kernel's network. Port 0: any.")
@click.option("--user", envvar="NETSTACK_PROXY_USER", metavar="NAME:PASSWORD",
              help="What clients must give; $NETSTACK_PROXY_USER does not show in ps.")
@on_a_host
def command(network, socks, user) -> None:
    """Let programs of the kernel's network use a stack, through SOCKS5 (RFC 1928): TCP connections and datagrams.

    \b
    netstack proxy &
    curl --socks5-hostname 127.0.0.1:1080 http://10.88.0.80/
    """
    address, port = _place(socks)
    name, colon, password = (user or "").partition(":")
    if user is not None and not (name and colon and password and len(name) < 256 and len(password) < 256):
        raise click.BadParameter("write NAME:PASSWORD", param_hint="--user")
    if user is None and not ipaddress.ip_address(address).is_loopback:
        raise click.UsageError(f"{address} can be reached from elsewhere: --user says who may use the proxy")
    from netstack.aio import new_event_loop

    with host_from(network) as host:
        loop = new_event_loop()
        try:
            loop.run_until_complete(_run(host, address, port, (name.encode(), password.encode()) if user else None))
        finally:
            loop.close()


async def _run(host, address: str, port: int, user: tuple[bytes, bytes] | None) -> None:
    from netstack.socks import SocksServer

    server = SocksServer(host, user=user)
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    try:
        listening, at = await server.start(address, port)
    except OSError as error:
        raise Failure(f"{address}:{port}: {error.strerror}") from None
    own = ", ".join(a.partition("/")[0] for a in host.addresses)
    click.echo(f"SOCKS5 on {f'[{listening}]' if ':' in listening else listening}:{at}, through {own}")
    await over.wait()
    await server.close()
