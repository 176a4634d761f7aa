"""Sockets of a stack with the standard library's face.

`socket` is a subclass of the standard library's class: ``isinstance`` holds, ``makefile``, context manager
and ``sendfile`` are inherited. The C part of the base is never initialised for a socket of a stack; the
calls go to a compiled `netstack.handle.Handle`, and the hot ones are bound into the instance. A socket of
another family, or one made from a descriptor, is a plain kernel socket of the same class.

All other names of the standard library's module can be had from here as well.
"""

from __future__ import annotations

import _socket
import errno
import operator
import os
import socket as _kernel
import sys
from typing import TYPE_CHECKING, Any

from netstack.errors import NetstackError
from netstack.handle import Handle, describe, handle_behind, handle_of, readiness_fds, readiness_files
from netstack.placing import Placement, across_hosts, check_reach

if TYPE_CHECKING:
    from netstack.reports import TcpInfo

_Base = _kernel.socket
_TYPE_FLAGS = getattr(_kernel, "SOCK_NONBLOCK", 0) | getattr(_kernel, "SOCK_CLOEXEC", 0)
SENDFILE_MOST = 256 << 10      # bytes of a file read and sent in one call
_FAMILIES = (_kernel.AF_INET, _kernel.AF_INET6)

# Bound into each instance of a stack's socket: a call then costs no Python frame.
_HOT = ("recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into", "send", "sendall")
# Passed on to the Handle, or to the kernel's method.
_PLAIN = (
    "shutdown", "getsockname", "getpeername", "getsockopt",
    "settimeout", "gettimeout", "setblocking", "getblocking",
)

# Where sockets made without a host belong; the last counts. Set by netstack.patch.
placements: list[Placement] = []
# Sockets that were detached and are no connections, by the number of their descriptor.
_detached: dict[int, Handle] = {}


def _passed_on(name: str):
    """A method that goes to the Handle where there is one, else to the kernel's socket."""
    plain = getattr(_Base, name)

    def method(self, *args, **kwargs):
        handle = self._handle
        if handle is None:
            return plain(self, *args, **kwargs)
        return getattr(handle, name)(*args, **kwargs)

    method.__name__ = name
    method.__qualname__ = f"socket.{name}"
    method.__doc__ = plain.__doc__
    return method


