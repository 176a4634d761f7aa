"""The Internet checksum (RFC 1071) for Python: sum, sum-and-copy, combine, update.

Compiled code cimports the functions of ``netstack/inet_checksum.h`` from here; this
module shows the same functions to Python. Checks and old or new words are numbers as
read from the packet in network order. Partial sums are opaque 32-bit numbers in the
machine's byte order: only `combine`, `fold` and `finish` make sense of them.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from netstack.wire.byte_order cimport be16_to_host, host_to_be16, load_native16, load_native32

__all__ = ["checksum", "combine", "copy", "copy2", "cpu_features", "finish", "fold", "level",
           "partial", "pseudo_header", "select", "update"]

cdef dict LEVELS = {
    "best": CHECKSUM_LEVEL_BEST,
    "baseline": CHECKSUM_LEVEL_PLAIN,
    "avx2": CHECKSUM_LEVEL_AVX2,
    "avx512": CHECKSUM_LEVEL_AVX512,
    "avx512vnni": CHECKSUM_LEVEL_AVX512VNNI,
    "neon": CHECKSUM_LEVEL_NEON,
}
cdef dict NAMES = {number: name for name, number in LEVELS.items()}

# Below this many bytes giving up the GIL costs more than the sum.
cdef size_t GIL_KEPT_BYTES = 65536


cdef uint32_t sum_of(const void *p, size_t n) noexcept:
    """Partial sum; long runs let other threads go on."""
    cdef uint32_t sum
    if n < GIL_KEPT_BYTES:
        return checksum_partial(p, n)
    with nogil:
        sum = checksum_partial(p, n)
    return sum


def partial(data, /):
    """Partial sum of bytes that start at an even offset of the whole.

    Parameters
    ----------
    data : bytes-like
        An odd last byte counts as if a zero byte followed (RFC 1071 section 1).

    Returns
    -------
    int
        32 bits; see `combine`, `fold` and `finish`.
    """
    cdef Py_buffer view
    cdef uint32_t sum
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    sum = sum_of(view.buf, <size_t>view.len)
    PyBuffer_Release(&view)
    return sum


def checksum(data, /, uint32_t initial=0):
    """The Internet checksum of bytes (RFC 1071).

    Parameters
    ----------
    data : bytes-like
        The packet, its check field zero; or with the field in place: then 0 means good.
    initial : int
        A partial sum to start from, such as `pseudo_header`.

    Returns
    -------
    int
        The check field in network order, 0 to 65535.

    Examples
    --------
    >>> hex(checksum(bytes.fromhex("0001f203f4f5f6f7")))
    '0x220d'
    """
    return finish(combine(partial(data), initial))


def copy(dst, src, /):
    """Copy bytes and sum them in the same pass: each byte of `src` is loaded once.

    Another process may rewrite `src` meanwhile: the sum is that of the bytes in `dst`.

    Parameters
    ----------
    dst : writable bytes-like
    src : bytes-like
        As long as `dst`; the two do not overlap.

    Returns
    -------
    int
        The partial sum.

    Raises
    ------
    ValueError
        Lengths differ, or the memory overlaps.
    """
    return copy2(dst, None, src)


def copy2(dst, dst2, src, /):
    """`copy` to two places at once. `dst2` may be None.

    Raises
    ------
    ValueError
        Lengths differ, or the memory of `src` and a destination, or of both destinations, overlaps.
    """
    cdef Py_buffer views[3]
    cdef int held = 0
    cdef size_t n
    cdef uint32_t sum
    cdef bint two = dst2 is not None
    try:
        PyObject_GetBuffer(src, &views[0], PyBUF_SIMPLE)
        held = 1
        PyObject_GetBuffer(dst, &views[1], PyBUF_WRITABLE)
        held = 2
        if two:
            PyObject_GetBuffer(dst2, &views[2], PyBUF_WRITABLE)
            held = 3
        n = <size_t>views[0].len
        for i in range(1, held):
            if <size_t>views[i].len != n:
                raise ValueError(f"copy {n} bytes into {views[i].len}: lengths must be equal")
            for j in range(i):
                if overlap(<size_t>views[i].buf, <size_t>views[j].buf, n):
                    raise ValueError("copy: the memory of source and destinations overlaps")
        if two:
            if n < GIL_KEPT_BYTES:
                return checksum_and_copy2(views[1].buf, views[2].buf, views[0].buf, n)
            with nogil:
                sum = checksum_and_copy2(views[1].buf, views[2].buf, views[0].buf, n)
            return sum
        if n < GIL_KEPT_BYTES:
            return checksum_and_copy(views[1].buf, views[0].buf, n)
        with nogil:
            sum = checksum_and_copy(views[1].buf, views[0].buf, n)
        return sum
    finally:
        for i in range(held):
            PyBuffer_Release(&views[i])


cdef bint overlap(size_t a, size_t b, size_t n) noexcept:
    return a < b + n and b < a + n


def combine(uint32_t a, uint32_t b, size_t offset=0):
    """Add `b`, the partial sum of bytes that start at `offset` in the whole, to `a`.

    Parameters
    ----------
    a, b : int
        Partial sums.
    offset : int
        In bytes. Odd: the bytes of `b` trade places (RFC 1071 section 2.B).
    """
    return checksum_combine(a, b, offset)


def fold(uint32_t sum, /):
    """The sum of 16-bit words a partial sum stands for, not complemented, network order."""
    return be16_to_host(checksum_fold(sum))


def finish(uint32_t sum, /):
    """The check field of a partial sum, network order."""
    return be16_to_host(checksum_finish(sum))


def update(uint16_t check, old, new, /):
    """The check field after covered bytes changed (RFC 1624 equation 3).

    Parameters
    ----------
    check : int
        The field before, network order.
    old, new : bytes-like
        The bytes before and after, of equal and even length, at an even offset.

    Raises
    ------
    ValueError
        Lengths differ or are odd.
    """
    cdef bytes was = bytes(old)
    cdef bytes now = bytes(new)
    cdef const unsigned char *p = was
    cdef const unsigned char *q = now
    cdef Py_ssize_t i, n = len(was)
    cdef uint16_t field = host_to_be16(check)
    if n != len(now) or n & 1:
        raise ValueError(f"update: {n} and {len(now)} bytes; lengths must be equal and even")
    for i in range(0, n - 3, 4):
        field = checksum_update32(field, load_native32(p + i), load_native32(q + i))
    if n & 2:
        field = checksum_update16(field, load_native16(p + n - 2), load_native16(q + n - 2))
    return be16_to_host(field)


def pseudo_header(source, destination, uint8_t protocol, uint32_t length):
    """Partial sum of the pseudo header of TCP, UDP or ICMPv6.

    Parameters
    ----------
    source, destination : bytes-like
        4 bytes each (RFC 9293 section 3.1) or 16 (RFC 8200 section 8.1).
    protocol : int
        The protocol number.
    length : int
        Header and data of the upper layer in bytes.

    Raises
    ------
    ValueError
        Addresses of other or unequal lengths, or more than 65535 bytes in IPv4.
    """
    cdef bytes src = bytes(source)
    cdef bytes dst = bytes(destination)
    cdef const unsigned char *s = src
    cdef const unsigned char *d = dst
    if len(src) == 4 and len(dst) == 4:
        if length > 0xffff:
            raise ValueError(f"pseudo header of {length} bytes: IPv4 carries at most 65535")
        return checksum_pseudo_ipv4(load_native32(s), load_native32(d), protocol, <uint16_t>length)
    if len(src) == 16 and len(dst) == 16:
        return checksum_pseudo_ipv6(s, d, protocol, length)
    raise ValueError(f"pseudo header: addresses of {len(src)} and {len(dst)} bytes; say 4 and 4, or 16 and 16")


def cpu_features():
    """The levels this machine has, the plainest first; all compute the same.

    Returns
    -------
    tuple of str
        Of ``"baseline"``, ``"avx2"``, ``"avx512"``, ``"avx512vnni"`` (x86-64) and ``"neon"`` (aarch64).
    """
    cdef int before = checksum_level()
    found = [name for name, number in LEVELS.items() if number >= 0 and checksum_select(number) == number]
    checksum_select(before)
    return tuple(found)


def level():
    """The level in use in this module."""
    return NAMES[checksum_level()]


def select(str name not None, /):
    """Use a level from now on, in this module; for tests and measurements.

    The environment variable ``NETSTACK_CPU`` caps the level of every module of the
    package when it is loaded. Not for use while other threads compute sums.

    Parameters
    ----------
    name : str
        One of `cpu_features`, or ``"best"``.

    Raises
    ------
    ValueError
        This machine lacks that level.
    """
    if name != "best" and name not in cpu_features():
        raise ValueError(f"level {name!r}: this machine has {', '.join(cpu_features())}")
    checksum_select(LEVELS[name])
