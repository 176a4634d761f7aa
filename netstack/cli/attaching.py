"""What commands with a stack of their own share: which network it is on, and which name means which address."""

from __future__ import annotations

import contextlib
import functools
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

TENTATIVE_S = 5.0                # how long new IPv6 addresses are waited for (RFC 4862 section 5.4: about 2 s)
FAILED = 2                       # exit code of ping(8) and traceroute(8) when there is nothing to measure


class Failure(click.ClickException):
    """Ends the command with one line and this exit code."""

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(text)
        self.exit_code = code


def open_link(text: str):
    """A link written ``tap:NAME`` or ``tun:NAME``."""
    import netstack.link

    kind, colon, name = text.partition(":")
    kinds = {"tap": "Tap", "tun": "Tun"}
    if kind not in kinds or not colon or not name:
        raise click.BadParameter("write tap:NAME or tun:NAME", param_hint="--link")
    return getattr(netstack.link, kinds[kind])(name)


@contextlib.contextmanager
def host_from(options: dict[str, Any]) -> Iterator[Any]:
    """The host that the options of `on_a_host` describe; closed at the end."""
    import netstack
    from netstack.errors import NetstackError

    link, addresses = options["link"], options["address"]
    if link is None and options["tap"] is not None:
        link = f"tap:{options['tap']}"
    try:
        more: dict[str, Any] = {"drain": 1.0, "visible": False}
        if options["dns"]:
            more["resolver"] = netstack.ResolverConfig(servers=options["dns"])
        if link is not None:
            if not addresses:
                raise click.UsageError("--link needs --address A/N")
            host = netstack.Host(link=open_link(link), address=addresses, gateway=options["gateway"], **more)
        else:
            if options["gateway"] is not None:
                raise click.UsageError("--gateway needs --link: a router is a gateway itself")
            host = netstack.attach(name=options["name"], address=addresses or None, **more)
    except (NetstackError, ValueError) as error:
        raise Failure(str(error)) from None
    with contextlib.closing(host):
        until = time.monotonic() + TENTATIVE_S
        while host.stack.tentative and time.monotonic() < until:
            time.sleep(0.02)
        yield host


def on_a_host(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that choose a network; the command gets them as one dict, ``network``."""
    names = ("name", "link", "tap", "address", "gateway", "dns")

    @click.option("--name", metavar="ROUTER", help="The router to attach to. Default: $NETSTACK_ROUTER, or 'default'.")
    @click.option("--link", metavar="tap:NAME|tun:NAME", help="Use this device instead of a router.")
    @click.option("--tap", hidden=True)
    @click.option("--address", multiple=True, metavar="A[/N]", help="Our own address; with /N on a device. Repeatable.")
    @click.option("--gateway", metavar="A", help="With --link: where packets for other networks go.")
    @click.option("--dns", multiple=True, metavar="SERVER", help="Ask this name server. Repeatable.")
    @functools.wraps(command)
    def wrapped(**values):
        return command(network={name: values.pop(name) for name in names}, **values)

    return wrapped


def family_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``-4`` and ``-6``; the command gets ``family``."""

    @click.option("-4", "four", is_flag=True, help="IPv4 only.")
    @click.option("-6", "six", is_flag=True, help="IPv6 only.")
    @functools.wraps(command)
    def wrapped(*, four, six, **values):
        if four and six:
            raise click.UsageError("-4 or -6, not both")
        return command(family=socket.AF_INET if four else socket.AF_INET6 if six else socket.AF_UNSPEC, **values)

    return wrapped


def plain_target(text: str) -> str:
    """A target without the brackets that IPv6 addresses have in URLs."""
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def find_target(host, text: str, family: int) -> tuple[int, tuple[Any, ...]]:
    """``(family, address)`` of a target, the port 0."""
    try:
        found = host.getaddrinfo(plain_target(text), 0, family, socket.SOCK_DGRAM)
    except socket.gaierror as error:
        raise Failure(f"{text}: {error.strerror}") from None
    except UnicodeError:
        raise Failure(f"{text}: no name of a host") from None
    return found[0][0], found[0][4]
