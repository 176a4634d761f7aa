"""Who notices that a router is gone: sockets that hang up, and numbers that pass from one to the next."""

import os
import socket
import threading

from netstack.router.keeper import keeper
from tests.router.lan import wait_until


class Kept:
    """Stands for an attachment: its control socket, and whether it was told that the router is gone."""

    def __init__(self):
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.told = False
        self.may_return = threading.Event()

    def lost(self) -> bool:
        self.told = True
        self.may_return.wait(60)
        return False

    def close(self):
        self.may_return.set()
        self.ours.close()
        self.theirs.close()


def test_who_got_the_number_of_a_socket_that_hung_up_is_not_taken_for_it():
    """Two hang up at once. While the keeper tells the first, the second is closed, and another gets its number."""
    busy, first, second, another, last = everybody = [Kept() for _ in range(5)]
    for each in (busy, first, second, last):
        keeper().watch(each, each.ours.fileno())
    busy.theirs.close()
    wait_until(lambda: busy.told)
    for each in (first, second):
        each.theirs.close()
    busy.may_return.set()
    wait_until(lambda: first.told)                       # and the second's event is taken already
    number = second.ours.detach()
    keeper().unwatch(number)
    os.dup2(another.ours.fileno(), number)
    keeper().watch(another, number)
    first.may_return.set()
    last.theirs.close()
    wait_until(lambda: last.told)
    assert not another.told and not second.told
    last.may_return.set()
    another.theirs.close()
    wait_until(lambda: another.told)                     # it is watched all the same
    for each in everybody:
        each.close()
    os.close(number)