class socket(_Base):
    """A socket of a host's stack, usable wherever the standard library's is.

    Parameters
    ----------
    family, type, proto, fileno
        As of ``socket.socket``. With a descriptor, or a family that is neither AF_INET nor AF_INET6, it is a
        kernel socket.
    host : Host, optional
        Whose stack it belongs to. Without one: the host that `netstack.patch` put in place.

    Raises
    ------
    NetstackError
        No host was given and none is in place.
    OSError
        As the standard library's, with its errno numbers.
    """

    _handle: Handle | None = None                      # None: the kernel's
    _placement: Placement | None = None                # the kernel's until it hears an address
    _options: list[tuple[Any, ...]]                    # set until then
    _shared: bool = False                              # another object has the same Handle, by dup()
    _own_fd: int = -1                                  # its readiness descriptor then

    def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None, *,
                 host: Any = None) -> None:
        if fileno is not None or family not in (-1, *_FAMILIES):
            handle = handle_of(fileno)
            if handle is not None and handle.shown_fd == fileno and family in (-1, handle.family):
                if _detached.pop(fileno, None) is None:  # type: ignore[arg-type]
                    handle.twins += 1                  # one more object for the very same descriptor
                self._adopt(handle)
                return
            detached = _detached.pop(fileno, None) if fileno is not None else None
            if detached is not None:                   # taken for something else, or its number is another's by now
                if handle is not None:
                    handle.release_fileno()
                detached.close()
            elif handle is not None:
                raise OSError(errno.EOPNOTSUPP, "this descriptor shows the readiness of a stack's socket and "
                                                "carries no data: use the socket object itself")
            handle = handle_behind(fileno) if isinstance(fileno, int) else None
            if handle is None or handle.closed:
                _Base.__init__(self, family, type, proto, fileno)
            else:                                      # fromfd(): a duplicate of a readiness descriptor
                handle.join()
                self._adopt(handle)
                self._shared, self._own_fd = True, fileno  # type: ignore[assignment]
                readiness_fds[fileno] = handle  # type: ignore[index]
            return
        family = _kernel.AF_INET if family == -1 else int(family)
        type = int(_kernel.SOCK_STREAM if type == -1 else type)
        proto = 0 if proto == -1 else proto
        sys.audit("socket.__new__", self, family, type, proto)
        if host is None:
            placement = current_placement()
            if not placement.at_once and type & ~_TYPE_FLAGS != _kernel.SOCK_RAW:
                _Base.__init__(self, family, type, proto)
                self._placement = placement
                self._options = []
                return
            host = placement.first()
        handle = host.open_handle(family, type & ~_TYPE_FLAGS, proto)
        timeout = _kernel.getdefaulttimeout()
        if type & _kernel.SOCK_NONBLOCK:
            timeout = 0.0
        if timeout is not None:
            handle.settimeout(timeout)
        self._adopt(handle)

    def _adopt(self, handle: Handle) -> None:
        """Become the face of ``handle``."""
        self._io_refs = 0
        self._closed = False
        self._bind_to(handle)

    def _bind_to(self, handle: Handle) -> None:
        self._handle = handle
        cls = self.__class__
        handle.shown_as = f"{cls.__module__}.{cls.__qualname__}"
        for name in _HOT:
            if cls is socket or getattr(cls, name) is getattr(socket, name):
                setattr(self, name, getattr(handle, name))

    def _place(self, host: Any) -> None:
        """It hears its first address: become a socket of ``host``'s stack, or stay the kernel's with None."""
        self._placement = None
        if host is None:
            return
        handle = host.open_handle(self.family, self.type, self.proto)
        try:
            handle.settimeout(_Base.gettimeout(self))
            for option in self._options:
                handle.setsockopt(*option)
        except BaseException:
            handle.close()
            raise
        shown = "_own_fd" in self.__dict__
        fd = _socket.socket.detach(self)
        if shown:
            self._own_fd = -1
            handle.fileno_at(fd)               # whoever asked knows it by this number
        else:
            os.close(fd)
        self._bind_to(handle)

    def _towards(self, address) -> None:
        if self._placement is not None:
            self._place(self._placement.towards(address, self.family))

    def _surrender(self) -> Handle:
        """Give the stack's socket away; what stays behaves as after close()."""
        handle = self._handle
        if handle is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._own_fd >= 0:
            self._close_own_fd()
        self._adopt(handle.closed_twin())
        self._closed = True
        return handle

    @classmethod
    def _of(cls, handle: Handle) -> socket:
        self = cls.__new__(cls)
        self._adopt(handle)
        return self

    for _name in (*_HOT, *_PLAIN):
        locals()[_name] = _passed_on(_name)
    del _name

    def tcp_info(self) -> TcpInfo:
        """TCP_INFO, typed; also of a kernel's socket."""
        from netstack.reports import TcpInfo

        return TcpInfo.parse(self.getsockopt(_kernel.IPPROTO_TCP, _kernel.TCP_INFO, 280))

    @property
    def host(self) -> Any:
        """The host it belongs to; None: the kernel's."""
        return self._handle.host if self._handle is not None else None

    @property
    def family(self):
        if self._handle is None:
            return _Base.family.__get__(self)
        return _kernel.AddressFamily(self._handle.family)

    @property
    def type(self):
        if self._handle is None:
            return _Base.type.__get__(self)
        return _kernel.SocketKind(self._handle.type)

    @property
    def proto(self):
        return _Base.proto.__get__(self) if self._handle is None else self._handle.proto

    @property
    def timeout(self):
        return _Base.timeout.__get__(self) if self._handle is None else self._handle.timeout

    def bind(self, address, /) -> None:
        """Bind to a local address; port 0 picks a free one."""
        if self._placement is not None:
            self._place(self._placement.here(address, self.family))
        if self._handle is None:
            return _Base.bind(self, address)
        self._handle.check_address(address, "bind")
        sys.audit("socket.bind", self, address)
        try:
            return self._handle.bind(address)
        except OSError as error:
            raise across_hosts(error, self._handle.host, address) from None

    def connect(self, address, /) -> None:
        """Connect to ``address``; errors are those of the standard library."""
        self._towards(address)
        if self._handle is None:
            return _Base.connect(self, address)
        self._handle.check_address(address, "connect")
        sys.audit("socket.connect", self, address)
        check_reach(self._handle.host, address)
        try:
            return self._handle.connect(address)
        except OSError as error:
            raise across_hosts(error, self._handle.host, address) from None

    def connect_ex(self, address, /) -> int:
        """As `connect`, but return the errno number."""
        self._towards(address)
        if self._handle is None:
            return _Base.connect_ex(self, address)
        self._handle.check_address(address, "connect_ex")
        sys.audit("socket.connect", self, address)
        try:
            check_reach(self._handle.host, address)
        except OSError as error:
            return error.errno or 0
        return self._handle.connect_ex(address)

    def sendto(self, data, *args) -> int:
        """``sendto(data[, flags], address)``."""
        self._towards(args[-1] if args else None)
        if self._handle is None:
            return _Base.sendto(self, data, *args)
        try:
            return self._handle.sendto_of(self, data, args)
        except OSError as error:
            raise across_hosts(error, self._handle.host, args[-1]) from None

    def sendmsg(self, buffers, ancdata=(), flags: int = 0, address=None, /) -> int:
        """Gather ``buffers`` into one datagram or into the stream."""
        self._towards(address)
        if self._handle is None:
            return _Base.sendmsg(self, buffers, ancdata, flags, *(() if address is None else (address,)))
        self._handle.check_flags(flags)
        if address is not None:
            self._handle.check_address(address, "sendmsg")
        sys.audit("socket.sendmsg", self, address)
        return self._handle.sendmsg(buffers, ancdata, flags, address)

    def listen(self, backlog: int = 128, /) -> None:
        """Accept connections; ``backlog`` may wait for `accept`."""
        if self._placement is not None:
            self._place(self._placement.first())
        if self._handle is None:
            return _Base.listen(self, backlog)
        return self._handle.listen(backlog)

    def setsockopt(self, level, option, value, /, *optlen) -> None:
        """``setsockopt(level, option, value[, optlen])``."""
        if self._handle is not None:
            return self._handle.setsockopt(level, option, value, *optlen)
        _Base.setsockopt(self, level, option, value, *optlen)
        if self._placement is not None:
            self._options.append((level, option, value, *optlen))

    def accept(self):
        """The next connection: ``(socket, address of the peer)``."""
        if self._handle is None:
            return _Base.accept(self)
        handle, address = self._handle.accept()
        timeout = _kernel.getdefaulttimeout()
        if timeout is not None:
            handle.settimeout(timeout)
        return socket._of(handle), address

    def fileno(self) -> int:
        """A descriptor for select, poll, epoll and event loops: it shows readiness and carries no data.

        It is made by the first call. -1 once the socket is closed. `export` gives one that carries data.
        """
        if self._handle is None:
            if self._placement is not None:
                self._own_fd = -1              # noted: the number is known to somebody
            return _Base.fileno(self)
        if self._handle.shareable_listener:
            self._handle.watch()
        if self._shared and self._own_fd < 0 and not self._closed:
            self._own_fd = os.dup(self._handle.fileno())
            readiness_fds[self._own_fd] = self._handle
        return self._own_fd if self._shared else self._handle.fileno()

    def _close_own_fd(self) -> None:
        readiness_fds.pop(self._own_fd, None)
        os.close(self._own_fd)
        self._own_fd = -1

    def _real_close(self, *args) -> None:
        handle = self._handle
        if handle is None:
            _Base._real_close(self, *args)  # type: ignore[attr-defined]
            return
        if self._own_fd >= 0:
            self._close_own_fd()
        if handle.twins and handle.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))       # the end of one of the twins
        if handle.shared:
            self._bind_to(handle.closed_twin())        # the other object keeps the connection
        if handle.leave():
            return
        handle.close()

    def __del__(self) -> None:
        if self._own_fd >= 0:
            self._close_own_fd()

    def dup(self):
        """Another object for the same socket; it is closed when both are.

        They share timeouts, as descriptors share O_NONBLOCK. Each has a readiness descriptor of its own.
        """
        if self._handle is None:
            return _Base.dup(self)
        self.getsockopt(_kernel.SOL_SOCKET, _kernel.SO_TYPE)           # EBADF once closed
        new = self.__class__.__new__(self.__class__)
        sys.audit("socket.__new__", new, self._handle.family, self._handle.type, self._handle.proto)
        self._handle.join()
        new._adopt(self._handle)
        new._shared = True
        return new

    def export(self) -> _kernel.socket:
        """A kernel's socket that carries this connection's data, for child processes, C libraries and foreign loops.

        The connection belongs to it; this object is closed. Two threads carry the bytes (`netstack.exporting`).

        Raises
        ------
        OSError
            ENOTCONN: not connected. EOPNOTSUPP: not a stream.
        """
        from netstack.exporting import export

        if self._handle is None:
            raise OSError(errno.EOPNOTSUPP, "export: the kernel's sockets carry their data already")
        if self._handle.shared:
            raise OSError(errno.EOPNOTSUPP, "export: dup() gave the connection to another object too")
        carrier = export(self._handle)
        self._surrender()
        return carrier

    def detach(self) -> int:
        """Close the object and return a descriptor that carries the data: that of `export`.

        If `fileno` was called before, it is the same number. What is no connection keeps its readiness descriptor, of
        which ``socket(fileno=...)`` of this process makes a socket again.
        """
        handle = self._handle
        if handle is None:
            return _Base.detach(self)
        if handle.closed:
            return -1
        if handle.twins:                               # another object has the descriptor, and keeps it
            handle.twins -= 1
            self._bind_to(handle.closed_twin())
            self._closed = True
            return handle.fileno()
        if not self._is_connection():
            fd = handle.fileno()
            _detached[fd] = self._surrender()
            return fd
        carrier = self.export()
        shown, fd = handle.release_fileno(), carrier.detach()
        if shown >= 0:
            os.dup2(fd, shown, False)
            os.close(fd)
            fd = shown
        return fd

    def _is_connection(self) -> bool:
        if self._handle.type != _kernel.SOCK_STREAM:  # type: ignore[union-attr]
            return False
        try:
            self.getpeername()
        except OSError:
            return False
        return True

    def _descriptor(self) -> int:
        """Its number for the functions that mean the descriptor itself."""
        fd = self._own_fd if self._own_fd >= 0 else self._handle.fileno()  # type: ignore[union-attr]
        if fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return fd

    def get_inheritable(self) -> bool:
        """Whether the readiness descriptor is inherited. The socket never is: another program could not use it."""
        return _Base.get_inheritable(self) if self._handle is None else os.get_inheritable(self._descriptor())

    def set_inheritable(self, inheritable: bool, /) -> None:
        """Of the readiness descriptor; see `export` for one that another program can use."""
        if self._handle is None:
            _Base.set_inheritable(self, inheritable)
        else:
            operator.index(inheritable)
            os.set_inheritable(self._descriptor(), inheritable)

    def _sendfile_use_sendfile(self, file, offset=0, count=None):
        if self._handle is None:
            return _Base._sendfile_use_sendfile(self, file, offset, count)
        if self._handle.closed:
            return _Base._sendfile_use_sendfile(self, file, offset, count)
        if os.sendfile is sendfile:
            try:
                os.fstat(file.fileno())        # a closed one's number may become that of our descriptor
            except (AttributeError, OSError) as error:
                raise _kernel._GiveupOnSendfile(error) from None
            return _Base._sendfile_use_sendfile(self, file, offset, count)
        raise _kernel._GiveupOnSendfile("a stack's socket: the file is read and sent")

    def __repr__(self) -> str:
        if self._handle is None:
            return _Base.__repr__(self)
        return f"<{type(self).__module__}.{type(self).__qualname__} {describe(self._handle)}>"


