"""The control socket of a router: who may talk, in which order, and what ends it (security R15).

One thread serves all connections; each message is answered at once and no peer is waited for. What is asked for is done
by the router's `Service`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from netstack.log_limit import limited
from netstack.router import protocol
from netstack.router.peers import credentials, process_descriptor
from netstack.router.protocol import ProtocolError, Type

if TYPE_CHECKING:
    from netstack.router.listener import Listener
    from netstack.router.service import Service

log = limited("netstack.router")

HANDSHAKE_NS = 1_000_000_000  # from connect to a valid HELLO
ACCEPT_PAUSE_NS = 100_000_000  # after running out of file descriptors
ACCEPT_BATCH = 64
MESSAGES_PER_TURN = 16  # of one connection, before the others get theirs
OTHERS_SHARE = 4  # one of the users beside the router's own gets a quarter, whatever there is
FAR_AWAY = 1 << 62


class Connection:
    """One client."""

    def __init__(self, sock: socket.socket, pid: int, uid: int, deadline_ns: int):
        self.socket = sock
        self.pid = pid
        self.uid = uid
        self.deadline_ns = deadline_ns  # of its HELLO; FAR_AWAY after that
        self.attachment: Any = None  # what the router made for it
        self.capture: Any = None  # what it looks at
        self.pidfd = -1  # watched while it has an attachment
        self.after_send: list[socket.socket] = []  # what only the client keeps: closed once it was sent

    @property
    def is_owner(self) -> bool:
        """Is it the router's user, or root? Who else is allowed may attach, and no more."""
        return self.uid in (os.geteuid(), 0)


