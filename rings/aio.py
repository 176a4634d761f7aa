"""asyncio's side of a ring: the doorbell is a file descriptor in the running loop.

Nothing is registered with the loop while nobody waits. One task at a time per end, like one thread.
"""

import asyncio

from rings.errors import RingClosed, RingEmpty, RingFull


async def get(consumer):
    """The next message, as bytes. Raises RingClosed at the end and RingPoisoned, as ``get`` does."""
    while True:
        try:
            return consumer.get_nowait()
        except RingEmpty:
            if consumer.peer_gone:
                raise RingClosed("the producer's process died, and everything was taken") from None
        await _woken(consumer)
        if consumer.check_peer():
            continue  # one more look: what it published before its death is there


async def put(producer, data):
    """Put one message, waiting for room. Raises RingClosed, RingPoisoned, RingSizeError, as ``put`` does."""
    while True:
        try:
            return producer.put_nowait(data)
        except RingFull:
            pass
        await _woken(producer)
        producer.check_peer()


async def messages(consumer):
    """What is got until the producer closes."""
    while True:
        try:
            message = await get(consumer)
        except RingClosed:
            return
        yield message


async def _woken(end):
    """Wait until the end's doorbell rings or its peer dies.

    The refused call before this has armed the end, if fileno() was known then; the first time it was
    not, and fileno() itself rings the doorbell.
    """
    loop = asyncio.get_running_loop()
    woken = loop.create_future()
    fds = [fd for fd in (end.fileno(), end.peer_fileno) if fd >= 0]

    def wake():
        if not woken.done():
            woken.set_result(None)

    for fd in fds:
        loop.add_reader(fd, wake)
    try:
        await woken
    finally:
        for fd in fds:
            loop.remove_reader(fd)
