"""``netstack lookup``: what name servers say, asked from a stack of this process, as dig(1) shows it."""

from __future__ import annotations

import socket
import sys
import time

import click

from netstack.cli.attaching import Failure, find_target, host_from, on_a_host, plain_target

NO_REPLY = 9                     # exit code of dig(1)


def sort_out(words: tuple[str, ...]) -> tuple[str, str | None, str | None]:
    """``(name, type, server)`` of words in any order: ``@SERVER``, a type by its name, and the rest."""
    import dns.rdatatype

    name = rdtype = server = None
    for word in words:
        if word.startswith("@"):
            server = word[1:]
        elif name is not None and rdtype is None:
            rdtype = word
        elif name is None:
            name = word
        else:
            raise click.UsageError(f"what is {word!r}?")
    if name is None:
        raise click.UsageError("say a name")
    if rdtype is not None:
        try:
            dns.rdatatype.from_text(rdtype)
        except Exception:  # noqa: BLE001
            raise click.UsageError(f"{rdtype!r} is no type of record") from None
    return name, rdtype, server


def question(name: str, reverse: bool):
    """The name to ask for: absolute, internationalized names by IDNA, addresses upside down with ``-x``."""
    import dns.exception
    import dns.name
    import dns.reversename

    try:
        return dns.reversename.from_address(name) if reverse else dns.name.from_text(name)
    except (dns.exception.DNSException, UnicodeError, ValueError) as error:
        raise Failure(f"{name}: {error or 'no name'}", 1) from None


def describe(exchange, took_s: float) -> list[str]:
    """The answer in the order of dig."""
    import dns.flags
    import dns.opcode
    import dns.rcode

    message, (address, port) = exchange.message, exchange.server
    sections = (("ANSWER", message.answer), ("AUTHORITY", message.authority), ("ADDITIONAL", message.additional))
    counts = ", ".join(f"{name}: {sum(len(rrset) for rrset in rrsets)}" for name, rrsets in sections)
    flags = dns.flags.to_text(message.flags).lower()
    out = [f";; opcode: {dns.opcode.to_text(message.opcode())}, status: {dns.rcode.to_text(message.rcode())}, "
           f"id: {message.id}", f";; flags: {flags}; QUERY: {len(message.question)}, {counts}", ""]
    out += [";; QUESTION SECTION:", *(f";{rrset.to_text()}" for rrset in message.question), ""]
    for name, rrsets in sections:
        if rrsets:
            out += [f";; {name} SECTION:", *(line for rrset in rrsets for line in rrset.to_text().splitlines()), ""]
    return [*out, f";; Query time: {took_s * 1000:.0f} msec", f";; SERVER: {address}#{port} ({exchange.transport})",
            f";; MSG SIZE rcvd: {len(message.wire)}"]


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="NAME [TYPE] [@SERVER]")
@click.option("-x", "reverse", is_flag=True, help="NAME is an address: ask for its name.")
@click.option("--short", is_flag=True, help="Only the values.")
@click.option("--tcp", is_flag=True, help="Ask over TCP.")
@click.option("--timeout", type=click.FloatRange(0.001, 30), help="Seconds to wait for a server.")
@on_a_host
def command(words, reverse, short, tcp, timeout, network) -> None:
    """Ask a name server for NAME, from a stack of its own.

    TYPE is A unless said (PTR with -x). Without @SERVER, the servers of --dns or /etc/resolv.conf are asked in turn;
    the search list is not used. Exit code as dig's: 0 for any answer, 9 for none.

    \b
    netstack lookup example.org AAAA @192.0.2.53
    netstack lookup -x 192.0.2.1
    """
    from dataclasses import replace

    import dns.rdatatype

    from netstack.config import parse_server

    name, rdtype, server = sort_out(words)
    asked = question(plain_target(name), reverse)
    number = int(dns.rdatatype.from_text(rdtype or ("PTR" if reverse else "A")))
    with host_from(network) as host:
        stub = host.resolver.stub
        settings = stub.settings.current()
        settings = replace(settings, tcp=tcp or settings.tcp, timeout=timeout or settings.timeout)
        if server is not None:
            try:
                settings = replace(settings, servers=[parse_server(server)])
            except ValueError:
                _, to = find_target(host, server, socket.AF_UNSPEC)
                settings = replace(settings, servers=[(to[0], 53)])
        if not settings.servers:
            raise Failure("no name server: name one with @SERVER or --dns", 1)
        problems = []
        for each in [s for _ in range(settings.attempts) for s in settings.servers]:
            begin = time.perf_counter()
            try:
                exchange = next(iter(stub.ask_server(each, asked, [number], settings)), None)
                problem = "timed out"
            except OSError as error:
                exchange, problem = None, error.strerror or str(error)
            if exchange is not None:
                took = time.perf_counter() - begin
                values = [rdata.to_text() for rrset in exchange.message.answer for rdata in rrset]
                for line in values if short else describe(exchange, took):
                    click.echo(line)
                return
            problems.append(f";; {each[0]}#{each[1]}: {problem}")
    for line in problems:
        click.echo(line, err=True)
    click.echo(";; no servers could be reached", err=True)
    sys.exit(NO_REPLY)
