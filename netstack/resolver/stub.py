"""The stub resolver: asks name servers over the host's own sockets (RFC 1034 section 5.3.1).

One socket a try, connected to the server: its port is random (the stack's), the ids are random, and the stack passes on
nothing that came from elsewhere (RFC 5452). Both addresses of a name are asked for at once.
"""

from __future__ import annotations

import contextlib
import socket as _kernel
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from netstack.config import ResolverConfig
from netstack.resolver.cache import Cache
from netstack.resolver.literals import Found
from netstack.resolver.resolv_conf import Learnt, Settings, SettingsSource

if TYPE_CHECKING:
    import dns.message
    import dns.name

    from netstack.resolver.messages import Reply

A, PTR, AAAA = 1, 12, 28         # RFC 1035 section 3.2.2, RFC 3596 section 2.1
FAMILY_OF: dict[int, int] = {A: _kernel.AF_INET, AAAA: _kernel.AF_INET6}
TYPE_OF = {family: rdtype for rdtype, family in FAMILY_OF.items()}
CHAIN_MOST = 16                  # names, from the first to the one that has an address
DATAGRAMS_MOST = 64              # looked at in one try: who sends more guesses ids
AVOID_S = 30.0                   # how long a server that did not answer comes last
IP_RECVERR = {_kernel.AF_INET: (_kernel.IPPROTO_IP, 11), _kernel.AF_INET6: (_kernel.IPPROTO_IPV6, 25)}  # linux/in.h


class NoServers(Exception):
    """Nobody can be asked."""


class NoAnswer(Exception):
    """Every server failed or kept silent."""


class Names(NamedTuple):
    """All that is known of a name.

    Attributes
    ----------
    canonical : str
        The name at the end of its aliases.
    aliases : tuple of str
        Other names.
    found : list of Found
        Its addresses.
    """

    canonical: str
    aliases: tuple[str, ...]
    found: list[Found]


class Exchange(NamedTuple):
    """One answer, and what `netstack lookup` says about it."""

    message: dns.message.QueryMessage
    server: tuple[str, int]
    transport: str


