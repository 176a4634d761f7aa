"""A daemon: one Host, and the processes that use it as theirs (design section 3).

One thread does everything: it sleeps in the `Engine`, which moves bytes without the interpreter, and answers messages
(`commands`). Clients are not trusted: what one sends or writes can end its own attachment and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import struct
import threading
import time
from typing import Any

from netstack.daemon import commands, protocol
from netstack.daemon.engine import BAD_BOARD, FINISHED, POISONED, Board, Engine, Pipe
from netstack.daemon.memory import Memory
from netstack.daemon.paths import daemon_name, listen
from netstack.daemon.protocol import Message, ProtocolError, Type
from netstack.handle import Handle
from netstack.log_limit import limited
from netstack.router.peers import credentials, process_descriptor

log = limited("netstack.daemon")

HANDSHAKE_S = 1.0                # from connect to HELLO
RESERVATION_S = 10.0             # from fork to the child's HELLO
ACCEPT_PAUSE_S = 0.1             # after running out of descriptors
MESSAGES_PER_TURN = 16           # of one client, before others get theirs
ORPHAN_S = 60.0                  # what dead clients wrote may be on its way for so long
RESERVATIONS_MOST = 64           # of one client at a time
_RESET = struct.pack("=ii", 1, 0)
_PLAIN = struct.pack("=ii", 0, 0)


class Shared:
    """A socket that clients have.

    Attributes
    ----------
    handle : Handle
    pipe : Pipe
    memory : Memory
    key : int
        Who knows it may adopt the socket.
    references : int
        Of all clients and reservations.
    """

    def __init__(self, handle: Handle, pipe: Pipe, memory: Memory) -> None:
        self.handle = handle
        self.pipe = pipe
        self.memory = memory
        self.key = secrets.randbits(64) | 1
        self.references = 0
        self.pair: tuple[int, ...] = ()                # readiness: the program's end, ours
        self.give_up_at = 0.0                          # of one that no client has


class Client:
    """A process that uses the daemon."""

    def __init__(self, sock: socket.socket, pid: int, uid: int, number: int) -> None:
        self.socket = sock
        self.pid = pid
        self.uid = uid
        self.number = number
        self.deadline = time.monotonic() + HANDSHAKE_S
        self.references: dict[int, int] = {}           # number of a socket: how often
        self.memory: Memory | None = None
        self.board: Board | None = None
        self.bell = -1
        self.pidfd = -1


class Server:
    """Serve a host to other processes.

    Parameters
    ----------
    host : Host
        Its sockets; the daemon closes it.
    name : str, optional
        Under which clients find it; ``$NETSTACK_DAEMON`` or ``default`` without it.
    ring_bytes : int
        Of each direction of a stream; a power of two.
    max_sockets, max_clients, max_sockets_of_client : int
        More are refused (ENFILE, EMFILE).
    spin_us : float
        How long it looks for work before it sleeps, microseconds.

    Raises
    ------
    RouterError
        A daemon of that name is running.
    """

    def __init__(self, host: Any, name: str | None = None, *, ring_bytes: int = 256 << 10, max_sockets: int = 8192,
                 max_clients: int = 512, max_sockets_of_client: int = 4096, spin_us: float = 20.0) -> None:
        if ring_bytes < 4096 or ring_bytes & (ring_bytes - 1):
            raise ValueError(f"a ring of {ring_bytes} bytes: a power of two, 4096 or more")
        self.host = host
        self.name = daemon_name(name)
        self.sockets: dict[int, Shared] = {}
        self.clients: dict[int, Client] = {}           # by descriptor
        self.detached = 0                              # clients cut off for what they did
        self._ring_bytes = ring_bytes
        self._max = (max_sockets, max_clients, max_sockets_of_client)
        self._free = list(range(max_sockets - 1, -1, -1))
        self._reservations: dict[int, tuple[float, dict[int, int], int]] = {}   # key: until, references, client
        self._pidfds: dict[int, Client] = {}
        self._fresh: set[int] = set()                  # descriptors that began since the last look
        self._spare: Memory | None = None
        self._clients_made = 0
        self._accept_at = 0.0
        self._stopping = False
        self._orphans: set[int] = set()
        self._listener = listen(self.name)
        spin = spin_us if len(os.sched_getaffinity(0)) > 1 else 0
        self.engine = Engine(host.driver, max_sockets, spin)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.engine.watch(self._wake)
        self.engine.watch(self._listener.socket.fileno())
        self._thread = threading.Thread(target=self._serve, name="netstack daemon", daemon=True)

    # --- life

    def start(self) -> Server:
        self._thread.start()
        log.info("daemon %r: %s", self.name, ", ".join(self.host.addresses) or "no address")
        return self

    def stop(self) -> None:
        """End all clients, deliver what they sent, and close the host."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        if self._thread.is_alive():
            self._thread.join()
        for client in list(self.clients.values()):
            self._drop(client, "the daemon closes")
        for _, references, _ in self._reservations.values():
            self._give_back(references)
        end = time.monotonic() + self.host.drain
        while self._orphans and time.monotonic() < end:
            self._told(self.engine.turn(0.05)[1])
        for number in list(self.sockets):
            self._finish(self.sockets[number])
        self.engine.close()
        self._listener.close()
        os.close(self._wake)
        if self._spare is not None:
            self._spare.close()
        self.host.close()

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _serve(self) -> None:
        while not self._stopping:
            found, told = self.engine.turn(self._patience())
            try:
                self._told(told)
                self._events(found)
            except Exception:
                log.exception("a mistake of the daemon's own; it goes on")

    def _patience(self) -> float | None:
        """Do what is due, and say when something will be."""
        now = time.monotonic()
        due = []
        if self._accept_at:
            if now >= self._accept_at:
                self._accept_at = 0.0
                self.engine.watch(self._listener.socket.fileno())
            else:
                due.append(self._accept_at)
        for client in list(self.clients.values()):
            if client.board is None and now >= client.deadline:
                self._drop(client, "silent: no HELLO within a second")
            elif client.board is None:
                due.append(client.deadline)
        for key, (until, references, _) in list(self._reservations.items()):
            if now >= until:
                del self._reservations[key]
                self._give_back(references)
            else:
                due.append(until)
        for number in list(self._orphans):
            shared = self.sockets[number]
            if now >= shared.give_up_at:
                shared.handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self._finish(shared)
            else:
                due.append(shared.give_up_at)
        return max(0.0, min(due) - now) if due else None

    def _told(self, told: list[tuple[int, int]]) -> None:
        for kind, number in told:
            if kind == BAD_BOARD:
                for client in [c for c in self.clients.values() if c.number == number]:
                    self._cut_off(client, "wrote nonsense to its board")
                continue
            shared = self.sockets.get(number)
            if shared is None:
                continue
            if kind == FINISHED and number in self._orphans:
                self._finish(shared)
            elif kind == POISONED:
                guilty = [c for c in self.clients.values() if number in c.references]
                shared.handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                for client in guilty:
                    self._cut_off(client, f"wrote nonsense to the rings of socket {number}")
                if number in self.sockets:
                    self._finish(shared)

    def _events(self, found: list[int]) -> None:
        """What the kernel's descriptors have, as of one look. What was said of a number that passed on since was about
        another, and is asked for again."""
        self._fresh.clear()
        for fd in found:
            if fd not in self._fresh:
                self._event(fd)

    def _event(self, fd: int) -> None:
        if fd == self._wake:
            os.eventfd_read(fd)
        elif fd == self._listener.socket.fileno():
            self._accept()
        elif fd in self._pidfds:
            self._drop(self._pidfds[fd], "process ended")
        elif fd in self.clients:
            client = self.clients[fd]
            try:
                self._listen_to(client)
            except Exception:
                log.exception("a mistake of the daemon's own; process %d is cut off", client.pid)
                self._drop(client, "the daemon failed to serve it")

    # --- clients

    def _accept(self) -> None:
        for _ in range(64):
            try:
                sock, _ = self._listener.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    log.warning("control socket: %s; new clients wait", error.strerror)
                    self.engine.unwatch(self._listener.socket.fileno())
                    self._accept_at = time.monotonic() + ACCEPT_PAUSE_S
                    return
                continue
            pid, uid = credentials(sock)
            if uid not in (os.geteuid(), 0) or len(self.clients) >= self._max[1]:
                log.warning("process %d of user %d refused", pid, uid)
                sock.close()
                continue
            sock.setblocking(False)
            self._clients_made += 1
            client = Client(sock, pid, uid, self._clients_made & 0xFFFFFF)
            self.clients[sock.fileno()] = client
            self._begin(sock.fileno())
            self._watch_process(client)

    def _watch_process(self, client: Client) -> None:
        fd = process_descriptor(client.socket, client.pid)
        if fd >= 0:
            client.pidfd = fd
            self._pidfds[fd] = client
            self._begin(fd)

    def _begin(self, fd: int) -> None:
        self._fresh.add(fd)
        self.engine.watch(fd)

    def _cut_off(self, client: Client, why: str) -> None:
        self.detached += 1
        log.warning("process %d is cut off: it %s", client.pid, why)
        self._drop(client, why)

    def _drop(self, client: Client, why: str) -> None:
        """End a client: its references go back, and with the last of them each socket."""
        fd = client.socket.fileno()
        if self.clients.pop(fd, None) is None:
            return
        log.debug("process %d: %s", client.pid, why)
        self.engine.unwatch(fd)
        if client.board is not None:
            self.engine.remove_board(client.board)
            client.board = None
        if client.memory is not None:
            client.memory.close()
        if client.bell >= 0:
            os.close(client.bell)
        if client.pidfd >= 0:
            del self._pidfds[client.pidfd]
            self.engine.unwatch(client.pidfd)
            os.close(client.pidfd)
        client.socket.close()
        references, client.references = client.references, {}
        self._give_back(references)

    def _listen_to(self, client: Client) -> None:
        for _ in range(MESSAGES_PER_TURN):
            try:
                message = protocol.receive(client.socket)
            except BlockingIOError:
                return
            except ProtocolError as error:
                self._cut_off(client, f"broke the protocol: {error}")
                return
            except OSError as error:
                self._drop(client, error.strerror or "gone")
                return
            if message is None:
                self._drop(client, "gone")
                return
            try:
                fields, fds = self._answer(client, message)
                protocol.send(client.socket, Message(message.type, message.sequence, **fields), fds)
            except BlockingIOError:
                self._cut_off(client, "does not read answers")
                return
            except ProtocolError as error:
                self._cut_off(client, f"broke the protocol: {error}")
                return
            except OSError as error:
                self._drop(client, error.strerror or "gone")
                return

    def _answer(self, client: Client, m: Message) -> commands.Answer:
        if (client.board is None) != (m.type == Type.HELLO):
            raise ProtocolError("HELLO comes first, and once")
        try:
            if m.type == Type.HELLO:
                return self._hello(client, m)
            if m.type == Type.RESERVE:
                return self._reserve(client, m), ()
            if m.type == Type.RELEASE:
                self._give_back(self._reservations.pop(m.key, (0.0, {}, 0))[1])
                return {}, ()
            of_client, of_socket = commands.OF_CLIENT.get(m.type), commands.OF_SOCKET.get(m.type)
            if of_client is not None:
                return of_client(self, client, m)
            if of_socket is None:
                raise ProtocolError(f"unknown message type {m.type}")
            if m.number not in client.references:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return of_socket(self, client, m, self.sockets[m.number])
        except BlockingIOError as error:
            return {"status": error.errno or errno.EAGAIN}, ()
        except (OSError, ValueError, OverflowError, TypeError, MemoryError) as error:
            return {"status": getattr(error, "errno", None) or errno.EINVAL, "data": str(error).encode()[:1024]}, ()

    def _hello(self, client: Client, m: Message) -> commands.Answer:
        references: dict[int, int] = {}
        if m.key:
            reserved = self._reservations.pop(m.key, None)
            if reserved is None:
                raise OSError(errno.EBADF, "no such reservation: it is over, or was used")
            references = reserved[1]
        client.references = references
        if client.memory is None:                      # else a HELLO before this one found no room for the rest
            client.memory = Memory(protocol.NOTES_BYTES)
        client.memory.commit()
        if client.bell < 0:
            client.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        client.board = Board(client.memory.down, client.memory.up, client.number, client.bell)
        self.engine.add_board(client.board)
        about = "\n".join([*self.host.addresses, f"name {self.name}", f"pid {os.getpid()}"])
        return {"number": client.number, "data": about.encode()}, (*client.memory.fds, client.bell)

    # --- references

    def check_room(self, client: Client) -> None:
        """Raises EMFILE or ENFILE when no more sockets are to be had."""
        if sum(client.references.values()) >= self._max[2]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if not self._free:
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    def spare(self) -> None:
        """Have memory for one more socket, before a connection is taken that could not be given on."""
        if self._spare is None:
            self._spare = Memory(self._ring_bytes)
        self._spare.commit()

    def open_handle(self, family: int, kind: int, proto: int) -> Handle:
        handle = Handle.open(self.host.driver, family, kind, proto, None)
        handle.setblocking(False)
        return handle

    def make(self, client: Client, handle: Handle, *, connected: bool = False) -> Shared:
        """A client's socket of a handle."""
        try:
            memory, self._spare = self._spare or Memory(self._ring_bytes), None
        except BaseException:
            handle.close()
            raise
        pipe = Pipe(handle, memory.down, memory.up, self._free.pop(), memory.capacity)
        shared = self.sockets[pipe.number] = Shared(handle, pipe, memory)
        if connected:
            pipe.commit(True)
        self.refer(client, shared)
        self.engine.add(pipe)
        return shared

    def refer(self, client: Client, shared: Shared) -> None:
        number = shared.pipe.number
        client.references[number] = client.references.get(number, 0) + 1
        shared.references += 1

    def unrefer(self, client: Client, shared: Shared) -> None:
        number = shared.pipe.number
        client.references[number] -= 1
        if not client.references[number]:
            del client.references[number]
        self._give_back({number: 1})

    def _reserve(self, client: Client, m: Message) -> dict[str, Any]:
        """References for a child that does not exist yet: as many as its parent has, or one of each that it names."""
        if sum(number == client.number for _, _, number in self._reservations.values()) >= RESERVATIONS_MOST:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        references = dict(client.references)
        if len(m.data) % 4:
            raise ProtocolError("numbers of sockets that are cut off")
        if m.data:
            named = struct.unpack(f"<{len(m.data) // 4}I", m.data)
            if not references.keys() >= set(named):
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            references = dict.fromkeys(named, 1)
        for number, count in references.items():
            self.sockets[number].references += count
        key = secrets.randbits(64) | 1
        self._reservations[key] = time.monotonic() + RESERVATION_S, references, client.number
        return {"key": key}

    def _give_back(self, references: dict[int, int]) -> None:
        for number, count in references.items():
            shared = self.sockets.get(number)
            if shared is None:
                continue
            shared.references -= count
            if shared.references <= 0:
                self._close(shared)
            else:
                self.engine.touch(shared.pipe)         # a note of who left may lie unread

    # --- the end of sockets

    def _close(self, shared: Shared) -> None:
        """Nobody has it: as close() under a kernel, data on its way is delivered, data that nobody read is a reset."""
        pipe, handle = shared.pipe, shared.handle
        self.engine.touch(pipe)
        if pipe.streaming:
            on, seconds = struct.unpack("=ii", handle.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
            if pipe.unread:
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            elif on and seconds:
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _PLAIN)
            aborts = pipe.unread or (on and not seconds)
            if not aborts and not pipe.drained and len(self._orphans) >= self._max[0] // 4:
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)     # as beyond Linux's tcp_max_orphans
            elif not aborts and not pipe.drained:
                shared.give_up_at = time.monotonic() + ORPHAN_S
                self._orphans.add(pipe.number)
                self.engine.abandon(pipe)
                return
        self._finish(shared)

    def _finish(self, shared: Shared) -> None:
        number = shared.pipe.number
        self._orphans.discard(number)
        del self.sockets[number]
        self.engine.remove(shared.pipe)
        shared.handle.close()
        for fd in (*shared.pair[:1], shared.pipe.back_fd):
            if fd >= 0:
                os.close(fd)
        shared.memory.close()
        self._free.append(number)

    # --- readiness

    def readiness_pair(self, shared: Shared) -> tuple[int, ...]:
        """The clients' end of a socket's pair, which is made when it is first asked for."""
        if not shared.pair:
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            there.setblocking(False)
            fcntl.fcntl(here, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND)      # see netstack/readiness.pyx
            here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)    # the kernel rounds it up to a few KiB
            shared.pair = here.detach(), there.detach()
            shared.pipe.show_by(*shared.pair)
        self.engine.touch(shared.pipe)
        return shared.pair[:1]


@contextlib.contextmanager
def raised_descriptor_limit():
    """Two descriptors a socket, two more where readiness was asked for: take what the hard limit gives."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
