"""What shim.c calls: packetdrill's socket calls on a `netstack.stack.Stack` whose clock is packetdrill's.

Each method is one call and returns what the system call would: a number, or minus an errno. None of them waits; a call
that would block gives -EAGAIN, and the shim waits and asks again. Here is no protocol logic: a script that fails is the
stack's fault.
"""

import errno
import ipaddress
import os
import socket
import struct
import sys
from collections import deque
from pathlib import Path

from netstack.stack import Stack

SYSCTLS = Path("/proc/sys/net/ipv4")
POLLIN, POLLOUT, POLLERR, POLLHUP, POLLNVAL = 1, 4, 8, 16, 32
EPOLLET, EPOLLONESHOT = 1 << 31, 1 << 30
SIOCINQ, SIOCOUTQ = 0x541B, 0x5411
CONGESTION = "net.ipv4.tcp_congestion_control"
AVAILABLE = "net.ipv4.tcp_available_congestion_control"
US = 1000


def parse_flags(text):
    """``"local_ip=10.0.0.1,mtu=1500"`` as a dict."""
    return dict(part.split("=", 1) for part in text.split(",") if "=" in part)


def read_sockaddr(view):
    """A ``struct sockaddr_in`` or ``sockaddr_in6`` as ``(host, port)``."""
    raw = bytes(view)
    if len(raw) < 16:
        raise OSError(errno.EINVAL, "a short address")
    family, port = struct.unpack_from("=H", raw)[0], struct.unpack_from("!H", raw, 2)[0]
    if family == socket.AF_INET:
        return str(ipaddress.IPv4Address(raw[4:8])), port
    if family == socket.AF_INET6 and len(raw) >= 28:
        v6 = ipaddress.IPv6Address(raw[8:24])
        return str(v6.ipv4_mapped or v6), port
    raise OSError(errno.EAFNOSUPPORT, "not an address of ours")


def write_sockaddr(view, address):
    """Fill a ``struct sockaddr``; the last byte of the 32 says how long it is."""
    host = ipaddress.ip_address(address[0].partition("%")[0])
    if len(address) == 2:
        raw = struct.pack("=H", socket.AF_INET) + struct.pack("!H", address[1]) + host.packed + bytes(8)
    else:
        raw = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", address[1], 0) + host.packed + bytes(4)
    view[:len(raw)] = raw
    view[31] = len(raw)


class Epoll:
    """An epoll instance: what is watched, and what each edge-triggered entry was last seen to have."""

    def __init__(self):
        self.watched = {}                # fd -> [events, data]
        self.seen = {}                   # fd -> (activity, mask) of the last report


