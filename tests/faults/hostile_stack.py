"""The hostile process of test_hostile_rings: attaches, scribbles over what it may write, and attaches again.

``python -m tests.faults.hostile_stack SCRIBBLER COUNT SEED FATAL`` prints how many words it changed in how many
attachments.
"""

import ctypes
import select
import sys
import threading

from netstack.errors import RouterError
from netstack.router.client import attach
from netstack.testing.packets import build_udp
from tests.router.lan import put, take

PART = 1000                      # words between two packets, and looks at whether it is still attached


def thrown_out(control) -> bool:
    if control.socket.fileno() < 0:
        return True
    looking = select.poll()
    looking.register(control.socket)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in looking.poll(0))


def behave(attachment) -> None:
    """Packets out and in, as a stack would, and a bell."""
    channel = attachment.link.channel
    packet = build_udp(attachment.address, "10.77.0.2", 4000, 7, bytes(100))
    try:
        for _ in range(8):
            put(channel, packet)
            take(channel)
        channel.flush()
    except Exception:            # our own ends do not believe what they read, either; the router may go on to
        pass
    channel.peer_doorbells[1].kick()


def main() -> None:
    library, count, seed, fatal = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    scribble = ctypes.CDLL(library).scribble
    scribble.argtypes = [ctypes.c_void_p, *[ctypes.c_uint64] * 4, ctypes.c_uint]
    done = attachments = 0
    while done < count:
        try:
            attachment = attach()
        except RouterError:
            continue
        attachments += 1
        control = attachment._control
        region = attachment.link.channel._regions[1]
        consumer, capacity = region.size - 4096, 1 << region.size.bit_length() - 1
        memory = (ctypes.c_char * region.size).from_buffer(region.mapping)
        part = min(PART, count - done)
        worker = threading.Thread(target=scribble, args=(ctypes.addressof(memory), capacity, consumer, part,
                                                         seed + attachments, fatal))
        while True:
            worker.start()       # without the interpreter's lock: both write at the same time
            behave(attachment)
            worker.join()
            done += part
            part = min(PART, count - done)
            if not part or thrown_out(control):
                break
            worker = threading.Thread(target=scribble, args=(ctypes.addressof(memory), capacity, consumer,
                                                             part, seed + done, fatal))
        del memory
        control.close()                                  # no goodbye
    print(done, attachments, flush=True)


if __name__ == "__main__":
    main()
