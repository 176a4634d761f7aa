"""The memory itself: names, seals, sizes, no room, and what a crash leaves."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

import rings
from rings import shared_memory

SIZE = 8192


def test_a_region_is_zeroed_private_to_us_and_shared_by_its_fd(backend):
    with shared_memory.create(SIZE, backend) as region:
        assert (region.size, region.backend, region.name) == (SIZE, backend, None)
        status = os.fstat(region.fd)
        assert status.st_size == SIZE
        assert status.st_blocks * 512 >= SIZE  # every page is there
        if backend == "posix":
            assert status.st_mode & 0o777 == 0o600
            assert status.st_nlink == 0  # no name any more
        assert not os.get_inheritable(region.fd)
        assert bytes(region.buf) == bytes(SIZE)
        with shared_memory.attach(os.dup(region.fd), SIZE, backend) as other:
            assert other.address != region.address
            other.buf[5:8] = b"abc"
            assert bytes(region.buf[5:8]) == b"abc"


def test_a_region_in_use_is_not_unmapped(backend):
    region = shared_memory.create(SIZE, backend)
    view = region.buf
    with pytest.raises(BufferError):
        region.close()
    view[0] = 1
    view.release()
    region.close()
    region.close()
    with pytest.raises(ValueError, match="closed"):
        memoryview(region.mapping)


def test_a_read_only_mapping_refuses_writers(backend):
    with shared_memory.create(SIZE, backend) as region:
        with shared_memory.attach(os.dup(region.fd), SIZE, backend, writable=False) as other:
            assert other.buf.readonly
            with pytest.raises(TypeError):
                other.buf[0] = 1


def test_wrong_sizes_and_options_are_refused(backend):
    with pytest.raises(ValueError):
        shared_memory.create(0, backend)
    with pytest.raises(ValueError, match="posix, memfd"):
        shared_memory.create(SIZE, "disk")
    with shared_memory.create(SIZE, backend) as region:
        for size in (SIZE - 1, SIZE * 2, 0):
            with pytest.raises(rings.RegionMismatch, match="agreed"):
                shared_memory.attach(os.dup(region.fd), size, backend)
        with pytest.raises(ValueError):
            shared_memory.attach(os.dup(region.fd), SIZE, "disk")
    with pytest.raises(ValueError):
        shared_memory.create(SIZE, "posix", single_writer=True)
    with pytest.raises(ValueError):
        shared_memory.create(SIZE, "memfd", named=True)


def test_a_memfd_cannot_be_truncated_grown_or_unsealed():
    with shared_memory.create(SIZE, "memfd") as region:
        for size in (0, SIZE - 4096, SIZE + 4096):
            with pytest.raises(PermissionError):
                os.ftruncate(region.fd, size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(region.fd, shared_memory.F_ADD_SEALS, 0x0008)
        region.buf[SIZE - 1] = 7


def test_a_truncated_posix_segment_is_refused_at_attach():
    with shared_memory.create(SIZE, "posix") as region:
        os.ftruncate(region.fd, 4096)
        with pytest.raises(rings.RegionMismatch):
            shared_memory.attach(os.dup(region.fd), SIZE, "posix")


@pytest.mark.parametrize(
    "seals",
    [
        None,
        0,
        shared_memory.F_SEAL_SHRINK,
        shared_memory.F_SEAL_SHRINK | shared_memory.F_SEAL_GROW,
        shared_memory.SEALS | 0x0008,
    ],
)
def test_only_exactly_sealed_memfds_are_attached(seals):
    fd = os.memfd_create("test", os.MFD_CLOEXEC | (os.MFD_ALLOW_SEALING if seals is not None else 0))
    os.ftruncate(fd, SIZE)
    if seals:
        fcntl.fcntl(fd, shared_memory.F_ADD_SEALS, seals)
    with pytest.raises(rings.RegionMismatch, match="seal"):
        shared_memory.attach(fd, SIZE, "memfd")
    with pytest.raises(OSError):
        os.fstat(fd)  # taken over, and closed


def test_a_file_is_no_memfd(tmp_path):
    (tmp_path / "file").write_bytes(bytes(SIZE))
    with pytest.raises(rings.RegionMismatch):
        shared_memory.attach(os.open(tmp_path / "file", os.O_RDWR), SIZE, "memfd")


def test_memory_with_a_single_writer_cannot_be_mapped_writable_again():
    with shared_memory.create(SIZE, "memfd", single_writer=True) as region:
        region.buf[0] = 9
        with pytest.raises(PermissionError):
            shared_memory.attach(os.dup(region.fd), SIZE, "memfd")
        with pytest.raises(PermissionError):
            os.write(region.fd, b"x")
        reader = shared_memory.attach(
            os.dup(region.fd), SIZE, "memfd", writable=False, single_writer=True
        )
        with reader:
            assert reader.buf[0] == 9
        with pytest.raises(rings.RegionMismatch):
            shared_memory.attach(os.dup(region.fd), SIZE, "memfd", writable=False, single_writer=False)


def test_a_name_goes_as_soon_as_both_hold_it():
    with shared_memory.create(SIZE, "posix", named=True) as region:
        name = region.name
        assert shared_memory.NAME.fullmatch(name) and os.path.exists(f"/dev/shm/{name}")
        with shared_memory.attach_name(name, SIZE) as other:
            assert not os.path.exists(f"/dev/shm/{name}")
            other.buf[0] = 3
            assert region.buf[0] == 3
        with pytest.raises(FileNotFoundError):
            shared_memory.attach_name(name, SIZE)


def test_a_name_open_to_others_is_not_attached():
    with shared_memory.create(SIZE, "posix", named=True) as region:
        os.fchmod(region.fd, 0o666)
        with pytest.raises(rings.RegionMismatch, match="ours alone"):
            shared_memory.attach_name(region.name, SIZE)


def test_the_sweeper_takes_what_the_dead_left_and_nothing_else(in_child):
    told, tell = os.pipe()

    def child():
        region = shared_memory.create(SIZE, "posix", named=True)
        os.write(tell, region.name.encode())
        os.kill(os.getpid(), signal.SIGKILL)

    pid = in_child(child)
    os.waitpid(pid, 0)
    dead = os.read(told, 100).decode()
    os.close(told)
    os.close(tell)
    foreign = "/dev/shm/ns-not-one-of-ours"
    with open(foreign, "w"), shared_memory.create(SIZE, "posix", named=True) as living:
        try:
            assert dead not in shared_memory.sweep(min_age_s=3600)
            assert os.path.exists(f"/dev/shm/{dead}")
            removed = rings.sweep(min_age_s=0)
            assert dead in removed
            assert not os.path.exists(f"/dev/shm/{dead}")
            assert living.name not in removed and os.path.exists(f"/dev/shm/{living.name}")
            assert os.path.exists(foreign)
        finally:
            os.unlink(foreign)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_no_room_is_said_at_creation_and_leaves_nothing(backend, number, monkeypatch):
    def refuse(fd, offset, length):
        raise OSError(number, "refused")

    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    for make in (
        lambda: shared_memory.create(SIZE, backend),
        lambda: rings.ring(4096, backend),
        lambda: rings.channel_pair(4096, backend),
    ):
        with pytest.raises(OSError, match="bytes of shared memory") as caught:
            make()
        assert caught.value.errno == number
    assert set(os.listdir("/proc/self/fd")) == before


SMALL_SHM = """
import os, subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", "/dev/shm"], check=True)
import rings
try:
    rings.ring(1 << 20, "posix")
except OSError as error:
    print(os.strerror(error.errno))
print(os.listdir("/dev/shm"))
"""


def test_a_full_file_system_is_no_sigbus():
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", SMALL_SHM], capture_output=True, text=True, timeout=60
    )
    if "mount" in done.stderr and done.returncode:
        pytest.skip("cannot mount a tmpfs here")
    assert done.stdout == "No space left on device\n[]\n", done.stderr


def test_no_fd_left_is_said_and_leaves_nothing(backend):
    import resource

    before = set(os.listdir("/proc/self/fd"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = max(map(int, before))
    try:
        for more in range(1, 5):
            resource.setrlimit(resource.RLIMIT_NOFILE, (top + more, limits[1]))
            try:
                made = rings.channel_pair(4096, backend)
            except OSError as error:
                assert error.errno in (errno.EMFILE, errno.ENFILE)
            else:
                for side in made:
                    side.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert set(os.listdir("/proc/self/fd")) == before
