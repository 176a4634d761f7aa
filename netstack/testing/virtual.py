"""Hosts on virtual time, for asyncio programs: sockets, timers and ``asyncio.sleep`` share a clock nobody waits for.

The hosts are real ones (`netstack.Host`), their links simulated. Whenever an event loop of the network would sleep, the
time jumps to whatever is due next, a timer of the program or of a stack or a packet on its way: a test of a client that
tries again for an hour takes milliseconds, and with one seed it runs the same each time. What ``run_in_executor`` calls
takes no virtual time: the clock stands until it is done.

Blocking calls cannot be had: nothing would move the time meanwhile. They fail with EOPNOTSUPP.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import shutil
import tempfile
import weakref
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from netstack.aio.loop import LoopMixin
from netstack.config import ResolverConfig
from netstack.host import Host
from netstack.link.fault_injector import FaultInjector
from netstack.link.wire import Wire
from netstack.testing import watching
from netstack.testing.engine import Engine
from netstack.testing.network import START_NS, SimulationError, chosen_seed, derived_seed
from netstack.testing.recorder import Recorder
from netstack.units import duration_ns

if TYPE_CHECKING:
    from netstack.aio.poller import Poller

T = TypeVar("T")
ROUNDS_MAX = 100_000             # of one moment


class VirtualNetwork:
    """Hosts around a switch, on virtual time.

    Parameters
    ----------
    seed : int
        Where all chance comes from; the environment's ``NETSTACK_SEED`` counts instead, if it is set.
    mtu : int
        Of every link, bytes.
    **faults
        Impairments of every link, both ways, as of `netstack.link.FaultInjector`: loss, duplicate, reorder, corrupt
        (probabilities), delay, jitter, rate, queue ... A delay counts once for each link on the way, so twice between
        two hosts.

    Attributes
    ----------
    seed : int
    hosts : list of Host

    Examples
    --------
    >>> async def main(a, b):
    ...     async def shout(reader, writer):
    ...         writer.write((await reader.readline()).upper())
    ...         writer.close()
    ...     server = await b.start_server(shout, "server", 80)
    ...     reader, writer = await a.open_connection("server", 80)
    ...     await asyncio.sleep(3600)                          # takes no time
    ...     writer.write(b"hello\\n")
    ...     print(await reader.read())
    ...     writer.close()
    ...     server.close()
    >>> with VirtualNetwork(seed=7, loss=0.1, delay="20ms") as net:
    ...     net.run(main(net.host("10.0.0.1"), net.host("10.0.0.2", name="server")))
    b'HELLO\\n'
    """

    def __init__(self, seed: int = 0, *, mtu: int = 1500, **faults: Any) -> None:
        self.seed = chosen_seed(seed)
        self.hosts: list[Host] = []
        self._injectors: dict[Host, FaultInjector] = {}
        self._mtu = mtu
        self._faults = faults
        self._switch = Engine(START_NS)
        self._names: list[str] = []
        self._folder = tempfile.mkdtemp(prefix="netstack-names-")
        self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    @property
    def now_ns(self) -> int:
        """The time, nanoseconds."""
        return self._switch.now_ns

    def host(self, address: str | tuple[str, ...], *, name: str | None = None, up: dict[str, Any] | None = None,
             down: dict[str, Any] | None = None, sysctl: dict[str, Any] | None = None, **faults: Any) -> Host:
        """Another host, which the network closes.

        Parameters
        ----------
        address : str or tuple of str
            Its addresses; without a prefix length IPv4 gets /24, IPv6 /64.
        name : str, optional
            What all hosts of the network call it.
        up, down : dict, optional
            Impairments of one direction, from the host to the switch or back.
        sysctl : dict, optional
            Settings of its stack by Linux name.
        **faults
            Impairments of its link, beside those of the network; `faults` changes them on the way.
        """
        addresses = (address,) if isinstance(address, str) else tuple(address)
        whole = [a if "/" in a else f"{a}/{64 if ':' in a else 24}" for a in addresses]
        plain = [a.partition("/")[0] for a in whole]
        near, far = Wire(mtu=self._mtu, media="ip")
        injector = FaultInjector(near, seed=derived_seed(self.seed, "link", len(self.hosts)), output=up or {},
                                 input=down or {}, **{**self._faults, **faults})
        watch = watching.current()
        recorder = Recorder(injector) if watch is not None else None
        if name is not None:
            self._names += [f"{a} {name}\n" for a in plain]
            Path(self._folder, "hosts").write_text("".join(self._names))
        host = Host(link=injector if recorder is None else recorder, address=whole, sysctl=sysctl, drain=0, dns=False,
                    resolver=ResolverConfig(servers=(), hosts=Path(self._folder, "hosts")), visible=False,
                    seed=derived_seed(self.seed, "stack", len(self.hosts)) >> 1, virtual_ns=self.now_ns)
        if watch is not None and recorder is not None:
            watch.record(self, f"{host} of {self}", recorder)
        self._injectors[host] = injector
        self._switch.add_port(far, plain)
        self.hosts.append(host)
        return host

    def faults(self, host: Host) -> FaultInjector:
        """What is wrong with a host's link: ``net.faults(host).set(loss=1.0)`` cuts it off."""
        return self._injectors[host]

    # --- time

    def _settle(self) -> None:
        """Let everything happen that is possible at this moment."""
        for _ in range(ROUNDS_MAX):
            forwarded = self._switch.forwarded
            worked = [host.driver.settle() for host in self.hosts]
            self._switch.settle()
            if not any(worked) and self._switch.forwarded == forwarded:
                return
        raise self._error("the network does not come to rest: packets go round without delay")

    def _next_ns(self) -> int | None:
        """When a stack or a packet is due."""
        due = [t for t in (self._switch.next_deadline(), *(host.driver.next_deadline for host in self.hosts))
               if t is not None]
        return min(due, default=None)

    def _jump(self, now_ns: int) -> None:
        now_ns = max(now_ns, self.now_ns)
        for host in self.hosts:
            if not host.closed:
                host.driver.set_time(now_ns)
        self._switch.jump(now_ns)
        self._settle()

    # --- programs

    def new_event_loop(self, host: Host | None = None) -> VirtualLoop:
        """An event loop on the network's time.

        Parameters
        ----------
        host : Host, optional
            Whose network ``asyncio.open_connection`` and the like mean; the first one's by default. Methods of the
            hosts, such as `Host.open_connection`, work in it as well.
        """
        return VirtualLoop(self, host if host is not None else self.hosts[0] if self.hosts else None)

    def run(self, main: Coroutine[Any, Any, T], *, host: Host | None = None, limit: int | str = "1h") -> T:
        """Run a program to its end, in an event loop of its own.

        Parameters
        ----------
        main : coroutine
        host : Host, optional
            As of `new_event_loop`.
        limit : int or str
            Virtual time it may take: nanoseconds, or text such as ``"90s"``.

        Raises
        ------
        SimulationError
            It takes longer, or waits for something that will never come. The message names the seed.
        """
        seconds = duration_ns(limit) / 1e9
        loop = self.new_event_loop(host)
        late = False
        try:
            task = loop.create_task(main)

            def expire() -> None:
                nonlocal late
                late = True
                task.cancel()

            timer = loop.call_later(seconds, expire)
            try:
                return loop.run_until_complete(task)
            except asyncio.CancelledError:
                if not late:
                    raise
                raise self._error(f"the program was not done after {limit}") from None
            finally:
                timer.cancel()
        finally:
            loop.end()

    def _error(self, text: str) -> SimulationError:
        return SimulationError(f"{text} (at {self.now_ns} ns; seed {self.seed}, replay with NETSTACK_SEED={self.seed})")

    def close(self) -> None:
        """Close the hosts. Connections that stand are reset without a word."""
        for host in self.hosts:
            host.close()
        self._remove()

    def __enter__(self) -> VirtualNetwork:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.close()
        if kind is not None and not issubclass(kind, SimulationError):
            print(f"{type(self).__name__} failed, replay with NETSTACK_SEED={self.seed}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} seed={self.seed} at {self.now_ns} ns, {len(self.hosts)} hosts>"


class _Selector(selectors.DefaultSelector):
    """Instead of sleeping, it moves the time. The kernel's files are looked at in between, and never waited for."""

    def __init__(self, network: VirtualNetwork) -> None:
        super().__init__()
        self._network = network
        self.pollers: list[Poller] = []
        self.threads = 0             # calls that run in threads

    def add(self, poller: Poller) -> None:
        self.pollers.append(poller)

    def remove(self, poller: Poller) -> None:
        self.pollers.remove(poller)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        network = self._network
        until = None if timeout is None else network.now_ns + math.ceil(max(timeout, 0) * 1e9)
        network._settle()
        while True:
            events = super().select(0)
            if events or any(poller.ready() for poller in self.pollers):
                return events
            if until is not None and network.now_ns >= until:
                return events
            if self.threads:
                return super().select(None)                # one that is done wakes the loop
            due = network._next_ns()
            if due is None and until is None:
                raise network._error("everything waits and nothing is due any more")
            network._jump(min(t for t in (due, until) if t is not None))


class VirtualLoop(LoopMixin, asyncio.SelectorEventLoop):
    """An event loop on the time of a `VirtualNetwork`, which makes it."""

    def __init__(self, network: VirtualNetwork, host: Host | None) -> None:
        self._network = network
        self._virtual = _Selector(network)
        super().__init__(host)

    def _make_selector(self) -> Any:
        return self._virtual

    def time(self) -> float:
        return self._network.now_ns / 1e9

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        future = super().run_in_executor(executor, func, *args)
        self._virtual.threads += 1
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, _: Any) -> None:
        self._virtual.threads -= 1

    def end(self) -> None:
        """Cancel what runs and close the loop, as `asyncio.run` does at its end."""
        try:
            tasks = asyncio.all_tasks(self)
            for task in tasks:
                task.cancel()
            if tasks:
                self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self.run_until_complete(self.shutdown_asyncgens())
            self._virtual.threads += 1                     # the one that ends the others
            self.run_until_complete(self.shutdown_default_executor())
        finally:
            self.close()
