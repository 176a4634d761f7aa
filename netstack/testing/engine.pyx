# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The loop of a simulation: stacks and a switch in virtual time, from deadline to deadline, without the GIL.

At one moment everything runs until nothing moves any more; then time jumps to the next deadline of any stack or link.
Order is fixed (by index), no clock is read: the same seeds give the same bytes.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset

from netstack.address cimport address_from_v4, address_parse, address_t
from netstack.link.link cimport frame_t, Link, link_t, MEDIA_ETHERNET, NEVER
from netstack.stack.core cimport stack_next_deadline, stack_next_event, stack_process
from netstack.stack.stack cimport Stack
from netstack.tcp.congestion.plugin cimport plugins_run

cdef enum:
    BUDGET = 1024                # frames a stack takes from a link in one go
    BATCH = 64
    ROUNDS_MAX = 1000000         # of one moment; more means that it does not come to rest


cdef bint send(link_t *link, const frame_t *frame, int64_t now_ns) noexcept nogil:
    """A copy of the frame into a link."""
    cdef uint8_t *head
    cdef uint8_t *body
    if link.claim(link, frame.head_length, frame.body_length, &head, &body):
        return False
    memcpy(head, frame.head, frame.head_length)
    if frame.body_length:
        memcpy(body, frame.body, frame.body_length)
    link.commit(link, now_ns)
    return True


