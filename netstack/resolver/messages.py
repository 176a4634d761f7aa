"""DNS messages, as far as dnspython leaves something to say: what is asked, and what of an answer is believed.

An answer is believed when it came from the server that was asked (the caller's socket is connected) and carries the id
and the question of a query that waits. Of what it says counts what hangs from that question by CNAMEs, nothing else.
"""

from __future__ import annotations

import re
import secrets
import struct
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

HEADER = struct.Struct("!6H")
RECORDS_MOST = 512               # of one answer: no name has more addresses, and each costs the reader time
POINTERS_MOST = 16               # one behind the other, as dnspython from 2.9 on
KEPT_MOST = 128                  # values of an answer that the cache remembers

# What may stand in a host's name (RFC 952, RFC 1123 section 2.1, and the underscore that people use).
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)


class Reply(NamedTuple):
    """What one answer says about its question.

    Attributes
    ----------
    status : str
        ``"found"``; ``"nodata"``: the name has nothing of this type; ``"nxdomain"``: there is no such name;
        ``"alias"``: the answer ends at another name, which has to be asked for.
    canonical : str
        The name at the end of the CNAMEs.
    aliases : tuple of str
        The names on the way there.
    values : tuple of str
        Addresses or names.
    ttl : int
        Seconds for which this may be remembered; 0 for a "no" without proof (RFC 2308 section 5).
    """

    status: str
    canonical: str
    aliases: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    ttl: int = 0


class BadAnswer(ValueError):
    """An answer to our question that makes no sense."""


def to_name(text: str) -> dns.name.Name:
    """An absolute name; nothing in it is an escape.

    Raises
    ------
    ValueError
        No such name can be: an empty or long label, or more than 255 bytes.
    """
    try:
        labels = [label.encode("ascii") for label in text.rstrip(".").split(".")]
        if not all(labels):
            raise ValueError(f"{text!r}: an empty label")
        return dns.name.Name([*labels, b""])
    except (dns.exception.DNSException, UnicodeError) as error:
        raise ValueError(f"{text!r}: {error}") from None


def make_query(name: dns.name.Name, rdtype: int, edns: int) -> dns.message.QueryMessage:
    """A query with a random id that asks for recursion, with EDNS(0) where ``edns`` says how much we take."""
    query = dns.message.make_query(name, dns.rdatatype.RdataType.make(rdtype), id=secrets.randbelow(1 << 16))
    if edns:
        query.use_edns(0, payload=edns)
    return query


def plausible(wire: bytes) -> bool:
    """Whether reading it takes bounded work: few records, and no long chain of compression pointers.

    A pointer is two bytes that say where, further ahead, the name goes on (RFC 1035 section 4.1.4). Looked at is
    every place where one could stand.
    """
    if len(wire) < HEADER.size or sum(HEADER.unpack_from(wire)[2:]) > RECORDS_MOST:
        return False
    chain: dict[int, int] = {}
    for at, byte in enumerate(wire[:0x3FFF]):
        if byte >= 0xC0:
            chain[at] = length = chain.get((byte & 0x3F) << 8 | wire[at + 1], 0) + 1 if at + 1 < len(wire) else 1
            if length > POINTERS_MOST:
                return False
    return True


def read_answer(wire: bytes, queries: dict[int, dns.message.QueryMessage]):
    """The query that an answer belongs to, and the answer; None: it is none of ours.

    A truncated answer is read no further than its question.
    """
    query = queries.get(int.from_bytes(wire[:2], "big"))
    if query is None or not plausible(wire):
        return None
    cut = bool(int.from_bytes(wire[2:4], "big") & dns.flags.TC)
    try:
        answer = dns.message.from_wire(wire, keyring=False, question_only=cut, ignore_trailing=True)
        ours = query.is_response(answer) and len(answer.question) <= 1
        return (query, answer) if ours else None
    except Exception:  # noqa: BLE001 - whatever the reader makes of a stranger's bytes: it is no answer
        return None


def plain_name(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True)


def is_host_name(text: str) -> bool:
    """Whether it has only bytes that a host's name can have: others have tripped programs up."""
    return _HOST_NAME.fullmatch(text) is not None


def host_name(name: dns.name.Name) -> str:
    """A host's name as text; BadAnswer when it is none."""
    text = plain_name(name)
    if not is_host_name(text):
        raise BadAnswer(f"{text!r} is no name of a host")
    return text


def read_reply(answer: dns.message.QueryMessage) -> Reply:
    """What an answer with NOERROR or NXDOMAIN says about its question.

    Raises
    ------
    BadAnswer
        CNAMEs in a circle, too many of them, or a name that no host can have.
    """
    try:
        chaining = answer.resolve_chaining()
    except (dns.exception.DNSException, ValueError) as error:
        raise BadAnswer(str(error)) from None
    question = answer.question[0]
    to_text = host_name if question.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA) else plain_name
    aliases = tuple(to_text(each.name) for each in chaining.cnames)
    canonical = to_text(chaining.canonical_name) if aliases else plain_name(question.name)
    if chaining.answer is None:
        proven = negative(answer, chaining.canonical_name)
        if answer.rcode() == dns.rcode.NXDOMAIN:
            status = "nxdomain"
        else:
            status = "nodata" if proven or not aliases else "alias"
        return Reply(status, canonical, aliases, (), chaining.minimum_ttl if proven else 0)
    if question.rdtype == dns.rdatatype.PTR:
        values = tuple(text for each in chaining.answer if is_host_name(text := plain_name(each.target)))
    else:
        values = tuple(each.address for each in chaining.answer)
    return Reply("found" if values else "nodata", canonical, aliases, values, chaining.minimum_ttl)


def negative(answer: dns.message.QueryMessage, name: dns.name.Name) -> bool:
    """Whether the authority section says so by an SOA above the name (RFC 2308 section 2.2)."""
    return any(each.rdtype == dns.rdatatype.SOA and name.is_subdomain(each.name) for each in answer.authority)
