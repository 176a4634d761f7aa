"""Simulated networks: hosts around a switch, on IP and Ethernet, TCP and UDP, time, misuse."""

import pytest

from netstack.testing import Network, Pair, ScriptedPeer, SimulationError, check, is_tcp, is_udp
from netstack.units import duration_ns

SECOND = 10**9


@pytest.fixture(params=["ip", "ethernet"])
def media(request):
    return request.param


def connected(net, client, server, port=80):
    listener = server.socket()
    listener.bind((server.address, port))
    listener.listen()
    sock = client.socket()
    sock.connect_ex((server.address, port))
    net.run("30s", condition=lambda: sock.poll() & 4)
    net.run("30s", condition=lambda: listener.poll() & 1)
    return sock, listener.accept()[0]


def test_hosts_talk_tcp_through_the_switch(media):
    with Network(seed=7, media=media, log=True) as net:
        a = net.host("10.0.0.1")
        b = net.host("10.0.0.2", loss=0.01, delay="5ms")
        c = net.host("10.0.0.3")
        one, two = connected(net, a, b)
        three, four = connected(net, c, b, 81)
        one.send(b"from a")
        three.send(b"from c")
        net.run("5s", condition=lambda: two.poll() & 1 and four.poll() & 1)
        assert (two.recv(100), four.recv(100)) == (b"from a", b"from c")
        assert two.getpeername()[0] == "10.0.0.1" and four.getpeername()[0] == "10.0.0.3"
        check(next(p for p in a.packets() if p.direction == "out" and p.protocol == 6), is_tcp(flags="S"))
        assert a.faults.stats()["output"]["lost"] == 0
        assert all(p.dst != "10.0.0.1" for p in c.packets()) or media == "ethernet"


def test_a_delay_counts_once_each_way():
    net = Network(seed=1, log=True)
    a, b = net.host("10.0.0.1"), net.host("10.0.0.2", delay="5ms")
    start = net.now_ns
    connected(net, a, b)
    syn, answer = a.packets()[:2]
    assert syn.t_ns == start and answer.t_ns == start + duration_ns("10ms")


def test_udp_crosses_and_directions_have_their_own_faults():
    net = Network(seed=3, log=True)
    a, b = net.host("10.0.0.1", up={"loss": 1.0}), net.host("10.0.0.2")
    one, two = a.socket("dgram"), b.socket("dgram")
    one.bind(("10.0.0.1", 1000))
    two.bind(("10.0.0.2", 2000))
    two.sendto(b"down", ("10.0.0.1", 1000))
    net.run("1s", condition=lambda: one.poll() & 1)
    assert one.recvfrom(100) == (b"down", ("10.0.0.2", 2000))
    one.sendto(b"up", ("10.0.0.2", 2000))
    net.run("1s")
    with pytest.raises(BlockingIOError):
        two.recvfrom(100)
    assert a.faults.stats()["output"]["lost"] == 1
    check(b.packets()[0], is_udp(payload=b"down"))


def test_packets_for_nobody_are_counted():
    net = Network(seed=3)
    a = net.host("10.0.0.1")
    a.socket("dgram").sendto(b"?", ("10.0.0.77", 9))
    net.run("1s")
    assert net.engine.unroutable == 1


def test_time_jumps_from_deadline_to_deadline():
    net = Network(seed=1)
    a = net.host("10.0.0.1")
    sock = a.socket()
    sock.connect_ex(("10.0.0.9", 80))
    net.run("500s")
    assert net.now_ns == 501 * SECOND and net.engine.steps < 20
    assert sock.poll() & 8


def test_a_condition_that_never_holds_names_the_seed(monkeypatch):
    monkeypatch.delenv("NETSTACK_SEED", raising=False)
    net = Network(seed=99)
    net.host("10.0.0.1")
    with pytest.raises(SimulationError, match="nothing is due.*NETSTACK_SEED=99"):
        net.run(condition=lambda: False)


def test_an_error_inside_the_with_block_prints_the_seed(capsys, monkeypatch):
    monkeypatch.delenv("NETSTACK_SEED", raising=False)
    with pytest.raises(KeyError), Network(seed=123):
        raise KeyError("something")
    assert "NETSTACK_SEED=123" in capsys.readouterr().out


def test_without_a_log_packets_says_what_to_do():
    net = Network(seed=1)
    with pytest.raises(ValueError, match="log=True"):
        net.host("10.0.0.1").packets()


def test_a_pair_on_ethernet_resolves_and_transfers():
    pair = Pair(seed=5, media="ethernet", loss=0.05, corrupt=0.05, delay="1ms")
    pair.transfer(100_000, 100_000)


def test_a_pair_connects_once_and_transfers_on_that_connection():
    pair = Pair(seed=5)
    sockets = pair.connect(8080)
    assert sockets[0].getpeername() == ("10.0.0.2", 8080)
    done = pair.transfer(70_000, 5, sockets=sockets)
    assert (done.a_to_b, done.b_to_a) == (70_000, 5)


def test_a_refused_connection_is_an_error_of_the_connect():
    pair = Pair(seed=5)
    client = pair.a.socket()
    client.connect_ex((pair.B, 81))
    pair.run("1s")
    assert client.getsockopt(1, 4) == 111


def test_a_scripted_peer_speaks_in_relative_numbers():
    from netstack.stack import Stack

    stack = Stack(addresses=("10.0.0.1/24",), seed=1)
    listener = stack.socket()
    listener.bind(("10.0.0.1", 80))
    listener.listen()
    peer = ScriptedPeer(stack)
    flow = peer.flow(40000, 80)
    flow.connect(mss=1000)
    conn, address = listener.accept()
    assert address == ("10.0.0.2", 40000)
    flow.send("PA", seq=1, ack=1, payload=b"hello")
    assert conn.recv(100) == b"hello"
    flow.expect(is_tcp(flags="A", seq=1, ack=6, payload=b""))
    flow.receive_all()
    conn.send(b"x" * 1500)
    flow.expect(is_tcp(seq=1, ack=6, payload_length=1000))
    flow.expect(is_tcp(seq=1001, payload_length=500, flags="PA"))
    flow.expect_nothing()
    flow.send("A", seq=6, ack=1501)
    flow.expect_nothing()
    conn.close()
    flow.expect(is_tcp(flags="FA", seq=1501, ack=6))
    with pytest.raises(AssertionError, match="no packet"):
        flow.expect(is_tcp())
    peer.advance("1s")
    assert flow.receive().flags == "FA"
