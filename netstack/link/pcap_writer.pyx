# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Write each frame that passes a link to a capture file that Wireshark, tshark and scapy read.

pcapng by default (draft-ietf-opsawg-pcapng): nanosecond time stamps and the direction of each frame; the older pcap
format (nanosecond magic) on demand. Frames gather in a private buffer that is written when it is full, once a second
of the time told, and on closing. A failing disk ends the capture, never the traffic.
"""

import contextlib
import os
import time

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport close as close_fd, getpid, write

from netstack.link.link cimport Link, link_t, MEDIA_ETHERNET
from netstack.link.tee cimport tee_init, tee_t
from netstack.link.wrapper cimport Wrapper

from netstack.errors import LinkError
from netstack.link import pcapng

cdef enum:
    BUFFER_BYTES = 256 << 10
    SNAP_MAX = 65535 + 18        # the largest IP packet in a tagged Ethernet frame
    WRITE_EVERY_NS = 1000000000
    EPB_FIXED = 28               # enhanced packet block up to the data
    EPB_TAIL = 16                # option epb_flags, end of options, length again
    KEYS_PLACE = 64 << 10        # for some seventy connections
    KEYS_PIECE = 4096

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int fd, void *data, size_t n, int64_t at)
    ssize_t pwrite(int fd, const void *data, size_t n, int64_t at)


cdef void put_u16(uint8_t *at, uint16_t value) noexcept nogil:
    memcpy(at, &value, 2)


cdef void put_u32(uint8_t *at, uint32_t value) noexcept nogil:
    memcpy(at, &value, 4)


cdef ssize_t whole_lines(const uint8_t *text, ssize_t n) noexcept nogil:
    while n > 0 and text[n - 1] != 10:
        n -= 1
    return n


cdef void write_keys(pcap_t *p) noexcept nogil:
    """What the key log has now goes to its place in front of the packets; when that is full, here, between them."""
    cdef uint8_t[20 + KEYS_PIECE + 8] block
    cdef uint8_t *text = block + 16
    cdef ssize_t n, fits
    cdef uint32_t padded
    while True:
        n = whole_lines(text, pread(p.keys_fd, text, KEYS_PIECE, p.keys_at))
        if n <= 0:
            return
        fits = whole_lines(text, min(n, p.place_end - p.place_at))
        if fits > 0:
            if pwrite(p.fd, text, <size_t> fits, p.place_at) != fits:
                return
            p.place_at += fits
            p.keys_at += fits
            continue
        p.place_end = p.place_at
        padded = <uint32_t> (n + 3) & ~<uint32_t> 3
        put_u32(block, 10)                        # Decryption Secrets Block
        put_u32(block + 4, padded + 20)
        put_u32(block + 8, 0x544c534b)            # TLS key log
        put_u32(block + 12, <uint32_t> n)
        memset(text + n, 0, padded - <size_t> n)
        put_u32(text + padded, padded + 20)
        if write(p.fd, block, padded + 20) != <ssize_t> padded + 20:
            return
        p.keys_at += n


cdef void write_out(pcap_t *p) noexcept nogil:
    """Write the whole buffer; on an error the capture ends here."""
    cdef uint32_t done = 0
    cdef ssize_t n
    if p.fd < 0:
        return
    if p.keys_fd >= 0 and p.frames:               # the file's head is out
        write_keys(p)
    while done < p.used:
        n = write(p.fd, p.buffer + done, p.used - done)
        if n < 0:
            if errno == EINTR:
                continue
            p.error = errno
            p.tee.on = 0
            break
        done += <uint32_t> n
    p.used = 0
    p.written_ns = p.tee.now_ns


cdef void copy_frame(uint8_t *at, const uint8_t *head, uint32_t head_length, const uint8_t *body,
                     uint32_t captured) noexcept nogil:
    if captured <= head_length:
        memcpy(at, head, captured)
    else:
        memcpy(at, head, head_length)
        memcpy(at + head_length, body, captured - head_length)


cdef void capture(tee_t *tee, int direction, const uint8_t *head, uint32_t head_length,
                  const uint8_t *body, uint32_t body_length) noexcept nogil:
    cdef pcap_t *p = <pcap_t *> tee
    cdef uint32_t length = head_length + body_length
    cdef uint32_t captured = length if length < p.snap_length else p.snap_length
    cdef uint32_t padded = (captured + 3) & ~<uint32_t> 3
    cdef uint32_t block = EPB_FIXED + padded + EPB_TAIL
    cdef uint64_t t = <uint64_t> (tee.now_ns + p.wall_offset_ns)
    cdef uint8_t *at
    if p.used + block > p.capacity:
        write_out(p)
        if p.error:
            p.missed += 1
            return
    p.frames += 1
    at = p.buffer + p.used
    if p.classic:
        put_u32(at, <uint32_t> (t // 1000000000))
        put_u32(at + 4, <uint32_t> (t % 1000000000))
        put_u32(at + 8, captured)
        put_u32(at + 12, length)
        copy_frame(at + 16, head, head_length, body, captured)
        p.used += 16 + captured
        return
    put_u32(at, 6)                                # Enhanced Packet Block
    put_u32(at + 4, block)
    put_u32(at + 8, 0)                            # interface
    put_u32(at + 12, <uint32_t> (t >> 32))
    put_u32(at + 16, <uint32_t> t)
    put_u32(at + 20, captured)
    put_u32(at + 24, length)
    copy_frame(at + EPB_FIXED, head, head_length, body, captured)
    memset(at + EPB_FIXED + captured, 0, padded - captured)
    at += EPB_FIXED + padded
    put_u16(at, 2)                                # epb_flags: 1 inbound, 2 outbound
    put_u16(at + 2, 4)
    put_u32(at + 4, <uint32_t> direction)
    put_u32(at + 8, 0)                            # opt_endofopt
    put_u32(at + 12, block)
    p.used += block


cdef void pcap_advance(link_t *self, int64_t now_ns) noexcept nogil:
    cdef pcap_t *p = <pcap_t *> self.state
    cdef link_t *inner = p.tee.wrapper.inner
    if now_ns > p.tee.now_ns:
        p.tee.now_ns = now_ns
    if p.used and now_ns - p.written_ns >= WRITE_EVERY_NS:
        write_out(p)
    inner.advance(inner, now_ns)


cdef class PcapWriter(Wrapper):
    """A link whose frames, both ways, go into a capture file.

    Parameters
    ----------
    inner : Link
        The link to wrap.
    file : str, os.PathLike, int or file object
        A path (made or emptied), or an open file or descriptor, which stays open.
    format : str
        ``"pcapng"`` or ``"pcap"``.
    snap_length : int, optional
        Keep at most this many bytes of a frame. Default: all.
    wall_offset_ns : int, optional
        What to add to the driver's time to get nanoseconds since 1970. Default: right for a driver that uses
        ``CLOCK_MONOTONIC``; give 0 on virtual time.
    name : str
        Name of the interface in the file.
    key_log : (int, int), optional
        Descriptor of a key log of TLS (`netstack.key_log.start`) and where in it to begin: what is written there goes into
        the file as secrets, with which Wireshark and tshark decrypt. A path is then made for its owner alone.

    Raises
    ------
    LinkError
        The file cannot be written (also the built-in `OSError` with its errno).
    ValueError
        Unknown format.

    Notes
    -----
    A received frame carries the last time the driver told the link. `flush_file` writes out what has gathered.
    """

    def __cinit__(self, *args, **kwargs):
        self.state.fd = self.state.keys_fd = -1

    def __init__(self, Link inner not None, file, *, format="pcapng", snap_length=None, wall_offset_ns=None,
                 name="netstack0", key_log=None):
        cdef pcap_t *p = &self.state
        cdef bytes header
        if format not in ("pcapng", "pcap"):
            raise ValueError(f"format {format!r}: say 'pcapng' or 'pcap'")
        if snap_length is not None and snap_length < 1:
            raise ValueError(f"snap_length {snap_length}: keep at least one byte")
        self.inner = inner
        self.pid = getpid()
        tee_init(&self.link, &p.tee, &inner.link)
        self.link.state = p
        self.link.advance = pcap_advance
        p.tee.on_frame = capture
        p.classic = format == "pcap"
        if key_log is not None and p.classic:
            raise ValueError("a key log has its place in a pcapng file only")
        p.snap_length = SNAP_MAX if snap_length is None else min(snap_length, SNAP_MAX)
        p.wall_offset_ns = time.time_ns() - time.monotonic_ns() if wall_offset_ns is None else wall_offset_ns
        p.buffer = <uint8_t *> malloc(BUFFER_BYTES)
        if p.buffer == NULL:
            raise MemoryError("no memory for the capture buffer")
        p.capacity = BUFFER_BYTES
        self.path = None
        if isinstance(file, int):
            p.fd = file
        elif hasattr(file, "fileno"):
            self.file = file                      # keeps the descriptor open
            file.flush()
            p.fd = file.fileno()
        else:
            self.path = os.fspath(file)
            try:
                p.fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC,
                               0o644 if key_log is None else 0o600)
            except OSError as error:
                raise LinkError(error.errno, f"cannot write the capture: {error.strerror}", self.path) from error
            self.owns_fd = True
        link_type = pcapng.LINKTYPE_ETHERNET if inner.link.media == MEDIA_ETHERNET else pcapng.LINKTYPE_RAW
        if p.classic:
            header = pcapng.classic_header(link_type, p.snap_length)
        else:
            header = pcapng.file_header(link_type, p.snap_length, name)
        memcpy(p.buffer, <const uint8_t *> header, len(header))
        p.used = <uint32_t> len(header)
        if key_log is not None:
            self.keep_keys(*key_log)
        p.tee.on = 1

    def keep_keys(self, fd, at):
        """Write the file's head, with a place for keys where that can be filled later: a pipe has none."""
        cdef pcap_t *p = &self.state
        p.keys_fd = os.dup(fd)
        p.keys_at = at
        self.flush_file()
        with contextlib.suppress(OSError):
            place = os.lseek(p.fd, 0, os.SEEK_CUR) + pcapng.SECRETS_TEXT_AT
            os.write(p.fd, pcapng.secrets(b"\n" * KEYS_PLACE))
            p.place_at = place
            p.place_end = place + KEYS_PLACE

    def flush_file(self):
        """Write out what has gathered.

        Raises
        ------
        LinkError
            The capture ended because a write failed.
        """
        with nogil:
            write_out(&self.state)
        if self.state.error:
            raise LinkError(self.state.error, f"the capture ended: {os.strerror(self.state.error)}", self.path)

    @property
    def frames(self):
        """How many frames were captured."""
        return self.state.frames

    @property
    def missed(self):
        """Frames that passed after a write had failed."""
        return self.state.missed

    def stop(self):
        """End the capture and close the file; the link goes on."""
        cdef int fd = self.state.fd
        self.state.tee.on = 0
        write_out(&self.state)
        self.state.fd = -1
        if self.owns_fd and fd >= 0:
            os.close(fd)
        self.owns_fd = False
        if self.state.keys_fd >= 0:
            os.close(self.state.keys_fd)
            self.state.keys_fd = -1

    def close(self):
        """End the capture, close the file, close the inner link."""
        self.stop()
        Wrapper.close(self)

    def __dealloc__(self):
        if self.state.fd >= 0 and self.pid == getpid():     # a forked child must not write the parent's frames
            write_out(&self.state)
        if self.owns_fd and self.state.fd >= 0:
            close_fd(self.state.fd)
        if self.state.keys_fd >= 0:
            close_fd(self.state.keys_fd)
        free(self.state.buffer)
