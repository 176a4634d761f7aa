"""Checksum-and-copy beside a plain copy and beside copy, then sum; from Python.

Figures without Python around them: ``bench/c/checksum_bench.c``.
"""

import pytest

from netstack.wire import checksum

SIZES = [64, 536, 1460, 8960, 65483]


@pytest.fixture(params=SIZES)
def buffers(request):
    size = request.param
    return bytearray(size), bytes(range(256)) * (size // 256) + bytes(size % 256)


@pytest.mark.benchmark(group="checksum")
def test_checksum_and_copy(benchmark, buffers):
    dst, src = buffers
    benchmark(checksum.copy, dst, src)
    assert dst == src


@pytest.mark.benchmark(group="checksum")
def test_checksum_and_copy_to_two_places(benchmark, buffers):
    dst, src = buffers
    other = bytearray(len(src))
    benchmark(checksum.copy2, dst, other, src)
    assert dst == src and other == src


@pytest.mark.benchmark(group="checksum")
def test_copy_then_checksum(benchmark, buffers):
    dst, src = buffers
    view = memoryview(dst)

    def copy_then_sum():
        view[:] = src
        return checksum.partial(dst)

    assert benchmark(copy_then_sum) == checksum.partial(src)


@pytest.mark.benchmark(group="checksum")
def test_plain_copy(benchmark, buffers):
    dst, src = buffers
    view = memoryview(dst)
    benchmark(view.__setitem__, slice(None), src)
    assert dst == src
