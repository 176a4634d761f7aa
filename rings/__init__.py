"""Messages between two processes through a lock-free ring in shared memory.

One process produces, one consumes; a message is there whole or not at all, even if a side is killed in
the middle of writing it. Putting and getting cost no system call while both sides are busy: a side
that finds nothing to do spins for a moment and then sleeps on an eventfd, and only then does the other
side pay for waking it.

>>> import rings
>>> producer, consumer = rings.ring(capacity=1 << 16)
>>> producer.put(b"hello")
>>> consumer.get(timeout=1)
b'hello'
>>> producer.put_many([b"one", b"two", b"three"])
3
>>> consumer.get_many()
[b'one', b'two', b'three']

Without a copy, straight in the ring. A claim is invisible until it is published; what is peeked stays
until it is released:

>>> window = producer.claim(4)
>>> window[:] = b"zero"
>>> producer.publish()
>>> view = consumer.peek(timeout=1)
>>> bytes(view)
b'zero'
>>> consumer.release()

To another process: over a fork (the child adopts an end), over a Unix socket, or as an argument of a
``multiprocessing`` process.

>>> import os
>>> child = os.fork()
>>> if child == 0:
...     producer.adopt().put(b"from the child")
...     os._exit(0)
>>> producer.detach()                            # the child has it now
>>> consumer.get(timeout=10)
b'from the child'

When the producer closes, or its process dies, what it published can still be got; then comes the end:

>>> consumer.get(timeout=10)
Traceback (most recent call last):
    ...
rings.errors.RingClosed: the producer's process died, and everything it published was taken
>>> _ = os.waitpid(child, 0)
>>> consumer.close()

In asyncio the doorbell is a file descriptor of the loop, and no thread is involved:

>>> import asyncio
>>> async def conversation():
...     with rings.ring(backend="memfd") as (producer, consumer):
...         await producer.aput(b"ping")
...         return await consumer.aget()
>>> asyncio.run(conversation())
b'ping'

What to know
------------
- An end is used by one thread at a time; it may change threads between calls.
- A forked child has no access to its parent's end (`RingForked`) until it adopts it.
- ``backend="posix"`` (the default) is for processes that trust each other: its memory can be truncated
  by the other side, which raises `RingTruncated` here (a handler of SIGBUS is installed for that, and
  passes on what is not of a ring). ``backend="memfd"`` is sealed against truncation. In both the other
  side's indices and record headers are checked before use: a broken peer raises `RingPoisoned` and
  cannot lead this process astray. A record header damaged by an error of the host's memory costs the
  messages published from there on, told by `RingDamaged`; the bytes of a message carry no check of
  their own. Bytes seen through ``peek`` can change while a hostile peer writes;
  ``get`` copies first.
- Space is given back lazily, an eighth of the ring at a time or when the ring is found empty, and a
  producer that waits for space is woken when a quarter is free.
- `Channel` is a pair of rings, one each way, with doorbells of two kinds: what network stacks use.
- The C header ``rings/spsc_ring.h`` and the ``.pxd`` files give the same ring to C and Cython.

Nothing of NumPy or asyncio is imported before it is used.
"""

_LAZY = {
    "Channel": "rings.channel",
    "ChannelLayout": "rings.channel",
    "channel_pair": "rings.channel",
    "Producer": "rings.endpoint",
    "Consumer": "rings.endpoint",
    "EndState": "rings.ends",
    "RingPair": "rings.ends",
    "attach": "rings.ends",
    "receive_end": "rings.ends",
    "ring": "rings.ends",
    "send_end": "rings.ends",
    "sweep": "rings.shared_memory",
    "RegionMismatch": "rings.errors",
    "RingBusy": "rings.errors",
    "RingClosed": "rings.errors",
    "RingDamaged": "rings.errors",
    "RingEmpty": "rings.errors",
    "RingError": "rings.errors",
    "RingForked": "rings.errors",
    "RingFull": "rings.errors",
    "RingPoisoned": "rings.errors",
    "RingSizeError": "rings.errors",
    "RingTruncated": "rings.errors",
}

__all__ = sorted(_LAZY)


def __getattr__(name):
    import importlib

    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__


def get_include():
    """The folder of the C headers, for ``include_dirs`` and ``-I``."""
    import pathlib

    return str(pathlib.Path(__file__).parent / "include")
