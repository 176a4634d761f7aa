"""TLS over any stream of bytes: what has to be sent and received next, for callers that wait in ways of their own."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Generator
from typing import Any

# Yields bytes to send, or None to receive; what was received is sent back, b"" at the end of the stream.
Steps = Generator["bytes | None", "bytes | None", Any]


class TlsSteps:
    """One connection's TLS, as a client.

    Attributes
    ----------
    object : ssl.SSLObject
        Who the peer is, which cipher, ...
    """

    def __init__(self, context: ssl.SSLContext, server_hostname: str | None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)

    def _steps(self, function: Callable[..., Any], *args: Any) -> Steps:
        while True:
            result, done = None, True
            try:
                result = function(*args)
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError:
                if self._outgoing.pending:             # an alert says why
                    yield self._outgoing.read()
                raise
            if self._outgoing.pending:
                yield self._outgoing.read()
            if done:
                return result
            data = yield None
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    def handshake(self) -> Steps:
        return self._steps(self.object.do_handshake)

    def read(self, n: int) -> Steps:
        """At most n bytes; b"" at the end, a connection that is cut off included, as ``SSLSocket`` does."""
        try:
            return (yield from self._steps(self.object.read, n))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def write(self, data: bytes) -> Steps:
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                done += yield from self._steps(self.object.write, view[done:])

    @property
    def waiting(self) -> bool:
        """Whether bytes of the peer's are here that nobody has read."""
        return bool(self.object.pending() or self._incoming.pending)


def run(steps: Steps, receive: Callable[[], bytes], send: Callable[[bytes], Any]) -> Any:
    """Do the steps by two calls that block."""
    answer: bytes | None = None
    try:
        while True:
            wanted = steps.send(answer)
            answer = receive() if wanted is None else send(wanted) and None
    except StopIteration as end:
        return end.value


async def run_async(steps: Steps, receive: Callable[[], Awaitable[bytes]], send: Callable[[bytes], Awaitable[Any]]
                    ) -> Any:
    """Do the steps by two calls that are awaited."""
    answer: bytes | None = None
    try:
        while True:
            wanted = steps.send(answer)
            if wanted is None:
                answer = await receive()
            else:
                await send(wanted)
                answer = None
    except StopIteration as end:
        return end.value
