"""What must not be guessed: sequence numbers (RFC 6528), ports (RFC 6056); security rows C5, C6."""

import errno

import pytest

from netstack.stack import Stack

from .tools import A, B, S, dial, listen, new_peer


def isn(stack, port=9000, local=None):
    sock = stack.socket()
    if local:
        sock.bind((A, local))
    assert sock.connect_ex((B, port)) == errno.EINPROGRESS
    value = sock.info()["iss"]
    sock.close()
    while stack.pop_output():
        pass
    return value


def test_isns_of_one_connection_grow_with_the_clock():
    """RFC 9293 section 3.4.1 (MUST-8, SHLD-1): M ticks every 64 ns."""
    stack = Stack(addresses=A, seed=1)
    values = []
    for i in range(20):
        stack.advance(S + i * 1_000_000)
        values.append(isn(stack, local=5000))
    steps = [b - a & 0xFFFFFFFF for a, b in zip(values, values[1:], strict=False)]
    assert steps == [1_000_000 // 64] * 19


def test_isns_of_two_connections_have_nothing_in_common():
    stack = Stack(addresses=A, seed=1)
    stack.advance(S)
    values = [isn(stack, port=1 + i, local=5000) for i in range(2000)]
    assert len(set(values)) == 2000
    steps = {b - a & 0xFFFFFFFF for a, b in zip(values, values[1:], strict=False)}
    assert len(steps) == 1999
    high = [0] * 16
    for v in values:
        high[v >> 28] += 1
    assert sum((n - 125) ** 2 / 125 for n in high) < 45          # chi-square, 15 degrees of freedom, p below 0.0001


def test_isns_depend_on_the_secret():
    one, two, same = (Stack(addresses=A, seed=s) for s in (1, 2, 1))
    for stack in (one, two, same):
        stack.advance(S)
    values = [isn(stack, local=5000) for stack in (one, two, same)]
    assert values[0] != values[1] and values[0] == values[2]


def test_a_listeners_isns_come_from_the_same_rule():
    peer = new_peer()
    listen(peer)
    seen = set()
    for port in range(40000, 40100):
        flow = peer.flow(port)
        flow.send("S", seq=0)
        flow.receive()
        seen.add(flow.irs)
        flow.send("R", seq=1)
    assert len(seen) == 100


def test_ports_are_spread_over_the_range():
    peer = new_peer()
    ports = [dial(peer, 1 + i).sock.getsockname()[1] for i in range(2000)]
    assert min(ports) >= 10240 and len({p >> 11 for p in ports}) == 27
    neighbours = sum(abs(a - b) <= 1 for a, b in zip(ports, ports[1:], strict=False))
    assert neighbours <= 3


def test_ports_of_one_destination_are_all_used_before_the_error():
    peer = new_peer(**{"net.ipv4.ip_local_port_range": "20000 20099"})
    ports = {dial(peer, 9000).sock.getsockname()[1] for _ in range(100)}
    assert ports == set(range(20000, 20100))
    sock = peer.stack.socket()
    assert sock.connect_ex((B, 9000)) == errno.EADDRNOTAVAIL


def test_another_destination_has_the_ports_for_itself():
    """A connection's names are four. Who asks for a port by bind() finds those of connections taken, as under Linux."""
    peer = new_peer(**{"net.ipv4.ip_local_port_range": "20000 20009"})
    for port in (9000, 9001):
        assert {dial(peer, port).sock.getsockname()[1] for _ in range(10)} == set(range(20000, 20010))
        assert peer.stack.socket().connect_ex((B, port)) == errno.EADDRNOTAVAIL
    bound = peer.stack.socket()
    with pytest.raises(OSError) as refused:
        bound.bind((A, 20003))
    assert refused.value.errno == errno.EADDRINUSE
    assert bound.connect_ex((B, 9002)) == errno.EINPROGRESS


def test_a_port_that_was_asked_for_is_given_to_no_connection():
    peer = new_peer(**{"net.ipv4.ip_local_port_range": "20000 20009"})
    bound, connected = peer.stack.socket(), peer.stack.socket()
    bound.bind((A, 20003))
    connected.bind((A, 20004))
    connected.connect_ex((B, 9000))
    ports = {dial(peer, 9001).sock.getsockname()[1] for _ in range(8)}
    assert ports == set(range(20000, 20010)) - {20003, 20004}
    assert peer.stack.socket().connect_ex((B, 9001)) == errno.EADDRNOTAVAIL


def test_bind_to_port_zero_takes_a_free_one_at_random():
    stack = new_peer().stack
    ports = []
    for _ in range(200):
        sock = stack.socket()
        sock.bind((A, 0))
        ports.append(sock.getsockname()[1])
    assert len(set(ports)) == 200 and sorted(ports) != ports


def test_the_same_seed_gives_the_same_bytes():
    def run(seed):
        peer = new_peer(seed=seed)
        for i in range(5):
            dial(peer, 9000 + i)
        peer.collect()
        return [p.raw for p in peer.received]

    assert run(7) == run(7) != run(8)
