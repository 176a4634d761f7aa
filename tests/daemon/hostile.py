"""A client that keeps to no rule: bare messages, and the memory that a client may write."""

import array
import mmap
import os
import socket
import struct

from netstack.daemon.paths import socket_path
from netstack.daemon.protocol import HEAD, NOTES_BYTES, PAGE, Message, Type

TAIL, HEAD_INDEX, WORDS = 0, 64, 128             # of nsd_up_t: the indices, and the words behind them
WAITING, NOTED, ARMED, FILLED, TAKEN = range(128, 148, 4)


class Memory:
    """What a client got for a socket, or its board."""

    def __init__(self, fds, capacity: int) -> None:
        self.capacity = capacity
        self.down = mmap.mmap(fds[0], PAGE + capacity, prot=mmap.PROT_READ)
        self.up = mmap.mmap(fds[1], PAGE + capacity)
        self.up_fd = os.dup(fds[1])

    def put(self, at: int, value: int, form: str = "<Q") -> None:
        struct.pack_into(form, self.up, at, value)

    def get(self, at: int, form: str = "<Q") -> int:
        return struct.unpack_from(form, self.up, at)[0]

    def close(self) -> None:
        self.down.close()
        self.up.close()
        os.close(self.up_fd)


class Hostile:
    """Connected to the daemon, with HELLO said or not."""

    def __init__(self, hello: bool = True) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(30)
        self.sock.connect(socket_path(None))
        self.board = None
        self.bell = -1
        self.memories: list[Memory] = []
        if hello:
            _, fds = self.ask(Type.HELLO)
            self.board = self.keep(Memory(fds, NOTES_BYTES))
            self.bell = fds[2]
            for fd in fds[:2]:
                os.close(fd)

    def keep(self, memory: Memory) -> Memory:
        self.memories.append(memory)
        return memory

    def ask(self, kind: int, **fields) -> tuple[Message, list[int]]:
        """One request and its answer; ConnectionError when it is cut off for it."""
        self.sock.send(Message(kind, **fields).pack())
        return self.answer()

    def answer(self) -> tuple[Message, list[int]]:
        raw, ancillary, _, _ = self.sock.recvmsg(1 << 17, 256)
        fds = array.array("i")
        for _, _, data in ancillary:
            fds.frombytes(data)
        if not raw:
            raise ConnectionResetError("cut off")
        return Message.unpack(raw), list(fds)

    def socket(self, kind: int, **fields) -> tuple[Message, Memory]:
        """A request that gives a socket."""
        m, fds = self.ask(kind, **fields)
        if m.status:
            raise OSError(m.status, os.strerror(m.status))
        memory = self.keep(Memory(fds, m.c))
        for fd in fds:
            os.close(fd)
        return m, memory

    def connected(self, address) -> tuple[int, Memory]:
        """A stream to ``address`` of the daemon's host: number and memory."""
        m, memory = self.socket(Type.OPEN, a=2, b=1)
        packed = bytes(10) + b"\xff\xff" + socket.inet_aton(address[0])
        self.ask(Type.CONNECT, number=m.number, address=packed, port=address[1])
        while not struct.unpack_from("<I", memory.down, WORDS + 4)[0] & 1 << 16:
            self.ask(Type.GETSOCKOPT, number=m.number, a=1, b=3, c=4)
        return m.number, memory

    def note(self, number: int) -> None:
        """As an honest client: the number on the board, and the bell."""
        tail = self.board.get(TAIL)
        self.board.put(PAGE + tail * 4 % NOTES_BYTES, number, "<I")
        self.board.put(TAIL, tail + 1)
        self.ring()

    def ring(self) -> None:
        os.eventfd_write(self.bell, 1)

    def is_cut_off(self) -> bool:
        """Whether the daemon ends it; waits for that."""
        try:
            while self.sock.recv(1 << 17):
                pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        self.sock.close()
        if self.bell >= 0:
            os.close(self.bell)
        for memory in self.memories:
            memory.close()


def raw_message(magic=0x4D44534E, version=1, kind=1, data=b"") -> bytes:
    return HEAD.pack(magic, version, kind, 1, 0, 0, 0, 0, 0, 0, bytes(16), 0, 0, 0) + data
