"""The inner half of ``netstack run``: what happens in the program's own process."""

from __future__ import annotations

import atexit
import json
import os
import threading
from typing import Any

VARIABLE = "NETSTACK_RUN"        # settings for the Python programs below, JSON


def begin() -> None:
    """Patch ``socket``; the process joins the router when it makes its first IP socket.

    The address and blocks asked for, and the names of the capture, counter and trace files, are for the first process:
    those that it starts get addresses of the router's choice and files of their own.
    """
    from netstack.patching import patch

    settings = json.loads(os.environ[VARIABLE])
    mode = settings.get("mode", "library")
    address = settings.get("address") if mode == "hybrid" else settings.pop("address", None)     # the kernel's, shared
    block = settings.pop("block", None)
    pcap, stats, trace = settings.get("pcap"), settings.get("stats"), settings.get("trace")
    if settings.pop("first", False) is False:
        pcap, stats, trace = (name and f"{name}.{os.getpid()}" for name in (pcap, stats, trace))
    os.environ[VARIABLE] = json.dumps(settings)
    if pcap:
        _log_keys()
    patch(_Chooser(address, settings.get("mtu"), pcap, stats, trace, settings.get("dns"), mode,
                   settings.get("emulation"), block))


def _log_keys() -> tuple[int, int] | None:
    """The keys of this process's TLS connections, for its capture; None in an interpreter without ssl."""
    try:
        from netstack import key_log
    except ImportError:
        return None
    return key_log.start()


class _Chooser:
    """Gives the host of this process, made on first use; a forked child gets its own."""

    def __init__(self, address: list[str] | None, mtu: int | None, pcap: str | None, stats: str | None,
                 trace: str | None = None, dns: list[str] | None = None, mode: str = "library",
                 emulation: dict[str, Any] | None = None, block: list[str] | None = None) -> None:
        self._dns = dns
        self._emulation = emulation
        self._mode = mode
        self._wanted = (address, pcap)
        self._block = block
        self._mtu = mtu
        self._host = None
        self._parent = None                            # the host of the process that forked this one
        self._lock = threading.Lock()
        self._stats = stats
        self._trace = trace
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self._lock = threading.Lock()
        if self._host is not None and self._mode != "daemon":      # a daemon's sockets are the child's too
            self._parent, self._host = self._host, None
            self._block = None
            address, pcap = self._wanted
            self._wanted = (address if self._mode == "hybrid" else None, pcap and f"{pcap}.{os.getpid()}")
            self._stats = self._stats and f"{self._stats}.{os.getpid()}"
            self._trace = self._trace and f"{self._trace}.{os.getpid()}"

    def __call__(self):
        host = self._host
        if host is None:
            with self._lock:
                host = self._host
                if host is None:
                    host = self._host = self._attach()
        return host

    def _attach(self):
        from netstack.config import ResolverConfig
        from netstack.host import attach

        address, pcap = self._wanted

        def wrap(link):
            if self._emulation:
                from netstack.link.emulation import Emulation

                link = Emulation(**self._emulation).around(link)
            if pcap:
                from netstack.link import PcapWriter

                link = PcapWriter(link, pcap, key_log=_log_keys())       # what the stack itself sends and hears
            return link

        resolver = ResolverConfig(servers=tuple(self._dns)) if self._dns else None
        if self._mode == "daemon":
            return attach(mode="daemon", resolver=resolver)
        if self._parent is not None and self._parent.shares_address:
            host = self._parent.heir()                 # it comes to have the parent's listeners
        else:
            host = attach(address=address, block=self._block, mode=self._mode, mtu=self._mtu, wrap=wrap,
                          resolver=resolver)
        if self._stats:
            atexit.register(self._write_stats)         # before the host closes: it was made later
        if self._trace:
            host.start_trace()
            atexit.register(self._write_trace)
        return host

    def _write_trace(self) -> None:
        if self._host is not None and self._trace:
            self._host.stop_trace().save(self._trace)

    def _write_stats(self) -> None:
        if self._host is not None and self._stats:
            with open(self._stats, "w") as file:
                json.dump(self._host.counters(), file)
