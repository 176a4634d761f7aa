"""Simulated networks: stacks joined by links that lose, delay and garble, on virtual time and from one seed.

Everything random comes from the seed, nothing reads a clock: a run repeats byte for byte. The
environment's ``NETSTACK_SEED`` overrides the seed of every network: that is how a failing run is replayed.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from netstack.config import StackConfig
from netstack.link.fault_injector import FaultInjector
from netstack.link.wire import Wire
from netstack.testing.engine import Engine
from netstack.testing.recorder import Recorder
from netstack.units import duration_ns

if TYPE_CHECKING:
    from netstack.link.link import Link
    from netstack.stack import Stack

MAX_STEPS = 10_000_000
START_NS = 1_000_000_000
POLLOUT, POLLERR, POLLHUP = 4, 8, 16                 # poll(2)
SOL_SOCKET, SO_ERROR = 1, 4                          # socket(7)


class SimulationError(AssertionError):
    """A simulation did not reach what was waited for. The message names the seed."""


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

        log = Recorder(end) if self._log else None
        link = log if log is not None else end
        stack = Stack(config, links=[link])
        host = Host(config, stack, self.engine.add_node(stack, link), link, faults, log)
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

        host.stack = Stack.restore(host.stack.snapshot(), self.now_ns, links=[host.link])
        self.engine.replace_stack(host.index, host.stack)
        for stream in host.streams:
            if stream.sock is not None:
                stream.sock = host.stack.socket_by_id(stream.sock.id)

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


class Stream:
    """A socket of a simulated host that sends a payload and collects what arrives (see `Pair.transfer`).

    It finds its socket again when the host's stack is replaced by `Simulation.restore`.
    """

    CHUNK = 65536

    def __init__(self, host: Host, sock: Any = None) -> None:
        self.host = host
        self.sock = sock                             # None: not accepted yet
        self.sending = memoryview(b"")
        self.sent = 0
        self.close_after = False
        self.shut = False
        self.received = bytearray()
        self.eof = False
        self.error: OSError | None = None
        host.streams.append(self)

    def give(self, payload: bytes, *, close: bool) -> None:
        """Queue bytes to send; with ``close`` a FIN follows them."""
        self.sending = memoryview(payload)
        self.sent = 0
        self.close_after = close

    def pump(self) -> None:
        """Move what can be moved now; an error of the socket ends it and stays in `error`."""
        if self.error is not None or self.sock is None:
            return
        try:
            self._send()
            self._receive()
        except OSError as error:
            self.error = error

    def _send(self) -> None:
        if self.shut:
            return
        try:
            while self.sent < len(self.sending):
                self.sent += self.sock.send(self.sending[self.sent:self.sent + self.CHUNK])
        except BlockingIOError:
            return
        if self.close_after:
            self.sock.shutdown(1)
            self.shut = True

    def _receive(self) -> None:
        try:
            while not self.eof:
                data = self.sock.recv(self.CHUNK)
                if data:
                    self.received += data
                else:
                    self.eof = True
        except BlockingIOError:
            return

    def accept_from(self, listener: Stream) -> bool:
        """Take a connection from a listener; True once there is one."""
        if self.sock is None:
            try:
                self.sock = listener.sock.accept()[0]
            except BlockingIOError:
                return False
        return True

    def close(self) -> None:
        """Close the socket; the stack finishes alone."""
        self.host.streams.remove(self)
        if self.sock is not None:
            self.sock.close()


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

    def _open(self, port: int) -> tuple[Stream, Stream, Stream]:
        """A connection under way: its end at a, its end at b (not accepted yet), the listener."""
        listener = Stream(self.b, self.b.socket())
        listener.sock.bind((self.B, port))
        listener.sock.listen(8)
        client = Stream(self.a, self.a.socket())
        client.sock.connect_ex((self.B, port))
        return client, Stream(self.b), listener

    def connect(self, port: int = 80, *, limit: int | str = "10min") -> tuple[Any, Any]:
        """A connection from a to a listener of b: (a's socket, b's accepted socket).

        Raises
        ------
        SimulationError
            It was not established within the limit of virtual time.
        OSError
            It was refused or timed out.
        """
        client, server, listener = self._open(port)

        def established() -> bool:
            accepted = server.accept_from(listener)
            events = client.sock.poll()
            if events & (POLLERR | POLLHUP) and (error := client.sock.getsockopt(SOL_SOCKET, SO_ERROR)):
                raise OSError(error, os.strerror(error))
            return accepted and bool(events & POLLOUT)

        self.run(limit, condition=established)
        listener.close()
        for stream in (client, server):
            stream.host.streams.remove(stream)
        return client.sock, server.sock

    def transfer(self, a_to_b: int, b_to_a: int = 0, *, limit: int | str = "60min",
                 sockets: tuple[Any, Any] | None = None, on_step: Callable[[], None] | None = None) -> str:
        """Send seeded payloads both ways, half-close each, and check every byte.

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

        Returns
        -------
        str
            SHA-256 over both payloads.

        Raises
        ------
        SimulationError
            A stream differs, ends with an error, or is not done in time.
        """
        listener = None
        if sockets is None:
            one, two, listener = self._open(80)
        else:
            one, two = Stream(self.a, sockets[0]), Stream(self.b, sockets[1])
        rng = random.Random(derived_seed(self.seed, "payload"))
        payloads = rng.randbytes(a_to_b), rng.randbytes(b_to_a)
        one.give(payloads[0], close=True)
        two.give(payloads[1], close=True)

        def done() -> bool:
            if listener is not None:
                two.accept_from(listener)
            for stream in (one, two):
                stream.pump()
                if stream.error is not None:
                    raise self._error(f"a stream ended with {stream.error!r}")
            if on_step is not None:
                on_step()
            return one.eof and two.eof and one.shut and two.shut

        self.run(limit, condition=done)
        for stream, payload, name in ((one, payloads[1], "b to a"), (two, payloads[0], "a to b")):
            if stream.received != payload:
                n = len(stream.received)
                got = "other bytes" if n == len(payload) else f"{n} bytes"
                raise self._error(f"{name}: {got} arrived, not the {len(payload)} sent")
        for closing in (one, two, listener):
            if closing is not None:
                closing.close()
        return hashlib.sha256(payloads[0] + payloads[1]).hexdigest()
