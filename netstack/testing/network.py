"""Simulated networks: stacks joined by links that lose, delay and garble, on virtual time and from one seed.

Everything random comes from the seed, nothing reads a clock: a run repeats byte for byte. The
environment's ``NETSTACK_SEED`` overrides the seed of every network: that is how a failing run is replayed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netstack.config import StackConfig
from netstack.link.fault_injector import FaultInjector
from netstack.link.wire import Wire
from netstack.testing import watching
from netstack.testing.engine import Engine
from netstack.testing.recorder import Recorder
from netstack.testing.streams import DONE, FAILED, NO_REST, NOTHING_DUE, PAUSED, Stream, run_streams
from netstack.units import duration_ns

if TYPE_CHECKING:
    from netstack.link.link import Link
    from netstack.stack import Stack

MAX_STEPS = 10_000_000
START_NS = 1_000_000_000
POLLIN, POLLOUT, POLLERR, POLLHUP = 1, 4, 8, 16      # poll(2)
SOL_SOCKET, SO_ERROR = 1, 4                          # socket(7)


class SimulationError(AssertionError):
    """A simulation did not reach what was waited for. The message names the seed.

    Attributes
    ----------
    error : OSError or None
        What ended a stream, if that was the reason.
    host : Host or None
        Whose stream it was.
    """

    error: OSError | None = None
    host: Host | None = None


def chosen_seed(seed: int) -> int:
    """The seed to use: ``NETSTACK_SEED`` from the environment if it is set, else the one given."""
    return int(os.environ.get("NETSTACK_SEED") or seed)


def derived_seed(seed: int, *names: object) -> int:
    """A 64-bit seed for one part of a simulation, independent of its other parts."""
    text = repr((seed, *names)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


class Host:
    """A stack in a simulated network.

    Attributes
    ----------
    stack : netstack.stack.Stack
        Its sockets are non-blocking; `Network.run` lets time pass.
    address : str
        Its first address, without the prefix length.
    faults : FaultInjector or None
        The link's impairments: ``host.faults.set(loss=0.5)`` changes them on the way.
    log : Recorder or None
        Every frame, if the network was made with ``log=True``.
    """

    def __init__(self, config: StackConfig, stack: Stack, index: int, link: Link,
                 faults: FaultInjector | None, log: Recorder | None) -> None:
        self.config = config
        self.stack = stack
        self.index = index
        self.link = link
        self.faults = faults
        self.log = log
        self.streams: list[Stream] = []
        self.address = config.interfaces[0].addresses[0].split("/")[0]

    def socket(self, type: str = "stream", **kw: Any) -> Any:
        """A non-blocking socket of the host's stack."""
        return self.stack.socket(type=type, **kw)

    def packets(self) -> list[Any]:
        """The packets this host sent and received so far, parsed; needs ``log=True``."""
        if self.log is None:
            raise ValueError("this network keeps no log: make it with log=True")
        return self.log.packets()

    def __repr__(self) -> str:
        return f"<Host {self.address}>"