class Backend:
    """The stack, its sockets by descriptor, and the packets that wait for packetdrill to look."""

    def __init__(self, flags):
        settings = parse_flags(flags)
        self.stack = Stack(
            media="ip",
            mtu=int(settings.get("mtu", 1500)),
            addresses=tuple(settings.get("local_ip", "192.168.0.1/16").split("+")),
            seed=int(settings.get("seed", 1)),
        )
        self.sockets = {}
        self.closing = {}
        self.packets = deque()
        self.states_file = settings.get("states")
        self.settings_file = os.environ.get("PD_SETTINGS", "")
        self.states = None
        self.trace = "trace" in settings
        self.known = None
        self.configure()

    # --- the border ----------------------------------------------------------------------------------------------

    def call(self, now_us, name, args):
        """One call at *now_us*; ``(result, when the stack wants to run in us, or -1)``."""
        self.stack.advance(now_us * US)
        try:
            result = getattr(self, name)(*args)
        except OSError as error:
            result = -(error.errno or errno.EIO)
        while (packet := self.stack.pop_output()) is not None:
            self.packets.append(packet)
            self.show("out", packet[0], packet[1])
        if self.states_file:
            self.write_states()
        if self.trace and name not in ("advance", "output", "input"):
            print(f"[{now_us}] {name}{tuple(a for a in args if isinstance(a, int))} = {result}", file=sys.stderr)
        deadline = self.stack.next_deadline()
        return result or 0, -1 if deadline is None else -(-deadline // US)

    def show(self, way, packet, now_ns):
        if self.trace:
            print(f"[{now_ns // US}] {way} {len(packet)}: {packet[:80].hex()}", file=sys.stderr)

    def of(self, fd):
        if fd not in self.sockets:
            raise OSError(errno.EBADF, "no such socket")
        return self.sockets[fd]

    def add(self, sock):
        fd = os.eventfd(0)               # the kernel's own, since packetdrill closes what is left in the kernel
        self.sockets[fd] = sock
        return fd

    def advance(self):
        return 0

    def finish(self):
        return 0

    def write_states(self):
        """The file that the stand-in for sockstat prints; written when it changed."""
        tcp = [(s.local, s.lport, s.remote, s.rport, s.state) for s in self.stack.sockets() if s.kind == "tcp"]
        states = list(dict.fromkeys(tcp))   # a socket in TIME-WAIT that is still open is there twice: handle and record
        if states == self.states:
            return
        self.states = states
        lines = []
        for local, lport, remote, rport, state in states:
            version = 6 if ":" in local + remote else 4
            lines.append(f"root packetdril 1 3 tcp{version} {local}:{lport} {remote}:{rport} {state}\n")
        Path(self.states_file).write_text("".join(lines))

    # --- packets -------------------------------------------------------------------------------------------------

    def input(self, packet):
        self.show("in", bytes(packet), self.stack.now_ns)
        self.stack.input(bytes(packet), self.stack.now_ns)
        return 0

    def output(self, buffer, time_us):
        if not self.packets:
            return 0
        packet, at_ns = self.packets.popleft()
        buffer[:len(packet)] = packet
        time_us[:] = struct.pack("=q", at_ns // US)
        return len(packet)

    # --- sockets -------------------------------------------------------------------------------------------------

    def configure(self):
        """The namespace's sysctls are the script's settings: give the stack those it knows."""
        if self.known is None:
            self.known = {}
            for path in sorted(SYSCTLS.glob("tcp_*")):
                name = f"net.ipv4.{path.name}"
                try:
                    self.stack.get(name)
                except KeyError:
                    continue
                self.known[name] = None
        for name, before in self.known.items():
            try:
                value = (SYSCTLS / name.rpartition(".")[2]).read_text().strip()
            except OSError:
                continue
            if value == before:
                continue
            self.known[name] = value
            if before is None and name in (CONGESTION, AVAILABLE):
                continue                 # what the host prefers says nothing about the script
            self.set(name, value)
        if self.settings_file and os.path.exists(self.settings_file):
            for line in Path(self.settings_file).read_text().splitlines():
                self.set(*line.split("=", 1))

    def set(self, name, value):
        try:
            self.stack.set(name, value)
        except ValueError as error:
            print(f"shim: {name} = {value}: {error}", file=sys.stderr)

    def socket(self, domain, type, protocol):
        self.configure()
        return self.add(self.stack.socket(type, domain, protocol))

    def bind(self, fd, address):
        self.of(fd).bind(read_sockaddr(address))

    def listen(self, fd, backlog):
        self.configure()
        self.of(fd).listen(backlog)

    def accept(self, fd, peer):
        sock, address = self.of(fd).accept()
        write_sockaddr(peer, address)
        return self.add(sock)

    def connect(self, fd, address):
        self.configure()
        if len(address) >= 2 and bytes(address[:2]) == b"\0\0":
            return -self.of(fd).disconnect()
        return -self.of(fd).connect_ex(read_sockaddr(address))

    def take_error(self, fd):
        return -self.of(fd).getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def shutdown(self, fd, how):
        self.of(fd).shutdown(how)

    def close(self, fd):
        sock = self.of(fd)
        del self.sockets[fd]
        sock.close()
        os.close(fd)

    def lingered(self, fd):
        return 1

    # --- data ----------------------------------------------------------------------------------------------------

    def recv(self, fd, buffer, flags, peer):
        sock = self.of(fd)
        if sock.state == "UDP":
            data, address = sock.recvfrom(len(buffer), flags)
            write_sockaddr(peer, address)
        elif flags & socket.MSG_TRUNC:
            data = sock.recv(len(buffer), flags & ~socket.MSG_TRUNC)
            return len(data)
        else:
            data = sock.recv(len(buffer), flags)
        buffer[:len(data)] = data
        return len(data)

    def control(self, fd, buffer):
        return 0

    def send(self, fd, data, flags, to):
        self.configure()
        sock = self.of(fd)
        if flags & socket.MSG_FASTOPEN and len(to) >= 2 and bytes(to[:2]) == b"\0\0":
            return -errno.EOPNOTSUPP     # AF_UNSPEC, which the stack's addresses cannot say
        if flags & socket.MSG_FASTOPEN:
            self.configure()             # it connects
        if len(to) and (sock.state == "UDP" or flags & socket.MSG_FASTOPEN):
            return sock.sendto(bytes(data), read_sockaddr(to), *((flags,) if flags else ()))
        return sock.send(bytes(data), flags)

    def ioctl(self, fd, request, value):
        sock = self.of(fd)
        if len(value) != 4:
            return -errno.EFAULT
        value[:] = struct.pack("=i", sock.ioctl(request))
        return 0

    def getsockopt(self, fd, level, name, value):
        raw = self.of(fd).getsockopt(level, name, len(value))
        value[:len(raw)] = raw
        return len(raw)

    def setsockopt(self, fd, level, name, value):
        self.configure()
        self.of(fd).setsockopt(level, name, bytes(value))

    # --- waiting -------------------------------------------------------------------------------------------------

    def mask(self, fd):
        return self.of(fd).poll()

    def ready(self, fd, events):
        if fd not in self.sockets:
            return 1
        return 1 if self.mask(fd) & (events | POLLERR | POLLHUP) else 0

    def poll(self, raw):
        """``struct pollfd[]``: the number of entries that have something, with their revents filled in."""
        count = 0
        for at in range(0, len(raw), 8):
            fd, events, _ = struct.unpack_from("=ihh", raw, at)
            revents = 0
            if fd >= 0:
                revents = POLLNVAL if fd not in self.sockets else self.mask(fd) & (events | POLLERR | POLLHUP)
            struct.pack_into("=h", raw, at + 6, revents)
            count += revents != 0
        return count

    def epoll_create(self, size):
        if size <= 0:
            return -errno.EINVAL
        return self.add(Epoll())

    def epoll_of(self, epfd):
        ep = self.of(epfd)
        if not isinstance(ep, Epoll):
            raise OSError(errno.EINVAL, "no epoll instance")
        return ep

    def epoll_ctl(self, epfd, op, fd, event):
        ep = self.epoll_of(epfd)
        self.of(fd)
        events, data = struct.unpack("=IQ", event) if len(event) == 12 else (0, 0)
        if op == 1:
            if fd in ep.watched:
                return -errno.EEXIST
        elif fd not in ep.watched:
            return -errno.ENOENT
        ep.seen.pop(fd, None)
        if op == 2:
            del ep.watched[fd]
        else:
            ep.watched[fd] = [events, data]
        return 0

    def activity(self, fd):
        """Changes when new data or new room came: what an edge is."""
        info = self.sockets[fd].info()
        return info["bytes_received"], info["snd_una"], info["state"]

    def epoll_found(self, ep):
        for fd, (events, data) in ep.watched.items():
            if fd not in self.sockets or events == 0:
                continue
            mask = self.mask(fd) & ((events & 0xFFFF) | POLLERR | POLLHUP)
            state = (self.activity(fd), mask)
            if mask and not (events & EPOLLET and ep.seen.get(fd) == state):
                yield fd, mask, data, state

    def epoll_ready(self, epfd):
        return 1 if next(self.epoll_found(self.epoll_of(epfd)), None) else 0

    def epoll_wait(self, epfd, raw):
        ep = self.epoll_of(epfd)
        count = 0
        for fd, mask, data, state in list(self.epoll_found(ep))[:len(raw) // 12]:
            struct.pack_into("=IQ", raw, count * 12, mask, data)
            ep.seen[fd] = state
            if ep.watched[fd][0] & EPOLLONESHOT:
                ep.watched[fd][0] = 0
            count += 1
        return count
