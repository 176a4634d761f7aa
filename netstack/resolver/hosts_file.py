"""hosts(5): names that need no server."""

from __future__ import annotations

import os
import threading
from typing import NamedTuple

from netstack.resolver.literals import Found, parse_literal


class Line(NamedTuple):
    """One line: an address, its name, and more names of it."""

    found: Found
    name: str
    aliases: tuple[str, ...]


def _no_zone(name: str) -> int:
    raise OSError(name)


def parse_hosts(text: str) -> list[Line]:
    """The lines that make sense; the others are passed over, as everywhere."""
    lines = []
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        found = parse_literal(address, _no_zone) if names else None
        if found is not None:
            lines.append(Line(found, names[0], tuple(names[1:])))
    return lines


class HostsFile:
    """A hosts file, read again whenever it changed.

    Parameters
    ----------
    source : str or path
        A file; a string with white space in it is the text itself.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self._lock = threading.Lock()
        self._path: str | os.PathLike[str] | None = None
        self._seen: object = None
        self._by_name: dict[str, list[Line]] = {}
        self._by_address: dict[Found, Line] = {}
        if isinstance(source, str) and any(c.isspace() for c in source):
            self._index(parse_hosts(source))
        elif source:
            self._path = source

    def _index(self, lines: list[Line]) -> None:
        by_name: dict[str, list[Line]] = {}
        by_address: dict[Found, Line] = {}
        for line in lines:
            by_address.setdefault(line.found, line)
            for name in dict.fromkeys(n.lower().rstrip(".") for n in (line.name, *line.aliases)):
                by_name.setdefault(name, []).append(line)
        self._by_name, self._by_address = by_name, by_address

    def _refresh(self) -> None:
        if self._path is None:
            return
        with self._lock:
            try:
                now = os.stat(self._path)
                stamp = (now.st_mtime_ns, now.st_size, now.st_ino)
                if stamp == self._seen:
                    return
                with open(self._path, encoding="utf-8", errors="replace") as file:
                    lines = parse_hosts(file.read())
            except OSError:
                stamp, lines = None, []
            self._seen = stamp
            self._index(lines)

    def lines(self, name: str) -> list[Line]:
        """Every line that has the name."""
        self._refresh()
        return self._by_name.get(name.lower().rstrip("."), [])

    def line_of(self, found: Found) -> Line | None:
        """The first line of an address."""
        self._refresh()
        return self._by_address.get(found._replace(scope=0))
