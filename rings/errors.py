"""Exceptions of ``rings``: each is a `RingError` and the built-in that fits."""


class RingError(Exception):
    """Base of all errors of this package."""


class RingFull(RingError, BlockingIOError, TimeoutError):
    """No room for the message now, or within the timeout."""


class RingEmpty(RingError, BlockingIOError, TimeoutError):
    """No message now, or within the timeout."""


class RingClosed(RingError, EOFError, BrokenPipeError):
    """The other end was closed or its process died, and everything it published was taken.

    Also: this end was closed before.
    """


class RingPoisoned(RingError, ConnectionAbortedError):
    """The other end broke the format (index or record header out of bounds). Final: close the ring."""


class RingDamaged(RingError, OSError):
    """An error of the host's memory damaged a record; it and what was published behind it are lost.

    Raised once for each such record, after the messages before it: later messages come as ever.
    """


class RingTruncated(RingPoisoned):
    """The other end truncated the shared memory (`backend="posix"` allows it). Final: close the ring."""


class RingForked(RingError, RuntimeError):
    """This end belongs to the parent process; a child takes it over with ``adopt()``."""


class RingBusy(RingError, RuntimeError):
    """Another thread waits in this end: an end is used by one thread at a time."""


class RingSizeError(RingError, ValueError):
    """A message that can never fit, or a capacity that is no power of two from 512 bytes on."""


class RegionMismatch(RingError, OSError):
    """Shared memory that was handed over is not what was agreed: size, seals or format."""
