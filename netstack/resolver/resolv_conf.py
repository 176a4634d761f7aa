"""resolv.conf(5): what a `ResolverConfig` leaves open comes from there."""

from __future__ import annotations

import ipaddress
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from netstack.config import ResolverConfig, parse_server

PATH = "/etc/resolv.conf"
Learnt = Callable[[], tuple[list[str], list[str] | None]]     # servers and domains; None: the domains of the machine
SERVERS_MOST = 3                 # MAXNS of resolv.h
NDOTS_MOST, TIMEOUT_MOST, ATTEMPTS_MOST = 15, 30, 5      # RES_MAXNDOTS, RES_MAXRETRANS, RES_MAXRETRY


@dataclass(frozen=True)
class Settings:
    """Everything decided."""

    servers: list[tuple[str, int]] = field(default_factory=list)
    search: list[str] = field(default_factory=list)
    ndots: int = 1
    timeout: float = 5.0
    attempts: int = 2
    rotate: bool = False
    tcp: bool = False


def _number(text: str, most: int) -> int:
    return min(int(text[:20]), most) if text.isascii() and text.isdigit() else 0


def parse_resolv_conf(text: str, own_name: str = "", loopback: bool = False) -> Settings:
    """Read the text of the file; lines that nobody understands are passed over.

    Servers on a loopback address are left out unless *loopback* says that the host shares the kernel's.
    """
    servers: list[tuple[str, int]] = []
    search = [own_name.partition(".")[2]] if "." in own_name else []
    out = Settings()
    for line in text.splitlines():
        word, *rest = line.split() or [""]
        if word.startswith(("#", ";")) or not rest:
            continue
        if word == "nameserver" and len(servers) < SERVERS_MOST:
            try:
                if loopback or not ipaddress.ip_address(rest[0]).is_loopback:
                    servers.append((rest[0], 53))
            except ValueError:
                continue
        elif word == "search":
            search = rest
        elif word == "domain":
            search = rest[:1]
        elif word == "options":
            for option in rest:
                name, _, value = option.partition(":")
                if name == "ndots":
                    out = replace(out, ndots=_number(value, NDOTS_MOST))
                elif name == "timeout" and _number(value, TIMEOUT_MOST):
                    out = replace(out, timeout=float(_number(value, TIMEOUT_MOST)))
                elif name == "attempts" and _number(value, ATTEMPTS_MOST):
                    out = replace(out, attempts=_number(value, ATTEMPTS_MOST))
                elif name == "rotate":
                    out = replace(out, rotate=True)
                elif name == "use-vc":
                    out = replace(out, tcp=True)
    return replace(out, servers=servers, search=[d.strip(".") for d in search if d.strip(".")])


class SettingsSource:
    """Settings from a `ResolverConfig`, from the network, and from the machine's file, read again when it changed.

    Parameters
    ----------
    config : ResolverConfig
    path : str
        The machine's file.
    learnt : callable, optional
        Servers and search domains that the network told the host: they take the place of the machine's.
    loopback : bool
        The host shares the kernel's loopback, and servers there.
    """

    def __init__(self, config: ResolverConfig, path: str = PATH, learnt: Learnt | None = None,
                 loopback: bool = False) -> None:
        self._config = config
        self._loopback = loopback
        self._learnt = learnt
        self._path = path
        self._lock = threading.Lock()
        self._seen: object = ()
        self._settings = Settings()

    def _merge(self, machine: Settings) -> Settings:
        c = self._config
        given = {name: value for name in ("ndots", "timeout", "attempts", "rotate", "tcp")
                 if (value := getattr(c, name)) is not None}
        if c.servers is not None:
            machine = replace(machine, servers=[parse_server(text) for text in c.servers], search=[])
        if c.search is not None:
            given["search"] = [d.strip(".") for d in c.search if d.strip(".")]
        return replace(machine, **given)

    def current(self) -> Settings:
        """The settings now."""
        settings = self._of_files()
        if self._learnt is None or self._config.servers is not None:
            return settings
        servers, search = self._learnt()
        if servers:
            settings = replace(settings, servers=[(address, 53) for address in servers[:SERVERS_MOST]])
            if self._config.search is None and search is not None:
                settings = replace(settings, search=search)
        return settings

    def _of_files(self) -> Settings:
        with self._lock:
            if self._config.servers is not None:
                if self._seen == ():
                    self._settings, self._seen = self._merge(Settings()), None
                return self._settings
            stamp, text = None, ""
            try:
                now = os.stat(self._path)
                stamp = (now.st_mtime_ns, now.st_size, now.st_ino)
                if stamp == self._seen:
                    return self._settings
                with open(self._path, encoding="utf-8", errors="replace") as file:
                    text = file.read()
            except OSError:
                stamp = None
            machine = parse_resolv_conf(text, os.uname().nodename, self._loopback)
            self._settings, self._seen = self._merge(machine), stamp
            return self._settings
