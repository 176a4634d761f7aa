# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A link that attacks: its input are mutants of templates, and what the stack sends is judged at once.

Each frame lies in memory of exactly its size that is given back when the stack has released it, now and then with head and
body apart; so does each claim. A sanitizer sees every byte beyond. Virtual time, no I/O, one seed decides everything.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from netstack.link.link cimport frame_t, Link, link_t, MEDIA_ETHERNET, MEDIA_IP
from netstack.siphash cimport random_next
from netstack.stack.core cimport stack_next_deadline, stack_next_event, stack_process
from netstack.stack.stack cimport Stack
from netstack.testing.mutants cimport MUTANT_MAX, arp_fault, mutant_make, mutator_t, packet_fault, template_t

cdef enum:
    ETHERNET = 14
    FRAME_MAX = 65535 + ETHERNET
    BUDGET = 4                   # frames of one pass; there is one

cdef int64_t SECOND = 1000000000


cdef struct fuzz_t:
    mutator_t mutator
    uint8_t *head                # of the frame the stack is to read; NULL: none
    uint8_t *body
    uint32_t head_length
    uint32_t body_length
    uint8_t *out_head            # claimed
    uint8_t *out_body
    uint32_t out_head_length
    uint32_t out_body_length
    uint32_t mtu
    uint8_t media
    uint64_t sent
    const char *fault            # of the first frame sent that has one
    uint32_t bad_length
    uint8_t bad[FRAME_MAX]       # that frame; scratch until then


# --- the link ---------------------------------------------------------------------------------------------------------

cdef void drop_claim(fuzz_t *f) noexcept nogil:
    free(f.out_head)
    free(f.out_body)
    f.out_head = f.out_body = NULL


cdef int fuzz_claim(link_t *link, uint32_t head_length, uint32_t body_length, uint8_t **head, uint8_t **body) noexcept nogil:
    cdef fuzz_t *f = <fuzz_t *> link.state
    drop_claim(f)
    if head_length + body_length > FRAME_MAX:
        return -1
    f.out_head = <uint8_t *> malloc(head_length if head_length else 1)
    f.out_body = <uint8_t *> malloc(body_length if body_length else 1)
    if f.out_head == NULL or f.out_body == NULL:
        return -1
    f.out_head_length = head_length
    f.out_body_length = body_length
    head[0] = f.out_head
    body[0] = f.out_body
    return 0


cdef const char *judge(fuzz_t *f, uint32_t n) noexcept nogil:
    """The frame in f.bad."""
    cdef const uint8_t *p = f.bad
    if f.media == MEDIA_IP:
        if n > f.mtu:
            return b"longer than the link carries"
        return packet_fault(p, n)
    if n < ETHERNET or n > f.mtu + ETHERNET:
        return b"no length for a frame"
    if p[6] & 1:
        return b"a frame from a group"
    if p[12] == 0x08 and p[13] == 0x06:
        return arp_fault(p, n)
    if (p[12] == 0x08 and p[13] == 0x00 and p[ETHERNET] >> 4 == 4) or (p[12] == 0x86 and p[13] == 0xdd and p[ETHERNET] >> 4 == 6):
        return packet_fault(p + ETHERNET, n - ETHERNET)
    return b"an ethertype that does not fit"


cdef void fuzz_commit(link_t *link, int64_t now_ns) noexcept nogil:
    cdef fuzz_t *f = <fuzz_t *> link.state
    f.sent += 1
    if f.fault == NULL:
        memcpy(f.bad, f.out_head, f.out_head_length)
        memcpy(f.bad + f.out_head_length, f.out_body, f.out_body_length)
        f.bad_length = f.out_head_length + f.out_body_length
        f.fault = judge(f, f.bad_length)
    drop_claim(f)


cdef int fuzz_receive(link_t *link, frame_t *frames, int n) noexcept nogil:
    cdef fuzz_t *f = <fuzz_t *> link.state
    if f.head == NULL or n < 1:
        return 0
    frames[0].head = f.head
    frames[0].head_length = f.head_length
    frames[0].body = f.body
    frames[0].body_length = f.body_length
    return 1


cdef void fuzz_release(link_t *link) noexcept nogil:
    cdef fuzz_t *f = <fuzz_t *> link.state
    free(f.head)
    free(f.body)
    f.head = f.body = NULL


cdef int fuzz_has_input(link_t *link) noexcept nogil:
    return (<fuzz_t *> link.state).head != NULL


# --- the attack -------------------------------------------------------------------------------------------------------

cdef bint lay(fuzz_t *f, const uint8_t *frame, uint32_t n) noexcept nogil:
    """The next frame for the stack, one in four cut in two somewhere."""
    cdef uint64_t r = random_next(f.mutator.random)
    cdef uint32_t split = <uint32_t> (r >> 8) % n + 1 if (r >> 4) & 3 == 0 else n
    fuzz_release_frame(f)
    f.head = <uint8_t *> malloc(split)
    f.body = <uint8_t *> malloc(n - split) if split < n else NULL
    if f.head == NULL or (split < n and f.body == NULL):
        return False
    memcpy(f.head, frame, split)
    if split < n:
        memcpy(f.body, frame + split, n - split)
    f.head_length = split
    f.body_length = n - split
    return True


cdef void fuzz_release_frame(fuzz_t *f) noexcept nogil:
    free(f.head)
    free(f.body)
    f.head = f.body = NULL


cdef int64_t pause(fuzz_t *f) noexcept nogil:
    """Mostly microseconds; seconds for timers, minutes for lifetimes."""
    cdef uint64_t r = random_next(f.mutator.random) >> 20
    if r % 4096 == 0:
        return 100 * SECOND
    if r % 256 == 0:
        return SECOND
    if r % 32 == 0:
        return 10 * SECOND // 1000
    return <int64_t> (r >> 12) % 2000


