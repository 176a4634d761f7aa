"""A small name server on a host of ours, for tests: a zone, and what it may do wrong."""

from __future__ import annotations

import contextlib
import socket
import threading

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

import netstack
from netstack.stack import Stack
from tests.places import daemon_of

ADDRESS = "10.9.0.53"
SOA = "ns.example. admin.example. 1 3600 600 86400 60"


def parse_zone(text: str) -> dict[tuple[dns.name.Name, int], dns.rrset.RRset]:
    """Lines ``NAME TTL TYPE VALUE``."""
    records: dict[tuple[dns.name.Name, int], dns.rrset.RRset] = {}
    for line in text.split("\n"):
        if not line.strip():
            continue
        name, ttl, rdtype, value = line.split(None, 3)
        new = dns.rrset.from_text(name, int(ttl), "IN", rdtype, value)
        key = new.name, new.rdtype
        records[key] = records[key] if key in records else new
        records[key].update(new)
    return records


class NameServer:
    """Answers from a zone on ``host``, over UDP and TCP, in threads of its own.

    Attributes
    ----------
    asked : list of (str, str, str)
        ``(name, type, transport)`` in the order of arrival.
    ports : set of int
        Where questions came from.
    ids : list of int
        Their ids.
    edns : list of int
        Their EDNS version, -1 without.
    change : callable or None
        Gets ``(query, response, transport)`` and returns the response, bytes or a list of bytes to send, or None
        for silence.
    """

    def __init__(self, host: netstack.Host, zone: str = "", address: str = ADDRESS, change=None) -> None:
        self.host, self.address, self.change = host, address, change
        self.records = parse_zone(zone)
        self.asked: list[tuple[str, str, str]] = []
        self.ports: set[int] = set()
        self.ids: list[int] = []
        self.edns: list[int] = []
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.udp = host.socket(family, socket.SOCK_DGRAM)
        self.udp.bind((address, 53))
        self.tcp = host.create_server((address, 53), family=family)
        self.threads = [threading.Thread(target=run) for run in (self._serve_udp, self._serve_tcp)]
        for thread in self.threads:
            thread.start()

    def answer(self, query: dns.message.QueryMessage) -> dns.message.Message:
        """The answer of an honest server."""
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        question = query.question[0]
        name = question.name
        for _ in range(40):
            alias = self.records.get((name, dns.rdatatype.CNAME))
            if alias is None or question.rdtype == dns.rdatatype.CNAME:
                break
            response.answer.append(alias)
            name = alias[0].target
        found = self.records.get((name, question.rdtype))
        if found is not None:
            response.answer.append(found)
        else:
            exists = any(known == name or known.is_subdomain(name) for known, _ in self.records)
            if not exists:
                response.set_rcode(dns.rcode.NXDOMAIN)
            top = name.split(2)[1] if len(name) > 2 else name
            response.authority.append(dns.rrset.from_text(top, 60, "IN", "SOA", SOA))
        return response

    def _respond(self, wire: bytes, transport: str, port: int) -> list[bytes]:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        self.asked.append((question.name.to_text(), dns.rdatatype.to_text(question.rdtype), transport))
        self.ports.add(port)
        self.ids.append(query.id)
        self.edns.append(query.edns)
        response = self.answer(query)
        if self.change is not None:
            response = self.change(query, response, transport)
        if response is None:
            return []
        parts = response if isinstance(response, list) else [response]
        return [part if isinstance(part, bytes) else part.to_wire(max_size=65535) for part in parts]

    def _serve_udp(self) -> None:
        while True:
            try:
                wire, sender = self.udp.recvfrom(65535)
            except OSError:
                return
            for part in self._respond(wire, "UDP", sender[1]):
                with contextlib.suppress(OSError):
                    self.udp.sendto(part, sender)

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, sender = self.tcp.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(10)
                length = int.from_bytes(connection.recv(2, socket.MSG_WAITALL), "big")
                wire = b""
                while len(wire) < length:
                    wire += connection.recv(length - len(wire))
                for part in self._respond(wire, "TCP", sender[1]):
                    connection.sendall(len(part).to_bytes(2, "big") + part)

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()


class World:
    """A host that asks, at 10.9.0.1, and one with servers; made by `world`."""

    def __init__(self, asking: netstack.Host, serving: netstack.Host, stack: Stack) -> None:
        self.host, self.serving, self.stack = asking, serving, stack
        self.resolver = asking.resolver
        self.servers: list[NameServer] = []

    def serve(self, zone: str = "", address: str = ADDRESS, change=None) -> NameServer:
        server = NameServer(self.serving, zone, address, change)
        self.servers.append(server)
        return server

    def addresses(self, name: str, family: int = 0, flags: int = 0) -> list[str]:
        """Addresses of a name, best first."""
        return [a[0] for _, _, _, _, a in self.host.getaddrinfo(name, 80, family, socket.SOCK_STREAM, 0, flags)]

    def fails(self, name: str, family: int = 0) -> int:
        """The number of the error with which a name fails."""
        try:
            found = self.addresses(name, family)
        except socket.gaierror as error:
            return error.errno
        raise AssertionError(f"{name}: {found}")


@contextlib.contextmanager
def asker(daemon: bool, link, addresses, resolver):
    """``(host, its stack)``; the host is a daemon's client if that is wanted."""
    if daemon:
        with daemon_of(*addresses, link=link, resolver=resolver) as (host,):
            yield host, host.behind.stack
    else:
        with netstack.Host(link=link, address=addresses, drain=1, resolver=resolver) as host:
            yield host, host.stack


@contextlib.contextmanager
def world(*servers: str, addresses=("10.9.0.1/24",), serving=("10.9.0.53/24", "10.9.0.54/24", "10.9.0.80/24"),
          daemon=False, **config):
    """Two hosts on one link; ``servers`` are whom the first one asks."""
    a, b = netstack.link.channel_pair()
    config = {"timeout": 5.0, "hosts": "", **config}
    resolver = netstack.ResolverConfig(servers=servers or (ADDRESS,), **config)
    with netstack.Host(link=b, address=serving, drain=1) as there:
        with asker(daemon, a, addresses, resolver) as (here, stack):
            made = World(here, there, stack)
            try:
                yield made
            finally:
                for server in made.servers:
                    server.close()