class ControlServer:
    """Serves the clients of a listener from a thread.

    Parameters
    ----------
    listener : Listener
        Closed by `stop`.
    service : Service
        Does what is asked for.
    max_connections : int
        More are refused at once; of one of ``allowed_uids``, more than a quarter of them.
    allowed_uids : set of int
        Users that may talk; the router's own and root always may.
    """

    def __init__(self, listener: Listener, service: Service, *, max_connections: int = 2048, allowed_uids=frozenset()):
        self._listener = listener
        self._service = service
        self._max = max_connections
        self._allowed = {os.geteuid(), 0} | set(allowed_uids)
        self._connections: dict[int, Connection] = {}
        self._users: Counter[int] = Counter()  # connections of each
        self._silent: set[Connection] = set()  # connected, no HELLO yet
        self._pidfds: dict[int, Connection] = {}
        self._fresh: set[int] = set()  # what began in this turn: what epoll said of such a number was about another
        self._stopping = False
        self._accept_at_ns = 0  # 0: accepting
        self._failures_fd = -1
        self._thread: threading.Thread | None = None
        with contextlib.ExitStack() as undo:
            self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            undo.callback(os.close, self._wake_read)
            undo.callback(os.close, self._wake_write)
            self._epoll = undo.enter_context(select.epoll())
            self._epoll.register(self._listener.socket, select.EPOLLIN)
            self._epoll.register(self._wake_read, select.EPOLLIN)
            undo.pop_all()

    # ---- life

    def watch(self, fd: int) -> None:
        """Ask the router for `failures` when this fd becomes readable."""
        self._failures_fd = fd
        self._epoll.register(fd, select.EPOLLIN)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._serve, name="netstack-control", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Have the thread look at its deadlines anew."""
        try:
            os.write(self._wake_write, b"w")
        except BlockingIOError:
            pass

    def stop(self) -> None:
        """End all connections and the thread. The socket and its name are gone afterwards."""
        self._stopping = True
        self.wake()
        if self._thread is not None:
            self._thread.join()
        for connection in list(self._connections.values()):
            self._drop(connection, "router closes")
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._service.farewell()
        self._listener.close()

    def _serve(self) -> None:
        while not self._stopping:
            now = time.monotonic_ns()
            until = min(self._service.tick(now), self._expire_handshakes(now), self._resume_accepting(now))
            timeout = -1 if until >= FAR_AWAY else max(0, until - now) / 1e9
            ready = self._epoll.poll(timeout)
            self._fresh.clear()
            for fd, events in ready:
                try:
                    if fd not in self._fresh:
                        self._event(fd, events)
                except Exception:
                    log.exception("control socket: a mistake of the router's own; it goes on")
                    self._give_up(fd)

    def _event(self, fd: int, events: int) -> None:
        if fd == self._listener.socket.fileno():
            self._accept()
        elif fd == self._wake_read:
            try:
                os.read(fd, 4096)
            except BlockingIOError:
                pass
        elif fd == self._failures_fd:
            for connection, why, words in self._service.failures():
                if words:
                    self._say_why(connection, words)
                self._drop(connection, why)
        elif fd in self._pidfds:
            self._drop(self._pidfds[fd], "process ended")
        elif fd in self._connections:
            self._serve_connection(self._connections[fd], events)

    # ---- connections

    def _accept(self) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                sock, _ = self._listener.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    log.warning("control socket: %s; new stacks wait", error.strerror)
                    self._epoll.unregister(self._listener.socket)
                    self._accept_at_ns = time.monotonic_ns() + ACCEPT_PAUSE_NS
                    return
                continue
            sock.setblocking(False)
            pid, uid = credentials(sock)
            connection = Connection(sock, pid, uid, time.monotonic_ns() + HANDSHAKE_NS)
            most = self._max if connection.is_owner else max(1, self._max // OTHERS_SHARE)
            if uid not in self._allowed or len(self._connections) >= self._max or self._users[uid] >= most:
                log.warning(
                    "process %d of user %d refused: %s",
                    pid,
                    uid,
                    "not allowed" if uid not in self._allowed else f"{most} connections already",
                )
                sock.close()
                continue
            self._connections[sock.fileno()] = connection
            self._users[uid] += 1
            self._silent.add(connection)
            self._begin(sock.fileno(), select.EPOLLIN | select.EPOLLRDHUP)

    def _begin(self, fd: int, events: int) -> None:
        self._fresh.add(fd)
        self._epoll.register(fd, events)

    def _resume_accepting(self, now: int) -> int:
        if not self._accept_at_ns:
            return FAR_AWAY
        if now < self._accept_at_ns:
            return self._accept_at_ns
        self._accept_at_ns = 0
        self._epoll.register(self._listener.socket, select.EPOLLIN)
        return FAR_AWAY

    def _expire_handshakes(self, now: int) -> int:
        first = FAR_AWAY
        for connection in list(self._silent):
            if connection.deadline_ns <= now:
                self._drop(connection, "silent: no HELLO within a second")
            else:
                first = min(first, connection.deadline_ns)
        return first

    def _drop(self, connection: Connection, why: str) -> None:
        """End a connection, and with it the attachment."""
        fd = connection.socket.fileno()
        if self._connections.get(fd) is not connection:
            return
        try:
            self._service.attachments.detach(connection, why)
        finally:
            self._forget(connection)

    def _give_up(self, fd: int) -> None:
        connection = self._connections.get(fd)
        if connection is not None:
            try:
                self._drop(connection, "the router failed to serve it")
            except Exception:
                log.exception("control socket: while ending a connection")

    def _forget(self, connection: Connection) -> None:
        fd = connection.socket.fileno()
        self._silent.discard(connection)
        self._sent(connection)
        self._unwatch_process(connection)
        try:
            self._epoll.unregister(fd)
        except OSError:
            pass
        connection.socket.close()
        del self._connections[fd]
        self._users[connection.uid] -= 1

    def _sent(self, connection: Connection) -> None:
        while connection.after_send:
            connection.after_send.pop().close()

    def _watch_process(self, connection: Connection) -> None:
        if connection.pidfd >= 0:
            return
        fd = process_descriptor(connection.socket, connection.pid)
        if fd >= 0:
            connection.pidfd = fd
            self._pidfds[fd] = connection
            self._begin(fd, select.EPOLLIN)

    def _unwatch_process(self, connection: Connection) -> None:
        if connection.pidfd >= 0:
            del self._pidfds[connection.pidfd]
            self._epoll.unregister(connection.pidfd)
            os.close(connection.pidfd)
            connection.pidfd = -1

    def _serve_connection(self, connection: Connection, events: int) -> None:
        if events & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP) and not events & select.EPOLLIN:
            self._drop(connection, "gone")
            return
        for _ in range(MESSAGES_PER_TURN):
            try:
                data, _fds = protocol.receive(connection.socket, 0)
                if not data:
                    self._drop(connection, "gone")
                    return
                reply, fds = self._answer(connection, data)
                if reply and not self._send(connection, reply, fds):
                    self._drop(connection, "does not read")
                    return
                self._sent(connection)
            except BlockingIOError:
                if events & select.EPOLLRDHUP:
                    self._drop(connection, "gone")
                return
            except ProtocolError as error:
                log.warning("process %d broke the control protocol: %s", connection.pid, error)
                self._drop(connection, "broke the control protocol")
                return
            except OSError as error:
                self._drop(connection, error.strerror or "gone")
                return

    def _send(self, connection: Connection, reply: bytes, fds: list[int]) -> bool:
        """False: there is no room for it, since the client does not read its answers."""
        try:
            protocol.send(connection.socket, reply, fds)
        except BlockingIOError:
            return False
        return True

    def _say_why(self, connection: Connection, words: str) -> None:
        """The last message; who does not read, or is gone, goes without."""
        with contextlib.suppress(OSError):
            self._send(connection, protocol.pack(Type.END, 0, words.encode("utf-8", "replace")), [])

    def _answer(self, connection: Connection, data: bytes) -> tuple[bytes, list[int]]:
        kind, sequence, _status, body = protocol.unpack(data)
        if connection.deadline_ns != FAR_AWAY and kind != Type.HELLO:
            raise ProtocolError("the first message must be HELLO")
        fds: list[int] = []
        try:
            if kind == Type.HELLO:
                connection.deadline_ns = FAR_AWAY
                self._silent.discard(connection)
                reply = self._service.attachments.hello(connection)
            elif kind == Type.ATTACH:
                reply, fds = self._service.attachments.attach(connection, protocol.AttachRequest.unpack(body))
                self._watch_process(connection)
            elif kind == Type.RELEASE:
                self._service.attachments.detach(connection, "released")
                reply = b""
            elif kind == Type.LIST:
                reply = self._service.attachments.list_after(protocol.LIST.unpack_from(body)[0])
            elif kind == Type.UPLINKS:
                reply = self._service.uplinks.after(protocol.UPLINKS.unpack_from(body)[0])
            elif kind == Type.COUNTERS:
                reply = self._service.counters_of(*protocol.COUNTERS.unpack_from(body))
            elif kind == Type.CLAIM:
                self._service.sharers.claim(connection, *protocol.CLAIM.unpack_from(body))
                reply = b""
            elif kind == Type.UNCLAIM:
                self._service.sharers.unclaim(connection, *protocol.CLAIM.unpack_from(body))
                return b"", []
            elif kind == Type.INHERIT:
                self._service.sharers.inherit(connection, *protocol.INHERIT.unpack_from(body))
                reply = b""
            elif kind == Type.SHARE:
                self._service.sharers.share(connection, *protocol.CLAIM.unpack_from(body))
                reply = b""
            elif kind == Type.FLOWS:
                self._service.sharers.know(connection, *protocol.unpack_flows(body))
                return b"", []
            elif kind == Type.STAY:
                self._service.sharers.stay(connection, *protocol.CLAIM.unpack_from(body))
                return b"", []
            elif kind == Type.LEASE:
                reply = self._service.sharers.lease(connection, protocol.LEASE.unpack_from(body)[0])
            elif kind == Type.CAPTURE:
                ident, capacity, snap_length = protocol.CAPTURE.unpack_from(body)
                if ident:
                    reply, fds = self._service.captures.start(connection, ident, capacity, snap_length)
                else:
                    reply = self._service.captures.end(connection)
            elif kind == Type.ROUTE:
                self._service.change_route(connection, body)
                reply = b""
            elif kind == Type.ROUTES:
                reply = self._service.routes_after(body)
            elif kind == Type.LIMIT:
                reply = self._service.limits.asked(connection, body)
            elif kind == Type.GREEDY:
                reply = self._service.conduct.asked(connection, body)
            elif kind == Type.PING:
                reply = body
            else:
                raise ProtocolError(f"unknown message type {kind}")
        except (OSError, ValueError, KeyError, MemoryError) as error:
            if kind in (Type.UNCLAIM, Type.STAY, Type.FLOWS):
                return b"", []
            status = getattr(error, "errno", None) or errno.EINVAL
            text = getattr(error, "strerror", None) or str(error)
            return protocol.pack(kind, sequence, text.encode("utf-8", "replace"), status), []
        return protocol.pack(kind, sequence, reply), fds