def current_placement() -> Placement:
    """Where sockets made without a host belong."""
    if not placements:
        raise NetstackError("no host: use host.socket(), pass host=, or put one in place with host.patch()")
    return placements[-1]


def current_host() -> Any:
    """The first of the hosts that `netstack.patch` put in place."""
    return current_placement().first()


def sendfile(out_fd, in_fd, offset, count, *args, **kwargs):
    """``os.sendfile`` that takes the readiness descriptors of stack sockets too: it reads the file and sends that.

    Raises
    ------
    OSError
        EINVAL: no connection's descriptor, or a file that cannot be read at an offset; callers fall back to send.
    """
    fd = out_fd if isinstance(out_fd, int) else out_fd.fileno()
    if fd not in readiness_fds:
        return _sendfile(out_fd, in_fd, offset, count, *args, **kwargs)
    handle = readiness_files.get(os.fstat(fd).st_ino)
    if handle is None:
        raise OSError(errno.EINVAL, "sendfile: the descriptor of a stack's socket carries no data")
    try:
        at = os.lseek(in_fd, 0, os.SEEK_CUR) if offset is None else offset
        data = os.pread(in_fd, min(count, SENDFILE_MOST), at)
    except OSError as error:
        if error.errno != errno.ESPIPE:
            raise
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None
    if not data:
        return 0
    sent = handle.send(data, 0 if handle.timeout is None else _kernel.MSG_DONTWAIT)   # as the kernel's of such a socket
    if offset is None:
        os.lseek(in_fd, at + sent, os.SEEK_SET)
    return sent


def close(fd) -> None:
    """``socket.close`` that ends a stack's socket when it is given its readiness descriptor."""
    handle = handle_of(fd)
    if handle is None or handle.shown_fd != fd:
        _close(fd)
        return
    _detached.pop(fd, None)
    handle.twins += 1                                  # its object hears of it as one whose descriptor was closed
    handle.close()


_sendfile = os.sendfile
_close = _kernel.close


def __getattr__(name: str):
    return getattr(_kernel, name)