class Stub:
    """A stub resolver with its cache.

    Parameters
    ----------
    config : ResolverConfig
    make_socket : callable
        ``make_socket(family, type)`` gives a socket of the host.
    clock : callable
        Seconds that never go back.
    learnt : callable, optional
        Servers and search domains that the network told the host.
    loopback : bool
        The host shares the kernel's loopback.
    """

    def __init__(self, config: ResolverConfig, make_socket: Callable[[int, int], Any],
                 clock: Callable[[], float] = time.monotonic, learnt: Learnt | None = None,
                 loopback: bool = False) -> None:
        self.settings = SettingsSource(config, learnt=learnt, loopback=loopback)
        self.cache: Cache[Reply] = Cache(config.cache, clock)
        self._edns = config.edns
        self._make_socket = make_socket
        self._clock = clock
        self._avoid: dict[tuple[str, int], float] = {}
        self._plain: set[tuple[str, int]] = set()      # servers that EDNS is too much for
        self._turn = 0

    # --- one server

    def _socket(self, server: tuple[str, int], kind: int) -> Any:
        family = _kernel.AF_INET6 if ":" in server[0] else _kernel.AF_INET
        s = self._make_socket(family, kind)
        if kind == _kernel.SOCK_DGRAM:
            with contextlib.suppress(OSError):
                s.setsockopt(*IP_RECVERR[family], 1)   # hear "unreachable" instead of waiting for nothing
        return s

    def _ask_udp(self, server, queries: dict[int, Any], seconds: float):
        """Answers to some of the queries, as they come; ends when all are there or the time is over."""
        from netstack.resolver.messages import read_answer

        waiting = dict(queries)
        with self._socket(server, _kernel.SOCK_DGRAM) as s:
            s.settimeout(seconds)
            s.connect(server)
            for query in queries.values():
                s.send(query.to_wire())
            until = self._clock() + seconds
            for _ in range(DATAGRAMS_MOST):
                left = until - self._clock()
                if not waiting or left <= 0:
                    return
                s.settimeout(left)
                try:
                    wire = s.recv(65535)
                except TimeoutError:
                    return
                answered = read_answer(wire, waiting)
                if answered is not None:
                    del waiting[answered[0].id]
                    yield answered

    def _ask_tcp(self, server, query, seconds: float):
        """The answer over TCP (RFC 7766); None when what comes is none, or says it is cut."""
        import dns.flags

        from netstack.resolver.messages import read_answer

        until = self._clock() + seconds
        with self._socket(server, _kernel.SOCK_STREAM) as s:
            def take(n: int) -> bytes:
                out = b""
                while len(out) < n:
                    s.settimeout(max(until - self._clock(), 0.001))
                    part = s.recv(n - len(out))
                    if not part or self._clock() >= until:
                        raise TimeoutError("the answer does not end")
                    out += part
                return out

            s.settimeout(seconds)
            s.connect(server)
            wire = query.to_wire()
            s.sendall(len(wire).to_bytes(2, "big") + wire)
            answered = read_answer(take(int.from_bytes(take(2), "big")), {query.id: query})
        return None if answered is None or answered[1].flags & dns.flags.TC else answered[1]

    def ask_server(self, server, name: dns.name.Name, rdtypes: list[int], settings: Settings):
        """What one server says to each type: `Exchange`. Nothing for a type: it did not answer that.

        Raises
        ------
        OSError
            The server cannot be reached, or is silent over TCP.
        """
        import dns.flags
        import dns.rcode

        from netstack.resolver.messages import make_query

        for edns in (self._edns, 0):
            if edns and server in self._plain:
                continue
            queries: dict[int, Any] = {}
            for rdtype in rdtypes:
                query = make_query(name, rdtype, edns)
                while query.id in queries:
                    query = make_query(name, rdtype, edns)
                queries[query.id] = query
            if settings.tcp:
                answers = ((q, self._ask_tcp(server, q, settings.timeout)) for q in queries.values())
            else:
                answers = self._ask_udp(server, queries, settings.timeout)
            again = []
            for query, message in answers:
                transport = "TCP" if settings.tcp else "UDP"
                if message is not None and message.flags & dns.flags.TC:
                    message, transport = self._ask_tcp(server, query, settings.timeout), "TCP"
                if message is None:
                    continue
                if edns and message.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP) and message.edns < 0:
                    again.append(int(query.question[0].rdtype))      # RFC 6891 section 7: it knows no EDNS
                    continue
                yield Exchange(message, server, transport)
            if not again:
                return
            self._plain.add(server)
            rdtypes = again

    # --- all servers

    def _order(self, settings: Settings) -> list[tuple[str, int]]:
        servers = settings.servers
        if settings.rotate and servers:
            self._turn = (self._turn + 1) % len(servers)
            servers = servers[self._turn:] + servers[:self._turn]
        now = self._clock()
        return sorted(servers, key=lambda server: self._avoid.get(server, 0.0) > now)

    def _exchanges(self, name: dns.name.Name, rdtypes: list[int], believe: Callable[[Any], bool]):
        """Ask one server after the other until every type has an answer that says yes or no and is believed.

        Raises
        ------
        NoServers
            There is none.
        """
        import dns.rcode

        settings = self.settings.current()
        if not settings.servers:
            raise NoServers
        missing = list(rdtypes)
        for _ in range(settings.attempts):
            for server in self._order(settings):
                before = len(missing)
                try:
                    for exchange in self.ask_server(server, name, list(missing), settings):
                        message = exchange.message
                        if message.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN) and believe(message):
                            missing.remove(int(message.question[0].rdtype))
                            yield message
                            if not missing:
                                return
                except OSError:
                    pass
                if len(missing) == before:
                    self._avoid[server] = self._clock() + AVOID_S

    def _replies(self, name: str, rdtypes: list[int]):
        """``(type, Reply)`` for each type, from the cache or from a server; none for a type nobody answered."""
        from netstack.resolver.messages import BadAnswer, read_reply, to_name

        asked = to_name(name)
        missing = []
        for rdtype in rdtypes:
            known = self.cache.get((name.lower(), rdtype))
            if known is None:
                missing.append(rdtype)
            else:
                yield rdtype, known
        understood: dict[int, Reply] = {}

        def believe(message) -> bool:
            try:
                understood[int(message.question[0].rdtype)] = read_reply(message)
            except BadAnswer:
                return False
            return True

        for message in self._exchanges(asked, missing, believe) if missing else ():
            rdtype = int(message.question[0].rdtype)
            self._remember(name, rdtype, understood[rdtype])
            yield rdtype, understood[rdtype]

    def _remember(self, name: str, rdtype: int, reply: Reply) -> None:
        from netstack.resolver.messages import KEPT_MOST

        if len(reply.values) <= KEPT_MOST:
            self.cache.put((name.lower(), rdtype), reply, reply.ttl)

    def _follow(self, rdtype: int, reply: Reply) -> Reply | None:
        """The reply at the end of aliases that an answer did not follow itself; None: nobody says, or they never
        end."""
        while reply.status == "alias":
            further = dict(self._replies(reply.canonical, [rdtype])).get(rdtype)
            if further is None:
                return None
            aliases = (*reply.aliases, *further.aliases)
            if len(aliases) > CHAIN_MOST or further.canonical.lower() in [name.lower() for name in aliases]:
                return None
            reply = further._replace(aliases=aliases)
        return reply

    # --- names

    def candidates(self, name: str) -> list[str]:
        """The full names to try (resolv.conf(5), ``search`` and ``ndots``)."""
        if name.endswith("."):
            return [name[:-1]]
        settings = self.settings.current()
        longer = [f"{name}.{domain}" for domain in settings.search]
        return [name, *longer] if name.count(".") >= settings.ndots else [*longer, name]

    def remembers(self, name: str, families: list[int]) -> bool:
        """Whether the cache alone can say what `addresses` would."""
        for candidate in self.candidates(name):
            known = [self.cache.get((candidate.lower(), TYPE_OF[family])) for family in families]
            if None in known or any(reply is not None and reply.status == "found" for reply in known):
                return None not in known
        return True

    def addresses(self, name: str, families: list[int],
                  on_part: Callable[[list[Found]], None] | None = None) -> Names:
        """The addresses of a name.

        The first candidate that has any is the one. When nobody answers for one, the others are not tried: what a
        name means must not depend on a server's mood.

        Parameters
        ----------
        name : str
            Without a final dot, the search list applies.
        families : list of int
        on_part : callable, optional
            Told the addresses of each family as they arrive.

        Raises
        ------
        gaierror
            EAI_NONAME, EAI_NODATA, EAI_AGAIN.
        """
        exists = False
        for candidate in self.candidates(name):
            try:
                names, nodata = self._addresses_of(candidate, families, on_part)
            except _kernel.gaierror:
                if exists:                             # as glibc: what was found out counts more
                    break
                raise
            if names is not None:
                return names
            exists = exists or nodata
        raise _kernel.gaierror(_kernel.EAI_NODATA if exists else _kernel.EAI_NONAME, "")

    def _addresses_of(self, name: str, families: list[int], on_part) -> tuple[Names | None, bool]:
        """``(names, False)``; ``(None, True)``: the name exists, without addresses; ``(None, False)``: it does not.

        Raises gaierror with EAI_AGAIN when nobody answered.
        """
        found: list[Found] = []
        canonical, nodata = name, False
        aliases: tuple[str, ...] = ()
        silent = [TYPE_OF[family] for family in families]
        try:
            for rdtype, reply in self._replies(name, list(silent)):
                end = self._follow(rdtype, reply)
                if end is None:
                    continue
                silent.remove(rdtype)
                if end.status == "nxdomain":
                    return None, False                 # whatever the type (RFC 8020)
                nodata = nodata or end.status == "nodata"
                if end.status == "found":
                    part = [Found(FAMILY_OF[rdtype], value) for value in end.values]
                    found += part
                    if end.aliases:                    # spelled as asked for now, not as when it was remembered
                        canonical, aliases = end.canonical, (name, *end.aliases[1:])
                    if on_part is not None:
                        on_part(part)
        except (ValueError, NoServers):                # no name that DNS could have, or nobody to ask
            return None, False
        if found:
            return Names(canonical, aliases, found), False
        if silent:
            raise _kernel.gaierror(_kernel.EAI_AGAIN, "")
        return None, nodata

    def pointers(self, found: Found) -> list[str]:
        """The names of an address (RFC 1035 section 3.5, RFC 3596 section 2.5).

        Raises
        ------
        NoAnswer
            Nobody answered.
        """
        import dns.reversename

        question = dns.reversename.from_address(found.address).to_text(omit_final_dot=True)
        try:
            for rdtype, reply in self._replies(question, [PTR]):
                end = self._follow(rdtype, reply)
                if end is not None:
                    return list(end.values)
        except NoServers:
            return []
        raise NoAnswer