cdef class Engine:
    """Stacks with their links, the ports of a switch, and the time.

    Attributes
    ----------
    now_ns : int
        The present.
    forwarded, unroutable : int
        Frames the switch passed on, and those it had no port for.
    """

    def __init__(self, int64_t now_ns=1000000000):
        self.now_ns = now_ns
        self.alive = []
        self.port_links = []

    def add_node(self, Stack stack not None, Link link not None):
        """A stack and the link it speaks through. Returns its index."""
        cdef node_t *bigger = <node_t *> realloc(self.nodes, (self.node_count + 1) * sizeof(node_t))
        if bigger == NULL:
            raise MemoryError("no memory for another host")
        self.nodes = bigger
        self.nodes[self.node_count].stack = stack.c
        self.nodes[self.node_count].link = &link.link
        stack_process(stack.c, self.now_ns, BUDGET)              # tells it the time
        self.node_count += 1
        self.alive.append([stack, link])
        return self.node_count - 1

    def replace_stack(self, uint32_t index, Stack stack not None):
        """Put another stack behind a node's link."""
        if index >= self.node_count:
            raise IndexError(f"no node {index}")
        self.nodes[index].stack = stack.c
        self.alive[index][0] = stack

    def add_port(self, Link link not None, addresses):
        """A port of the switch: the far end of a host's link, and the addresses behind it (media IP)."""
        cdef port_t *bigger = <port_t *> realloc(self.ports, (self.port_count + 1) * sizeof(port_t))
        cdef port_t *port
        if bigger == NULL:
            raise MemoryError("no memory for another port")
        if len(addresses) > PORT_ADDRESSES:
            raise ValueError(f"{len(addresses)} addresses: a port has at most {PORT_ADDRESSES}")
        self.ports = bigger
        port = &self.ports[self.port_count]
        memset(port, 0, sizeof(port_t))
        port.link = &link.link
        for text in addresses:
            address_parse(text, &port.addresses[port.count])
            port.count += 1
        self.port_count += 1
        self.port_links.append(link)

    def next_deadline(self):
        """When something is due next, ns; None: never."""
        cdef int64_t deadline = self.deadline()
        return None if deadline == NEVER else deadline

    def settle(self):
        """Let everything that is possible at this moment happen.

        Raises
        ------
        RuntimeError
            It does not come to rest: two hosts answer each other without end at one moment.
        """
        cdef bint rests
        with nogil:
            rests = self.rest()
        if not rests:
            raise RuntimeError(f"the network does not come to rest at {self.now_ns} ns: frames go round without delay")

    def step(self, until=None):
        """Settle, jump to the next deadline and settle there. False when there is none (up to ``until``): time then stays."""
        cdef int64_t deadline
        self.settle()
        deadline = self.deadline()
        if deadline == NEVER or (until is not None and deadline > until):
            return False
        if deadline > self.now_ns:
            self.now_ns = deadline
        self.steps += 1
        self.settle()
        return True

    def jump(self, int64_t now_ns):
        """Move time on to a moment at or before the next deadline, and settle."""
        if now_ns < self.now_ns:
            raise ValueError(f"time does not run backwards: {now_ns} ns lies before {self.now_ns} ns")
        self.now_ns = now_ns
        self.settle()

    cdef int64_t deadline(self) noexcept nogil:
        cdef int64_t first = NEVER, d
        cdef uint32_t i
        cdef link_t *link
        for i in range(self.node_count):
            d = stack_next_deadline(self.nodes[i].stack)
            if d < first:
                first = d
            link = self.nodes[i].link
            d = link.next_deadline(link)
            if d < first:
                first = d
        for i in range(self.port_count):
            link = self.ports[i].link
            d = link.next_deadline(link)
            if d < first:
                first = d
        return first

    cdef bint rest(self) noexcept nogil:
        """Rounds over all nodes and ports until one finds nothing to do."""
        cdef uint32_t i
        cdef int round
        cdef bint busy
        cdef link_t *link
        for round in range(ROUNDS_MAX):
            busy = False
            for i in range(self.node_count):
                link = self.nodes[i].link
                link.advance(link, self.now_ns)
            for i in range(self.node_count):
                if stack_process(self.nodes[i].stack, self.now_ns, BUDGET):
                    busy = True
                if self.nodes[i].stack.tcp.plugin_first != NULL:
                    with gil:
                        plugins_run(&self.nodes[i].stack.tcp)
                    busy = True
                while stack_next_event(self.nodes[i].stack) != NULL:
                    pass                          # nobody waits: simulated programs look again after each step
            for i in range(self.port_count):
                if self.forward(i):
                    busy = True
            for i in range(self.node_count):
                link = self.nodes[i].link
                if link.has_input(link):
                    busy = True
            if not busy:
                return True
        return False

    cdef bint forward(self, uint32_t index) noexcept nogil:
        """Pass on what has arrived at a port. True when there was something."""
        cdef link_t *link = self.ports[index].link
        cdef frame_t frames[BATCH]
        cdef int i, n
        link.advance(link, self.now_ns)
        n = link.receive(link, frames, BATCH)
        for i in range(n):
            if link.media == MEDIA_ETHERNET:
                self.switch_frame(index, &frames[i])
            else:
                self.route_packet(&frames[i])
        link.release(link)
        return n > 0

    cdef void route_packet(self, const frame_t *frame) noexcept nogil:
        """By destination address."""
        cdef address_t dst
        cdef uint32_t i, k, be
        if frame.head_length >= 20 and frame.head[0] >> 4 == 4:
            memcpy(&be, frame.head + 16, 4)
            address_from_v4(&dst, be)
        elif frame.head_length >= 40 and frame.head[0] >> 4 == 6:
            memcpy(&dst, frame.head + 24, 16)
        else:
            self.unroutable += 1
            return
        for i in range(self.port_count):
            for k in range(self.ports[i].count):
                if memcmp(&self.ports[i].addresses[k], &dst, sizeof(address_t)) == 0:
                    self.deliver(i, frame)
                    return
        self.unroutable += 1

    cdef void switch_frame(self, uint32_t source, const frame_t *frame) noexcept nogil:
        """As a learning switch does: by MAC, to all ports while it is unknown."""
        cdef uint32_t i
        if frame.head_length < 14:
            self.unroutable += 1
            return
        if not frame.head[6] & 1:
            memcpy(self.ports[source].mac, frame.head + 6, 6)
            self.ports[source].mac_known = 1
        if not frame.head[0] & 1:
            for i in range(self.port_count):
                if self.ports[i].mac_known and memcmp(self.ports[i].mac, frame.head, 6) == 0:
                    if i != source:
                        self.deliver(i, frame)
                    return
        for i in range(self.port_count):
            if i != source:
                self.deliver(i, frame)

    cdef void deliver(self, uint32_t index, const frame_t *frame) noexcept nogil:
        cdef link_t *link = self.ports[index].link
        if send(link, frame, self.now_ns):
            self.forwarded += 1
            link.flush(link)
        else:
            self.unroutable += 1

    def __dealloc__(self):
        free(self.nodes)
        free(self.ports)