cdef class FuzzLink(Link):
    """The link of a stack under attack.

    Parameters
    ----------
    templates : iterable of (bytes, int)
        Valid frames, at most 2,048 bytes each, and from which byte on most changes are made.
    seed : int
    mtu : int
    media : str
        ``"ip"`` or ``"ethernet"``.
    calm : int
        One in so many frames stays as it is.
    number_at : int, optional
        Where a 16-bit number stands, such as a datagram's, that is another after some frames.

    Attributes
    ----------
    injected, sent : int
        Frames given to the stack, and frames that it sent.
    worst : int
        Most frames sent in answer to one, timers that were due with it included.
    now_ns : int
        The time.

    Examples
    --------
    >>> from netstack.config import StackConfig
    >>> from netstack.stack import Stack
    >>> from netstack.testing import FuzzLink, build_icmp
    >>> link = FuzzLink([(build_icmp("10.0.0.2", "10.0.0.1", 8), 20)], seed=1)
    >>> link.attack(Stack(StackConfig(addresses=("10.0.0.1/24",), seed=1), links=[link]), 1000)
    """

    cdef fuzz_t *f
    cdef readonly uint64_t injected
    cdef readonly uint64_t worst
    cdef readonly int64_t now_ns
    cdef bytes _last

    def __cinit__(self, templates, uint64_t seed, *, uint32_t mtu=1500, str media="ip",
                  uint32_t calm=8, uint32_t number_at=0):
        cdef bytes frame
        cdef template_t *t
        templates = list(templates)
        if not templates:
            raise ValueError("no templates to make mutants of")
        if calm == 0:
            raise ValueError("calm 0: one in 1 or more")
        if media not in ("ip", "ethernet"):
            raise ValueError(f"media {media!r}: say 'ip' or 'ethernet'")
        self.f = <fuzz_t *> calloc(1, sizeof(fuzz_t))
        if self.f == NULL:
            raise MemoryError
        self.f.mutator.templates = <template_t *> calloc(len(templates), sizeof(template_t))
        if self.f.mutator.templates == NULL:
            raise MemoryError
        for frame, focus in templates:
            if not 0 < len(frame) <= MUTANT_MAX:
                raise ValueError(f"a template of {len(frame)} bytes: 1 to {MUTANT_MAX}")
            t = &self.f.mutator.templates[self.f.mutator.count]
            t.bytes = <uint8_t *> malloc(len(frame))
            if t.bytes == NULL:
                raise MemoryError
            memcpy(t.bytes, <const char *> frame, len(frame))
            t.length = <uint32_t> len(frame)
            t.focus = focus
            self.f.mutator.count += 1
        self.f.mutator.random[0] = seed * 2 + 1
        self.f.mutator.random[1] = seed ^ <uint64_t> 0x9e3779b97f4a7c15
        self.f.mutator.calm = calm
        self.f.mutator.number_at = number_at
        self.f.mtu = mtu
        self.f.media = MEDIA_ETHERNET if media == "ethernet" else MEDIA_IP
        self.f.mutator.link_header = ETHERNET if media == "ethernet" else 0
        self.now_ns = SECOND
        self.link.state = self.f
        self.link.mtu = mtu
        self.link.media = self.f.media
        self.link.claim = fuzz_claim
        self.link.commit = fuzz_commit
        self.link.receive = fuzz_receive
        self.link.release = fuzz_release
        self.link.has_input = fuzz_has_input

    def __dealloc__(self):
        cdef uint32_t i
        if self.f != NULL:
            for i in range(self.f.mutator.count):
                free(self.f.mutator.templates[i].bytes)
            free(self.f.mutator.templates)
            fuzz_release_frame(self.f)
            drop_claim(self.f)
            free(self.f)

    @property
    def sent(self):
        return self.f.sent

    @property
    def last(self):
        """The latest mutant."""
        return self._last

    def attack(self, Stack stack not None, uint64_t count):
        """Give the stack so many mutants.

        Raises
        ------
        AssertionError
            It sent something that no stack may send.
        """
        cdef uint8_t frame[MUTANT_MAX]
        cdef uint32_t n = 0
        cdef uint64_t i, before
        cdef bint room = True
        with nogil:
            for i in range(count):
                self.now_ns += pause(self.f)
                n = mutant_make(&self.f.mutator, frame)
                room = lay(self.f, frame, n)
                if not room:
                    break
                before = self.f.sent
                stack_process(stack.c, self.now_ns, BUDGET)
                while stack_next_event(stack.c) != NULL:
                    pass
                self.injected += 1
                if self.f.sent - before > self.worst:
                    self.worst = self.f.sent - before
                if self.f.fault != NULL:
                    break
        if not room:
            raise MemoryError
        self._last = frame[:n]
        self.complain()

    def settle(self, Stack stack not None, int64_t seconds):
        """Let time pass without frames: every timer that is due by then fires at its own time."""
        cdef int64_t end = self.now_ns + seconds * SECOND, d
        with nogil:
            while True:
                d = stack_next_deadline(stack.c)
                if d > end:
                    break
                if d > self.now_ns:
                    self.now_ns = d
                stack_process(stack.c, self.now_ns, BUDGET)
                while stack_next_event(stack.c) != NULL:
                    pass
            self.now_ns = end
            stack_process(stack.c, end, BUDGET)
        self.complain()

    cdef complain(self):
        if self.f.fault != NULL:
            raise AssertionError(
                f"{(<bytes> self.f.fault).decode()}, frame {self.injected}: "
                f"{self.f.bad[:self.f.bad_length].hex()} in answer to {self._last.hex() if self._last else 'nothing'}")
