"""ICMP errors about TCP: RFC 9293 section 3.9.2.2, RFC 5927; security row C10."""

import errno

import pytest

from netstack.testing import build_icmp, is_tcp

from .tools import SO_ERROR, SOL_SOCKET, SYNCHRONIZED, A, B, reach

HARD = {2: errno.ENOPROTOOPT, 3: errno.ECONNREFUSED, 9: errno.ENETUNREACH, 13: errno.EHOSTUNREACH}   # 9, 13: prohibited
SOFT = {0: errno.ENETUNREACH, 1: errno.EHOSTUNREACH, 5: errno.EOPNOTSUPP}


def complain(s, code, seq, *, kind=3):
    """An error about a segment of the stack with that relative sequence number."""
    irs = s.flow.irs
    head = s.flow.build("A")                                  # addresses and ports the other way round
    quoted = bytearray(head[:28])
    quoted[12:16], quoted[16:20] = head[16:20], head[12:16]
    quoted[20:22], quoted[22:24] = head[22:24], head[20:22]
    quoted[24:28] = (irs + seq & 0xFFFFFFFF).to_bytes(4, "big")
    s.peer.inject(build_icmp(B, A, kind, code, payload=bytes(quoted)))


def opening():
    s = reach("SYN_SENT")
    s.flow.irs = s.sock.info()["iss"]
    return s


@pytest.mark.parametrize("code", HARD)
def test_a_hard_error_ends_an_attempt(code):
    s = opening()
    complain(s, code, 0)
    assert s.state == "CLOSED" and s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == HARD[code]


@pytest.mark.parametrize("code", SOFT)
def test_a_soft_error_does_not_but_is_the_reason_given_in_the_end(code):
    """MUST-56."""
    s = opening()
    complain(s, code, 0)
    assert s.state == "SYN_SENT"
    s.peer.advance("200s")
    assert s.state == "CLOSED" and s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == SOFT[code]


@pytest.mark.parametrize("seq", [1, -1, 1000, 1 << 31])
def test_a_wrong_sequence_number_proves_a_forgery(seq):
    s = opening()
    complain(s, 3, seq)
    assert s.state == "SYN_SENT"


@pytest.mark.parametrize("state", SYNCHRONIZED)
@pytest.mark.parametrize("code", [*HARD, *SOFT])
def test_no_error_ends_a_connection_that_stands(state, code):
    s = reach(state)
    s.sock.info()
    for seq in (0, 1, 2, 100):
        complain(s, code, seq)
    assert s.state == state
    # As on Linux, SO_ERROR tells what ICMP said about data under way, once, and the connection goes on.
    assert s.sock.getsockopt(SOL_SOCKET, SO_ERROR) in (0, {**HARD, **SOFT}[code])
    assert s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == 0


def test_an_error_about_outstanding_data_is_the_reason_when_the_connection_times_out():
    s = reach("ESTABLISHED")
    s.sock.send(b"x")
    s.flow.expect(is_tcp(payload=b"x"))
    complain(s, 1, 1)
    s.peer.advance("2000s")
    assert s.state == "CLOSED" and s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == errno.EHOSTUNREACH


def test_an_acknowledgement_takes_a_soft_error_back():
    s = reach("ESTABLISHED")
    s.sock.send(b"x")
    s.flow.receive_all()
    complain(s, 1, 1)
    s.pure_ack(2)
    s.sock.send(b"y")
    s.peer.advance("2000s")
    assert s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == errno.ETIMEDOUT


@pytest.mark.parametrize("kind", [4, 5, 11, 12])
def test_other_messages_change_nothing(kind):
    """Source quench (RFC 6633), redirect, time exceeded, parameter problem."""
    s = reach("ESTABLISHED")
    s.sock.send(b"x")
    before = s.sock.info()
    complain(s, 0, 1, kind=kind)
    assert s.sock.info() == before


def test_a_short_quotation_is_dropped():
    s = opening()
    for size in range(0, 28):
        s.peer.inject(build_icmp(B, A, 3, 3, payload=bytes(size)))
    assert s.state == "SYN_SENT"