class Simulation:
    """What `Network` and `Pair` share: the seed, the time, running until something is so."""

    def __init__(self, seed: int, log: bool) -> None:
        self.seed = chosen_seed(seed)
        self.hosts: list[Host] = []
        self.engine = Engine(START_NS)
        self._log = log

    @property
    def now_ns(self) -> int:
        """Virtual time, nanoseconds."""
        return self.engine.now_ns

    def _add(self, end: Link, config: StackConfig, faults: FaultInjector | None = None) -> Host:
        from netstack.stack import Stack

        watch = watching.current()
        log = Recorder(end) if self._log or watch is not None else None
        link = log if log is not None else end
        stack = Stack(config, links=[link])
        host = Host(config, stack, self.engine.add_node(stack, link), link, faults, log if self._log else None)
        if watch is not None and log is not None:
            watch.record(self, f"{host} of {self}", log)
        self.hosts.append(host)
        return host

    def _config(self, name: str, address: str | tuple[str, ...], mtu: int, media: str,
                sysctl: dict[str, Any] | None) -> StackConfig:
        addresses = (address,) if isinstance(address, str) else tuple(address)
        return StackConfig(
            media=media, mtu=mtu, sysctl=sysctl or {},
            addresses=tuple(a if "/" in a else f"{a}/{64 if ':' in a else 24}" for a in addresses),
            seed=derived_seed(self.seed, "stack", name) >> 1,
        )

    def step(self, until: int | None = None) -> bool:
        """Jump to the next deadline; False when nothing is due (until then)."""
        try:
            return self.engine.step(until)
        except RuntimeError as error:
            raise self._error(str(error)) from None

    def run(self, until: int | str | None = None, condition: Callable[[], Any] | None = None) -> Any:
        """Let time pass.

        Parameters
        ----------
        until : int or str, optional
            How long, from now: nanoseconds or text (``"5s"``). Default: as long as anything is due, with a
            condition at most an hour.
        condition : callable, optional
            Asked after every event; the run ends as soon as it is true.

        Returns
        -------
        object
            What the condition returned. Without one: None.

        Raises
        ------
        SimulationError
            The condition did not become true in time, or nothing comes to rest.
        """
        limit = None if until is None else self.now_ns + duration_ns(until)
        if limit is None and condition is not None:
            limit = self.now_ns + 3600 * 10**9
        self.engine.settle()
        for _ in range(MAX_STEPS):
            if condition is not None and (result := condition()):
                return result
            if not self.step(limit):
                break
        else:
            raise self._error(f"{MAX_STEPS} events and no end")
        if condition is not None:
            what = "nothing is due any more" if self.engine.next_deadline() is None else "time is up"
            raise self._error(f"the condition did not become true: {what}")
        if limit is not None:
            self.engine.jump(limit)
        return None

    def restore(self, host: Host) -> None:
        """Snapshot a host's stack and go on with a new one restored from it: nothing may be noticed.

        Its `Stream` objects go on; of other sockets ``host.stack.socket_by_id(old.id)`` gives the new ones.
        """
        from netstack.stack import Stack

        old = host.stack                             # its sockets are looked at until the streams have new ones
        host.stack = Stack.restore(old.snapshot(), self.now_ns, links=[host.link])
        self.engine.replace_stack(host.index, host.stack)
        for stream in host.streams:
            stream.rebind()

    def _error(self, text: str) -> SimulationError:
        return SimulationError(f"{text} (at {self.now_ns} ns; seed {self.seed}, replay with "
                               f"NETSTACK_SEED={self.seed})")

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None and not issubclass(kind, SimulationError):
            print(f"{type(self).__name__} failed, replay with NETSTACK_SEED={self.seed}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} seed={self.seed} at {self.now_ns} ns, {len(self.hosts)} hosts>"


class Network(Simulation):
    """Hosts around a switch, each on a link with faults of its own.

    Parameters
    ----------
    seed : int
        Where all chance comes from.
    media : str
        ``"ip"``: the switch forwards by IP address. ``"ethernet"``: it learns MACs, and the hosts speak ARP.
    mtu : int
        Of every link.
    log : bool
        Keep every frame of every host (`Host.log`, `Host.packets`).

    Examples
    --------
    >>> net = Network(seed=7)
    >>> a = net.host("10.0.0.1")
    >>> b = net.host("10.0.0.2", loss=0.01, delay="5ms")
    >>> server = b.socket(); server.bind(("10.0.0.2", 80)); server.listen()
    >>> client = a.socket(); client.connect_ex(("10.0.0.2", 80))
    115
    >>> net.run("1s", condition=lambda: client.poll() & 4)
    4
    """

    def __init__(self, seed: int = 0, *, media: str = "ip", mtu: int = 1500, log: bool = False) -> None:
        super().__init__(seed, log)
        self.media = media
        self.mtu = mtu

    def host(self, address: str | tuple[str, ...], *, up: dict[str, Any] | None = None,
             down: dict[str, Any] | None = None, sysctl: dict[str, Any] | None = None,
             mtu: int | None = None, **faults: Any) -> Host:
        """Another host.

        Parameters
        ----------
        address : str or tuple of str
            Its addresses; without a prefix length IPv4 gets /24, IPv6 /64.
        up, down : dict, optional
            Impairments of one direction, from the host to the switch or back.
        sysctl : dict, optional
            Settings of its stack by Linux name.
        mtu : int, optional
            Of its link.
        **faults
            Impairments of both directions of its link, as of `netstack.link.FaultInjector`: loss, duplicate,
            reorder, corrupt (probabilities), delay, jitter, rate, queue ... A delay counts once each way.
        """
        mtu = mtu or self.mtu
        config = self._config(str(address), address, mtu, self.media, sysctl)
        near, far = Wire(mtu=mtu, media=self.media)
        link_seed = derived_seed(self.seed, "link", len(self.hosts))
        injector = FaultInjector(
            near, seed=link_seed, output=up or {}, input=down or {}, **faults)
        host = self._add(injector, config, injector)
        self.engine.add_port(far, [a.split("/")[0] for a in config.addresses])
        return host


@dataclass(frozen=True)
class Transfer:
    """What `Pair.transfer` did.

    Attributes
    ----------
    elapsed_ns : int
        Virtual time from the first call to the last byte and both ends of stream.
    a_to_b, b_to_a : int
        Bytes that arrived, every one compared.
    """

    elapsed_ns: int
    a_to_b: int
    b_to_a: int


class Pair(Simulation):
    """Two stacks, a and b, at the ends of one wire with faults.

    Parameters
    ----------
    seed : int
        Where all chance comes from, the payload too.
    media, mtu, log :
        As of `Network`.
    sysctl : dict, optional
        Settings of both stacks.
    a_to_b, b_to_a : dict, optional
        Impairments of one direction.
    **faults
        Impairments of both directions, as of `netstack.link.FaultInjector`.

    Examples
    --------
    >>> pair = Pair(seed=7, loss=0.05, delay="10ms")
    >>> pair.transfer(100_000, 50_000)
    """

    A, B = "10.0.0.1", "10.0.0.2"

    def __init__(self, seed: int = 0, *, media: str = "ip", mtu: int = 1500, log: bool = False,
                 sysctl: dict[str, Any] | None = None, a_to_b: dict[str, Any] | None = None,
                 b_to_a: dict[str, Any] | None = None, **faults: Any) -> None:
        super().__init__(seed, log)
        near, far = Wire(mtu=mtu, media=media)
        self.faults = FaultInjector(
            near, seed=derived_seed(self.seed, "link"), output=a_to_b or {}, input=b_to_a or {}, **faults
        )
        self.a = self._add(self.faults, self._config("a", self.A, mtu, media, sysctl), self.faults)
        self.b = self._add(far, self._config("b", self.B, mtu, media, sysctl))

    def _open(self, port: int) -> tuple[Any, Any]:
        """A connection under way: its socket at a, the listener at b."""
        listener = self.b.socket()
        listener.bind((self.B, port))
        listener.listen(8)
        client = self.a.socket()
        client.connect_ex((self.B, port))
        return client, listener

    def connect(self, port: int = 80, *, limit: int | str = "10min") -> tuple[Any, Any]:
        """A connection from a to a listener of b: (a's socket, b's accepted socket).

        Raises
        ------
        SimulationError
            It was not established within the limit of virtual time.
        OSError
            It was refused or timed out.
        """
        client, listener = self._open(port)
        server = None

        def established() -> bool:
            nonlocal server
            if server is None and listener.poll() & POLLIN:
                server = listener.accept()[0]
            events = client.poll()
            if events & (POLLERR | POLLHUP) and (error := client.getsockopt(SOL_SOCKET, SO_ERROR)):
                raise OSError(error, os.strerror(error))
            return server is not None and bool(events & POLLOUT)

        self.run(limit, condition=established)
        listener.close()
        return client, server

    def transfer(self, a_to_b: int, b_to_a: int = 0, *, limit: int | str = "60min",
                 sockets: tuple[Any, Any] | None = None, on_step: Callable[[], None] | None = None) -> Transfer:
        """Send seeded bytes both ways, half-close each, and check every byte where it arrives.

        Runs compiled from the first byte to the last, unless there is an ``on_step``.

        Parameters
        ----------
        a_to_b, b_to_a : int
            Bytes each way.
        limit : int or str
            Virtual time it may take.
        sockets : tuple, optional
            An established connection; by default a new one, on which a sends as soon as it may.
        on_step : callable, optional
            Called after every event.

        Raises
        ------
        SimulationError
            A stream differs, ends with an error (`SimulationError.error`), or is not done in time.
        """
        if sockets is None:
            client, listener = self._open(80)
            one, two = Stream(self.a, client), Stream(self.b, listener=listener)
        else:
            one, two = Stream(self.a, sockets[0]), Stream(self.b, sockets[1])
        seeds = derived_seed(self.seed, "a to b"), derived_seed(self.seed, "b to a")
        one.give(seeds[0], a_to_b, seeds[1], b_to_a)
        two.give(seeds[1], b_to_a, seeds[0], a_to_b)
        start = self.now_ns
        until = start + duration_ns(limit)
        verdict = PAUSED
        while verdict == PAUSED:
            verdict = run_streams(self.engine, (one, two), until, None if on_step is None else 1)
            if on_step is not None:
                on_step()
        if verdict != DONE:
            raise self._unfinished(verdict, one, two)
        for stream, size, name in ((one, b_to_a, "b to a"), (two, a_to_b, "a to b")):
            if stream.received != size:
                raise self._error(f"{name}: {stream.received} bytes arrived, not the {size} sent")
        one.close()
        two.close()
        return Transfer(self.now_ns - start, two.received, one.received)

    def _unfinished(self, verdict: int, one: Stream, two: Stream) -> SimulationError:
        """Why a transfer came to no end."""
        where = f"a to b {two.received} of {one.sent}, b to a {one.received} of {two.sent} bytes arrived"
        if verdict == FAILED:
            for stream, name in ((one, "b to a"), (two, "a to b")):
                if stream.wrong_at is not None:
                    return self._error(f"{name}: byte {stream.wrong_at} is not the one sent")
            failed, name = (one, "a") if one.error is not None else (two, "b")
            if isinstance(failed.error, ConnectionResetError) and two.error is not None:
                failed, name = two, "b"              # who gave up, not who was told of it at the same moment
            error = self._error(f"the stream of {name} ended with {failed.error!r}; {where}")
            error.error, error.host = failed.error, failed.host
            return error
        why = {NOTHING_DUE: "nothing is due any more", NO_REST: "frames go round without delay"}
        return self._error(f"{why.get(verdict, 'time is up')}: {where}")
